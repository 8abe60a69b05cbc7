"""SCDGD: the deep generative decoder for single-cell counts."""

from __future__ import annotations

import inspect
import logging
import os
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scvi import REGISTRY_KEYS
from scvi.model.base import BaseMinifiedModeModelClass, RNASeqMixin, VAEMixin

from scdgd._absent_options import without
from scdgd._compat import get_state_registry, is_registered
from scdgd._constants import CHECKPOINT_FORMAT
from scdgd._options import Choice, Options, checked, checked_by, shown, unknown_name
from scdgd.data import (
    Cells,
    SparseCountsLoader,
    SparseCountsSplitter,
    as_anndata,
    has_levels,
    is_prepared_collection,
    levels_of,
    padded_to,
    registered_cells,
)
from scdgd.inference import NEW_CELLS, NewCellsConfig, posterior_draws
from scdgd.likelihood import family_of, name_of
from scdgd.module import DGDModule, usual_size_and_link
from scdgd.posterior import Noisy, Point
from scdgd.prior import Prior
from scdgd.prior._registry import make_prior, summary_of
from scdgd.train import InterruptibleTrainRunner, RepresentationPlan
from scdgd.train._start import note_usual_sizes

from ._arguments import BUILDING, REFERENCE
from ._cell_rows import CellRows
from ._data_model import DataModel
from ._devices import ACCELERATOR, ONE_DEVICE
from ._host_options import OF_ENCODERS, OF_SURGERY
from ._new_levels import NewLevels
from ._representation_run import RepresentationRun
from ._row_model import RowModel
from ._supervision import Supervision
from ._training_options import TRAINING
from ._values import check_values, layers_title, network_title

if TYPE_CHECKING:
    from lightning.pytorch import LightningDataModule
    from torch import nn

    from scdgd.likelihood import GeneLikelihood
    from scdgd.posterior import RowPosterior
    from scdgd.prior import PriorName
    from scdgd.train import BatchBalance

logger = logging.getLogger(__name__)

#: How often each hyper-prior is counted: per cell where the joint density would else grow without bound.
_HYPERPRIOR_WEIGHT = {"log_var": "per_cell", "weights": "once", "means": "once"}


def _with_noise(scale: float) -> RowPosterior:
    return Noisy(scale) if scale > 0 else Point()


class SCDGD(RowModel, RNASeqMixin, VAEMixin, BaseMinifiedModeModelClass):
    r"""Deep generative decoder for single-cell counts (Schuster & Krogh 2023).

    No encoder: the representation of each cell is a free parameter, found together with the decoder and a Gaussian
    mixture over the latent space, so clusters are part of the model. See :class:`~scdgd.module.DGDModule` for the
    objective. The defaults are ours (the user guide says how they were chosen); the published forms are
    ``SCDGD(adata, **scdgd.presets.SCHUSTER_2023["model"])`` with ``train(**scdgd.presets.SCHUSTER_2023["train"])``,
    and ``SCHUSTER_2023_CODE``. Further options of :class:`scvi.model.SCVI` are taken where they say what is so anyway, such as
    ``latent_distribution="normal"``; others are refused with the reason.

    Parameters
    ----------
    adata
        AnnData registered with :meth:`setup_anndata`, or MuData registered with :meth:`setup_mudata`.
    registry
        Registry of a saved model, in place of data (used by :meth:`load`).
    n_components
        Number ``k`` of mixture components. ``"auto"``: more than there are kinds of cells, 30 or one for 30 cells, of which those
        that are not separate make one cluster after training, see :func:`scdgd.tl.component_tree`. ``"labels"`` takes the number
        of label categories (the paper's rule), times `components_per_class`. What stands for no label is no category.
    n_latent
        Dimension ``d`` of representations.
    n_hidden, n_layers, activation
        Width, number and activation (``"silu"``, ``"relu"``, ``"tanh"``) of the decoder's hidden layers.
    gene_likelihood
        ``"nb"``, negative binomial; ``"poisson"``; ``"zinb"`` and ``"zip"``, the same with a share of structural zeros
        for each gene; ``"constrained_poisson"``, whose means add up to the total count, for observed totals;
        ``"bernoulli"``, for binarised counts; ``"cross_entropy"``, for values from zero to one such as grey values of images, or
        ``"normal"``, for log-normalised values, both set up with ``is_count_data=False``. The last three have neither size factors,
        registered ones included, nor an output activation.
    dispersion
        Inverse dispersion per gene (``"gene"``) or per gene and batch (``"gene-batch"``); without effect on Poisson
        counts. A new batch has the mean over batches. scvi-tools' ``"gene-cell"`` is refused: dispersions that depend on the representation make noise of
        what the steps of Gauss-Newton and Laplace's approximation take for information.
    size_factor
        ``"observed"`` (total count), ``"max"`` (largest count; the paper's), ``"mean"`` or ``"registered"`` (the
        ``size_factor_key`` column). ``"latent"``: a parameter of the cell, found with its representation, with a log-normal prior
        in each batch, see :class:`~scdgd.module.LatentSize`; each step of training decodes once more for it. ``None``: registered
        if there is such a column, else observed.
    output_activation
        ``"softmax"``, ``"sigmoid"`` or ``"softplus"``. ``None``: softmax for observed totals, else softplus.
    batch_representation
        ``"one-hot"``: a batch, or a level of a categorical covariate, is a column of the decoder's hidden layers
        (published), and new ones are refused. ``"embedding"``: it also has a vector of offsets of genes with a Gaussian
        prior, see :class:`~scdgd.module.LevelEmbedding`, and cells of batches and levels that the model was not trained on
        are taken: their vectors are fitted to them, with all else as it is.
    dispersion_floor
        0, or 1 for the released code's :math:`\theta > 1`.
    prior
        ``"gaussian_mixture"``; ``"softball"`` for the published mixture with hyper-priors; another name in
        :data:`scdgd.prior.PRIORS`, except those that need an encoder; a subclass of :class:`~scdgd.prior.Prior` that takes
        `n_components` and `n_latent`; or an instance, which is copied and knows its number of components.
    prior_kwargs
        Further arguments of the prior's class.
    noise_scale
        Standard deviation of the noise on representations in training; 0 is published. Default 0.6, on a scale where
        the broad prior has unit variance.
    hyperprior_weight
        ``"once"`` or ``"per_cell"`` for each term of the prior's parameters. Default
        ``{"log_var": "per_cell", "weights": "once", "means": "once"}``.
    new_cells
        How new cells are placed, see :class:`~scdgd.inference.NewCellsConfig`.
    supervision
        ``None``: labels play no part. ``"components"``: each class of `labels_key` owns components, and the label of a cell
        restricts it to these, see :class:`~scdgd.prior.ClassComponents`; cells without a label are free. All cells labelled is the
        supervised model of the paper.
    components_per_class
        Number of components of each class. `n_components` may be larger: the rest belong to no class, for kinds of cells that no label
        names.
    decoder
        A network of your own in the place of hidden layers, from ``(b, d)`` to one output a gene: a module, which is copied, or a
        class of modules; see :class:`~scdgd.module.NetworkDecoder`. `n_hidden`, `n_layers` and `activation` are then not used.
    use_layer_norm
        As in scvi-tools: ``"decoder"`` or ``"both"`` for layer norm in the decoder's hidden layers; there is no encoder to norm.
    use_observed_lib_size
        As in scvi-tools: ``False`` is ``size_factor="latent"``, unless a column of size factors is registered.
    batch_embedding_kwargs
        ``{"embedding_dim": r}`` for vectors of batches that ``r`` numbers of each batch span, see
        :class:`~scdgd.module.LowRankLevelEmbedding` and :meth:`get_batch_representation`.

    Attributes
    ----------
    batch_balance_
        What the last training did about batches; ``None`` if it balanced nothing. A dictionary of ``"covariates"``, by the
        name of each, its ``"n_levels"`` and whether levels have weights of kinds of cells of their own (``"own_weights"``,
        ``None`` if that was not decided); ``"n_epochs"`` in which representations were balanced; and ``"first_shift"`` and
        ``"last_shift"``, the mean length of a move in these, in root nats.
    calibration_
        How probabilities of classes are calibrated, ``None`` without supervision. A dictionary of the ``"temperature"``, of
        ``"n_cells"`` with labels that it was fitted to, and of whether these were held out of training (``"is_held_out"``).

    Raises
    ------
    ValueError
        If an option is unknown, or there are more components than cells.

    Examples
    --------
    >>> adata = scdgd.datasets.pbmc68k()
    >>> scdgd.model.SCDGD.setup_anndata(adata)
    >>> model = scdgd.model.SCDGD(adata, n_components=10)
    >>> model.train()
    >>> adata.obsm["X_scdgd"] = model.get_latent_representation()
    """

    _module_cls = DGDModule
    _training_plan_cls = RepresentationPlan
    _data_splitter_cls = SparseCountsSplitter
    _data_loader_cls = SparseCountsLoader
    _train_runner_cls = InterruptibleTrainRunner
    _posterior_of_scale = staticmethod(_with_noise)
    _latent_key = "X_scdgd"
    _representation_is = "a point for each cell"
    _hyperprior_weight = _HYPERPRIOR_WEIGHT
    _former_arguments: ClassVar[dict[str, Any]] = {"batch_representation": "one-hot"}
    #: Whether it can be made without data, for a data module to say what it is for.
    _may_wait_for_cells: ClassVar[bool] = True

    @without(**OF_ENCODERS)
    @checked_by(BUILDING)
    def __init__(
        self,
        adata: AnnData | MuData | None = None,
        registry: dict | None = None,
        *,
        n_components: int | Literal["auto", "labels"] = "auto",
        n_latent: int = 20,
        n_hidden: int = 64,
        n_layers: int = 1,
        activation: Literal["silu", "relu", "tanh"] = "silu",
        gene_likelihood: GeneLikelihood = "nb",
        dispersion: Literal["gene", "gene-batch"] = "gene",
        size_factor: Literal["observed", "max", "mean", "registered", "latent", "none"] | None = None,
        output_activation: Literal["softmax", "sigmoid", "softplus", "identity"] | None = None,
        dispersion_floor: Literal[0, 1] = 0,
        batch_representation: Literal["embedding", "one-hot"] = "embedding",
        prior: PriorName | type[Prior] | Prior = "gaussian_mixture",
        prior_kwargs: dict | None = None,
        noise_scale: float = 0.6,
        hyperprior_weight: dict[str, Literal["once", "per_cell"]] | None = None,
        new_cells: dict | None = None,
        supervision: Literal["components"] | None = None,
        components_per_class: int = 1,
        decoder: nn.Module | type[nn.Module] | None = None,
        use_layer_norm: Literal["encoder", "decoder", "none", "both"] = "none",
        use_observed_lib_size: bool = True,
        batch_embedding_kwargs: dict[str, int] | None = None,
    ) -> None:
        if self._waits_for_cells(adata, registry, locals()):
            return
        super().__init__(adata, registry)
        sizes = self._usual_sizes(gene_likelihood, size_factor, output_activation, is_observed=use_observed_lib_size)
        self.supervision = Supervision.of(self.registry_, supervision, components_per_class, prior)
        made = self._make_prior(prior, n_components, n_latent, prior_kwargs)
        family = {"gene_likelihood": gene_likelihood, "dispersion": dispersion, "dispersion_floor": dispersion_floor}
        self.module = self._module_cls(
            self.summary_stats.n_vars,
            self.summary_stats.n_trained_cells,
            made,
            **self._module_options(batch_representation, (batch_embedding_kwargs or {}).get("embedding_dim")),
            **self._networks(n_hidden, n_layers, activation, use_layer_norm, decoder),
            **sizes,
            **family,
            posterior=self._posterior_of_scale(noise_scale),
            hyperprior_weight=self._hyperprior_weights(hyperprior_weight or {}, made),
        )
        self._complete_module()
        self.cells = CellRows(self.module, NewCellsConfig(**NEW_CELLS("new_cells", new_cells or {})))
        self.levels = NewLevels(self.module, self.registry_)
        self._warn_if_degenerate()
        vars(self).update(dict.fromkeys(RepresentationRun.attributes), checkpoint_format_=CHECKPOINT_FORMAT)
        self._describe(
            representation=f"{n_latent} dimensions, {self._representation_is}",
            prior=summary_of(prior, made.n_components),
            decoder=network_title(decoder) or layers_title(n_layers, n_hidden),
            likelihood=f"{name_of(gene_likelihood)}, dispersion {dispersion}, size factor {sizes['size_factor']}",
        )
        self.init_params_ = self._get_init_params(locals())

    def _waits_for_cells(self, adata: AnnData | MuData | None, registry: dict | None, given: dict[str, Any]) -> bool:
        """Whether the model is made without data, of the arguments that are `given`."""
        waits = adata is None and registry is None and self._may_wait_for_cells
        if waits:
            self._wait_for_cells(self._get_init_params(given))
        return waits

    @staticmethod
    def _networks(
        n_hidden: int, n_layers: int, activation: str, use_layer_norm: str, decoder: nn.Module | type[nn.Module] | None
    ) -> dict[str, Any]:
        """Arguments of the module that are of the decoder; ValueError if a network of the user's is to be normed."""
        is_normed = use_layer_norm in ("decoder", "both")
        if is_normed and decoder is not None:
            msg = f"`use_layer_norm={use_layer_norm!r}` norms the usual hidden layers, and `decoder` is a network of yours. Leave one out."
            raise ValueError(msg)
        usual = {"n_hidden": n_hidden, "n_layers": n_layers, "activation": activation, "use_layer_norm": is_normed}
        return {**usual, "decoder": decoder}

    def _complete_module(self) -> None:
        """How posteriors are drawn, and the law of latent sizes before training, of all cells; those that train give it again."""
        self.module.posterior_sampler = posterior_draws
        if self.module.latent_size is None or self.adata is None:
            return
        manager = self.adata_manager
        if manager.has_counts and (manager.rows >= 0).all():
            note_usual_sizes(self.module, registered_cells(manager), np.arange(len(manager.rows)))

    @property
    def merges_components(self) -> bool:
        """Whether training ends with components merged that are not separate."""
        return self.init_params_["non_kwargs"].get("n_components") == "auto"

    def _make_prior(
        self, prior: PriorName | type[Prior] | Prior, n_components: int | str, n_latent: int, options: dict | None
    ) -> Prior:
        """The prior, whose components belong to classes if that is asked for."""
        n_cells = self.summary_stats.n_trained_cells
        k = self.supervision.count_components(self.registry_, n_components, prior, n_cells)
        made = make_prior(prior, k, n_latent, options)
        self.supervision.give(made)
        return made

    def _module_options(self, batch_representation: str, batch_embedding_dim: int | None = None) -> dict[str, Any]:
        """Arguments of the module: numbers of covariates, and of levels in training, and how they enter, if there are such columns."""
        if batch_embedding_dim is not None and batch_representation != "embedding":
            msg = (
                f"`batch_embedding_kwargs={{'embedding_dim': {batch_embedding_dim}}}` is of vectors of batches, and "
                f"`batch_representation={batch_representation!r}` has none. Leave one of them out."
            )
            raise ValueError(msg)
        n_batch, *n_cats_per_cov = (levels.n_trained for levels in levels_of(self.registry_).values())
        representation = batch_representation if has_levels(self.registry_) else "one-hot"
        return {
            "n_batch": n_batch,
            "n_cats_per_cov": n_cats_per_cov,
            "n_continuous": self.summary_stats.get("n_extra_continuous_covs", 0),
            "batch_representation": representation,
            "batch_embedding_dim": batch_embedding_dim,
        }

    def _usual_sizes(
        self,
        gene_likelihood: GeneLikelihood,
        size_factor: str | None,
        output_activation: str | None,
        *,
        is_observed: bool,
    ) -> dict[str, str]:
        """Size factor and output activation by their names, the usual ones of the data if not given; ValueError if they are not possible."""
        has_size_factor, given = is_registered(self.registry_, REGISTRY_KEYS.SIZE_FACTOR_KEY), size_factor
        if not is_observed:
            if size_factor not in (None, "latent"):
                msg = (
                    f"`use_observed_lib_size=False` makes the size of a cell a parameter, and `size_factor={size_factor!r}` says "
                    "where it is read. Leave one of them out."
                )
                raise ValueError(msg)
            takes_one = family_of(gene_likelihood).is_of_counts and not has_size_factor  # which a column goes before
            size_factor = "latent" if takes_one else size_factor
        size_factor, output_activation = usual_size_and_link(
            family_of(gene_likelihood), size_factor, output_activation, has_registered=has_size_factor
        )
        if has_size_factor and given is None and size_factor == "none":
            logger.info(
                "`gene_likelihood=%r` is of values without a size: registered size factors are not used.",
                name_of(gene_likelihood),
            )
        check_values(self.registry_, gene_likelihood)
        if size_factor == "registered" and not has_size_factor:
            msg = "`size_factor='registered'` needs `setup_anndata(adata, size_factor_key=...)`."
            raise ValueError(msg)
        return {"size_factor": size_factor, "output_activation": output_activation}

    def _hyperprior_weights(self, given: dict[str, str], prior: Prior) -> dict[str, str]:
        """How often each hyper-prior is counted; ValueError for one that the prior does not have."""
        terms = list(prior.hyper_log_prob())
        weights = dict.fromkeys((*self._hyperprior_weight, *terms), Choice("once", "per_cell"))
        given = Options(weights, of="the prior")("hyperprior_weight", given)
        if set(given) - set(terms):
            msg = (
                f"A {type(prior).__name__} has priors of its parameters {terms} only, got {sorted(given)}; "
                "`prior='softball'` has those of means and variances."
            )
            raise ValueError(msg)
        return {**self._hyperprior_weight, **given}

    def _warn_if_degenerate(self) -> None:
        prior = self.module.prior
        once = self.module.hyperprior_weight["log_var"] == "once" or "log_var" not in prior.hyper_log_prob()
        has_length = self.module.posterior.is_learned or self.module.posterior.noise_scale > 0
        if not has_length and prior.can_shrink and once:
            logger.warning(
                "Without noise on representations (`noise_scale=0`) the joint density grows without bound as "
                "representations and components shrink together. Keep `noise_scale > 0`, or use "
                "`prior='softball'` with `hyperprior_weight={'log_var': 'per_cell'}`, or "
                "`prior_kwargs={'covariance_type': 'fixed'}`, or `train(plan_cls=scdgd.train.LaplacePlan)`."
            )

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
        warm_start: Literal["pca", "zeros"] = "pca",
        mixture_start: int | None = None,
        checkpoint_dir: str | os.PathLike | None = None,
        checkpoint_every_n_epochs: int | None = None,
        polish: bool = False,
        plan_cls: type[RepresentationPlan] | None = None,
        batch_balance: BatchBalance | bool | None = None,
        **trainer_kwargs: Any,
    ) -> None:
        """Train the model, on *all* cells unless told otherwise.

        Differences from scvi-tools' defaults: all cells train, because only cells that take part have a
        representation of their own (held-out cells get theirs from the frozen model); ``max_epochs`` is 50, less
        above 50,000 cells; early stopping watches ``elbo_train`` if there are no validation cells. The mixture starts
        as the broad prior N(0, I) and is placed on the learned representations after 40% of the epochs.

        With ``supervision="components"`` the labels of cells that train restrict their components; when training has ended, a
        temperature calibrates probabilities of classes on labelled cells that were held out, if there are 50, else on training
        cells whose labels are hidden (`calibration_`).

        A second call goes on from where the first ended; it does not repeat the warm start or place the mixture again.
        A model from :meth:`load_query_data` only places its cells: `max_epochs` steps each, `batch_size` at a time.

        Ctrl-C ends training after at most 1,024 further cells (at once, and with KeyboardInterrupt, if pressed again). If at
        least one epoch was complete, `train` then returns, and the model is as if training had ended there: the history
        has the complete epochs, held-out cells are placed, and a :class:`~scvi.train.SaveCheckpoint` with
        ``load_best_on_end=True`` gives its best state. SIGTERM does the same, and then has its usual effect: your own
        handler runs, which may save the model; without one the process ends, and only checkpoints remain.

        Parameters
        ----------
        max_epochs
            Number of passes over the training cells, and so of steps of each representation.
        accelerator, devices
            As in scvi-tools; one device, or several processes with ``strategy="ddp"`` in a script, which each of them runs:
            networks and mixture are in all of them, each owns its rows and sees their cells, `batch_size` at a time, so that a
            step is on as many minibatches as there are processes.
        train_size, validation_size, shuffle_set_split
            As in scvi-tools; ``None`` for all cells, or for 0.9 of them, with a warning, where early stopping or a callback watches a
            metric of validation cells by name. Cells outside the training set never touch decoder or prior.
        load_sparse_tensor
            Without effect: counts are always sparse.
        batch_size
            Cells per minibatch.
        early_stopping
            Stop when the monitored quantity no longer improves, see :class:`~scvi.train.Trainer`.
        datasplitter_kwargs
            Further arguments of the data splitter.
        plan_config, plan_kwargs
            Arguments of :class:`~scdgd.train.RepresentationPlan`: learning rates, schedules, steps of the prior.
        datamodule
            One that splits an AnnData of :meth:`setup_anndata`, such as :class:`scvi.dataloaders.DataSplitter`: its cells train as it
            divides them, read as those of an AnnData are. Others do not tell which cell is which. A model that was made without
            data takes genes, batches and cells from it.
        trainer_config, **trainer_kwargs
            Arguments of :class:`~scvi.train.Trainer`.
        warm_start
            ``"pca"``: representations start at whitened principal components and the decoder at the mean profile;
            ``"zeros"``: representations at zero, decoder as drawn (published).
        mixture_start
            Epochs before the mixture is placed; ``None`` for 40% of `max_epochs`. Without effect on a prior that is
            placed by construction (``"softball"``).
        checkpoint_dir
            Folder of checkpoints. If it is empty, training starts and writes them; if it has some, the same call on a
            model made in the same way goes on where they end, in a new process too. On a CPU the result is then bit
            for bit that of a training that was never killed. Two files are kept, without the counts.
        checkpoint_every_n_epochs
            Epochs between checkpoints; ``None`` for 5. An interrupted training writes its last complete epoch anyway.
        polish
            Whether to move the representations of the training cells to the nearest modes of the joint density when
            training has ended, by Gauss-Newton steps with everything else frozen. Not for models that learn variances.
        plan_cls
            Which parameters step, when, and on which objective: :class:`~scdgd.train.LaplacePlan` integrates representations out of
            a model with ``noise_scale=0``. ``None`` for that of the last call, at first the model's own.
        batch_balance
            How shifts between batches, and between levels of categorical covariates, are taken out of representations
            while the model trains: a :class:`~scdgd.train.BatchBalance`; its defaults if ``None`` or ``True``; not at all
            with ``False`` (published). Without effect where all cells are of one batch. `batch_balance_` says what was done,
            and ``history["batch_shift"]`` has the mean length of a move, epoch by epoch.

        Raises
        ------
        ValueError
            If an option is unknown or needs validation cells that are not there, or `checkpoint_dir` belongs to another
            training.
        KeyboardInterrupt
            If Ctrl-C came before the first epoch was complete; an untrained model is then still untrained.
        FloatingPointError
            If the loss is not finite; the model is then as it was before.
        NotImplementedError
            For data modules without names of cells, and for what several devices do not do; with the reason.
        """
        run = RepresentationRun(self, locals())
        if self.is_query_:
            self.infer_representations(n_steps=max_epochs, batch_size=batch_size)
        else:
            run()

    @staticmethod
    def prepare_query_anndata(
        adata: AnnData,
        reference_model: str | os.PathLike | SCDGD,
        return_reference_var_names: bool = False,
        inplace: bool = True,
    ) -> AnnData | pd.Index | None:
        """As in scvi-tools: the genes of a reference in their order, extra ones left out.

        Not needed here, where genes are found by name. Genes that are missing get columns of zeros, which
        ``adata.var["scdgd_padded"]`` says to be no counts: they leave the likelihood, as missing ones do.

        Parameters
        ----------
        adata
            New cells.
        reference_model
            Trained model, or the folder of a saved one.
        return_reference_var_names
            Only return the names of the genes of the reference.
        inplace
            Whether `adata` itself is changed.

        Returns
        -------
        The data if they are not changed in place, or the names.

        Raises
        ------
        ValueError
            If no gene is shared, or the data are a collection of other genes, which needs no preparation.
        """
        if isinstance(reference_model, str | os.PathLike):
            registry = DataModel.load_registry(reference_model)
            genes = pd.Index(np.asarray(get_state_registry(registry, REGISTRY_KEYS.X_KEY)["column_names"]).astype(str))
        else:
            genes = pd.Index(reference_model.get_var_names())
        if return_reference_var_names:
            return genes
        adata = as_anndata(adata)
        if is_prepared_collection(adata, genes):
            return None if inplace else adata
        return padded_to(adata, genes, inplace=inplace)

    @classmethod
    @without(**OF_SURGERY)
    @checked(
        adata=Cells((AnnData, MuData), "an AnnData (or MuData) with the genes of the reference"),
        reference_model=REFERENCE,
        accelerator=ACCELERATOR,
        device=ONE_DEVICE,
    )
    def load_query_data(
        cls,
        adata: AnnData,
        reference_model: str | os.PathLike | SCDGD,
        accelerator: str = "auto",
        device: int | str = "auto",
        **kwargs: Any,
    ) -> SCDGD:
        """Model of new cells on top of a trained reference, everything but their representations frozen.

        Batches and levels of covariates that the reference does not know get vectors of their own, which are fitted to their
        cells and saved with the query model.

        Parameters
        ----------
        adata
            Cells with the same genes as the reference, from its batches or from others.
        reference_model
            Trained model, or the folder of a saved one.
        accelerator, device
            Where the model is put, as in scvi-tools.
        **kwargs
            Passed to :meth:`load` with a folder. Of scvi-tools' arguments `inplace_subset_query_vars` is taken, and others where they
            say what is so: all is frozen.

        Returns
        -------
        A model on `adata`. Its :meth:`train` places the cells (``max_epochs`` steps each); reading methods do so by
        themselves.

        Raises
        ------
        ValueError
            If genes are missing, or batches unknown to a reference with ``batch_representation="one-hot"``; they are named. If something
            is not to be frozen.
        TypeError
            If there is no such argument, or the reference is no such model.
        RuntimeError
            If the reference is not trained.
        """
        is_folder = isinstance(reference_model, str | os.PathLike)
        of_load = inspect.signature(cls.load).parameters if is_folder else {}
        takes = {*inspect.signature(cls.load_query_data).parameters, *of_load} - {"dir_path"}
        if kwargs.pop("inplace_subset_query_vars", False):
            cls.prepare_query_anndata(adata, reference_model)
        for name in kwargs:
            if name not in takes:
                raise TypeError(unknown_name(name, takes, f"an argument of {cls.__name__}.load_query_data"))
        if not isinstance(reference_model, cls | str | os.PathLike):
            msg = f"`reference_model` must be a {cls.__name__} or the folder of a saved one, got {shown(reference_model)}."
            raise TypeError(msg)
        if isinstance(reference_model, cls):
            reference_model._check_if_trained(warn=False)
            setup = reference_model.registry_
            adata = cls._as_registered(adata, setup)
            getattr(cls, setup["setup_method_name"])(adata, source_registry=setup, **setup["setup_args"])
            model = cls(adata, **reference_model.init_params_["non_kwargs"])
            model.module.load_state_dict(reference_model.module.state_dict())
            model.information_ = reference_model.information_
            model.novelty_reference_ = reference_model.novelty_reference_
            model.novelty_of_panels_ = reference_model.novelty_of_panels_
            for name in RepresentationRun.attributes:
                setattr(model, name, getattr(reference_model, name))
            model.to_device(reference_model.device)
            model.module.eval()
            model.is_trained_ = True
            model.fitted_levels_ = reference_model.fitted_levels_
            model._validate_anndata(None)
        else:
            model = cls.load(reference_model, adata=adata, accelerator=accelerator, device=device, **kwargs)
            model._check_if_trained(warn=False)
        model.is_query_ = True
        return model
