"""Training that goes on after an interruption, or after its process was killed."""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

import numpy as np
import torch
from scvi import REGISTRY_KEYS

from scdgd._options import PathLike
from scdgd.train import (
    CheckpointFolder,
    Interruption,
    TrainingCheckpoints,
    fingerprint,
    pack_history,
    unpack_history,
)

if TYPE_CHECKING:
    import os

logger = logging.getLogger(__name__)

_CHECKPOINT_EVERY = 5
_COLUMNS = (
    REGISTRY_KEYS.BATCH_KEY,
    REGISTRY_KEYS.SIZE_FACTOR_KEY,
    REGISTRY_KEYS.CAT_COVS_KEY,
    REGISTRY_KEYS.CONT_COVS_KEY,
)


class ResumptionMixin:
    """What checkpoints of a training must say, and how a model takes them over."""

    def _check_checkpoint_options(
        self, checkpoint_dir: str | os.PathLike | None, every_n_epochs: int | None
    ) -> tuple[CheckpointFolder | None, int]:
        """Folder of the checkpoints, if any, and the epochs between them."""
        if checkpoint_dir is None:
            if every_n_epochs is not None:
                msg = "`checkpoint_every_n_epochs` needs a folder to write to: pass `checkpoint_dir`."
                raise ValueError(msg)
            return None, _CHECKPOINT_EVERY
        if self.is_query_:
            msg = "A query model only places its cells, which writes no checkpoints: leave out `checkpoint_dir`."
            raise ValueError(msg)
        return CheckpointFolder(
            PathLike("the path of a folder")("checkpoint_dir", checkpoint_dir)
        ), every_n_epochs or _CHECKPOINT_EVERY

    def _describe_training(self, **arguments) -> dict[str, str]:
        """Everything that the course of training depends on, in words and hashes that are equal in every process."""
        manager = self.adata_manager
        columns = [key for key in _COLUMNS if key in manager.data_registry]
        said = {**self.init_params_["non_kwargs"], **arguments}
        return {
            "class": type(self).__name__,
            "cells": fingerprint(manager.names, manager.fingerprints),
            "genes": fingerprint(self._genes),
            "columns": fingerprint(*(np.asarray(manager.get_from_registry(key), np.float64) for key in columns)),
            **{name: re.sub(" at 0x[0-9a-f]+", "", repr(value)) for name, value in said.items()},
        }

    def _describe_start(self, description: dict[str, str], split: tuple[np.ndarray, ...]) -> dict:
        """What a checkpoint must tell before training is set up, see :class:`~scdgd.train.TrainingCheckpoints`."""
        return {
            "description": description,
            "split": [torch.as_tensor(part) for part in split],
            "is_trained": self.is_trained_,
            "history_before": pack_history(self.history_ if self.is_trained_ else None),
            "mixture_start": self.mixture_start_,
        }

    def _resume(self, state: dict, max_epochs: int) -> None:
        """Take over a checkpoint, but for what the trainer holds."""
        self._forget_placed_cells()
        self.module.load_state_dict(state["module"])
        self.is_trained_, self.mixture_start_ = state["is_trained"], state["mixture_start"]
        self.history_ = unpack_history(state["history_before"])
        self.module.train()
        if state["finished"]:
            logger.warning(
                "The checkpoints hold the end of this training (epoch %s). The model takes that state; there is nothing "
                "left to train. To train on from the model at hand, name another `checkpoint_dir`.",
                state["epoch"],
            )
        else:
            logger.info("Training goes on after epoch %s of %s, from a checkpoint.", state["epoch"], max_epochs)

    def _report_interruption(
        self, interruption: Interruption, max_epochs: int, checkpoints: TrainingCheckpoints | None
    ) -> None:
        failure = None if checkpoints is None else checkpoints.failure
        causes = dict.fromkeys([interruption.cause, *([] if failure is None else [str(failure)])])
        logger.warning(
            "%s Training stopped after %s of %s epochs. The model holds the state that it reached. %s",
            " ".join(causes),
            self.trainer.current_epoch,
            max_epochs,
            "`train()` goes on from it." if checkpoints is None else checkpoints.where_it_goes_on(),
        )
