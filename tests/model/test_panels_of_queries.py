"""Queries with other columns than the genes of a model, through all that reads them."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scdgd.data import registered_cells
from scdgd.metrics import held_out_log_likelihood
from scdgd.metrics._held_out import _halves
from scdgd.model import SCDGD, FlexSCVI
from tests.conftest import make_model, simulate, train


@pytest.fixture(scope="module")
def model() -> SCDGD:
    return train(make_model(simulate(60, 12)), 1)


@pytest.fixture(scope="module")
def encoder() -> FlexSCVI:
    adata = simulate(60, 12)
    FlexSCVI.setup_anndata(adata)
    return train(FlexSCVI(adata, n_components=2, n_latent=2, n_hidden=8), 1)


def query(*, other_columns: bool) -> ad.AnnData:
    """20 new cells, with the genes of the model or with others between them from the last to the first."""
    new = simulate(20, 12, seed=1)
    new.obs_names = [f"new_{i}" for i in range(20)]
    if not other_columns:
        return new
    counts = sparse.hstack([new.X, 2 * new.X], format="csr")
    names = [*new.var_names, *(f"other_{j}" for j in range(12))]
    return ad.AnnData(counts, obs=new.obs, var=pd.DataFrame(index=names))[:, ::-1].copy()


def both(read, **options) -> list:
    return [read(query(other_columns=other), **options) for other in (False, True)]


@pytest.mark.parametrize("from_folder", [True, False])
def test_a_query_model_stands_on_other_columns(model, from_folder, tmp_path):
    reference = model
    if from_folder:
        model.save(tmp_path / "reference")
        reference = tmp_path / "reference"

    def read(adata):
        of_query = SCDGD.load_query_data(adata, reference, accelerator="cpu")
        assert list(of_query.get_var_names()) == list(model.get_var_names())
        train(of_query, 2)
        of_query.save(tmp_path / f"query {adata.n_vars}", save_anndata=True)
        loaded = SCDGD.load(tmp_path / f"query {adata.n_vars}", accelerator="cpu")
        z = of_query.get_latent_representation()
        np.testing.assert_array_equal(loaded.get_latent_representation(), z)
        return z

    np.testing.assert_array_equal(*both(read))


def test_an_encoder_is_extended_by_cells_with_other_columns(encoder):
    def read(adata):
        of_query = train(FlexSCVI.load_query_data(adata, encoder, accelerator="cpu"), 1)
        of_query.minify_adata()
        return of_query.get_normalized_expression(return_numpy=True, n_samples=1), of_query.adata.obs[
            of_query._OBSERVED_LIB_SIZE_KEY
        ]

    plain, other = both(read)
    np.testing.assert_array_equal(plain[1], other[1])
    np.testing.assert_array_equal(plain[0].shape, other[0].shape)


def test_attached_data_may_have_other_columns(model, tmp_path):
    def read(adata):
        model.adata = adata
        assert model.summary_stats.n_vars == 12
        model.save(tmp_path / "model", overwrite=True, save_anndata=True)
        loaded = SCDGD.load(tmp_path / "model", accelerator="cpu")
        return loaded.get_normalized_expression(return_numpy=True)

    attached = model.adata
    np.testing.assert_array_equal(*both(read))
    model.adata = attached


@pytest.mark.parametrize("kind", ["model", "encoder"])
def test_held_out_counts_are_those_of_the_genes_of_the_model(kind, request):
    of_model, new = request.getfixturevalue(kind), query(other_columns=True)
    inferred, scored = _halves(of_model, new, 0.5, 0)
    seen = registered_cells(of_model.get_anndata_manager(inferred)).rows(np.arange(20))
    np.testing.assert_array_equal((seen + scored).toarray(), query(other_columns=False).X.toarray())
    assert np.isfinite(held_out_log_likelihood(of_model, new).log_likelihood)


@pytest.mark.filterwarnings("ignore:.*genes are missing from the new data")
def test_raw_means_of_genes_that_were_not_measured_are_none(model):
    new = query(other_columns=False)
    options = {"groupby": "cell_type", "group1": "type_0", "silent": True}
    table = model.differential_expression(new[:, 3:].copy(), **options)
    expected = model.differential_expression(new, **options)
    assert table.loc[[f"gene_{j}" for j in range(3)], ["raw_mean1", "non_zeros_proportion2"]].isna().all(axis=None)
    some = [f"gene_{j}" for j in range(3, 12)]
    np.testing.assert_array_equal(table.loc[some, "raw_mean1"], expected.loc[some, "raw_mean1"])
