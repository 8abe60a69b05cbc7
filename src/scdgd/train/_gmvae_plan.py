"""Training plan of the Gaussian-mixture variational autoencoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, get_args

import torch
from scipy import sparse
from scvi import REGISTRY_KEYS, settings
from scvi.train import TrainingPlan
from torch.nn import BatchNorm1d

from scdgd._compat import MODULE_KEYS
from scdgd._constants import MEASURED_KEY
from scdgd._options import SEED, Choice, Integer, Number, Optional, checked
from scdgd.data import as_sparse_counts, first_cells
from scdgd.module import ComponentRegularization

from ._joint_steps import JointStepsMixin
from ._kl_weight import KLWeightMixin
from ._plan_options import EPOCHS, check_further
from ._prior_group import with_prior_group
from ._start import PCAClusters, start_outputs
from ._training_cells import training_cells

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from scdgd.module import GMVAE

#: Cells that reference clusters are fitted to.
_MAX_REFERENCE_CELLS = 20_000


class GMVAEPlan(JointStepsMixin, KLWeightMixin, TrainingPlan):
    r"""scvi-tools' training plan, with remedies for components that are not used.

    The exact sum over components does not keep a mixture from collapse: where all components start equal,
    :math:`q(y \mid x)` soon is the same for all cells, and no gradient tells components apart. Remedies, each of which can
    be switched on alone (see :meth:`~scdgd.module.GMVAE.loss` for the terms):

    * a warm start: in the first epochs :math:`q(y \mid x)` also learns reference components, k-means clusters of
      principal components (:class:`PCAClusters`), with a weight that falls linearly to zero
    * `free_nats`: the divergence of ``y`` costs nothing below a share of its largest value
    * `information_weight`: a reward for what components tell of cells
    * `n_epochs_kl_warmup`: the divergences get their weight little by little

    * steps of the prior's own size (`prior_lr_ratio`): with those of the networks, whose Adam has scvi-tools' epsilon of 0.01,
      above the gradients of means and variances, components stay where they began while representations go elsewhere, and
      those of one population end in several components, or of several in one

    No label of a cell plays a part in any of them.

    Parameters
    ----------
    module
        The module.
    n_warm_start_epochs
        Epochs with reference components, in the first training of a model; 0 for none.
    warm_start_weight
        Weight of the cross-entropy to reference components in the first epoch, in nats a cell.
    component_regularization
        ``"kl"``; or, as ablations of Adjileye & Si Salah 2023, ``"none"`` and ``"cross_entropy"`` (to reference
        components, in all epochs).
    free_nats, information_weight
        As in :meth:`~scdgd.module.GMVAE.loss`.
    prior_lr_ratio
        Learning rate of the prior over that of the networks; ``None`` for its own, 5 (:attr:`~scdgd.prior.Prior.lr_ratio`).
        Its Adam has an epsilon of 1e-8 and no decay. Published: 1, with the same epsilon for all parameters.
    n_epochs_kl_warmup
        Epochs in which the weight of both divergences grows to `max_kl_weight`; ``None`` for none.
    seed
        Seed of reference components.
    **kwargs
        As for :class:`scvi.train.TrainingPlan`.

    Raises
    ------
    ValueError
        If an option is unknown or out of range; when training begins, if there are fewer training cells than reference
        components; or if a minibatch has one cell and the module batch norm.
    TypeError
        If there is an argument that neither plan has.
    """

    @checked(
        n_warm_start_epochs=Integer(0),
        warm_start_weight=Number(least=0),
        component_regularization=Choice(*get_args(ComponentRegularization)),
        free_nats=Number(least=0),
        information_weight=Number(least=0),
        prior_lr_ratio=Optional(Number(above=0)),
        n_epochs_kl_warmup=EPOCHS,
        seed=SEED,
    )
    def __init__(
        self,
        module: GMVAE,
        *,
        n_warm_start_epochs: int = 10,
        warm_start_weight: float = 100.0,
        component_regularization: ComponentRegularization = "kl",
        free_nats: float = 0.0,
        information_weight: float = 0.0,
        prior_lr_ratio: float | None = None,
        n_epochs_kl_warmup: int | None = None,
        seed: int | None = None,
        **kwargs: Any,
    ) -> None:
        kwargs = check_further(type(self), kwargs)
        super().__init__(
            module,
            n_epochs_kl_warmup=n_epochs_kl_warmup,
            component_regularization=component_regularization,
            free_nats=free_nats,
            information_weight=information_weight,
            **kwargs,
        )
        self.n_warm_start_epochs, self.warm_start_weight = n_warm_start_epochs, warm_start_weight
        self.component_regularization, self.free_nats = component_regularization, free_nats
        self.information_weight = information_weight
        self.prior_lr_ratio = module.prior.lr_ratio if prior_lr_ratio is None else prior_lr_ratio
        self.seed = (settings.seed or 0) if seed is None else seed
        self._reference: PCAClusters | None = None

    def get_optimizer_creator(self) -> Callable:
        """scvi-tools' optimiser; parameters of the prior are a group without decay."""
        return with_prior_group(super().get_optimizer_creator(), self.module.prior, self.lr * self.prior_lr_ratio)

    def on_train_start(self) -> None:
        """Fit reference components, if they are wanted."""
        super().on_train_start()
        start_outputs(self.module, training_cells(self.trainer))
        self.processes.share(self.module)
        if self.module.n_components == 1:
            return
        starts = self.n_warm_start_epochs > 0 and not self.module.prior.is_placed
        if starts or self.component_regularization == "cross_entropy":
            counts, genes = _counts_and_shared_genes(first_cells(training_cells(self.trainer), _MAX_REFERENCE_CELLS))
            if counts.shape[0] < self.module.n_components:
                msg = (
                    f"k-means of {self.module.n_components} components needs at least as many training cells, but there "
                    f"are {counts.shape[0]}. Lower `n_components`, or set `n_warm_start_epochs=0` in `plan_kwargs`."
                )
                raise ValueError(msg)
            options = {"log_normalise": self.module.link.is_of_counts, "genes": genes}
            clusters = PCAClusters(counts, self.module.n_components, self.seed, **options)
            state = self.processes.of_first(clusters.state())
            self._reference = PCAClusters.from_state(state).to(self.device)
        if not starts:
            self.n_warm_start_epochs = 0

    def training_state(self) -> dict:
        """The reference components, and for how long they are a reference."""
        return {
            "n_warm_start_epochs": self.n_warm_start_epochs,
            "reference": None if self._reference is None else self._reference.state(),
        }

    def load_training_state(self, state: dict) -> None:
        """Put back what :meth:`training_state` gave; when training has started."""
        self.n_warm_start_epochs, reference = state["n_warm_start_epochs"], state["reference"]
        self._reference = None if reference is None else PCAClusters.from_state(reference).to(self.device)

    def training_step(self, batch: dict, batch_idx: int) -> torch.Tensor:
        """As in scvi-tools, with reference components where they are wanted."""
        if len(batch[REGISTRY_KEYS.X_KEY]) == 1 and any(isinstance(m, BatchNorm1d) for m in self.module.modules()):
            msg = (
                f"Minibatch {batch_idx} has one cell, and batch norm needs two. Choose another `batch_size` or "
                "`train_size`, or build the model with `use_batch_norm='none'`."
            )
            raise ValueError(msg)
        self._set_reference(batch)
        loss = super().training_step(batch, batch_idx)
        if self.trainer.is_last_batch:  # a training that fails in its first epoch was none
            self.module.prior.mark_placed()
        return self.joint_loss(loss, len(batch[REGISTRY_KEYS.X_KEY]))

    def prepare_scib_autotune(self, loss_outputs: dict[str, torch.Tensor], stage: str) -> None:
        """As in scvi-tools, where the loss was asked for representations (``extra_payload_autotune=True``)."""
        if MODULE_KEYS.Z_KEY in loss_outputs:
            super().prepare_scib_autotune(loss_outputs, stage)

    def validation_step(self, batch: dict, batch_idx: int) -> None:
        """As in scvi-tools, with the same loss."""
        self._set_reference(batch)
        super().validation_step(batch, batch_idx)

    def _set_reference(self, batch: dict) -> None:
        """Give the loss the reference components of a minibatch and their weight."""
        weight = self.warm_start_weight * max(1 - self.current_epoch / max(self.n_warm_start_epochs, 1), 0.0)
        is_wanted = weight > 0 or self.component_regularization == "cross_entropy"
        self.loss_kwargs["reference_components"] = None
        if self._reference is not None and is_wanted:
            counts = as_sparse_counts(batch[REGISTRY_KEYS.X_KEY])
            self.loss_kwargs.update(reference_components=self._reference(counts), reference_weight=weight)


def _counts_and_shared_genes(cells: Iterable[dict]) -> tuple[sparse.csr_matrix, torch.Tensor | None]:
    """Counts of the cells of some minibatches, and the genes that all of them have, ``(g,)``; ``None`` for all genes.

    Clusters of genes that some cells lack would be those of panels. Without a gene that all have, they are of all genes.
    """
    counts, shared = [], None
    for batch in cells:
        counts.append(as_sparse_counts(batch[REGISTRY_KEYS.X_KEY]).to_scipy())
        if MEASURED_KEY in batch:
            here = batch[MEASURED_KEY].all(0)
            shared = here if shared is None else shared & here
    return sparse.vstack(counts, format="csr"), shared if shared is not None and shared.any() else None
