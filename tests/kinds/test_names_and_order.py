"""Kind F: rows and columns of results have the names, and the order, that were asked for."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scvi
from numpy.testing import assert_allclose

from tests.pairs import pairs

from .models import OURS, every_model, trained

GENES = ["gene_5", "gene_0", "gene_3"]


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
            assert drawn.shape == (n_samples, model.adata.n_vars)


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


@every_model
def test_new_cells_in_another_order_of_genes(name):
    """Are read by the names of genes, or refused."""
    model, new = trained(name)
    expected = model.get_latent_representation(new)
    permuted = new[:, new.var_names[::-1]].copy()
    try:
        found = model.get_latent_representation(permuted)
    except ValueError as error:
        assert "gene" in str(error)  # noqa: PT017  either is right
    else:
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


@every_model
def test_tables_of_comparisons_have_each_gene_once(name):
    model, _ = trained(name)
    table = model.differential_expression(groupby="cell_type", silent=True)
    assert (table.groupby("comparison").size() == model.adata.n_vars).all()
    assert set(table["comparison"]) == {f"type_{i} vs Rest" for i in range(3)}
