"""Experiments on donors: moments and power against draws, budgets, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy import sparse, stats

from scdgd.design import ConditionEffect, Costs, FindType, MarkerPower, StableClusters, plan
from scdgd.design._donor_power import DonorVariation, mean_power, power_of_t_test
from tests.conftest import simulate


def drawn(n_donors: int, n_cells: int, mean: np.ndarray, phi: float, psi: float, rng, fold=None) -> np.ndarray:
    """Counts ``(donors * cells, g)`` of the model of :class:`DonorVariation`, with sizes of which E s^2 is 1.25 (E s)^2."""
    u = rng.gamma(1 / psi, psi, (n_donors, 1, len(mean))) * (1.0 if fold is None else fold)
    s = rng.choice([0.5, 1.5], (n_donors, n_cells, 1))
    rate = s * mean * u * rng.gamma(1 / phi, phi, (n_donors, n_cells, len(mean)))
    return rng.poisson(rate).reshape(-1, len(mean)), s.ravel()


@pytest.fixture(scope="module")
def donors() -> AnnData:
    """Cells of 8 donors in two conditions, 300 genes."""
    rng = np.random.default_rng(0)
    counts, _ = drawn(8, 30, np.geomspace(0.2, 5, 300), 0.5, 0.05, rng)
    obs = pd.DataFrame({"donor": [f"d{d}" for d in np.repeat(range(8), 30)]}, index=[f"c{i}" for i in range(240)])
    obs["condition"] = np.where(np.repeat(range(8), 30) < 4, "a", "b")
    obs["kind"] = np.where(np.arange(240) % 3 == 0, "rare", "common")
    return AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs=obs)


def test_moments_are_those_of_the_draws():
    rng, mean = np.random.default_rng(1), np.full(400, 3.0)
    counts, sizes = drawn(40, 50, mean, 0.4, 0.1, rng)
    found = DonorVariation.of(sparse.csr_matrix(counts), sizes, np.repeat(range(40), 50), np.zeros(40, int))
    assert found.mean.mean() == pytest.approx(3.0, rel=0.02)
    assert found.between_cells.mean() == pytest.approx(0.4, rel=0.05)
    assert found.between_donors.mean() == pytest.approx(0.1, rel=0.05)
    assert found.size_ratio == pytest.approx(1.25, rel=0.02)
    shifted = np.where(np.arange(40) < 20, 1, 4)  # a difference of conditions is not one of donors
    counts[: 20 * 50] = drawn(20, 50, mean / 4, 0.4, 0.1, rng)[0]
    within = DonorVariation.of(sparse.csr_matrix(counts), sizes, np.repeat(range(40), 50), shifted)
    assert within.between_donors.mean() < 0.2


@pytest.mark.parametrize("df", [2, 4, 30])
@pytest.mark.parametrize("level", [0.05, 1e-3])
def test_power_is_that_of_the_noncentral_t(df, level):
    shift = np.array([0.5, 2.0, 5.0])
    expected = stats.nct.sf(stats.t.isf(level / 2, df), df, shift)
    np.testing.assert_allclose(power_of_t_test(shift, df, np.array([level])), expected, atol=1e-3)


@pytest.mark.slow
def test_predicted_power_is_that_of_experiments():
    """A t-test of logs of summed counts, by Benjamini & Hochberg, of genes of which a tenth changes twofold."""
    rng, mean, power = np.random.default_rng(2), np.geomspace(0.5, 5, 500), []
    for _ in range(40):
        fold = np.where(np.arange(500) % 10 == 0, 2.0 ** rng.choice([-0.5, 0.5], 500), 1.0)
        logs = []
        for f in (fold, 1 / fold):
            counts, sizes = drawn(6, 25, mean, 0.5, 0.05, rng, f)
            logs.append(np.log((counts.reshape(6, 25, -1).sum(1) + 0.5) / sizes.reshape(6, 25).sum(1)[:, None]))
        p = stats.ttest_ind(*logs).pvalue
        power.append((stats.false_discovery_control(p) <= 0.05)[fold != 1].mean())
    truth = DonorVariation(mean, np.full(500, 0.5), np.full(500, 0.05), 1.25)
    options = {"fold_change": 2.0, "fdr": 0.05, "share_changed": 0.1}
    predicted = mean_power(truth, np.array([6.0]), np.array([[25.0]]), np.array([1.0]), **options)
    assert predicted[0] == pytest.approx(np.mean(power), abs=0.06)


def test_more_donors_cells_and_depth_call_more():
    truth = DonorVariation(np.geomspace(0.1, 5, 100), np.full(100, 0.5), np.full(100, 0.05), 1.2)
    options = {"fold_change": 2.0, "fdr": 0.05, "share_changed": 0.05}
    base, more_donors, more_cells, deeper = mean_power(
        truth, np.array([8.0, 16, 8, 8]), np.array([[50.0], [50], [200], [50]]), np.array([1.0, 1, 1, 4]), **options
    )
    assert base < min(more_donors, more_cells, deeper)
    endless = mean_power(truth, np.array([8.0, 16]), np.full((2, 1), 1e9), np.ones(2), **options)
    assert more_cells < endless[0] < endless[1]  # cells without end do not stand for donors


def test_a_plan_of_donors(donors):
    target = ConditionEffect("common", fold_change=2.0, share_changed=0.1)
    found = plan(donors, target, groups="kind", donors="donor", conditions="condition", costs=Costs(cell=1, sample=100))
    assert found.table["estimate"].is_monotonic_increasing
    assert ((found.table["lower"] <= found.table["estimate"]) & (found.table["estimate"] <= found.table["upper"])).all()
    row = found.table[found.table["estimate"] >= 0.8].iloc[0]
    assert (found.n_donors, found.cells_per_sample, found.cost) == (row["n_donors"], 30, row["cost"])
    assert row["cost"] == 2 * row["n_donors"] * (100 + 30)
    for text in ("8 donors of the pilot", "in each condition", "2-fold in 'common'"):
        assert text in found.sentence, text
    assert found.sentence.split()[0] in str(found)
    assert "<table" in found._repr_html_()
    assert found.plot().get_xlabel() == "donors in each condition"
    few = plan(donors, target, groups="kind", donors="donor", n_donors=[2, 3])
    assert math.isinf(few.n_donors)
    assert "and not 80%" in few.sentence


def test_a_budget_is_spent_on_the_best_design(donors):
    target, costs = ConditionEffect(fold_change=1.5), Costs(cell=0.5, sample=50, sequencing=0.5)
    found = plan(donors, target, donors="donor", costs=costs, budget=5_000)
    assert (found.table["cost"] <= 5_000 * (1 + 1e-9)).all()
    assert found.table["depth"].between(0.1, 3).all()
    best = found.table.loc[found.table["estimate"].idxmax()]
    assert (found.n_donors, found.cells_per_sample, found.depth) == tuple(
        best[["n_donors", "cells_per_sample", "depth"]]
    )
    fixed = plan(donors, target, donors="donor", costs=costs, budget=5_000, cells_per_sample=100)
    assert set(fixed.table["cells_per_sample"]) == {100}
    assert fixed.table["estimate"].max() <= best["estimate"] + 0.02
    more = plan(donors, target, donors="donor", costs=costs, budget=10_000)
    assert more.table["estimate"].max() > best["estimate"]


def test_a_budget_of_cells(donors):
    found = plan(donors, FindType("rare"), groups="kind", costs=Costs(cell=2, sample=100), n_donors=3, budget=1_000)
    assert found.affordable["n"] == 350
    assert found.affordable["cost"] == pytest.approx(1_000)
    assert found.affordable["estimate"] == pytest.approx(350 / 3, abs=5)
    assert "A budget of 1,000 pays 350 further cells" in found.sentence
    alone = plan(donors, FindType("rare"), groups="kind")
    assert (found.n_cells, found.n_lower, found.n_upper) == (alone.n_cells, alone.n_lower, alone.n_upper)


def test_a_shallower_experiment_calls_fewer_markers():
    pilot = simulate(200, n_types=2, n_genes=60, depth=150.0)
    target, options = MarkerPower("type_0", "type_1"), {"groups": "cell_type", "sizes": [60], "show_progress": False}
    full, half = (plan(pilot, target, depth=depth, **options).table["estimate"][0] for depth in (1, 0.3))
    assert half < full


@pytest.mark.parametrize(
    ("target", "options", "kind", "pattern"),
    [
        (ConditionEffect(), {}, ValueError, r"donors as replicates.*`donors=`.*'condition'"),
        (ConditionEffect(), {"donors": "none"}, KeyError, "`donors` names a column.*no 'none'"),
        (ConditionEffect("none"), {"donors": "donor", "groups": "kind"}, ValueError, "no group 'none'"),
        (ConditionEffect(), {"donors": "condition"}, ValueError, "at least 3 of them.*has 2"),
        (ConditionEffect(), {"donors": "donor", "conditions": "kind"}, ValueError, "'d0' has cells of several"),
        (ConditionEffect(), {"donors": "donor", "n_donors": 1}, ValueError, "at least 2 donors"),
        (ConditionEffect(), {"donors": "donor", "budget": 10}, ValueError, r"depends on `costs`"),
        (
            ConditionEffect(),
            {"donors": "donor", "budget": 10, "costs": Costs(cell=1, sample=9)},
            ValueError,
            "does not pay 4 samples",
        ),
        (FindType(), {"groups": "kind", "budget": 10, "costs": Costs(sample=1)}, ValueError, "Cells cost nothing"),
        (
            FindType(),
            {"groups": "kind", "budget": 10, "costs": Costs(cell=1, sample=10)},
            ValueError,
            "does not pay a cell",
        ),
        (StableClusters(), {"depth": 2.0}, ValueError, "at 2 times its depth.*at most 1"),
        (StableClusters(), {"depth": 1e-4}, ValueError, "would have no count"),
    ],
)
def test_what_cannot_be_planned_is_refused(donors, target, options, kind, pattern):
    with pytest.raises(kind, match=pattern):
        plan(donors, target, **options)


@pytest.mark.parametrize("options", [{"fold_change": 1.0}, {"power": 1.0}, {"share_changed": 0.0}])
def test_targets_out_of_range(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        ConditionEffect(**options)


def test_costs():
    assert Costs(cell=1, sample=10, sequencing=2).of(3, 100, 0.5) == 3 * (10 + 100 * 2)
    with pytest.raises(ValueError, match="All costs are zero"):
        Costs()
    with pytest.raises(ValueError, match="sample"):
        Costs(sample=-1)
