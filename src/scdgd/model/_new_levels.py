"""Levels of batches and covariates that come after training: names, and vectors."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import torch
from scvi import REGISTRY_KEYS

from scdgd.data import SparseCountsLoader, code_of, levels_of, refuse_levels
from scdgd.inference import fit_levels, undisturbed

if TYPE_CHECKING:
    from scdgd.data import CellRegistration, Variable
    from scdgd.module import DGDModule

logger = logging.getLogger(__name__)

#: So many cells of a level, drawn with a fixed seed, are enough for its vector; fewer where many levels or genes would take
#: more memory than so many decoded entries, but no less than the last.
_MAX_CELLS, _MAX_ENTRIES, _ENOUGH_CELLS = 2_000, 10**8, 100
_TOGETHER = 512


class NewLevels:
    """Levels that the model was not trained on. ``model.levels`` of a model.

    A level is its name, as a cell is. The first data that bring it give it a vector, which is fitted to its cells there,
    whichever are asked for, and stays until the model trains again.

    Parameters
    ----------
    module
        Whose decoder has vectors, if it has.
    registry
        What was set up for the model.
    """

    def __init__(self, module: DGDModule, registry: dict) -> None:
        self.module = module
        levels = levels_of(registry)
        self.variables: list[Variable] = list(levels)
        self._trained = [of_variable.trained for of_variable in levels.values()]
        self._names = [of_variable.names[:0] for of_variable in levels.values()]

    @property
    def names(self) -> dict[str, list]:
        """Names of the new levels that have vectors, by column of ``adata.obs``."""
        return {v.column: names.tolist() for v, names in zip(self.variables, self._names, strict=True) if len(names)}

    @property
    def batches(self) -> list:
        """Names of all batches that can be decoded, in the order of their codes."""
        return [*self._trained[0], *self._names[0]]

    @property
    def fitted(self) -> list[dict[str, np.ndarray | torch.Tensor]]:
        """Names, and vectors ``(m, g)`` on the CPU, of the new levels of each variable."""
        fitted = [
            {"names": names, "vectors": level.added.cpu()}
            for names, level in zip(self._names, self.module.levels, strict=False)
        ]
        if fitted and self.module.latent_size is not None:
            fitted[0]["sizes"] = self.module.latent_size.added.cpu()
        return fitted

    @fitted.setter
    def fitted(self, fitted: list[dict[str, np.ndarray | torch.Tensor]]) -> None:
        self.forget()
        for i, of_variable in enumerate(fitted):
            self._names[i] = np.asarray(of_variable["names"])
            self.module.levels[i].append(of_variable["vectors"])
            if "sizes" in of_variable:
                self.module.latent_size.added = of_variable["sizes"].to(self.module.device)

    def forget(self) -> None:
        """Fit vectors again when their levels are next met."""
        self._names = [names[:0] for names in self._names]
        for level in self.module.levels:
            level.forget_added()
        if self.module.latent_size is not None:
            self.module.latent_size.forget_added()

    def find(self, manager: CellRegistration) -> None:
        """Fit vectors of levels that are met for the first time, and give the cells of `manager` the codes of the model.

        Raises
        ------
        ValueError
            If there are new levels, and the decoder has no vectors.
        """
        met = {variable: manager.new_levels_of(variable) for variable in self.variables}
        if not any(map(len, met.values())):
            return
        if not self.module.levels:
            variable, trained = next((v, t) for v, t in zip(self.variables, self._trained, strict=True) if len(met[v]))
            refuse_levels(variable, met[variable], trained)
        before = self._names
        self._names = [_joined(names, met[v]) for v, names in zip(self.variables, before, strict=True)]
        try:
            for variable, names in zip(self.variables, self._names, strict=True):
                manager.rename_levels(variable, names)
            if any(len(new) > len(old) for new, old in zip(self._names, before, strict=True)):
                self._fit(manager, [len(old) for old in before])
        except BaseException:
            self._names = before
            for level, old in zip(self.module.levels, before, strict=True):
                level.added = level.added[: len(old)]
            if self.module.latent_size is not None:
                self.module.latent_size.forget_added(len(before[0]))
            raise

    @torch.inference_mode(False)
    def _fit(self, manager: CellRegistration, n_known: list[int]) -> None:
        """Fit the vectors of levels behind the `n_known` of each variable."""
        chosen, words = [], []
        rng, n_new = np.random.default_rng(0), sum(map(len, self._names)) - sum(n_known)
        n_genes = self.module.levels[0].added.shape[1]
        most = int(np.clip(_MAX_ENTRIES // (n_new * n_genes), _ENOUGH_CELLS, _MAX_CELLS))
        for variable, level, known, names in zip(self.variables, self.module.levels, n_known, self._names, strict=True):
            level.append(level.added.new_zeros(len(names) - known, level.added.shape[1]))
            codes = manager.codes_of(variable)
            for i, name in enumerate(names[known:], start=len(level) + known):
                cells = np.flatnonzero(codes == i)
                some = rng.choice(cells, most, replace=False) if len(cells) > most else cells
                chosen.append(some)
                words.append(f"{name} of adata.obs['{variable.column}'] ({len(some)} of {len(cells)} cells)")
        positions = np.unique(np.concatenate(chosen))
        with undisturbed():
            minibatches = SparseCountsLoader(manager, indices=positions, batch_size=_TOGETHER)
            if self.module.latent_size is not None:
                self._note_sizes(minibatches, len(self._names[0]) - n_known[0])
            gain = fit_levels(self.module, minibatches, n_known)
        logger.info(
            "Fitted vectors of levels that are new to the model: %s. These cells are likelier by %.3g nats in the mean than "
            "at the mean level.",
            ", ".join(words),
            gain,
        )

    def _note_sizes(self, minibatches: SparseCountsLoader, n_new: int) -> None:
        """Give new batches the moments of log totals of their cells."""
        found = [(self.module.observed.log_size(t).ravel(), t[REGISTRY_KEYS.BATCH_KEY].ravel()) for t in minibatches]
        log_total, batch = (torch.cat(each).to(self.module.device) for each in zip(*found, strict=True))
        self.module.latent_size.append(log_total, batch, n_new)


def _joined(names: np.ndarray, further: np.ndarray) -> np.ndarray:
    """Names, and those that are not among them."""
    unknown = [i for i, name in enumerate(further) if code_of(name, names) < 0]
    return np.concatenate([names, further[unknown]]) if unknown else names
