"""Predictive held-out scores: against quadrature, for every kind of model, and what they must not see."""

from __future__ import annotations

import numpy as np
import pytest
import scvi
import torch
from scipy.special import gammaln, logsumexp
from scipy.stats import binom, nbinom, norm, poisson
from scvi.distributions import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial
from scvi.module import VAE

from scdgd.metrics import _held_out, held_out_log_likelihood, split_counts
from scdgd.model import SCDGD, SCIAF, SCVAD, SCVAMP, SCVMM
from scdgd.module import FlexVAE
from tests.conftest import simulate, train

SCVI = scvi.model.SCVI


def fitted(cls: type, n_latent: int = 4, *, depth: float = 100.0, n_batches: int = 1, max_epochs: int = 20, **kwargs):
    """A small trained model of any class."""
    adata = simulate(200, depth=depth, n_batches=n_batches)
    cls.setup_anndata(adata, batch_key="batch", labels_key="cell_type")
    if cls is not SCVI:
        kwargs = {"n_components": 3, **kwargs}
    if issubclass(cls, SCVI):
        kwargs = {"gene_likelihood": "nb", **kwargs}
    return train(cls(adata, n_latent=n_latent, n_hidden=16, **kwargs), max_epochs, train_size=1.0)


def new_cells(n_cells: int = 20, *, depth: float = 100.0, n_batches: int = 1):
    """Cells that no model was trained on."""
    test = simulate(n_cells, depth=depth, n_batches=n_batches)
    test.obs_names = "test_" + test.obs_names
    return test


def log_pmf(px, x: np.ndarray, depth: float) -> np.ndarray:
    """Log probabilities of counts under a law of scvi-tools, or of ours, with `depth` times its mean."""
    if isinstance(px, Poisson):
        rate = depth * px.rate.double().numpy()
        return x * np.log(rate) - rate - gammaln(x + 1)
    mu, theta = depth * px.mu.double().numpy(), px.theta[:1].double().numpy()  # a dispersion is a gene's
    constant = gammaln(x + theta) - gammaln(theta) - gammaln(x + 1) + theta * np.log(theta)
    log_p = constant + x * np.log(mu) - (x + theta) * np.log(mu + theta)
    if not isinstance(px, ZeroInflatedNegativeBinomial):
        return log_p
    pi = px.zi_probs.double().numpy()
    return np.where(x == 0, np.logaddexp(np.log(pi), np.log1p(-pi) + log_p), np.log1p(-pi) + log_p)


def test_log_probabilities_of_the_quadrature_are_scipys():
    x, mu, theta = np.array([0, 1, 2, 30]), torch.rand(5, 4) * 9, torch.rand(4) + 0.1
    mean, size = 2 * mu.double().numpy(), theta.double().numpy()
    np.testing.assert_allclose(log_pmf(Poisson(mu), x, 2), poisson.logpmf(x, mean), rtol=1e-9)
    expected = nbinom.logpmf(x, size, size / (size + mean))
    np.testing.assert_allclose(log_pmf(NegativeBinomial(mu=mu, theta=theta), x, 2), expected, rtol=1e-9)


@torch.no_grad()
def quadrature(model, adata) -> np.ndarray:
    r"""Log ratio of :math:`\int p(x_{tr}, x_{te} | z)\, p(z)\, dz` and :math:`\int p(x_{tr} | z)\, p(z)\, dz`, ``(n,)``."""
    module, (first, second) = model.module, split_counts(adata, seed=0)
    n_latent = module.n_latent if isinstance(module, VAE) else module.prior.n_latent
    axis = torch.linspace(-6, 6, {1: 1001, 2: 121}[n_latent])
    z = torch.cartesian_prod(*[axis] * n_latent).reshape(-1, n_latent)
    if isinstance(module, FlexVAE):
        log_prior = module.given_prior().log_prob(z).numpy()
    else:
        log_prior = norm.logpdf(z).sum(1) if isinstance(module, VAE) else module.prior.log_prob(z).numpy()
    scores = []
    for x, y, batch in zip(first.X.toarray(), second.X.toarray(), first.obs["batch"].cat.codes, strict=True):
        library, batch_index = torch.full((len(z), 1), float(np.log(x.sum()))), torch.full((len(z), 1), int(batch))
        px = module.generative(z, library, batch_index)["px"]
        seen, whole = (log_pmf(px, counts, depth).sum(1) + log_prior for counts, depth in ((x, 1), (x + y, 2)))
        scores.append(logsumexp(whole) + binom.logpmf(x, x + y, 0.5).sum() - logsumexp(seen))
    return np.array(scores)


@pytest.mark.parametrize(
    ("cls", "n_latent", "n_batches", "gene_likelihood"),
    [
        (SCDGD, 1, 2, "nb"),
        pytest.param(SCDGD, 2, 1, "nb", marks=pytest.mark.slow),
        pytest.param(SCVAD, 1, 1, "nb", marks=pytest.mark.slow),
        (SCVI, 1, 2, "nb"),
        pytest.param(SCVI, 2, 1, "nb", marks=pytest.mark.slow),
        pytest.param(SCVI, 1, 2, "zinb", marks=pytest.mark.slow),
        pytest.param(SCVI, 1, 1, "poisson", marks=pytest.mark.slow),
        (SCVMM, 1, 2, "nb"),
        pytest.param(SCVAMP, 2, 1, "nb", marks=pytest.mark.slow),
        pytest.param(SCIAF, 2, 1, "nb", marks=pytest.mark.slow),
    ],
)
@pytest.mark.slow
def test_predictive_score_equals_quadrature(cls, n_latent, n_batches, gene_likelihood):
    model = fitted(cls, n_latent, n_batches=n_batches, gene_likelihood=gene_likelihood)
    test = new_cells(n_batches=n_batches)
    score = held_out_log_likelihood(model, test, form="predictive", n_samples=1000)
    reference = quadrature(model, test)
    np.testing.assert_allclose(score.per_cell, reference, atol=0.15)
    np.testing.assert_allclose(score.log_likelihood, reference.mean(), atol=0.03)
    assert 200 < score.scored_effective_sample_size < score.effective_sample_size <= 1000
    if not issubclass(cls, SCVI):  # where a ReLU is off, posteriors have tails as wide as the prior
        assert score.share_distrusted <= 0.2


@pytest.mark.slow
@pytest.mark.parametrize("cls", [SCDGD, SCVI])
def test_integration_pays_where_posteriors_are_wide_and_changes_nothing_where_they_are_narrow(cls):
    gains = []
    for depth, epsilon in ((30.0, 0.5), (3000.0, 0.95)):
        model, test = fitted(cls, depth=depth), new_cells(60, depth=depth)
        scores = [
            held_out_log_likelihood(model, test, epsilon=epsilon, form=form) for form in ("plug_in", "predictive")
        ]
        gains.append(scores[1].log_likelihood - scores[0].log_likelihood)
    assert gains[0] > 0.03
    assert abs(gains[1]) < 0.03


@pytest.fixture(params=[SCDGD, SCVAD, SCVI])
def model(request):
    """One small model of each kind."""
    return fitted(request.param, max_epochs=2)


@pytest.mark.slow
def test_scores_depend_on_seeds_alone_and_never_on_labels(model):
    test = new_cells()
    state = torch.get_rng_state()
    score = held_out_log_likelihood(model, test, form="predictive", n_samples=20)
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(5)
    test.obs["cell_type"] = test.obs["cell_type"].to_numpy()[::-1]
    again = held_out_log_likelihood(model, test, form="predictive", n_samples=20)
    np.testing.assert_array_equal(score.per_cell, again.per_cell)
    other = held_out_log_likelihood(model, test, form="predictive", n_samples=20, seed=1)
    assert other.log_likelihood != score.log_likelihood
    with torch.inference_mode():
        again = held_out_log_likelihood(model, test, form="predictive", n_samples=20)
    np.testing.assert_array_equal(score.per_cell, again.per_cell)
    assert np.isnan(held_out_log_likelihood(model, test)[4:]).all()


def test_the_scored_half_never_enters_inference(model, monkeypatch):
    test, weights = new_cells(), []
    weighted_draws = _held_out.InferredHalf.weighted_draws

    def spy(half, n_samples):
        draws = weighted_draws(half, n_samples)
        weights.append(draws[1])
        return draws

    def perturbed(adata, **kwargs):
        first, second = split_counts(adata, **kwargs)
        second.X = second.X[::-1] * 3
        return first, second

    monkeypatch.setattr(_held_out.InferredHalf, "weighted_draws", spy)
    before = held_out_log_likelihood(model, test, form="predictive", n_samples=20)
    monkeypatch.setattr(_held_out, "split_counts", perturbed)
    after = held_out_log_likelihood(model, test, form="predictive", n_samples=20)
    assert torch.equal(*weights)
    assert before.log_likelihood > after.log_likelihood


def test_wrong_forms_and_numbers_of_draws_are_refused(trained, adata):
    with pytest.raises(ValueError, match=r"'plug_in', 'predictive'.*'posterior'"):
        held_out_log_likelihood(trained, adata, form="posterior")
    with pytest.raises(ValueError, match="n_samples"):
        held_out_log_likelihood(trained, adata, form="predictive", n_samples=0)


@pytest.mark.parametrize(
    ("options", "form", "match"),
    [
        ({"use_observed_lib_size": False}, "plug_in", "latent"),
        ({"dispersion": "gene-label"}, "plug_in", "Labels"),
        ({"dispersion": "gene-cell"}, "predictive", "dispersions"),
    ],
)
def test_models_that_cannot_be_compared_are_refused(options, form, match):
    model = fitted(SCVI, max_epochs=1, **options)
    with pytest.raises(ValueError, match=match):
        held_out_log_likelihood(model, new_cells(), form=form)


def test_an_unknown_posterior_is_refused_but_can_be_plugged_in():
    model = fitted(SCVI, max_epochs=1)
    model.module.__class__ = type("OwnPrior", (VAE,), {})
    with pytest.raises(TypeError, match="OwnPrior"):
        held_out_log_likelihood(model, new_cells(), form="predictive")
    assert held_out_log_likelihood(model, new_cells()).log_likelihood < 0
