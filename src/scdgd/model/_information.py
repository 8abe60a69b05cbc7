"""The mean information of counts about representations, of cells that a model was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scvi import REGISTRY_KEYS

from scdgd._constants import MEASURED_KEY
from scdgd.inference import InformationCoordinates, latent_module, mean_information

from ._query_genes import measured_with, minibatches_of, with_counts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from anndata import AnnData
    from scvi.model.base import BaseModelClass

    from scdgd.module import LatentModule

#: Cells that inform, of a model and of a panel of genes.
_MOST_CELLS, _MOST_CELLS_OF_PANEL = 500, 256
#: Entries of a Jacobian that is held at a time, and cells at most.
_MOST_ENTRIES, _TOGETHER = 2**24, 256


def coordinates_of(
    model: BaseModelClass, positions: np.ndarray, genes: np.ndarray | None = None
) -> InformationCoordinates:
    """Of the counts of some of the attached cells at `positions`, each in its own batch; with `genes` ``(g,)``, of these."""
    most = _MOST_CELLS if genes is None else _MOST_CELLS_OF_PANEL
    positions = some_of(np.random.default_rng(0), measured_with(model, positions, genes), most)
    positions = with_counts(model, positions, genes)
    return _of_cells(model, positions, lambda adata, together: minibatches_of(model, adata, positions, together, genes))


def coordinates_of_stock(model: BaseModelClass) -> InformationCoordinates:
    """The same of a model of scvi-tools, of any cells that are attached: which of them have trained it may be lost."""
    positions = some_of(np.random.default_rng(0), np.arange(model.adata.n_obs), _MOST_CELLS)
    return _of_cells(model, positions, lambda adata, n: model._make_data_loader(adata, indices=positions, batch_size=n))


def some_of(rng: np.random.Generator, cells: np.ndarray, most: int) -> np.ndarray:
    """All of the cells, or a random `most` of them, in their order."""
    return cells if len(cells) <= most else np.sort(rng.choice(cells, most, replace=False))


def _of_cells(
    model: BaseModelClass, positions: np.ndarray, minibatches: Callable[[AnnData, int], Iterable[dict]]
) -> InformationCoordinates:
    module, adata = latent_module(model.module), model._validate_anndata(None)
    z = torch.as_tensor(model.get_latent_representation(indices=positions), device=module.device)
    total, first = np.zeros((z.shape[1],) * 2), 0
    together = max(1, min(_TOGETHER, _MOST_ENTRIES // (adata.n_vars * z.shape[1])))
    with torch.inference_mode():
        for tensors in minibatches(adata, together):
            tensors = {key: value.to(module.device) for key, value in tensors.items()}
            n = len(tensors[REGISTRY_KEYS.X_KEY])
            of_cells = mean_information(_decoder_of(module, tensors), z[first : first + n], tensors.get(MEASURED_KEY))
            total += n * of_cells.cpu().numpy()
            first += n
    return InformationCoordinates.of(total / len(positions))


def _decoder_of(module: LatentModule, tensors: dict[str, torch.Tensor]) -> Callable:
    log_size = module.log_size(tensors)
    return lambda z: module.decode(z, log_size, tensors)
