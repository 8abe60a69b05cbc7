"""Variational inference for the networks, empirical Bayes for the prior, in turns."""

from __future__ import annotations

import contextlib
import inspect
import logging
import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from scipy import sparse
from scvi import REGISTRY_KEYS, settings
from scvi.train import TrainingPlan

from scdgd import _devices
from scdgd._compat import MODULE_KEYS
from scdgd._constants import MEASURED_KEY
from scdgd._options import SEED, Choice, Flag, Integer, Number, Optional, checked
from scdgd.data import as_sparse_counts, first_cells
from scdgd.prior import StandardNormal
from scdgd.prior._merged_mixture import merged_mixture
from scdgd.prior._update import WITH_ENCODER, update_of

from ._joint_steps import JointStepsMixin
from ._kl_weight import KLWeightMixin
from ._plan_options import DECAY, EPOCHS, RATE, check_further
from ._prior_group import with_prior_group
from ._start import start_outputs
from ._training_cells import training_cells

if TYPE_CHECKING:
    from collections.abc import Callable

    from scdgd.module import FlexVAE

logger = logging.getLogger(__name__)

#: Arguments of the loss that are not options.
_GIVEN_TO_LOSS = {"tensors", "inference_outputs", "generative_outputs", "prior"}
#: Cells that a mixture is fitted to after pre-training.
_MAX_PLACEMENT_CELLS = 20_000
#: Cells whose clusters are looked for after a warm start.
_MAX_CLUSTERED_CELLS = 5_000
#: Of a warm start: epochs and steps by which representations have clusters, and the largest share of the epochs.
_WARM_START_EPOCHS, _WARM_START_STEPS, _MAX_WARM_START_SHARE = 20, 250, 0.25


class EmpiricalBayesPlan(JointStepsMixin, KLWeightMixin, TrainingPlan):
    r"""scvi-tools' training plan, and after each step of it one of the prior (Stirn & Knowles 2024, Algorithm 1).

    1. Encoder and decoder take a step on the ELBO, the prior's parameters :math:`\zeta` held.
    2. One :math:`z_i \sim q(z \mid x_i)` is drawn for each cell of the minibatch, with the encoder in evaluation mode.
    3. The prior takes its :class:`~scdgd.prior.EmpiricalBayesUpdate` on these draws.

    The prior's own prior is counted once per :math:`b_0` cells (`prior_batch_size`), whatever the size of minibatches:
    fewer mean fewer components, :math:`b_0 = n` is the posterior given all cells, and the size of the minibatches is the
    published setting. Priors whose update is by gradient take that of the ELBO, with an optimiser group of their own.

    Pseudo-inputs start at random training cells when training begins. As published, the prior then takes part from the first
    step, when the representations of all cells are alike, and most components are emptied before there is a cluster to be in:
    which clusters have one at the end is chance. By default a warm start comes first for mixtures of pseudo-inputs
    (:attr:`~scdgd.prior.Prior.starts_at_clusters`): epochs with :math:`p(z) = \mathcal N(0, I)`, after which components start at
    the clusters of posterior means, :func:`merged_mixture`, each with the likeliest cell of its cluster as pseudo-input. Where
    there is one cluster only, they start as published.

    Parameters
    ----------
    module
        The module.
    prior_lr_ratio
        Learning rate of the prior over that of the networks; ``None`` for 5 (Gaussian mixture, VampPrior mixture), 2.5
        (Dirichlet process mixture) or 1 (others), see :attr:`~scdgd.prior.Prior.lr_ratio`. A larger ratio leaves fewer
        components.
    prior_update
        ``"empirical_bayes"``, or ``"gradient"``, that of the ELBO. ``None``: the prior's own
        (:attr:`~scdgd.prior.Prior.updates`).
    prior_batch_size
        :math:`b_0`.
    detach_responsibilities
        ``False`` lets gradients through :math:`\bar r`, as the code of Stirn & Knowles does; the objective is then
        :math:`\log \sum_c e^{l_c}` less the entropy of :math:`\bar r`.
    n_pretraining_epochs
        Epochs without divergence and without steps of the prior; a Gaussian mixture is fitted to the representations
        when they end (VaDE, Jiang et al. 2017).
    n_pretrained_epochs
        How many of these an earlier training has done.
    pretraining_lr
        Learning rate of these epochs; ``None`` for `lr`.
    kernel_l1, kernel_l2
        Penalties :math:`\lambda_1 \lVert W \rVert_1 + \lambda_2 \lVert W \rVert_2^2` on the weights of all linear maps
        (Dony et al. 2020).
    n_warm_start_epochs
        Epochs of the warm start, in the first training of a model without pre-training; 0, as published, for none. ``None`` for 20,
        or as many more as 250 minibatches are, but a quarter of the epochs at most.
    seed
        Seed of the choice of pseudo-inputs.
    n_epochs_kl_warmup
        Epochs in which the weight of the divergence grows to `max_kl_weight`; ``None`` for none.
    **kwargs
        As for :class:`scvi.train.TrainingPlan`.

    Raises
    ------
    ValueError
        If an option is out of range, or, when training begins, there are fewer training
        cells than components.
    TypeError
        If there is no option of that name.
    """

    @checked(
        prior_lr_ratio=Optional(Number(above=0)),
        prior_batch_size=Number(above=0),
        prior_update=Choice(None, *WITH_ENCODER),
        detach_responsibilities=Flag(),
        n_pretraining_epochs=Integer(0),
        n_pretrained_epochs=Integer(0),
        pretraining_lr=Optional(RATE),
        n_warm_start_epochs=EPOCHS,
        kernel_l1=DECAY,
        kernel_l2=DECAY,
        seed=SEED,
        n_epochs_kl_warmup=EPOCHS,
    )
    def __init__(
        self,
        module: FlexVAE,
        *,
        prior_lr_ratio: float | None = None,
        prior_batch_size: int = 256,
        prior_update: Literal["empirical_bayes", "gradient"] | None = None,
        detach_responsibilities: bool = True,
        n_pretraining_epochs: int = 0,
        n_pretrained_epochs: int = 0,
        pretraining_lr: float | None = None,
        n_warm_start_epochs: int | None = None,
        kernel_l1: float = 0.0,
        kernel_l2: float = 0.0,
        seed: int | None = None,
        n_epochs_kl_warmup: int | None = None,
        **kwargs: Any,
    ) -> None:
        of_loss = set(inspect.signature(module.loss).parameters) - _GIVEN_TO_LOSS
        kwargs = check_further(type(self), kwargs, of_loss)
        update = update_of(module.prior, WITH_ENCODER, prior_update)
        asks_gradient = (
            prior_update is not None and update.by_gradient
        )  # of the ELBO, which holds priors with own steps
        if asks_gradient and not kwargs.setdefault("encoder_learns_from_prior", True):
            msg = "`encoder_learns_from_prior=False` holds the prior that `prior_update='gradient'` trains. Leave one out."
            raise ValueError(msg)
        self.n_pretraining_epochs = max(n_pretraining_epochs - n_pretrained_epochs, 0)
        self._has_pretraining = n_pretraining_epochs > 0
        super().__init__(module, n_epochs_kl_warmup=n_epochs_kl_warmup, **kwargs)
        self.prior_lr_ratio = module.prior.lr_ratio if prior_lr_ratio is None else prior_lr_ratio
        of_update = {"prior_batch_size": prior_batch_size, "detach_responsibilities": detach_responsibilities}
        self.prior_update = update(module.prior, **({} if update.by_gradient else of_update))
        self.pretraining_lr, self.kernel_l1, self.kernel_l2 = pretraining_lr, kernel_l1, kernel_l2
        self.n_warm_start_epochs = n_warm_start_epochs
        self.seed = (settings.seed or 0) if seed is None else seed

    @property
    def is_pretraining(self) -> bool:
        """Whether the prior does not take part yet: epochs that are not to be compared with later ones."""
        return self.current_epoch < max(self.n_pretraining_epochs, self.n_warm_start_epochs or 0)

    @property
    def kl_weight(self) -> torch.Tensor:
        """Weight of the divergence; zero while pre-training."""
        return super().kl_weight * (self.current_epoch >= self.n_pretraining_epochs)

    def get_optimizer_creator(self) -> Callable:
        """scvi-tools' optimiser; parameters of a prior that the ELBO trains are a group without decay."""
        lr = self.lr * self.prior_lr_ratio if self.prior_update.by_gradient else None
        return with_prior_group(super().get_optimizer_creator(), self.module.prior, lr)

    def on_train_start(self) -> None:
        """Put pseudo-inputs or components where training starts; make the optimiser of the prior."""
        super().on_train_start()
        prior = self.module.prior
        n_cells = self.n_obs_training
        if n_cells is not None and n_cells < prior.n_components and any(p.requires_grad for p in prior.parameters()):
            msg = (
                f"{prior.n_components} components need at least as many training cells, but there are {n_cells}. Lower "
                "`n_components`, or raise `train_size`."
            )
            raise ValueError(msg)
        self._set_warm_start()
        if prior.needs_encoder and not prior.is_placed:
            self._place_pseudo_inputs(np.random.default_rng(self.seed))
            prior.pseudo_inputs.placed.fill_(not self.n_warm_start_epochs)
        start_outputs(self.module, training_cells(self.trainer))
        if not self._has_pretraining:
            prior.draw_start(self.seed)
        self.processes.share(self.module)
        self.prior_update.begin(self.lr * self.prior_lr_ratio)

    def _set_warm_start(self) -> None:
        """Say how many epochs of this training are a warm start."""
        prior = self.module.prior
        if not prior.starts_at_clusters or prior.is_placed or self._has_pretraining:
            self.n_warm_start_epochs = 0
        elif self.n_warm_start_epochs is None:
            n_epochs = max(_WARM_START_EPOCHS, math.ceil(_WARM_START_STEPS / max(self.trainer.num_training_batches, 1)))
            self.n_warm_start_epochs = min(n_epochs, int(_MAX_WARM_START_SHARE * max(self.trainer.max_epochs, 0)))

    def training_state(self) -> dict:
        """What goes on from step to step beside the module and the trainer's optimisers; not copied."""
        return {"prior": self.prior_update.state_dict(), "n_warm_start_epochs": self.n_warm_start_epochs}

    def load_training_state(self, state: dict) -> None:
        """Put back what :meth:`training_state` gave; when training has started."""
        self.prior_update.load_state_dict(state["prior"])
        self.n_warm_start_epochs = state.get("n_warm_start_epochs", 0)

    def on_train_epoch_start(self) -> None:
        """Begin and end warm start and pre-training."""
        super().on_train_epoch_start()
        if self.n_warm_start_epochs and self.current_epoch == self.n_warm_start_epochs:
            self._place_at_clusters()
            self.processes.share(self.module)
        self.loss_kwargs.pop("prior", None)
        if self.current_epoch < self.n_warm_start_epochs:
            self.loss_kwargs["prior"] = StandardNormal(self.module.prior.n_latent).to(self.device)
        if not self._has_pretraining:
            return
        if self.is_pretraining and self.current_epoch == 0 and self.pretraining_lr is not None:
            self.optimizers().param_groups[0]["lr"] = self.pretraining_lr
        if self.current_epoch == self.n_pretraining_epochs:
            self.optimizers().param_groups[0]["lr"] = self.lr
            if not self.module.prior.is_placed:
                self._place_prior()
                self.processes.share(self.module)

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        """As in scvi-tools, with the penalty of the weights; NaN where a covariance cannot be factorised."""
        try:
            loss = super().training_step(batch, batch_idx)
        except torch.linalg.LinAlgError:  # of weights that are huge or NaN: not another kind of error, see BestState
            return torch.full((), torch.nan, device=self.device, requires_grad=True)
        if self.kernel_l1 or self.kernel_l2:
            loss = loss + self._kernel_penalty()
        return self.joint_loss(loss, len(batch[REGISTRY_KEYS.X_KEY]))

    def validation_step(self, batch: dict, batch_idx: int) -> None:
        """As in scvi-tools, but minibatches that have no ELBO are left out."""
        with contextlib.suppress(torch.linalg.LinAlgError):
            super().validation_step(batch, batch_idx)

    def on_train_batch_end(self, outputs: Any, batch: dict, batch_idx: int) -> None:
        """Steps 2 and 3: the prior is fitted to draws from the posteriors of the same cells."""
        if self.prior_update.wants_draws and not self.is_pretraining and not self.trainer.should_stop:
            z = self._draw(batch)
            is_ahead = _devices.runs_ahead(self.device)
            if is_ahead or not self.processes.is_any(not torch.isfinite(z).all()):  # if so, training is about to end
                lr = self.optimizers().param_groups[0]["lr"] * self.prior_lr_ratio
                with contextlib.suppress(torch.linalg.LinAlgError) if is_ahead else contextlib.nullcontext():
                    total = self.processes.sum if self.processes.n > 1 else None
                    self.prior_update.after_minibatch(self.module.given_prior(), z, lr, total)

    def _draw(self, batch: dict) -> torch.Tensor:
        """Representations ``(b, d)`` from the posteriors of a minibatch, encoder in evaluation mode."""
        return self._infer(batch)[MODULE_KEYS.Z_KEY]

    @torch.no_grad()
    def _infer(self, batch: dict) -> dict:
        """What the encoder, in evaluation mode, says of a minibatch."""
        module = self.module
        batch = {key: None if value is None else value.to(self.device) for key, value in batch.items()}
        was_training = module.training
        module.eval()
        outputs = module.inference(**module._get_inference_input(batch, full_forward_pass=True))
        module.train(was_training)
        return outputs

    def _kernel_penalty(self) -> torch.Tensor:
        kernels = [m.weight for m in self.module.modules() if isinstance(m, torch.nn.Linear) and m.weight.requires_grad]
        return sum(self.kernel_l1 * kernel.abs().sum() + self.kernel_l2 * kernel.square().sum() for kernel in kernels)

    @torch.no_grad()
    def _place_pseudo_inputs(self, rng: np.random.Generator) -> None:
        """Put pseudo-inputs at random training cells."""
        pseudo_inputs = self.module.prior.pseudo_inputs
        cells = [self._encoder_input(b) for b in first_cells(training_cells(self.trainer), pseudo_inputs.n_components)]
        n_cells = sum(counts.shape[0] for counts, _ in cells)
        self._put_in(cells, rng.choice(n_cells, pseudo_inputs.n_components, replace=False))

    @torch.no_grad()
    def _place_at_clusters(self) -> None:
        """Put components at the clusters of representations, and those that are left at random cells."""
        prior, cells, z = self.module.prior, [], []
        n_cells = max(_MAX_CLUSTERED_CELLS, prior.n_components)
        for batch in first_cells(training_cells(self.trainer), n_cells):
            cells.append(self._encoder_input(batch))
            outputs = self._infer(batch)
            # a pseudo-input's flow is left out
            z.append(outputs[MODULE_KEYS.QZ_KEY].loc if self.module.flow is None else outputs[MODULE_KEYS.Z_KEY])
        z = torch.cat(z).double()
        mixture = merged_mixture(z, prior.n_components, self.seed)
        if mixture.n_components == 1:
            prior.pseudo_inputs.placed.fill_(True)
            return
        likeliest = mixture.component_log_prob(z).argmax(0).cpu().numpy()
        others = np.random.default_rng(self.seed).choice(len(z), prior.n_components - len(likeliest), replace=False)
        self._put_in(cells, np.concatenate([likeliest, others]))
        prior.start_at(mixture)
        logger.info("%s of %s components start at clusters.", mixture.n_components, prior.n_components)

    def _encoder_input(self, batch: dict) -> tuple[sparse.csr_matrix, torch.Tensor | None]:
        """Counts as the encoder reads them, and continuous covariates, of a minibatch."""
        x = self.module._encoder_counts(as_sparse_counts(batch[REGISTRY_KEYS.X_KEY]), batch.get(MEASURED_KEY))
        return x.to_scipy(), batch.get(REGISTRY_KEYS.CONT_COVS_KEY)

    def _put_in(self, cells: list[tuple[sparse.csr_matrix, torch.Tensor | None]], rows: np.ndarray) -> None:
        """Make pseudo-inputs of some cells."""
        pseudo_inputs = self.module.prior.pseudo_inputs
        counts, continuous = zip(*cells, strict=True)
        counts = sparse.vstack(counts, format="csr")[rows].toarray()
        continuous = None if pseudo_inputs.continuous is None else torch.cat(continuous)[rows]
        pseudo_inputs.place(torch.as_tensor(counts), continuous)

    @torch.no_grad()
    def _place_prior(self) -> None:
        draws = [self._draw(batch) for batch in first_cells(training_cells(self.trainer), _MAX_PLACEMENT_CELLS)]
        # draws, not posteriors: wide ones would make all components equal
        self.module.prior.place(torch.cat(draws), seed=self.seed)
