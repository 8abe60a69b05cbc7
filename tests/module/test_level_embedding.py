"""Vectors of levels: centred, with a prior, and room for more."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.distributions import Normal
from torch.testing import assert_close

from scdgd.model import SCDGD, SCVAD
from scdgd.module import Decoder, DGDModule, LevelEmbedding, LowRankLevelEmbedding
from scdgd.prior import StandardNormal
from tests.conftest import simulate, train


def embedding(n_levels: int = 3, n_genes: int = 4) -> LevelEmbedding:
    levels = LevelEmbedding(n_levels, n_genes)
    torch.nn.init.normal_(levels.vectors)
    return levels


def test_offsets_are_centred():
    levels = embedding()
    offsets = levels(torch.tensor([[0.0], [1.0], [2.0], [1.0]]))
    assert_close(offsets[:3].mean(0), torch.zeros(4))
    assert_close(offsets[3], levels.vectors[1] - levels.vectors.mean(0))
    assert_close(levels(torch.tensor([[2]]), torch.tensor([3, 0])), offsets[2:3, [3, 0]])


def test_log_prob_is_that_of_normals():
    levels = embedding()
    assert_close(levels.log_prob(), Normal(0, levels.scale).log_prob(levels.vectors).sum())


def test_a_single_level_has_no_parameters():
    levels = LevelEmbedding(1, 4)
    assert not list(levels.parameters())
    assert_close(levels(torch.zeros(2, 1)), torch.zeros(2, 4))
    assert levels.log_prob() == 0


def test_further_levels_come_behind_and_go_again():
    for levels in (embedding(), LevelEmbedding(1, 4)):
        before, state = levels(torch.zeros(1, 1)), levels.state_dict().copy()
        levels.append(torch.ones(2, 4))
        assert_close(levels(torch.tensor([[len(levels) + 1]])), torch.ones(1, 4))
        assert torch.equal(levels(torch.zeros(1, 1)), before)
        assert levels.state_dict().keys() == state.keys()
        levels.forget_added()
        assert len(levels.added) == 0


def test_decoders_add_the_vectors_of_all_variables():
    decoder = Decoder(2, 5, n_cats_per_cov=[3, 2], embeds_levels=True, n_hidden=8)
    for level in decoder.levels:
        torch.nn.init.normal_(level.vectors)
    z, codes = torch.randn(4, 2), [torch.tensor([[0], [1], [2], [2]]), torch.tensor([[1], [0], [1], [1]])]
    expected = decoder.output(decoder.hidden(z, *codes)) + decoder.levels[0](codes[0]) + decoder.levels[1](codes[1])
    assert_close(decoder(z, codes), torch.log_softmax(expected, 1))
    genes = torch.tensor([1, 4])
    linear = decoder.linearise(z, codes, genes=torch.arange(5), gene_weights=torch.ones(5))
    assert_close(linear.eta, decoder(z, codes))
    assert decoder.linearise(z, codes, genes=genes, gene_weights=torch.ones(2)).eta.shape == (4, 2)


def test_a_further_level_is_an_equal_share_of_all_in_hidden_layers():
    decoder = Decoder(2, 5, n_cats_per_cov=[3, 1], embeds_levels=True, n_hidden=8)
    for level in decoder.levels:
        level.append(torch.zeros(1, 5))
    z, codes = torch.randn(2, 2), [torch.tensor([[1], [3]]), torch.tensor([[0], [1]])]
    shares = torch.tensor([[0, 1, 0], [1 / 3, 1 / 3, 1 / 3]])
    assert_close(decoder.last_hidden(z, codes), decoder.hidden(z, shares, torch.zeros(2, 1).long()))
    assert_close(decoder(z[1:], [one[1:] for one in codes]), decoder.balanced(z[1:]))


def test_linear_maps_of_a_decoder_are_those_of_autograd():
    torch.manual_seed(0)
    for link in ("softmax", "sigmoid", "softplus", "identity"):
        decoder = Decoder(2, 5, n_hidden=8, output_activation=link).double()
        z, step, change = (torch.randn(3, n, dtype=torch.double) for n in (2, 2, 5))
        outputs = torch.randn(3, 5, dtype=torch.double)
        linear = decoder.linearise(z, genes=torch.arange(5), gene_weights=torch.ones(5, dtype=torch.double))
        of_z = torch.func.vmap(torch.func.jacrev(decoder))(z)  # (3, 5, 2)
        of_outputs = torch.func.vmap(torch.func.jacrev(decoder.link.log_profile))(
            decoder.pre_activation(z)
        )  # (3, 5, 5)
        assert_close(linear.along(step), torch.einsum("bgd,bd->bg", of_z, step))
        assert_close(linear.back(change), torch.einsum("bgd,bg->bd", of_z, change))
        assert_close(linear.of_outputs(outputs), torch.einsum("bgo,bo->bg", of_outputs, outputs))
        assert_close(linear.to_outputs(change), torch.einsum("bgo,bg->bo", of_outputs, change))
        weights = change.square()
        assert_close(
            linear.diagonal_in_outputs(weights), torch.einsum("bgo,bg,bgo->bo", of_outputs, weights, of_outputs)
        )


def test_the_prior_is_counted_once():
    module = DGDModule(4, 10, StandardNormal(2), n_batch=3, batch_representation="embedding")
    torch.nn.init.normal_(module.decoder.levels[0].vectors)
    one_hot = DGDModule(4, 10, StandardNormal(2), n_batch=3)
    difference = module.weighted_hyper_log_prob(10) - one_hot.weighted_hyper_log_prob(10)
    assert_close(difference, module.decoder.levels[0].log_prob())


def test_offsets_of_low_rank():
    """Centred, as full ones are, with a prior of the same spread; levels that come later are read by least squares."""
    levels = LowRankLevelEmbedding(3, 4, 2)
    assert_close(levels.offsets(), torch.zeros(3, 4))
    torch.nn.init.normal_(levels.basis)
    codes, basis = levels.codes.weight, levels.basis
    assert_close(levels.offsets(), (codes - codes.mean(0)) @ basis)
    assert_close(levels(torch.tensor([[2.0]]), torch.tensor([3, 0])), levels.offsets()[2:, [3, 0]])
    prior = Normal(0, 1).log_prob(codes).sum() + Normal(0, levels.scale / 2**0.5).log_prob(basis).sum()
    assert_close(levels.log_prob(), prior)
    levels.append(levels.offsets()[1:2].detach())
    assert_close(levels.representations(), torch.cat([codes, codes[1:2]]), atol=1e-4, rtol=1e-4)
    torch.manual_seed(0)
    draws = [torch.randn(2) @ (torch.randn(2, 4) * levels.scale / 2**0.5) for _ in range(4_000)]
    assert float(torch.stack(draws).std()) == pytest.approx(levels.scale, rel=0.05)


@pytest.mark.parametrize("model_class", [SCDGD, SCVAD])
def test_vectors_of_batches(model_class, tmp_path):
    """Those of cells, of a batch that came later, too; full ones are as long as genes are many."""
    adata, made = simulate(60, 12, n_batches=3), {"n_components": 2, "n_latent": 2, "n_hidden": 8}
    model_class.setup_anndata(adata, batch_key="batch")
    model = train(model_class(adata, **made, batch_embedding_kwargs={"embedding_dim": 2}), 3)
    vectors, code = model.get_batch_representation(), adata.obs["batch"].cat.codes.to_numpy(copy=True)
    np.testing.assert_array_equal(vectors, model.module.get_embedding("batch").weight.detach()[code])
    assert model.module.decoder.levels[0].offsets().abs().max().item() > 0
    new = simulate(20, 12, seed=1)
    new.obs_names, new.obs["batch"] = [f"new_{i}" for i in range(20)], "later"
    later = model.get_batch_representation(new, indices=[3])
    assert later.shape == (1, 2)
    query = model_class.load_query_data(new, model)
    query.save(tmp_path / "query", save_anndata=True)
    np.testing.assert_array_equal(
        model_class.load(tmp_path / "query", accelerator="cpu").get_batch_representation()[[0]], later
    )
    full = train(model_class(adata, **made), 3).get_batch_representation(indices=[0, 1])
    assert full.shape == (2, 12)
    with pytest.raises(ValueError, match="'one-hot'` has none"):
        model_class(adata, **made, batch_representation="one-hot", batch_embedding_kwargs={"embedding_dim": 2})
    with pytest.raises(ValueError, match="Batches of this model have no vectors"):
        train(model_class(adata, **made, batch_representation="one-hot"), 1).get_batch_representation()
