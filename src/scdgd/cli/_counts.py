"""Where the counts of a file are, and the genes of them that a model gets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._command import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

#: Values that are looked at to see whether they are counts; all are checked when a model is set up.
_LOOKED_AT = 1_000_000


def check_counts(adata: AnnData, path: Path | None, *, layer: str | None, raw: bool) -> None:
    """`UserError` if there are no counts where they are said to be, which names where there are some."""
    if raw and adata.raw is None:
        msg = f"{_name(path)} has no .raw{_instead(adata) or '; leave --raw out'}."
        raise UserError(msg)
    if layer is not None and layer not in adata.layers:
        msg = f"There is no layer '{layer}'; the layers are {_layers(adata)}."
        raise UserError(msg)
    where, values = _at(adata, layer, raw)
    if values is None:
        msg = f"X of {_name(path)} is empty{_instead(adata) or ', and nothing else of this file has counts'}."
        raise UserError(msg)
    problem = _problem(values)
    if problem is not None:
        what, row, column, value = problem
        gene = (adata.raw if raw else adata).var_names[column]
        msg = (
            f"{where} of {_name(path)} has {what}, first in cell {adata.obs_names[row]}, gene {gene}: {value:g}. "
            f"The model needs raw counts{_instead(adata) or '; no layer of this file, nor .raw, has them'}."
        )
        raise UserError(msg)


def _layers(adata: AnnData) -> list[str]:
    """Names of the layers; in newer AnnData ``X`` is one, too, without a name."""
    return sorted(key for key in adata.layers if key is not None)


def _name(path: Path | None) -> str:
    return "the file" if path is None else str(path)


def _at(adata: AnnData, layer: str | None, raw: bool) -> tuple[str, Any]:
    """What the place is called, and the values there."""
    if raw:
        return ".raw", adata.raw.X
    return ("X", adata.X) if layer is None else (f"The layer '{layer}'", adata.layers[layer])


def _instead(adata: AnnData) -> str:
    """Options that name counts; nothing if there are none."""
    found = [f"--layer {layer}" for layer in _layers(adata) if _problem(adata.layers[layer]) is None]
    if adata.X is not None and _problem(adata.X) is None:
        found.insert(0, "neither --layer nor --raw")
    if adata.raw is not None and _problem(adata.raw.X) is None:
        found.append("--raw")
    return f"; counts are found with {' or '.join(found)}" if found else ""


def _problem(matrix: Any) -> tuple[str, int, int, float] | None:
    """What makes the first values no counts, and the row, column and value; ``None`` if nothing does."""
    import numpy as np
    from scipy import sparse

    if not sparse.issparse(matrix):
        n_rows = max(_LOOKED_AT // max(matrix.shape[1], 1), 1)
        matrix = sparse.csr_matrix(np.asarray(matrix[:n_rows]))
    values = matrix.data[:_LOOKED_AT]
    kinds = {
        "values that are NaN or infinite": ~np.isfinite(values),
        "negative values": values < 0,
        "values that are not integer": values != np.rint(values),
    }
    for what, is_bad in kinds.items():
        if is_bad.any():
            at = int(is_bad.argmax())
            line = int(np.searchsorted(matrix.indptr, at, side="right")) - 1
            row, column = (line, matrix.indices[at]) if matrix.format == "csr" else (matrix.indices[at], line)
            return what, int(row), int(column), float(values[at])
    return None
