"""Models without an encoder and cells in which some of their genes were not measured."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scvi
import torch
from anndata import AnnData
from scipy import sparse
from scvi import REGISTRY_KEYS

from scdgd._constants import MEASURED_KEY
from scdgd.metrics import held_out_log_likelihood
from scdgd.model import SCDGD, SCVAD
from tests.conftest import simulate, train

GENES = np.arange(100) % 2 == 0


@pytest.fixture(scope="module", params=[SCDGD, SCVAD])
def model(request):
    adata = simulate(n_genes=100, n_batches=2)
    request.param.setup_anndata(adata, batch_key="batch")
    return train(request.param(adata, n_components=3, n_latent=2, n_hidden=8), max_epochs=8)


@pytest.fixture
def query() -> AnnData:
    adata = simulate(16, 100, n_batches=2, seed=1)[:, GENES].copy()
    adata.obs_names = "query_" + adata.obs_names
    return adata


def test_expression_of_all_genes_with_posterior_spread(model, query):
    expression = model.get_normalized_expression(query)
    assert list(expression.columns) == list(model.adata.var_names)
    np.testing.assert_allclose(expression.sum(axis=1), 1, rtol=1e-4)
    draws = model.get_normalized_expression(query, n_samples=20, return_mean=False, return_numpy=True)
    assert draws.shape == (20, 16, 100)
    assert (draws.std(0)[:, ~GENES] > 0).mean() > 0.9  # all draws of a cell are one where one weight has all
    expected = model.get_normalized_expression(query, library_size="latent", return_numpy=True)
    totals = np.asarray(query.X.sum(axis=1)).ravel()
    np.testing.assert_allclose(expected[:, GENES].sum(1), totals, rtol=1e-4)
    assert (expected.sum(1) > totals).all()
    np.testing.assert_allclose(model.get_likelihood_parameters(query)["mean"], expected, rtol=1e-5)
    assert model.posterior_predictive_sample(query, n_samples=2).shape == (16, 100, 2)


def test_log_likelihoods_are_of_measured_genes(model, query):
    loss = float(model.get_reconstruction_error(query)["reconstruction_loss"])
    loader = model._make_data_loader(query, batch_size=16)
    (tensors,) = list(loader)
    _, outputs = model.module.forward(tensors, compute_loss=False)
    px, x = outputs["px"], tensors[REGISTRY_KEYS.X_KEY].to_dense()
    theta = model.module.log_theta.exp().detach()
    each = scvi.distributions.NegativeBinomial(mu=px.mean.detach(), theta=theta).log_prob(x)[:, GENES]
    assert loss == pytest.approx(float(-each.sum(1).mean()), rel=1e-4)
    assert np.isfinite(model.get_marginal_ll(query, n_mc_samples=10))
    assert float(model.get_elbo(query)) < -loss + 1


def test_differential_expression_and_held_out_scores(model, query):
    groups = {"groupby": "cell_type", "group1": "type_0", "group2": "type_1", "silent": True}
    assert len(model.differential_expression(query, **groups)) == 100
    scores = {
        form: held_out_log_likelihood(model, query, form=form, n_samples=20) for form in ("plug_in", "predictive")
    }
    everything = held_out_log_likelihood(model, simulate(16, 100, n_batches=2, seed=1))
    for score in scores.values():
        assert np.isfinite(score.per_cell).all()
        assert score.log_likelihood > 0.7 * everything.log_likelihood  # half of the genes
        assert score.rmse < 2 * everything.rmse


def test_no_gradient_from_cells_that_lack_a_gene(model):
    """Bit by bit, of whatever belongs to the gene."""
    module = model.module.train()
    tensors = next(iter(model._make_data_loader(model.adata, batch_size=20)))
    x = tensors[REGISTRY_KEYS.X_KEY].to_dense() * torch.as_tensor(GENES)
    tensors = tensors | {REGISTRY_KEYS.X_KEY: x, MEASURED_KEY: torch.as_tensor(GENES).expand(20, -1)}
    module.zero_grad()
    module(tensors)[2].loss.backward()
    for gradient in (
        module.decoder.output.weight.grad,
        module.decoder.output.bias.grad,
        module.family_parameters.log_theta.grad,
    ):
        assert (gradient[~GENES] == 0).all()
        assert (gradient[GENES] != 0).any()
    module.eval()
    module.zero_grad()


def two_panels(seed: int, n: int = 600, g: int = 150, k: int = 4) -> tuple[AnnData, np.ndarray, np.ndarray]:
    """Cells of two batches, each measured with a panel, 50 genes shared; what was measured, and the true profile of cells."""
    rng = np.random.default_rng(seed)
    profiles = rng.dirichlet(np.full(g, 0.5), size=k) + 1e-4
    profiles /= profiles.sum(1, keepdims=True)
    kinds, batch = rng.integers(k, size=n), rng.integers(2, size=n)
    panels = np.array([np.arange(g) >= 50, (np.arange(g) < 50) | (np.arange(g) >= 100)])
    counts = rng.poisson(500 * profiles[kinds]) * panels[batch]
    obs = pd.DataFrame({"batch": pd.Categorical([f"b{i}" for i in batch])}, index=[f"cell_{i}" for i in range(n)])
    adata = AnnData(
        sparse.csr_matrix(counts, dtype=np.float32), obs, pd.DataFrame(index=[f"gene_{j}" for j in range(g)])
    )
    adata.varm["measured"] = pd.DataFrame(panels.T, index=adata.var_names, columns=["b0", "b1"])
    return adata, panels[batch], profiles[kinds]


@pytest.mark.slow
@pytest.mark.parametrize("model_class", [SCDGD, SCVAD])
def test_two_panels_train_better_than_with_zeros(model_class):
    errors = {}
    for key in ("measured", None):
        adata, measured, profiles = two_panels(0)
        scvi.settings.seed = 0
        model_class.setup_anndata(adata, batch_key="batch", **({} if key is None else {"gene_mask_key": key}))
        model = train(model_class(adata, n_components=4, n_latent=4), max_epochs=60)
        error = np.abs(np.log(model.get_normalized_expression(return_numpy=True) + 1e-6) - np.log(profiles))
        errors[key] = error[measured].mean(), error[~measured].mean()
    assert errors["measured"][0] < errors[None][0]
    assert errors["measured"][1] < 0.5 * errors[None][1]
