"""Uncertainty of representations, through the methods of the models."""

from __future__ import annotations

import inspect
import warnings

import anndata as ad
import mudata as md
import numpy as np
import pytest
import scvi
import torch
from scipy import sparse, stats
from scvi import REGISTRY_KEYS
from scvi.model import SCVI

from scdgd._compat import MODULE_KEYS
from scdgd.inference import (
    ImportanceSamples,
    LaplacePosterior,
    MendedSamples,
    laplace_posterior,
    log_prob_of_pairs,
)
from scdgd.likelihood import LIKELIHOODS
from scdgd.model import SCDGD, SCVAD, _posterior_of_rows, _row_model
from tests.conftest import make_model, simulate, state_of, train


def make(cls: type[SCDGD], adata: ad.AnnData, setup: dict | None = None, epochs: int = 3, **kwargs) -> SCDGD:
    cls.setup_anndata(adata, **(setup or {}))
    return train(cls(adata, **{"n_components": 3, "n_latent": 4, "n_hidden": 16, **kwargs}), epochs)


@pytest.fixture(scope="module")
def fitted() -> dict[type[SCDGD], SCDGD]:
    """One model of each class; tests read only."""
    scvi.settings.seed = 0
    return {cls: make(cls, simulate(90, depth=100.0), {"labels_key": "cell_type"}, 8) for cls in (SCDGD, SCVAD)}


@pytest.fixture(params=[SCDGD, SCVAD])
def model(request, fitted) -> SCDGD:
    return fitted[request.param]


def whole_batch(model: SCDGD, adata=None) -> tuple[dict, torch.Tensor]:
    """All cells as one minibatch, and their rows of the table."""
    ((tensors, rows),) = model.posterior.minibatches(adata, None, 10_000, "")
    return tensors, rows


def new_cells(n: int = 12, **kwargs) -> ad.AnnData:
    query = simulate(n, seed=5, **kwargs)
    query.obs_names = "new_" + query.obs_names
    return query


# posteriors


def test_return_dist(model):
    z = model.get_latent_representation()
    mean, variance = model.get_latent_representation(return_dist=True)
    assert mean.shape == variance.shape == (90, 4)
    assert (variance > 0).all()
    assert (np.abs(mean - z) < 4 * np.sqrt(variance)).all()
    draws = np.stack([model.get_latent_representation(give_mean=False) for _ in range(20)])
    np.testing.assert_allclose(np.median(draws.std(0) / np.sqrt(variance)), 1, atol=0.15)
    some = model.get_latent_representation(indices=[3, 1], return_dist=True)
    np.testing.assert_allclose(some[0], mean[[3, 1]], atol=1.0)
    assert some[1].shape == (2, 4)


def test_full_covariance(model):
    scvi.settings.seed = 1
    full = model.get_posterior(full_covariance=True, n_samples=60)
    scvi.settings.seed = 1
    diagonal = model.get_posterior(n_samples=60)
    assert full.covariance.shape == (90, 4, 4)
    np.testing.assert_allclose(np.einsum("ndd->nd", full.covariance), diagonal.covariance, rtol=1e-5)
    assert (np.linalg.eigvalsh(full.covariance) > 0).all()
    np.testing.assert_array_equal(full.mean, diagonal.mean)
    mean, covariance = model.get_latent_representation(return_dist=True, full_covariance=True)
    assert mean.shape == (90, 4)
    assert covariance.shape == (90, 4, 4)


def test_posterior_without_samples_is_laplace(model):
    found = model.get_posterior(n_samples=0)
    tensors, rows = whole_batch(model)
    laplace = laplace_posterior(model.module, tensors, model.module.posterior.moments(rows)[0])
    np.testing.assert_allclose(found.mean, laplace.mode, atol=1e-4)
    np.testing.assert_allclose(found.covariance, laplace.variance, rtol=1e-3)
    np.testing.assert_allclose(found.log_evidence, laplace.log_evidence(), atol=1e-2)
    assert np.isinf(found.effective_sample_size).all()
    assert np.isnan(found.pareto_k).all()
    corrected = model.get_posterior(n_samples=300)
    assert (corrected.effective_sample_size <= 600).all()  # of cells that are drawn again, twice as many draws
    assert (model.get_posterior(n_samples=300, adaptive_rounds=0).effective_sample_size <= 300).all()
    assert np.isfinite(corrected.pareto_k).all()
    assert np.median(np.abs(corrected.log_evidence - found.log_evidence)) < 0.5
    with pytest.raises(ValueError, match="n_samples"):
        model.get_posterior(n_samples=1)
    with pytest.raises(ValueError, match="n_samples"):
        model.get_posterior(n_samples=-3)


def test_learned_variances_are_close_to_the_corrected_ones(fitted):
    """Of the variational twin: no wider than truth by much, as independent dimensions are narrower."""
    learned = fitted[SCVAD].get_latent_representation(return_dist=True)[1]
    corrected = fitted[SCVAD].get_posterior().covariance
    assert 0.4 < np.median(np.sqrt(learned / corrected)) < 1.6


def test_relu_decoders_are_warned_of(adata):
    model = make(SCDGD, adata, activation="relu", epochs=1)
    with pytest.warns(UserWarning, match="silu"):
        model.get_latent_representation(return_dist=True)
    with pytest.warns(UserWarning, match="silu"):
        model.get_posterior(n_samples=0)


def test_marginal_likelihood(model):
    per_cell = model.get_marginal_ll(n_mc_samples=100, return_mean=False)
    assert per_cell.shape == (90,)
    mean = model.get_marginal_ll(n_mc_samples=100)
    assert isinstance(mean, float)
    np.testing.assert_allclose(mean, per_cell.mean(), atol=0.1)
    some = model.get_marginal_ll(indices=[5, 2], n_mc_samples=400, return_mean=False)
    np.testing.assert_allclose(some, per_cell[[5, 2]], atol=0.6)
    query = new_cells(depth=100.0)
    unseen = model.get_marginal_ll(query, n_mc_samples=50, return_mean=False)
    assert unseen.shape == (12,)
    assert torch.isfinite(unseen).all()
    with pytest.raises(ValueError, match="n_samples_overall"):
        model.get_normalized_expression(n_samples=2, n_samples_overall=5)
    with pytest.raises(NotImplementedError, match="dataloader"):
        model.get_marginal_ll(dataloader=[{}])


def test_marginal_likelihood_is_above_the_lower_bound(fitted):
    model = fitted[SCVAD]
    hyper = model.module.weighted_hyper_log_prob(90).item() / 90
    elbo = np.mean([float(model.get_elbo()) for _ in range(3)])
    assert elbo - hyper < model.get_marginal_ll(n_mc_samples=200)


def test_aggregated_posterior_and_differential_abundance(model):
    adata = model.adata
    aggregated = model.get_aggregated_posterior(indices=[0, 3, 6], dof=None)
    mean, variance = model.get_latent_representation(indices=[0, 3, 6], return_dist=True)
    z = torch.randn(20, 4)
    parts = [
        torch.distributions.Normal(torch.as_tensor(m), torch.as_tensor(v).sqrt())
        for m, v in zip(mean, variance, strict=True)
    ]
    expected = torch.logsumexp(torch.stack([p.log_prob(z).sum(-1) for p in parts]), 0) - np.log(3)
    np.testing.assert_allclose(aggregated.log_prob(z), expected, rtol=0.25, atol=1)
    assert torch.isfinite(model.get_aggregated_posterior().log_prob(100 * z)).all()
    model.differential_abundance(sample_key="cell_type", num_cells_posterior=20)
    table = adata.obsm["da_log_probs"]
    assert list(table.index) == list(adata.obs_names)
    assert set(table.columns) == set(adata.obs["cell_type"])
    assert (table.idxmax(axis=1).to_numpy() == adata.obs["cell_type"].to_numpy()).mean() > 0.8
    with pytest.raises(ValueError, match="sample_key"):
        model.differential_abundance(sample_key="nothing")
    del adata.obsm["da_log_probs"]


def test_importance_weights_are_the_formula(fitted):
    model = fitted[SCDGD]
    torch.manual_seed(0)
    indices = np.array([4, 0, 9])
    zs = model.posterior.draw_proposals(model.adata, indices, None, 5)
    weights = model.get_importance_weights(indices=indices, zs=zs, n_mc_samples=2000)
    assert weights.shape == (15,)
    np.testing.assert_allclose(weights.sum(), 1)
    tensors, rows = whole_batch(model)
    tensors, rows = {key: value[indices] for key, value in tensors.items()}, rows[indices]
    kept = model.posterior.kept(model.adata, indices)  # what was drawn from
    samples = model.posterior.weighted(kept, tensors, rows, 2000)
    z = zs.reshape(15, 4)
    with torch.no_grad():
        likelihood = log_prob_of_pairs(model.module, tensors, z)
        prior = model.module.prior.log_prob(z)
        explicit = torch.zeros(15, dtype=torch.float64)
        for m in range(15):
            top = sum((likelihood[m, a] - samples.log_evidence()[a]).double().exp() for a in range(3)) / 3
            bottom = torch.zeros((), dtype=torch.float64)
            for inflation in (1.2, 1.5):
                q = torch.distributions.MultivariateNormal(
                    samples.proposal.mode, inflation * samples.proposal.covariance
                )
                bottom += q.log_prob(z[m].expand(3, 4)).double().exp().mean() / 2
            explicit[m] = top.log() + prior[m] - bottom.log()
    expected = torch.softmax(explicit, 0)
    np.testing.assert_allclose(weights, expected, rtol=0.1, atol=1e-3)


def test_importance_weights_make_proposals_the_posteriors(fitted):
    """Draws are weighted once: the weighted mean of proposals is that of the posteriors of the group."""
    model = fitted[SCDGD]
    indices = np.arange(12)
    zs = model.posterior.draw_proposals(model.adata, indices, None, 60)
    weights = model.get_importance_weights(indices=indices, zs=zs)
    assert 1 / np.square(weights).sum() > 0.3 * len(weights)
    expected = model.get_posterior(indices=indices, n_samples=500)
    np.testing.assert_allclose(weights @ zs.reshape(-1, 4).numpy(), expected.mean.mean(0), atol=0.1)


def test_importance_weights_of_draws(model):
    weights = model.get_importance_weights(n_mc_samples=20, max_cells=30)
    assert weights.shape == (90,)
    np.testing.assert_allclose(weights.sum(), 1)
    mask = np.zeros(90, dtype=bool)
    mask[:7] = True
    assert model.get_importance_weights(model.adata, mask, n_mc_samples=20).shape == (7,)
    few = []
    for truncation in (False, True):
        torch.manual_seed(0)
        few.append(model.get_importance_weights(indices=range(9), n_mc_samples=20, truncation=truncation))
    raised = np.maximum(few[0], few[0].mean())
    np.testing.assert_allclose(few[1], raised / raised.sum(), rtol=1e-4)
    assert few[1].max() > few[1].min()
    query = new_cells(depth=100.0)
    assert model.get_importance_weights(query, n_mc_samples=20).shape == (12,)


# each number belongs to its cell


def stand_in(module, tensors, rows, n_samples) -> ImportanceSamples:
    """Weighted draws that differ from cell to cell, and are no matter of chance."""
    mode, _ = module.posterior.moments(rows)
    b, d = mode.shape
    steps = torch.linspace(-1, 1, n_samples)[:, None, None]
    tilt = torch.sign(steps[:, :, 0]) * steps[:, :, 0].abs() ** 3 * (1 + 4 * mode.sum(1).sigmoid())
    proposal = LaplacePosterior(mode, torch.eye(d).expand(b, d, d), mode.sum(1), torch.zeros(b) > 0)
    return ImportanceSamples(mode + steps * (1 + mode.abs()) + torch.sin(9 * steps * mode), tilt, proposal)


def test_every_number_is_that_of_its_cell(model, monkeypatch):
    for file in (_posterior_of_rows, _row_model):
        monkeypatch.setattr(file, "mended_samples", lambda *args: MendedSamples(stand_in(*args[:4])))
    cells = [41, 7, 88, 0, 63, 12, 30]
    expected = stand_in(model.module, None, model.module.representations(torch.tensor(cells)), 60)
    found = model.get_posterior(indices=cells, n_samples=60, full_covariance=True, batch_size=3)
    for actual, wanted in zip(
        found,
        (
            expected.mean,
            expected.shrunk_covariance(),
            expected.log_evidence(),
            expected.effective_sample_size(),
            expected.pareto_k(),
        ),
        strict=True,
    ):
        assert len(np.unique(actual.reshape(7, -1)[:, 0])) == 7
        np.testing.assert_allclose(actual, wanted, rtol=1e-4, atol=1e-5)
    evidence = model.get_marginal_ll(indices=cells, n_mc_samples=60, return_mean=False, batch_size=3)
    np.testing.assert_allclose(evidence, expected.log_evidence(), rtol=1e-5)
    monkeypatch.setattr(
        model.module,
        "posterior_sampler",
        lambda module, tensors, rows, n: stand_in(module, tensors, rows, 2 * n).z[:n],
    )
    draws = model.get_latent_representation(indices=cells, give_mean=False, batch_size=3)
    rows = model.module.representations(torch.tensor(cells))
    np.testing.assert_allclose(draws, stand_in(model.module, None, rows, 2).z[0], rtol=1e-4, atol=1e-5)


def test_proposals_are_drawn_from_both_halves(model, monkeypatch):
    """The two halves of importance samples have different widths."""
    halves = lambda posterior, kept, tensors, rows, n: ImportanceSamples(
        torch.stack([posterior.module.posterior.moments(rows)[0] + shift for shift in (0.0, 100.0)]),
        torch.zeros(2, len(rows)),
        None,
    )
    monkeypatch.setattr(_posterior_of_rows.PosteriorOfRows, "weighted", halves)
    cells = np.random.default_rng(0).permutation(90)
    (draws,) = model.posterior.draw_proposals(model.adata, cells, 2, 1)
    second = draws > 50
    assert torch.equal(second.all(1), second.any(1))
    assert 0 < second.sum() < second.numel()
    mode, _ = model.module.posterior.moments(model.module.representations(torch.as_tensor(cells)))
    torch.testing.assert_close(draws - 100 * second, mode, rtol=0, atol=1e-4)


def test_expression_at_weighted_draws_is_decoded_in_the_order_drawn(monkeypatch):
    """Each draw with the batch of its cell, and rows as drawn, though cells are read in another order."""
    adata = simulate(20, n_batches=2)
    model = make(SCDGD, adata, {"batch_key": "batch"}, 2)
    cells, zs, asked = np.array([9, 2, 5, 14]), torch.randn(8, 4, 4), []
    assert adata.obs["batch"].iloc[cells].nunique() == 2
    p = torch.rand(32).numpy() ** 4
    draw = lambda _, adata, indices, *args: asked.append(args) or zs
    monkeypatch.setattr(_posterior_of_rows.PosteriorOfRows, "draw_proposals", draw)
    monkeypatch.setattr(model, "get_importance_weights", lambda *args, **kwargs: p / p.sum())
    torch.manual_seed(5)
    found = model.get_normalized_expression(
        indices=cells, n_samples_overall=30, weights="importance", return_numpy=True, batch_size=7
    )
    torch.manual_seed(5)
    chosen = torch.multinomial(torch.as_tensor(p / p.sum()), 30, replacement=True)
    batch = torch.as_tensor(adata.obs["batch"].cat.codes.to_numpy()[cells[chosen % 4]]).long().unsqueeze(1)
    with torch.no_grad():
        px = model.module.generative(zs.reshape(32, 4)[chosen], torch.zeros(30, 1), batch)[MODULE_KEYS.PX_KEY]
    np.testing.assert_allclose(found, px.scale, rtol=1e-4)
    model.get_normalized_expression(None, cells, None, None, 1, 1, 30, "importance", 64)
    assert asked == [(7, 8), (64, 8)]


def test_minibatches_carry_what_belongs_to_their_cells():
    adata = simulate(30, n_batches=2)
    model = make(SCDGD, adata, {"batch_key": "batch"}, 1)
    cells = np.random.default_rng(0).permutation(30)
    tensors, rows = zip(*model.posterior.minibatches(adata, cells, 7, ""), strict=True)
    batch = torch.cat([part[REGISTRY_KEYS.BATCH_KEY] for part in tensors]).ravel()
    totals = torch.cat([part[REGISTRY_KEYS.X_KEY].totals() for part in tensors])
    np.testing.assert_array_equal(batch, adata.obs["batch"].cat.codes.to_numpy()[cells])
    np.testing.assert_array_equal(totals, np.asarray(adata.X.sum(1)).ravel()[cells])
    torch.testing.assert_close(torch.cat(rows), model.module.representations(torch.as_tensor(cells)))


@pytest.mark.parametrize("dof", [None, 3.0, 8.0])
def test_aggregated_posterior_is_the_mixture(model, monkeypatch, dof):
    mean, variance = torch.randn(5, 4), 0.1 + 4 * torch.rand(5, 4)
    monkeypatch.setattr(model, "get_latent_representation", lambda *args, **kwargs: (mean.numpy(), variance.numpy()))
    z = 2 * torch.randn(20, 4)
    law = stats.norm if dof is None else stats.t(dof)
    deviation = (z[:, None] - mean) / variance.sqrt()
    expected = np.exp((law.logpdf(deviation) - 0.5 * variance.log().numpy()).sum(-1)).mean(1)
    np.testing.assert_allclose(model.get_aggregated_posterior(dof=dof).log_prob(z).exp(), expected, rtol=1e-3)


def test_differential_abundance_asks_for_some_cells_of_each_sample(model, monkeypatch):
    adata, asked = model.adata, []

    class Density:
        log_prob = staticmethod(lambda z: len(asked) * z[:, 0])

    monkeypatch.setattr(
        model, "get_aggregated_posterior", lambda _, cells, batch_size, dof: asked.append((cells, dof)) or Density
    )
    z = model.get_latent_representation()[:, 0]
    for seed, dof in ((0, None), (0, 4.0), (1, None)):
        scvi.settings.seed = seed
        model.differential_abundance(sample_key="cell_type", num_cells_posterior=5, dof=dof, batch_size=16)
        expected = np.outer(z, np.arange(len(asked) - 2, len(asked) + 1))
        np.testing.assert_allclose(adata.obsm.pop("da_log_probs"), expected, rtol=1e-5)
    assert [dof for _, dof in asked] == [None] * 3 + [4.0] * 3 + [None] * 3
    types = adata.obs["cell_type"].to_numpy()
    for i, (cells, _) in enumerate(asked):
        assert len(set(cells)) == 5
        assert set(types[cells]) == {adata.obs["cell_type"].unique()[i % 3]}
    np.testing.assert_array_equal(asked[0][0], asked[3][0])
    assert set(asked[0][0]) != set(asked[6][0])


def test_anchors_of_importance_weights_depend_on_the_seed(fitted, monkeypatch):
    model, asked = fitted[SCDGD], []
    kind = type(model.posterior)
    minibatches = kind.minibatches
    noted = lambda part, adata, cells, *args: asked.append(cells) or minibatches(part, adata, cells, *args)
    monkeypatch.setattr(kind, "minibatches", noted)
    group = np.arange(40)
    model.posterior.kept(model.adata, group)  # which are found once, by minibatches of their own
    asked.clear()
    for seed, indices in ((0, group), (0, group), (1, group), (0, np.arange(90) < 40)):
        scvi.settings.seed = seed
        model.get_importance_weights(indices=indices, zs=torch.zeros(1, 2, 4), n_mc_samples=4, max_cells=5)
    assert [len(set(cells)) for cells in asked] == [5, 5, 5, 5]
    np.testing.assert_array_equal(asked[0], asked[1])
    np.testing.assert_array_equal(asked[0], asked[3])
    assert set(asked[0]) != set(asked[2])


def test_cells_with_heavy_tails_are_counted(model, monkeypatch):
    said = []
    monkeypatch.setattr(
        ImportanceSamples, "pareto_k", lambda samples: 0.1 + 0.8 * (torch.arange(samples.z.shape[1]) == 1)
    )
    monkeypatch.setattr(_posterior_of_rows.logger, "warning", lambda text, *args: said.append(text % args))
    model.get_posterior(n_samples=4, batch_size=30, adaptive_rounds=0)
    model.get_marginal_ll(n_mc_samples=30, batch_size=30, adaptive_rounds=0)
    assert len(said) == 2  # once for all minibatches
    assert said[0].startswith("3 of 90 cells")
    assert "moments are rough: pass `n_samples=16`" in said[0]
    assert "marginal likelihoods are rough: pass `n_mc_samples=120`" in said[1]


def test_cells_with_good_weights_do_not_change_by_a_bit(fitted):
    """Nor does anything that is drawn later."""
    found = {}
    for rounds in (0, 5):
        scvi.settings.seed = 0
        moments = fitted[SCDGD].get_posterior(n_samples=30, batch_size=30, adaptive_rounds=rounds, full_covariance=True)
        found[rounds] = (*moments, torch.rand(3))
    good = found[0][4] <= 0.7
    assert 0 < good.sum() < len(good)
    for before, after in zip(found[0][:-1], found[5][:-1], strict=True):
        np.testing.assert_array_equal(before[good], after[good])
        assert (before[~good] != after[~good]).any()
    torch.testing.assert_close(found[0][-1], found[5][-1], rtol=0, atol=0)
    assert (found[5][4] > 0.7).sum() < (~good).sum()


@pytest.mark.parametrize("method", ["get_posterior", "get_marginal_ll"])
def test_rounds_are_not_negative(model, method):
    with pytest.raises(ValueError, match="`adaptive_rounds`.*got -1"):
        getattr(model, method)(adaptive_rounds=-1)


# samples in the methods of scvi-tools


def test_normalized_expression_of_samples(model):
    point = model.get_normalized_expression(return_numpy=True)
    mean = model.get_normalized_expression(n_samples=25, return_numpy=True)
    assert point.shape == mean.shape == (90, 30)
    assert not np.allclose(point, mean, rtol=1e-3)
    assert np.corrcoef(point.ravel(), mean.ravel())[0, 1] > 0.98
    samples = model.get_normalized_expression(n_samples=5, return_mean=False, indices=[1, 4])
    assert samples.shape == (5, 2, 30)
    assert samples.std(0).min() > 0
    np.testing.assert_allclose(samples.sum(-1), 1, rtol=1e-4)
    overall = model.get_normalized_expression(
        n_samples_overall=20, indices=np.arange(8), gene_list=["gene_3", "gene_7"], library_size=1e4, return_numpy=True
    )
    assert overall.shape == (20, 2)
    assert len(np.unique(overall[:, 0])) > 8  # more than the point estimates of eight cells
    fewer = model.get_normalized_expression(n_samples_overall=4, indices=np.arange(8), return_numpy=True)
    assert not np.isclose(fewer[:, None], point[:8], rtol=1e-4).all(-1).any()  # with fewer draws than cells, too
    latent = model.get_normalized_expression(library_size="latent", n_samples=10, return_numpy=True)
    np.testing.assert_allclose(latent.sum(1), np.asarray(model.adata.X.sum(1)).ravel(), rtol=1e-3)
    weighted = model.get_normalized_expression(
        indices=[9, 2, 5], n_samples_overall=15, weights="importance", return_numpy=True, gene_list=["gene_1"]
    )
    assert weighted.shape == (15, 1)
    positional = model.get_normalized_expression(None, [2, 0], None, ["gene_5"], 10.0, 3, None, None, 64, True, False)
    assert list(positional.index) == list(model.adata.obs_names[[2, 0]])


#: Arguments that releases of scvi-tools after the tested one put between others.
LATER = {"adata_sub"}


def test_signatures_take_what_scvi_takes():
    for name in (
        "get_latent_representation",
        "get_marginal_ll",
        "get_aggregated_posterior",
        "get_importance_weights",
        "differential_abundance",
        "get_normalized_expression",
        "differential_expression",
        "posterior_predictive_sample",
    ):
        for cls in (SCDGD, SCVAD):
            ours, theirs = (inspect.signature(getattr(c, name)).parameters.values() for c in (cls, SCVI))
            ours = [p.name for p in ours if p.kind is p.POSITIONAL_OR_KEYWORD]
            theirs = [p.name for p in theirs if p.kind is p.POSITIONAL_OR_KEYWORD and p.name not in LATER]
            n = (
                len(ours)
                if any(p.kind is p.VAR_POSITIONAL for p in inspect.signature(getattr(cls, name)).parameters.values())
                else max(len([p for p in theirs if p in ours]), 1)
            )
            assert ours[:n] == theirs[:n], name


def test_posterior_predictive_samples_draw_representations(model, monkeypatch):
    """With counts at their means, all spread is that of representations: none at a point, some with draws."""
    monkeypatch.setattr(LIKELIHOODS["nb"], "sample", lambda px: px.mu)
    for n_samples in (1, 20):
        samples = model.posterior_predictive_sample(n_samples=n_samples, indices=np.arange(10))
        assert samples.shape == ((10, 30) if n_samples == 1 else (10, 30, 20))
    assert np.asarray(samples.todense()).std(2).min() > 0
    tensors, _ = whole_batch(model)
    point = model.module.sample(tensors)
    assert torch.equal(point, model.module.sample(tensors))
    one = np.asarray(model.posterior_predictive_sample().todense())
    assert not np.allclose(one, point, rtol=1e-2)
    monkeypatch.undo()
    assert model.posterior_predictive_sample(indices=[0, 1], gene_list=["gene_2"]).shape == (2, 1)


def test_other_readers_with_samples(model):
    parameters = model.get_likelihood_parameters(n_samples=3)
    assert parameters["mean"].shape == (3, 90, 30)
    assert (parameters["mean"][0] != parameters["mean"][1]).any()
    correlation = model.get_feature_correlation_matrix(n_samples=3, correlation_type="pearson")
    np.testing.assert_allclose(np.diag(correlation), 1, rtol=1e-3)


# differential expression


@pytest.mark.parametrize("weights", ["uniform", "importance"])
@pytest.mark.parametrize("mode", ["vanilla", "change"])
def test_differential_expression(model, weights, mode):
    tables = []
    for _ in range(2):
        scvi.settings.seed = 3
        tables.append(
            model.differential_expression(
                groupby="cell_type",
                group1="type_0",
                group2="type_1",
                mode=mode,
                weights=weights,
                silent=True,
                n_samples_overall=300,
            )
        )
    assert tables[0].equals(tables[1])
    table = tables[0].loc[model.adata.var_names]
    of = [np.asarray(model.adata[model.adata.obs["cell_type"] == f"type_{t}"].X.mean(axis=0)).ravel() for t in range(2)]
    truth = np.log2((of[0] + 0.05) / (of[1] + 0.05))
    found = table["lfc_mean"] if mode == "change" else table["bayes_factor"]
    assert np.corrcoef(truth, found)[0, 1] > 0.6
    assert model.module.samples_posterior is False


def test_thin_cells_give_less_certain_differential_expression(fitted, monkeypatch):
    model = fitted[SCDGD]
    thin = simulate(90, depth=100.0)
    rng = np.random.default_rng(0)
    counts = rng.binomial(thin.X.toarray().astype(int), 0.06).astype(np.float32)
    counts[counts.sum(1) == 0, 0] = 1
    thin.X = sparse.csr_matrix(counts)
    thin.obs_names = "thin_" + thin.obs_names
    options = {
        "groupby": "cell_type",
        "group1": "type_0",
        "group2": "type_1",
        "silent": True,
        "n_samples_overall": 1000,
    }
    with_draws = model.differential_expression(thin, **options)["bayes_factor"].abs().mean()
    at_points = lambda posterior, decoding: decoding._replace(n_samples=1).run(model)
    monkeypatch.setattr(type(model.posterior), "drawn", at_points)
    with_points = model.differential_expression(thin, **options)["bayes_factor"].abs().mean()
    assert with_draws < 0.95 * with_points


# data of every kind, and states


@pytest.mark.slow
def test_batches_covariates_and_registered_sizes():
    for cls in (SCDGD, SCVAD):
        adata = simulate(40, n_batches=2)
        model = make(
            cls,
            adata,
            {
                "batch_key": "batch",
                "size_factor_key": "size",
                "categorical_covariate_keys": ["donor"],
                "continuous_covariate_keys": ["age"],
            },
            1,
            dispersion="gene-batch",
        )
        assert np.isfinite(model.get_posterior(n_samples=20).mean).all()
        moved = model.get_normalized_expression(transform_batch="batch_1", n_samples=3, return_numpy=True)
        assert np.isfinite(moved).all()
        weighted = model.get_normalized_expression(
            indices=np.flatnonzero(adata.obs["batch"] == "batch_0"),
            transform_batch="batch_1",
            weights="importance",
            n_samples_overall=10,
            return_numpy=True,
        )
        assert weighted.shape == (10, 30)
        table = model.differential_expression(
            groupby="cell_type",
            group1="type_0",
            batch_correction=True,
            weights="uniform",
            silent=True,
            n_samples_overall=50,
        )
        assert np.isfinite(table["bayes_factor"]).all()


def test_mudata():
    adata = simulate(60)
    other = simulate(60, 5, seed=1)
    other.var_names = "other_" + other.var_names
    mdata = md.MuData({"rna": adata, "other": other})
    mdata.obs["cell_type"] = adata.obs["cell_type"]
    SCDGD.setup_mudata(mdata, modalities={"layer": "rna"})
    model = train(SCDGD(mdata, n_components=3, n_latent=4, n_hidden=16), 1)
    mean, variance = model.get_latent_representation(return_dist=True)
    assert mean.shape == variance.shape == (60, 4)
    assert model.get_marginal_ll(n_mc_samples=10, return_mean=False).shape == (60,)
    assert model.get_latent_representation(give_mean=False).shape == (60, 4)
    assert model.get_importance_weights(n_mc_samples=10).shape == (60,)


def test_backed(tmp_path):
    simulate(60).write_h5ad(tmp_path / "cells.h5ad")
    adata = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
    model = make(SCDGD, adata, {"labels_key": "cell_type"}, 1)
    assert model.get_posterior(n_samples=10).mean.shape == (60, 4)
    for weights in ("uniform", "importance"):
        expression = model.get_normalized_expression(
            indices=[1, 5, 9], weights=weights, n_samples_overall=12, return_numpy=True
        )
        assert expression.shape == (12, 30)


def test_new_cells_loaded_models_and_queries(tmp_path, model):
    query = new_cells(depth=100.0)
    seen = model.get_posterior(query, n_samples=0)
    assert seen.mean.shape == (12, 4)
    assert np.isfinite(model.get_posterior(query, n_samples=20).log_evidence).all()
    model.save(tmp_path / "model", overwrite=True)
    loaded = type(model).load(tmp_path / "model", adata=model.adata)
    np.testing.assert_allclose(loaded.get_posterior(query, n_samples=0).mean, seen.mean, atol=1e-3)
    assert (
        loaded.differential_expression(groupby="cell_type", group1="type_0", silent=True, n_samples_overall=50).shape[0]
        == 30
    )
    attached = type(model).load_query_data(query.copy(), model)
    np.testing.assert_allclose(attached.get_posterior(n_samples=0).mean, seen.mean, atol=1e-3)
    assert attached.get_normalized_expression(n_samples=2, return_numpy=True).shape == (12, 30)
    order = np.random.default_rng(0).permutation(90)
    permuted = model.get_posterior(model.adata[order].copy(), n_samples=0)
    np.testing.assert_allclose(permuted.mean, model.get_posterior(n_samples=0).mean[order], atol=1e-4)


READERS = {
    "return_dist": lambda m: m.get_latent_representation(return_dist=True),
    "draws": lambda m: m.get_latent_representation(give_mean=False),
    "posterior": lambda m: m.get_posterior(n_samples=4),
    "laplace": lambda m: m.get_posterior(n_samples=0),
    "marginal_ll": lambda m: m.get_marginal_ll(n_mc_samples=4),
    "aggregated": lambda m: m.get_aggregated_posterior(indices=[0, 1]),
    "weights": lambda m: m.get_importance_weights(indices=[0, 1], n_mc_samples=4),
    "expression": lambda m: m.get_normalized_expression(n_samples=2),
    "overall": lambda m: m.get_normalized_expression(n_samples_overall=4),
    "importance": lambda m: m.get_normalized_expression(n_samples_overall=4, weights="importance", n_mc_samples=4),
    "predictive": lambda m: m.posterior_predictive_sample(n_samples=2),
    "parameters": lambda m: m.get_likelihood_parameters(n_samples=2),
}


def test_reading_changes_nothing_and_runs_in_inference_mode(model):
    before = state_of(model)
    sampler = model.module.posterior_sampler
    for name, read in READERS.items():
        read(model)
        with torch.inference_mode():
            read(model)
        for key, value in model.module.state_dict().items():
            assert torch.equal(value, before[key]), (name, key)
        assert model.module.posterior_sampler is sampler, name
        assert model.module.samples_posterior is False, name
        assert all(p.requires_grad for p in model.module.decoder.parameters()), name


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.get_normalized_expression(n_samples_overall=4, transform_batch="nowhere"),
        lambda m: m.get_normalized_expression(n_samples_overall=4, weights="importance", transform_batch="nowhere"),
        lambda m: m.differential_expression(groupby="nothing", group1="a", silent=True),
        lambda m: m.posterior_predictive_sample(gene_list=["no gene"]),
    ],
)
def test_samplers_are_restored_after_errors(model, call):
    sampler = model.module.posterior_sampler
    with pytest.raises((ValueError, KeyError)):
        call(model)
    assert model.module.posterior_sampler is sampler
    assert model.module.samples_posterior is False


def test_untrained_models_and_loaders_are_refused(adata):
    model = make_model(adata)
    for call in (
        model.get_posterior,
        model.get_marginal_ll,
        lambda: model.get_latent_representation(return_dist=True),
        model.get_importance_weights,
    ):
        with pytest.raises(RuntimeError, match="trained"):
            call()
    train(model, 1)
    with pytest.raises(NotImplementedError, match="cell name"):
        model.get_latent_representation(dataloader=[{}])


def test_smooth_decoders_are_not_warned_of(model):
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        assert (model.get_posterior(n_samples=2).covariance > 0).all()
