"""Pictures of components: what is drawn is what was computed, labels change nothing, and no name covers another."""

from __future__ import annotations

import itertools

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection

import scdgd
from scdgd.model import SCDGD
from scdgd.pl._label_counts import Majority
from scdgd.pl._labels import write_beside
from tests.conftest import simulate
from tests.kinds.models import built, train


@pytest.fixture(scope="module")
def model() -> SCDGD:
    """180 cells of 3 types in 6 components."""
    return train(built("SCDGD", simulate(180, n_types=3, n_genes=40, depth=500.0), n_components=6), 30)


@pytest.fixture(autouse=True)
def _closed():
    yield
    plt.close("all")


def lines_of(ax) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ends, widths and greys of the lines of a graph."""
    (lines,) = [c for c in ax.collections if isinstance(c, LineCollection)]
    return np.array(lines.get_segments()), lines.get_linewidths(), lines.get_colors()[:, 0]


@pytest.mark.parametrize("coordinates", ["information", "latent"])
def test_a_graph_joins_what_is_nearer_than_the_percentile(model, coordinates):
    ax = scdgd.pl.component_graph(model, "cell_type", percentile=40, coordinates=coordinates)
    means, assigned = model.get_component_means(coordinates=coordinates), model.get_cluster_assignments()
    names, sizes = np.unique(assigned, return_counts=True)
    pairs = list(itertools.combinations(range(len(names)), 2))
    length = np.array([np.linalg.norm(means[names[a]] - means[names[b]]) for a, b in pairs])
    nearest = [pairs[i] for i in np.argsort(length) if length[i] <= np.percentile(length, 40)]
    dots = ax.collections[-1]
    places = np.asarray(dots.get_offsets())
    segments, widths, greys = lines_of(ax)
    found = [tuple(sorted(np.linalg.norm(places - end, axis=1).argmin() for end in ends)) for ends in segments]
    assert found[::-1] == nearest  # the nearest are drawn last
    assert (np.diff(widths) >= 0).all()
    assert (np.diff(greys) <= 0).all()
    assert np.argmax(dots.get_sizes()) == np.argmax(sizes)
    numbers = [text.get_text() for text in ax.texts][: len(names)]
    assert numbers == [str(name) for name in names]


def test_labels_colour_and_name_and_nothing_else(model):
    drawn = [scdgd.pl.component_graph(model, key) for key in (None, "cell_type")]
    places = [np.asarray(ax.collections[-1].get_offsets()) for ax in drawn]
    np.testing.assert_array_equal(*places)
    assigned, types = model.get_cluster_assignments(), model.adata.obs["cell_type"].astype(str)
    colors = drawn[1].collections[-1].get_facecolors()
    majority = [types[assigned == c].mode()[0] for c in np.unique(assigned)]
    for (i, one), (j, other) in itertools.combinations(enumerate(majority), 2):
        assert (one == other) == np.array_equal(colors[i], colors[j])
    n = len(majority)
    beside = [text.get_text().split(",")[0] for text in drawn[1].texts[n:]]
    order = np.argsort(-np.bincount(assigned)[np.unique(assigned)], kind="stable")
    assert beside == [majority[i] for i in order]


def test_two_clusters_and_one_are_drawn_too(model):
    tree = scdgd.tl.component_tree(model)
    for n in (2, 1):
        model.merge_components(tree.cut(n))
        ax = scdgd.pl.component_graph(model, "cell_type")
        assert len(ax.collections[-1].get_offsets()) == n
        scdgd.pl.component_distances(model, "cell_type")
    model.merge_components(None)


def test_names_cover_neither_names_nor_points():
    rng = np.random.default_rng(0)
    points = rng.random((25, 2))
    _, ax = plt.subplots(figsize=(8, 7))
    ax.set(xlim=(-0.3, 1.3), ylim=(-0.2, 1.2))
    radii = rng.uniform(3, 9, 25)
    lines = points[rng.integers(25, size=(10, 2))]
    write_beside(ax, points, radii, [f"a type of cells {i}" for i in range(25)], lines)
    ax.figure.draw_without_rendering()
    boxes = [text.get_window_extent() for text in ax.texts]
    for one, other in itertools.combinations(boxes, 2):
        assert not one.padded(-0.5).overlaps(other.padded(-0.5))
    centers, reach = ax.transData.transform(points), radii * ax.figure.dpi / 72
    for box in boxes:
        gap = np.maximum(np.maximum(box.min - centers, centers - box.max), 0)
        assert (np.linalg.norm(gap, axis=1) > reach - 1).all()


def test_only_missing_labels_are_none(model):
    """A label may have that name; clusters without labelled cells are called otherwise then."""
    assigned, n = model.get_cluster_assignments(), model.adata.n_obs
    first, second = np.unique(assigned)[:2]
    model.adata.obs["odd"] = pd.Categorical(np.where(assigned == second, None, np.where(np.arange(n) % 3, "none", "b")))
    names = np.array([first, second])
    share = (np.arange(n)[assigned == first] % 3 > 0).mean()
    found = Majority.of(model, "odd", names, merged=True)
    assert found.labels == ["none", "no label"]
    np.testing.assert_allclose(found.shares, [share, 0])
    ax = scdgd.pl.component_tree(model, "odd")
    shown = [text.get_text() for text in ax.get_legend().get_texts()]
    assert shown == ["b", "none", "no label"]
    model.adata.obs["odd"] = pd.Series(np.nan, model.adata.obs_names, dtype=object)
    assert Majority.of(model, "odd", names, merged=True).texts() == ["none", "none"]
    del model.adata.obs["odd"]


@pytest.mark.parametrize("draw", [scdgd.pl.component_graph, scdgd.pl.component_distances])
def test_cells_are_assigned_once_for_each_picture(model, draw, monkeypatch):
    calls, assign = [], SCDGD.get_cluster_assignments
    monkeypatch.setattr(
        SCDGD, "get_cluster_assignments", lambda self, *a, **k: (calls.append(1), assign(self, *a, **k))[1]
    )
    scdgd.tl.component_tree(model)
    calls.clear()
    draw(model)
    assert len(calls) == 1


def test_a_heat_map_of_distances_has_the_order_of_the_tree(model):
    ax = scdgd.pl.component_distances(model, "cell_type")
    distances = scdgd.tl.component_distances(model)
    np.testing.assert_array_equal(ax.images[0].get_array(), distances)
    sizes = np.bincount(model.get_cluster_assignments())
    rows = [tick.get_text() for tick in ax.get_yticklabels()]
    assert all(row.endswith(f"  {c} ({sizes[c]:,})") for row, c in zip(rows, distances.index, strict=True))


def test_correlations_are_drawn_and_chance_is_crossed(model):
    table = scdgd.tl.component_gene_correlation(model, ["gene_3", "gene_1"])
    table.q_value.iloc[0, 0], table.correlation.iloc[1, 1] = 0.2, np.nan
    ax = scdgd.pl.component_gene_correlation(table)
    np.testing.assert_array_equal(ax.images[0].get_array().filled(np.nan), table.correlation)
    crossed = {tuple(line.get_xydata()[0]) for line in ax.lines}
    rows, columns = np.nonzero((table.q_value > 0.05).to_numpy() & np.isfinite(table.correlation).to_numpy())
    assert crossed == set(zip(columns.astype(float), rows.astype(float), strict=True))
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["gene_3", "gene_1"]


def test_a_path_shows_what_rises_and_then_what_falls(model):
    start, end = map(int, scdgd.tl.component_distances(model).index[[0, -1]])
    path = scdgd.tl.component_path(model, start, end)
    ax = scdgd.pl.component_path(path, n_genes=12)
    shown = [tick.get_text() for tick in ax.get_yticklabels()]
    assert set(shown) == set(path.genes.index[:12])
    falls = (path.genes["end"] < path.genes["start"]).loc[shown]
    assert falls.is_monotonic_increasing
    for _, genes in falls.groupby(falls):
        assert path.genes["midpoint"].loc[genes.index].is_monotonic_increasing
    image = np.asarray(ax.images[0].get_array())
    np.testing.assert_allclose([image.min(1), image.max(1)], [np.zeros(12), np.ones(12)], atol=1e-6)
    assert (image.argmax(1) == path.expression[shown].to_numpy().argmax(0)).all()
    assert len(scdgd.pl.component_path(path, ["gene_2"]).get_yticklabels()) == 1


def test_cells_of_one_label_are_shown_by_cluster(model):
    axes = scdgd.pl.subclusters(model, "cell_type", "type_1", ["gene_0", "gene_5"])
    inside = np.flatnonzero(model.adata.obs["cell_type"] == "type_1")
    y = model.get_latent_representation(indices=inside, coordinates="information")
    dots = np.asarray(axes[0].collections[0].get_offsets())
    assert len(dots) == len(inside)
    spread = np.linalg.svd(y - y.mean(0), compute_uv=False)[:2]
    np.testing.assert_allclose(np.linalg.norm(dots, axis=0), spread, rtol=1e-3)
    clusters = np.unique(model.get_cluster_assignments(indices=inside)).astype(str).tolist()
    assert [text.get_text() for text in axes[0].texts] == clusters
    assert axes[1].get_title().startswith("60 cells")


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        ("component_graph", {"labels_key": "type"}, "no column 'type'"),
        ("component_graph", {"percentile": 101}, "percentile"),
        ("component_distances", {"labels_key": "type"}, "no column 'type'"),
        ("subclusters", {"labels_key": "type", "label": "a", "genes": ["gene_0"]}, "no column 'type'"),
        ("subclusters", {"labels_key": "cell_type", "label": "a", "genes": ["gene_0"]}, "No cell has the label 'a'"),
        ("subclusters", {"labels_key": "cell_type", "label": "type_0", "genes": "gene_0"}, "list of names"),
    ],
)
def test_what_cannot_be_drawn_is_refused(model, function, arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        getattr(scdgd.pl, function)(model, **arguments)
    assert not plt.get_fignums()


def test_results_that_are_none_are_refused(model, tmp_path):
    model.save(tmp_path / "model")
    without = SCDGD.load(tmp_path / "model", adata=False)
    with pytest.raises(ValueError, match="loaded without data"):
        scdgd.pl.subclusters(without, "cell_type", "type_0", ["gene_0"])
    with pytest.raises(ValueError, match="no cells are attached"):
        scdgd.pl.component_graph(without)
    path = scdgd.tl.component_path(model, *map(int, scdgd.tl.component_distances(model).index[:2]))
    with pytest.raises(ValueError, match="no gene 'CD3' among the 40"):
        scdgd.pl.component_path(path, ["CD3"])
    with pytest.raises((TypeError, ValueError), match=r"scdgd\.tl\.component_path"):
        scdgd.pl.component_path(path.genes)
    with pytest.raises((TypeError, ValueError), match=r"scdgd\.tl\.component_gene_correlation"):
        scdgd.pl.component_gene_correlation(path)
