"""What a model says of cells held out, or of its training cells as if they were new, and of new cells beside them."""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from scvi import REGISTRY_KEYS
from scvi.utils import track

from scdgd._constants import MEASURED_KEY
from scdgd.data import as_sparse_counts
from scdgd.inference import NoveltyReference, ReadCells
from scdgd.likelihood._cells import log_prob_of_cells

from ._information import some_of
from ._query_genes import measured_with, minibatches_of, panels_of, with_counts

if TYPE_CHECKING:
    from anndata import AnnData
    from scvi.model.base import BaseModelClass

logger = logging.getLogger(__name__)

#: Training cells that may be neighbours, and those that are read anew.
_MOST_NEIGHBORS, _MOST_CELLS = 20_000, 2_000
#: Those that are read anew as if they had only some genes, and panels of genes whose references are kept.
_MOST_CELLS_OF_PANEL, _MOST_PANELS = 500, 8
#: The least number of training cells that can be a reference, and of cells held out that are preferred to them.
_LEAST_CELLS, _LEAST_HELD_OUT = 10, 100
_TOGETHER = 256
_SHOW_CELLS = 2_000


class Novelty(NamedTuple):
    """Of ``n`` cells."""

    score: np.ndarray
    """Larger for cells less like the reference, shape ``(n,)``."""
    p_value: np.ndarray
    """Shares of the reference cells that are as unlike the others, shape ``(n,)``."""


def novelty_of(model: BaseModelClass, adata: AnnData, positions: np.ndarray, batch_size: int | None) -> Novelty:
    """Novelty of cells of validated data at `positions`, each beside training cells with the same genes as it."""
    panels = panels_of(model, adata, positions)
    if len(panels) > _MOST_PANELS:
        logger.warning(
            "These cells were measured with %d panels of genes. The reference is read anew for each, and kept for %d of them.",
            len(panels),
            _MOST_PANELS,
        )
    score, p_value = np.empty(len(positions)), np.empty(len(positions))
    for genes, cells in panels:
        reference = reference_of(model, batch_size, genes)
        read_cells = read(model, adata, positions[cells], batch_size, f"Reading {len(cells)} cells")
        score[cells] = reference.score(read_cells)
        p_value[cells] = reference.p_values(score[cells])
    return Novelty(score, p_value)


def reference_of(model: BaseModelClass, batch_size: int | None, genes: np.ndarray | None = None) -> NoveltyReference:
    """The reference of a model: as it was kept, or of the cells that are attached to the model, with `genes` ``(g,)`` or all.

    ValueError if there are no training cells to make one of.
    """
    if genes is None:
        kept = model.novelty_reference_
        if kept is None:
            kept = model.novelty_reference_ = _made(model, batch_size, None).to_dict()
        return NoveltyReference(**kept)
    of_panels = model.novelty_of_panels_ or {}
    panel = hashlib.blake2b(np.packbits(genes).tobytes(), digest_size=8).hexdigest()
    kept = of_panels.get(panel) or _made(model, batch_size, genes).to_dict()
    others = [(key, value) for key, value in of_panels.items() if key != panel]
    model.novelty_of_panels_ = dict([*others[1 - _MOST_PANELS :], (panel, kept)])
    return NoveltyReference(**kept)


def read(
    model: BaseModelClass,
    adata: AnnData,
    positions: np.ndarray,
    batch_size: int | None,
    what: str,
    genes: np.ndarray | None = None,
) -> ReadCells:
    """What a model says of cells at `positions`, training cells as if they were new, all as if they only had `genes` ``(g,)``."""
    module, order = model.module, np.argsort(positions, kind="stable")  # as data on disk must be read
    z = model.posterior.found_anew(adata, positions[order], batch_size, genes).to(module.device)
    minibatches = minibatches_of(model, adata, positions[order], batch_size or _TOGETHER, genes)
    total = -(-len(positions) // (batch_size or _TOGETHER))
    parts, first = [], 0
    with torch.inference_mode():
        prior = module.given_prior()
        for tensors in track(minibatches, total=total, description=what, disable=len(positions) < _SHOW_CELLS):
            tensors = {key: value.to(module.device) for key, value in tensors.items()}
            x = as_sparse_counts(tensors[REGISTRY_KEYS.X_KEY])
            of_batch = z[first : first + len(x)]
            px = module.decode(of_batch, module.log_size(tensors), tensors)
            log_prob = log_prob_of_cells(px, x, tensors.get(MEASURED_KEY))
            of_counts = [x.totals(), x.indptr.diff()] if model._has_sizes else [torch.ones_like(log_prob)] * 2
            of_counts = [number.clamp(min=1).to(log_prob) for number in of_counts]
            parts.append(torch.stack([prior.log_prob(of_batch), log_prob, *of_counts]).double().cpu())
            first += len(x)
    values = torch.cat(parts, dim=1).numpy()
    back = np.argsort(order, kind="stable")
    names = np.asarray(adata.obs_names, dtype=str)[positions]
    return ReadCells(names, z.double().cpu().numpy()[back], *values[:, back])


def _made(model: BaseModelClass, batch_size: int | None, genes: np.ndarray | None) -> NoveltyReference:
    adata = model._validate_anndata(None)
    trained = model.posterior.training_cells()
    if len(trained) < _LEAST_CELLS:
        what, call = (", read with the genes of the query", "query") if genes is not None else ("", "")
        msg = (
            f"How unlike the reference a cell is, is told from the training cells{what}, but {len(trained)} of the "
            f"{adata.n_obs} cells attached to this model are such ({_LEAST_CELLS} are needed). Call `get_novelty({call})` once "
            "on the model with its training data and save it, or attach them: `model.adata = adata`."
        )
        raise ValueError(msg)
    rng = np.random.default_rng(0)
    neighbors = some_of(rng, trained, _MOST_NEIGHBORS)
    most = _MOST_CELLS if genes is None else _MOST_CELLS_OF_PANEL
    held_out = model.posterior.held_out_cells()
    witnesses = held_out if len(held_out) >= _LEAST_HELD_OUT else trained
    chosen = with_counts(model, some_of(rng, measured_with(model, witnesses, genes), most), genes)
    if genes is not None:
        logger.info("Reading %d cells of the reference with the %d genes of the query.", len(chosen), genes.sum())
    cells = read(model, adata, chosen, batch_size, f"Reading {len(chosen)} cells of the reference", genes)
    z = model.get_latent_representation(indices=neighbors, batch_size=batch_size)
    names = np.asarray(adata.obs_names, dtype=str)[neighbors]
    return NoveltyReference.of(model.posterior.coordinates(genes), z, names, cells)
