"""Plans of experiments: the formulas against scipy, scikit-learn and Monte Carlo, and what is refused."""

from __future__ import annotations

import functools
import math

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scvi
from scipy import sparse, stats
from sklearn.metrics import roc_auc_score

from scdgd.design._plan import plan
from scdgd.design._plan_result import needed, needed_in_words
from scdgd.design._plan_targets import FindType, MarkerPower, StableClusters
from scdgd.design._power import fdr_level, pilot_effects, power_curve, rejection_probability
from scdgd.design._power_auc import auc
from scdgd.design._power_shrinkage import EffectPrior, StratifiedPrior
from scdgd.design._rare_frequency import TypeFrequency, cells_needed
from scdgd.design._stability import ReplicateScores, stability_curve
from scdgd.design._stability_clusters import pilot_embedding, replicate_ari, variable_genes
from scdgd.metrics import ReferenceEmbedding, leiden_clusters
from tests.conftest import make_model, simulate, train

# --- how often a type is found


@pytest.mark.parametrize("m", [1, 3, 20])
@pytest.mark.parametrize("frequency", [1.0, 0.5, 0.013])
@pytest.mark.parametrize("p", [0.05, 0.5, 0.99])
def test_cells_needed_is_the_quantile_of_the_negative_binomial(m, frequency, p):
    expected = m + stats.nbinom.ppf(p, m, frequency)
    assert cells_needed(TypeFrequency(known=frequency), m, p) == expected


def test_search_misses_no_number():
    """Every number of cells between 2 and 40 is the answer to some question."""
    for n in range(2, 41):
        assert cells_needed(TypeFrequency(known=0.1), 2, stats.binom.sf(1, n, 0.1)) == n


@pytest.mark.parametrize(("k", "n_pilot", "m"), [(1, 50, 1), (3, 100, 5), (40, 100, 20), (50, 50, 4)])
def test_cells_needed_is_the_smallest(k, n_pilot, m):
    """By enumeration with scipy's tail."""
    a, b = k + 0.5, n_pilot - k + 0.5
    n = cells_needed(TypeFrequency(k, n_pilot), m, 0.9)
    assert stats.betabinom.sf(m - 1, n, a, b) >= 0.9
    assert n == m or stats.betabinom.sf(m - 1, n - 1, a, b) < 0.9


def test_predictive_counts_against_monte_carlo():
    rng = np.random.default_rng(0)
    frequency = TypeFrequency(4, 200)
    draws = rng.binomial(500, rng.beta(4.5, 196.5, 200_000))
    q = np.array([0.05, 0.5, 0.95])
    np.testing.assert_allclose(frequency.count_quantiles(500, q), np.quantile(draws, q), atol=1)
    assert frequency.probability(10, 500) == pytest.approx((draws >= 10).mean(), abs=0.005)
    np.testing.assert_array_equal(frequency.count_quantiles(500, q), stats.betabinom.ppf(q, 500, 4.5, 196.5))


def test_pilots_uncertainty_asks_for_more():
    sure, unsure = TypeFrequency(40, 4_000), TypeFrequency(4, 400)
    exact = cells_needed(TypeFrequency(known=0.01), 20, 0.95)
    assert exact < cells_needed(sure, 20, 0.95) < cells_needed(unsure, 20, 0.95)


def test_upper_bound_of_a_type_not_seen():
    assert TypeFrequency(0, 384).upper_bound(0.95) == pytest.approx(1 - 0.05 ** (1 / 384))
    assert TypeFrequency(7, 7).upper_bound(0.95) == 1.0
    assert TypeFrequency(3, 100).upper_bound(0.95) == pytest.approx(
        stats.binomtest(3, 100).proportion_ci(0.9, "exact").high
    )


def test_coverage_of_predictive_intervals():
    """Pilots of 100 and 400 further cells at fixed frequencies: 90% intervals hold at least about 90%."""
    q = np.array([0.05, 0.95])
    intervals = np.array([TypeFrequency(k, 100).count_quantiles(400, q) for k in range(101)])  # (k, 2)
    rng = np.random.default_rng(1)
    for truth in (0.02, 0.1, 0.5):
        found = rng.binomial(400, truth, 5_000)
        low, high = intervals[rng.binomial(100, truth, 5_000)].T
        assert np.mean((low <= found) & (found <= high)) > 0.88


# --- a plan to find a type


def cells_of(sizes: dict[str, int], n_genes: int = 3) -> ad.AnnData:
    n = sum(sizes.values())
    counts = np.random.default_rng(0).poisson(3.0, (n, n_genes)) + 1
    obs = pd.DataFrame({"kind": np.repeat(list(sizes), list(sizes.values()))}, index=[f"c{i}" for i in range(n)])
    return ad.AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs=obs)


def test_default_is_the_rarest_twenty_times():
    made = plan(cells_of({"a": 80, "b": 15, "c": 5}), groups="kind")
    assert made.target == FindType("c", n_cells=20, probability=0.95)
    assert made.n_cells == cells_needed(TypeFrequency(5, 100), 20, 0.95)
    assert made.n_lower < made.n_cells <= made.n_upper
    assert list(made.table) == ["n", "estimate", "lower", "upper", "probability"]
    assert (made.table["lower"] <= made.table["estimate"]).all()
    assert (made.table["estimate"] <= made.table["upper"]).all()
    assert made.table["probability"].is_monotonic_increasing
    row = made.table[made.table["n"] == made.n_cells].iloc[0]
    assert row["probability"] >= 0.95
    expected = stats.betabinom.ppf([0.5, 0.05, 0.95], made.n_cells, 5.5, 95.5)
    np.testing.assert_array_equal(row[["estimate", "lower", "upper"]].to_numpy(), expected)
    for part in (f"{made.n_cells:,.0f}", "5 of the 100 pilot cells", "90% interval", "same tissue", "same depth"):
        assert part in made.sentence


def test_interval_of_needed_cells_is_that_of_the_frequency():
    made = plan(cells_of({"a": 90, "b": 10}), FindType("b", n_cells=7, probability=0.8), groups="kind", interval=0.5)
    low, high = stats.beta.ppf([0.25, 0.75], 10.5, 90.5)
    assert made.n_lower == 7 + stats.nbinom.ppf(0.8, 7, high)
    assert made.n_upper == 7 + stats.nbinom.ppf(0.8, 7, low)


def test_type_not_seen():
    kinds = pd.Categorical(["a"] * 60, categories=["a", "b"])
    made = plan(cells_of({"a": 60}), FindType("b"), groups=kinds)
    assert math.isinf(made.n_cells)
    assert math.isinf(made.n_upper)
    assert made.n_lower == 20 + stats.nbinom.ppf(0.95, 20, 1 - 0.05 ** (1 / 60))
    assert "None of the 60 pilot cells" in made.sentence
    assert "4.87%" in made.sentence
    assert np.isfinite(made.table.to_numpy()).all()
    made.plot()
    assert plan(cells_of({"a": 60}), groups=kinds).target.group == "a"


def test_known_frequency():
    made = plan(cells_of({"a": 3}), FindType(frequency=0.01))
    assert made.n_lower == made.n_cells == made.n_upper == 20 + stats.nbinom.ppf(0.95, 20, 0.01)
    assert "exactly 0.01" in made.sentence
    assert "90% interval" in made.sentence


def test_groups_may_be_anything_that_names_cells():
    adata = cells_of({"1": 30, "2": 10})
    plans = [plan(adata, FindType(2, n_cells=3), groups=g) for g in ("kind", [1] * 30 + [2] * 10)]
    plans.append(plan(adata[np.arange(40)[::-1]], FindType("2", n_cells=3), groups="kind"))
    adata.X = sparse.csc_array(adata.X)
    plans.append(plan(adata, FindType("2", n_cells=3), groups="kind", sizes=[5, 50]))
    assert len({made.n_cells for made in plans}) == 1
    assert plans[-1].table["n"].tolist() == [5, 50]


def test_cells_without_group_count_for_the_pilot():
    kinds = pd.Series(["a"] * 10 + [None] * 30)
    assert plan(cells_of({"x": 40}), groups=kinds).n_cells == cells_needed(TypeFrequency(10, 40), 20, 0.95)


def test_one_cell_one_gene():
    made = plan(cells_of({"a": 1}, n_genes=1), groups="kind")
    assert made.n_cells == cells_needed(TypeFrequency(1, 1), 20, 0.95)


@pytest.mark.slow
def test_leiden_where_no_groups_are_given():
    made = plan(simulate(90), FindType(n_cells=2))
    assert made.target.group in {"0", "1", "2", "3", "4"}


def test_plot_takes_and_returns_axes():
    import matplotlib.pyplot as plt

    made = plan(cells_of({"a": 20, "b": 4}), groups="kind")
    _, ax = plt.subplots()
    assert made.plot(ax=ax) is ax
    assert ax.get_xlabel() == "further cells"
    assert made.plot() is not ax
    plt.close("all")


# --- wilcoxon's test


def test_auc_against_sklearn_and_scipy():
    rng = np.random.default_rng(0)
    x_1, x_2 = rng.poisson(1.0, (17, 6)), rng.poisson([0.2, 1, 1, 2, 3, 1], (23, 6))
    x_1[:, 0], x_2[:, 0] = 50 - x_1[:, 1:].sum(1), 50 - x_2[:, 1:].sum(1)  # all cells have 50 counts
    found = auc(sparse.csr_matrix(x_1), sparse.csr_matrix(x_2))
    truth = np.repeat([1, 0], [17, 23])
    for j in range(6):
        assert found.effect[j] + 0.5 == pytest.approx(roc_auc_score(truth, np.concatenate([x_1[:, j], x_2[:, j]])))
        z = found.effect[j] / np.sqrt(found.null_variance[j] * (1 / 17 + 1 / 23) * 41 / 40)  # scipy: n + 1 for n
        p = stats.mannwhitneyu(x_1[:, j], x_2[:, j], use_continuity=False, method="asymptotic").pvalue
        assert 2 * stats.norm.sf(abs(z)) == pytest.approx(p, rel=0.02)


def test_auc_counts_are_relative_to_the_cell():
    """A cell sequenced ten times as deep is the same cell."""
    rng = np.random.default_rng(0)
    x_1, x_2 = rng.poisson(3.0, (10, 4)) + 1, rng.poisson(3.0, (12, 4)) + 1
    deep = x_1 * rng.integers(1, 10, (10, 1))
    one, other = (auc(sparse.csr_matrix(x), sparse.csr_matrix(x_2)) for x in (x_1, deep))
    np.testing.assert_allclose(one.effect, other.effect)


def test_placement_variances_against_monte_carlo():
    rng = np.random.default_rng(0)
    n_1, n_2, n_rep = 30, 50, 400
    effects, variances = [], []
    for _ in range(n_rep):
        y = [np.column_stack([rng.poisson(m, n), np.full(n, 30)]) for m, n in ((1.5, n_1), (0.7, n_2))]
        found = auc(*(sparse.csr_matrix(v) for v in y))
        effects.append(found.effect[0])
        variances.append(found.variance[0, 0] / n_1 + found.variance[1, 0] / n_2)
    assert np.mean(variances) == pytest.approx(np.var(effects), rel=0.2)


@pytest.mark.slow
def test_rejection_probability_against_simulated_tests():
    """Negative binomial counts, Wilcoxon's test by scipy."""
    rng = np.random.default_rng(0)
    theta, means, n_1, n_2 = 2.0, (1.0, 1.6), 60, 90

    def draw(mean, n):
        return rng.poisson(rng.gamma(theta, mean / theta, n))

    def with_rest(x):  # a second gene keeps all totals equal
        return sparse.csr_matrix(np.column_stack([x, 1_000 - x]))

    large = auc(*(with_rest(draw(mean, 60_000)) for mean in means))
    p = [stats.mannwhitneyu(draw(means[0], n_1), draw(means[1], n_2)).pvalue for _ in range(1_500)]
    scale = np.sqrt(large.null_variance[0])
    ratios = large.variance[:, 0] / scale**2
    for level in (0.05, 0.001):
        power = rejection_probability(large.effect[0] / scale, ratios, n_1, n_2, level)
        assert power == pytest.approx(np.mean(np.array(p) < level), abs=0.035)


def test_rejection_probability_of_no_effect_is_the_level():
    level = np.array([0.3, 0.05, 1e-4])
    np.testing.assert_allclose(rejection_probability(0.0, np.ones(2), 20, 50, level), level, rtol=1e-9)


def test_fdr_level_against_benjamini_hochberg():
    """The level is where Benjamini & Hochberg's procedure rejects in simulated experiments."""
    rng = np.random.default_rng(0)
    n_genes, n_1, n_2, fdr = 2_000, 40, 60, 0.1
    effects = np.where(rng.random(n_genes) < 0.1, rng.normal(0, 0.8, n_genes), 0.0)
    level = fdr_level(effects, np.ones((2, n_genes)), n_1, n_2, fdr)
    share, found = [], []
    for _ in range(20):
        z = effects / np.sqrt(1 / n_1 + 1 / n_2) + rng.normal(size=n_genes)
        found.append((stats.false_discovery_control(2 * stats.norm.sf(np.abs(z))) <= fdr).sum())
        share.append(rejection_probability(effects, np.ones((2, n_genes)), n_1, n_2, level).sum())
    assert np.mean(found) == pytest.approx(np.mean(share), rel=0.05)


def test_fdr_level_without_effects_is_that_of_one_gene():
    assert fdr_level(np.zeros(100), np.ones((2, 100)), 50, 50, 0.05) == pytest.approx(0.05 / 100, rel=0.01)


def test_shrunken_effects_have_the_right_spread_and_cover():
    rng = np.random.default_rng(0)
    truth = np.where(rng.random(3_000) < 0.2, rng.normal(0, 0.5, 3_000), 0.0)
    errors = rng.uniform(0.1, 0.3, 3_000)
    effects = truth + errors * rng.normal(size=3_000)
    draws = EffectPrior(effects, errors).sample_posterior(effects, errors, 200, rng)
    assert np.var(draws) == pytest.approx(np.var(truth), rel=0.1)
    large = np.abs(effects) > 0.6
    assert np.mean(draws[:, large] * np.sign(effects[large])) == pytest.approx(
        np.mean(truth[large] * np.sign(effects[large])), rel=0.05
    )
    low, high = np.quantile(draws, [0.05, 0.95], axis=0)
    assert np.mean((low <= truth) & (truth <= high)) > 0.87


def test_posterior_of_one_normal_is_the_textbook_one():
    prior = EffectPrior(np.array([1.0, -2.0]), np.array([0.5, 0.5]))
    prior.scales, prior.weights = np.array([0.0, 2.0]), np.array([0.0, 1.0])
    draws = prior.sample_posterior(np.array([1.0]), np.array([0.5]), 40_000, np.random.default_rng(0))
    shrink = 4 / 4.25
    assert draws.mean() == pytest.approx(shrink, abs=0.01)
    assert draws.std() == pytest.approx(0.5 * math.sqrt(shrink), abs=0.01)


def test_strata_keep_genes_that_cannot_differ_from_hiding_those_that_do():
    rng = np.random.default_rng(0)
    level = np.repeat([0.1, 1.0], [2_700, 300])
    truth = np.where(level < 1, 0.0, rng.normal(0, 0.3, 3_000))
    effects = truth + 0.2 * rng.normal(size=3_000)
    errors = np.full(3_000, 0.2)
    draws = StratifiedPrior(effects, errors, level).sample_posterior(effects, errors, 50, rng)
    assert np.var(draws[:, level == 1]) == pytest.approx(np.var(truth[level == 1]), rel=0.2)
    assert np.std(draws[:, level < 1]) < 0.06


@functools.cache
def two_types(seed: int, n: int) -> ad.AnnData:
    """Two types of equal size, 300 genes, of which 60 differ; negative binomial counts (theta 3)."""
    fixed, rng = np.random.default_rng(7), np.random.default_rng(seed)
    base = fixed.lognormal(0, 1, 300)
    change = np.where(np.arange(300) < 60, np.exp(fixed.normal(0, 0.7, 300)), 1.0)
    kind = np.arange(n) % 2
    means = np.where(kind[:, None] == 1, base * change, base)
    counts = rng.poisson(rng.gamma(3.0, means / 3.0)).astype(np.float32)
    return ad.AnnData(
        sparse.csr_matrix(counts), obs=pd.DataFrame({"kind": np.array(["a", "b"])[kind]}, index=map(str, range(n)))
    )


def test_predicted_power_is_that_of_real_experiments():
    target = MarkerPower("a", "b")
    pilot, full = two_types(0, 100), two_types(1, 4_000)
    table = plan(pilot, target, groups="kind", sizes=[50, 150, 400], show_progress=False).table
    truth = auc(*(full.X[(full.obs["kind"] == kind).to_numpy()] for kind in "ab"))
    markers = np.abs(truth.effect) >= 0.1
    for row in table.itertuples():
        shares = []
        for seed in range(5):
            cells = two_types(10 + seed, int(row.n))
            found = [cells.X[(cells.obs["kind"] == kind).to_numpy()].toarray() for kind in "ab"]
            found = [x / x.sum(1, keepdims=True) for x in found]
            p = stats.mannwhitneyu(*found, method="asymptotic").pvalue
            shares.append((stats.false_discovery_control(np.nan_to_num(p, nan=1.0)) <= target.fdr)[markers].mean())
        assert row.lower - 0.02 <= np.mean(shares) <= row.upper + 0.02
        assert row.estimate == pytest.approx(np.mean(shares), abs=0.12)


@pytest.mark.slow
def test_plan_of_markers_is_a_plan():
    made = plan(two_types(0, 100), MarkerPower("a", "b"), groups="kind", show_progress=False)
    options = {"target": MarkerPower("a", "b"), "groups": "kind", "sizes": [100], "show_progress": False}
    one, same, other = (plan(two_types(0, 100), **options, seed=seed).table for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(one, same)
    assert not one.equals(other)
    assert made.n_lower <= made.n_cells <= made.n_upper
    assert made.table[["estimate", "lower", "upper"]].to_numpy().min() >= 0
    assert (made.table["lower"] <= made.table["estimate"]).all()
    assert (made.table["estimate"] <= made.table["upper"]).all()
    assert made.table["estimate"].iloc[-1] > 0.95
    for part in ("80%", "'a' and 'b'", "90% interval", "50 and 50 of the 100", "same depth"):
        assert part in made.sentence


def test_no_markers_between_like_groups():
    adata = two_types(0, 200)[::2]
    with pytest.raises(ValueError, match="no marker between 'x' and 'y'"):
        plan(adata, MarkerPower("x", "y", min_auc=0.9), groups=["x", "y"] * 50, show_progress=False)


def test_genes_that_few_cells_have_are_not_tested():
    counts = sparse.csr_matrix(np.column_stack([np.arange(40) % 7, np.full(40, 3), np.eye(40)[0]]))
    assert len(pilot_effects(counts[:20], counts[20:]).effects) == 2


# --- clusters


def test_variable_genes():
    counts = np.random.default_rng(0).poisson(0.5, (50, 2_500))
    counts[:, :100] = 0
    chosen = variable_genes(sparse.csr_matrix(counts.astype(np.float32)))
    assert chosen.sum() == 2_000
    assert not chosen[:100].any()
    assert variable_genes(sparse.csr_matrix(counts[:, 90:200].astype(np.float32))).sum() == 100


@pytest.mark.slow
def test_agreement_is_of_own_and_transferred_clusters():
    """By hand, on replicates whose clusters differ."""
    from sklearn.metrics import adjusted_rand_score

    one, other = simulate(100, seed=0).X.tocsr(), simulate(60, seed=0, depth=30.0).X.tocsr()
    embedding = pilot_embedding(one)
    clusters = [leiden_clusters(ReferenceEmbedding(x, n_components=20).coordinates, resolution=1) for x in (one, other)]
    distances = ((embedding.transform(one)[:, None] - embedding.transform(other)) ** 2).sum(-1)
    expected = adjusted_rand_score(clusters[1], clusters[0][distances.argmin(0)])
    expected += adjusted_rand_score(clusters[0], clusters[1][distances.argmin(1)])
    assert expected < 1.99
    assert replicate_ari(one, other, embedding) == pytest.approx(expected / 2)


@pytest.mark.slow
def test_replicates_of_distinct_types_agree():
    one, other = simulate(120, seed=0).X, simulate(120, seed=0).X
    noise = sparse.csr_matrix(np.random.default_rng(1).poisson(3.0, (120, 30)).astype(np.float32))
    embedding = pilot_embedding(one)
    assert replicate_ari(one[:60], other[60:], embedding, resolution=0.3) > 0.95
    assert replicate_ari(noise[:60], noise[60:], embedding) < 0.4


def test_stability_curve_by_hand():
    half, double = np.array([0.5, 0.6, 0.7]), np.array([0.6, 0.7, 0.8])
    halves = np.array([0.7, 0.7, 0.7])
    table = stability_curve(ReplicateScores({50: half, 200: double}, halves, 50)).set_index("n")
    shift = np.arctanh(0.7) - np.arctanh(half).mean()
    assert table.loc[50, "estimate"] == pytest.approx(0.7)
    center = np.arctanh(double).mean() + shift
    spread = math.sqrt(np.arctanh(double).var(ddof=1) * 4 / 3 + 3 * np.arctanh(half).var(ddof=1))
    margin = stats.t.ppf(0.95, 2) * spread
    expected = np.tanh([center, center - margin, center + margin])
    np.testing.assert_allclose(table.loc[200].to_numpy(), expected)


@pytest.mark.slow
def test_plan_of_stable_clusters():
    pilot = simulate(100, 40)
    options = {"target": StableClusters(0.7, 0.5), "sizes": [40, 80], "n_replicates": 3, "show_progress": False}
    made = plan(pilot, **options, model=lambda adata: train(make_model(adata), 5))
    assert made.table["n"].tolist() == [40, 80]
    assert list(made.table) == ["n", "estimate", "lower", "upper"]
    assert made.table[["estimate", "lower", "upper"]].abs().to_numpy().max() <= 1
    for part in ("0.7", "100 pilot cells", "SCDGD", "90% interval", "same depth", "synthetic"):
        assert part in made.sentence
    made.plot()
    trained = train(make_model(pilot), 2)
    given = plan(pilot, **options, model=trained)
    pd.testing.assert_frame_equal(given.table, plan(pilot, **options, model=trained).table)
    with pytest.raises(ValueError, match="trained on the 60 cells of the pilot.*SCDGD has 100 cells"):
        plan(pilot[:60].copy(), **options, model=trained)
    with pytest.raises(ValueError, match="trained on the 60 cells of the pilot.*SCDGD has 100 cells"):
        plan(pilot[:60].copy(), **options, model=lambda _: trained)


@pytest.mark.slow
def test_default_generator_has_a_seed():
    scvi.settings.seed = None
    options = {"target": StableClusters(), "sizes": [60], "n_replicates": 3, "show_progress": False}
    one, same, other = (plan(simulate(100, 40), **options, seed=seed).table for seed in (0, 0, 1))
    pd.testing.assert_frame_equal(one, same)
    assert not one.equals(other)
    assert scvi.settings.seed is None


# --- what a table says


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1, 5, 4, 6, 7], 4), ([5, 5, 5, 5, 5], 1), ([1, 5, 5, 5, 1], math.inf), ([1, 1, 1, 1, 5], 5)],
)
def test_needed_is_where_the_goal_stays_reached(values, expected):
    table = pd.DataFrame({"n": [1, 2, 3, 4, 5], "estimate": values, "lower": np.zeros(5), "upper": np.full(5, 9.0)})
    assert needed(table, 4.5) == (expected, 1, math.inf)


def test_numbers_beyond_the_table_are_named():
    table = pd.DataFrame({"n": [100, 5_000]})
    words = needed_in_words((math.inf, 100, math.inf), table, 0.9)
    assert words == (
        "more than 5,000 further cells are needed (90% interval at most 100 to more than 5,000; to narrow it, tabulate more `sizes` or "
        "take a larger pilot)"
    )
    assert "narrow" not in needed_in_words((200, 150, 5_000), table, 0.9)
    assert "by the 90% interval too" in needed_in_words((math.inf,) * 3, table, 0.9)
    assert needed_in_words((5_000, 100, math.inf), table, 0.9).startswith("about 5,000 further")


# --- what is refused


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda: FindType("a", 0.1), "`group` or `frequency`"),
        (lambda: FindType(frequency=0), "above 0 and at most 1, got 0"),
        (lambda: FindType(frequency=float("nan")), "got nan"),
        (lambda: FindType(n_cells=0), "positive integer, got 0"),
        (lambda: FindType(n_cells=2.5), "positive integer, got 2.5"),
        (lambda: FindType(probability=1), "`probability` must be a finite number above 0 and below 1, got 1"),
        (lambda: StableClusters(1.0), "`ari` must be a finite number above 0 and below 1"),
        (lambda: StableClusters(resolution=0), "`resolution` must be a positive number"),
        (lambda: MarkerPower("a", "a"), "both are 'a'"),
        (lambda: MarkerPower("a", "b", power=1.2), "`power` must be a finite number above"),
        (lambda: MarkerPower("a", "b", min_auc=0.5), "`min_auc` must be a finite number above 0.5"),
    ],
)
def test_targets_that_cannot_be(make, match):
    with pytest.raises(ValueError, match=match):
        make()


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"target": "B cell"}, TypeError, "FindType, StableClusters, MarkerPower or ConditionEffect, got 'B cell'"),
        ({"target": FindType("z"), "groups": "kind"}, ValueError, "no group 'z'.*There are: a, b"),
        ({"groups": "nothing"}, KeyError, "There are: \\['kind'\\]"),
        ({"groups": ["a"]}, ValueError, "each of the 40 cells, but has 1"),
        ({"groups": [None] * 40}, ValueError, "missing values only"),
        ({"layer": "raw"}, KeyError, "no 'raw'"),
        ({"groups": "kind", "interval": 1}, ValueError, "`interval`"),
        ({"groups": "kind", "sizes": [0, 5]}, ValueError, "a positive integer"),
        ({"groups": "kind", "sizes": []}, ValueError, "a positive integer"),
        ({"target": MarkerPower("a", "b"), "groups": "kind"}, ValueError, "at least 5 pilot cells.*'b' has 4"),
        ({"target": StableClusters(), "n_replicates": 2}, ValueError, "at least 3, got 2"),
        ({"target": StableClusters(), "sizes": [10, 50]}, ValueError, "begins with 10"),
        ({"target": StableClusters(), "model": "SCVI"}, TypeError, "got 'SCVI'"),
    ],
)
def test_what_is_refused(options, error, match):
    with pytest.raises(error, match=match):
        plan(cells_of({"a": 36, "b": 4}), **options)


def test_pilots_that_are_no_counts():
    with pytest.raises(ValueError, match="all 3 x 2 values are zero"):
        plan(ad.AnnData(sparse.csr_matrix((3, 2), dtype=np.float32)), groups=["a", "b", "c"])
    adata = cells_of({"a": 5})
    adata.X.data[0] = np.nan
    with pytest.raises(ValueError, match=r"adata\.X"):
        plan(adata, groups="kind")
    with pytest.raises(ValueError, match="at least 40 cells, but there are 5"):
        plan(cells_of({"a": 5}), StableClusters())


def test_power_falls_with_cells_of_other_groups():
    pilot = two_types(0, 100)
    with_others = ad.concat([pilot, two_types(5, 300)], index_unique="-")
    groups = [*pilot.obs["kind"], *["other"] * 300]
    options = {"target": MarkerPower("a", "b"), "sizes": [100, 400], "show_progress": False}
    alone = plan(pilot, **options, groups="kind").table["estimate"]
    diluted = plan(with_others, **options, groups=groups).table["estimate"]
    assert diluted[0] < 0.5 * alone[0]
    assert diluted[1] == pytest.approx(alone[0], abs=0.1)


def test_power_is_zero_where_a_group_is_not_drawn():
    pilot = two_types(0, 100)
    counts = [pilot.X[(pilot.obs["kind"] == kind).to_numpy()] for kind in "ab"]
    assert power_curve(*counts, 0, [2], MarkerPower("a", "b"), show_progress=False)["estimate"][0] < 0.05
