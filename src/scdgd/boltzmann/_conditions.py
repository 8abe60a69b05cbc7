"""What a Boltzmann machine of counts is conditioned on."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch
from scvi import REGISTRY_KEYS

from scdgd._compat import get_state_registry

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from anndata import AnnData
    from scipy import sparse


class Conditions(NamedTuple):
    """What the machine is conditioned on, for ``n`` cells or chains."""

    batch: torch.Tensor
    """Batches, shape ``(n,)``, int64."""
    size: torch.Tensor
    """Size factors, shape ``(n,)``; ones if sizes are not modelled."""
    evidence: torch.Tensor | None = None
    r"""What genes with fixed counts add to the log-odds of :math:`h^1`, shape ``(n, H_1)``; ``None`` where no gene is fixed."""

    def of(self, rows: torch.Tensor) -> Conditions:
        """Those of some of the cells."""
        return Conditions(*(None if values is None else values[rows] for values in self))

    @classmethod
    def joined(cls, parts: Iterable[Conditions]) -> Conditions:
        """Batches and sizes of several minibatches, one after another."""
        batches, sizes, _ = zip(*parts, strict=True)
        return cls(torch.cat(batches), torch.cat(sizes))


def batches_of(cells: AnnData, registry: dict, device: torch.device) -> torch.Tensor:
    """Codes of the batches of cells that need not be registered, shape ``(n,)``."""
    state = get_state_registry(registry, REGISTRY_KEYS.BATCH_KEY)
    names, key = list(state["categorical_mapping"]), state["original_key"]
    if len(names) == 1:
        return torch.zeros(cells.n_obs, dtype=torch.int64, device=device)
    if key not in cells.obs:
        msg = (
            f"The model has the batches {names}, so `counts.obs` needs the column {key!r} that says which is a cell's."
        )
        raise ValueError(msg)
    codes = pd.Index(names).get_indexer(cells.obs[key])
    if (codes < 0).any():
        unknown = list(cells.obs[key][codes < 0].unique()[:5])
        msg = f"The model knows the batches {names}, but not {unknown}, which stand in `counts.obs[{key!r}]`."
        raise ValueError(msg)
    return torch.as_tensor(codes, device=device)


def sizes_of(
    cells: AnnData, registry: dict, module: torch.nn.Module, library_size: float | None, *, are_totals: bool
) -> torch.Tensor:
    """Size factors of cells that need not be registered, shape ``(n,)``."""
    if library_size is not None and not (module.uses_size and are_totals and library_size > 0):
        msg = (
            f"`library_size={library_size!r}` is not possible: it must be positive, and needs a model with "
            "`use_library_size=True` and sizes that are total counts, not a registered size factor."
        )
        raise ValueError(msg)
    if not module.uses_size:
        size = np.ones(cells.n_obs)
    elif are_totals:
        if library_size is None:
            msg = "Sizes of this model are total counts of all genes: say how large cells are by `library_size`."
            raise ValueError(msg)
        size = np.full(cells.n_obs, library_size / float(module.mean_total))
    else:
        key = get_state_registry(registry, REGISTRY_KEYS.SIZE_FACTOR_KEY)["attr_key"]
        if key not in cells.obs:
            msg = f"The model has registered size factors, so `counts.obs` needs the column {key!r}."
            raise ValueError(msg)
        size = cells.obs[key].to_numpy(float)
    return torch.as_tensor(size, device=module.device).to(module.weights[0])


def fixed_genes(known: np.ndarray, received: pd.Index, genes: Sequence[str] | None) -> np.ndarray:
    """Whether each gene of the model is fixed, shape ``(g,)``."""
    wanted = pd.Index(received if genes is None else genes)
    for names, where in ((pd.Index(known), "the genes of the model"), (received, "the genes of `counts`")):
        missing = wanted.difference(names)
        if len(missing):
            msg = f"Genes {list(missing[:5])} are not among {where}. Name the genes to fix in `genes`."
            raise ValueError(msg)
    if not wanted.is_unique or not received.is_unique:
        msg = "Names of the genes to fix must differ, and so must those of `counts`: `counts.var_names_make_unique()`."
        raise ValueError(msg)
    fixed = pd.Index(known).isin(wanted)
    if fixed.all() or not fixed.any():
        msg = f"{int(fixed.sum())} of {len(known)} genes are fixed. Fix some and leave some to draw (`genes`)."
        raise ValueError(msg)
    return fixed


def check_fixed_counts(x: sparse.csr_matrix, cells: AnnData) -> None:
    """As for training, but cells may be without counts of the fixed genes, and genes without counts are no news."""
    bad = ~(np.isfinite(x.data) & (x.data >= 0) & (x.data == np.rint(x.data)))
    if bad.any():
        entries, first = x.tocoo(), int(np.flatnonzero(bad)[0])
        cell, gene = cells.obs_names[entries.row[first]], cells.var_names[entries.col[first]]
        msg = (
            f"Fixed counts must be non-negative integers, but {int(bad.sum())} are not, first cell {cell}, gene {gene}: "
            f"{x.data[first]:g}. Name the layer of raw counts (`layer`)."
        )
        raise ValueError(msg)
