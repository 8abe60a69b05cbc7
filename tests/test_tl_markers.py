"""Markers of clusters: the test of counts against formulas and simulated truth, and what scanpy reads."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import scanpy as sc
from scipy import sparse, stats

import scdgd
from scdgd.model import SCDGD
from scdgd.tl._group_test import GroupSums, group_test
from tests.conftest import simulate
from tests.kinds.models import built, every_model, fitted, train, trained
from tests.kinds.test_merged_components import WITH_COMPONENTS


def drawn(rng, rates, sizes, theta=2.0) -> np.ndarray:
    """Negative binomial counts ``(n, g)``."""
    mean = sizes[:, None] * rates
    return rng.poisson(rng.gamma(theta, mean / theta))


def result_of(x, groups, strata=None, sizes=None, first=(0,), second=(1,)):
    strata = np.zeros(len(x), int) if strata is None else strata
    sizes = np.ones(len(x)) if sizes is None else sizes
    half = len(x) // 3
    blocks = [(0, sparse.csr_matrix(x[:half])), (half, x[half:])]
    sums = GroupSums.of(blocks, groups, strata, sizes)
    return group_test(sums.together(list(first)), sums.together(list(second)))


def test_the_score_is_that_of_single_cells():
    rng = np.random.default_rng(0)
    n = 200
    groups, strata, sizes = rng.integers(-1, 3, n), rng.integers(3, size=n), rng.uniform(0.3, 3, n)
    strata[groups == 1] %= 2  # the last stratum has cells of one group only
    x = drawn(rng, rng.lognormal(1, 1, 20), sizes)
    found = result_of(x, groups, strata, sizes)
    u, v = np.zeros(20), np.zeros(20)
    for b in range(2):
        here = (strata == b) & np.isin(groups, (0, 1))
        s, y, is_first = sizes[here], x[here], groups[here] == 0
        share = s[is_first].sum() / s.sum()
        u += (y - s[:, None] * (y.sum(0) / s.sum()))[is_first].sum(0)
        for cells, weight in ((is_first, 1 - share), (~is_first, share)):
            residual = y[cells] - s[cells, None] * (y[cells].sum(0) / s[cells].sum())
            v += weight**2 * (residual**2).sum(0) * cells.sum() / (cells.sum() - 1)
    np.testing.assert_allclose(found.score, u / np.sqrt(v), rtol=1e-6)
    other = result_of(x, groups, strata, sizes, first=(1,), second=(0,))
    np.testing.assert_allclose(other.score, -found.score, rtol=1e-6)
    np.testing.assert_allclose(other.p_value, found.p_value, rtol=1e-6)


def test_of_few_poisson_counts_the_tail_is_not_that_of_a_normal():
    """Six counts in ten cells, and none in 190 others."""
    x = np.zeros((200, 1), int)
    x[:6] = 1
    found = result_of(x, (np.arange(200) >= 10).astype(int))
    exact = stats.binom.sf(5, 6, 0.05)
    assert exact < found.p_value[0] < 0.05


def null(kind: str, rng: np.random.Generator, n: int = 300, g: int = 200) -> tuple[np.ndarray, ...]:
    """Counts of one type of cells, in groups by chance that may go with depth or with batches."""
    strata, sizes = rng.integers(2, size=n), rng.lognormal(0, 0.4, n)
    chance = np.where(strata == 0, 0.2, 0.7) if kind == "batches" else 0.05 if kind == "few cells" else 0.5
    groups = (rng.random(n) >= chance).astype(int)
    groups[:4] = [0, 0, 1, 1]
    shift = np.exp(rng.normal(0, 0.7 if kind == "batches" else 0, (2, g)))
    depth = np.where(groups == 0, 0.3, 1.0) if kind == "depth" else 1.0
    x = drawn(rng, rng.lognormal(-1.5, 1.5, g) * shift[strata], sizes * depth)
    return x, groups, strata, sizes * depth


@pytest.mark.parametrize("kind", ["halves", "depth", "batches", "few cells"])
@pytest.mark.parametrize("n_sets", [15, pytest.param(300, marks=pytest.mark.slow)])
def test_without_a_difference_there_are_no_more_discoveries_than_stated(kind, n_sets):
    """In 5% of the sets there may be some; and p-values are no smaller than uniform ones."""
    rng = np.random.default_rng(0)
    p = np.array([result_of(*null(kind, rng)).p_value for _ in range(n_sets)])
    discovers = [(stats.false_discovery_control(of_set) < 0.05).any() for of_set in p]
    assert np.mean(discovers) <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / n_sets)
    for level in (0.05, 0.01, 0.001):
        assert (p < level).mean() <= level + 3 * np.sqrt(level / p.size)


@pytest.mark.slow
def test_batches_that_are_left_out_make_discoveries():
    """So the simulated ones are worth a test."""
    rng = np.random.default_rng(0)
    x, groups, _, sizes = null("batches", rng)
    assert (stats.false_discovery_control(result_of(x, groups, sizes=sizes).p_value) < 0.05).sum() > 20


def test_false_discoveries_among_true_ones():
    rng, found, false = np.random.default_rng(1), 0, 0
    for _ in range(10):
        x, groups, strata, sizes = null("halves", rng)
        more = groups == 0
        x[more, :40] += drawn(rng, x[:, :40].mean(0) + 0.1, sizes)[more]
        q = stats.false_discovery_control(result_of(x, groups, strata, sizes).p_value)
        found, false = found + (q[:40] < 0.05).sum(), false + (q[40:] < 0.05).sum()
    assert found > 0.6 * 400
    assert false / (found + false) < 0.05


@pytest.fixture(scope="module")
def separate() -> SCDGD:
    """300 cells of 3 separate types."""
    model = train(built("SCDGD", simulate(300, n_types=3, n_genes=120, depth=600.0)), 30)
    scdgd.tl.rank_component_genes(model, groupby="cell_type", key="types")
    scdgd.tl.rank_component_genes(model)
    return model


def test_scanpy_reads_them(separate):
    adata = separate.adata
    table = sc.get.rank_genes_groups_df(adata, None)
    assert set(table["group"]) == set(adata.obs["scdgd_cluster"].cat.categories)
    assert {"pct_nz_group", "pct_nz_reference", "pvals_adj", "logfoldchanges"} <= set(table.columns)
    group = table[table["group"] == "0"]
    assert group["scores"].is_monotonic_decreasing
    inside = (adata.obs["scdgd_cluster"] == "0").to_numpy()
    x = adata[:, group["names"].tolist()].X.toarray() > 0
    np.testing.assert_allclose(group["pct_nz_group"], x[inside].mean(0), rtol=1e-5)
    np.testing.assert_allclose(group["pct_nz_reference"], x[~inside].mean(0), rtol=1e-5)
    sc.pl.rank_genes_groups_dotplot(adata, n_genes=3, show=False, dendrogram=False)


@pytest.mark.slow
def test_the_best_are_those_of_wilcoxon_and_changes_those_of_counts(separate):
    adata = separate.adata
    logs = adata.copy()
    sc.pp.normalize_total(logs)
    sc.pp.log1p(logs)
    sc.tl.rank_genes_groups(logs, "cell_type", method="wilcoxon")
    sizes = np.asarray(adata.X.sum(1))
    for group in adata.obs["cell_type"].cat.categories:
        mine, theirs = sc.get.rank_genes_groups_df(adata, group, key="types"), sc.get.rank_genes_groups_df(logs, group)
        assert len(set(mine["names"][:20]) & set(theirs["names"][:20])) >= 16
        inside = (adata.obs["cell_type"] == group).to_numpy()
        mean = [np.asarray((adata.X.toarray() / sizes)[cells].mean(0)) for cells in (inside, ~inside)]
        truth = np.log2(mean[0] / mean[1])[adata.var_names.get_indexer(mine["names"])]
        clear = (mine["pct_nz_reference"] > 0.5) & (mine["pct_nz_group"] > 0.5)
        assert np.corrcoef(truth[clear], mine["logfoldchanges"][clear])[0, 1] > 0.97
        sd = adata.uns["types"]["logfoldchanges_sd"][group][clear]
        assert np.median(np.abs(truth - mine["logfoldchanges"])[clear] / sd) < 3


def test_siblings_are_what_a_cluster_merges_with_next(separate):
    tree = scdgd.tl.component_tree(separate)
    scdgd.tl.rank_component_genes(separate, reference="sibling", key="near", n_genes=7)
    a, b = tree.merges[0]
    result = separate.adata.uns["near"]
    assert result["params"]["siblings"][str(a)] == [str(b)]
    assert result["names"].shape == (7,)
    together = np.arange(tree.n_components)
    together[b] = a
    assert all(a not in found or b not in found for found in tree.siblings(together).values())


@every_model
def test_every_model_ranks_genes_or_says_why_not(name):
    model, new = trained(name)
    if name not in WITH_COMPONENTS:
        with pytest.raises((NotImplementedError, ValueError), match="so there are no clusters|without means"):
            scdgd.tl.rank_component_genes(model)
    for adata in (model.adata, new):
        scdgd.tl.rank_component_genes(model, adata, groupby="cell_type", groups=["type_1"])
        table = sc.get.rank_genes_groups_df(adata, "type_1")
        assert np.isfinite(table.select_dtypes("number")).all(axis=None)
        assert set(table["names"]) == set(adata.var_names)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"groupby": "nothing"}, "one of the columns"),
        ({"groupby": "cell_type", "groups": ["type_7"]}, "groups that have cells"),
        ({"groupby": "cell_type", "groups": []}, "groups that have cells"),
        ({"groupby": "cell_type", "reference": "sibling"}, "Siblings are those of the model's clusters"),
        ({"reference": "others"}, "reference"),
        ({"n_genes": 0}, "n_genes"),
        ({"groupby": "one"}, "all cells are in 1"),
    ],
)
def test_what_cannot_be_ranked_is_refused(arguments, message):
    model, _ = trained("SCDGD")
    model.adata.obs["one"] = "a"
    with pytest.raises(ValueError, match=message):
        scdgd.tl.rank_component_genes(model, **arguments)
    assert "rank_genes_groups" not in model.adata.uns


def test_values_that_are_no_counts_are_refused():
    adata = simulate(60)
    adata.X = np.log1p(adata.X.toarray())
    model = fitted("SCDGD", adata, {"is_count_data": False}, gene_likelihood="normal")
    with pytest.raises(NotImplementedError, match="tested on counts"):
        scdgd.tl.rank_component_genes(model)
    with pytest.raises(TypeError, match="first argument is a str"):
        scdgd.tl.rank_component_genes("model")


def test_genes_that_the_model_does_not_have_are_left_out(separate):
    other = separate.adata[:, :20].copy()
    other.var_names = [f"other_{j}" for j in range(20)]
    wide = ad.concat([separate.adata, other], axis="var", merge="first")
    wide = wide[:, np.random.default_rng(0).permutation(wide.n_vars)].copy()
    scdgd.tl.rank_component_genes(separate, wide, key="wide")
    expected, found = separate.adata.uns["rank_genes_groups"], wide.uns["wide"]
    np.testing.assert_array_equal(found["names"], expected["names"])
    for name in expected["scores"].dtype.names:
        np.testing.assert_allclose(found["scores"][name], expected["scores"][name], rtol=1e-6)
