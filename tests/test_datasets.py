"""The packaged cells: counts that are really counts."""

from __future__ import annotations

import numpy as np
import scanpy as sc
from scipy import sparse

import scdgd


def test_pbmc68k_counts_are_those_behind_the_normalised_values():
    adata = scdgd.datasets.pbmc68k()
    reduced = sc.datasets.pbmc68k_reduced()
    counts = adata.X.toarray().astype(float)
    assert counts.shape == (700, 765)
    np.testing.assert_array_equal(counts, np.rint(counts))
    totals = reduced.obs["n_counts"].to_numpy(dtype=float)[:, None]
    np.testing.assert_allclose(np.log1p(counts / totals * 1e4), reduced.raw.X.toarray(), atol=1e-3)
    unrounded = np.expm1(reduced.raw.X.toarray().astype(float)) * totals / 1e4
    assert np.abs(unrounded - counts).max() < 0.1  # no value is near the half where rounding would be a guess
    assert counts.max() == 259


def test_pbmc68k_is_ready_for_use():
    adata = scdgd.datasets.pbmc68k()
    assert isinstance(adata.X, sparse.csr_matrix)
    assert adata.X.dtype == np.float32
    assert adata.X.nnz == (adata.X.data > 0).sum()
    assert adata.obs["bulk_labels"].nunique() == 10
    assert adata.obs["bulk_labels"].value_counts()["CD19+ B"] == 95
    assert (np.asarray(adata.X.sum(1)).ravel() < adata.obs["n_counts"]).all()
    assert adata.obs["gem_well"].cat.categories.tolist() == list("12345678")
    assert adata.obs["gem_well"].value_counts().between(70, 100).all()
    scdgd.model.SCDGD.setup_anndata(adata)  # a warning would be an error here


def test_pbmc68k_hands_out_copies():
    first = scdgd.datasets.pbmc68k()
    first.X.data[:] = 0
    first.obs["bulk_labels"] = "?"
    second = scdgd.datasets.pbmc68k()
    assert second.X.sum() > 0
    assert second.obs["bulk_labels"].nunique() == 10
