"""Sizes of cells as parameters: their maximum, the density that is left, and all that models do with them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import torch
from scipy.optimize import minimize_scalar
from scvi import REGISTRY_KEYS
from torch.distributions import Normal
from torch.testing import assert_close

from scdgd.inference import importance_samples, laplace_posterior
from scdgd.inference._joint_density import JointDensity, frozen
from scdgd.likelihood import BackgroundMixture
from scdgd.metrics import held_out_log_likelihood
from scdgd.model import SCDGD, SCVAD
from scdgd.module import DGDModule, LatentSize
from scdgd.prior import GaussianMixture
from tests.conftest import simulate, train

SMALL = {"n_components": 2, "n_latent": 2, "n_hidden": 8}
VARIANTS = {
    "nb": {},
    "zinb": {"gene_likelihood": "zinb"},
    "poisson": {"gene_likelihood": "poisson", "output_activation": "softplus"},
}


def make_module(d: int = 2, **options) -> DGDModule:
    torch.manual_seed(0)
    module = DGDModule(20, 5, GaussianMixture(2, d), n_batch=2, n_hidden=8, size_factor="latent", **options)
    with torch.no_grad():
        module.prior.means.normal_()
        module.decoder.output.weight.mul_(3)
    module.latent_size.mean.copy_(torch.tensor([4.0, 3.0]))
    module.latent_size.var.copy_(torch.tensor([0.1, 0.4]))
    return module.double().eval()


def draw(module: DGDModule, b: int = 6, seed: int = 1, *, panel: bool = False) -> dict[str, torch.Tensor]:
    """Cells that have no row."""
    torch.manual_seed(seed)
    tensors = {
        REGISTRY_KEYS.BATCH_KEY: torch.arange(b).unsqueeze(1) % 2,
        REGISTRY_KEYS.INDICES_KEY: torch.full((b, 1), -1),
    }
    log_size = torch.linspace(3, 4.5, b).double().unsqueeze(1)
    tensors[REGISTRY_KEYS.X_KEY] = module.decode(module.prior.sample(b)[0].double(), log_size, tensors).sample()
    if panel:
        measured = torch.rand(b, 20) < 0.7
        tensors |= {"genes_measured": measured, REGISTRY_KEYS.X_KEY: tensors[REGISTRY_KEYS.X_KEY] * measured}
    return tensors


@pytest.mark.parametrize("panel", [False, True])
@pytest.mark.parametrize("name", VARIANTS)
def test_sizes_are_the_most_probable(name, panel):
    """Another maximiser finds the same, cell by cell; genes that were not measured have no part."""
    module = make_module(**VARIANTS[name])
    tensors, z = draw(module, panel=panel), torch.randn(6, 2).double()
    start = module.log_size(tensors)
    assert_close(start.exp(), tensors[REGISTRY_KEYS.X_KEY].sum(1, keepdim=True).clamp(min=1))
    found = module.fitted_log_size(tensors, z, start)

    def cost(i: int, log_size: float) -> float:
        sizes = torch.full((6, 1), log_size).double()
        log_prob = module.decode(z, sizes, tensors).log_prob(tensors[REGISTRY_KEYS.X_KEY])
        prior = Normal(torch.tensor([4.0, 3.0])[i % 2], torch.tensor([0.1, 0.4])[i % 2].sqrt())
        return -float(log_prob[i].detach() + prior.log_prob(torch.tensor(log_size)))

    with torch.no_grad():
        best = [minimize_scalar(lambda x, i=i: cost(i, x), bounds=(0, 8), method="bounded").x for i in range(6)]
    np.testing.assert_allclose(found.ravel(), best, atol=2e-3)


def test_gradients_are_those_of_the_density_with_sizes_at_their_best():
    module = make_module()
    tensors, z = draw(module), torch.randn(6, 2).double()
    with frozen(module):
        density = JointDensity(module, tensors)
        _, gradient = density.value_and_gradient(z)
        for j in range(2):
            step = 1e-4 * torch.eye(2)[j].double()
            up, down = (density.value_and_gradient(z + s)[0] for s in (step, -step))
            assert_close(gradient[:, j], (up - down) / 2e-4, rtol=1e-3, atol=1e-3)
        part = density[torch.tensor([4, 1])]
        assert_close(part.value_and_gradient(z[[4, 1]])[1], gradient[[4, 1]], rtol=1e-4, atol=1e-4)


def test_the_evidence_integrates_sizes():
    """By quadrature over representation and log size."""
    module = make_module(d=1)
    tensors = draw(module, b=3)
    x = tensors[REGISTRY_KEYS.X_KEY]
    z, log_size = torch.linspace(-6, 6, 241).double(), torch.linspace(0, 7, 281).double()
    total = []
    with torch.no_grad():
        prior = module.prior.log_prob(z.unsqueeze(1))
        for size in log_size:
            sizes = size.expand(241, 3, 1)
            of_size = module.latent_size.log_prob(size.expand(3, 1), tensors[REGISTRY_KEYS.BATCH_KEY])
            law = module.decode(z.reshape(-1, 1, 1).expand(-1, 3, 1), sizes, tensors)
            total.append(law.log_prob(x) + prior.unsqueeze(1) + of_size)
    volume = float((z[1] - z[0]) * (log_size[1] - log_size[0]))
    exact = torch.logsumexp(torch.cat(total), dim=0) + np.log(volume)
    proposal = laplace_posterior(module, tensors)
    assert_close(importance_samples(module, tensors, proposal, 4_000).log_evidence(), exact, atol=0.1, rtol=0)
    assert_close(proposal.log_evidence(), exact, atol=0.5, rtol=0)


def test_the_law_of_a_batch():
    """Moments of log totals, those of all cells for a batch without any, and no variance of zero."""
    law = LatentSize(3)
    law.fit(torch.tensor([1.0, 3.0, 2.0]), torch.tensor([0, 0, 2]))
    assert_close(law.moments(), torch.tensor([[2.0, 2.0, 2.0], [1.0, 2 / 3, 1e-4]]))
    before = law.state_dict().copy()
    law.append(torch.tensor([5.0, 7.0, 1.0]), torch.tensor([3, 3, 0]), 1)
    assert_close(law.moments()[:, 3], torch.tensor([6.0, 1.0]))
    assert_close(
        law.log_prob(torch.tensor([[5.5]]), torch.tensor([[3]])), Normal(6.0, 1.0).log_prob(torch.tensor([5.5]))
    )
    assert law.state_dict().keys() == before.keys()
    law.forget_added()
    assert law.moments().shape == (2, 3)


@pytest.fixture(scope="module", params=[SCDGD, SCVAD])
def model(request):
    adata = simulate(60, 12, n_batches=2)
    request.param.setup_anndata(adata, batch_key="batch")
    return train(request.param(adata, **SMALL, use_observed_lib_size=False), 4)


def test_what_a_model_says_of_sizes(model, tmp_path):
    """New cells with the counts of known ones have their sizes; files, minified data and draws keep them."""
    adata, sizes = model.adata, model.get_latent_library_size()
    totals = np.asarray(adata.X.sum(1))
    assert not np.allclose(sizes, totals, rtol=0.01)
    assert np.corrcoef(np.log(sizes.ravel()), np.log(totals.ravel()))[0, 1] > 0.8
    same = adata.copy()
    same.obs_names = [f"other_{i}" for i in range(60)]
    with pytest.warns(UserWarning, match="counts of training cells but other names"):
        np.testing.assert_allclose(model.get_latent_library_size(same), sizes, rtol=0.05)
    assert "kl_local_train" in model.history
    model.save(tmp_path / "saved", save_anndata=True)
    again = type(model).load(tmp_path / "saved", accelerator="cpu")
    np.testing.assert_array_equal(again.get_latent_library_size(), sizes)
    expected = again.get_normalized_expression(library_size="latent")
    np.testing.assert_allclose(expected.sum(axis=1), sizes.ravel(), rtol=1e-3)
    adata = again.adata
    adata.obsm["X_latent_qzm"], adata.obsm["X_latent_qzv"] = again.get_latent_representation(return_dist=True)
    again.minify_adata()
    np.testing.assert_allclose(again.get_normalized_expression(library_size="latent"), expected, rtol=1e-4)
    assert again.posterior_predictive_sample().shape == (60, 12)


def test_sizes_of_a_batch_that_comes_later(model, tmp_path):
    """Its law is that of its cells, and goes with a query model."""
    new = simulate(30, 12, seed=3, depth=3_000)
    new.obs_names, new.obs["batch"] = [f"new_{i}" for i in range(30)], "later"
    query = train(type(model).load_query_data(new, model), 3)
    means = query.module.library_log_means
    assert means.shape == query.module.library_log_vars.shape == (1, 3)
    assert float(means[0, 2]) == pytest.approx(float(np.log(new.X.sum(1)).mean()), abs=1e-4)
    assert_close(means[:, :2], model.module.library_log_means)
    query.save(tmp_path / "query", save_anndata=True)
    again = type(model).load(tmp_path / "query", accelerator="cpu")
    np.testing.assert_array_equal(again.get_latent_library_size(), query.get_latent_library_size())
    assert query.get_latent_library_size().mean() > 1_000


def test_what_latent_sizes_do_not_go_with(model):
    adata = simulate(20, 12)
    SCDGD.setup_anndata(adata)
    with pytest.raises(ValueError, match="`size_factor='max'` says where it is read"):
        SCDGD(adata, **SMALL, use_observed_lib_size=False, size_factor="max")
    with pytest.raises(ValueError, match="needs `size_factor='observed'`"):
        SCDGD(adata, **SMALL, use_observed_lib_size=False, gene_likelihood="constrained_poisson")
    with pytest.raises(ValueError, match="latent size cannot be told from it"):
        SCDGD(adata, **SMALL, size_factor="latent", gene_likelihood=BackgroundMixture)
    with pytest.raises(ValueError, match="those of this one are latent"):
        held_out_log_likelihood(model, simulate(20, 12, n_batches=2, seed=1))
    few = model.adata[:, ::2].copy()
    with pytest.warns(UserWarning, match="missing"), pytest.raises(ValueError, match="totals of different genes"):
        model.get_latent_library_size(few)
    adata.varm["measured"] = pd.DataFrame({"a": True, "b": np.arange(12) > 3}, index=adata.var_names)
    adata.obs["batch"], adata.X = np.where(np.arange(20) < 10, "a", "b"), adata.X.toarray()
    adata.X[10:, :4] = 0
    SCDGD.setup_anndata(adata, batch_key="batch", gene_mask_key="measured")
    with pytest.raises(ValueError, match="totals of different genes"):
        train(SCDGD(adata, **SMALL, use_observed_lib_size=False))
    SCDGD.setup_anndata(adata, size_factor_key="size")
    registered = SCDGD(adata, **SMALL, use_observed_lib_size=False)
    assert registered.module.size.name == "registered"  # as in scvi-tools
