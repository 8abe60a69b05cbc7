"""Classes of cells: probabilities over their posteriors, and the temperature that calibrates them."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scvi import REGISTRY_KEYS

from scdgd.inference import fit_temperature, posterior_samples, seeded

from ._supervision import codes_of_rows

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anndata import AnnData

    from scdgd.inference import ImportanceSamples
    from scdgd.prior import Prior

    from ._row_model import RowModel

#: Most cells that a temperature is fitted to, held-out ones from which on training cells are not needed, folds of their labels.
_MAX_CELLS, _ENOUGH_CELLS, _N_FOLDS = 500, 50, 5
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

    def __init__(self, model: RowModel) -> None:
        self.model, self.module = model, model.module

    def probabilities(
        self, adata: AnnData | None, indices: Sequence[int] | None, batch_size: int | None, n_samples: int
    ) -> np.ndarray:
        """Probabilities of classes, and of being nobody's, shape ``(n, C + 1)``, not calibrated."""
        parts = [self._of(samples, self.module.prior) for samples in self._samples(adata, indices, batch_size, n_samples)]
        return torch.cat(parts).cpu().numpy()

    @torch.no_grad()
    def _of(self, samples: ImportanceSamples, prior: Prior) -> torch.Tensor:
        of_components = torch.einsum("sb,sbk->bk", samples.weights, prior.responsibilities(samples.z))
        return prior.classes.probabilities(of_components)

    def _samples(
        self, adata: AnnData | None, indices: Sequence[int] | None, batch_size: int | None, n_samples: int
    ) -> Iterator[ImportanceSamples]:
        """Weighted draws of the cells of minibatches, with a seed of their own."""
        with seeded(0):
            for tensors, rows in self.model.posterior.minibatches(adata, indices, batch_size, "Classes"):
                yield posterior_samples(self.module, tensors, self._without_labels(tensors, rows), n_samples)

    def _without_labels(self, tensors: dict[str, torch.Tensor], rows: torch.Tensor) -> torch.Tensor:
        """Rows ``(b, w)``, those of cells whose labels trained as they would be without."""
        pulled = np.append(self.model.labelled_rows_, False)  # behind the table are cells placed later
        index = tensors[REGISTRY_KEYS.INDICES_KEY].ravel().clamp(max=len(pulled) - 1)
        some = torch.as_tensor(pulled, device=rows.device)[index].nonzero().ravel()
        if not len(some):
            return rows
        rows = rows.clone()
        rows[some] = self.model.cells.place({key: value[some] for key, value in tensors.items()})
        return rows

    # ------------------------------------------------------------ calibration

    def calibration(self, train: np.ndarray, held_out: np.ndarray) -> dict[str, Any]:
        """Temperature, and the labelled cells that it was fitted to, among those at positions of the attached data.

        Those that are held out if there are 50; else training cells, too, by mixtures that do not know their labels: in each
        of five folds the mixture is placed anew on representations found without labels, the labels of the fold hidden.
        """
        labels = np.asarray(self.model.adata_manager.get_from_registry(REGISTRY_KEYS.LABELS_KEY)).ravel()
        held_out, train_labelled = self._some(held_out[labels[held_out] >= 0]), train[labels[train] >= 0]
        n_classes = self.module.prior.classes.n_classes
        p, codes = [np.zeros((0, n_classes + 1))], [np.zeros(0, np.int64)]
        if len(held_out):
            p.append(self.probabilities(None, held_out, None, _N_DRAWS))
            codes.append(labels[held_out])
        is_held_out = len(held_out) >= _ENOUGH_CELLS
        if not is_held_out:
            some = self._some(train_labelled)
            p.append(self._cross_fitted(train, some, labels))
            codes.append(labels[some])
        p, codes = np.concatenate(p), np.concatenate(codes).astype(np.int64)
        return {"temperature": fit_temperature(p, codes), "n_cells": len(codes), "is_held_out": is_held_out}

    def _some(self, positions: np.ndarray) -> np.ndarray:
        """At most 500 of some cells, ascending."""
        if len(positions) > _MAX_CELLS:
            positions = np.random.default_rng(0).choice(positions, _MAX_CELLS, replace=False)
        return np.sort(positions)

    def _cross_fitted(self, train: np.ndarray, some: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """Probabilities of labelled training cells at `some` positions, ``(m, C + 1)``, of mixtures fitted without their labels."""
        rng, n_classes = np.random.default_rng(0), self.module.prior.classes.n_classes
        result = np.zeros((len(some), n_classes + 1))
        samples = list(self._samples(None, some, None, _N_DRAWS))
        fold = _folds(labels[some], rng)
        mean, var, codes = self._posteriors_without_labels(train, some, samples)
        for number in range(_N_FOLDS):
            hidden = some[fold == number]
            if not len(hidden):
                continue
            known = codes.clone()
            known[torch.as_tensor(np.isin(train, hidden), device=known.device)] = -1
            prior = self._refitted(mean, var, known)
            p = torch.cat([self._of(s, prior) for s in samples]).cpu().numpy()
            result[fold == number] = p[fold == number]
        return result

    def _posteriors_without_labels(self, train: np.ndarray, some: np.ndarray, samples: list) -> tuple:
        module, manager = self.module, self.model.adata_manager
        rows = torch.as_tensor(manager.rows[train], device=module.device)
        mean, var = module.posterior.moments(module.representations.table[rows])
        mean = mean.clone()
        mean[torch.as_tensor(np.searchsorted(train, some), device=mean.device)] = torch.cat([s.mean for s in samples])
        codes = codes_of_rows(manager, train, len(module.representations))[manager.rows[train]]
        return mean, var, torch.as_tensor(codes, device=module.device)

    @torch.no_grad()
    def _refitted(self, mean: torch.Tensor, var: torch.Tensor | float, known: torch.Tensor) -> Prior:
        prior = copy.deepcopy(self.module.prior)
        prior.classes.keep(known[known >= 0].unique())
        prior.reset()
        prior.place(mean, posterior_var=var, given=known)
        return prior


def _folds(codes: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Fold of each cell, ``(n,)``, those of a class spread over all."""
    order = rng.permutation(len(codes))
    order = order[np.argsort(codes[order], kind="stable")]
    fold = np.empty(len(codes), np.int64)
    fold[order] = np.arange(len(codes)) % _N_FOLDS
    return fold
