"""FlexSCVI: scVI with a prior that clusters."""

from __future__ import annotations

import inspect
import logging
import math
import os
import warnings
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from anndata import AnnData
from scvi import REGISTRY_KEYS
from scvi.data.fields import ObsmField
from scvi.model import SCVI
from scvi.module import VAE

from scdgd._absent_options import without
from scdgd._compat import ADATA_MINIFY_TYPE, freeze_for_query, get_state_registry, n_cells_of, registry_of
from scdgd._constants import CHECKPOINT_FORMAT, POSTERIOR_KEY, STORED_KEY
from scdgd._options import Instance, Optional, checked, checked_by, shown, unknown_name
from scdgd.data import Cells, SparseCountsLoader, SparseCountsSplitter, as_anndata, is_prepared_collection
from scdgd.likelihood import name_of
from scdgd.metrics import n_used_components
from scdgd.module import FlexVAE
from scdgd.module._query_columns import hold_known, sort_query_columns
from scdgd.prior import Prior
from scdgd.prior._registry import components_of, summary_of
from scdgd.prior._update import WITH_ENCODER, update_of
from scdgd.train import EmpiricalBayesPlan, InterruptibleTrainRunner

from ._arguments import BUILDING_ENCODERS, FREEZING, SURGERY
from ._devices import device_of
from ._encoder_model import EncoderModel
from ._encoder_run import EncoderRun
from ._host_options import OF_ROWS, OF_SURGERY
from ._stock_exchange import check_for_scanvi, check_taken, from_stock, stock_arguments, to_stock
from ._training_options import TRAINING
from ._values import check_values, holds_counts, layers_title, network_title

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    import pandas as pd
    import torch
    from lightning.pytorch import LightningDataModule
    from scvi.data.fields import BaseAnnDataField
    from torch import nn

    from scdgd.likelihood import GeneLikelihood
    from scdgd.module import PosteriorName
    from scdgd.module._flex_parts import DecoderName
    from scdgd.prior import PriorName

logger = logging.getLogger(__name__)

#: Random cells whose components are counted after training: at least so many, and so many for each component.
_N_CELLS_FOR_WARNING, _N_CELLS_PER_COMPONENT = 500, 10
_MAX_NAMED = 5
#: Components, if their number is not given: at most so many, and one for so many cells.
_MOST_COMPONENTS, _CELLS_FOR_ONE = 100, 5
#: Arguments that stock models have, too.
_OF_STOCK = (
    "n_hidden",
    "n_latent",
    "n_layers",
    "dropout_rate",
    "dispersion",
    "gene_likelihood",
    "use_observed_lib_size",
    "latent_distribution",
)
#: Arguments of modules that the model gives itself.
_NOT_OF_USERS = {
    "self",
    "kwargs",
    "n_input",
    "n_batch",
    "n_labels",
    "n_continuous_cov",
    "n_cats_per_cov",
    "library_log_means",
    "library_log_vars",
    "use_size_factor_key",
}


class FlexSCVI(EncoderModel, SCVI):
    r"""scVI with a choice of prior and posterior.

    Everything of :class:`scvi.model.SCVI` works as it does there. The prior is a mixture whose components are clusters
    of cells, and marginal likelihoods, importance weights and synthetic cells use it. See
    :class:`~scdgd.module.FlexVAE` for the objective and :class:`~scdgd.train.EmpiricalBayesPlan` for how mixtures are
    fitted. :class:`SCVMM`, :class:`SCVAMP` and :class:`SCIAF` are the published combinations.

    Parameters
    ----------
    adata
        AnnData registered with :meth:`setup_anndata`.
    registry
        Registry of a saved model, in place of data (used by :meth:`load`). Without both, the data module that the model is first
        trained on, ``train(datamodule=...)``, says for which genes and batches it is.
    n_hidden
        Width of hidden layers; or a sequence, the widths of the encoder's hidden layers, which the decoder mirrors.
    n_latent, n_layers, dropout_rate, dispersion, use_observed_lib_size, latent_distribution
        As in :class:`scvi.model.SCVI`.
    gene_likelihood
        ``"zinb"``, ``"nb"``, ``"poisson"`` or ``"normal"``, as in :class:`scvi.model.SCVI`; ``"zip"``, zero-inflated
        Poisson; ``"constrained_poisson"``, whose means add up to the total count (Grønbech et al. 2020); or
        ``"bernoulli"``, for binarised counts. For data set up with ``is_count_data=False`` it must be ``"normal"``, for
        log-normalised values, or ``"cross_entropy"``, for values from zero to one such as grey values of images; means are then
        decoded as they are, without a library size.
    prior
        * ``"normal"``: :math:`\mathcal N(0, I)`, as in scVI
        * ``"gaussian_mixture"``: Gaussian mixture
        * ``"softball"``: the Gaussian mixture of :class:`SCDGD` with its hyper-priors
        * ``"dpgmm"``: truncated Dirichlet process mixture of Gaussians, which leaves components empty that it does not need
        * ``"vamp"``: mixture of the posteriors of pseudo-inputs (Tomczak & Welling 2018; Dony et al. 2020)
        * ``"vmm"``: Dirichlet process mixture whose means are the posteriors of pseudo-inputs (Stirn & Knowles 2024)
        * ``"vade"``: Gaussian mixture trained by the bound of Jiang et al. 2017
        * a subclass of :class:`~scdgd.prior.Prior` that takes `n_components` and `n_latent`, or an instance, which is copied:
          trained by the ELBO, unless it says otherwise (:attr:`~scdgd.prior.Prior.updates`)
    n_components
        Number ``k`` of components, for ``"dpgmm"`` and ``"vmm"`` an upper bound. ``None``: 100, fewer for less than 500 cells, one
        for five cells. Not used by ``"normal"`` and by instances.
    prior_kwargs
        Further arguments of the prior's class in :mod:`scdgd.prior`.
    posterior
        ``"normal"``; ``"full"``, with correlations between dimensions; or ``"iaf"`` for an inverse autoregressive flow.
    posterior_kwargs
        Further arguments of :class:`~scdgd.posterior.InverseAutoregressiveFlow`.
    decoder
        ``"nonlinear"``, or ``"linear"`` for mean counts whose logarithms are affine in the latent space up to a constant
        of each cell (:class:`scvi.model.LinearSCVI`; see :meth:`get_loadings`). `n_hidden` and `n_layers` are then those
        of the encoder. Or a network of your own, a module (which is copied) or a class of modules, see
        :class:`~scdgd.module.NetworkOutputs`; there is an `encoder`, too.
    **kwargs
        Further arguments of :class:`~scdgd.module.FlexVAE` and :class:`scvi.module.VAE`.

    Raises
    ------
    ValueError
        If an option is unknown, parts do not go together, or there are more components than cells.

    Examples
    --------
    >>> adata = scdgd.datasets.pbmc68k()
    >>> scdgd.model.FlexSCVI.setup_anndata(adata)
    >>> model = scdgd.model.FlexSCVI(adata, prior="vmm", n_components=50)
    >>> model.train()
    >>> adata.obsm["X_flexscvi"] = model.get_latent_representation()
    >>> clusters = model.get_cluster_assignments()
    """

    _module_cls = FlexVAE
    _training_plan_cls = EmpiricalBayesPlan
    _data_splitter_cls = SparseCountsSplitter
    _data_loader_cls = SparseCountsLoader
    _train_runner_cls = InterruptibleTrainRunner
    _latent_key = "X_flexscvi"
    _is_asked_by_scanvi = False
    surgery_: dict | None = None
    n_pretrained_epochs_ = 0

    @without(**OF_ROWS)
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
        gene_likelihood: GeneLikelihood = "zinb",
        use_observed_lib_size: bool = True,
        latent_distribution: Literal["normal", "ln"] = "normal",
        *,
        prior: PriorName | type[Prior] | Prior = "vmm",
        n_components: int | None = None,
        prior_kwargs: dict | None = None,
        posterior: PosteriorName = "normal",
        posterior_kwargs: dict | None = None,
        decoder: DecoderName | nn.Module | type[nn.Module] = "nonlinear",
        **kwargs: Any,
    ) -> None:
        given = dict(locals())  # a copy, for that of the frame would hold itself
        if adata is None and registry is None:
            self._wait_for_cells(self._get_init_params(given))
            return
        n_components = self._usual_components(n_components, adata, registry)
        k = _checked_components(prior, n_components, math.inf if registry is not None or adata is None else adata.n_obs)
        registry_ = registry_of(type(self), adata) if registry is None and adata is not None else registry
        kwargs = _of_values(registry_, gene_likelihood, self._check_module_options(kwargs))
        comes_with_sizes = adata is None and not use_observed_lib_size  # scvi-tools reads them off the data
        of_stock = {**{name: given[name] for name in _OF_STOCK}, **kwargs}
        super().__init__(
            adata,
            registry,
            prior=prior,
            n_components=n_components,
            prior_kwargs=prior_kwargs,
            posterior=posterior,
            posterior_kwargs=posterior_kwargs,
            decoder=decoder,
            **of_stock | {"use_observed_lib_size": use_observed_lib_size or comes_with_sizes},
        )
        if comes_with_sizes:
            self.module.expect_sizes(self.summary_stats.n_batch)
        self._stock_options, self.checkpoint_format_ = of_stock, CHECKPOINT_FORMAT
        self._describe(
            representation=f"{n_latent} dimensions, posterior {posterior}",
            prior=summary_of(prior, k),
            networks=f"{layers_title(n_layers, n_hidden)}, {network_title(decoder)} decoder",
            likelihood=f"{name_of(gene_likelihood)}, dispersion {dispersion}",
        )
        self.init_params_ = self._get_init_params(locals())

    def _wait_for_cells(self, arguments: dict[str, dict[str, Any]]) -> None:
        self._check_module_options(arguments["kwargs"].get("kwargs", {}))
        super()._wait_for_cells(arguments)

    @property
    def init_params_(self) -> dict[str, dict[str, Any]]:
        """Arguments by which :class:`scvi.model.SCVI` has the same networks; SCANVI makes models of them.

        Those of this model, the prior among them, are in its files.
        """
        return stock_arguments(self._stock_options)

    @init_params_.setter
    def init_params_(self, arguments: dict[str, dict[str, Any]]) -> None:
        self._arguments = arguments

    @property
    def _constructed_with(self) -> dict[str, dict[str, Any]]:
        return self._arguments

    def _get_user_attributes(self) -> list[tuple[str, Any]]:
        """As in scvi-tools, which makes queries of them; with all arguments of the constructor."""
        attributes = dict(super()._get_user_attributes())
        return list({**attributes, "init_params_": self._constructed_with}.items())

    def _check_if_trained(self, *args: Any, **kwargs: Any) -> None:
        self._is_asked_by_scanvi = False
        super()._check_if_trained(*args, **kwargs)

    def _check_for_scanvi(self) -> None:
        check_for_scanvi(self, self._stock_options)
        self._is_asked_by_scanvi = True

    def _validate_anndata(self, adata: AnnData | None = None, copy_if_view: bool = True) -> AnnData:
        """As in scvi-tools; SCANVI, which has asked whether the model is trained, takes other data as they stand."""
        validated = super()._validate_anndata(adata, copy_if_view)
        if self._is_asked_by_scanvi:
            check_taken(self, validated)
        return validated

    @property
    def mean_profile_(self) -> torch.Tensor | None:
        """Mean share of each gene in the counts of a training cell, or mean value, ``(g,)``; ``None`` before training.

        What the encoder reads in the place of genes that were not measured. Of models of earlier versions, that of draws of
        the prior, from when it is needed.
        """
        profile = None if self.module is None else self.module.mean_profile
        return None if profile is None else profile.cpu()

    @mean_profile_.setter
    def mean_profile_(self, profile: torch.Tensor | None) -> None:
        if self.module is not None:
            self.module.place_profile(profile)

    @staticmethod
    def _usual_components(n_components: int | None, adata: AnnData | None, registry: dict | None) -> int:
        """The number that is asked for, or that of cells that few cells have components for."""
        if n_components is not None:
            return n_components
        n_cells = n_cells_of(registry) if adata is None else adata.n_obs
        return int(np.clip(n_cells // _CELLS_FOR_ONE, 1, _MOST_COMPONENTS))

    @classmethod
    def _further_arguments(cls) -> frozenset[str]:
        """Names of arguments of the modules behind the model."""
        takes = [
            inspect.signature(kind.__init__).parameters for kind in cls._module_cls.__mro__ if issubclass(kind, VAE)
        ]
        return frozenset(set().union(*takes) - _NOT_OF_USERS)

    @classmethod
    def _check_module_options(cls, options: dict) -> dict:
        """Further arguments of the modules behind the model, in their plain types."""
        further = cls._further_arguments()
        of_init = inspect.signature(cls.__init__).parameters
        for name in options:
            if name not in further:
                raise TypeError(unknown_name(name, {*further, *of_init}, f"an argument of {cls.__name__}"))
        return {
            name: BUILDING_ENCODERS[name](name, value) if name in BUILDING_ENCODERS else value
            for name, value in options.items()
        }

    @checked_by(TRAINING)
    def train(
        self,
        max_epochs: int | None = None,
        accelerator: str = "auto",
        devices: int | list[int] | str = "auto",
        train_size: float | None = None,
        validation_size: float | None = None,
        shuffle_set_split: bool = True,
        load_sparse_tensor: bool = False,
        batch_size: int = 128,
        early_stopping: bool = False,
        datasplitter_kwargs: dict | None = None,
        plan_config: dict | None = None,
        plan_kwargs: dict | None = None,
        datamodule: LightningDataModule | None = None,
        trainer_config: dict | None = None,
        checkpoint_dir: str | os.PathLike | None = None,
        checkpoint_every_n_epochs: int | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train the model, with the arguments of :meth:`scvi.model.SCVI.train`.

        Differences from scvi-tools: the divergence has its full weight from the first step (``n_epochs_kl_warmup`` in
        `plan_kwargs` asks for a warm-up); early stopping ends in the best state, not the last; a loss that is not
        finite ends training in the last good state, with an error that says where; Ctrl-C and SIGTERM end training
        after the current minibatch, and the model holds the state that it reached, or with `early_stopping` the best
        one. A last minibatch of one cell, on which batch norm cannot train, joins the one before it. A mixture that has put
        all cells into one component, or uses each of many, is warned about. A second call goes on, without
        pre-training again. For a query (:meth:`load_query_data`), ``weight_decay`` is 0 unless it is given, for decay would
        move frozen weights.

        Parameters
        ----------
        max_epochs
            Number of epochs; ``None`` for scvi-tools' choice by the number of cells.
        accelerator, devices
            As in scvi-tools; one device, or several processes with ``strategy="ddp"`` in a script, which each of them runs, as for
            :meth:`SCDGD.train`: each has `batch_size` cells of every minibatch, and batch norm is by those of all.
        train_size, validation_size, shuffle_set_split, load_sparse_tensor, batch_size, datasplitter_kwargs
            As in scvi-tools. Counts are always sparse.
        datamodule
            As in scvi-tools. For a model that was made without data it needs a `registry` of genes and batches, as scvi-tools' own
            have, or an `adata_manager` with one.
        early_stopping
            Whether to stop when `early_stopping_monitor` no longer improves.
        plan_config, plan_kwargs
            Arguments of the training plan: :class:`~scdgd.train.EmpiricalBayesPlan`, or
            :class:`~scdgd.train.GMVAEPlan` of :class:`SCGMVAE` and :class:`SCVAE`.
        trainer_config, **trainer_kwargs
            Arguments of :class:`~scvi.train.Trainer`.
        checkpoint_dir, checkpoint_every_n_epochs
            Folder of checkpoints, from which the same call goes on after the process was killed, and the epochs between
            them, as for :meth:`SCDGD.train`.

        Raises
        ------
        ValueError
            If an option is not possible, the data have changed since they were set up, there are fewer training cells
            than components, no minibatch to train on, or no validation cells to stop by.
        TypeError
            If there is no such option.
        FloatingPointError
            If the loss is not finite before a good epoch was complete; the model is then as it was before.
        NotImplementedError
            For what several devices do not do; with the reason.
        """
        EncoderRun(self, locals())()

    @classmethod
    def _fields_of_minified(cls, data: AnnData) -> list[BaseAnnDataField]:
        fields = super()._fields_of_minified(data)
        return [*fields, ObsmField(STORED_KEY, POSTERIOR_KEY)] if fields and POSTERIOR_KEY in data.obsm else fields

    def _renew_posteriors(self) -> None:
        """Store posteriors anew beside counts that are kept, because the encoder has changed."""
        if self.minified_data_type != ADATA_MINIFY_TYPE.LATENT_POSTERIOR_WITH_COUNTS:
            return
        mean, variance = self.get_latent_representation(dataloader=self.posterior.to_encode(), return_dist=True)
        self.adata.obsm[self._LATENT_QZM_KEY], self.adata.obsm[self._LATENT_QZV_KEY] = mean, variance
        self.adata.obsm.update(self.posterior.kept_beside(has_counts=True))

    def _check_labels(self) -> None:
        """Refuse cells whose label has no dispersions, where there are such."""
        if self.module.dispersion != "gene-label":
            return
        is_unknown = self.adata_manager.get_from_registry(REGISTRY_KEYS.LABELS_KEY).ravel() < 0
        if is_unknown.any():
            known = get_state_registry(self.registry, REGISTRY_KEYS.LABELS_KEY)["categorical_mapping"]
            names = ", ".join(map(str, self.adata.obs_names[is_unknown][:_MAX_NAMED]))
            msg = (
                f"`dispersion='gene-label'` needs the label of each cell, and {is_unknown.sum()} have none of "
                f"{list(map(str, known))} (first: {names}). Give them one, or train with `dispersion='gene'`."
            )
            raise ValueError(msg)

    def _check_sizes_of_panels(self) -> None:
        """Refuse latent sizes of cells that were measured with different genes."""
        if self.module.use_observed_lib_size or self.adata_manager.measured is None:
            return
        msg = (
            "`use_observed_lib_size=False` draws sizes of cells around the mean total of their batch, and totals of different "
            "genes do not compare. Leave it out to train on cells that lack genes."
        )
        raise ValueError(msg)

    def _warn_of_collapse(self) -> None:
        """Warn if a mixture has one cluster, or as many as it could have."""
        k = self.module.prior.n_components
        if k == 1 or self.adata is None or self.minified_data_type is not None:
            return
        n_cells, n_wanted = self.adata.n_obs, max(_N_CELLS_FOR_WARNING, _N_CELLS_PER_COMPONENT * k)
        some = np.random.default_rng(0).choice(n_cells, min(n_cells, n_wanted), replace=False)
        clusters = self.get_cluster_assignments(merged=False, indices=np.sort(some))
        n_used = n_used_components(clusters, min_share=min(0.01, 0.1 / k))
        if n_used_components(clusters) == 1:
            logger.warning(
                "All cells are in one of %s components: the mixture does not cluster. Train longer, raise "
                "`prior_batch_size` in `plan_kwargs`, or choose another prior.",
                k,
            )
        elif n_used == k and not update_of(self.module.prior, WITH_ENCODER).by_gradient and k > 20:
            logger.warning(
                "All %s components are used, so the number of clusters is the one that was given. Raise `n_components`, "
                "or lower `prior_batch_size` in `plan_kwargs`.",
                k,
            )

    @classmethod
    @checked(
        scvi_model=Instance(SCVI, "a trained `scvi.model.SCVI`"),
        adata=Optional(Cells(AnnData, "an AnnData with the genes of the stock model")),
    )
    def from_scvi_model(cls, scvi_model: SCVI, adata: AnnData | None = None, **kwargs: Any) -> Self:
        """A model with the networks of a trained :class:`scvi.model.SCVI`, which is left as it is.

        With ``prior="normal"`` it says what the stock model says. Other priors are still to be fitted: :meth:`train` goes on
        from these networks, or with ``plan_kwargs={"lr": 0}`` leaves them.

        Parameters
        ----------
        scvi_model
            The stock model.
        adata
            Its data, if it has none, or others with the same genes and categories. They are set up for this class.
        **kwargs
            Arguments of the model that a stock model does not have: `prior`, `n_components` and so on.

        Returns
        -------
        The model.

        Raises
        ------
        TypeError
            If it is no :class:`scvi.model.SCVI`.
        ValueError
            If an option is one that the networks have already, or networks, genes or categories are others.
        RuntimeError
            If the stock model is not trained.

        Examples
        --------
        >>> model = scdgd.model.SCVMM.from_scvi_model(stock)
        >>> model.train(50)
        """
        return from_stock(cls, scvi_model, adata, kwargs)

    def to_scvi_model(self) -> SCVI:
        """A :class:`scvi.model.SCVI` with the networks of this model and a standard normal prior, for all that takes only that.

        :class:`scvi.model.SCANVI` begins with the model itself, ``SCANVI.from_scvi_model(model, "unknown")``, unless its data were set
        up with arguments that scvi-tools does not have.

        Returns
        -------
        The stock model, on the same data.

        Raises
        ------
        ValueError
            If a stock model has no such networks, likelihood or data; with what differs.
        RuntimeError
            If the model is not trained.
        """
        return to_stock(self, self._stock_options)

    @staticmethod
    def prepare_query_anndata(
        adata: AnnData,
        reference_model: str | os.PathLike | FlexSCVI,
        return_reference_var_names: bool = False,
        inplace: bool = True,
    ) -> AnnData | pd.Index | None:
        """As in scvi-tools: the genes of a reference in their order, zeros for those that are missing.

        Parameters
        ----------
        adata
            New cells.
        reference_model
            Trained model, or the folder of a saved one.
        return_reference_var_names, inplace
            As in scvi-tools.

        Returns
        -------
        As in scvi-tools.

        Raises
        ------
        ValueError
            If no gene is shared, or the data are a collection of other genes, which needs no preparation.
        """
        if isinstance(reference_model, os.PathLike):
            reference_model = os.fspath(reference_model)
        adata = as_anndata(adata)
        genes = SCVI.prepare_query_anndata(adata, reference_model, return_reference_var_names=True)
        if return_reference_var_names:
            return genes
        if is_prepared_collection(adata, genes):
            return None if inplace else adata
        return SCVI.prepare_query_anndata(adata, reference_model, inplace=inplace)

    @classmethod
    @without(datamodule=OF_SURGERY["datamodule"])
    @checked(**SURGERY)
    def load_query_data(
        cls,
        adata: AnnData | None = None,
        reference_model: str | os.PathLike | FlexSCVI | None = None,
        *args: Any,
        **kwargs: Any,
    ) -> FlexSCVI:
        """As in scvi-tools (scArches); the prior is frozen, and new batches have no weight in its pseudo-inputs.

        With the rest frozen as it is by default, the encoder learns from new categories only, so that training a query
        leaves representations of the reference and the prior bit for bit as they are. ``freeze_expression=False`` lets
        weights of genes and known categories in the first layer train, too. Unlike in scvi-tools, categorical
        covariates, and references of one batch, may gain categories without harm to those that are known; frozen batch
        norms normalise in training as they do afterwards; and what is frozen stays so in a model that was saved.

        Parameters
        ----------
        adata
            Cells with the genes of the reference.
        reference_model
            Trained model, or the folder of a saved one.
        *args, **kwargs
            As in scvi-tools.

        Returns
        -------
        A model on `adata`, to be trained.

        Raises
        ------
        ValueError
            If genes are missing; they are named.
        TypeError
            If there is no such argument, or the reference is no model of this class.
        RuntimeError
            If the reference is not trained.
        """
        if adata is None and kwargs.get("registry") is None:
            msg = f"{cls.__name__}.load_query_data extends a reference by new cells: pass `adata`."
            raise ValueError(msg)
        if isinstance(reference_model, str | os.PathLike):
            reference_model = cls.load(reference_model, adata=False, accelerator="cpu")
        if type(reference_model) is not cls:
            msg = f"`reference_model` must be a {cls.__name__} or the folder of a saved one, got {shown(reference_model)}."
            raise TypeError(msg)
        reference_model._check_if_trained(warn=False)
        own = [f"`{name}`" for name in ("encoder", "decoder") if reference_model.module.has_own(name)]
        if own:
            msg = (
                f"The {' and '.join(own)} of the reference are networks of your own, which have no known weights for new categories. "
                "Encode new cells of known categories by its reading methods: `get_latent_representation(adata)`."
            )
            raise NotImplementedError(msg)
        takes = inspect.signature(SCVI.load_query_data)
        for name in kwargs:
            if name not in takes.parameters:
                raise TypeError(unknown_name(name, takes.parameters, f"an argument of {cls.__name__}.load_query_data"))
        options = takes.bind(adata, reference_model, *args, **kwargs).arguments
        device_of(options.get("accelerator", "auto"), options.get("device", "auto"))
        with warnings.catch_warnings():  # registration finds genes by name, and says which are missing
            warnings.filterwarnings("ignore", message="`var_names` for the loaded `model` does not match")
            model = super().load_query_data(**options)
        known = reference_model.registry
        n_known = [len(get_state_registry(known, REGISTRY_KEYS.BATCH_KEY)["categorical_mapping"])]
        n_known.extend(get_state_registry(known, REGISTRY_KEYS.CAT_COVS_KEY).get("n_cats_per_key", []))
        sort_query_columns(model.module, n_known)
        model.surgery_ = {
            "n_known": n_known,
            "options": {name: options.get(name, takes.parameters[name].default) for name in FREEZING},
        }
        model._hold_reference()
        model._check_labels()
        return model

    @property
    def _holds_reference(self) -> bool:
        """Of a query model, unless all of it trains."""
        return self.surgery_ is not None and not self.surgery_["options"]["unfrozen"]

    def _hold_reference(self) -> None:
        """Hold what belongs to the reference of a query model, beyond what scvi-tools' surgery freezes."""
        of_surgery = self.surgery_["options"]
        hold_known(self.module, self.surgery_["n_known"], holds_first_layer=of_surgery["freeze_expression"])

    def _after_loading(self) -> None:
        """Freeze a query model as it was when it was saved."""
        if self.surgery_ is not None:
            freeze_for_query(self.module, **self.surgery_["options"])
            self._hold_reference()


def _checked_components(prior: PriorName | type[Prior] | Prior, n_components: int, n_cells: float) -> int:
    """Number of components of a prior; ValueError for more than cells."""
    k = components_of(prior, n_components)
    if k > n_cells:
        msg = f"{k} components need at least as many cells, but there are {n_cells}. Lower `n_components`."
        raise ValueError(msg)
    return k


def _of_values(registry: dict | None, gene_likelihood: GeneLikelihood, options: dict) -> dict:
    """Options for the values of a registry, if there is one; ValueError unless the likelihood is one of them."""
    if registry is None:
        return options
    check_values(registry, gene_likelihood)
    return options if holds_counts(registry) else _without_sizes(options)


def _without_sizes(options: dict) -> dict:
    """Options of a model of values that are not counts."""
    wanted = {"mean_activation": "identity", "log_variational": False, "normalize_input": False}
    for name, value in wanted.items():
        if options.get(name, value) != value:
            msg = f"`{name}={options[name]!r}` is for counts, but the data were set up with `is_count_data=False`. Leave it out."
            raise ValueError(msg)
    return wanted | options
