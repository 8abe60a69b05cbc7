"""Training of a Boltzmann machine."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from scdgd.model._training_run import TrainingRun

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ._contrastive_divergence_plan import ContrastiveDivergencePlan

logger = logging.getLogger(__name__)

#: Cells whose likelihood is estimated after training.
_N_CELLS_FOR_LIKELIHOOD = 1_000
_DEFAULT_EPOCHS = 110
_NOT_COMPLETE = "Training ended before all layers were trained together; train again to begin anew."


class BoltzmannRun(TrainingRun):
    """A training in stages, whose objectives cannot be compared; at the end the likelihood of some cells is estimated."""

    manual_steps = "Lower `lr` in `plan_kwargs` where training diverges."

    def check(self) -> None:
        """Refuse early stopping, because each stage has another objective, and data modules, because chains belong to cells."""
        if self.given["early_stopping"]:
            msg = (
                "`early_stopping` has nothing to watch: each stage has another objective. Compare `max_epochs` by "
                "`get_marginal_ll` of held-out cells."
            )
            raise ValueError(msg)
        if self.given["datamodule"] is not None:
            msg = "SCDBM trains on the cells that it was set up with, of which it keeps chains: leave out `datamodule`."
            raise NotImplementedError(msg)
        if self.given["train_size"] is None or self.given["train_size"] < 1:
            self.trainer.setdefault("check_val_every_n_epoch", 1)

    def default_epochs(self) -> int:
        """110 epochs."""
        return _DEFAULT_EPOCHS

    def try_plan(self) -> ContrastiveDivergencePlan:
        """As for all models; also check that there is an epoch for each stage."""
        plan = super().try_plan()
        if not bool(self.model.module.is_pretrained):
            plan.stage_ends(self.max_epochs)
        return plan

    def fit(self) -> None:
        """As for all models, with sums in one order."""
        with one_thread():
            super().fit()

    def goes_on_in_words(self) -> str:
        """All stages are done again, if any is left to do."""
        return super().goes_on_in_words() if bool(self.model.module.is_pretrained) else _NOT_COMPLETE

    def finish(self) -> None:
        """Say that the machine is not complete, or estimate its likelihood."""
        model = self.model
        if not bool(model.module.is_pretrained):
            if not self.interruption.ended:
                logger.warning(_NOT_COMPLETE)
        elif self.given["estimate_likelihood"] and "reconstruction_loss_train" in (model.history_ or ()):
            self._note_likelihood()  # not with `logger=False`

    def _note_likelihood(self) -> None:
        cells = np.asarray(self.model.train_indices)
        if len(cells) > _N_CELLS_FOR_LIKELIHOOD:
            cells = np.sort(np.random.default_rng(0).choice(cells, _N_CELLS_FOR_LIKELIHOOD, replace=False))
        name = "log_likelihood_train"
        epoch = pd.Index([len(self.model.history_["reconstruction_loss_train"]) - 1], name="epoch")
        new = pd.DataFrame({name: [self.model.get_marginal_ll(indices=cells, seed=0)]}, index=epoch)
        old = self.model.history_.get(name)
        self.model.history_[name] = new if old is None else pd.concat([old, new])


@contextlib.contextmanager
def one_thread() -> Iterator[None]:
    """Compute with one thread inside the block.

    Several threads cut a sum into parts, so its last digits depend on their number. Where states are drawn, one digit
    turns a unit on or off, and what follows is another training. Matrices of a Boltzmann machine are small: two threads
    take twice the processor time for a sixth less of the user's.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
