"""SCDBM: what users call, constraints, and recovery of simulated cells."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import scvi
import torch
from scipy import sparse

from scdgd import presets
from scdgd.boltzmann import ChainOptions, Conditions, ContrastiveDivergencePlan, split_rhat
from scdgd.boltzmann._gibbs_chains import _warn_of_drift
from scdgd.boltzmann._start import place_units
from scdgd.data import SparseCounts
from scdgd.model import SCDBM
from tests.conftest import simulate, state_of, train


def make(adata=None, setup: dict | None = None, **kwargs) -> SCDBM:
    adata = simulate(80, 12, n_batches=2) if adata is None else adata
    SCDBM.setup_anndata(adata, **(setup or {}))
    return SCDBM(adata, **{"n_hidden": (4, 2), "n_particles": 20, **kwargs})


@pytest.fixture(scope="module")
def model() -> SCDBM:
    """A model with two batches; tests must not change it."""
    scvi.settings.seed = 0
    return train(make(setup={"batch_key": "batch", "labels_key": "cell_type"}), 12, batch_size=40)


@pytest.fixture(scope="module")
def sized() -> SCDBM:
    """A model with library sizes, and three hidden layers."""
    scvi.settings.seed = 0
    return train(make(n_hidden=(4, 3, 2), use_library_size=True), 12, batch_size=40)


# ---------------------------------------------------------------- recovery


@pytest.fixture(scope="module")
def recovered() -> tuple:
    """300 cells of 3 types, and cells drawn from a model of them."""
    scvi.settings.seed = 0
    adata = simulate(300, 30)
    model = train(make(adata, n_hidden=(8, 4), n_particles=100), 60)
    return model, adata.X.toarray(), model.prior_predictive_sample(1_000, seed=0).X.toarray()


def correlations(counts: np.ndarray) -> np.ndarray:
    return np.corrcoef(np.log1p(counts).T)[np.triu_indices(counts.shape[1], 1)]


@pytest.mark.slow
def test_new_cells_are_like_the_data(recovered):
    _, real, new = recovered
    assert np.corrcoef(np.log1p(real.mean(0)), np.log1p(new.mean(0)))[0, 1] > 0.95
    assert np.corrcoef((real == 0).mean(0), (new == 0).mean(0))[0, 1] > 0.9
    assert new.mean() == pytest.approx(real.mean(), rel=0.15)
    # independent genes have no correlations at all, and the error of that is the size of the real ones
    error, of_independent = (np.abs(correlations(real) - c).mean() for c in (correlations(new), 0))
    assert error < 0.85 * of_independent


@pytest.mark.slow
def test_types_differ_in_representations(recovered):
    model, *_ = recovered
    q = model.get_latent_representation(layer=1)
    types = model.adata.obs["cell_type"]
    means = np.stack([q[types == t].mean(0) for t in types.cat.categories])
    assert np.ptp(means, axis=0).max() > 0.5


@pytest.mark.slow
def test_likelihood_rises_by_training(recovered):
    model, *_ = recovered
    adata = simulate(300, 30)
    barely = train(make(adata, n_hidden=(8, 4)), 3)
    assert model.get_marginal_ll() > barely.get_marginal_ll() + 2
    reconstruction = model.history["reconstruction_loss_train"].to_numpy(float)
    assert reconstruction[-1] < reconstruction[0] - 5


# ---------------------------------------------------------------- training


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
@pytest.mark.parametrize("dispersion", ["gradient", "fisher", "fixed"])
def test_constraints_hold_after_training(optimizer, dispersion):
    model = make(simulate(60, 8))
    plan = {"optimizer": optimizer, "dispersion": dispersion, "dispersion_every": 2}
    plan["lr"] = (0.5, 0.5, 0.5) if optimizer == "adam" else (0.01, 0.01, 0.01)
    train(model, 6, plan_kwargs=plan, estimate_likelihood=False)
    module = model.module
    assert (module.weights[0] <= 0).all()
    assert (module.visible.bias <= -1e-6).all()
    assert all(torch.isfinite(p).all() for p in module.parameters())
    moved = not torch.allclose(module.visible.theta, torch.full((8,), 0.5), atol=1e-6)
    assert moved == (dispersion != "fixed")


def test_stages_split_the_epochs():
    assert plan_of(make()).stage_ends(110) == [60, 100, 110]
    assert plan_of(make()).stage_ends(3) == [1, 2, 3]
    assert plan_of(make(n_hidden=5)).stage_ends(7) == [7]
    assert plan_of(make(n_hidden=(3, 3, 2))).stage_ends(150) == [60, 100, 140, 150]
    assert plan_of(make(), epoch_shares=(1, 1, 2)).stage_ends(8) == [2, 4, 8]
    with pytest.raises(ValueError, match="3 stages"):
        train(make(), 2)


def plan_of(model: SCDBM, **kwargs) -> ContrastiveDivergencePlan:
    return ContrastiveDivergencePlan(model.module, **kwargs)


def test_history_and_a_second_training(caplog):
    model = train(make(n_hidden=(3, 2)), 11, train_size=0.8)
    assert len(model.history["reconstruction_loss_train"]) == 11
    for name in ("free_energy_train", "free_energy_validation", "free_energy_gap"):
        assert len(model.history[name]) == 11, name
    assert len(model.history["log_likelihood_train"]) == 1
    gap = model.history["free_energy_validation"].iloc[-1, 0] - model.history["free_energy_train"].iloc[-1, 0]
    assert model.history["free_energy_gap"].iloc[-1, 0] == pytest.approx(gap, rel=1e-5)
    weights = state_of(model)["weights.1"]
    train(model, 2, train_size=0.8)
    assert len(model.history["reconstruction_loss_train"]) == 13
    assert not torch.equal(weights, model.module.weights[1])
    assert model.history["log_likelihood_train"].index.tolist() == [10, 12]


def test_reconstruction_in_history_is_the_public_one():
    model = train(make(n_hidden=3), 4, plan_kwargs={"lr": (0.0,) * 3, "dispersion": "fixed", "sum_states": False})
    assert model.history["reconstruction_loss_train"].iloc[-1, 0] == pytest.approx(
        model.get_reconstruction_error()["reconstruction_loss"], rel=1e-5
    )


def test_same_seed_same_result():
    results = []
    for _ in range(2):
        scvi.settings.seed = 3
        trained = train(make(), 6, estimate_likelihood=False)
        results.append((trained.get_latent_representation(), trained.prior_predictive_sample(20, seed=1).X.toarray()))
    for first, second in zip(*results, strict=True):
        np.testing.assert_array_equal(first, second)


def test_divergence_is_reported():
    with pytest.raises(FloatingPointError, match="Lower `lr`"):
        train(make(), 6, plan_kwargs={"optimizer": "sgd", "lr": (1e38, 1e38, 1e38)})


def test_published_settings():
    preset = presets.TREPPNER_2021
    assert preset["model"] == {"n_hidden": (4, 2), "theta": 0.5, "n_particles": 100}
    assert preset["train"]["max_epochs"] == 110
    assert preset["train"]["batch_size"] == 64
    plan = preset["train"]["plan_kwargs"]
    assert plan["lr"][0] == ((1e-11, 3_500), (5e-5, 1_000), (1e-5, 10_000))
    assert plan["lr"][1:] == (1e-11, 1e-11)
    assert plan["epoch_shares"] == (60, 40, 10)
    assert (plan["n_gibbs_steps"], plan["joint_update"]) == ((1, 5), "epoch")
    assert (plan["dispersion"], plan["dispersion_every"], plan["dispersion_penalty"]) == ("fisher", 5, 1.0)
    model = make(simulate(40, 6), **preset["model"])
    assert (model.module.weights[0] < -0.0005).all()
    assert (model.module.weights[0] > -0.002).all()
    train(model, **(preset["train"] | {"max_epochs": 12}))
    assert model.is_trained


def test_means_are_bounded_by_the_largest_counts():
    adata = simulate(60, 8)
    model = train(make(adata), 11, estimate_likelihood=False, plan_kwargs={"lr": (0.5, 0.5, 0.5)})
    visible = model.module.visible
    means = visible.mean(visible.bias, torch.ones(1)).detach()
    largest = torch.as_tensor(adata.X.toarray().max(0))
    assert (means <= largest * 1.01).all()
    unbounded = train(make(adata), 3, estimate_likelihood=False, plan_kwargs={"bound_means": False})
    assert torch.isinf(unbounded.module.visible.largest_mean).all()


def test_rates_by_number_of_updates():
    plan = plan_of(make(), lr=(((0.1, 2), (0.2, 3), (0.3, 1)), 1e-3, 1.0))
    plan._stage, rates = 0, []
    for plan._n_updates in range(8):
        rates.append(plan._rate())
    assert rates == [0.1, 0.1, 0.2, 0.2, 0.2, 0.3, 0.3, 0.3]


def test_start_has_the_means_of_each_batch():
    adata = simulate(80, 12, n_batches=2)
    model = make(adata, setup={"batch_key": "batch"})
    train(model, 3, estimate_likelihood=False, plan_kwargs={"lr": (0.0, 0.0, 0.0), "optimizer": "sgd"})
    given = Conditions(torch.arange(2), torch.ones(2))
    visible = model.module.visible
    means = visible.mean(visible.natural(torch.zeros(2, 12), given.batch), given.size).detach().numpy()
    for code in range(2):
        counts = adata.X[(adata.obs["batch"] == f"batch_{code}").to_numpy()].toarray()
        np.testing.assert_allclose(means[code], np.maximum(counts.sum(0), 0.5) / len(counts), rtol=1e-3)


def test_units_start_apart_and_on_the_fence():
    model = train(make(n_hidden=(4, 2)), 3, estimate_likelihood=False, plan_kwargs={"lr": (0.0, 0.0, 0.0)})
    module = model.module
    assert (module.weights[0] <= 0).all()
    assert len(torch.unique(module.weights[0] < 0, dim=1).T) == 4
    with torch.no_grad():
        place_units(module, torch.full((1, 12), -1.0), n_copies=2)  # below all means: all weights
    evidence = 2 * module.mean_counts.mean(0) @ module.weights[0] + module.biases[0]
    torch.testing.assert_close(evidence, torch.zeros(4), atol=1e-3, rtol=0)


def test_share_of_chains_that_begin_anew():
    chains = ChainOptions(1, True, restart_rate=0.25)
    first, second = chains.restart([torch.full((8_000, 3), 7.0), torch.full((8_000, 2), 7.0)], highest=2)
    anew = (first != 7).all(1)
    assert torch.equal(anew, (second != 7).all(1))
    assert torch.equal(anew, (first != 7).any(1))
    assert anew.float().mean().item() == pytest.approx(0.25, abs=0.02)
    assert set(first[anew].ravel().tolist()) == {0.0, 1.0, 2.0}


# ---------------------------------------------------------------- reading


def test_representations(model):
    q = model.get_latent_representation()
    assert q.shape == (80, 2)
    assert ((q >= 0) & (q <= 1)).all()
    np.testing.assert_allclose(q, model.get_latent_representation(batch_size=7), atol=1e-5)
    np.testing.assert_allclose(model.get_latent_representation(indices=[9, 2]), q[[9, 2]], atol=1e-5)
    mean, variance = model.get_latent_representation(return_dist=True)
    np.testing.assert_array_equal(mean, q)
    np.testing.assert_allclose(variance, q * (1 - q))
    assert model.get_latent_representation(layer=1).shape == (80, 4)
    assert set(np.unique(model.get_latent_representation(give_mean=False))) <= {0.0, 1.0}


@pytest.mark.parametrize("n_hidden", [3, (3, 2)])
def test_likelihood_sums_to_one_over_counts(n_hidden):
    """All counts of one gene, in batches of their own."""
    adata = simulate(60, 1, n_batches=2, depth=4.0)
    model = train(make(adata, {"batch_key": "batch"}, n_hidden=n_hidden), 6, estimate_likelihood=False)
    module, n = model.module.double(), 20_000
    counts = SparseCounts.from_dense(torch.arange(n, dtype=torch.float64).unsqueeze(1))
    tables = []
    for code in range(2):
        given = Conditions(torch.full((n,), code), torch.ones(n, dtype=torch.float64))
        tables.append(module.log_unnormalised(counts, given) - module.log_partition(given))
        assert tables[-1].exp().sum().item() == pytest.approx(1, abs=1e-6)
    module.float()
    codes = adata.obs["batch"].cat.codes.to_numpy()
    x = adata.X.toarray().ravel().astype(int)
    expected = [tables[code][count].item() for code, count in zip(codes, x, strict=True)]
    np.testing.assert_allclose(model.get_marginal_ll(return_mean=False), expected, atol=1e-3)


@pytest.mark.parametrize("which", ["model", "sized"])
def test_annealed_likelihood_agrees_with_the_exact_one(which, request, monkeypatch):
    model = request.getfixturevalue(which)
    exact = model.get_marginal_ll()
    monkeypatch.setattr("scdgd.boltzmann._mean_field_posterior.MAX_ENUMERATED", 1)
    annealed = model.get_marginal_ll(n_mc_samples=50, n_steps=50, seed=0)
    assert annealed != exact
    assert annealed == pytest.approx(exact, rel=0.01, abs=0.5)
    assert annealed == model.get_marginal_ll(n_mc_samples=50, n_steps=50, seed=0)


def test_bound_lies_below_the_exact_likelihood(model, monkeypatch):
    exact = model.get_marginal_ll(return_mean=False)
    monkeypatch.setattr("scdgd.boltzmann._boltzmann_model._MAX_EVEN", -1)
    bound = model.get_marginal_ll(return_mean=False)
    assert (bound <= exact + 1e-3).all()
    assert float((exact - bound).mean()) < 2


def test_unreliable_estimates_are_warned_about(model, monkeypatch, caplog):
    monkeypatch.setattr("scdgd.boltzmann._mean_field_posterior.MAX_ENUMERATED", 1)
    monkeypatch.setattr(
        "scdgd.boltzmann._annealed_importance.annealed_log_partition",
        lambda *a, **k: type("E", (), {"value": 0.0, "effective_samples": 2}),
    )
    with caplog.at_level(logging.WARNING):
        model.get_marginal_ll()
    assert "2.0 of 100 chains" in caplog.text


# ---------------------------------------------------------------- sampling


def test_synthetic_cells(model):
    samples = model.prior_predictive_sample(50, seed=0)
    assert samples.shape == (50, 12)
    assert sparse.isspmatrix_csr(samples.X)
    assert (samples.X.data == np.rint(samples.X.data)).all()
    assert samples.obsm["X_scdbm"].shape == (50, 2)
    assert set(samples.obs["batch"]) == {"batch_0", "batch_1"}
    assert samples.var_names.tolist() == model.adata.var_names.tolist()
    assert samples.uns["gibbs_log_joint"].shape == (50,)
    again = model.prior_predictive_sample(50, seed=0)
    np.testing.assert_array_equal(samples.X.toarray(), again.X.toarray())
    assert set(model.prior_predictive_sample(20, batch="batch_1").obs["batch"]) == {"batch_1"}
    blocks = model.prior_predictive_sample(60, n_steps=3, collapse=False, batch_size=25, seed=0)
    assert blocks.shape == (60, 12)


def test_sampling_does_not_change_the_seed_outside(model):
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    model.prior_predictive_sample(3, seed=0)
    assert torch.equal(torch.rand(1), expected)


def test_batches_differ_as_in_the_data(model):
    counts, batches = model.adata.X.toarray(), model.adata.obs["batch"].to_numpy()
    samples = model.prior_predictive_sample(2_000, seed=0)
    new, of_new = samples.X.toarray(), samples.obs["batch"].to_numpy()
    real_ratio, new_ratio = (
        np.log(x[b == "batch_0"].mean(0) + 0.1) - np.log(x[b == "batch_1"].mean(0) + 0.1)
        for x, b in ((counts, batches), (new, of_new))
    )
    assert np.corrcoef(real_ratio, new_ratio)[0, 1] > 0.9


def test_library_size_scales_cells(sized):
    means = [sized.prior_predictive_sample(500, library_size=size, seed=0).X.sum() / 500 for size in (150, 600)]
    assert means[1] / means[0] == pytest.approx(4, rel=0.35)
    borrowed = sized.prior_predictive_sample(500, seed=0).X.sum() / 500
    assert borrowed == pytest.approx(sized.adata.X.sum() / 80, rel=0.35)


@pytest.mark.slow
def test_replicates_of_cells(recovered):
    model, real, _ = recovered
    replicates = model.posterior_predictive_sample(indices=range(60), n_samples=30)
    assert replicates.shape == (60, 30, 30)
    mean = replicates.todense().mean(-1)
    assert np.corrcoef(np.log1p(mean).ravel(), np.log1p(real[:60]).ravel())[0, 1] > 0.6
    some = model.posterior_predictive_sample(indices=[3, 1], gene_list=["gene_5", "gene_2"])
    assert some.shape == (2, 2)


def test_diagnostics_of_chains(model, tmp_path):
    samples = model.prior_predictive_sample(300, seed=0, n_steps=40, batch_size=200)
    assert samples.uns["gibbs_total"].shape == (40,)
    assert set(samples.uns["gibbs_rhat"]) == {"log_joint", "log_total", "h1", "h2"}
    assert samples.uns["gibbs_rhat"]["log_total"] < 1.3
    expected = samples.X.sum() / 300
    assert samples.uns["gibbs_total"][-1] == pytest.approx(expected, rel=0.05)  # of the same states
    samples.write_h5ad(tmp_path / "samples.h5ad")
    assert model.prior_predictive_sample(3, seed=0, n_steps=3).uns["gibbs_rhat"] == {}
    exact = model.prior_predictive_sample(2_000, seed=0, exact=True)
    assert exact.uns["gibbs_log_joint"].shape == (1,)
    many = model.prior_predictive_sample(2_000, seed=0)
    assert many.uns["gibbs_total"][-1] == pytest.approx(exact.uns["gibbs_total"][0], rel=0.1)
    assert many.uns["gibbs_log_joint"][-1] == pytest.approx(exact.uns["gibbs_log_joint"][0], abs=1)


def test_split_rhat_tells_stuck_chains():
    torch.manual_seed(0)
    mixed = torch.randn(50, 20, 1)
    assert split_rhat(mixed) == pytest.approx(1, abs=0.02)
    apart = mixed + 3 * torch.randn(1, 20, 1)
    # between-chain variance 9, within 1
    assert split_rhat(apart) == pytest.approx(10**0.5, rel=0.3)
    assert split_rhat(torch.cat([mixed, apart], 2)) == split_rhat(apart)
    drifting = mixed + torch.linspace(0, 5, 50)[:, None, None]  # halves of a chain are 2.5 apart
    assert split_rhat(drifting) > 1.3
    assert np.isnan(split_rhat(torch.zeros(50, 20, 1)))


def test_chains_that_still_move_are_reported(caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("scdgd"), "propagate", True)
    with caplog.at_level(logging.WARNING):
        _warn_of_drift(100 + 20 * torch.randn(20, 200))
    assert "burnt in" not in caplog.text
    totals = torch.linspace(100, 130, 20).unsqueeze(1) + torch.randn(20, 200)
    with caplog.at_level(logging.WARNING):
        _warn_of_drift(totals)
    assert "still change by 15%" in caplog.text


def test_components_are_patterns_of_the_top(model):
    clusters = model.get_cluster_assignments()
    q = model.get_latent_representation()
    np.testing.assert_array_equal(clusters, (q[:, 0] > 0.5) + 2 * (q[:, 1] > 0.5))
    soft = model.get_cluster_assignments(soft=True)
    assert soft.shape == (80, 4)
    np.testing.assert_allclose(soft.sum(1), 1, rtol=1e-5)
    np.testing.assert_allclose(soft[:, 2], (1 - q[:, 0]) * q[:, 1], rtol=1e-5)
    np.testing.assert_array_equal(soft.argmax(1), clusters)
    samples = model.prior_predictive_sample(20, component=2, seed=0)
    np.testing.assert_array_equal(samples.obsm["X_scdbm"], np.tile([0.0, 1.0], (20, 1)))
    assert set(samples.obs["component"]) == {"2"}
    wide = train(make(n_hidden=(4, 17)), 3, estimate_likelihood=False)
    with pytest.raises(ValueError, match="2\\^17 states"):
        wide.get_cluster_assignments()
    assert "component" not in wide.prior_predictive_sample(3, seed=0).obs


# ---------------------------------------------------------------- fixed genes


def test_conditional_cells(model):
    panel = simulate(6, 12, n_batches=2, seed=3)
    panel = panel[:, ["gene_7", "gene_2", "gene_5"]].copy()
    cells = model.conditional_sample(panel, n_samples=50, seed=0)
    assert cells.shape == (300, 12)
    assert cells.var["fixed"].tolist() == [name in ("gene_2", "gene_5", "gene_7") for name in cells.var_names]
    source = panel[cells.obs["source_cell"].astype(str)]
    for gene in panel.var_names:
        np.testing.assert_array_equal(cells[:, gene].X.toarray(), source[:, gene].X.toarray())
    np.testing.assert_array_equal(cells.obs["batch"].astype(str), source.obs["batch"].astype(str))
    assert cells.obs["source_cell"].tolist() == np.repeat(panel.obs_names, 50).tolist()
    # any storage, any order, as a view, and with other genes beside
    whole = simulate(6, 12, n_batches=2, seed=3)
    for given in (whole[:, ::-1], sparse.csc_matrix(whole.X), sparse.csr_array(whole.X), whole.X.toarray()):
        given = given if hasattr(given, "obs") else type(whole)(given, whole.obs, whole.var)
        again = model.conditional_sample(given, list(panel.var_names), n_samples=50, seed=0)
        np.testing.assert_array_equal(again.X.toarray(), cells.X.toarray())


@pytest.mark.slow
def test_fixed_genes_tell_of_the_others(recovered):
    """Counts of half of the genes predict the other half better than the mean does."""
    model, real, _ = recovered
    adata = simulate(300, 30)
    known = [f"gene_{j}" for j in range(15)]
    cells = model.conditional_sample(adata[:100], known, n_samples=20, seed=0)
    mean = cells.X.toarray().reshape(100, 20, 30).mean(1)[:, 15:]
    truth = real[:100, 15:]
    error, of_mean = (np.square(np.log1p(x) - np.log1p(truth)).mean() for x in (mean, real[:, 15:].mean(0)))
    assert error < 0.7 * of_mean
    exact = model.conditional_sample(adata[:100], known, n_samples=20, seed=0, exact=True).X.toarray()
    np.testing.assert_allclose(exact.mean(), cells.X.mean(), rtol=0.1)


def test_sizes_of_conditional_cells(sized):
    panel = simulate(5, 12)[:, :4]
    with pytest.raises(ValueError, match="`library_size`"):
        sized.conditional_sample(panel)
    totals = [sized.conditional_sample(panel, library_size=n, n_samples=200, seed=0).X.sum() for n in (150, 600)]
    assert totals[1] > 2 * totals[0]


def test_what_cannot_be_fixed(model):
    adata = simulate(6, 12, n_batches=2)
    for wrong, options, match in (
        (adata, {"genes": ["gene_1", "nope"]}, r"\['nope'\] are not among the genes of the model"),
        (adata[:, :3], {"genes": ["gene_9"]}, r"\['gene_9'\] are not among the genes of `counts`"),
        (adata, {}, "12 of 12 genes are fixed"),
        (adata, {"genes": []}, "`genes` is empty"),
        (adata[:, :3], {"library_size": 100}, "use_library_size=True"),
        (adata[:, :3], {"n_samples": 0}, "`n_samples`"),
    ):
        with pytest.raises(ValueError, match=match):
            model.conditional_sample(wrong, **options)
    for value in (-1.0, 0.5, np.nan):
        panel = adata[:, :3].copy()
        panel.X[2, 1] = value
        with pytest.raises(ValueError, match="cell cell_2, gene gene_1"):
            model.conditional_sample(panel)
    panel = adata[:, :3].copy()
    panel.obs["batch"] = "other"
    with pytest.raises(ValueError, match=r"not \['other'\]"):
        model.conditional_sample(panel)
    del panel.obs["batch"]
    with pytest.raises(ValueError, match="needs the column 'batch'"):
        model.conditional_sample(panel)


# ---------------------------------------------------------------- scvi-tools' methods


def test_expression_is_the_mean_of_counts(model):
    """By hand from parameters of the first three cells."""
    module, q = model.module, model.get_latent_representation(indices=[0, 1, 2], layer=1)
    codes = model.adata.obs["batch"].cat.codes.to_numpy()[:3]
    a = module.visible.bias.detach().numpy()[codes] + q @ module.weights[0].detach().numpy().T
    mean = np.exp(a) / (1 - np.exp(a)) * np.exp(module.visible.log_theta.detach().numpy())
    found = model.get_normalized_expression(indices=[0, 1, 2], library_size="latent")
    np.testing.assert_allclose(found, mean, rtol=1e-4)
    assert found.columns.tolist() == model.adata.var_names.tolist()
    shares = model.get_normalized_expression(indices=[0, 1, 2])
    np.testing.assert_allclose(shares, mean / mean.sum(1, keepdims=True), rtol=1e-4)
    parameters = model.get_likelihood_parameters(indices=[0, 1, 2])
    np.testing.assert_allclose(parameters["mean"], mean, rtol=1e-4)
    theta = module.visible.theta.detach().numpy()
    np.testing.assert_allclose(parameters["dispersions"], np.tile(theta, (3, 1)), rtol=1e-5)
    draws = model.get_normalized_expression(indices=[0, 1], n_samples=7, return_mean=False)
    assert draws.shape == (7, 2, 12)
    other = model.get_normalized_expression(indices=[0], transform_batch="batch_1", library_size="latent")
    a = module.visible.bias.detach().numpy()[1] + q[:1] @ module.weights[0].detach().numpy().T
    np.testing.assert_allclose(other, np.exp(a) / (1 - np.exp(a)) * theta, rtol=1e-4)
    with pytest.raises(ValueError, match="weights='uniform'"):
        model.get_normalized_expression(weights="importance")


def test_sizes_scale_expression_and_dispersions(sized):
    parameters = sized.get_likelihood_parameters()
    size = sized.adata.X.sum(1) / sized.adata.X.sum() * 80
    theta = sized.module.visible.theta.detach().numpy()
    np.testing.assert_allclose(parameters["dispersions"], np.asarray(size) * theta, rtol=1e-4)
    assert parameters["mean"].sum(1) == pytest.approx(np.asarray(sized.adata.X.sum(1)).ravel(), rel=0.6)


@pytest.mark.slow
def test_differential_expression_finds_the_genes_that_differ(recovered):
    model, *_ = recovered
    adata = simulate(300, 30)
    found = model.differential_expression(adata, "cell_type", "type_0", "type_1", silent=True, mode="change")
    means = np.log1p([adata.X[(adata.obs["cell_type"] == f"type_{t}").to_numpy()].mean(0).A1 for t in range(2)])
    expected = np.sign(means[0] - means[1])[adata.var_names.get_indexer(found.index[:5])]
    np.testing.assert_array_equal(np.sign(found["lfc_mean"][:5]), expected)


@pytest.mark.slow
def test_correlations_of_genes(recovered):
    model, real, _ = recovered
    matrix = model.get_feature_correlation_matrix(n_samples=5, correlation_type="pearson")
    assert matrix.shape == (30, 30)
    off = np.triu_indices(30, 1)
    assert np.corrcoef(matrix.to_numpy()[off], np.corrcoef(real.T)[off])[0, 1] > 0.6


def test_bound_is_a_bound(model):
    elbo, exact = model.get_elbo(return_mean=False), model.get_marginal_ll(return_mean=False)
    assert (elbo <= exact + 1e-3).all()
    assert model.get_elbo() == pytest.approx(float(elbo.mean()))
    assert float((exact - elbo).mean()) < 2


def test_queries_are_refused_with_the_way_to_go():
    with pytest.raises(NotImplementedError, match=r"get_latent_representation\(adata\)"):
        SCDBM.load_query_data()


# ---------------------------------------------------------------- life cycle


def test_save_and_load(model, tmp_path):
    model.save(tmp_path / "m", overwrite=True)
    permuted = model.adata[np.random.default_rng(0).permutation(80)].copy()
    loaded = SCDBM.load(tmp_path / "m", permuted)
    position = model.adata.obs_names.get_indexer(permuted.obs_names)
    np.testing.assert_allclose(
        loaded.get_latent_representation(), model.get_latent_representation()[position], atol=1e-5
    )
    np.testing.assert_array_equal(
        loaded.prior_predictive_sample(9, seed=2).X.toarray(), model.prior_predictive_sample(9, seed=2).X.toarray()
    )
    without = SCDBM.load(tmp_path / "m", adata=False)
    assert without.prior_predictive_sample(5, seed=0).shape == (5, 12)


def test_sizes_survive_saving(sized, tmp_path):
    sized.save(tmp_path / "m", overwrite=True)
    some = sized.adata[:10].copy()
    loaded = SCDBM.load(tmp_path / "m", some)
    np.testing.assert_allclose(
        loaded.get_reconstruction_error(return_mean=False)["reconstruction_loss"],
        sized.get_reconstruction_error(return_mean=False)["reconstruction_loss"][:10],
        rtol=1e-5,
    )


# ---------------------------------------------------------------- errors


def test_registration_refuses_what_has_no_place():
    adata = simulate(40, 6)
    with pytest.raises(ValueError, match=r"covariates \['donor', 'age'\]"):
        SCDBM.setup_anndata(adata, categorical_covariate_keys=["donor"], continuous_covariate_keys=["age"])
    with pytest.raises(ValueError, match="use_library_size=True"):
        make(adata, {"size_factor_key": "size"})
    assert make(adata, {"size_factor_key": "size"}, use_library_size=True).module.uses_size
    adata.X = adata.X * 0.5
    with pytest.raises(ValueError, match="not integer"):
        SCDBM.setup_anndata(adata)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"n_hidden": ()}, "n_hidden"),
        ({"n_hidden": (4, 0)}, "n_hidden"),
        ({"theta": 0.0}, "theta"),
        ({"n_particles": 0}, "n_particles"),
    ],
)
def test_impossible_models(options, match):
    with pytest.raises(ValueError, match=match):
        make(**options)


@pytest.mark.parametrize(
    ("plan", "match"),
    [
        ({"optimizer": "lbfgs"}, "'adam', 'sgd'"),
        ({"dispersion": "none"}, "'gradient', 'fisher', 'fixed'"),
        ({"lr": (1e-3,)}, "a rate, or three"),
        ({"epoch_shares": (1, 2)}, "3 positive numbers"),
        ({"n_gibbs_steps": (0, 5)}, "n_gibbs_steps"),
        ({"dispersion_penalty": -1.0}, "dispersion_penalty"),
        ({"restart_rate": 1.5}, "restart_rate"),
    ],
)
def test_impossible_plans(plan, match):
    with pytest.raises(ValueError, match=match):
        plan_of(make(), **plan)


def test_other_errors(model, sized):
    with pytest.raises(
        ValueError, match="`component` must be one of 0 ... 3, the patterns of the topmost layer, got 4"
    ):
        model.prior_predictive_sample(5, component=4)
    with pytest.raises(ValueError, match="`n_cells`"):
        model.prior_predictive_sample(0)
    with pytest.raises(ValueError, match="`n_steps`"):
        model.prior_predictive_sample(5, n_steps=0)
    with pytest.raises(ValueError, match="no batch 'x'"):
        model.prior_predictive_sample(5, batch="x")
    with pytest.raises(ValueError, match="use_library_size=True"):
        model.prior_predictive_sample(5, library_size=100)
    with pytest.raises(ValueError, match="must be a positive number"):
        sized.prior_predictive_sample(5, library_size=-1)
    with pytest.raises(ValueError, match="`layer` must be one of 1 ... 2"):
        model.get_latent_representation(layer=3)
    with pytest.raises(ValueError, match="gene_list"):
        model.posterior_predictive_sample(gene_list=["nope"])
    with pytest.raises(ValueError, match="early_stopping"):
        train(make(), 3, early_stopping=True)
    with pytest.raises(RuntimeError, match="trained"):
        make().prior_predictive_sample(3)


def test_training_without_a_logger_has_no_history():
    adata = simulate(60, 8)
    SCDBM.setup_anndata(adata)
    model = SCDBM(adata, n_hidden=(3, 2))
    model.train(11, logger=False, accelerator="cpu", enable_progress_bar=False)
    assert "log_likelihood_train" not in (model.history or {})
    assert model.get_latent_representation().shape == (60, 2)
