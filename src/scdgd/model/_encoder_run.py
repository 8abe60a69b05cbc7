"""Training of models with an encoder."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from torch.nn import BatchNorm1d

from scdgd.data import registered_cells
from scdgd.train import BestState, joint_batch_norms
from scdgd.train._start import mean_profile

from ._cells import split_cells
from ._data_module import registry_of_module
from ._training_run import TrainingRun

if TYPE_CHECKING:
    from lightning.pytorch import LightningDataModule
    from lightning.pytorch.callbacks import Callback

logger = logging.getLogger(__name__)

#: scvi-tools drops a last minibatch of fewer cells.
_MIN_CELLS = 3
#: Share of the cells that train, as in scvi-tools.
_TRAIN_SIZE = 0.9


class EncoderRun(TrainingRun):
    """A training that ends in its best state, or the last good one; pre-training is not done again."""

    may_be_shared = True
    attributes = ("n_pretrained_epochs_", "mean_profile_")

    def check(self) -> None:
        """Frozen weights do not decay; a data module has no cells that checkpoints could know again, or processes divide."""
        if self.given["datamodule"] is not None:
            self._check_data_module(self.given["datamodule"])
        if self.model.surgery_ is not None:
            self.plan.setdefault("weight_decay", 0.0)
        if self.is_shared:
            self._check_shared()

    def _check_data_module(self, datamodule: LightningDataModule) -> None:
        """Refuse what needs cells that are known; a model that waits for a data module takes its genes and batches."""
        if self.given["checkpoint_dir"] is not None:
            msg = (
                "Checkpoints belong to the cells that the model was set up with, and a `datamodule` does not tell which "
                "cells it has: leave out one of the two."
            )
            raise ValueError(msg)
        if self.given["max_epochs"] is None and not hasattr(datamodule, "n_obs"):
            msg = "The usual number of epochs is one for a number of cells, and the data module has no `n_obs`: pass `max_epochs`."
            raise ValueError(msg)
        if self.model.module is None:
            self.model._stand_on(registry_of_module(datamodule))
        if self.model.adata is None and not (self.model.is_trained_ or self.model.module.use_observed_lib_size):
            msg = (
                "`use_observed_lib_size=False` draws sizes of cells around the means of batches, which are read off data, and this model "
                "was made without. Leave it out, or make the model with an AnnData."
            )
            raise ValueError(msg)

    def _check_shared(self) -> None:
        """Refuse what several processes do not do."""
        refused = {
            "`datamodule` has an order of its own: train on an AnnData, see `scdgd.data.read_backed`.": self.given[
                "datamodule"
            ],
            "`accumulate_grad_batches` takes minibatches for alike: raise `batch_size`.": self.trainer.get(
                "accumulate_grad_batches", 1
            )
            != 1,
            "`compile=True` is for one device: leave it out.": self.plan.get("compile"),
            "`on_step=True` logs the steps of one device: leave it out.": self.plan.get("on_step"),
            **{
                f"`{name}` is about averages over a minibatch, of which each process has a part: leave it out.": self.plan.get(
                    name
                )
                for name in ("free_nats", "information_weight")
            },
        }
        for reason, is_asked in refused.items():
            if is_asked:
                msg = f"Several devices train on parts of the same minibatches. {reason}"
                raise NotImplementedError(msg)

    def split_options(self) -> dict[str, Any]:
        """As for all models; several processes are told which cells train."""
        options, given = super().split_options(), self.given
        if not self.is_shared or "external_indexing" in {**options, **self.loading}:
            return options
        n, sizes = self.model.adata.n_obs, (given["train_size"] or _TRAIN_SIZE, given["validation_size"])
        return {"external_indexing": list(split_cells(n, *sizes, given["shuffle_set_split"], self.split_seed))}

    def split(self) -> None:
        """As for all models; say which cells do not take part."""
        super().split()
        if self.given["datamodule"] is not None or self.resumed is not None:
            return
        n_cells = self.model.adata.n_obs
        n_left_out = n_cells - self.cells.n_train - self.cells.n_val
        if n_left_out and self.given["validation_size"] is None and "external_indexing" not in self.loading:
            logger.warning(
                "%s of %s cells neither train nor validate: scvi-tools leaves out a last minibatch of fewer than %s. Pass "
                "`train_size=1` to train on all.",
                n_left_out,
                n_cells,
                _MIN_CELLS,
            )

    def check_cells(self) -> None:
        """Counts are there, labels are known where they are used, and a minibatch has two cells where batch norm needs them."""
        model = self.model
        super().check_cells()
        model._check_labels()
        model._check_sizes_of_panels()
        if model.adata.n_obs < _MIN_CELLS:
            msg = f"Minibatches of one or two cells are left out, so training needs {_MIN_CELLS} cells, got {model.adata.n_obs}."
            raise ValueError(msg)
        self.has_batch_norm = any(isinstance(part, BatchNorm1d) for part in model.module.modules())
        if self.has_batch_norm:
            self.loading.setdefault("least", 2)

    def prepare(self) -> None:
        """Note the mean profile of the cells, of which a query may lack genes."""
        model = self.model
        if self.given["datamodule"] is None and model.mean_profile_ is None:
            cells = registered_cells(model.adata_manager)
            model.module.place_profile(mean_profile(cells, of_counts=model.module.link.is_of_counts))

    def default_monitors(self, n_validation: int) -> dict[str, str]:
        """Those of scvi-tools."""
        return {"early_stopping_monitor": "elbo_validation", "checkpointing_monitor": "validation_loss"}

    def plan_options(self) -> dict[str, Any]:
        """The plan knows what an earlier training has done."""
        if not self.plan.get("n_pretraining_epochs"):
            return self.plan
        return {"n_pretrained_epochs": self.model.n_pretrained_epochs_, **self.plan}

    def guards(self) -> list[Callback]:
        """The best state, or the last one, is kept."""
        monitor = self.trainer.get("early_stopping_monitor", "elbo_validation")
        mode = self.trainer.get("early_stopping_mode", "min")
        self._best = BestState(monitor if self.given["early_stopping"] else None, mode)
        return [self._best]

    def fit(self) -> None:
        """As for all models; note how much of pre-training is done."""
        if self.is_shared:
            self.cells.share()
            with joint_batch_norms(self.model.module):
                super().fit()
            self._share_history()
        else:
            super().fit()
        if n := self.plan.get("n_pretraining_epochs"):
            model = self.model
            model.n_pretrained_epochs_ = min(model.n_pretrained_epochs_ + model.trainer.current_epoch, n)

    def state_in_words(self) -> str:
        """The best state, where one was to be kept."""
        return f"best state, of epoch {self._best.epoch}" if self._best.is_compared else super().state_in_words()

    def finish(self) -> None:
        """Renew what is stored beside counts; keep coordinates of information; warn of a mixture that does not cluster."""
        self.model._renew_posteriors()
        self.model._note_information()
        self.model._warn_of_collapse()

    @property
    def uses_labels(self) -> bool:
        """Whether labels have dispersions of their own."""
        return self.model.module.dispersion == "gene-label"
