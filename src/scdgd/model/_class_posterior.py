"""Classes of cells: probabilities over their posteriors, and the temperature that calibrates them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scvi import REGISTRY_KEYS

from scdgd.inference import fit_temperature, posterior_samples, seeded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from scdgd.inference import ImportanceSamples

    from ._latent_model import LatentModel

#: Most cells that a temperature is fitted to, and number of those held out from which on no others are needed.
_MAX_CELLS, _ENOUGH_CELLS = 500, 50
#: Draws of a posterior behind a temperature.
_N_DRAWS = 50


class ClassPosterior:
    r"""Probabilities that cells are of a class, integrated over the posteriors of their representations.

    .. math::
        p(y \mid x) = \mathbb E_{p(z \mid x)} \sum_{c \in \mathcal C_y} r_c(z) \approx
            \sum_s w_s \sum_{c \in \mathcal C_y} r_c(z_s)

    by importance-weighted draws of :func:`scdgd.inference.posterior_samples`. The label of a cell plays no part in its own
    posterior: cells whose labels trained the model are placed anew without them.

    Parameters
    ----------
    model
        A model whose classes own components.
    """

    def __init__(self, model: LatentModel) -> None:
        self.model, self.module = model, model.module

    def probabilities(
        self, adata: AnnData | None, indices: Sequence[int] | None, batch_size: int | None, n_samples: int
    ) -> np.ndarray:
        """Probabilities of classes, and of belonging to no class, shape ``(n, C + 1)``, not calibrated."""
        parts = []
        with seeded(0):
            for tensors, rows in self.model.posterior.minibatches(adata, indices, batch_size, "Classes"):
                samples = posterior_samples(self.module, tensors, self._without_labels(tensors, rows), n_samples)
                parts.append(self._of(samples).cpu().numpy())
        return np.concatenate(parts)

    @torch.no_grad()
    def _of(self, samples: ImportanceSamples) -> torch.Tensor:
        """Probabilities of the cells of a minibatch, ``(b, C + 1)``."""
        prior = self.module.prior
        of_components = torch.einsum("sb,sbk->bk", samples.weights, prior.responsibilities(samples.z))
        return prior.classes.probabilities(of_components)

    def _without_labels(self, tensors: dict[str, torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        """Rows ``(b, w)``, those of cells whose labels trained as they would be without."""
        pulled = torch.nn.functional.pad(self.model.labelled_rows_, (0, 1)).to(
            rows.device
        )  # cells placed later are behind
        index = tensors[REGISTRY_KEYS.INDICES_KEY].ravel().clamp(max=len(pulled) - 1)
        some = pulled[index].nonzero().ravel()
        if not len(some):
            return rows
        rows = rows.clone()
        rows[some] = self.model.cells.place({key: value[some] for key, value in tensors.items()})
        return rows

    def calibration(self, train: np.ndarray, held_out: np.ndarray) -> dict[str, Any]:
        """Temperature of probabilities among classes, and the labelled cells that it was fitted to, at positions of the attached data.

        Those that are held out if there are 50. Else also cells that train, with their labels hidden: they are placed anew by
        their counts, which the decoder knows, and the mixture remembers their labels as far as they have moved it. At most 500 cells.
        """
        labels = (
            np.asarray(self.model.adata_manager.get_from_registry(REGISTRY_KEYS.LABELS_KEY)).ravel().astype(np.int64)
        )
        train, held_out = (cells[labels[cells] >= 0] for cells in (train, held_out))
        is_held_out = len(held_out) >= _ENOUGH_CELLS
        some = held_out if is_held_out else np.concatenate([train, held_out])
        if len(some) > _MAX_CELLS:
            some = np.random.default_rng(0).choice(some, _MAX_CELLS, replace=False)
        some = np.sort(some)  # as backed data must be read
        of_classes = self.probabilities(None, some, None, _N_DRAWS)[:, :-1]
        total = np.maximum(of_classes.sum(1, keepdims=True), np.finfo(of_classes.dtype).tiny)
        temperature = fit_temperature(of_classes / total, labels[some])
        return {"temperature": temperature, "n_cells": len(some), "is_held_out": is_held_out}
