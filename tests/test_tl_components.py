"""What the components of a mixture say of genes: against formulas, other software and simulated truth."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse, stats

import scdgd
from scdgd.inference import latent_module
from scdgd.model import SCDGD
from scdgd.tl._component_gene_correlation import _spearman
from tests.conftest import simulate
from tests.kinds.models import built, every_model, fitted, train, trained
from tests.kinds.test_merged_components import WITH_COMPONENTS

#: Genes that differ between the two types of `two`, the first ten more in type_1.
CHANGED = [f"gene_{j}" for j in range(20)]


@pytest.fixture(scope="module")
def two() -> SCDGD:
    """240 cells of 2 types and 80 genes, 20 of which differ, four-fold."""
    rng = np.random.default_rng(0)
    rate = np.tile(rng.lognormal(0, 0.5, 80), (2, 1))
    rate[:, 10:20] = rate[:, :10]
    rate[1, :10] *= 4
    rate[0, 10:20] *= 4
    types = np.arange(240) % 2
    mean = (rate / rate.sum(1, keepdims=True))[types] * 800 * rng.lognormal(0, 0.2, (240, 1))
    counts = rng.poisson(rng.gamma(10.0, mean / 10.0)).astype(np.float32)
    obs = pd.DataFrame({"cell_type": [f"type_{t}" for t in types]}, index=[f"cell_{i}" for i in range(240)])
    var = pd.DataFrame(index=[f"gene_{j}" for j in range(80)])
    return train(built("SCDGD", ad.AnnData(sparse.csr_matrix(counts), obs=obs, var=var), n_components=2), 40)


@pytest.fixture(scope="module")
def three() -> SCDGD:
    """180 cells of 3 types in 6 components."""
    return train(built("SCDGD", simulate(180, n_types=3, n_genes=40, depth=500.0), n_components=6), 30)


def clusters_of(model: SCDGD) -> list[int]:
    """Numbers of the clusters of type_0 and type_1."""
    assigned, types = model.get_cluster_assignments(), model.adata.obs["cell_type"].to_numpy()
    return [int(np.bincount(assigned[types == f"type_{t}"]).argmax()) for t in range(2)]


@every_model
def test_every_model_with_components_has_them_or_says_why_not(name):
    model, new = trained(name)
    calls = (
        lambda: scdgd.tl.component_distances(model),
        lambda: scdgd.tl.component_gene_correlation(model, ["gene_1", "gene_0"], new),
        lambda: scdgd.tl.component_path(model, 0, 1),
        lambda: scdgd.tl.sample_components(model, 3),
    )
    if name not in WITH_COMPONENTS:
        for call in calls if name != "SCDBM" else calls[:1] + calls[2:]:  # patterns have probabilities, and no means
            with pytest.raises((NotImplementedError, ValueError), match="so there are no clusters|without means"):
                call()
        return
    distances, table = calls[0](), calls[1]()
    clusters = sorted(set(model.get_cluster_assignments(indices=model.posterior.training_cells())))
    assert sorted(distances.index) == clusters
    assert table.correlation.index.tolist() == ["gene_1", "gene_0"]
    drawn = calls[3]()
    assert drawn.obs["cluster"].value_counts().to_dict() == {str(c): 3 for c in clusters}
    if len(clusters) > 1:
        start, end = map(int, clusters[:2])
        path = scdgd.tl.component_path(model, start, end, n_steps=4)
        assert np.isfinite(path.genes["variation"]).all()
        assert len(path.z) == len(path.expression) == 5
        np.testing.assert_allclose(path.expression.sum(axis=1), 1e4, rtol=1e-3)
        np.testing.assert_allclose(path.places["distance"].iloc[-1], distances.loc[start, end], rtol=1e-4)


@pytest.mark.parametrize("coordinates", ["information", "latent"])
def test_distances_are_those_of_means_by_weight(three, coordinates):
    three.merge_components(None)
    means = three.get_component_means(coordinates=coordinates)
    tree = scdgd.tl.component_tree(three)
    first, *others = np.flatnonzero(tree.sizes)
    three.component_tree_ = tree.to_dict() | {"merges": np.array([(first, other) for other in others[::-1]])}
    found = scdgd.tl.component_distances(three, coordinates=coordinates)
    three.component_tree_ = tree.to_dict()
    assert found.index.tolist() == [first, *others[::-1]]
    np.testing.assert_allclose(found, [[np.linalg.norm(means[a] - means[b]) for b in found] for a in found], rtol=1e-5)
    clusters = tree.cut(3)
    three.merge_components(clusters)
    weights = three.module.prior.weights.detach().numpy()
    of_clusters = np.array([np.average(means[clusters == c], axis=0, weights=weights[clusters == c]) for c in range(3)])
    merged = scdgd.tl.component_distances(three, coordinates=coordinates)
    np.testing.assert_allclose(merged.loc[0, 1], np.linalg.norm(of_clusters[0] - of_clusters[1]), rtol=1e-5)
    assert len(scdgd.tl.component_distances(three, merged=False)) == len(found)
    three.merge_components(None)


@pytest.mark.parametrize("normalized", [True, False])
def test_correlations_are_those_of_scipy(three, normalized):
    genes = ["gene_7", "gene_0", "gene_33"]
    inside = (three.adata.obs["cell_type"] != "type_2").to_numpy()
    found = scdgd.tl.component_gene_correlation(
        three, genes, cells="cell_type != 'type_2'", normalized=normalized, min_share=0
    )
    x = three.adata[inside].X.toarray().astype(float)
    sizes = three.get_latent_library_size(indices=np.flatnonzero(inside)).astype(np.float64)
    np.testing.assert_allclose(sizes, x.sum(1, keepdims=True), rtol=1e-5)  # of single precision, which breaks ties
    x = x / sizes if normalized else x
    probability = three.get_cluster_assignments(indices=np.flatnonzero(inside), soft=True)
    assert set(found.correlation) == set(probability.argmax(1))
    for gene in genes:
        for c in found.correlation:
            truth = stats.spearmanr(x[:, three.adata.var_names.get_loc(gene)], probability[:, c])
            np.testing.assert_allclose(found.correlation.loc[gene, c], truth.statistic, atol=1e-10)
            np.testing.assert_allclose(found.p_value.loc[gene, c], truth.pvalue, rtol=1e-6)
    np.testing.assert_allclose(
        found.q_value, stats.false_discovery_control(found.p_value.to_numpy().ravel()).reshape(3, -1)
    )
    assert found.n_cells == inside.sum()
    shares = np.bincount(probability.argmax(1)) / inside.sum()
    some = scdgd.tl.component_gene_correlation(three, genes, cells=inside, min_share=shares.max())
    assert some.correlation.columns.tolist() == np.flatnonzero(shares == shares.max()).tolist()


def test_correlations_leave_out_what_was_not_measured_and_know_nothing_of_what_does_not_vary():
    rng = np.random.default_rng(0)
    x, probability = rng.poisson(1.0, (50, 3)).astype(float), rng.random((50, 2))
    x[:, 2] = 0
    measured = np.ones((50, 3), dtype=bool)
    measured[:20, 0] = False
    found, p_value = _spearman(sparse.csc_matrix(x * measured), measured, probability)
    truth = stats.spearmanr(x[20:, 0], probability[20:, 1])
    np.testing.assert_allclose([found[0, 1], p_value[0, 1]], [truth.statistic, truth.pvalue])
    assert np.isnan(found[2]).all()
    assert np.isnan(p_value[2]).all()


def test_a_marker_goes_with_its_cluster(two):
    start, end = clusters_of(two)
    found = scdgd.tl.component_gene_correlation(two, [*CHANGED, "gene_50"])
    assert (found.correlation.loc[CHANGED[:10], end] > 0.4).all()
    assert (found.correlation.loc[CHANGED[10:], start] > 0.3).all()
    assert abs(found.correlation.loc["gene_50", end]) < 0.2


def test_the_genes_of_a_path_are_those_that_differ(two):
    start, end = clusters_of(two)
    path = scdgd.tl.component_path(two, start, end)
    assert set(path.genes.index[:20]) == set(CHANGED)
    change = path.genes["logfoldchange"]
    assert (change[CHANGED[:10]] > 1).all()
    assert (change[CHANGED[10:]] < -1).all()
    counts = two.adata.X.toarray() / two.adata.X.sum(1)
    types = two.adata.obs["cell_type"].to_numpy()
    for row, kind in ((0, "type_0"), (-1, "type_1")):
        truth = 1e4 * np.asarray(counts)[types == kind].mean(0)
        assert np.corrcoef(np.log(path.expression.iloc[row]), np.log(truth))[0, 1] > 0.97
    assert path.genes["share"].sum() == pytest.approx(1)
    back = scdgd.tl.component_path(two, end, start).genes.loc[path.genes.index]
    np.testing.assert_allclose(back["variation"], path.genes["variation"], rtol=1e-3)
    np.testing.assert_allclose(back["midpoint"], 1 - path.genes["midpoint"], atol=1e-3)
    y = two.get_latent_representation(coordinates="information")
    place = two.get_information().to_information(path.z[7])
    assert path.places["nearest_cell"].iloc[7] == pytest.approx(np.linalg.norm(y - place, axis=1).min(), rel=1e-4)


def test_variation_is_the_length_in_the_metric_of_fisher(two):
    """With slopes by automatic differentiation, of cells of one size."""
    module, (tensors,) = latent_module(two.module), two._make_data_loader(two.adata, batch_size=240)
    path = scdgd.tl.component_path(two, 0, 1, n_steps=60)
    z = torch.as_tensor(path.z)
    # the cells that were drawn are the same each time
    cells = scdgd.tl._component_path._donors(two, (0, 1), True)
    tensors = {key: value[torch.as_tensor(cells)] for key, value in tensors.items() if key != "X"}
    log_size = torch.as_tensor(two.adata.X.sum(1)[cells], dtype=torch.float32).log().reshape(-1, 1)
    total, direction = 0.0, (z[-1] - z[0]).expand(len(cells), -1)
    for place in (z[1:] + z[:-1]) / 2:
        at = place.expand(len(cells), -1)
        mean, slope = torch.autograd.functional.jvp(lambda v: module.decode(v, log_size, tensors).mean, at, direction)
        total = total + (slope.abs() / module.decode(at, log_size, tensors).variance.sqrt()).mean(0) / 60
    np.testing.assert_allclose(path.genes.loc[two.adata.var_names, "variation"], total.detach(), rtol=0.01)


def test_cells_of_each_cluster_are_of_that_cluster(three):
    three.merge_components(scdgd.tl.component_tree(three).cut(3))
    drawn = scdgd.tl.sample_components(three, 40, seed=3)
    assert drawn.obs_names.is_unique
    assigned = three.get_cluster_assignments(drawn).astype(str)
    assert (assigned == drawn.obs["cluster"].astype(str)).mean() > 0.9
    components = drawn.obs["component"].astype(int).to_numpy()
    np.testing.assert_array_equal(three.component_clusters_[components].astype(str), drawn.obs["cluster"].astype(str))
    again = scdgd.tl.sample_components(three, 40, seed=3)
    assert (again.X != drawn.X).nnz == 0
    assert scdgd.tl.sample_components(three, 5, clusters=[1]).obs["cluster"].unique().tolist() == ["1"]
    three.merge_components(None)


@pytest.mark.parametrize(
    ("function", "arguments", "message"),
    [
        ("component_gene_correlation", {"genes": "gene_0"}, r"Write `genes=\['gene_0'\]`"),
        ("component_gene_correlation", {"genes": []}, "is empty"),
        ("component_gene_correlation", {"genes": ["CD3"]}, r"\['CD3'\] in `genes` are not among the 80"),
        ("component_gene_correlation", {"genes": ["gene_0"], "cells": [1, 2]}, "3 cells at least.*names 2"),
        ("component_gene_correlation", {"genes": ["gene_0"], "cells": "nothing == 1"}, "is no query"),
        ("component_gene_correlation", {"genes": ["gene_0"], "min_share": 0.9}, "a share of 90% of the 240 cells"),
        ("component_path", {"start": 0, "end": 0}, "from one cluster to another"),
        ("component_path", {"start": 0, "end": 7}, r"`end` must be a cluster with cells, one of \[0, 1\], got 7"),
        ("component_path", {"start": 0, "end": 1, "n_steps": 0}, "n_steps"),
        ("component_distances", {"coordinates": "umap"}, "coordinates"),
        ("sample_components", {"clusters": [5]}, r"`clusters` must be a cluster with cells"),
        ("sample_components", {"clusters": []}, "1 at least"),
        ("sample_components", {"n_cells": 0}, "n_cells"),
    ],
)
def test_what_cannot_be_is_refused(two, function, arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        getattr(scdgd.tl, function)(two, **arguments)


def test_models_that_are_none_are_refused(tmp_path):
    with pytest.raises(TypeError, match="first argument is a str"):
        scdgd.tl.component_distances("model")
    with pytest.raises(RuntimeError, match="is not trained"):
        scdgd.tl.component_path(built("SCDGD", simulate(40)), 0, 1)
    with pytest.raises(TypeError, match="for models of this package, and a SCVI has no components"):
        scdgd.tl.component_distances(scvi_model())
    values = simulate(60)
    values.X = np.log1p(values.X.toarray())
    model = fitted("SCDGD", values, {"is_count_data": False}, gene_likelihood="normal")
    with pytest.raises(NotImplementedError, match="normalized=False"):
        scdgd.tl.component_gene_correlation(model, ["gene_0"])
    assert scdgd.tl.component_gene_correlation(model, ["gene_0"], normalized=False).n_cells == 60
    with pytest.raises(NotImplementedError, match="how counts vary"):
        scdgd.tl.component_path(model, 0, 1)
    trained("SCDGD")[0].save(tmp_path / "model")
    with pytest.raises(ValueError, match="no cells are attached. Attach them"):
        scdgd.tl.component_distances(SCDGD.load(tmp_path / "model", adata=False))
    model, new = trained("SCDGD")
    query = train(SCDGD.load_query_data(new, model), 1)
    with pytest.raises(ValueError, match="none of the 24 attached is one.*model of its reference"):
        scdgd.tl.component_path(query, 0, 1)
    assert scdgd.tl.component_gene_correlation(query, ["gene_0"]).n_cells == 24


def scvi_model():
    """A stock model after an epoch."""
    from tests.model.test_contract import fit

    return fit("scVI", simulate(40), {})
