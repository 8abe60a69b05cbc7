"""Modalities of the same cells, side by side in one AnnData."""

from __future__ import annotations

import functools
import weakref
import zlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scipy import sparse

from ._cell_source import iter_row_blocks
from ._modalities import checked_modalities

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ._matrix import Matrix

#: Column of ``var`` that says of which modality a feature is.
MODALITY_KEY = "modality"
#: What joined data were made of, in their ``uns``.
SOURCE = "_scdgd_source"
#: Annotated data of several modalities that were joined, by identity, while they are there.
_JOINED: dict[tuple, _Joined] = {}


class _Joined(NamedTuple):
    """What was made of some data, and what these were."""

    data: weakref.ref
    state: list
    joined: AnnData


def joined_modalities(mdata: MuData, modalities: Mapping[str, str], layers: Mapping[str, str] | None = None) -> AnnData:
    """One AnnData of all cells of a MuData, with the features of its modalities side by side, as CSR.

    Features are called ``"rna:CD4"``, ``"protein:CD4"``, and ``var["modality"]`` says of which modality they are. Cells that a
    modality does not have are zero there. As long as the MuData stays as it is, the same AnnData is given again.

    Parameters
    ----------
    mdata
        The data.
    modalities
        Name in `mdata` of each modality, by ``"rna"``, ``"atac"`` and ``"protein"``. Those that `mdata` lacks are left out.
    layers
        Layer of the counts, by modality, where they are not in ``X``.

    Raises
    ------
    ValueError
        If none of the modalities is there, or a layer is not.
    """
    modalities, layers = checked_modalities(dict(modalities), list(mdata.mod)), dict(layers or {})
    there = {name: key for name, key in modalities.items() if key in mdata.mod}
    if not there:
        msg = f"None of the modalities {list(modalities.values())} is in the MuData, which has {list(mdata.mod)}."
        raise ValueError(msg)
    counts = {name: _counts(mdata.mod[key], layers.get(name), f"mdata['{key}']") for name, key in there.items()}
    names = {name: mdata.mod[key].var_names for name, key in there.items()}
    cells = {name: mdata.mod[key].obs_names for name, key in there.items()}
    return _kept(mdata, counts, names, cells, {"modalities": modalities, "layers": layers})


def joined_proteins(adata: AnnData, protein_obsm_key: str, layer: str | None = None) -> AnnData:
    """The same of an AnnData of genes whose proteins are in ``obsm``.

    Names of genes stay as they are; those of proteins are the columns of a data frame, or numbers, behind ``"protein:"``.

    Raises
    ------
    ValueError
        If there are no such counts.
    """
    if protein_obsm_key not in adata.obsm:
        msg = f"There are no proteins {protein_obsm_key!r}; adata.obsm has {sorted(map(str, adata.obsm))}."
        raise ValueError(msg)
    proteins = adata.obsm[protein_obsm_key]
    names = proteins.columns if isinstance(proteins, pd.DataFrame) else pd.RangeIndex(proteins.shape[1])
    proteins = proteins.to_numpy() if isinstance(proteins, pd.DataFrame) else proteins
    counts = {"rna": _counts(adata, layer, "adata"), "protein": proteins}
    cells = dict.fromkeys(counts, adata.obs_names)
    names = {"rna": adata.var_names, "protein": names}
    source = {"protein_obsm_key": protein_obsm_key} | ({} if layer is None else {"layer": layer})
    return _kept(adata, counts, names, cells, source, prefixes={"rna": ""})


def last_joined(data: AnnData | MuData | None) -> AnnData | MuData | None:
    """What was last made of some data, if they were joined; else as they are.

    Raises
    ------
    ValueError
        If it is a MuData that was not joined.
    """
    found = [known.joined for known in _JOINED.values() if known.data() is data and data is not None]
    if not found and isinstance(data, MuData):
        msg = "The MuData was not set up: call `MULTIDGD.setup_mudata(mdata, modalities=...)` first."
        raise ValueError(msg)
    return found[-1] if found else data


def _counts(adata: AnnData, layer: str | None, where: str) -> Matrix:
    if layer is not None and layer not in adata.layers:
        msg = f"{where} has no layer {layer!r}; it has {sorted(map(str, adata.layers))}."
        raise ValueError(msg)
    counts = adata.X if layer is None else adata.layers[layer]
    if counts is None:
        msg = f"{where}.X is empty; name the layer with raw counts in `layers`."
        raise ValueError(msg)
    return counts


def _kept(
    data: AnnData | MuData,
    counts: dict[str, Matrix],
    names: dict[str, pd.Index],
    cells: dict[str, pd.Index],
    source: dict,
    prefixes: Mapping[str, str] | None = None,
) -> AnnData:
    """The joined data that are known, with columns of cells as they are now, or such as are made anew."""
    key, obs = (id(data), *counts), data.obs
    state = [list(obs.index), [_state(x) for x in counts.values()], [list(map(str, n)) for n in names.values()]]
    known = _JOINED.pop(key, None)
    if known is not None and known.data() is data and known.state == state:
        for column in obs:
            known.joined.obs[column] = obs[column]
        _JOINED[key] = known  # the last that was asked for
        return known.joined
    blocks = [_aligned(counts[name], cells[name], obs.index) for name in counts]
    var = [
        pd.DataFrame({MODALITY_KEY: name}, index=(prefixes or {}).get(name, f"{name}:") + names[name].astype(str))
        for name in counts
    ]
    joined = AnnData(sparse.hstack(blocks, format="csr"), obs=obs.copy(), var=pd.concat(var), uns={SOURCE: source})
    _JOINED[key] = _Joined(weakref.ref(data), state, joined)
    weakref.finalize(data, _JOINED.pop, key, None).atexit = False
    return joined


def _state(counts: Matrix) -> tuple:
    """Checksum of all counts, by which a change of them is noticed."""
    if sparse.issparse(counts) or isinstance(counts, np.ndarray):
        blocks = [counts if getattr(counts, "format", "csr") in ("csr", "csc") else counts.tocsr()]
    else:
        blocks = (block for _, block in iter_row_blocks(counts))
    arrays = (part for x in blocks for part in ((x.indptr, x.indices, x.data) if sparse.issparse(x) else (x,)))
    checksum = functools.reduce(lambda sum, part: zlib.crc32(np.ascontiguousarray(part), sum), arrays, 0)
    return type(counts), counts.shape, str(counts.dtype), checksum


def _aligned(counts: Matrix, cells: pd.Index, wanted: pd.Index) -> sparse.csr_matrix:
    """Rows of cells in the order that is wanted, float32; of cells that are not there, empty ones."""
    counts = counts if sparse.issparse(counts) or isinstance(counts, np.ndarray) else counts[:]
    counts = sparse.csr_matrix(counts, dtype=np.float32)
    if cells.equals(wanted):
        return counts
    nothing = sparse.csr_matrix((1, counts.shape[1]), dtype=np.float32)
    return sparse.vstack([counts, nothing], format="csr")[cells.get_indexer(wanted)]
