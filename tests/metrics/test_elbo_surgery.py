"""The bound, taken apart."""

from __future__ import annotations

import numpy as np
import pytest
import scvi
import torch
from torch.distributions import Normal, kl_divergence

from scdgd.metrics import elbo_surgery
from scdgd.model import SCVAD, FlexSCVI
from tests.conftest import simulate
from tests.kinds.models import OURS, trained

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}
#: Models without posteriors of a bound, and what they say.
REFUSED = {"SCDGD": "Training found points", "MULTIDGD": "Training found points", "SCDBM": "no bound to take apart"}


@pytest.mark.parametrize("name", OURS)
def test_identities_hold_for_every_model(name):
    model, new = trained(name)
    if name in REFUSED:
        with pytest.raises(NotImplementedError, match=REFUSED[name]):
            elbo_surgery(model)
        return
    some = [5, 0, 9, 30]
    terms = elbo_surgery(model, indices=some, n_samples=20, batch_size=3, seed=0)
    assert terms.rate == pytest.approx(terms.marginal_kl + terms.mutual_information)
    assert terms.elbo == pytest.approx(terms.log_likelihood - terms.rate)
    assert terms.evidence >= terms.elbo
    assert terms.posterior_predictive >= terms.log_likelihood
    assert terms.mutual_information <= np.log(4) + 1e-9
    assert list(terms.per_cell.index) == list(model.adata.obs_names[some])
    assert terms.n_cells == 4
    again = elbo_surgery(model, indices=some, n_samples=20, batch_size=3, seed=0)
    assert again[:-1] == terms[:-1]
    one = elbo_surgery(model, new[:1].copy(), n_samples=5)
    assert one.mutual_information == pytest.approx(0, abs=1e-5)


def quadrature(model, means: torch.Tensor, scales: torch.Tensor) -> dict[str, float]:
    """The terms of a model of one dimension, on a line."""
    module, grid = model.module.eval(), torch.linspace(-8, 8, 801)
    tensors = next(iter(model._make_data_loader(model.adata, batch_size=model.adata.n_obs)))
    with torch.no_grad():
        log_size = module.log_size(tensors)
        at = lambda z: module.decode(torch.full((model.adata.n_obs, 1), float(z)), log_size, tensors)
        counts = tensors["X"].to_dense()
        log_px = [px.log_prob(counts) for px in map(at, grid)]
        log_px = torch.stack([p.sum(-1) if p.ndim > 1 else p for p in log_px]).double()  # (m, n)
        log_prior = module.given_prior().log_prob(grid.unsqueeze(1)).double().unsqueeze(1)
    q = Normal(means.T.double(), scales.T.double())
    log_q, width = q.log_prob(grid.double().unsqueeze(1)), float(grid[1] - grid[0])
    expect = lambda f: float((log_q.exp() * f).sum(0).mean() * width)
    log_mixture = torch.logsumexp(log_q, 1, keepdim=True) - np.log(log_q.shape[1])
    predictive = torch.logsumexp(log_q + log_px, 0) + np.log(width)
    return {
        "evidence": float((torch.logsumexp(log_px + log_prior, 0) + np.log(width)).mean()),
        "log_likelihood": expect(log_px),
        "rate": expect(log_q - log_prior),
        "marginal_kl": expect(log_mixture - log_prior),
        "mutual_information": expect(log_q - log_mixture),
        "posterior_predictive": float(predictive.mean()),
    }


@pytest.mark.parametrize("make", ["encoder", "rows"])
def test_terms_equal_quadrature(make):
    adata = simulate(15, 6, depth=20.0)
    if make == "encoder":
        FlexSCVI.setup_anndata(adata)
        model = FlexSCVI(adata, prior="gaussian_mixture", n_components=2, n_latent=1, n_hidden=8)
        model.train(2, batch_size=8, **QUIET)
    else:
        SCVAD.setup_anndata(adata)
        model = SCVAD(adata, n_components=2, n_latent=1, n_hidden=8)
        model.train(10, **QUIET)
    if make == "encoder":
        means, variances = map(torch.as_tensor, model.get_latent_representation(return_dist=True))
    else:
        rows = model.module.representations.table.detach()
        means, variances = model.module.posterior.moments(rows[model.adata_manager.rows])
    exact = quadrature(model, means, variances.sqrt())
    terms = elbo_surgery(model, n_samples=1_000, n_marginal_samples=1_000, seed=0)
    for name, value in exact.items():
        assert getattr(terms, name) == pytest.approx(value, abs=0.1), name


def test_stock_scvi():
    """Whose rate is known in closed form."""
    adata = simulate(30, 8)
    scvi.model.SCVI.setup_anndata(adata)
    model = scvi.model.SCVI(adata, n_latent=2, n_hidden=8)
    model.train(2, **QUIET)
    terms = elbo_surgery(model, n_samples=2_000, n_marginal_samples=5)
    mean, variance = map(torch.as_tensor, model.get_latent_representation(return_dist=True))
    exact = kl_divergence(Normal(mean, variance.sqrt()), Normal(0, 1)).sum(-1)
    assert terms.rate == pytest.approx(float(exact.mean()), abs=0.05)
    assert terms.elbo == pytest.approx(float(model.get_elbo(return_mean=True)), rel=0.01)


def test_far_apart_representations_tell_all_of_their_cells():
    adata = simulate(30, 8)
    FlexSCVI.setup_anndata(adata)
    model = FlexSCVI(adata, prior="normal", n_latent=2, n_hidden=8)
    model.train(1, **QUIET)
    with torch.no_grad():
        model.module.z_encoder.mean_encoder.weight.mul_(1e4)
    assert elbo_surgery(model, n_samples=5).mutual_information == pytest.approx(np.log(30), abs=0.01)


def test_latent_sizes_are_refused():
    adata = simulate(30, 8)
    FlexSCVI.setup_anndata(adata)
    model = FlexSCVI(adata, prior="normal", n_latent=2, use_observed_lib_size=False)
    model.train(1, **QUIET)
    with pytest.raises(NotImplementedError, match="Sizes of cells are latent"):
        elbo_surgery(model)


def test_minified_data_need_counts():
    adata = simulate(30, 8)
    FlexSCVI.setup_anndata(adata)
    model = FlexSCVI(adata, prior="normal", n_latent=2)
    model.train(1, **QUIET)
    terms = elbo_surgery(model, n_samples=5)
    model.minify_adata("latent_posterior_parameters_with_counts")
    assert elbo_surgery(model, n_samples=5).evidence == pytest.approx(terms.evidence, rel=1e-4)


def test_minified_data_without_counts_are_refused():
    adata = simulate(30, 8)
    FlexSCVI.setup_anndata(adata)
    model = FlexSCVI(adata, prior="normal", n_latent=2)
    model.train(1, **QUIET)
    model.minify_adata()
    with pytest.raises(ValueError, match="minified without them"):
        elbo_surgery(model)
