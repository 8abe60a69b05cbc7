"""What a model says of its training cells as if they were new, and of new cells beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scvi import REGISTRY_KEYS
from scvi.utils import track

from scdgd.data import as_sparse_counts
from scdgd.inference import NoveltyReference, ReadCells, mean_information
from scdgd.likelihood import Likelihood

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData
    from scvi.model.base import BaseModelClass

#: Training cells that may be neighbours, those that are read anew, and those that the information is of.
_MOST_NEIGHBORS, _MOST_CELLS, _MOST_INFORMING = 20_000, 2_000, 256
#: The least number of cells that can be a reference.
_LEAST_CELLS = 10
_TOGETHER = 256
_SHOW_CELLS = 2_000


def reference_of(model: BaseModelClass, batch_size: int | None) -> NoveltyReference:
    """The reference of a model: as it was kept, or of the cells that are attached to the model.

    ValueError if there are no training cells to make one of.
    """
    kept = model.novelty_reference_
    if kept is None:
        kept = model.novelty_reference_ = _made(model, batch_size).to_dict()
    return NoveltyReference(**kept)


def read(model: BaseModelClass, adata: AnnData, positions: np.ndarray, batch_size: int | None, what: str) -> ReadCells:
    """What a model says of cells at `positions`, training cells as if they were new."""
    module, order = model.module, np.argsort(positions, kind="stable")  # as data on disk must be read
    z = model.posterior.found_anew(adata, positions[order], batch_size).to(module.device)
    loader = model._make_data_loader(adata, positions[order], batch_size=batch_size or _TOGETHER)
    parts, first = [], 0
    with torch.inference_mode():
        prior = module.given_prior()
        for tensors in track(loader, description=what, disable=len(positions) < _SHOW_CELLS):
            tensors = {key: value.to(module.device) for key, value in tensors.items()}
            x = as_sparse_counts(tensors[REGISTRY_KEYS.X_KEY])
            of_batch = z[first : first + len(x)]
            px = module.decode(of_batch, module.log_size(tensors), tensors)
            log_prob = px.log_prob(x) if isinstance(px, Likelihood) else px.log_prob(x.to_dense()).sum(-1)
            of_counts = [x.totals(), x.indptr.diff()] if model._has_sizes else [torch.ones_like(log_prob)] * 2
            of_counts = [number.clamp(min=1).to(log_prob) for number in of_counts]
            parts.append(torch.stack([prior.log_prob(of_batch), log_prob, *of_counts]).double().cpu())
            first += len(x)
    values = torch.cat(parts, dim=1).numpy()
    back = np.argsort(order, kind="stable")
    names = np.asarray(adata.obs_names, dtype=str)[positions]
    return ReadCells(names, z.double().cpu().numpy()[back], *values[:, back])


def _made(model: BaseModelClass, batch_size: int | None) -> NoveltyReference:
    adata = model._validate_anndata(None)
    trained = model.posterior.training_cells()
    if len(trained) < _LEAST_CELLS:
        msg = (
            f"How unlike the reference a cell is, is told from the training cells, but {len(trained)} of the {adata.n_obs} cells "
            f"attached to this model are such ({_LEAST_CELLS} are needed). Call `get_novelty()` once on the model with its "
            "training data and save it, or attach them: `model.adata = adata`."
        )
        raise ValueError(msg)
    rng = np.random.default_rng(0)
    neighbors = _some(rng, trained, _MOST_NEIGHBORS)
    chosen = _some(rng, trained, _MOST_CELLS)
    cells = read(model, adata, chosen, batch_size, f"Reading {len(chosen)} cells of the reference")
    z = model.get_latent_representation(indices=neighbors, batch_size=batch_size)
    names = np.asarray(adata.obs_names, dtype=str)[neighbors]
    return NoveltyReference.of(model.posterior.information(), z, names, cells)


def information_of(model: BaseModelClass, positions: np.ndarray) -> np.ndarray:
    """Mean information of the counts of some of the attached cells at `positions`, shape ``(d, d)``."""
    module, adata = model.module, model._validate_anndata(None)
    positions = _some(np.random.default_rng(0), positions, _MOST_INFORMING)
    z = torch.as_tensor(model.get_latent_representation(indices=positions), device=module.device)
    total, first = np.zeros((z.shape[1],) * 2), 0
    with torch.inference_mode():
        for tensors in model._make_data_loader(adata, positions, batch_size=_TOGETHER):
            tensors = {key: value.to(module.device) for key, value in tensors.items()}
            n = len(tensors[REGISTRY_KEYS.X_KEY])
            total += n * mean_information(_decoder_of(module, tensors), z[first : first + n]).cpu().numpy()
            first += n
    return total / len(positions)


def _decoder_of(module: torch.nn.Module, tensors: dict[str, torch.Tensor]) -> Callable:
    log_size = module.log_size(tensors)
    return lambda z: module.decode(z, log_size, tensors)


def _some(rng: np.random.Generator, cells: np.ndarray, most: int) -> np.ndarray:
    """All of the cells, or a random `most` of them, in their order."""
    return cells if len(cells) <= most else np.sort(rng.choice(cells, most, replace=False))
