"""AnnData written with counts that never are in memory at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import h5py
import numpy as np

from scdgd._files import written_whole

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anndata import AnnData
    from scipy import sparse

_H5_CHUNK = 2**14
_INT32_MAX = np.iinfo(np.int32).max


def write_by_chunks(adata: AnnData, counts: Iterator[sparse.csr_matrix], path: Path) -> None:
    """Write `adata` with `counts`, chunk by chunk; the file appears under its name when it is complete."""
    with written_whole(path) as part:
        adata.write_h5ad(part)
        with h5py.File(part, "r+") as file:
            _write_counts(file, counts, adata.shape)


def _write_counts(file: h5py.File, counts: Iterator[sparse.csr_matrix], shape: tuple[int, int]) -> None:
    """Write ``X`` in AnnData's format of CSR matrices."""
    if "X" in file:
        del file["X"]
    group = file.create_group("X")
    group.attrs.update({"encoding-type": "csr_matrix", "encoding-version": "0.1.0", "shape": shape})
    data = group.create_dataset("data", (0,), np.float32, maxshape=(None,), chunks=(_H5_CHUNK,))
    indices = group.create_dataset("indices", (0,), np.int32, maxshape=(None,), chunks=(_H5_CHUNK,))
    indptr, rows, total = np.zeros(shape[0] + 1, dtype=np.int64), 0, 0
    for chunk in counts:
        indptr[rows + 1 : rows + 1 + chunk.shape[0]] = total + chunk.indptr[1:].astype(np.int64)
        rows, total = rows + chunk.shape[0], total + chunk.nnz
        for dataset, values in ((data, chunk.data), (indices, chunk.indices)):
            dataset.resize((total,))
            dataset[total - chunk.nnz :] = values
    group.create_dataset("indptr", data=indptr if total > _INT32_MAX else indptr.astype(np.int32))
