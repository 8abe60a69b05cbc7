"""Other cells that the encoder of new cells learns from: copies of training cells, and cells that the model draws."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from scvi import REGISTRY_KEYS

from scdgd._constants import MEASURED_KEY
from scdgd.data import SparseCounts, as_sparse_counts

if TYPE_CHECKING:
    from scdgd.module import DGDModule

    Tensors = dict[str, torch.Tensor]

#: Shares of the minibatches that the model draws anew, of the cells of the others that are thinned, and of all minibatches
#: of which some genes are left out.
_DRAWN, _THINNED, _MASKED = 0.5, 0.5, 0.25
#: The least share of its counts that a thinned cell keeps, and of the genes that are left.
_LEAST_DEPTH, _LEAST_PANEL = 0.2, 0.05


def others_like(module: DGDModule, tensors: Tensors) -> Tensors:
    """Cells drawn by the model, or copies that are thinned, some of fewer genes at random; cells without values are left out."""
    x, of_counts = as_sparse_counts(tensors[REGISTRY_KEYS.X_KEY]), module.link.is_of_counts
    depth = _LEAST_DEPTH + (1 - _LEAST_DEPTH) * _random(len(x), x)
    if float(_random(1, x)) < _DRAWN:
        others = drawn(module, tensors, depth)
    elif of_counts:
        others = thinned(tensors, torch.where(_random(len(x), x) < _THINNED, depth, 1.0))
    else:
        others = tensors
    if float(_random(1, x)) < _MASKED:
        panel = _random(x.n_genes, x) < _LEAST_PANEL + (1 - _LEAST_PANEL) * _random(1, x)
        others = on_panel(others, panel)
    others = {**others, REGISTRY_KEYS.X_KEY: as_sparse_counts(others[REGISTRY_KEYS.X_KEY])}
    kept = others[REGISTRY_KEYS.X_KEY].indptr.diff().nonzero().ravel()
    return {key: value[kept] for key, value in others.items()}


@torch.no_grad()
def drawn(module: DGDModule, tensors: Tensors, depth: torch.Tensor) -> Tensors:
    """Cells that the model draws at draws of the rows of training cells, at shares ``(b,)`` of their sizes.

    Their representations lie between those of training cells, which the decoder has seen the counts of and new cells not.
    """
    rows = module.representations(tensors[REGISTRY_KEYS.INDICES_KEY].ravel())
    log_size = module.log_size(tensors) + depth.log().unsqueeze(1)
    values = module.decode(module.posterior.draw(rows), log_size, tensors).sample()
    measured = tensors.get(MEASURED_KEY)
    values = values if measured is None else values.masked_fill(~measured, 0)
    return _of_depth({**tensors, REGISTRY_KEYS.X_KEY: SparseCounts.from_dense(values)}, depth)


def thinned(tensors: Tensors, depth: torch.Tensor) -> Tensors:
    """The same cells, of whose counts shares ``(b,)`` were seen, drawn binomially; registered sizes shrink with them."""
    x = as_sparse_counts(tensors[REGISTRY_KEYS.X_KEY])
    counts = torch.binomial(x.values, depth[x.cells])
    return _of_depth({**tensors, REGISTRY_KEYS.X_KEY: _with_values(x, counts)}, depth)


def on_panel(tensors: Tensors, panel: torch.Tensor) -> Tensors:
    """The same cells, of which the genes of a panel ``(g,)``, bool, were measured and no others."""
    x = as_sparse_counts(tensors[REGISTRY_KEYS.X_KEY])
    measured = tensors.get(MEASURED_KEY, torch.ones(x.shape, dtype=torch.bool, device=x.device)) & panel
    return {
        **tensors,
        REGISTRY_KEYS.X_KEY: _with_values(x, torch.where(panel[x.indices], x.values, 0)),
        MEASURED_KEY: measured,
    }


def _of_depth(tensors: Tensors, depth: torch.Tensor) -> Tensors:
    """Registered sizes, where there are some, of shares ``(b,)`` of the depth."""
    key = REGISTRY_KEYS.SIZE_FACTOR_KEY
    return {**tensors, key: tensors[key] * depth.unsqueeze(1)} if key in tensors else tensors


def _with_values(x: SparseCounts, values: torch.Tensor) -> SparseCounts:
    """Entries with other values, without those that are zero."""
    kept = values != 0
    indptr = torch.zeros_like(x.indptr)
    torch.cumsum(torch.bincount(x.cells[kept], minlength=len(x)), 0, out=indptr[1:])
    return SparseCounts(indptr, x.indices[kept], values[kept], x.n_genes)


def _random(n: int, x: SparseCounts) -> torch.Tensor:
    return torch.rand(n, device=x.device)
