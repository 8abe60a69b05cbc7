"""Training plan of the deep generative decoder: which parameters step, and when."""

from __future__ import annotations

from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from scvi import REGISTRY_KEYS
from scvi.module.base import LossOutput
from scvi.train import TrainingPlan
from torch.optim.lr_scheduler import ReduceLROnPlateau

from scdgd._compat import MODULE_KEYS
from scdgd._options import Anything, Choice, Flag, Instance, Integer, Number, Optional, checked
from scdgd.data import minibatches_of
from scdgd.inference._row_adam import RowAdam
from scdgd.module import REPRESENTATION_KEY
from scdgd.prior._placement import random_rows
from scdgd.prior._update import WITH_ROWS, update_of

from ._batch_balance import BatchBalancer
from ._divergence import TrainingDivergedError
from ._finite_losses import FiniteLosses
from ._fused_steps import fused
from ._kl_weight import KLWeightMixin
from ._plan_options import BETAS, DECAY, EPOCHS, RATE, check_further
from ._processes import Processes

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from scdgd.module import DGDModule

_MAX_NAMED = 5
#: Where checkpoints of Lightning have what belongs to rows.
_OF_ROWS = "representations"


class RepresentationPlan(KLWeightMixin, TrainingPlan):
    """Decoder and prior step every minibatch, and so do the rows of the minibatch's cells (see :class:`RowAdam`).

    The loss that is differentiated is the *sum* over the minibatch, so the gradient of a representation does not
    depend on the size of the minibatch.

    A mixture that has not been placed yet is the broad prior N(0, I) and does not train. It is placed on the
    representations of the training cells when `mixture_start` epochs have passed, and trains from then on. Because the
    placement on half-trained representations can be a poor local optimum, it is tried again every
    `placement_interval` epochs of the same training; a likelier placement replaces the mixture.

    Parameters
    ----------
    module
        The module.
    lr, lr_z, lr_prior
        Learning rates of decoder, representations and prior.
    betas, betas_z
        Decay of Adam's moments for decoder and prior, and for representations.
    weight_decay, weight_decay_z, weight_decay_prior
        L2 penalties in Adam's gradient, not decoupled.
    lr_drop_epoch, lr_drop_factor
        Epoch after which the decoder's rate is multiplied by the factor, keeping Adam's moments.
    lr_drop_resets
        Whether the moments of decoder and prior then begin anew, as in the released code, which makes its optimisers anew.
    prior_update
        ``"em"``: one closed-form step of expectation maximisation on all training cells at the end of each epoch;
        ``"gradient"``: Adam, every minibatch (published). ``None``: the prior's own (:attr:`~scdgd.prior.Prior.updates`).
    mixture_start
        Number of epochs before the mixture is placed, if it is not yet.
    placement_interval
        Epochs between attempts at a likelier placement; ``None`` for a single placement.
    clip_norm
        Largest norm of the decoder's gradient; ``None`` for no limit.
    seed
        Seed of the placement of components.
    train_rows
        Rows of the cells that train, for the steps of the prior; ``None`` for all.
    cell_names
        Names of the rows, for messages.
    balancer
        Takes shifts between batches out of the rows; ``None`` to leave them.
    classes
        Codes of the classes of the rows, ``(n,)``, -1 without a label, for a prior with :attr:`~scdgd.prior.Prior.classes`.
    n_epochs_kl_warmup
        Epochs over which the weight of the representations' prior rises to one; ``None`` for none.
    **kwargs
        Passed to :class:`scvi.train.TrainingPlan`. Its ``reduce_lr_on_plateau`` lowers the rate of the decoder;
        ``update_only_decoder`` leaves representations and prior as they are.
    """

    @checked(
        lr=RATE,
        lr_z=RATE,
        lr_prior=RATE,
        betas=BETAS,
        betas_z=BETAS,
        eps=Number(above=0),
        **dict.fromkeys(("weight_decay", "weight_decay_z", "weight_decay_prior"), DECAY),
        lr_drop_epoch=EPOCHS,
        lr_drop_factor=Number(above=0),
        lr_drop_resets=Flag(),
        prior_update=Choice(None, *WITH_ROWS),
        mixture_start=Integer(0),
        placement_interval=Optional(Integer(1)),
        clip_norm=Optional(Number(above=0)),
        seed=Integer(0, 2**32 - 1),
        train_rows=Anything("rows of the table"),
        cell_names=Anything("names of the rows"),
        balancer=Optional(Instance(BatchBalancer, "a scdgd.train.BatchBalancer")),
        classes=Anything("codes of the rows of the table"),
        n_epochs_kl_warmup=EPOCHS,
    )
    def __init__(
        self,
        module: DGDModule,
        *,
        lr: float = 4e-3,
        lr_z: float = 2e-2,
        lr_prior: float = 1e-2,
        betas: tuple[float, float] = (0.9, 0.999),
        betas_z: tuple[float, float] = (0.9, 0.99),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        weight_decay_z: float = 0.0,
        weight_decay_prior: float = 0.0,
        lr_drop_epoch: int | None = None,
        lr_drop_factor: float = 0.1,
        lr_drop_resets: bool = False,
        prior_update: Literal["em", "gradient"] | None = None,
        mixture_start: int = 0,
        placement_interval: int | None = 5,
        clip_norm: float | None = None,
        seed: int = 0,
        train_rows: torch.Tensor | None = None,
        cell_names: Sequence[str] | None = None,
        balancer: BatchBalancer | None = None,
        classes: torch.Tensor | None = None,
        n_epochs_kl_warmup: int | None = None,
        **kwargs: Any,
    ) -> None:
        update = update_of(module.prior, WITH_ROWS, prior_update)(module.prior)
        kwargs = {**check_further(type(self), kwargs, is_manual=True), "n_epochs_kl_warmup": n_epochs_kl_warmup}
        super().__init__(module, lr=lr, eps=eps, weight_decay=weight_decay, **kwargs)
        self.automatic_optimization, self.processes = False, Processes()
        self.lr_z, self.lr_prior, self.betas, self.betas_z = lr_z, lr_prior, betas, betas_z
        self.weight_decay_z, self.weight_decay_prior = weight_decay_z, weight_decay_prior
        self.lr_drop_epoch, self.lr_drop_factor, self.lr_drop_resets = lr_drop_epoch, lr_drop_factor, lr_drop_resets
        self.clip_norm, self.prior_update = clip_norm, update
        self.mixture_start, self.placement_interval, self.seed = mixture_start, placement_interval, seed
        self.train_rows, self.cell_names, self.balancer, self.classes = train_rows, cell_names, balancer, classes

    #: Whether several processes can train together, each with rows of its own.
    owns_rows = True
    #: What a checkpoint of Lightning has of rows, until training goes on from it.
    _of_checkpoint: dict | None = None

    def configure_optimizers(self) -> tuple[list[torch.optim.Optimizer], list[dict]]:
        """Adam for the prior, Adam for all other parameters, :class:`RowAdam` for the rows; and the schedule of the second, if any."""
        module = self.module
        of_prior = {id(parameter) for parameter in module.prior.parameters()}
        decoder = torch.optim.Adam(
            [parameter for parameter in module.parameters() if id(parameter) not in of_prior],
            lr=self.lr,
            betas=self.betas,
            eps=self.eps,
            weight_decay=self.weight_decay,
        )
        prior = torch.optim.Adam(
            module.prior.parameters(),
            lr=self.lr_prior,
            betas=self.betas,
            eps=self.eps,
            weight_decay=self.weight_decay_prior,
        )
        return [fused(decoder), fused(prior)], [self._schedule(decoder)] if self.reduce_lr_on_plateau else []

    def _schedule(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """As scvi-tools lowers a rate where a metric no longer falls."""
        options = {"patience": self.lr_patience, "factor": self.lr_factor, "min_lr": self.lr_min}
        schedule = ReduceLROnPlateau(optimizer, threshold=self.lr_threshold, threshold_mode="abs", **options)
        return {"scheduler": schedule}

    def setup(self, stage: str) -> None:
        """Take up the processes of the trainer."""
        self.processes = Processes.of(self.trainer)

    def on_fit_start(self) -> None:
        """Set up the rows' optimiser, now that the table is on its device; of several processes each keeps its rows."""
        table = self.module.representations
        self.processes.share(self.module)
        if self.processes.n > 1:
            table.keep(*self.processes.bounds(len(table)))
            self.processes.separate_noise()
        self._places_mixture = not self.module.prior.is_placed
        self._losses = FiniteLosses(self.device)
        self._sums = {}
        self._first_minibatch: dict[str, torch.Tensor] = {}
        self.row_optimizer = RowAdam(
            self.module.representations.table,
            lr=self.lr_z,
            betas=self.betas_z,
            eps=self.eps,
            weight_decay=self.weight_decay_z,
        )
        if self._of_checkpoint is not None:
            self.load_training_state(self._of_checkpoint)
            self._of_checkpoint = None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Give Lightning's checkpoint what belongs to rows, too."""
        checkpoint[_OF_ROWS] = self.training_state()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Go on from it; ValueError if it was written without."""
        if _OF_ROWS not in checkpoint:
            msg = "This checkpoint of Lightning's lacks the optimiser of the representations, so training cannot go on from it."
            raise ValueError(msg)
        self._of_checkpoint = checkpoint[_OF_ROWS]

    def teardown(self, stage: str) -> None:
        """Let go of the moments of the rows, which are twice as large as the table; the model keeps its trainer."""
        self.row_optimizer = None

    def training_state(self) -> dict:
        """What goes on from step to step beside the module and the trainer's optimisers; not copied."""
        rows = {name: self._whole(values) for name, values in self.row_optimizer.state_dict().items()}
        state = {"rows": rows, "places_mixture": self._places_mixture}
        return state if self.balancer is None else {**state, "balancer": self.balancer.state_dict()}

    def load_training_state(self, state: dict) -> None:
        """Put back what :meth:`training_state` gave; from :meth:`on_fit_start` on."""
        owned = self.module.representations.owned
        self.row_optimizer.load_state_dict({name: values[owned] for name, values in state["rows"].items()})
        self._places_mixture = state["places_mixture"]
        if self.balancer is not None:
            self.balancer.load_state_dict(state["balancer"])

    def module_state(self) -> dict[str, torch.Tensor]:
        """State of the module with all rows; to be asked for in all processes at once."""
        name = "representations.table"
        return {**self.module.state_dict(), name: self._whole(self.module.representations.table)}

    def complete_table(self) -> None:
        """Bring the rows of all processes together, in all of them at once."""
        if not self.module.representations.is_whole:
            self.module.representations.complete(self._whole(self.module.representations.table))

    def _whole(self, of_rows: torch.Tensor) -> torch.Tensor:
        """What belongs to the rows here, of all rows, ``(n, ...)``."""
        table = self.module.representations
        return of_rows if table.is_whole else self.processes.collected(len(table), np.r_[table.owned], of_rows)

    def on_train_epoch_start(self) -> None:
        """Place the mixture and drop the decoder's rate when their epochs have come."""
        super().on_train_epoch_start()
        self._sums.pop("train", None)  # of an epoch that was interrupted
        self._step_schedule()
        if self._places_mixture and not self.update_only_decoder and self._is_placement_epoch:
            seed = self.seed + self.current_epoch
            mean, var, classes = self._some_posteriors(seed)
            self.module.prior.place(mean, posterior_var=var, seed=seed, given=classes)
        self._steps_prior = self.prior_update.by_gradient and self.module.prior.is_placed
        if self.current_epoch == self.lr_drop_epoch:
            decoder, prior = self.optimizers()
            for group in decoder.param_groups:
                group["lr"] *= self.lr_drop_factor
            for optimizer in (decoder, prior) if self.lr_drop_resets else ():
                optimizer.optimizer.state.clear()

    def _step_schedule(self) -> None:
        """Tell the schedule of the decoder's rate what the last epoch ended with, if its metric was found there."""
        metric, epoch = self.lr_scheduler_metric, self.current_epoch
        is_new = epoch > 0 and ("validation" not in metric or epoch % self.trainer.check_val_every_n_epoch == 0)
        if self.reduce_lr_on_plateau and is_new and metric in self.trainer.callback_metrics:
            self.lr_schedulers().step(self.trainer.callback_metrics[metric])

    def training_step(
        self, batch: dict[str, torch.Tensor] | list[dict[str, torch.Tensor]], batch_idx: int
    ) -> torch.Tensor | None:
        """Step representations, decoder and prior on one minibatch after the other; the loss of the last, ``()``."""
        minibatches = minibatches_of(batch)
        if batch_idx == 0:
            self._first_minibatch = minibatches[0]
        with nullcontext() if self.prior_update.by_gradient else _constant(self.module.prior):
            *_, loss = (self._step(minibatch) for minibatch in minibatches)
        return loss

    def _step(self, batch: dict[str, torch.Tensor]) -> torch.Tensor | None:
        decoder, prior = self.optimizers()
        self.loss_kwargs["kl_weight"] = self.kl_weight
        decoder.zero_grad()
        if self.prior_update.by_gradient:  # else it has none
            prior.zero_grad()
        outputs = self._differentiated(batch) if len(batch[REGISTRY_KEYS.X_KEY]) else None  # others have cells left
        if self.processes.n > 1:
            self._add_up(None if outputs is None else outputs[1], batch)
        if self.clip_norm is not None:
            self.clip_gradients(decoder, gradient_clip_val=self.clip_norm, gradient_clip_algorithm="norm")
        decoder.step()
        if self._steps_prior and not self.update_only_decoder:
            prior.step()
        if outputs is None:
            return None
        representation, output = outputs
        self._step_rows(batch, representation.grad)
        self.compute_and_log_metrics(output, self.train_metrics, "train")
        return output.loss.detach()

    def _differentiated(self, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, LossOutput]:
        """The rows of a minibatch and its loss, whose derivatives are in what is stepped."""
        inference_outputs, _, output = self.forward(batch, loss_kwargs=self.loss_kwargs)
        if self.processes.n == 1:
            self._raise_if_diverged(self._losses.note(output.loss, self._of_cells(output, batch)))
        self.manual_backward(output.loss * output.n_obs_minibatch)
        return inference_outputs[REPRESENTATION_KEY], output

    def _add_up(self, output: LossOutput | None, batch: dict[str, torch.Tensor]) -> None:
        """Gradients of sums over the minibatches of all processes, which is one minibatch; all end if its loss is not finite."""
        stepped = [p for o in self.optimizers() for group in o.param_groups for p in group["params"] if p.requires_grad]
        has_gradient = torch.tensor([float(p.grad is not None) for p in stepped])
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in stepped]
        loss = torch.zeros(()) if output is None else output.loss
        loss, has_gradient, *gradients = self.processes.sum(loss, has_gradient, *gradients)
        for p, gradient, has_one in zip(stepped, gradients, has_gradient.tolist(), strict=True):
            p.grad = gradient if has_one else None
        of_cells = (rows_of(batch), [loss.new_zeros(0)]) if output is None else self._of_cells(output, batch)
        self._raise_if_diverged(self._losses.note(loss, of_cells))

    def _step_rows(self, batch: dict[str, torch.Tensor], gradient: torch.Tensor) -> None:
        if not self.update_only_decoder:
            self.row_optimizer.step(rows_of(batch) - self.module.representations.owned.start, gradient)

    def on_train_epoch_end(self) -> None:
        """Balance batches, and then step a placed mixture in closed form, where that is its update."""
        self._raise_if_diverged(self._losses.first_not_finite())
        if not self.update_only_decoder:
            self._balance_batches()
        if self.module.prior.is_placed and not self.update_only_decoder:
            per_cell = self.module.hyperprior_weight.get("weights") == "per_cell"
            self.prior_update.after_epoch(
                self.posteriors,
                lambda n_cells: n_cells if per_cell else 1,
                self._train_classes,
                self.processes.sum if self.processes.n > 1 else None,
            )
        self._log_epoch(self.train_metrics, "train")
        super().on_train_epoch_end()

    def _balance_batches(self) -> None:
        """Move representations, in the epochs in which that is due, by what the cells of the first minibatch tell of them."""
        epoch, last = self.current_epoch + 1, self.trainer.max_epochs
        if self.balancer is not None and self.balancer.balance.is_due(epoch, last):
            self.log("batch_shift", self.balancer(self._first_minibatch, self.processes))
        self._first_minibatch = {}

    def validation_step(self, batch: dict[str, torch.Tensor], batch_idx: int) -> None:
        """Step the held-out cells' representations, everything else frozen, and log their loss after the step."""
        if not len(batch[REGISTRY_KEYS.X_KEY]):  # other processes have cells left
            return
        self._step_representations(batch)
        _, _, output = self.forward(batch, loss_kwargs=self.loss_kwargs)
        self.compute_and_log_metrics(output, self.val_metrics, "validation")

    def on_validation_epoch_end(self) -> None:
        """Log the epoch."""
        self._log_epoch(self.val_metrics, "validation")
        super().on_validation_epoch_end()

    def compute_and_log_metrics(self, loss_output: LossOutput, metrics: dict, mode: str) -> None:
        """Add a minibatch to the sums of its epoch; :meth:`_log_epoch` hands them to scvi-tools' metrics.

        Once an epoch in place of once a minibatch: on small minibatches the metrics take a good part of the time. With
        `on_step` they are handed over at once, as in scvi-tools.
        """
        n, output = loss_output.n_obs_minibatch, loss_output
        if self.on_step:
            self._log_step(output, mode)
            super().compute_and_log_metrics(output, metrics, mode)
            return
        of_batch = [
            n * output.loss.detach(),
            output.reconstruction_loss_sum.detach(),
            output.kl_local_sum.detach(),
            output.kl_global_sum.detach(),
        ]
        sums, n_cells, n_batches = self._sums.get(mode, (torch.zeros(4, dtype=torch.float64), 0, 0))
        of_batch = torch.stack([torch.as_tensor(value) for value in of_batch])
        self._sums[mode] = (sums.to(of_batch.device) + of_batch, n_cells + n, n_batches + 1)

    def _log_step(self, output: LossOutput, mode: str) -> None:
        """Log the loss of a minibatch, and the mean over its epoch; Lightning itself leaves out steps of training."""
        loss, is_training = output.loss.detach(), mode == "train"
        name, n = f"{mode}_loss", output.n_obs_minibatch
        self.log(name, loss, on_step=True, on_epoch=True, prog_bar=is_training, batch_size=n)
        if is_training:
            self.trainer.logger.log_metrics({f"{name}_step": loss}, step=self.global_step)

    def _log_epoch(self, metrics: dict, mode: str) -> None:
        if mode not in self._sums and self.processes.n == 1:
            return
        sums, *counts = self._sums.pop(mode, (torch.zeros(4, dtype=torch.float64), 0, 0))
        sums, (n_cells, n_batches) = self.processes.sum(sums, torch.tensor(counts, dtype=torch.float64))
        (loss, reconstruction_loss, kl_local, kl_global), n_cells, n_batches = sums, int(n_cells), int(n_batches)
        self.log(f"{mode}_loss", (loss / n_cells).float(), prog_bar=mode == "train")
        epoch = LossOutput(
            loss=loss / n_cells,
            reconstruction_loss=reconstruction_loss,
            kl_local=kl_local,
            kl_global=kl_global / n_batches,
            n_obs_minibatch=n_cells,
        )
        super().compute_and_log_metrics(epoch, metrics, mode)

    def _step_representations(self, batch: dict[str, torch.Tensor]) -> None:
        with torch.inference_mode(False), torch.enable_grad():
            batch = {key: value.clone() for key, value in batch.items()}  # inference tensors cannot enter autograd
            inference_outputs = self.module.inference(**self.module._get_inference_input(batch))
            representation = inference_outputs[REPRESENTATION_KEY]
            if not self.module.training:
                representation = representation.clone().requires_grad_()
                inference_outputs[REPRESENTATION_KEY] = representation
                inference_outputs[MODULE_KEYS.Z_KEY] = self.module.posterior.draw(representation, training=False)
            generative_outputs = self.module.generative(**self.module._get_generative_input(batch, inference_outputs))
            output = self.module.loss(batch, inference_outputs, generative_outputs, **self.loss_kwargs)
            output = self._completed(batch, inference_outputs, output)
            (gradient,) = torch.autograd.grad(output.loss * output.n_obs_minibatch, representation)
            self._step_rows(batch, gradient)

    def _completed(self, batch: dict, inference_outputs: dict, output: LossOutput) -> LossOutput:
        """The loss with further terms of the plan; the base class adds none."""
        return output

    def posteriors(self) -> tuple[torch.Tensor, torch.Tensor | float]:
        """Mean ``(n, d)`` and variance of the training cells' posteriors, which the steps of the mixture see."""
        return self.module.posterior.moments(self._train_table)

    def _some_posteriors(self, seed: int) -> tuple[torch.Tensor, torch.Tensor | float, torch.Tensor | None]:
        """Means, variances and classes of training cells, which a placement sees: all, or as many of several processes as it takes."""
        if self.processes.n == 1:
            return *self.posteriors(), self._train_classes
        table = self.module.representations
        rows = np.arange(len(table)) if self.train_rows is None else self.train_rows.cpu().numpy()
        rows = rows[random_rows(len(rows), seed)]
        here = np.flatnonzero((rows >= table.owned.start) & (rows < table.owned.stop))
        some = self.processes.collected(len(rows), here, table(torch.as_tensor(rows[here], device=self.device)))
        classes = None if self.classes is None else self.classes[torch.as_tensor(rows)].to(self.device)
        return *self.module.posterior.moments(some), classes

    @property
    def _is_placement_epoch(self) -> bool:
        since_start = self.current_epoch - self.mixture_start
        again = self.placement_interval is not None and since_start > 0 and since_start % self.placement_interval == 0
        return since_start == 0 or again

    @property
    def _train_table(self) -> torch.Tensor:
        table, rows = self.module.representations, self._own_train_rows
        return table.table if rows is None else table.table[rows.to(table.table.device) - table.owned.start]

    @property
    def _train_classes(self) -> torch.Tensor | None:
        if self.classes is None:
            return None
        rows = self._own_train_rows
        classes = self.classes[self.module.representations.owned] if rows is None else self.classes[rows]
        return classes.to(self.module.device)

    @property
    def _own_train_rows(self) -> torch.Tensor | None:
        """Rows that train, of those that this process owns; ``None`` for all."""
        owned, rows = self.module.representations.owned, self.train_rows
        if rows is None or self.processes.n == 1:
            return rows
        return rows[(rows >= owned.start) & (rows < owned.stop)]

    @staticmethod
    def _of_cells(output: LossOutput, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Rows of the cells of a minibatch ``(b,)``, and the terms of their loss, each ``(b,)``."""
        terms = (*output.reconstruction_loss.values(), *output.kl_local.values())
        return rows_of(batch), [term.detach() for term in terms]

    def _raise_if_diverged(self, of_cells: tuple[torch.Tensor, list[torch.Tensor]] | None) -> None:
        if of_cells is None:
            return
        rows, terms = of_cells
        rows = rows[~torch.isfinite(sum(terms))][:_MAX_NAMED].tolist()
        cells = ", ".join(str(r if self.cell_names is None else self.cell_names[r]) for r in rows)
        elsewhere = "in the prior of the mixture's parameters" + (
            "" if self.processes.n == 1 else ", or at cells of another process"
        )
        where = f"at cells {cells}" if cells else elsewhere
        msg = (
            f"The loss became NaN or infinite in epoch {self.current_epoch}, {where}. "
            "Lower the rates (`plan_kwargs={'lr': 3e-4, 'lr_z': 5e-3}`) or set `plan_kwargs={'clip_norm': 10.0}`."
        )
        raise TrainingDivergedError(msg)


@contextmanager
def _constant(module: torch.nn.Module) -> Iterator[None]:
    """Treat parameters as constants inside the block, so that no unused gradients are computed."""
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


def rows_of(batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Rows of the cells of a minibatch, shape ``(b,)``."""
    return batch[REGISTRY_KEYS.INDICES_KEY].ravel()
