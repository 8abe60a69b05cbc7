"""Reading a trained model with scvi-tools' methods, and drawing cells from it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse
from sklearn.metrics import adjusted_rand_score

from scdgd.model import SCDGD
from tests.conftest import make_model, simulate, train


def test_prior_predictive_sample(trained, adata):
    samples = trained.prior_predictive_sample(60, seed=3)
    assert samples.shape == (60, 30)
    assert sparse.issparse(samples.X)
    assert list(samples.var_names) == list(adata.var_names)
    assert set(samples.obs["component"].astype(int)) <= {0, 1, 2}
    again = trained.prior_predictive_sample(60, seed=3)
    np.testing.assert_array_equal(samples.X.toarray(), again.X.toarray())
    assert (samples.X != trained.prior_predictive_sample(60, seed=4).X).nnz > 0
    one = trained.prior_predictive_sample(30, component=1, seed=0)
    assert set(one.obs["component"]) == {"1"}
    other_size = trained.prior_predictive_sample(400, library_size=50.0, seed=0)
    np.testing.assert_allclose(other_size.X.sum() / 400, 50, rtol=0.05)
    np.testing.assert_allclose(
        trained.prior_predictive_sample(400, seed=0).X.sum() / 400, adata.X.sum() / 150, rtol=0.1
    )


def test_samples_do_not_touch_the_global_seed(trained):
    import torch

    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    trained.prior_predictive_sample(10, seed=1)
    assert torch.equal(torch.rand(1), expected)


def test_prior_predictive_sample_by_batch():
    adata = simulate(n_batches=2)
    model = train(make_model(adata, setup={"batch_key": "batch"}), 2)
    samples = model.prior_predictive_sample(20, batch="batch_1", seed=0)
    assert set(samples.obs["batch"]) == {"batch_1"}
    with pytest.raises(ValueError, match=r"batch_7.*batch_0"):
        model.prior_predictive_sample(20, batch="batch_7")
    with pytest.raises(ValueError, match="component"):
        model.prior_predictive_sample(20, component=3)
    with pytest.raises(ValueError, match="positive"):
        model.prior_predictive_sample(0)
    with pytest.raises(ValueError, match="positive"):
        model.prior_predictive_sample(5, library_size=-1)


@pytest.mark.slow
def test_posterior_predictive_sample_has_the_decoded_mean(trained, adata):
    samples = trained.posterior_predictive_sample(adata, n_samples=100)
    samples = samples.todense() if hasattr(samples, "todense") else samples
    mean = trained.get_normalized_expression(library_size="latent", return_numpy=True)
    np.testing.assert_allclose(samples.mean(axis=2), mean, atol=0.35 * mean.max() ** 0.5 + 0.2 * mean.max())
    np.testing.assert_allclose(samples.mean(), mean.mean(), rtol=0.03)


def test_normalized_expression(trained, adata):
    expression = trained.get_normalized_expression()
    assert list(expression.index) == list(adata.obs_names)
    np.testing.assert_allclose(expression.sum(axis=1), 1, rtol=1e-4)
    scaled = trained.get_normalized_expression(library_size=1e4, gene_list=["gene_3"])
    np.testing.assert_allclose(scaled["gene_3"], 1e4 * expression["gene_3"], rtol=1e-4)
    latent = trained.get_normalized_expression(library_size="latent", return_numpy=True)
    np.testing.assert_allclose(latent.sum(axis=1), np.asarray(adata.X.sum(axis=1)).ravel(), rtol=1e-4)


@pytest.mark.slow
def test_transform_batch_moves_expression():
    adata = simulate(n_batches=2, depth=2000.0)
    model = train(make_model(adata, setup={"batch_key": "batch"}), 60)
    first, second = (model.get_normalized_expression(transform_batch=f"batch_{b}", return_numpy=True) for b in (0, 1))
    observed = model.get_normalized_expression(return_numpy=True)
    in_first = (adata.obs["batch"] == "batch_0").to_numpy()
    np.testing.assert_allclose(observed[in_first], first[in_first], rtol=1e-4)
    means = [np.asarray(adata[adata.obs["batch"] == f"batch_{b}"].X.mean(axis=0)).ravel() for b in (0, 1)]
    observed_shift, decoded_shift = np.log(means[0] / means[1]), np.log(first / second).mean(axis=0)
    assert np.corrcoef(observed_shift, decoded_shift)[0, 1] > 0.8


@pytest.mark.slow
def test_differential_expression_finds_the_markers():
    adata = simulate(n_genes=20, n_types=2, depth=2000.0)
    model = train(make_model(adata, setup={"labels_key": "cell_type"}, n_components=2), 60)
    adata.obs["cluster"] = model.get_cluster_assignments().astype(str)
    for column, groups in (("cell_type", ("type_0", "type_1")), ("cluster", ("0", "1"))):
        table = model.differential_expression(groupby=column, group1=groups[0], group2=groups[1], silent=True)
        assert set(table.index) == set(adata.var_names)
        of = [np.asarray(adata[adata.obs[column] == group].X.mean(axis=0)).ravel() for group in groups]
        truth = np.log2((of[0] + 0.1) / (of[1] + 0.1))
        changes = model.differential_expression(
            groupby=column, group1=groups[0], group2=groups[1], mode="change", silent=True
        )
        found = changes.loc[adata.var_names, "lfc_mean"]
        assert np.corrcoef(truth, found)[0, 1] > 0.9


def test_other_readers(trained, adata):
    parameters = trained.get_likelihood_parameters()
    assert parameters["mean"].shape == (150, 30)
    assert parameters["dispersions"].min() > 0
    assert trained.get_latent_library_size().shape == (150, 1)
    np.testing.assert_allclose(
        trained.get_latent_library_size().ravel(), np.asarray(adata.X.sum(axis=1)).ravel(), rtol=1e-4
    )
    correlation = trained.get_feature_correlation_matrix(n_samples=2, correlation_type="pearson")
    np.testing.assert_allclose(np.diag(correlation), 1, rtol=1e-3)
    assert trained.get_component_means().shape == (3, 4)
    hard, soft = trained.get_cluster_assignments(), trained.get_cluster_assignments(soft=True)
    np.testing.assert_array_equal(hard, soft.argmax(axis=1))
    elbo = float(trained.get_elbo())
    reconstruction = float(trained.get_reconstruction_error()["reconstruction_loss"])
    assert elbo != -reconstruction  # it adds the log prior of z


def test_log_joint_density_is_what_get_elbo_returns(trained):
    module = trained.module
    log_prior = module.prior.log_prob(module.representations.table).mean().item()
    hyper = module.weighted_hyper_log_prob(150).item() / 150
    reconstruction = float(trained.get_reconstruction_error()["reconstruction_loss"])
    np.testing.assert_allclose(float(trained.get_elbo()), -reconstruction + log_prior + hyper, rtol=1e-3)


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.get_latent_representation(dataloader=[{}]),
        lambda m: m.get_latent_representation(return_dist=True, dataloader=[{}]),
        lambda m: m.get_marginal_ll(dataloader=[{}]),
    ],
)
def test_loaders_without_names_are_refused_with_advice(trained, call):
    with pytest.raises(NotImplementedError, match="cell name"):
        call(trained)


@pytest.mark.slow
def test_components_are_recovered_on_separable_types():
    adata = simulate(400, 50, 4, depth=2000.0)
    SCDGD.setup_anndata(adata)
    model = train(SCDGD(adata, n_components=4, n_latent=5), 40)
    assert adjusted_rand_score(adata.obs["cell_type"], model.get_cluster_assignments()) > 0.95


@pytest.mark.slow
def test_batches_are_integrated():
    """Cells of one type from two batches come to lie closer than in the warm start that ignores the batch."""
    adata = simulate(400, 50, 3, n_batches=2, depth=2000.0)
    SCDGD.setup_anndata(adata, batch_key="batch")
    model = train(SCDGD(adata, n_components=3, n_latent=5), 40)
    assert adjusted_rand_score(adata.obs["cell_type"], model.get_cluster_assignments()) > 0.9
    assert adjusted_rand_score(adata.obs["batch"], model.get_cluster_assignments()) < 0.05
