"""Count splitting: the split, the conditional law, and scores of both kinds of model."""

from __future__ import annotations

import mudata as md
import numpy as np
import pytest
import scvi
import torch
from anndata import AnnData
from scipy import sparse
from scipy.stats import binom, nbinom, poisson
from scvi.distributions import Poisson, ZeroInflatedNegativeBinomial

from scdgd.data import SparseCounts
from scdgd.likelihood import NegativeBinomial
from scdgd.metrics import held_out_log_likelihood, n_used_components, split_counts
from scdgd.metrics._count_splitting import conditional_of_other_half
from tests.conftest import make_model, simulate, train


def test_halves_add_up_and_are_reproducible(adata):
    first, second = split_counts(adata, epsilon=0.3, seed=1)
    np.testing.assert_array_equal((first.X + second.X).toarray(), adata.X.toarray())
    np.testing.assert_allclose(first.X.sum() / adata.X.sum(), 0.3, atol=0.01)
    again, _ = split_counts(adata, epsilon=0.3, seed=1)
    np.testing.assert_array_equal(first.X.toarray(), again.X.toarray())
    assert not set(first.obs_names) & set(adata.obs_names)


def test_cells_without_an_inferred_half_are_left_out(adata):
    counts = adata.X.tolil()
    counts[0] = 0
    counts[0, 0] = 1
    adata.X = counts.tocsr()
    sizes = [split_counts(adata, epsilon=0.01, seed=seed)[0].n_obs for seed in range(3)]
    assert max(sizes) <= 150
    assert min(split_counts(adata, epsilon=0.01, seed=0)[0].X.sum(axis=1)) > 0


def test_split_of_a_layer_leaves_x_alone(adata):
    adata.layers["counts"] = adata.X.copy()
    adata.X = adata.X.log1p()
    first, second = split_counts(adata, layer="counts")
    np.testing.assert_array_equal(
        (first.layers["counts"] + second.layers["counts"]).toarray(), adata.layers["counts"].toarray()
    )
    np.testing.assert_array_equal(first.X.toarray(), adata.X.toarray())


@pytest.mark.parametrize("epsilon", [0.0, 1.0, -0.5])
def test_impossible_shares_are_refused(adata, epsilon):
    with pytest.raises(ValueError, match="epsilon"):
        split_counts(adata, epsilon=epsilon)


@pytest.mark.parametrize(("mu", "theta", "epsilon"), [(0.3, 0.5, 0.5), (20.0, 2.0, 0.3), (1000.0, 50.0, 0.9)])
def test_conditional_law_completes_the_joint(mu, theta, epsilon):
    """NB(x) Bin(x_tr | x) = NB(x_tr) p(x_te | x_tr), for every pair of counts."""
    x_first, x_second = (grid.ravel() for grid in np.meshgrid(np.arange(12), np.arange(12)))
    x = x_first + x_second
    joint = nbinom.logpmf(x, theta, theta / (theta + mu)) + binom.logpmf(x_first, x, epsilon)
    marginal = nbinom.logpmf(x_first, theta, theta / (theta + epsilon * mu))
    first, second = (torch.as_tensor(v, dtype=torch.float64).unsqueeze(1) for v in (x_first, x_second))
    mean = torch.full_like(first, epsilon * mu)
    px = NegativeBinomial(mean.log(), torch.tensor([theta], dtype=torch.float64).log())
    conditional = conditional_of_other_half(px, first, epsilon)
    np.testing.assert_allclose(conditional.log_prob(second), joint - marginal, rtol=1e-9, atol=1e-9)


def test_conditional_laws_of_other_families_complete_their_joints():
    """The same for Poisson and zero-inflated counts, whose halves share the zero inflation."""
    mu, theta, pi, epsilon = 3.0, 2.0, 0.3, 0.4
    x_first, x_second = (grid.ravel() for grid in np.meshgrid(np.arange(12), np.arange(12)))
    x = x_first + x_second
    split = binom.logpmf(x_first, x, epsilon)
    inflated = lambda x, mu: (x == 0) * pi + (1 - pi) * nbinom.pmf(x, theta, theta / (theta + mu))
    joints = {
        "poisson": (poisson.logpmf(x, mu) + split, poisson.logpmf(x_first, epsilon * mu)),
        "zinb": (np.log(inflated(x, mu)) + split, np.log(inflated(x_first, epsilon * mu))),
    }
    first = torch.as_tensor(x_first, dtype=torch.float64).unsqueeze(1)
    mean, logit = torch.full_like(first, epsilon * mu), torch.full_like(first, np.log(pi / (1 - pi)))
    laws = {
        "poisson": Poisson(mean),
        "zinb": ZeroInflatedNegativeBinomial(mu=mean, theta=torch.full_like(mean, theta), zi_logits=logit),
    }
    second = SparseCounts.from_dense(torch.as_tensor(x_second, dtype=torch.float64).unsqueeze(1))
    for family, (joint, marginal) in joints.items():
        conditional = conditional_of_other_half(laws[family], first, epsilon)
        np.testing.assert_allclose(conditional.log_prob(second), joint - marginal, atol=1e-6)
    expected = [(np.exp(joint - marginal) * x_second)[x_first == 0].sum() for joint, marginal in joints.values()]
    np.testing.assert_allclose(expected[0], 0.6 * mu, rtol=1e-3)
    np.testing.assert_allclose(conditional.mean[first == 0][0], expected[1], rtol=0.02)  # the grid ends at 11


def test_score_equals_a_direct_computation(trained, adata):
    test = simulate(30, seed=0, depth=250.0)
    test.obs_names = "test_" + test.obs_names
    score = held_out_log_likelihood(trained, test, seed=4)
    first, second = split_counts(test, seed=4)
    mean = trained.get_normalized_expression(first, library_size="latent", return_numpy=True).astype(float)
    theta = trained.module.log_theta.exp().detach().double().numpy()
    x, y = first.X.toarray(), second.X.toarray()
    expected = mean * (theta + x) / (theta + mean)
    reference = nbinom.logpmf(y, theta + x, (theta + x) / (theta + x + expected)).sum(axis=1)
    np.testing.assert_allclose(score.per_cell, reference, rtol=1e-4)
    np.testing.assert_allclose(score.log_likelihood, reference.mean(), rtol=1e-4)
    np.testing.assert_allclose(score.rmse, np.sqrt(((y - expected) ** 2).mean()), rtol=1e-4)
    assert held_out_log_likelihood(trained, test, seed=4)[:3] == score[:3]
    assert held_out_log_likelihood(trained, test, seed=5).log_likelihood != score.log_likelihood


@pytest.mark.slow
def test_better_models_score_higher_and_scvi_is_scored_alike():
    adata = simulate(300, depth=1000.0)
    test = simulate(60, depth=1000.0)
    test.obs_names = "test_" + test.obs_names
    short, long = (held_out_log_likelihood(train(make_model(adata), epochs), test) for epochs in (1, 40))
    assert long.log_likelihood > short.log_likelihood
    assert long.rmse < short.rmse
    scvi.model.SCVI.setup_anndata(adata)
    model = scvi.model.SCVI(adata, n_latent=4, gene_likelihood="nb")
    model.train(30, accelerator="cpu", enable_progress_bar=False, train_size=1.0)
    score = held_out_log_likelihood(model, test)
    assert score.per_cell.shape == (60,)
    assert abs(score.log_likelihood - long.log_likelihood) < 0.2 * abs(long.log_likelihood)


def test_scvi_with_another_likelihood_is_refused(adata):
    scvi.model.SCVI.setup_anndata(adata)
    model = scvi.model.SCVI(adata, n_latent=4, gene_likelihood="normal")
    model.train(1, accelerator="cpu", enable_progress_bar=False, train_size=1.0)
    with pytest.raises(ValueError, match="normal"):
        held_out_log_likelihood(model, adata.copy())


def test_held_out_score_leaves_the_model_as_it_is(trained, adata):
    z = trained.get_latent_representation()
    test = simulate(10, seed=3)
    test.obs_names = "test_" + test.obs_names
    counts = sparse.csr_matrix(test.X, copy=True)
    held_out_log_likelihood(trained, test)
    np.testing.assert_array_equal(trained.get_latent_representation(), z)
    np.testing.assert_array_equal(test.X.toarray(), counts.toarray())
    assert "_scdgd_row" not in test.obs


def test_used_components():
    assert n_used_components(np.repeat([0, 1, 2], [98, 1, 1])) == 3
    assert n_used_components(np.repeat(["a", "b"], [995, 5])) == 1
    assert n_used_components(np.repeat([0, 1], [90, 10]), min_share=0.2) == 1


def test_registered_size_factors_are_halved_too():
    """Totals given as size factors must score like observed totals."""
    adata = simulate(200, depth=500.0)
    test = simulate(60, depth=500.0, seed=0)
    test.obs_names = "test_" + test.obs_names
    for cells in (adata, test):
        cells.obs["total"] = np.asarray(cells.X.sum(axis=1)).ravel()
    scores = []
    for setup in ({}, {"size_factor_key": "total"}):
        scvi.settings.seed = 0
        model = train(make_model(adata, setup=setup, output_activation="softmax"), 20)
        scores.append(held_out_log_likelihood(model, test).log_likelihood)
    np.testing.assert_allclose(scores[0], scores[1], rtol=0.01)


def test_only_anndata_is_split():
    with pytest.raises(TypeError, match="MuData"):
        split_counts(md.MuData({"rna": simulate()}))


@pytest.mark.parametrize("values", [[[0.5, 1]], [[-1, 1]], [[np.nan, 1]]])
def test_only_counts_are_split(values):
    with pytest.raises(ValueError, match="whole numbers from 0"):
        split_counts(AnnData(np.array(values, dtype=float)))
    with pytest.raises(KeyError, match=r"no 'raw'\. There are: \[\]"):
        split_counts(AnnData(np.ones((2, 2))), layer="raw")
