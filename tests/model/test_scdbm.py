"""SCDBM: what users call, constraints, and recovery of simulated cells."""

from __future__ import annotations

import logging

import numpy as np
import pytest
import scvi
import torch
from scipy import sparse

from scdgd import presets
from scdgd.data import SparseCounts
from scdgd.model import SCDBM
from scdgd.module import Conditions
from scdgd.train import ContrastiveDivergencePlan
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


def test_new_cells_are_like_the_data(recovered):
    _, real, new = recovered
    assert np.corrcoef(np.log1p(real.mean(0)), np.log1p(new.mean(0)))[0, 1] > 0.95
    assert np.corrcoef((real == 0).mean(0), (new == 0).mean(0))[0, 1] > 0.9
    assert new.mean() == pytest.approx(real.mean(), rel=0.15)
    # independent genes have no correlations at all, and the error of that is the size of the real ones
    error, of_independent = (np.abs(correlations(real) - c).mean() for c in (correlations(new), 0))
    assert error < 0.85 * of_independent


def test_types_differ_in_representations(recovered):
    model, *_ = recovered
    q = model.get_latent_representation(layer=1)
    types = model.adata.obs["cell_type"]
    means = np.stack([q[types == t].mean(0) for t in types.cat.categories])
    assert np.ptp(means, axis=0).max() > 0.5


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
    for name in ("free_energy_train", "free_energy_validation", "free_energy_gap", "log_likelihood_train"):
        assert len(model.history[name]) == 1, name
    gap = model.history["free_energy_validation"].iloc[-1, 0] - model.history["free_energy_train"].iloc[-1, 0]
    assert model.history["free_energy_gap"].iloc[-1, 0] == pytest.approx(gap, rel=1e-5)
    weights = state_of(model)["weights.1"]
    train(model, 2, train_size=0.8)
    assert len(model.history["reconstruction_loss_train"]) == 13
    assert len(model.history["free_energy_train"]) == 3  # both epochs trained all layers
    assert not torch.equal(weights, model.module.weights[1])
    assert model.history["log_likelihood_train"].index.tolist() == [10, 12]


def test_reconstruction_in_history_is_the_public_one():
    model = train(make(n_hidden=3), 4, plan_kwargs={"lr": (0.0, 0.0, 0.0), "dispersion": "fixed"})
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
        plan_of(model)._place_units(torch.full((1, 12), -1.0))  # below all means: all weights
    evidence = 2 * module.mean_counts.mean(0) @ module.weights[0] + module.biases[0]
    torch.testing.assert_close(evidence, torch.zeros(4), atol=1e-3, rtol=0)


def test_share_of_chains_that_begin_anew():
    plan = plan_of(make(), restart_rate=0.25)
    first, second = plan._restart([torch.full((8_000, 3), 7.0), torch.full((8_000, 2), 7.0)], highest=2)
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
    monkeypatch.setattr("scdgd.model._scdbm.MAX_ENUMERATED", 1)
    annealed = model.get_marginal_ll(n_mc_samples=50, n_steps=50, seed=0)
    assert annealed != exact
    assert annealed == pytest.approx(exact, rel=0.01, abs=0.5)
    assert annealed == model.get_marginal_ll(n_mc_samples=50, n_steps=50, seed=0)


def test_bound_lies_below_the_exact_likelihood(model, monkeypatch):
    exact = model.get_marginal_ll(return_mean=False)
    monkeypatch.setattr("scdgd.model._scdbm._MAX_EVEN", -1)
    bound = model.get_marginal_ll(return_mean=False)
    assert (bound <= exact + 1e-3).all()
    assert float((exact - bound).mean()) < 2


def test_unreliable_estimates_are_warned_about(model, monkeypatch, caplog):
    monkeypatch.setattr("scdgd.model._scdbm.MAX_ENUMERATED", 1)
    monkeypatch.setattr(
        "scdgd.model._scdbm.annealed_log_partition",
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


def test_replicates_of_cells(recovered):
    model, real, _ = recovered
    replicates = model.posterior_predictive_sample(indices=range(60), n_samples=30)
    assert replicates.shape == (60, 30, 30)
    mean = replicates.todense().mean(-1)
    assert np.corrcoef(np.log1p(mean).ravel(), np.log1p(real[:60]).ravel())[0, 1] > 0.6
    some = model.posterior_predictive_sample(indices=[3, 1], gene_list=["gene_5", "gene_2"])
    assert some.shape == (2, 2)


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
        ({"lr": (1e-3,)}, "three rates"),
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
    with pytest.raises(ValueError, match="no components"):
        model.prior_predictive_sample(5, component=0)
    with pytest.raises(ValueError, match="`n_cells`"):
        model.prior_predictive_sample(0)
    with pytest.raises(ValueError, match="`n_steps`"):
        model.prior_predictive_sample(5, n_steps=0)
    with pytest.raises(ValueError, match="no batch 'x'"):
        model.prior_predictive_sample(5, batch="x")
    with pytest.raises(ValueError, match="use_library_size=True"):
        model.prior_predictive_sample(5, library_size=100)
    with pytest.raises(ValueError, match="must be positive"):
        sized.prior_predictive_sample(5, library_size=-1)
    with pytest.raises(ValueError, match="`layer` must be one of 1 ... 2"):
        model.get_latent_representation(layer=3)
    with pytest.raises(ValueError, match="gene_list"):
        model.posterior_predictive_sample(gene_list=["nope"])
    with pytest.raises(ValueError, match="early_stopping"):
        train(make(), 3, early_stopping=True)
    with pytest.raises(ValueError, match="cells of one size"):
        plan_of(sized, dispersion="fisher")
    with pytest.raises(RuntimeError, match="trained"):
        make().prior_predictive_sample(3)
