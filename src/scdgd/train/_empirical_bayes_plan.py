"""Variational inference for the networks, empirical Bayes for the prior, in turns."""

from __future__ import annotations

import contextlib
import inspect
import logging
from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import sparse
from scvi import REGISTRY_KEYS, settings
from scvi.train import TrainingPlan

from scdgd._compat import MODULE_KEYS
from scdgd._options import SEED, Flag, Integer, Number, Optional, checked
from scdgd.data import as_sparse_counts, first_cells
from scdgd.prior import DirichletProcessMixture, GaussianMixture, VampPriorMixture

from ._output_start import start_outputs
from ._plan_options import DECAY, EPOCHS, RATE, check_further
from ._training_cells import training_cells

if TYPE_CHECKING:
    from scdgd.module import FlexVAE

logger = logging.getLogger(__name__)

#: Learning rate over that of the networks, by prior, in the published grid. Chosen by held-out likelihood and, where that is
#: undecided, by the number of used components, on cells that served no other choice (docs/benchmarks_priors.md).
_LR_RATIOS = {VampPriorMixture: 5.0, DirichletProcessMixture: 2.5, GaussianMixture: 5.0}
#: Of Adam; scvi-tools' 0.01 is of the size of the gradients of a prior.
_PRIOR_EPS = 1e-8
#: Arguments of the loss that are not options.
_GIVEN_TO_LOSS = {"tensors", "inference_outputs", "generative_outputs"}
#: Cells that a mixture is fitted to after pre-training.
_MAX_PLACEMENT_CELLS = 20_000


class EmpiricalBayesPlan(TrainingPlan):
    r"""scvi-tools' training plan, and after each step of it one of the prior (Stirn & Knowles 2024, Algorithm 1).

    1. Encoder and decoder take a step on the ELBO, the prior's parameters :math:`\zeta` held.
    2. One :math:`z_i \sim q(z \mid x_i)` is drawn for each cell of the minibatch, with the encoder in evaluation mode.
    3. E-step: :math:`\bar r_{ic} \propto e^{l_{ic}}`, held, where :math:`l_{ic}` is the prior's
       :meth:`~scdgd.prior.Prior.expected_component_log_prob`.
    4. M-step: one step of Adam on

    .. math::
        L(\zeta) = -\frac1b \sum_{i, c} \bar r_{ic}\, l_{ic} - \frac1{b_0} \log p(\zeta)

    where gradients reach pseudo-inputs through the encoder, whose weights stay as they are.

    The prior's own prior is counted once per :math:`b_0` cells (`prior_batch_size`), whatever the size of minibatches:
    fewer mean fewer components, :math:`b_0 = n` is the posterior given all cells, and the size of the minibatches is the
    published setting. Priors that are not fitted in this way (``empirical_bayes = False``) take the gradient of the
    ELBO, with an optimiser group of their own.

    Pseudo-inputs start at random training cells when training begins.

    Parameters
    ----------
    module
        The module.
    prior_lr_ratio
        Learning rate of the prior over that of the networks; ``None`` for 5 (Gaussian mixture, VampPrior mixture), 2.5
        (Dirichlet process mixture) or 1 (others). A larger ratio leaves fewer components.
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
        detach_responsibilities=Flag(),
        n_pretraining_epochs=Integer(0),
        n_pretrained_epochs=Integer(0),
        pretraining_lr=Optional(RATE),
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
        detach_responsibilities: bool = True,
        n_pretraining_epochs: int = 0,
        n_pretrained_epochs: int = 0,
        pretraining_lr: float | None = None,
        kernel_l1: float = 0.0,
        kernel_l2: float = 0.0,
        seed: int | None = None,
        n_epochs_kl_warmup: int | None = None,
        **kwargs,
    ) -> None:
        of_loss = set(inspect.signature(module.loss).parameters) - _GIVEN_TO_LOSS
        kwargs = check_further(type(self), kwargs, of_loss)
        if prior_lr_ratio is None:
            prior_lr_ratio = _LR_RATIOS.get(type(module.prior), 1.0)
        self.n_pretraining_epochs = max(n_pretraining_epochs - n_pretrained_epochs, 0)
        self._has_pretraining = n_pretraining_epochs > 0
        super().__init__(module, n_epochs_kl_warmup=n_epochs_kl_warmup, **kwargs)
        self.prior_lr_ratio, self.prior_batch_size = prior_lr_ratio, prior_batch_size
        self.detach_responsibilities = detach_responsibilities
        self.pretraining_lr, self.kernel_l1, self.kernel_l2 = pretraining_lr, kernel_l1, kernel_l2
        self.seed = (settings.seed or 0) if seed is None else seed
        self._prior_optimizer: torch.optim.Optimizer | None = None

    @property
    def is_pretraining(self) -> bool:
        """Whether the prior does not take part yet."""
        return self.current_epoch < self.n_pretraining_epochs

    @property
    def fits_prior(self) -> bool:
        """Whether the prior takes steps of its own; that of a query model is frozen."""
        prior = self.module.prior
        return prior.empirical_bayes and any(p.requires_grad for p in prior.parameters())

    @property
    def kl_weight(self) -> torch.Tensor:
        """Weight of the divergence; zero while pre-training."""
        return super().kl_weight * (not self.is_pretraining)

    def get_optimizer_creator(self):
        """scvi-tools' optimiser; parameters of a prior that the ELBO trains are a group without decay."""
        create = super().get_optimizer_creator()
        of_prior = {id(p) for p in self.module.prior.parameters()}

        def create_with_groups(parameters) -> torch.optim.Optimizer:
            """Optimiser of the networks, and of the prior unless it takes steps of its own."""
            parameters = list(parameters)
            groups = [{"params": [p for p in parameters if id(p) not in of_prior]}]
            trained = [p for p in parameters if id(p) in of_prior]
            if trained and not self.module.prior.empirical_bayes:
                groups.append(
                    {"params": trained, "lr": self.lr * self.prior_lr_ratio, "eps": _PRIOR_EPS, "weight_decay": 0.0}
                )
            return create(groups)

        return create_with_groups

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
        pseudo_inputs = getattr(prior, "pseudo_inputs", None)
        if pseudo_inputs is not None and not bool(pseudo_inputs.placed):
            self._place_pseudo_inputs(pseudo_inputs)
        start_outputs(self.module, training_cells(self.trainer))
        if isinstance(prior, GaussianMixture) and not bool(prior.placed) and not self._has_pretraining:
            generator = torch.Generator().manual_seed(self.seed)
            with torch.no_grad():
                prior.means.copy_(torch.randn(prior.means.shape, generator=generator))
            prior.placed.fill_(True)
        if self.fits_prior:
            self._trained = [p for p in prior.parameters() if p.requires_grad]
            self._prior_optimizer = torch.optim.Adam(self._trained, lr=self.lr * self.prior_lr_ratio, eps=_PRIOR_EPS)

    def on_train_epoch_start(self) -> None:
        """Begin and end pre-training."""
        super().on_train_epoch_start()
        if not self._has_pretraining:
            return
        if self.is_pretraining and self.current_epoch == 0 and self.pretraining_lr is not None:
            self._set_lr(self.pretraining_lr)
        if self.current_epoch == self.n_pretraining_epochs:
            self._set_lr(self.lr)
            if isinstance(self.module.prior, GaussianMixture) and not bool(self.module.prior.placed):
                self._place_mixture(self.module.prior)

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        """As in scvi-tools, with the penalty of the weights; NaN where a covariance cannot be factorised."""
        try:
            loss = super().training_step(batch, batch_idx)
        except torch.linalg.LinAlgError:  # of weights that are huge or NaN: not another kind of error, see BestState
            return torch.full((), torch.nan, device=self.device, requires_grad=True)
        if self.kernel_l1 or self.kernel_l2:
            loss = loss + self._kernel_penalty()
        return loss

    def validation_step(self, batch: dict, batch_idx: int) -> None:
        """As in scvi-tools, but minibatches that have no ELBO are left out."""
        with contextlib.suppress(torch.linalg.LinAlgError):
            super().validation_step(batch, batch_idx)

    def on_train_batch_end(self, outputs, batch: dict, batch_idx: int) -> None:
        """Steps 2 to 4: the prior is fitted to draws from the posteriors of the same cells."""
        if self.fits_prior and not self.is_pretraining and not self.trainer.should_stop:
            z = self._draw(batch)
            if torch.isfinite(z).all():  # if not, training is about to end
                self._fit_prior(z)

    @torch.no_grad()
    def _draw(self, batch: dict) -> torch.Tensor:
        """Representations ``(b, d)`` from the posteriors of a minibatch, encoder in evaluation mode."""
        module = self.module
        batch = {key: None if value is None else value.to(self.device) for key, value in batch.items()}
        was_training = module.training
        module.eval()
        outputs = module.inference(**module._get_inference_input(batch, full_forward_pass=True))
        module.train(was_training)
        return outputs[MODULE_KEYS.Z_KEY]

    def _fit_prior(self, z: torch.Tensor) -> None:
        """E- and M-step on representations ``(b, d)``."""
        prior = self.module.given_prior()
        log_joint = prior.expected_component_log_prob(z)  # (b, k)
        responsibilities = torch.softmax(log_joint, dim=-1)
        if self.detach_responsibilities:
            responsibilities = responsibilities.detach()
        hyper = sum(prior.hyper_log_prob().values())
        loss = -(responsibilities * log_joint).sum(-1).mean() - hyper / self.prior_batch_size
        gradients = torch.autograd.grad(loss, self._trained, allow_unused=True)  # the networks get none
        for parameter, gradient in zip(self._trained, gradients, strict=True):
            parameter.grad = gradient
        self._prior_optimizer.param_groups[0]["lr"] = self.optimizers().param_groups[0]["lr"] * self.prior_lr_ratio
        self._prior_optimizer.step()
        self._prior_optimizer.zero_grad()

    def _kernel_penalty(self) -> torch.Tensor:
        kernels = [m.weight for m in self.module.modules() if isinstance(m, torch.nn.Linear) and m.weight.requires_grad]
        return sum(self.kernel_l1 * kernel.abs().sum() + self.kernel_l2 * kernel.square().sum() for kernel in kernels)

    def _set_lr(self, lr: float) -> None:
        self.optimizers().param_groups[0]["lr"] = lr

    @torch.no_grad()
    def _place_pseudo_inputs(self, pseudo_inputs) -> None:
        counts, continuous = [], []
        for batch in first_cells(training_cells(self.trainer), pseudo_inputs.n_components):
            counts.append(as_sparse_counts(self.module._encoder_counts(batch[REGISTRY_KEYS.X_KEY])).to_scipy())
            continuous.append(batch.get(REGISTRY_KEYS.CONT_COVS_KEY))
        counts = sparse.vstack(counts, format="csr")
        rng = np.random.default_rng(self.seed)
        rows = rng.choice(counts.shape[0], pseudo_inputs.n_components, replace=False)
        continuous = None if pseudo_inputs.continuous is None else torch.cat(continuous)[rows]
        dense = torch.as_tensor(counts[rows].toarray())
        pseudo_inputs.place(dense, continuous)

    @torch.no_grad()
    def _place_mixture(self, mixture: GaussianMixture) -> None:
        draws = [self._draw(batch) for batch in first_cells(training_cells(self.trainer), _MAX_PLACEMENT_CELLS)]
        mixture.place(torch.cat(draws), seed=self.seed)  # draws: wide posteriors would make all components equal
