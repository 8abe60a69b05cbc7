"""Kind F: rows and columns of results have the names, and the order, that were asked for."""

from __future__ import annotations

import copy

import numpy as np
import pandas as pd
import pytest
import scvi
from anndata import AnnData, concat
from numpy.testing import assert_allclose
from scipy import sparse

from tests.pairs import pairs

from .models import OURS, READINGS, ROWS, every_model, reading, trained

GENES = ["gene_4", "gene_0", "gene_3"]


def seeded(method, *args, **kwargs):
    scvi.settings.seed = 1
    return method(*args, **kwargs)


@pairs(name=list(OURS), draws=[1, 3], mean=[True, False], form=["frame", "array"])
def test_genes_in_the_order_of_their_list(name, draws, mean, form):
    model, new = trained(name)
    for adata in (None, new):
        options = {"n_samples": draws, "return_mean": mean, "return_numpy": form == "array"}
        if form == "frame" and draws > 1 and not mean:
            continue  # draws are an array
        everything = seeded(model.get_normalized_expression, adata, **options)
        some = seeded(model.get_normalized_expression, adata, gene_list=GENES, **options)
        if form == "frame":
            assert list(some.columns) == GENES
            pd.testing.assert_frame_equal(some, everything[GENES])
        else:
            positions = [list(model.get_var_names()).index(gene) for gene in GENES]
            np.testing.assert_array_equal(some, everything[..., positions])


@every_model
def test_draws_of_genes_in_the_order_of_their_list(name):
    model, _ = trained(name)
    everything = seeded(model.posterior_predictive_sample, n_samples=2).todense()
    some = seeded(model.posterior_predictive_sample, n_samples=2, gene_list=GENES).todense()
    positions = [list(model.get_var_names()).index(gene) for gene in GENES]
    np.testing.assert_array_equal(some, everything[:, positions])
    if name == "MULTIDGD":
        return  # has no correlations of several modalities
    correlations = model.get_feature_correlation_matrix(n_samples=2)
    assert list(correlations.index) == list(correlations.columns) == list(model.get_var_names())


@pytest.mark.filterwarnings("ignore:Rows of the result are not the cells")
@every_model
def test_draws_over_all_cells_have_no_names_of_cells(name):
    """Not even if they are as many."""
    model, _ = trained(name)
    n = model.adata.n_obs
    for n_samples in (n - 1, n, n + 1):
        for return_numpy in (None, False):
            drawn = model.get_normalized_expression(n_samples_overall=n_samples, return_numpy=return_numpy)
            assert isinstance(drawn, np.ndarray)
            assert drawn.shape == (n_samples, model.get_normalized_expression(indices=[0]).shape[1])


@every_model
def test_draws_over_all_cells_of_given_minibatches(name, monkeypatch):
    """No others are read, and those that are given may be read once only; a flow draws no more of them than are taken."""
    model, _ = trained(name)
    once, again = (model._make_data_loader(model.adata, [3, 5], batch_size=1) for _ in range(2))
    expected = seeded(model.get_normalized_expression, indices=[3, 5], n_samples_overall=9, batch_size=1)
    monkeypatch.setattr(model, "_make_data_loader", None)
    assert model.get_normalized_expression(dataloader=iter(once), n_samples_overall=1).shape == (1, expected.shape[1])
    drawn = seeded(model.get_normalized_expression, dataloader=again, n_samples_overall=9)
    assert drawn.shape == expected.shape
    if name not in ROWS:  # posteriors of rows are kept by cell, which minibatches do not name
        np.testing.assert_array_equal(drawn, expected)
    with pytest.raises(ValueError, match="no cells to draw from"):
        model.get_normalized_expression(dataloader=iter([]), n_samples_overall=2)


@every_model
def test_rows_are_those_of_the_indices(name):
    model, _ = trained(name)
    indices = [7, 2, 30]
    table = model.get_normalized_expression(indices=indices)
    assert list(table.index) == list(model.adata.obs_names[indices])
    mask = np.zeros(model.adata.n_obs, bool)
    mask[indices] = True
    assert list(model.get_normalized_expression(indices=mask).index) == list(model.adata.obs_names[sorted(indices)])
    whole = model.get_latent_representation()
    assert_allclose(model.get_latent_representation(indices=indices), whole[indices], rtol=1e-4, atol=1e-5)
    assert_allclose(model.get_latent_representation(indices=[-1]), whole[[-1]], rtol=1e-4, atol=1e-5)
    with pytest.raises(IndexError, match=r"99.*36 cells"):
        model.get_latent_representation(indices=[99])


def with_other_genes(new: AnnData) -> AnnData:
    """The same cells: genes from the last to the first, and further ones between them that are unknown to the model."""
    further = AnnData(new.X + 1 if not sparse.issparse(new.X) else new.X * 3, obs=new.obs)
    further.var_names = [f"other_{name}" for name in new.var_names]
    wide = concat([further, new], axis="var", merge="first")
    order = np.arange(wide.n_vars).reshape(2, -1).T.ravel()[::-1]
    return wide[:, order].copy()


def assert_same_reading(name: str, method: str, change) -> None:
    """Bit for bit of new cells and of what `change` makes of them."""
    model, new = trained(name)
    expected, found = (reading(method, copy.deepcopy(model), adata) for adata in (new, change(new)))
    assert (expected is None) == (found is None)
    if expected is not None:
        np.testing.assert_array_equal(found, expected)


@every_model
def test_new_cells_with_genes_in_another_order_and_further_ones(name):
    assert_same_reading(name, "latent", with_other_genes)


@pytest.mark.slow
@pairs(
    name=list(OURS),
    method=list(READINGS),
    change={
        "other genes": with_other_genes,
        "permuted": lambda new: new[:, ::-1].copy(),
        "a view": lambda new: new[:, ::-1],
        "dense": lambda new: AnnData(new.X.toarray(), obs=new.obs, var=new.var)[:, ::-1].copy(),
    },
)
def test_readings_of_genes_in_another_order(name, method, change):
    assert_same_reading(name, method, change)


@every_model
def test_training_cells_are_found_by_the_genes_of_the_model(name):
    model, _ = trained(name)
    expected = model.get_latent_representation()
    np.testing.assert_array_equal(model.get_latent_representation(with_other_genes(model.adata.copy())), expected)


@every_model
def test_tables_of_comparisons_have_each_gene_once(name):
    model, _ = trained(name)
    table = model.differential_expression(groupby="cell_type", silent=True)
    assert (table.groupby("comparison").size() == model.adata.n_vars).all()
    assert set(table["comparison"]) == {f"type_{i} vs Rest" for i in range(3)}
