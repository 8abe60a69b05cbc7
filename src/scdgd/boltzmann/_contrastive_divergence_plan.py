"""Training plan of deep Boltzmann machines."""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

import lightning.pytorch as pl
import numpy as np
import torch

from scdgd._absent_options import Absent, without
from scdgd._options import Choice, Either, Flag, Integer, ListOf, Number, Optional, Rule, checked
from scdgd.data import first_cells
from scdgd.train import OF_TRAINING_PLAN, TrainingDivergedError
from scdgd.train._training_cells import training_cells

from ._calibration import calibrate_hidden
from ._dispersion_scoring import score_dispersions
from ._parameter_average import ParameterAverage
from ._relative_step import relative_step
from ._schedule import epoch_shares_of, stage_ends
from ._stages import BottomStage, ChainOptions, JointStage, UpperStage
from ._start import place_machine
from ._state_sums import MAX_ENUMERATED

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from scdgd.data import SparseCounts

    from ._conditions import Conditions
    from ._deep_machine import DeepBoltzmannMachine

#: A learning rate, or rates with numbers of updates; the last rate stays.
Rate = float | tuple[tuple[float, int], ...]
_MAX_PARAMETER = 1e6
#: Training cells whose free energy is compared with that of validation cells.
_N_CELLS_FOR_FREE_ENERGY = 1_000
#: What tells where in its stages a training is.
_NOW = ("_stage", "_n_updates", "_first_epoch", "_random_of_cells")
_OF_OTHERS = "is of scvi-tools' plan, and the stages of a Boltzmann machine have one of their own. Leave it out."
#: Options of scvi-tools' plan that this one lacks.
_OF_SCVI_TOOLS = {
    name: Absent(_OF_OTHERS, (False,) if isinstance(rule, Flag) else (None,))
    for name, rule in OF_TRAINING_PLAN.items()
    if name not in ("lr", "optimizer")
}
_SHARE = Number(least=0, most=1)


class _Rates(Rule):
    """One rate for each of three stages, or one rate for all."""

    words = (
        "a rate, or three (of layer 1, further layers and joint training), each a number or pairs of rate and updates"
    )
    _RATE = Either(Number(least=0), ListOf(ListOf((Number(least=0), Integer(1))), least=1))

    def __call__(self, name: str, value: Any) -> tuple[Rate, Rate, Rate]:
        """Three rates."""
        if isinstance(value, Real) and not isinstance(value, bool):
            return (Number(least=0)(name, value),) * 3
        if not isinstance(value, list | tuple) or len(value) != 3:
            self.refuse(name, value)
        return tuple(self._RATE(f"{name}[{i}]", rate) for i, rate in enumerate(value))


class ContrastiveDivergencePlan(pl.LightningModule):
    r"""Stochastic maximum likelihood for a deep Boltzmann machine, layer by layer and then jointly.

    1. The machine of counts and :math:`h^1`, then that of each pair of hidden layers, by persistent contrastive divergence
       (Tieleman 2008), inputs doubled where a layer is missing (Salakhutdinov & Hinton 2009; Treppner et al. 2021). Biases
       that two machines have for the same layer are averaged.
    2. All layers: mean field for the cells, and the model's part as a sum over hidden states where these are few, else as in
       the paper by persistent Gibbs chains,

       .. math::
           \nabla \frac1n \sum_i \operatorname{E}_{q_i}[-E(v_i, h)] - \nabla \log Z, \qquad
           \nabla \log Z \approx \nabla \frac1p \sum_m \log \sum_v e^{-E(v, h^{(m)})}

       Counts are summed out of both forms of the second term. Chains of a batch weigh as much as the minibatch has cells of
       it. Rates fall as :math:`11 / (10 + \text{epoch})`.

    With ``optimizer="adam"`` a step of a bias or weight of a gene is a relative change of its mean count, dispersions move
    at constant mean counts, and :math:`W^1` is centred (Montavon & Müller 2012): raw counts of different scale need all
    three. ``"sgd"`` is the plain gradient of the paper. After each step :math:`W^1 \le 0` and :math:`a < 0` are restored.

    A second training goes on with all layers.

    Parameters
    ----------
    module
        The machine.
    lr
        Learning rates of layer 1, further layers and the joint training. Each is a number, or pairs of a rate and a number
        of updates. One number is the rate of all three.
    optimizer
        ``"adam"`` or ``"sgd"``.
    n_gibbs_steps
        Sweeps for each update, in layer-wise and in joint training.
    collapse
        Whether sweeps sum out counts, see :meth:`~scdgd.boltzmann.DeepBoltzmannMachine.sweep`.
    restart_rate
        Share of chains that begin anew at random states before each update (Du & Mordatch 2019). Chains that never do
        stay near the data, and do not see modes elsewhere that the model has, which new cells would then come from. The
        paper has none.
    sum_states
        Whether joint training takes :math:`\log Z` from a sum over hidden states in place of chains (see
        :class:`~scdgd.boltzmann.JointStage`), and sets the weights of modes right before and after
        (:func:`~scdgd.boltzmann.calibrate_hidden`). Only where layers of odd number have at most 16 units; the paper has chains.
    bound_means
        Whether biases stay below those of the largest count of each gene. With all units off, means are at their largest; no
        cell is there, so nothing else keeps them from growing, and a draw that falls there has counts without measure.
        The paper has no bound.
    average_share
        Share of the last updates of each stage over which parameters are averaged at its end (Polyak & Juditsky 1992); 0
        for the last parameters, as in the paper. Rates that do not fall to zero leave parameters in motion, and those of
        all genes move together.
    epoch_shares
        Shares of ``max_epochs`` for each layer and the joint training, ``L + 1`` numbers; 60:40:10 for two layers if not
        given. One hidden layer has no joint training.
    joint_update
        Joint training steps after each ``"minibatch"``, or each ``"epoch"`` with the gradient of all cells (published).
    dispersion
        ``"gradient"``: learned with the rest; ``"fisher"``: by :func:`~scdgd.boltzmann.fit_dispersion` every
        `dispersion_every` epochs while layer 1 or all layers train, with means of the same cells; ``"fixed"``.
    dispersion_every, dispersion_penalty, n_scoring_steps
        Epochs between scorings, :math:`\lambda`, and steps of each scoring.

    Raises
    ------
    ValueError
        If an option is unknown or out of range, or there are fewer epochs than stages.
    """

    @without(**_OF_SCVI_TOOLS)
    @checked(
        lr=_Rates(),
        optimizer=Choice("adam", "sgd"),
        n_gibbs_steps=ListOf((Integer(1), Integer(1))),
        collapse=Flag(),
        epoch_shares=Optional(ListOf(Number(above=0), least=1)),
        restart_rate=_SHARE,
        sum_states=Flag(),
        bound_means=Flag(),
        average_share=_SHARE,
        joint_update=Choice("minibatch", "epoch"),
        dispersion=Choice("gradient", "fisher", "fixed"),
        dispersion_every=Integer(1),
        dispersion_penalty=Number(least=0),
        n_scoring_steps=Integer(1),
    )
    def __init__(
        self,
        module: DeepBoltzmannMachine,
        *,
        lr: Rate | tuple[Rate, Rate, Rate] = (5e-2, 5e-2, 1e-2),
        optimizer: Literal["adam", "sgd"] = "adam",
        n_gibbs_steps: tuple[int, int] = (1, 5),
        collapse: bool = True,
        epoch_shares: Sequence[float] | None = None,
        restart_rate: float = 0.05,
        sum_states: bool = True,
        bound_means: bool = True,
        average_share: float = 0.5,
        joint_update: Literal["minibatch", "epoch"] = "minibatch",
        dispersion: Literal["gradient", "fisher", "fixed"] = "gradient",
        dispersion_every: int = 5,
        dispersion_penalty: float = 1.0,
        n_scoring_steps: int = 20,
    ) -> None:
        super().__init__()
        self.module, self.lr, self.optimizer = module, lr, optimizer
        self.joint_update, self.average_share = joint_update, average_share
        self.dispersion, self.dispersion_every = dispersion, dispersion_every
        self.dispersion_penalty, self.n_scoring_steps = dispersion_penalty, n_scoring_steps
        self.epoch_shares = epoch_shares_of(module.n_layers, epoch_shares)
        self.automatic_optimization = False
        self.n_obs_training: int | None = None
        self.n_obs_validation: int | None = None
        self._stage: int | None = None
        layerwise, joint = (ChainOptions(n, collapse, restart_rate) for n in n_gibbs_steps)
        self._stages = [BottomStage(module, layerwise)]
        for layer in range(1, module.n_layers):
            self._stages.append(UpperStage(module, self._stages[:layer], layer, layerwise))
        self.bound_means = bound_means
        self.sum_states = sum_states and module.n_odd <= MAX_ENUMERATED
        if module.n_layers > 1:
            self._stages.append(JointStage(module, joint, sums=self.sum_states))

    # ------------------------------------------------------------ stages

    @property
    def stage(self) -> BottomStage | UpperStage | JointStage:
        """What trains now."""
        return self._stages[self._stage]

    @property
    def is_complete(self) -> bool:
        """Whether the machine that trains is the whole one."""
        return self._stage == len(self._stages) - 1

    @property
    def is_joint(self) -> bool:
        """Whether all layers train together."""
        return isinstance(self.stage, JointStage)

    def stage_ends(self, max_epochs: int) -> list[int]:
        """First epoch after each stage."""
        return stage_ends(self.epoch_shares, max_epochs)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One optimiser of all parameters; those of other stages have no gradient, and are skipped."""
        parameters = [p for p in self.module.parameters() if p.requires_grad]
        parameters += [stage.machine.lower_bias for stage in self._stages if isinstance(stage, UpperStage)]
        if self.optimizer == "sgd":
            return torch.optim.SGD(parameters, lr=1.0)
        return torch.optim.Adam(parameters, lr=1.0, betas=(0.9, 0.99))

    def on_train_start(self) -> None:
        """Put biases and chains where training starts, unless the machine is trained already."""
        last, n_epochs = len(self._stages) - 1, self.trainer.max_epochs
        self._ends = [0] * last + [n_epochs] if bool(self.module.is_pretrained) else self.stage_ends(n_epochs)
        for stage in self._stages:
            if isinstance(stage, UpperStage):
                stage.machine.to(self.device)
        if not bool(self.module.is_placed):
            place_machine(
                self.module,
                self._minibatches(),
                n_copies=self._stages[0].n_copies,
                scattered=self.optimizer == "adam",
                bounded=self.bound_means,
            )
            self.module.is_placed.fill_(True)
        self._random_of_cells = torch.get_rng_state()
        self._some_cells = list(map(self._read, first_cells(self._minibatches(), _N_CELLS_FOR_FREE_ENERGY)))

    def training_state(self) -> dict[str, Any]:
        """What goes on from step to step beside the module and the optimiser; of cells, how they were drawn."""
        return {
            "now": {name: vars(self)[name] for name in _NOW},
            "average": None if self._average is None else self._average.state(),
            "stages": [stage.training_state() for stage in self._stages],
        }

    def load_training_state(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`training_state` gave; when training has started."""
        vars(self).update(state["now"])
        torch.set_rng_state(self._random_of_cells)
        self._some_cells = list(map(self._read, first_cells(self._minibatches(), _N_CELLS_FOR_FREE_ENERGY)))
        self._average = None
        if state["average"] is not None:
            self._average = ParameterAverage(self.optimizers().param_groups[0]["params"])
            self._average.load_state(state["average"])
        for stage, of_stage in zip(self._stages, state["stages"], strict=True):
            stage.load_training_state(of_stage)

    def on_train_epoch_start(self) -> None:
        """Begin the next stage when its time has come, and averages in the last part of it."""
        stage = int(np.searchsorted(self._ends, self.current_epoch, "right"))
        if stage != self._stage:
            self._end()
            self._begin(stage)
        n_averaged = round(self.average_share * (self._ends[stage] - self._first_epoch))
        if self._average is None and n_averaged and self.current_epoch >= self._ends[stage] - n_averaged:
            self._average = ParameterAverage(self.optimizers().param_groups[0]["params"])
        self._reconstruction, self._n_seen = 0.0, 0

    def on_train_epoch_end(self) -> None:
        """Log the means over cells, and free energies at the end of the epoch; score dispersions."""
        self.log("reconstruction_loss_train", self._reconstruction / self._n_seen, prog_bar=True)
        free_energy = [self.stage.free_energy(v, given) for v, given in self._some_cells]
        free_energy = torch.cat(free_energy).mean()
        self.log("free_energy_train", free_energy, prog_bar=True)
        validation = self.trainer.callback_metrics.get("free_energy_validation")
        if validation is not None:
            self.log("free_energy_gap", validation - free_energy)
        learns_counts = self._stage == 0 or self.is_joint
        if self.dispersion == "fisher" and learns_counts and (self.current_epoch + 1) % self.dispersion_every == 0:
            options = {"penalty": self.dispersion_penalty, "n_iterations": self.n_scoring_steps}
            score_dispersions(self.module, self._first_probabilities(), **options)

    def on_train_end(self) -> None:
        """Mark the machine as trained; average the last parameters unless a callback has put back the best state."""
        if not any(getattr(callback, "load_best_on_end", False) for callback in self.trainer.callbacks):
            self._end()
        if self.is_complete:
            self._calibrate()
            self.module.is_pretrained.fill_(True)

    @torch.no_grad()
    def _begin(self, stage: int) -> None:
        previous, self._stage = self._stage, stage
        self._n_updates, self._first_epoch, self._average = 0, self.current_epoch, None
        self.optimizers().optimizer.state.clear()
        if isinstance(self.stage, UpperStage):
            total, n = 0.0, 0
            for minibatch in self._minibatches():
                x = self.stage.inputs(*self._read(minibatch))
                total, n = total + x.sum(0), n + len(x)
            self.stage.begin(total / n)
        elif self.is_joint and previous is not None:
            for layer, below in enumerate(self._stages[1:-1]):  # layers between two machines hear from both
                self.module.biases[layer].add_(below.machine.lower_bias).div_(2)
            self._calibrate()
            self.stage.begin()

    def _calibrate(self) -> None:
        if self.sum_states:
            calibrate_hidden(self.module, map(self._read, self._minibatches()))

    def _end(self) -> None:
        """Parameters of a stage that has ended are their averages."""
        if self._stage is not None and self._average is not None:
            self._average.put()

    # ------------------------------------------------------------ steps

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        """One update of the parameters of the current stage."""
        v, given = self._read(batch)
        is_last = batch_idx + 1 == self.trainer.num_training_batches
        if self.is_joint and self.joint_update == "epoch":
            loss, q = self._part_of_epoch(v, given, is_last=is_last)
        else:
            shares = torch.bincount(given.batch, minlength=len(self.module.batch_shares)) / len(given.batch)
            loss, q = self.stage.loss(v, given, shares)
            is_last = True
        self.manual_backward(loss)
        if is_last:
            self._update(q)
        with torch.no_grad():
            log_prob = self.module.visible.log_prob(v, self.module.shift(q[0]), given.batch, given.size)
            self._reconstruction -= log_prob.sum()
        self._n_seen += len(v)
        return loss.detach()

    def _part_of_epoch(
        self, v: SparseCounts, given: Conditions, *, is_last: bool
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """What a minibatch adds to the loss of an epoch; the chains come with the last one."""
        data, q = self.stage.of_cells(v, given)
        loss = -data.sum() / self.n_obs_training
        return (loss + self.stage.of_model(self.module.batch_shares) if is_last else loss), q

    @torch.no_grad()
    def validation_step(self, batch: dict, batch_idx: int) -> None:
        """Free energy of cells that do not train."""
        v, given = self._read(batch)
        free_energy = self.stage.free_energy(v, given).mean()
        self.log("free_energy_validation", free_energy, on_epoch=True, batch_size=len(v))

    def _update(self, q: list[torch.Tensor]) -> None:
        optimizer = self.optimizers()
        optimizer.param_groups[0]["lr"] = self._rate()
        self._n_updates += 1
        if self.dispersion != "gradient":
            self.module.visible.log_theta.grad = None
        if self.optimizer == "adam" and self.module.weights[0].grad is not None:
            relative_step(self.module, optimizer, q[0].mean(0))
        else:
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self.module.project()
        largest = float(torch.stack([p.detach().abs().max() for p in self.module.parameters()]).max())
        if not largest < _MAX_PARAMETER:  # NaN, too
            msg = (
                f"Training has diverged in epoch {self.current_epoch}: the largest parameter is {largest:g}. Lower `lr` in "
                f"`plan_kwargs` (now {self.lr})."
            )
            raise TrainingDivergedError(msg)
        if self._average is not None:
            self._average.add()

    def _rate(self) -> float:
        rate = self.lr[0] if self._stage == 0 else self.lr[2] if self.is_joint else self.lr[1]
        if not isinstance(rate, Real):
            ends = np.cumsum([n for _, n in rate])
            rate = rate[min(int(np.searchsorted(ends, self._n_updates, "right")), len(rate) - 1)][0]
        return rate * 11 / (11 + self.current_epoch - self._first_epoch) if self.is_joint else rate

    # ------------------------------------------------------------ cells

    def _read(self, batch: dict) -> tuple[SparseCounts, Conditions]:
        return self.module.cells(batch)

    def _minibatches(self) -> Iterator[dict[str, torch.Tensor]]:
        """All training cells."""
        for batch in training_cells(self.trainer):
            yield {key: value if value is None else value.to(self.device) for key, value in batch.items()}

    def _first_probabilities(self) -> Iterator[tuple[SparseCounts, Conditions, torch.Tensor]]:
        """Counts, conditions and probabilities of the first hidden layer of all training cells."""
        for batch in self._minibatches():
            v, given = self._read(batch)
            q = self.module.mean_field(v, given)[0] if self.is_complete else self._stages[0].probabilities(v, given)
            yield v, given, q
