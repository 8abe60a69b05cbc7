"""Pictures of cells: colours that all readers tell apart, labels that can be read, values and positions that are those of the cells."""

from __future__ import annotations

import itertools
import logging

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
import scvi
from matplotlib.colors import to_hex, to_rgba
from scanpy.plotting import palettes
from scipy.optimize import minimize

import scdgd
from scdgd.pl._embedding import place
from scdgd.pl._labels import free_places
from scdgd.pl._palette import COLORS, OKABE_ITO, distinct_colors, palette
from tests.colour_vision import ciede2000, least_difference
from tests.conftest import make_model, simulate, train


@pytest.fixture(autouse=True)
def _closed_figures():
    yield
    plt.close("all")


def test_difference_of_colours_is_that_of_its_paper():
    """Pairs 1, 7, 14, 17, 25 and 34 of table 1 of Sharma, Wu and Dalal 2005."""
    table = np.array(
        [
            [50, 2.6772, -79.7751, 50, 0, -82.7485, 2.0425],
            [50, 0, 0, 50, -1, 2, 2.3669],
            [50, -0.0010, 2.4900, 50, 0.0011, -2.4900, 4.7461],
            [50, 2.5, 0, 73, 25, -18, 27.1492],
            [60.2574, -34.0099, 36.2677, 60.4626, -34.1751, 39.4387, 1.2644],
            [2.0776, 0.0795, -1.1350, 0.9033, -0.0636, -0.5514, 0.9082],
        ]
    )
    np.testing.assert_allclose(ciede2000(table[:, :3], table[:, 3:6]), table[:, 6], atol=1e-4)


@pytest.mark.parametrize(("n", "least"), [(8, 11.5), (15, 11.5), (20, 9.5), (24, 8.4)])
def test_readers_with_colour_blindness_tell_categories_apart(n, least):
    """A difference of 1 can be seen side by side; of scanpy's first 10 two differ by 4, of its 20 by half of one."""
    assert least_difference(palette(n)) > least
    assert least_difference(palettes.default_20[: min(n, 20)]) < least - 3
    assert set(palette(8)) == set(OKABE_ITO)


def test_no_colour_means_two_things_in_one_figure(caplog):
    columns = {"cluster": ["0", "1", "2"], "leiden": ["0", "1"], "type": ["B", "T"], "predicted": ["T", "B", "NK"]}
    known = {"type": {"T": COLORS[0]}}
    found = distinct_colors(columns, known)
    assert {key: list(colors) for key, colors in found.items()} == columns
    meanings = {}
    for key, colors in found.items():
        for name, color in colors.items():
            meanings.setdefault(color, set()).add((key, name))
    shared = sorted(sorted(meaning) for meaning in meanings.values() if len(meaning) > 1)
    assert shared == [[("predicted", name), ("type", name)] for name in "BT"]
    assert found["type"]["T"] == COLORS[0]
    assert not caplog.records
    caplog.set_level(logging.INFO, logger="scdgd")
    with_many = distinct_colors({"a": list(map(str, range(20))), "b": list("vwxyz")})
    assert [list(colors.values()) for colors in with_many.values()] == [palette(20), palette(5)]
    assert "have 25 categories together, more than the 24 colours" in caplog.text
    assert len(set(palette(120))) == 120


def intersect(boxes) -> list[tuple[int, int]]:
    """Pairs of boxes (left, lower, right, upper) that overlap."""
    return [
        (i, j)
        for (i, a), (j, b) in itertools.combinations(enumerate(boxes), 2)
        if a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
    ]


@pytest.mark.parametrize("seed", range(5))
def test_boxes_part_and_those_that_touch_none_stay(seed):
    rng = np.random.default_rng(seed)
    anchors = np.r_[rng.normal(200, 15, size=(25, 2)), np.full((5, 2), 200.0), [[390.0, 390.0], [398.0, 10.0]]]
    sizes = np.r_[rng.uniform([20, 8], [70, 14], size=(30, 2)), [[10.0, 10.0], [30.0, 10.0]]]
    frame = np.array([0.0, 0.0, 400.0, 400.0])
    places = free_places(anchors, sizes, frame)
    assert intersect(np.c_[anchors - sizes / 2, anchors + sizes / 2])
    assert not intersect(places.boxes)
    assert places.boxes.min() >= 0
    assert places.boxes.max() <= 400
    np.testing.assert_array_equal(places.centers[[0, 30]], anchors[[0, 30]])
    assert (places.gaps[[0, 30]] == 0).all()
    assert np.linalg.norm(places.centers - anchors, axis=1).max() < 200


@pytest.fixture(scope="module")
def reference():
    """A trained model, and its cells with results and a map, which tests copy."""
    adata = simulate()
    model = train(make_model(adata, setup={"labels_key": "cell_type"}), 3)
    scdgd.tl.annotate(model)
    adata.obsm["X_umap"] = adata.obsm["X_scdgd"][:, :2].copy()
    return model, adata


@pytest.fixture
def cells(reference):
    return reference[1].copy()


def test_names_and_numbers_do_not_lie_on_each_other(cells, reference):
    cells.obs["kind"] = pd.Categorical([f"a kind with a long name, {i % 12}" for i in range(150)])
    cells.obs["scdgd_cluster"] = pd.Categorical([str(i % 3) for i in range(150)])
    close = scdgd.pl.Embedding(cells.obsm["X_umap"], np.full((3, 2), 0.01), np.empty((0, 2)), "UMAP", apart=[2])
    figure = scdgd.pl.latent(
        cells, reference[0], color=["kind", "scdgd_cluster"], embedding=close, legend_loc="on data", return_fig=True
    )
    figure.canvas.draw()
    by_kind, by_cluster = figure.axes
    for ax, n_labels in ((by_kind, 15), (by_cluster, 3)):
        boxes = [label.get_bbox_patch().get_window_extent().extents for label in ax.texts]
        assert len(boxes) == n_labels
        assert not intersect(boxes)
    assert [label.get_bbox_patch().get_linestyle() for label in by_cluster.texts] == ["-", "-", ":"]
    of_clusters = {to_hex(label.get_bbox_patch().get_facecolor()) for label in by_cluster.texts}
    assert of_clusters == {color.lower() for color in COLORS[:3]}
    of_kinds = {to_hex(color) for dots in by_kind.collections for color in dots.get_facecolors()}
    assert len(of_kinds) == 12
    assert not of_clusters & of_kinds


def drawn_values(ax) -> np.ndarray:
    """Values of cells in the order of their positions."""
    (dots,) = [c for c in ax.collections if c.get_array() is not None]
    return np.asarray(dots.get_array())[np.lexsort(dots.get_offsets().T)]


def test_genes_are_shown_as_scanpy_shows_them(cells):
    of_scanpy = cells.copy()
    sc.pp.normalize_total(of_scanpy, target_sum=1e4)
    sc.pp.log1p(of_scanpy)
    order = np.lexsort(np.ma.asarray(cells.obsm["X_umap"]).T)
    cells.layers["scaled"] = cells.X.toarray() / 7
    cells.var["symbol"] = [f"S{i}" for i in range(30)]
    column = lambda adata, i: adata.X[:, [i]].toarray().ravel()[order]
    expected = column(of_scanpy, 4)
    figure = scdgd.pl.latent(cells, color=["gene_4", "age", "gene_2"], ncols=2, return_fig=True)
    ax, by_age, second, bar, *_ = figure.axes
    assert ax.get_title() == "gene_4"
    assert bar.get_ylabel() == "log1p of counts per 10⁴"
    assert ax.get_position().y0 > second.get_position().y0
    np.testing.assert_allclose(drawn_values(ax), expected, rtol=1e-5)
    np.testing.assert_allclose(drawn_values(by_age), cells.obs["age"].to_numpy()[order])
    for options in ({"color": "S4", "gene_symbols": "symbol"}, {"color": "gene_4", "basis": "umap"}):
        np.testing.assert_allclose(drawn_values(scdgd.pl.latent(cells, **options)), expected, rtol=1e-5)
    by_layer = scdgd.pl.latent(cells, color="gene_4", layer="scaled")
    np.testing.assert_allclose(drawn_values(by_layer), column(cells, 4) / 7)
    of_scanpy.raw = of_scanpy.copy()  # log-normalised already: as it stands
    np.testing.assert_allclose(drawn_values(scdgd.pl.latent(of_scanpy, color="gene_4")), expected, rtol=1e-6)
    (dots,) = ax.collections
    assert (np.diff(np.asarray(dots.get_array())) >= 0).all()  # the highest on top


def test_points_stand_at_the_weighted_median_of_their_nearest_cells():
    rng = np.random.default_rng(0)
    z, positions, point = rng.normal(size=(15, 4)), rng.normal(size=(15, 2)), rng.normal(size=(1, 4))
    distances = np.linalg.norm(z - point, axis=1)
    beyond = distances - distances.min()
    weights = np.exp(-beyond / beyond.mean())
    far_of = lambda at: weights @ np.linalg.norm(positions - at, axis=1)
    best = minimize(far_of, positions.mean(axis=0), method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-12})
    found = place(point, z, positions)
    assert far_of(found.positions[0]) == pytest.approx(best.fun, rel=1e-5)
    assert found.are_apart.all()  # cells are drawn without regard to where they are
    islands = np.repeat([[0.0, 0.0], [9.0, 9.0]], 30, axis=0) + rng.normal(size=(60, 2))
    hidden = np.r_[islands, [[np.nan, 0.0]]]
    found = place(islands[[3, 40]], np.r_[islands, islands[:1]], hidden)
    assert np.linalg.norm(found.positions - islands[[3, 40]], axis=1).max() < 1.5
    assert not found.are_apart.any()


def test_a_model_is_laid_over_positions_that_are_there(cells, reference, caplog):
    caplog.set_level(logging.INFO, logger="scdgd")
    cells.obsm["X_mine"] = np.random.default_rng(0).normal(size=(150, 2))
    before = {key: np.array(cells.obsm[key]) for key in cells.obsm}
    ax = scdgd.pl.latent(cells, reference[0], basis="X_mine", n_samples=0)
    assert ax.get_xlabel() == "MINE1"
    (dots,) = ax.collections
    np.testing.assert_allclose(np.sort(dots.get_offsets(), axis=0), np.sort(before["X_mine"], axis=0))
    assert "drawn far from each other in 'X_mine'" in caplog.text
    assert {label.get_bbox_patch().get_linestyle() for label in ax.texts} == {":"}
    assert before.keys() == cells.obsm.keys()
    assert all(np.array_equal(before[key], cells.obsm[key]) for key in before)


def test_a_map_is_written_where_scanpy_looks_for_it_however_it_is_named(cells, reference, monkeypatch):
    monkeypatch.setattr("umap.UMAP.fit_transform", lambda self, z: np.array(z[:, :2]))
    del cells.obsm["X_umap"]
    scdgd.pl.latent(cells, reference[0], basis="umap", n_samples=0)
    assert "umap" not in cells.obsm
    assert cells.obsm["X_umap"].shape == (150, 2)
    assert cells.uns["umap"]["params"]["use_rep"] == "X_scdgd"


@pytest.fixture
def mapped(cells):
    """A query of 40 cells of the reference, as `scdgd.tl.map` writes its results."""
    query = cells[:40].copy()
    query.obs["scdgd_label"] = query.obs["cell_type"].cat.add_categories(["unknown"])
    query.obs.loc[query.obs_names[:5], "scdgd_label"] = "unknown"
    query.obs["scdgd_novelty"] = np.arange(40.0)
    query.uns["scdgd_map"] = {"labels": "neighbors, cell_type", "unknown": "unknown"}
    return query


def test_a_query_stands_among_the_cells_of_the_reference_that_are_like_it(cells, mapped):
    cells.uns["cell_type_colors"] = ["#ff0000", "#00ff00", "#0000ff"]
    by_label, by_novelty = scdgd.pl.query_on_reference(cells, mapped)
    assert [ax.get_title() for ax in (by_label, by_novelty)] == ["scdgd_label", "scdgd_novelty"]
    behind, dots = by_label.collections
    np.testing.assert_allclose(behind.get_offsets(), cells.obsm["X_umap"])
    expected = place(mapped.obsm["X_scdgd_information"], cells.obsm["X_scdgd_information"], cells.obsm["X_umap"])
    color_of = {"type_0": "#ff0000", "type_1": "#00ff00", "type_2": "#0000ff", "unknown": "#000000"}
    drawn = {tuple(map(float, xy)): tuple(c) for xy, c in zip(dots.get_offsets(), dots.get_facecolors(), strict=True)}
    for xy, label in zip(expected.positions, mapped.obs["scdgd_label"], strict=True):
        assert drawn[tuple(map(float, xy))] == to_rgba(color_of[label])
    names = [text.get_text() for text in by_label.get_legend().get_texts()]
    assert names[-2:] == ["unknown (5)", "reference (150)"]


def test_uncertainty_is_drawn_by_place_and_by_library_size(cells):
    sizes = np.asarray(cells.X.sum(axis=1)).ravel()
    cells.obs["scdgd_spread"] = 1 / np.sqrt(sizes)
    cells.obs["scdgd_pareto_k"] = np.where(np.arange(150) < 4, 0.9, 0.1)
    on_map, by_size = scdgd.pl.uncertainty(cells)
    order = np.lexsort(cells.obsm["X_umap"].T)
    np.testing.assert_allclose(drawn_values(on_map), cells.obs["scdgd_spread"].to_numpy()[order])
    (median,) = by_size.lines
    x, y = median.get_data()
    assert len(x) == 15  # bins of 10 cells
    np.testing.assert_allclose(y, 1 / np.sqrt(x), rtol=0.02)
    names = [text.get_text() for text in by_size.get_legend().get_texts()]
    assert names == ["Pareto k above 0.7 (4)", "quartiles", "median"]


@pytest.mark.parametrize("lacking", ["spreads", "counts"])
def test_uncertainty_says_what_no_cell_has(cells, lacking):
    cells.obs["scdgd_spread"] = np.nan if lacking == "spreads" else 0.5
    cells.layers["none"] = cells.X * 0
    with pytest.raises(ValueError, match="None of 150 cells has both a spread and a count"):
        scdgd.pl.uncertainty(cells, layer="none" if lacking == "counts" else None)
    cells.obs["scdgd_spread"] = [0.3] + [np.nan] * 149
    assert len(scdgd.pl.uncertainty(cells)) == 2


def test_annotate_writes_the_spread_that_posteriors_have(reference, cells):
    model, cells = reference[0], cells[:40].copy()
    scdgd.tl.annotate(model, cells, uncertainty=True)
    scvi.settings.seed = 0  # posteriors are sampled
    mean, var = model.get_latent_representation(indices=np.arange(150), return_dist=True)
    model.get_latent_representation(cells)
    covariance = model.get_posterior(cells).covariance
    expected = np.sqrt((covariance / (mean.var(0) + var.mean(0))).mean(1))
    np.testing.assert_allclose(cells.obs["scdgd_spread"], expected, rtol=1e-5)
    p = cells.obsm["scdgd_responsibilities"]
    np.testing.assert_allclose(
        cells.obs["scdgd_cluster_entropy"], -(p * np.log(np.maximum(p, 1e-300))).sum(1), atol=1e-6
    )
    assert "scdgd_pareto_k" in cells.obs


@pytest.mark.parametrize("is_many", [False, True])
def test_vector_files_keep_text_and_hold_many_dots_as_an_image(cells, tmp_path, monkeypatch, is_many):
    monkeypatch.setattr("scdgd.pl._panels._MANY", 100 if is_many else 1_000)
    for suffix in ("svg", "pdf"):
        scdgd.pl.latent(cells, color="cell_type", save=tmp_path / f"plot.{suffix}")
    svg, pdf = (tmp_path / "plot.svg").read_text(), (tmp_path / "plot.pdf").read_bytes()
    assert ">type_1 (50)</text>" in svg
    assert ("<image" in svg) == is_many
    assert b"/FontFile2" in pdf  # TrueType, which editors keep as text
    assert b"/Type3" not in pdf


WRONG = {
    "a gene": ({"color": "gene_31"}, ValueError, "no gene 'gene_31' in `var_names`, which has 30 .* Is it 'gene_"),
    "clusters": ({"color": "scdgd_kind"}, ValueError, r"`scdgd.tl.annotate\(model\)` writes clusters"),
    "nothing": ({"color": []}, ValueError, "`color` is empty"),
    "a number": ({"color": ["age", 3]}, TypeError, "3 is a int"),
    "layer": ({"color": "gene_1", "layer": "count"}, ValueError, "'count' is not a layer of `adata`. Is it 'counts'"),
    "raw": ({"color": "gene_1", "use_raw": True}, ValueError, "`adata.raw`, which is empty"),
    "both": ({"color": "gene_1", "use_raw": True, "layer": "counts"}, ValueError, "not from both"),
    "symbols": ({"color": "gene_1", "gene_symbols": "symbl"}, ValueError, "Is it 'symbol'"),
    "several": ({"color": "S", "gene_symbols": "symbol"}, ValueError, "'S' is the name of 30 genes"),
    "cmap": ({"cmap": "viridsi"}, ValueError, "'viridsi' is not a colour map of matplotlib. Is it 'viridis'"),
    "legend": ({"legend_loc": "left"}, ValueError, "`legend_loc` must be one of"),
    "ncols": ({"ncols": 0}, ValueError, "`ncols` must be a positive integer"),
    "basis": ({"basis": "X_tsne"}, ValueError, "There is no 'X_tsne'"),
    "one axis": ({"basis": "flat"}, ValueError, r"shape \(150, 1\), but positions have two columns"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_drawn_is_said(cells, case):
    options, kind, words = WRONG[case]
    cells.layers["counts"], cells.var["symbol"], cells.obsm["flat"] = cells.X, "S", np.zeros((150, 1))
    with pytest.raises(kind, match=words):
        scdgd.pl.latent(cells, **options)


def test_what_a_query_lacks_is_said(cells, mapped):
    bare = mapped.copy()
    del bare.obs["scdgd_label"], bare.obs["scdgd_novelty"]
    with pytest.raises(ValueError, match=r"Write them with `scdgd.tl.map\(model, query\)`"):
        scdgd.pl.query_on_reference(cells, bare)
    mapped.obsm["X_scdgd_information"] = mapped.obsm["X_scdgd_information"][:, :2]
    with pytest.raises(ValueError, match="2 dimensions in the query and 4 in the reference"):
        scdgd.pl.query_on_reference(cells, mapped)
    with pytest.raises(ValueError, match=r"reference.obsm has .*scdgd.tl.annotate"):
        scdgd.pl.query_on_reference(cells, mapped, use_rep="X_other")
    with pytest.raises(ValueError, match=r"annotate\(model, uncertainty=True\)"):
        scdgd.pl.uncertainty(cells)
    del cells.obsm["X_umap"]
    with pytest.raises(ValueError, match=r"sc.tl.umap\(reference\)"):
        scdgd.pl.query_on_reference(cells, mapped)
