"""Training plan of deep Boltzmann machines."""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING, Literal

import lightning.pytorch as pl
import numpy as np
import torch
from scipy import sparse
from scvi import REGISTRY_KEYS

from scdgd.data import as_sparse_counts
from scdgd.module._deep_boltzmann import Conditions
from scdgd.module._dispersion_scoring import fit_dispersion
from scdgd.module._restricted_boltzmann import RestrictedBoltzmannMachine

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scdgd.data import SparseCounts
    from scdgd.module import DeepBoltzmannMachine

#: A learning rate, or rates with numbers of updates; the last rate stays.
Rate = float | tuple[tuple[float, int], ...]
_GENES_TOGETHER_ELEMENTS = 2**22
_DEFAULT_SHARES = (60, 40, 10)
_MAX_PARAMETER = 1e6
#: A unit begins by lowering genes by up to so much of a log mean.
_START_SCALE = 0.3


class ContrastiveDivergencePlan(pl.LightningModule):
    r"""Stochastic maximum likelihood for a deep Boltzmann machine, layer by layer and then jointly.

    1. The machine of counts and :math:`h^1`, then that of each pair of hidden layers, by persistent contrastive divergence
       (Tieleman 2008), inputs doubled where a layer is missing (Salakhutdinov & Hinton 2009; Treppner et al. 2021). Biases
       that two machines have for the same layer are averaged.
    2. All layers: mean field for the cells, persistent Gibbs chains for the model,

       .. math::
           \nabla \frac1n \sum_i \operatorname{E}_{q_i}[-E(v_i, h)]
           - \nabla \frac1p \sum_m \log \sum_v e^{-E(v, h^{(m)})}

       Counts are summed out of the second term, which leaves its mean as it is and lowers its variance; its derivatives
       are :math:`\langle v h^\top\rangle` and so on, those of dispersions included. Chains of a batch weigh as
       much as the minibatch has cells of it. Rates fall as :math:`11 / (10 + \text{epoch})`.

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
        of updates.
    optimizer
        ``"adam"`` or ``"sgd"``.
    n_gibbs_steps
        Sweeps for each update, in layer-wise and in joint training.
    collapse
        Whether sweeps sum out counts, see :meth:`~scdgd.module.DeepBoltzmannMachine.sweep`.
    restart_rate
        Share of chains that begin anew at random states before each update (Du & Mordatch 2019). Chains that never do
        stay near the data, and do not see modes elsewhere that the model has, which new cells would then come from. The
        paper has none.
    epoch_shares
        Shares of ``max_epochs`` for each layer and the joint training, ``L + 1`` numbers; 60:40:10 for two layers if not
        given. One hidden layer has no joint training.
    joint_update
        Joint training steps after each ``"minibatch"``, or each ``"epoch"`` with the gradient of all cells (published).
    dispersion
        ``"gradient"``: learned with the rest; ``"fisher"``: by :func:`~scdgd.module.fit_dispersion` every
        `dispersion_every` epochs while layer 1 or all layers train, with means of the same cells; ``"fixed"``.
    dispersion_every, dispersion_penalty, n_scoring_steps
        Epochs between scorings, :math:`\lambda`, and steps of each scoring.

    Raises
    ------
    ValueError
        If an option is unknown or out of range, or there are fewer epochs than stages.
    """

    def __init__(
        self,
        module: DeepBoltzmannMachine,
        *,
        lr: tuple[Rate, Rate, Rate] = (5e-2, 5e-2, 1e-2),
        optimizer: Literal["adam", "sgd"] = "adam",
        n_gibbs_steps: tuple[int, int] = (1, 5),
        collapse: bool = True,
        epoch_shares: Sequence[float] | None = None,
        restart_rate: float = 0.05,
        joint_update: Literal["minibatch", "epoch"] = "minibatch",
        dispersion: Literal["gradient", "fisher", "fixed"] = "gradient",
        dispersion_every: int = 5,
        dispersion_penalty: float = 1.0,
        n_scoring_steps: int = 20,
    ) -> None:
        super().__init__()
        for name, value, allowed in (
            ("optimizer", optimizer, ("adam", "sgd")),
            ("joint_update", joint_update, ("minibatch", "epoch")),
            ("dispersion", dispersion, ("gradient", "fisher", "fixed")),
        ):
            if value not in allowed:
                msg = f"`{name}` must be one of {list(allowed)}, got {value!r}."
                raise ValueError(msg)
        if len(lr) != 3:
            msg = f"`lr` needs three rates, of layer 1, further layers and joint training, got {lr!r}."
            raise ValueError(msg)
        if dispersion_penalty < 0 or dispersion_every < 1 or min(n_gibbs_steps) < 1:
            msg = (
                "`dispersion_penalty` must not be negative, `dispersion_every` and `n_gibbs_steps` must be at least 1, got "
                f"{dispersion_penalty}, {dispersion_every} and {n_gibbs_steps}."
            )
            raise ValueError(msg)
        if not 0 <= restart_rate <= 1:
            msg = f"`restart_rate` must be between 0 and 1, got {restart_rate}."
            raise ValueError(msg)
        if dispersion == "fisher" and module.uses_size:
            msg = "`dispersion='fisher'` is for cells of one size. Use `dispersion='gradient'` with size factors."
            raise ValueError(msg)
        self.module, self.lr, self.optimizer, self.collapse = module, lr, optimizer, collapse
        self.n_gibbs_steps, self.joint_update, self.restart_rate = n_gibbs_steps, joint_update, restart_rate
        self.dispersion, self.dispersion_every = dispersion, dispersion_every
        self.dispersion_penalty, self.n_scoring_steps = dispersion_penalty, n_scoring_steps
        self.epoch_shares = self._shares(epoch_shares)
        self.automatic_optimization = False
        self.n_obs_training: int | None = None
        self.n_obs_validation: int | None = None
        self._stage: int | None = None
        self._bottom = [module.bottom()]  # in a list, so that it is not a child of this module
        self._machines = [
            RestrictedBoltzmannMachine(module.weights[l], module.biases[l], is_top=l + 1 == module.n_layers)
            for l in range(1, module.n_layers)
        ]

    # ------------------------------------------------------------ stages

    @property
    def n_stages(self) -> int:
        """Number of stages: one for each layer, and the joint one if there are several."""
        return len(self.epoch_shares)

    @property
    def is_complete(self) -> bool:
        """Whether the machine that trains is the whole one."""
        return self.is_joint or self.module.n_layers == 1

    @property
    def n_copies(self) -> int:
        """Copies of the counts while the first layer trains: two if there are layers above."""
        return 1 if self.module.n_layers == 1 else 2

    @property
    def is_joint(self) -> bool:
        """Whether all layers train together."""
        return self._stage == self.module.n_layers

    def stage_ends(self, max_epochs: int) -> list[int]:
        """First epoch after each stage."""
        if max_epochs < self.n_stages:
            msg = (
                f"Training has {self.n_stages} stages (each layer, then all), so `max_epochs` must be at least that, got "
                f"{max_epochs}."
            )
            raise ValueError(msg)
        total, ends = sum(self.epoch_shares), []
        for stage in range(self.n_stages):
            end = round(max_epochs * sum(self.epoch_shares[: stage + 1]) / total)
            earliest, latest = (ends[-1] if ends else 0) + 1, max_epochs - (self.n_stages - stage - 1)
            ends.append(min(max(end, earliest), latest))
        return ends

    def _shares(self, shares: Sequence[float] | None) -> tuple[float, ...]:
        n_layers = self.module.n_layers
        n_stages = n_layers + 1 if n_layers > 1 else 1
        if shares is None:
            first, second, joint = _DEFAULT_SHARES
            return (first, *[second] * (n_layers - 1), joint)[:n_stages] if n_layers > 1 else (1.0,)
        if len(shares) != n_stages or min(shares) <= 0:
            msg = (
                f"`epoch_shares` must be {n_stages} positive numbers for {n_layers} hidden layers (each layer, then all), "
                f"got {tuple(shares)}."
            )
            raise ValueError(msg)
        return tuple(shares)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """One optimiser of all parameters; those of other stages have no gradient, and are skipped."""
        parameters = [p for p in self.module.parameters() if p.requires_grad]
        parameters += [machine.lower_bias for machine in self._machines]
        if self.optimizer == "sgd":
            return torch.optim.SGD(parameters, lr=1.0)
        return torch.optim.Adam(parameters, lr=1.0, betas=(0.9, 0.99))

    def on_train_start(self) -> None:
        """Put biases and chains where training starts, unless the machine is trained already."""
        is_pretrained = bool(self.module.is_pretrained)
        self._ends = [self.trainer.max_epochs] if is_pretrained else self.stage_ends(self.trainer.max_epochs)
        for machine in self._machines:
            machine.to(self.device)
        if not bool(self.module.is_placed):
            self._place()

    def on_train_epoch_start(self) -> None:
        """Begin the next stage when its time has come."""
        stage = int(np.searchsorted(self._ends, self.current_epoch, "right"))
        if bool(self.module.is_pretrained) and self.module.n_layers > 1:
            stage = self.module.n_layers
        if stage != self._stage:
            self._begin(stage)
        self._sums: dict[str, torch.Tensor] = {}
        self._n_seen = 0

    def on_train_epoch_end(self) -> None:
        """Log the means over cells; score dispersions."""
        for name, value in self._sums.items():
            self.log(f"{name}_train", value / self._n_seen, prog_bar=True)
        validation = self.trainer.callback_metrics.get("free_energy_validation")
        if self.is_complete and validation is not None:
            self.log("free_energy_gap", validation - self._sums["free_energy"] / self._n_seen)
        learns_counts = self._stage == 0 or self.is_joint
        if self.dispersion == "fisher" and learns_counts and (self.current_epoch + 1) % self.dispersion_every == 0:
            self._score_dispersions()

    @torch.no_grad()
    def on_train_end(self) -> None:
        """The machine is complete, and a second training goes on."""
        if self.is_complete:
            self.module.is_pretrained.fill_(True)

    @torch.no_grad()
    def _begin(self, stage: int) -> None:
        module, previous = self.module, self._stage
        self._stage, self._n_updates, self._first_epoch = stage, 0, self.current_epoch
        optimizer = self.optimizers()
        optimizer.state.clear()
        if 0 < stage < module.n_layers:
            lower = self._machines[stage - 1]
            mean = self._mean_activation(stage - 1)
            lower.lower_bias.copy_(
                torch.logit(mean, eps=1e-3) - lower.factor * lower.weight.sum(1) * lower.n_copies / 2
            )
            self._chains = lower.n_copies * torch.bernoulli(torch.full_like(module.particles[stage], 0.5))
        elif stage == module.n_layers and previous is not None:
            self._average_biases(stage - 1)
            hidden = module.sample_hidden(module.particle_conditions, 10, collapse=self.collapse)
            module.set_particles(hidden)

    @torch.no_grad()
    def _average_biases(self, n_trained: int) -> None:
        """Layers between two machines get the mean of their two biases, as their inputs are."""
        for layer, machine in enumerate(self._machines[:n_trained]):
            self.module.biases[layer].add_(machine.lower_bias).div_(2)

    # ------------------------------------------------------------ steps

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        """One update of the parameters of the current stage."""
        v, given = self._read(batch)
        if self._stage == 0:
            loss, q = self._bottom_loss(v, given)
        elif self.is_joint:
            loss, q = self._joint_loss(v, given, is_last=batch_idx + 1 == self.trainer.num_training_batches)
        else:
            loss, q = self._upper_loss(v, given)
        self._update(loss, q, len(v), is_last=batch_idx + 1 == self.trainer.num_training_batches)
        with torch.no_grad():
            shift = self.module.shift(q[0])
            self._add("reconstruction_loss", -self.module.visible.log_prob(v, shift, given.batch, given.size))
            if self.is_complete:
                self._add("free_energy", -self.module.lower_bound(v, q, given))
        self._n_seen += len(v)
        return loss.detach()

    @torch.no_grad()
    def validation_step(self, batch: dict, batch_idx: int) -> None:
        """Free energy of cells that do not train."""
        if self.is_complete:
            v, given = self._read(batch)
            free_energy = -self.module.lower_bound(v, self.module.mean_field(v, given), given)
            self.log("free_energy_validation", free_energy.mean(), on_epoch=True, batch_size=len(v))

    def _read(self, batch: dict) -> tuple[SparseCounts, Conditions]:
        v = as_sparse_counts(batch[REGISTRY_KEYS.X_KEY]).to(self.module.weights[0].dtype)
        return v, self.module.conditions(batch)

    def _bottom_loss(self, v: SparseCounts, given: Conditions) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Contrast of the first machine, with two copies of the counts if there are layers above."""
        machine, n_copies = self._bottom[0], self.n_copies
        several = given._replace(size=n_copies * given.size)  # copies of a negative binomial are one of larger size
        evidence = n_copies * (v @ machine.weights[0])
        bias = machine.first_bias(several)
        q = torch.sigmoid(bias + evidence).detach()
        data = n_copies * machine.visible.log_measure(v, given.batch, given.size) + ((bias + evidence) * q).sum(-1)
        chains = self.module.particle_conditions
        chains = chains._replace(size=n_copies * chains.size)
        hidden = self._restart(self.module.particles[:1])
        for _ in range(self.n_gibbs_steps[0]):
            hidden = machine.sweep(hidden, chains, collapse=self.collapse)
        self.module.particles[0].copy_(hidden[0])
        model = machine.log_joint_of_hidden(hidden, chains)
        return self._weighted(model, given) - data.mean(), [q]

    def _upper_loss(self, v: SparseCounts, given: Conditions) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Contrast of the machine between two hidden layers; its data are probabilities of the lower one."""
        machine, x = self._machines[self._stage - 1], self._lower_probabilities(v, given, self._stage - 1)
        data = machine.log_joint(x, machine.upper(x).detach())
        (self._chains,) = self._restart([self._chains], machine.n_copies)
        for _ in range(self.n_gibbs_steps[0]):
            self._chains = machine.sweep(self._chains)
        return machine.log_joint_of_upper(self._chains).mean() - data.mean(), [self._lower_probabilities(v, given, 0)]

    def _joint_loss(
        self, v: SparseCounts, given: Conditions, *, is_last: bool
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        module = self.module
        q = module.mean_field(v, given)
        loss = -module.log_joint(v, q, given).mean()
        if self.joint_update == "epoch":
            loss = loss * len(v) / self.n_obs_training
        if self.joint_update == "minibatch" or is_last:
            hidden = self._restart(module.particles)
            for _ in range(self.n_gibbs_steps[1]):
                hidden = module.sweep(hidden, module.particle_conditions, collapse=self.collapse)
            module.set_particles(hidden)
            loss = loss + self._weighted(module.log_joint_of_hidden(hidden, module.particle_conditions), given)
        return loss, q

    def _restart(self, hidden: list[torch.Tensor], highest: int = 1) -> list[torch.Tensor]:
        """Chains, some of them at random states."""
        kept = torch.rand(len(hidden[0]), 1, device=self.device) >= self.restart_rate
        return [torch.where(kept, h, torch.randint_like(h, highest + 1)) for h in hidden]

    def _weighted(self, of_particles: torch.Tensor, given: Conditions) -> torch.Tensor:
        """Mean over chains; those of a batch weigh as much as its cells."""
        batches, n_batch = self.module.particle_batch, len(self.module.visible.bias)
        if self.joint_update == "epoch" and self.is_joint:
            shares = self.module.batch_shares
        else:
            shares = torch.bincount(given.batch, minlength=n_batch) / len(given.batch)
        weights = (shares / torch.bincount(batches, minlength=n_batch))[batches].to(of_particles.dtype)
        return (weights * of_particles).sum()

    @torch.no_grad()
    def _lower_probabilities(self, v: SparseCounts, given: Conditions, layer: int) -> torch.Tensor:
        """Probabilities of a layer by one pass through the machines below, as these were trained."""
        copies = given._replace(size=self.n_copies * given.size)
        x = torch.sigmoid(self.module.first_bias(copies) + self.n_copies * (v @ self.module.weights[0]))
        for machine in self._machines[:layer]:
            x = machine.upper(x)
        return x

    def _update(self, loss: torch.Tensor, q: list[torch.Tensor], n_cells: int, *, is_last: bool) -> None:
        optimizer, collects = self.optimizers(), self.is_joint and self.joint_update == "epoch"
        self.manual_backward(loss)
        if collects and not is_last:
            return
        rate = self._rate()
        self._n_updates += 1
        optimizer.param_groups[0]["lr"] = rate
        if self.dispersion != "gradient":
            self.module.visible.log_theta.grad = None
        if self.optimizer == "adam" and self.module.weights[0].grad is not None:
            self._scaled_step(optimizer, q[0].mean(0))
        else:
            optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        self.module.project()
        largest = max(float(p.detach().abs().max()) for p in self.module.parameters())
        if not largest < _MAX_PARAMETER:  # NaN, too
            msg = (
                f"Training has diverged in epoch {self.current_epoch}: the largest parameter is {largest:g}. Lower `lr` in "
                f"`plan_kwargs` (now {self.lr})."
            )
            raise FloatingPointError(msg)

    def _rate(self) -> float:
        rate = self.lr[0] if self._stage == 0 else self.lr[2] if self.is_joint else self.lr[1]
        if not isinstance(rate, Real):
            ends = np.cumsum([n for _, n in rate])
            rate = rate[min(int(np.searchsorted(ends, self._n_updates, "right")), len(rate) - 1)][0]
        return rate * 11 / (11 + self.current_epoch - self._first_epoch) if self.is_joint else rate

    @torch.no_grad()
    def _scaled_step(self, optimizer: torch.optim.Optimizer, activation: torch.Tensor) -> None:
        r"""A step in the logarithm of mean counts at the mean activation ``(H_1,)``, dispersions, and :math:`W^1`.

        With :math:`u = 1 - e^a`, the derivative of log-odds :math:`a - \log u = \log(\mu / \theta)` by :math:`a` is
        :math:`1 / u`, so a weight of :math:`u` is a unit of :math:`\log\mu`.
        """
        visible, weight, bias = self.module.visible, self.module.weights[0], self.module.biases[0]
        old_bias, old_weight, old_theta = visible.bias.clone(), weight.clone(), visible.log_theta.clone()
        unit = -torch.expm1(old_bias)  # (B, g)
        mean = self.module.mean_counts.mean(0)  # (g,)
        weight.grad -= torch.outer(mean, bias.grad) + torch.outer(visible.bias.grad.sum(0), activation)
        if visible.log_theta.grad is not None:
            visible.log_theta.grad -= (visible.bias.grad * unit).sum(0)
        optimizer.step()
        change = (old_weight + unit.mean(0).unsqueeze(1) * (weight - old_weight)).clamp(max=0) - old_weight
        log_odds = old_bias - unit.log() + (visible.bias - old_bias) - (visible.log_theta - old_theta)
        log_odds -= (change @ activation) / unit
        visible.bias.copy_(torch.nn.functional.logsigmoid(log_odds))
        weight.copy_(old_weight + change)
        bias -= change.T @ mean

    def _add(self, name: str, values: torch.Tensor) -> None:
        self._sums[name] = self._sums.get(name, 0.0) + values.sum()

    # ------------------------------------------------------------ starts, dispersions

    @torch.no_grad()
    def _place(self) -> None:
        r"""Biases of mean counts, :math:`a = \log(\bar x / (\bar x + \theta))`; sizes of chains; centred hidden biases."""
        module = self.module
        totals, counts, batches, registered, dense = [], torch.zeros_like(module.mean_counts), [], [], []
        for batch in self.trainer.train_dataloader:
            batch = self._on_device(batch)
            x = as_sparse_counts(batch[REGISTRY_KEYS.X_KEY])
            codes = batch[REGISTRY_KEYS.BATCH_KEY].ravel().long()
            flat = codes[x.cells] * x.n_genes + x.indices
            counts.view(-1).index_add_(0, flat, x.values.to(counts.dtype))
            totals.append(x.totals())
            if sum(map(len, dense)) < module.n_hidden[0]:
                dense.append(x.to_dense())
            batches.append(codes)
            registered.append(batch.get(REGISTRY_KEYS.SIZE_FACTOR_KEY))
        totals, batches = torch.cat(totals), torch.cat(batches)
        module.mean_total.copy_(totals.mean())
        size = torch.ones_like(totals)
        if module.uses_size:
            size = totals / totals.mean() if registered[0] is None else torch.cat(registered).ravel()
        n_batch = len(counts)
        n_cells = torch.bincount(batches, minlength=n_batch).clamp(min=1)
        module.batch_shares.copy_(n_cells / n_cells.sum())
        sums = torch.zeros(n_batch, dtype=counts.dtype, device=self.device).index_add_(
            0, batches, size.to(counts.dtype)
        )
        module.mean_counts.copy_(counts / n_cells.unsqueeze(1))
        # genes without counts get half a count in all cells
        module.visible.set_means(counts.clamp(min=0.5) / sums.clamp(min=1e-6).unsqueeze(1))
        for code in range(n_batch):
            of_batch, chains = size[batches == code].double(), module.particle_batch == code
            if len(of_batch) and chains.any():
                levels = (torch.arange(int(chains.sum()), device=self.device) + 0.5) / chains.sum()
                quantiles = torch.quantile(of_batch, levels.double())
                module.particle_size[chains] = (quantiles * of_batch.mean() / quantiles.mean()).to(module.particle_size)
        if self.optimizer == "adam":
            self._place_units(torch.cat(dense)[: module.n_hidden[0]])
        module.is_placed.fill_(True)

    def _place_units(self, cells: torch.Tensor) -> None:
        """Each unit begins by lowering the genes that a random training cell has below their means, ``(m, g)``.

        With weights all alike, as published, units learn the same: the size of cells. Biases put the average cell on the
        fence.
        """
        module = self.module
        mean, unit = module.mean_counts.mean(0), -torch.expm1(module.visible.bias.mean(0))
        below = (cells < mean).to(mean.dtype)
        below = below[torch.arange(module.n_hidden[0], device=below.device) % len(below)].T  # (g, H_1)
        scale = _START_SCALE * (0.5 + 0.5 * torch.rand_like(below))
        module.weights[0].copy_(-unit.unsqueeze(1) * scale * below)
        module.biases[0].copy_(-self.n_copies * mean @ module.weights[0])

    def _on_device(self, batch: dict) -> dict:
        return {key: value if value is None else value.to(self.device) for key, value in batch.items()}

    def _mean_activation(self, layer: int) -> torch.Tensor:
        total, n = 0.0, 0
        for batch in self.trainer.train_dataloader:
            x = self._lower_probabilities(*self._read(self._on_device(batch)), layer)
            total, n = total + x.sum(0), n + len(x)
        return total / n

    @torch.no_grad()
    def _score_dispersions(self) -> None:
        """Fisher scoring with means at the probabilities of each cell's own first layer."""
        module = self.module
        counts, first, batches = [], [], []
        for batch in self.trainer.train_dataloader:
            v, given = self._read(self._on_device(batch))
            counts.append(v.to_scipy())
            q = module.mean_field(v, given) if self.is_complete else [self._lower_probabilities(v, given, 0)]
            first.append(q[0])
            batches.append(given.batch)
        counts, first, batches = sparse.vstack(counts).tocsc(), torch.cat(first), torch.cat(batches)
        theta, width = module.visible.theta, max(1, _GENES_TOGETHER_ELEMENTS // len(first))
        fitted = []
        for start in range(0, counts.shape[1], width):
            genes = slice(start, start + width)
            natural = module.visible.bias[batches, genes] + first @ module.weights[0][genes].T
            means = theta[genes] / torch.expm1(-natural.clamp(max=-1e-6))
            y = torch.as_tensor(counts[:, genes].toarray()).to(means)
            options = {"penalty": self.dispersion_penalty, "n_iterations": self.n_scoring_steps}
            fitted.append(fit_dispersion(y.double(), means.double(), theta[genes].double(), **options))
        module.visible.set_theta(torch.cat(fitted).to(theta))
