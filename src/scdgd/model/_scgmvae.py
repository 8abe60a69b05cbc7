"""SCGMVAE: a variational autoencoder whose discrete latent variable is the cluster of a cell."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from scvi import REGISTRY_KEYS

from scdgd._absent_options import Absent, without
from scdgd._compat import get_state_registry
from scdgd._options import checked, checked_by
from scdgd.metrics import n_used_components
from scdgd.module import GMVAE
from scdgd.train import GMVAEPlan

from ._arguments import BUILDING_ENCODERS
from ._flexscvi import FlexSCVI
from ._host_options import OF_MIXTURES
from ._posterior_of_encoder import PosteriorOfEncoder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

    from scdgd.likelihood import GeneLikelihood

logger = logging.getLogger(__name__)

#: Random cells whose components are counted after training.
_N_CELLS_FOR_WARNING = 2_000


class PosteriorOfMixture(PosteriorOfEncoder):
    """Components have an encoder of their own."""

    _no_clusters = (
        "The model has one component, so there are no clusters. Cluster `get_latent_representation()`, or use "
        "`scdgd.model.SCGMVAE` with more components."
    )

    def _assign(
        self, adata: AnnData | None, indices: Sequence[int] | None, soft: bool, batch_size: int | None
    ) -> torch.Tensor:
        adata = self.model._validate_anndata(adata)
        loader = self.model._make_data_loader(adata=adata, indices=indices, batch_size=batch_size)
        qy = torch.cat([self.module.classify(tensors) for tensors in loader])
        return qy if soft else qy.argmax(dim=-1)


class SCGMVAE(FlexSCVI):
    r"""Gaussian-mixture variational autoencoder of counts, GMVAE (Grønbech et al. 2020).

    Each cell has a component :math:`y` and a representation :math:`z \mid y`. An encoder gives :math:`q(y \mid x)`, the
    soft cluster of a cell, a second one :math:`q(z \mid x, y)`; the objective sums over all components exactly. See
    :class:`~scdgd.module.GMVAE` for the objective and :class:`~scdgd.train.GMVAEPlan` for how components are kept in use.
    The published settings are ``scdgd.presets.GRONBECH_2020``.

    What :class:`scvi.model.SCVI` does works as it does there. Representations, importance weights and marginal
    likelihoods are of :math:`q(z \mid x) = \sum_y q(y \mid x)\, q(z \mid x, y)` and :math:`p(z)`, components summed out.

    Parameters
    ----------
    adata, registry, n_hidden, n_latent, n_layers, dropout_rate, dispersion, use_observed_lib_size
        As for :class:`FlexSCVI`.
    n_components
        Number ``k`` of components.
    gene_likelihood
        As for :class:`FlexSCVI`. With `k_max` among the further arguments, counts below it have probabilities of their
        own, as in the paper.
    component_weights
        :math:`p(y)`: ``"learned"``, ``"uniform"`` (published), given weights ``(k,)``, or ``"labels"``, the frequencies of
        the label categories, of which there must be ``k``. This is supervision: it tells the sizes of clusters, not which
        cell is in which.
    max_components_per_cell
        Sum over the likeliest components of each cell only; ``None`` for all. See :class:`~scdgd.module.GMVAE`.
    **kwargs
        Further arguments of :class:`~scdgd.module.GMVAE`, :class:`~scdgd.module.FlexVAE` and :class:`scvi.module.VAE`.

    Raises
    ------
    ValueError
        If an option is unknown or out of range, there are more components than cells, or a prior, a posterior or an option of them is
        named.

    Examples
    --------
    >>> adata = scdgd.datasets.pbmc68k()
    >>> scdgd.model.SCGMVAE.setup_anndata(adata)
    >>> model = scdgd.model.SCGMVAE(adata, n_components=8)
    >>> model.train()
    >>> adata.obsm["X_scgmvae"] = model.get_latent_representation()
    >>> clusters = model.get_cluster_assignments()
    """

    _module_cls = GMVAE
    _training_plan_cls = GMVAEPlan
    _posterior_cls = PosteriorOfMixture
    _latent_key = "X_scgmvae"

    @without(**OF_MIXTURES)
    @checked_by(BUILDING_ENCODERS)
    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict | None = None,
        n_hidden: int | Sequence[int] = 128,
        n_latent: int = 10,
        n_layers: int = 1,
        dropout_rate: float = 0.1,
        dispersion: Literal["gene", "gene-batch", "gene-label", "gene-cell"] = "gene",
        gene_likelihood: GeneLikelihood = "nb",
        use_observed_lib_size: bool = True,
        *,
        n_components: int = 10,
        component_weights: Literal["uniform", "learned", "labels"] | Sequence[float] = "learned",
        max_components_per_cell: int | None = None,
        **kwargs: Any,
    ) -> None:
        from_labels = isinstance(component_weights, str) and component_weights == "labels"
        super().__init__(
            adata,
            registry,
            n_hidden,
            n_latent,
            n_layers,
            dropout_rate,
            dispersion,
            gene_likelihood,
            use_observed_lib_size,
            prior="normal" if n_components == 1 else "gaussian_mixture",
            n_components=n_components,
            component_weights="uniform" if from_labels else component_weights,
            max_components_per_cell=max_components_per_cell,
            **kwargs,
        )
        if from_labels and self.adata is not None:  # a saved model has them among its parameters
            self.module.prior.weight_logits.data.copy_(self._label_frequencies().log())
        self.init_params_ = self._get_init_params(locals())

    def _label_frequencies(self) -> torch.Tensor:
        """Share of the cells in each label category, shape ``(k,)``."""
        state = get_state_registry(self.registry_, REGISTRY_KEYS.LABELS_KEY)
        names, k = list(state["categorical_mapping"]), self.module.n_components
        if str(state["original_key"]).startswith("_scvi"):
            msg = (
                "`component_weights='labels'` takes label frequencies: name them with `setup_anndata(labels_key=...)`."
            )
            raise ValueError(msg)
        if len(names) != k:
            msg = f"`component_weights='labels'` needs as many components as labels: {k} components, labels {names}."
            raise ValueError(msg)
        codes = np.asarray(self.adata_manager.get_from_registry(REGISTRY_KEYS.LABELS_KEY)).ravel().astype(int)
        n_cells = np.bincount(codes[codes >= 0], minlength=k)  # cells that a model is loaded with may have other labels
        return torch.as_tensor(n_cells / max(n_cells.sum(), 1), dtype=torch.float32)

    def _warn_of_collapse(self) -> None:
        """Warn if all cells are in one component, or ``q(y | x)`` does not tell components apart."""
        k = self.module.n_components
        if k == 1 or self.adata is None:
            return
        n = self.adata.n_obs
        some = np.random.default_rng(0).choice(n, min(n, _N_CELLS_FOR_WARNING), replace=False)
        qy = self.get_cluster_assignments(merged=False, indices=np.sort(some), soft=True)
        if n_used_components(qy.argmax(1)) == 1:
            logger.warning(
                "All cells are in one of %s components: the mixture does not cluster. Train longer, or raise "
                "`n_warm_start_epochs` or `information_weight` in `plan_kwargs`.",
                k,
            )
        elif (surest := float(np.median(qy.max(1)))) < 0.5:
            logger.warning(
                "Half of the cells have a component of probability %.2f at most: clusters are not told apart. Train "
                "longer, or raise `n_warm_start_epochs` or `information_weight` in `plan_kwargs`.",
                surest,
            )


class SCVAE(SCGMVAE):
    r"""Variational autoencoder of counts (Grønbech et al. 2020): :class:`SCGMVAE` with one component.

    The prior is :math:`z \sim \mathcal N(0, I)`.

    Parameters
    ----------
    adata, registry, **kwargs
        As for :class:`SCGMVAE`.

    Raises
    ------
    ValueError
        If more than one component is asked for.

    Examples
    --------
    >>> adata = scdgd.datasets.pbmc68k()
    >>> scdgd.model.SCVAE.setup_anndata(adata)
    >>> model = scdgd.model.SCVAE(adata, gene_likelihood="zip")
    >>> model.train()
    >>> adata.obsm["X_scvae"] = model.get_latent_representation()
    """

    _latent_key = "X_scvae"

    @without(n_components=Absent("is not the one component of SCVAE. Use `scdgd.model.SCGMVAE`.", (1,)))
    @checked(adata=BUILDING_ENCODERS["adata"])
    def __init__(self, adata: AnnData | None = None, registry: dict | None = None, **kwargs: Any) -> None:
        super().__init__(adata, registry, n_components=1, **kwargs)
        self.init_params_ = self._get_init_params(locals())
