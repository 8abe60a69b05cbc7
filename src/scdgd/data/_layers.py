"""Where counts stand in an AnnData."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scdgd._compat import layer_names

from ._matrix import as_native, require_matrix

if TYPE_CHECKING:
    from anndata import AnnData

    from ._matrix import Matrix


def counts_of(adata: AnnData, layer: str | None = None) -> Matrix:
    """The counts in a layer, or in ``X``, shape ``(n, g)``, as they are stored if NumPy and SciPy compute with them so.

    Parameters
    ----------
    adata
        The cells.
    layer
        Name of the layer; ``None`` for ``X``.

    Raises
    ------
    TypeError
        If `adata` is no AnnData, or counts are in an array that is not read.
    KeyError
        If there is no such layer.
    """
    if not hasattr(adata, "layers"):
        msg = f"Counts and the names of their cells and genes come in an AnnData, but this is a {type(adata).__name__}."
        raise TypeError(msg)
    if layer is not None and layer not in layer_names(adata):
        msg = f"`layer` names counts in `adata.layers`, but there is no {layer!r}. There are: {layer_names(adata)}."
        raise KeyError(msg)
    counts = adata.X if layer is None else adata.layers[layer]
    require_matrix(counts, "adata.X" if layer is None else f"adata.layers[{layer!r}]")
    return as_native(counts) if hasattr(counts, "astype") and not adata.isbacked else counts


def raw_matrix_of(adata: AnnData) -> Matrix:
    """What stands in ``adata.raw``, of whatever genes it has, shape ``(n, c)``: for pictures, and for counts that are kept there."""
    return adata.raw.X
