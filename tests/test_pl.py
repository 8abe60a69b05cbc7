"""Pictures: what they show is what the model says, and they stay where they are told to."""

from __future__ import annotations

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from matplotlib.axes import Axes
from matplotlib.figure import Figure

import scdgd
from scdgd.model import SCGMVAE
from scdgd.pl._history import _limits
from tests.conftest import make_model, simulate, train


@pytest.fixture(autouse=True)
def _closed_figures(monkeypatch):
    monkeypatch.setattr(plt, "show", lambda *args, **kwargs: pytest.fail("plt.show() was called"))
    plt.close("all")  # of other files
    yield
    plt.close("all")


@pytest.fixture
def annotated(trained, adata):
    scdgd.tl.annotate(trained)
    adata.obsm["X_umap"] = adata.obsm["X_scdgd"][:, :2].copy()
    return adata


@pytest.fixture
def plots(trained, annotated):
    return {
        "latent": lambda **kwargs: scdgd.pl.latent(annotated, **kwargs),
        "components": lambda **kwargs: scdgd.pl.components(annotated, "cell_type", **kwargs),
        "history": lambda **kwargs: scdgd.pl.history(trained, **kwargs),
        "component_tree": lambda **kwargs: scdgd.pl.component_tree(trained, "cell_type", **kwargs),
        "information": lambda **kwargs: scdgd.pl.information(trained, **kwargs),
    }


@pytest.mark.parametrize("name", ["latent", "components", "history", "information", "component_tree"])
def test_every_plot_keeps_to_the_given_axes_and_returns_them(plots, name, tmp_path):
    figure, ax = plt.subplots()
    assert plots[name](ax=ax, save=tmp_path / "plot.png") is ax
    assert len(plt.get_fignums()) == 1
    assert (tmp_path / "plot.png").stat().st_size > 1000
    assert isinstance(plots[name](), Axes)
    figure = plots[name](return_fig=True, figsize=(3.0, 2.0))
    assert isinstance(figure, Figure)
    np.testing.assert_allclose(figure.get_size_inches(), (3, 2))


@pytest.mark.parametrize("name", ["latent", "components", "history", "information", "component_tree"])
def test_every_plot_shows_when_asked(plots, name, monkeypatch):
    shown = []
    monkeypatch.setattr(plt, "show", lambda: shown.append(name))
    plots[name](show=False)
    plots[name](show=True)
    assert shown == [name]


def clouds(n_each: int = 40):
    """Three far clusters in 5 dimensions, and their means."""
    rng = np.random.default_rng(0)
    means = 20 * np.eye(3, 5)
    return np.repeat(means, n_each, axis=0) + rng.normal(size=(3 * n_each, 5)), means


@pytest.mark.slow
def test_embedding_puts_means_and_draws_among_their_own_cells():
    z, means = clouds()
    draws = means[[2, 0, 0, 1]] + 0.5
    embedding = scdgd.pl.embed(z, means, draws)
    assert embedding.name == "UMAP"
    centers = embedding.cells.reshape(3, 40, 2).mean(axis=1)
    for points, clusters in ((embedding.means, [0, 1, 2]), (embedding.samples, [2, 0, 0, 1])):
        distances = np.linalg.norm(points[:, None] - centers, axis=-1)
        np.testing.assert_array_equal(distances.argmin(axis=1), clusters)


@pytest.mark.slow
def test_embedding_of_cells_is_repeatable_and_blind_to_draws():
    z, means = clouds()
    first, second = (scdgd.pl.embed(z, means, means + shift, seed=3) for shift in (0.0, 5.0))
    np.testing.assert_array_equal(first.cells, second.cells)
    assert not np.allclose(first.cells, scdgd.pl.embed(z, means, means, seed=4).cells)


@pytest.mark.parametrize("shape", [(14, 5), (2, 5), (1, 5), (9, 1)])
def test_few_cells_are_shown_by_principal_components(shape):
    z = np.random.default_rng(0).normal(size=shape)
    embedding = scdgd.pl.embed(z, z.mean(axis=0, keepdims=True), z[:1])
    assert embedding.name == "PC"
    assert embedding.cells.shape == (shape[0], 2)
    np.testing.assert_allclose(embedding.means, 0, atol=1e-12)
    np.testing.assert_allclose(embedding.samples, embedding.cells[:1], atol=1e-12)
    variances = embedding.cells.var(axis=0)
    spectrum = np.linalg.svd(z - z.mean(axis=0), compute_uv=False) ** 2 / len(z)
    np.testing.assert_allclose(variances, np.append(spectrum, 0.0)[:2], atol=1e-12)


def texts(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.texts]


def legend_of(ax: Axes) -> list[str]:
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_latent_numbers_the_used_components_at_their_means(annotated, trained):
    annotated.obs["scdgd_cluster"] = pd.Categorical(["0"] * 100 + ["2"] * 49 + ["1"], categories=["0", "1", "2"])
    embedding = scdgd.pl.Embedding(annotated.obsm["X_umap"], np.arange(6.0).reshape(3, 2), np.zeros((7, 2)), "UMAP")
    by_cluster, by_type = scdgd.pl.latent(annotated, trained, color=["scdgd_cluster", "cell_type"], embedding=embedding)
    for ax in (by_cluster, by_type):
        assert texts(ax) == ["0", "2"]  # one cell of 150 does not make component 1 a used one
        assert [text.xy for text in ax.texts] == [(0.0, 1.0), (4.0, 5.0)]
        assert ax.get_xlabel() == "UMAP1"
        drawn = {c.get_label(): c.get_offsets() for c in ax.collections}
        assert len(drawn["prior draws"]) == 7
    assert legend_of(by_cluster) == ["0 (100)", "1 (1)", "2 (49)", "prior draws"]
    assert legend_of(by_type) == ["type_0 (50)", "type_1 (50)", "type_2 (50)", "prior draws"]


@pytest.mark.slow
def test_latent_fits_a_map_where_there_is_none_and_keeps_it_as_scanpy_does(annotated, trained):
    del annotated.obsm["X_umap"]
    ax = scdgd.pl.latent(annotated, trained, n_samples=30, seed=1)
    drawn = {len(c.get_offsets()): c.get_offsets() for c in ax.collections}
    draws = trained.prior_predictive_sample(30, seed=1).obsm["X_scdgd"]
    means, draws = map(trained.get_information().to_information, (trained.get_component_means(), draws))
    expected = scdgd.pl.embed(annotated.obsm["X_scdgd_information"], means, draws, seed=1)
    np.testing.assert_allclose(drawn[30], expected.samples)
    np.testing.assert_allclose(np.sort(drawn[150], axis=0), np.sort(expected.cells, axis=0))
    kept, ours = annotated.obsm["X_umap"].copy(), annotated.uns.pop("umap")["params"]
    sc.pp.neighbors(annotated, use_rep="X_scdgd_information")
    sc.tl.umap(annotated, key_added="of_scanpy", maxiter=1)
    assert ours["a"] == pytest.approx(annotated.uns["of_scanpy"]["params"]["a"])
    assert ours["b"] == pytest.approx(annotated.uns["of_scanpy"]["params"]["b"])
    again = scdgd.pl.latent(annotated, trained, n_samples=30, seed=1)  # now read, not fitted
    np.testing.assert_array_equal(annotated.obsm["X_umap"], kept)
    assert "umap" not in annotated.uns
    np.testing.assert_allclose({len(c.get_offsets()): c.get_offsets() for c in again.collections}[30], drawn[30])


@pytest.mark.parametrize("nats", [[400.0, 20.0, 1.0, 0.0], [3.0, 2.0, 1.0, 1.0]])
def test_information_is_that_of_each_axis(trained, nats):
    """On a scale that shows all of them; the share of the last is one."""
    trained.information_ = {"axes": np.eye(4), "nats": np.array(nats)}
    figure = scdgd.pl.information(trained, return_fig=True)
    left, right = figure.axes
    drawn = left.lines[0].get_ydata()
    assert left.get_yscale() == ("log" if nats[-1] == 0 else "linear")
    np.testing.assert_allclose(drawn, np.maximum(nats, 400e-6 if nats[-1] == 0 else 0))
    np.testing.assert_allclose(right.lines[0].get_ydata(), np.cumsum(nats) / sum(nats))


def test_latent_without_a_model_draws_the_stored_positions_in_the_right_colours(annotated):
    annotated.uns["cell_type_colors"] = ["#ff0000", "#00ff00", "#0000ff"]
    ax = scdgd.pl.latent(annotated, color="cell_type")
    (dots,) = ax.collections
    assert texts(ax) == []
    expected = {"type_0": (1, 0, 0), "type_1": (0, 1, 0), "type_2": (0, 0, 1)}
    colors = {tuple(position): tuple(color[:3]) for position, color in zip(*dots_of(dots), strict=True)}
    for position, cell_type in zip(annotated.obsm["X_umap"], annotated.obs["cell_type"], strict=True):
        assert colors[tuple(position)] == expected[cell_type]


def dots_of(dots):
    return np.asarray(dots.get_offsets()).astype(np.float32), dots.get_facecolors()


def test_latent_of_numbers_gets_a_colour_bar_and_unlabelled_cells_are_named(annotated):
    figure = scdgd.pl.latent(annotated, color="age", return_fig=True)
    assert len(figure.axes) == 2
    annotated.obs.loc[annotated.obs_names[:30], "cell_type"] = np.nan
    assert legend_of(scdgd.pl.latent(annotated, color="cell_type"))[-1] == "none (30)"
    annotated.obs["is_old"] = annotated.obs["age"] > 0
    assert len(legend_of(scdgd.pl.latent(annotated, color="is_old"))) == 2


@pytest.mark.parametrize("n_clusters", [20, 45, 150])
def test_many_clusters_have_a_legend_that_fits_the_figure(annotated, n_clusters):
    annotated.obs["many"] = pd.Categorical([f"a cluster with a long name, {i % n_clusters}" for i in range(150)])
    figure = scdgd.pl.latent(annotated, color="many", return_fig=True)
    figure.canvas.draw()
    (ax,) = figure.axes
    if n_clusters <= 60:
        assert len(legend_of(ax)) == n_clusters
    else:
        assert legend_of(ax)[60:] == [f"and {n_clusters - 60} smaller ones"]
    box = ax.get_legend().get_window_extent()
    assert box.y0 >= 0
    assert box.y1 <= figure.bbox.height
    assert box.x1 <= figure.bbox.width
    assert ax.get_window_extent().width > 0.8 * ax.get_window_extent().height


def test_latent_says_what_is_missing(annotated, trained):
    with pytest.raises(ValueError, match="no column 'nothing' in adata.obs, and no gene 'nothing'"):
        scdgd.pl.latent(annotated, color="nothing")
    with pytest.raises(ValueError, match="2 panels to draw, but `ax` has 1"):
        scdgd.pl.latent(annotated, color=["cell_type", "batch"], ax=plt.figure().gca())
    del annotated.obsm["X_umap"], annotated.obsm["X_scdgd"]
    with pytest.raises(ValueError, match=r"sc.tl.umap"):
        scdgd.pl.latent(annotated)
    with pytest.raises(ValueError, match=r"scdgd.tl.annotate"):
        scdgd.pl.latent(annotated, trained)


def test_label_shares_have_rows_of_one_and_a_visible_diagonal():
    crosstab = pd.DataFrame(
        [[0, 90, 0, 10, 0], [500, 0, 0, 99, 1], [0, 2, 98, 0, 0]], index=["a", "b", "c"], columns=list("01234")
    )
    shares = scdgd.pl.label_shares(crosstab)
    assert list(shares.columns) == ["1", "0", "3", "2", "other"]
    np.testing.assert_allclose(shares.sum(axis=1), 1)
    np.testing.assert_allclose(shares.loc["a"], [0.9, 0, 0.1, 0, 0])
    np.testing.assert_allclose(shares.loc["b", "other"], 1 / 600)
    assert list(scdgd.pl.label_shares(crosstab, min_share=0.0).columns) == ["1", "0", "3", "4", "2"]
    with pytest.raises(ValueError, match="all 3 x 5 of them are zero"):
        scdgd.pl.label_shares(0 * crosstab)


def test_components_shows_the_shares(annotated):
    annotated.obs["scdgd_cluster"] = pd.Categorical(["2", "0", "1"] * 48 + ["0"] * 6, categories=list("0123"))
    ax = scdgd.pl.components(annotated, "cell_type")
    assert [label.get_text() for label in ax.get_yticklabels()] == ["type_0 (50)", "type_1 (50)", "type_2 (50)"]
    assert [label.get_text() for label in ax.get_xticklabels()] == ["2", "0", "1"]
    np.testing.assert_allclose(ax.images[0].get_array(), [[0.96, 0.04, 0], [0, 1, 0], [0, 0.04, 0.96]])
    assert texts(ax) == ["96", "100", "96"]
    counts = pd.crosstab(annotated.obs["cell_type"], annotated.obs["scdgd_cluster"])
    np.testing.assert_array_equal(scdgd.pl.components(counts).images[0].get_array(), ax.images[0].get_array())


def test_long_names_of_components_stand_upright():
    def rotations(names):
        ax = scdgd.pl.components(pd.DataFrame(np.eye(3, dtype=int), index=list("abc"), columns=names))
        return {text.get_rotation() for text in ax.get_xticklabels()}

    assert rotations(["0", "1", "10"]) == {0}
    assert rotations(["B cells", "T cells", "NK"]) == {90}


def test_components_without_labels_shows_sizes(annotated):
    annotated.obs["scdgd_cluster"] = pd.Categorical(["7"] * 30 + ["4"] * 120)
    ax = scdgd.pl.components(annotated)
    assert [label.get_text() for label in ax.get_xticklabels()] == ["4", "7"]
    np.testing.assert_allclose([bar.get_height() for bar in ax.patches], [0.8, 0.2])


def test_components_says_what_is_missing(annotated):
    with pytest.raises(ValueError, match="no column 'nothing'"):
        scdgd.pl.components(annotated, "nothing")
    with pytest.raises(ValueError, match=r"scdgd.tl.annotate"):
        scdgd.pl.components(simulate())
    annotated.obs["empty"] = pd.Categorical([None] * 150, categories=["a"])
    with pytest.raises(ValueError, match="none of 150"):
        scdgd.pl.components(annotated, "empty")


def test_history_shows_both_curves_and_where_the_mixture_was_placed(adata):
    model = train(make_model(adata), 5)
    ax = scdgd.pl.history(model)
    total, reconstruction, start = ax.lines
    np.testing.assert_array_equal(total.get_xdata(), [1, 2, 3, 4, 5])
    np.testing.assert_allclose(total.get_ydata(), model.history["elbo_train"].to_numpy(float).ravel())
    np.testing.assert_allclose(
        reconstruction.get_ydata(), model.history["reconstruction_loss_train"].to_numpy(float).ravel()
    )
    assert model.mixture_start_ == 2
    np.testing.assert_array_equal(start.get_xdata(), [2.5, 2.5])
    assert start.get_linestyle() == "--"


def test_history_shows_validation_cells_if_there_are_any(adata):
    model = train(make_model(adata), 3, train_size=0.8, check_val_every_n_epoch=1)
    labels = legend_of(scdgd.pl.history(model))
    assert labels[:2] == ["objective", "objective, validation"]


def test_history_of_a_prior_that_is_placed_from_the_start_has_no_line(adata):
    model = train(make_model(adata, prior="softball", prior_kwargs={"covariance_type": "fixed"}))
    assert len(scdgd.pl.history(model).lines) == 2


def test_history_cuts_only_a_fall_that_would_hide_the_rest():
    gentle = np.linspace(200.0, 100.0, 50)
    low, high = _limits([gentle])
    assert low < 100 < 200 < high
    steep = np.r_[5000.0, np.linspace(200.0, 100.0, 49)]
    low, high = _limits([steep])
    assert low < 100 < 180 < high < 300
    low, high = _limits([np.array([3.0])])
    assert low < 3 < high


def test_history_of_an_untrained_model_says_so(adata):
    with pytest.raises(ValueError, match=r"Call `model.train\(\)` first"):
        scdgd.pl.history(make_model(adata))


def test_latent_draws_models_with_an_encoder(adata):
    model_class = scdgd.model.SCGMVAE
    model_class.setup_anndata(adata)
    model = model_class(adata, n_components=3, n_latent=4, n_hidden=16)
    model.train(3, accelerator="cpu", enable_progress_bar=False)
    scdgd.tl.annotate(model)  # under the same keys for every model
    adata.obsm["X_umap"] = adata.obsm["X_scdgd"][:, :2].copy()
    ax = scdgd.pl.latent(adata, model, n_samples=20)
    assert model.get_component_means().shape == (3, 4)
    assert len(ax.collections) >= 2


@pytest.fixture
def real_and_synthetic():
    real = simulate(60, 20, depth=80.0)
    synthetic = simulate(40, 20, seed=1, depth=120.0)
    return real, synthetic


def test_synthetic_cells_beside_real_ones(real_and_synthetic):
    real, synthetic = real_and_synthetic
    sizes, zeros, variation, gene = scdgd.pl.synthetic(real, synthetic, real.var_names[2])
    quantiles, diagonal = sizes.lines
    totals = [np.sort(np.asarray(x.X.sum(1)).ravel()) for x in real_and_synthetic]
    np.testing.assert_allclose(quantiles.get_xdata()[[0, -1]], totals[0][[0, -1]])
    np.testing.assert_allclose(quantiles.get_ydata()[[0, -1]], totals[1][[0, -1]])
    np.testing.assert_array_equal(*diagonal.get_data())
    assert [line.get_label() for line in zeros.lines] == ["Poisson", "real", "synthetic"]
    assert len(variation.collections[0].get_offsets()) == 20
    for bars, cells in zip(gene.containers, real_and_synthetic, strict=True):
        heights = [bar.get_height() for bar in bars]
        assert sum(heights) == pytest.approx(1)
        column = cells.X[:, [2]].toarray().ravel()
        width = (bars[1].get_x() - bars[0].get_x()) if len(bars) > 1 else 1
        assert heights[0] == pytest.approx((column < round(width)).mean())


def test_axes_of_synthetic_cells(real_and_synthetic):
    real, synthetic = real_and_synthetic
    _, axes = plt.subplots(1, 3)
    assert list(scdgd.pl.synthetic(real, synthetic, ax=axes)) == list(axes)
    assert len(plt.get_fignums()) == 1
    with pytest.raises(ValueError, match="4 panels to draw, but `ax` has 3"):
        scdgd.pl.synthetic(real, synthetic, real.var_names[0], ax=axes)
    with pytest.raises(ValueError, match="There is no gene 'CD0'"):
        scdgd.pl.synthetic(real, synthetic, ["CD0"])
    with pytest.raises(ValueError, match="20 and 12, of which 12 are shared"):
        scdgd.pl.synthetic(real, synthetic[:, :12].copy())


def mixing_data():
    rng = np.random.default_rng(0)
    batch = np.array(["a", "b"])[rng.integers(0, 2, 200)]
    labels = np.array(["p", "q"])[np.arange(200) % 2]
    before = rng.normal(size=(200, 3)) + 20 * (batch == "a")[:, None]
    return {"before": before, "after": rng.normal(size=(200, 3))}, batch, labels


def test_mixing_has_a_row_for_each_label_and_a_box_for_each_space(tmp_path):
    spaces, batch, labels = mixing_data()
    _, ax = plt.subplots()
    assert scdgd.pl.batch_mixing(spaces, batch, labels, ax=ax, save=tmp_path / "mixing.png") is ax
    assert (tmp_path / "mixing.png").stat().st_size > 1000
    assert [text.get_text() for text in ax.get_yticklabels()] == ["p (100)", "q (100)"]
    assert [bar.get_width() == 0 for bar in ax.patches] == [True, True, False, False]
    after = scdgd.metrics.batch_mixing(spaces["after"], batch, labels)
    assert legend_of(ax) == ["before (score 0.00)", f"after (score {after.score:.2f})", "expected"]
    quartiles = np.percentile(after.per_cell[labels == "q"], [25, 75])
    bar = ax.patches[3]
    np.testing.assert_allclose([bar.get_x(), bar.get_x() + bar.get_width()], quartiles)
    by_batch = scdgd.pl.batch_mixing(spaces, batch, labels, groupby="batch")
    assert [text.get_text()[0] for text in by_batch.get_yticklabels()] == ["a", "b"]


def test_mixing_of_an_anndata_names_what_is_missing(annotated):
    annotated.obsm["X_pca"] = annotated.obsm["X_scdgd"] * 2
    annotated.obs["batch"] = mixing_data()[1][:150]
    ax = scdgd.pl.batch_mixing(annotated, "batch", n_neighbors=20)
    assert len(legend_of(ax)) == 3
    with pytest.raises(ValueError, match="no 'X_other'"):
        scdgd.pl.batch_mixing(annotated, "batch", use_rep="X_other")
    with pytest.raises(ValueError, match="no column 'kit'"):
        scdgd.pl.batch_mixing(annotated, "kit")
    with pytest.raises(ValueError, match="there are no `labels`"):
        scdgd.pl.batch_mixing(annotated, "batch", groupby="labels")
    with pytest.raises(ValueError, match="Pass a value for each cell"):
        scdgd.pl.batch_mixing({"z": annotated.obsm["X_pca"]}, "batch")
    with pytest.raises(ValueError, match="Pass arrays by name"):
        scdgd.pl.batch_mixing({}, "batch")
    with pytest.raises(TypeError, match="got a ndarray"):
        scdgd.pl.batch_mixing(annotated.obsm["X_pca"], "batch")


def test_trees_have_a_leaf_for_each_component_with_cells_and_bars_that_add_up(trained, adata):
    ax = scdgd.pl.component_tree(trained, "cell_type")
    tree = scdgd.tl.component_tree(trained)
    names = [f"{c} ({n:,})" for c, n in enumerate(tree.sizes) if n]
    assert sorted(text.get_text() for text in ax.texts) == names
    assert sum(bar.get_width() for bar in ax.patches) == pytest.approx(4.0 * len(names))
    assert not scdgd.pl.component_tree(trained).patches
    with pytest.raises(ValueError, match="There is no column 'kind' in the obs of the model's data"):
        scdgd.pl.component_tree(trained, "kind")


def test_latent_marks_merged_components_once(annotated, trained):
    trained.merge_components([0, 1, 0])
    scdgd.tl.annotate(trained)
    ax = scdgd.pl.latent(annotated, trained)
    assert {text.get_text() for text in ax.texts} <= {"0", "1"}
    assert len(ax.texts) == annotated.obs["scdgd_cluster"].nunique()


def test_history_of_both_parts_of_a_divergence():
    """On an axis of their own; together with the reconstruction they are the objective, once its weight is full."""
    adata = simulate(60, 8)
    SCGMVAE.setup_anndata(adata)
    model = SCGMVAE(adata, n_components=3, n_latent=2, n_hidden=8)
    model.train(3, accelerator="cpu", enable_progress_bar=False)
    of = {key: frame.to_numpy(float).ravel() for key, frame in model.history.items()}
    np.testing.assert_allclose(of["kl_z_train"] + of["kl_y_train"], of["kl_local_train"], rtol=1e-4)
    ax = scdgd.pl.history(model)
    (other,) = [each for each in ax.figure.axes if each is not ax]
    drawn = [line.get_ydata() for line in other.lines]
    np.testing.assert_array_equal(drawn, [of["kl_z_train"], of["kl_y_train"]])


def test_latent_covariance_counts_components_and_orders_dimensions(monkeypatch):
    """Of representations on a plane in four dimensions, one of which does not vary."""
    adata = simulate(40, 8)
    SCGMVAE.setup_anndata(adata)
    model = SCGMVAE(adata, n_components=2, n_latent=4, n_hidden=8)
    model.train(1, accelerator="cpu", enable_progress_bar=False)
    rng = np.random.default_rng(0)
    z = np.zeros((40, 4))
    z[:, 1], z[:, 3] = 3 * rng.normal(size=40), rng.normal(size=40)
    z[:, 2] = 0.2 * z[:, 1]
    monkeypatch.setattr(model, "get_latent_representation", lambda adata=None: z)
    of_matrix, of_share = scdgd.pl.latent_covariance(model)
    order = [1, 3, 2, 0] if z[:, 3].var() > z[:, 2].var() else [1, 2, 3, 0]
    np.testing.assert_allclose(of_matrix.images[0].get_array(), np.cov(z.T)[np.ix_(order, order)])
    assert of_matrix.get_title() == "Covariance: 3 of 4 active"
    assert of_share.get_title() == "2 hold 95%"
    np.testing.assert_allclose(of_share.lines[0].get_ydata()[1:], 1)
    monkeypatch.setattr(model, "get_latent_representation", lambda adata=None: z[:1])
    with pytest.raises(ValueError, match="two cells or more"):
        scdgd.pl.latent_covariance(model)
