"""What models with one representation a cell are asked."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from scvi import REGISTRY_KEYS, settings
from scvi.data.fields import ObsmField
from scvi.utils import setup_anndata_dsp

from scdgd._compat import ADATA_MINIFY_TYPE, forget_manager, manager_set_up
from scdgd._constants import LOG_SIZE_KEY
from scdgd._options import Choice, Either, Flag, Integer, Number, Optional, checked, checked_by
from scdgd.data import (
    CellIndexField,
    MuDataBatchField,
    MuDataCategoricalCovariatesField,
    MuDataCellIndexField,
    MuDataContinuousCovariatesField,
    MuDataCountsField,
    MuDataGeneMaskField,
    MuDataLabelsField,
    MuDataSizeFactorField,
    as_anndata,
)
from scdgd.inference import N_ROUNDS, ImportanceSamples, log_prob_of_pairs, mended_samples, tempered
from scdgd.train import Distillation

from ._aggregated_posterior import anchor_cells, importance_weights
from ._arguments import SETUP
from ._cells import positions_of
from ._class_posterior import ClassPosterior
from ._encoder_distillation import EncoderDistillation
from ._latent_model import Coordinates, LatentModel
from ._posterior_of_rows import N_SAMPLES, PosteriorMoments, PosteriorOfRows, moments_of, say_rough
from ._supervision import UNASSIGNED
from ._training_options import check_reading

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from anndata import AnnData
    from mudata import MuData
    from scvi.data.fields import BaseAnnDataField
    from torch.utils.data import DataLoader

    from scdgd.data import CellRegistration, CountsField
    from scdgd.inference import StartName

    from ._cell_rows import CellRows
    from ._new_levels import NewLevels
    from ._supervision import Supervision

logger = logging.getLogger(__name__)


class RowModel(LatentModel):
    """Models whose cells have a row of a table each: AnnData or MuData, new cells, posteriors around a row.

    Every downstream method of scvi-tools asks :meth:`_make_data_loader` for its minibatches. That is the one seam:
    rows are looked up by cell name there, and cells without a row are placed first.
    """

    #: Which row belongs to which cell.
    cells: CellRows
    #: Which vector belongs to which level that came after training.
    levels: NewLevels
    #: What it makes of labels.
    supervision: Supervision
    is_query_ = False
    _LATENT_QZM_KEY, _LATENT_QZV_KEY = "scdgd_latent_qzm", "scdgd_latent_qzv"
    _posterior_cls = PosteriorOfRows
    _keeps_new_levels = True
    #: Whether weights of modalities follow their information while it trains.
    _balances_modalities = False

    def __init__(
        self, adata: AnnData | MuData | None = None, registry: dict | None = None, *args: Any, **kwargs: Any
    ) -> None:
        adata = as_anndata(adata)
        self._set_up_anew(adata)
        super().__init__(adata, registry, *args, **kwargs)
        if self.adata is not None:
            self.adata_manager.has_model = True

    @classmethod
    def _set_up_anew(cls, adata: AnnData | MuData | None) -> None:
        """Set up cells that were registered for a query, as of a model of their own: the query was made, and this is another."""
        manager = None if adata is None else manager_set_up(cls, adata)
        if manager is None or not (manager.has_model and manager.has_counts) or (manager.rows >= 0).any():
            return
        logger.info(
            "These cells were set up for a query of another %s, of whose cells they are none. They are set up anew, for a model "
            "of their own.",
            cls.__name__,
        )
        getattr(cls, manager.registry["setup_method_name"])(adata, **manager.registry["setup_args"])

    @property
    def placed_cells_(self) -> dict[str, list | torch.Tensor] | None:
        """The cells that a query model has placed, which are saved with it; ``None`` for other models."""
        return self.cells.placed if self.is_query_ else None

    @placed_cells_.setter
    def placed_cells_(self, placed: dict[str, list | torch.Tensor] | None) -> None:
        if placed is not None:
            self.cells.placed = placed

    @property
    def new_levels(self) -> dict[str, list]:
        """Batches and levels of covariates that came after training and have vectors, by column of ``adata.obs``."""
        return self.levels.names

    @property
    def fitted_levels_(self) -> list[dict[str, np.ndarray | torch.Tensor]] | None:
        """New levels of a query model and their vectors, which are saved with it; ``None`` for other models."""
        return self.levels.fitted if self.is_query_ else None

    @fitted_levels_.setter
    def fitted_levels_(self, fitted: list[dict[str, np.ndarray | torch.Tensor]] | None) -> None:
        if fitted is not None:
            self.levels.fitted = fitted

    def _validate_anndata(self, adata: AnnData | MuData | None = None, copy_if_view: bool = True) -> AnnData | MuData:
        """As of all models; then vectors of new levels are found."""
        attached = self._adata, self._adata_manager
        adata = super()._validate_anndata(adata, copy_if_view)
        manager = self.get_anndata_manager(adata, required=True)
        try:
            self._check_sizes_of_panels(manager)
            if self.is_trained_:
                self.levels.find(manager)
        except ValueError:
            if manager is not attached[1]:  # it is registered again when the user has mended the data
                self._adata, self._adata_manager = attached
                forget_manager(self, manager)
            raise
        return adata

    def _check_sizes_of_panels(self, manager: CellRegistration) -> None:
        """Refuse latent sizes of cells that were measured with different genes."""
        if self.module.latent_size is None or manager.measured is None:
            return
        msg = (
            "Latent sizes of cells (`use_observed_lib_size=False`) lie around the mean total of their batch, and totals of "
            "different genes do not compare. Leave it out for cells that lack genes."
        )
        raise ValueError(msg)

    def _known_batches(self) -> list:
        return self.levels.batches

    def _make_data_loader(
        self, adata: AnnData | MuData, indices: Sequence[int] | None = None, **kwargs: Any
    ) -> DataLoader:
        self._rows_of(adata, indices)
        return super()._make_data_loader(adata, indices=indices, **kwargs)

    def _rows_of(
        self,
        adata: AnnData | MuData,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        *,
        again: bool = False,
    ) -> np.ndarray:
        """Rows of cells of data that are validated, shape ``(n,)``; see :meth:`CellRows.rows_of`."""
        manager = self.get_anndata_manager(adata, required=True)
        return self.cells.rows_of(manager, indices, batch_size, is_trained=self.is_trained_, again=again)

    @classmethod
    def _fields_written(cls, counts: CountsField) -> list[BaseAnnDataField]:
        return [CellIndexField(counts)]

    @classmethod
    def _get_fields_for_adata_minification(cls, minified_data_type: str) -> list[BaseAnnDataField]:
        """Fields of what is kept; of data that keep their counts only that they do, for posteriors are found from these."""
        fields = super()._get_fields_for_adata_minification(minified_data_type)
        if minified_data_type == ADATA_MINIFY_TYPE.LATENT_POSTERIOR_WITH_COUNTS:
            return [field for field in fields if field.registry_key == REGISTRY_KEYS.MINIFY_TYPE_KEY]
        return [*fields, ObsmField(LOG_SIZE_KEY, LOG_SIZE_KEY)]

    @classmethod
    @setup_anndata_dsp.dedent
    @checked_by(SETUP)
    def setup_mudata(
        cls,
        mdata: MuData,
        layer: str | None = None,
        batch_key: str | None = None,
        labels_key: str | None = None,
        size_factor_key: str | None = None,
        categorical_covariate_keys: list[str] | None = None,
        continuous_covariate_keys: list[str] | None = None,
        modalities: dict[str, str] | None = None,
        *,
        gene_mask_key: str | None = None,
        unlabeled_category: str | float | None = None,
        standardize_covariates: bool = True,
        **kwargs: Any,
    ) -> None:
        """%(summary_mdata)s

        Parameters
        ----------
        %(param_mdata)s
        layer
            Layer of the counts in their modality; ``None`` for its ``X``.
        %(param_batch_key)s
        %(param_labels_key)s
        %(param_size_factor_key)s
        %(param_cat_cov_keys)s
        %(param_cont_cov_keys)s
        %(param_modalities)s
            ``modalities={"layer": "rna"}`` is the least: the modality of the counts. Arguments that are not named are
            looked up in ``mdata.obs``.
        gene_mask_key
            As for :meth:`setup_anndata`, in ``varm`` of the modality of the counts.
        unlabeled_category, standardize_covariates
            As for :meth:`setup_anndata`.

        Raises
        ------
        ValueError
            As :meth:`setup_anndata`, and if no modality is named for the counts.
        TypeError
            If it is no MuData.
        """
        cls._check_mask(gene_mask_key, batch_key)
        setup_method_args = cls._get_setup_method_args(**locals())
        if not modalities or "layer" not in modalities:
            msg = f"Name the modality of the counts: `modalities={{'layer': ...}}`, one of {list(mdata.mod)}."
            raise ValueError(msg)
        of = cls._create_modalities_attr_dict(modalities, setup_method_args)
        counts = MuDataCountsField(layer, takes_panels=cls._takes_gene_panels, mod_key=of.layer, mod_required=True)
        batch = MuDataBatchField(batch_key, keeps_new=cls._keeps_new_levels, mod_key=of.batch_key)
        fields = [
            counts,
            batch,
            MuDataLabelsField(labels_key, unlabeled_category, mod_key=of.labels_key),
            *([] if size_factor_key is None else [MuDataSizeFactorField(size_factor_key, mod_key=of.size_factor_key)]),
            MuDataCategoricalCovariatesField(
                categorical_covariate_keys,
                keeps_new=cls._keeps_new_levels,
                mod_key=of.categorical_covariate_keys,
            ),
            MuDataContinuousCovariatesField(
                continuous_covariate_keys,
                standardise=standardize_covariates,
                mod_key=of.continuous_covariate_keys,
            ),
            *(
                []
                if gene_mask_key is None
                else [MuDataGeneMaskField(gene_mask_key, counts.adata_field, batch.adata_field, mod_key=of.layer)]
            ),
            MuDataCellIndexField(counts.adata_field, mod_key=of.layer, mod_required=True),
        ]
        cls._register(mdata, fields, setup_method_args, kwargs)

    def infer_representations(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        n_steps: int | None = None,
        lr: float | None = None,
        batch_size: int | None = None,
        start: StartName | None = None,
    ) -> np.ndarray:
        """Place new cells with a given effort, and remember the result for all other methods.

        Other methods place new cells by themselves; call this to spend more (or fewer) steps. Decoder, prior and the
        representations of training cells do not change; training cells are returned as they are. New cells are
        remembered by the model at hand; of a query model (:meth:`load_query_data`) they are saved with it, any other one
        places them again after it was loaded, with its own number of steps.

        Parameters
        ----------
        adata
            AnnData with the genes and batches of the model; the model's own if not given.
        indices
            Cells to place; all if not given.
        n_steps, lr
            Most steps, if other than the model's; a rate `lr` asks for Adam in place of Gauss-Newton.
        batch_size
            Cells that are placed together; the result does not depend on it.
        start
            Where steps start, if elsewhere than of the model: at ``"components"``, or where the ``"encoder"`` of
            :meth:`train_encoder` says, which is several times faster.

        Returns
        -------
        Representations, shape ``(n, d)``.

        Raises
        ------
        RuntimeError
            If the model is not trained, or has no encoder to start from.
        ValueError
            If `n_steps` is negative, or genes or batches are not those of the model; they are named.
        """
        self._check_if_trained(warn=False)
        adata = self._validate_anndata(adata)
        self.get_anndata_manager(adata, required=True).require_counts("`infer_representations`")
        defaults = self.cells.new_cells
        given = {"n_steps": n_steps, "lr": lr, "start": start}
        self.cells.new_cells = defaults._replace(**{key: value for key, value in given.items() if value is not None})
        try:
            return self.cells.representations_of(self._rows_of(adata, indices, batch_size, again=True))
        finally:
            self.cells.new_cells = defaults

    @torch.inference_mode()
    def get_batch_representation(
        self, adata: AnnData | None = None, indices: Sequence[int] | None = None, batch_size: int | None = None
    ) -> np.ndarray:
        """Vectors of the batches of cells.

        Parameters
        ----------
        adata, indices, batch_size
            As for :meth:`get_latent_representation`.

        Returns
        -------
        Offsets of genes, shape ``(n, g)``, see :class:`~scdgd.module.LevelEmbedding`; or, with
        ``batch_embedding_kwargs={"embedding_dim": r}``, the ``r`` numbers of each batch that span them, ``(n, r)``.

        Raises
        ------
        ValueError
            If batches have no vectors.
        """
        if not self.module.levels:
            msg = (
                "Batches of this model have no vectors: name them by `setup_anndata(batch_key=...)`, and build it with "
                "`batch_representation='embedding'`."
            )
            raise ValueError(msg)
        adata = self._validate_anndata(adata)
        vectors = self.module.batch_vectors().cpu().numpy()
        codes = self.get_anndata_manager(adata, required=True).get_from_registry(REGISTRY_KEYS.BATCH_KEY)
        return vectors[np.asarray(codes).ravel().astype(int)[positions_of(indices, adata.n_obs)]]

    @checked(
        max_epochs=Optional(Integer(1)),
        n_hidden=Integer(1),
        batch_size=Integer(1),
        validation_size=Number(above=0, below=1),
        patience=Integer(0),
        lr=Number(above=0),
        show_progress=Flag(),
    )
    def train_encoder(
        self,
        max_epochs: int | None = None,
        *,
        n_hidden: int = 256,
        batch_size: int = 128,
        validation_size: float = 0.1,
        patience: int = 100,
        lr: float = 4e-3,
        show_progress: bool = True,
    ) -> pd.DataFrame:
        """Train an encoder that says where to look for the representations of new cells, for fast queries.

        The model is trained and stays as it is, bit for bit; see :class:`~scdgd.train.Distillation` for what the encoder
        learns, and :class:`~scdgd.module.QueryEncoder` for what it sees. New cells are still placed from component means
        unless something else is asked for: ``infer_representations(new, start="encoder")`` once, or
        ``new_cells={"start": "encoder"}`` for all methods of a model that is built so. The encoder is saved with the model
        and goes with it into :meth:`load_query_data`; it is dropped when the model trains again.

        Parameters
        ----------
        max_epochs
            Most passes over the training cells; ``None`` for 2,000 steps, but at least 10 and at most 200 passes.
        n_hidden
            Width of the encoder's hidden layers.
        batch_size
            Cells of a step.
        validation_size
            Share of the training cells that are held out to stop by.
        patience
            Epochs without a better encoder after which training ends.
        lr
            Highest rate of Adam.
        show_progress
            Whether to show how far it is.

        Returns
        -------
        By epoch, ``"encoder_loss_train"`` and ``"encoder_loss_validation"``: the negative log joint density of cells two steps
        from what the encoder says, in nats per cell, without what no representation changes.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        ValueError
            If the attached data are not the cells that it was trained on.
        """
        self._check_if_trained(warn=False)
        run = EncoderDistillation(self, validation_size=validation_size, batch_size=batch_size)
        max_epochs = run.default_epochs() if max_epochs is None else max_epochs
        history = run(Distillation(max_epochs, lr, patience), n_hidden, show_progress=show_progress)
        return pd.DataFrame(history, columns=["encoder_loss_train", "encoder_loss_validation"]).rename_axis("epoch")

    def get_latent_representation(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        give_mean: bool = True,
        mc_samples: int = 5_000,
        batch_size: int | None = None,
        return_dist: bool = False,
        dataloader: Iterable[dict] | None = None,
        *,
        coordinates: Coordinates = "latent",
        full_covariance: bool = False,
        **data_loader_kwargs: Any,
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Representations of cells, for ``adata.obsm["X_scdgd"]`` (``"X_scvad"`` of :class:`SCVAD`).

        Training cells are looked up by name. Other cells are placed first: the best component mean by reconstruction
        (Schuster & Krogh 2023), then damped Gauss-Newton steps with everything else frozen. The result is remembered by
        name and counts, so no later call optimises again.

        Parameters
        ----------
        adata
            AnnData with the genes and batches of the model; the model's own if not given.
        indices
            Cells to return; all if not given.
        give_mean
            If false, one draw of each cell's posterior in place of its representation.
        mc_samples
            Of scvi-tools' signature, without effect; :meth:`get_posterior` takes the number of samples.
        batch_size
            Cells that are placed together; the result does not depend on it.
        return_dist
            Return mean and variance of each cell's posterior: those of :meth:`get_posterior`, or, for :class:`SCVAD`,
            the learned ones.
        dataloader
            Minibatches of a loader that this model made, in place of cells; others do not say which cell is which.
        coordinates
            ``"latent"``, in which the mixture lives, or ``"information"``, those of :meth:`get_information`, in which distances
            between cells are information of their counts; variances and covariances are then those of these coordinates.
        full_covariance
            With `return_dist`, return covariances in place of variances.
        **data_loader_kwargs
            Of scvi-tools' signature, without effect: representations of cells that are known are not read.

        Returns
        -------
        Representations, shape ``(n, d)``; or means ``(n, d)`` and variances ``(n, d)``, or covariances ``(n, d, d)``.

        Raises
        ------
        NotImplementedError
            If minibatches of a `dataloader` do not say which rows their cells have.
        RuntimeError
            If the model is not trained.
        """
        self._check_if_trained(warn=False)
        check_reading(data_loader_kwargs)
        if return_dist and coordinates == "information":
            map_to = self.get_information()
            mean, covariance = self._moments(adata, indices, batch_size, dataloader, full_covariance=True)
            covariance = map_to.covariances(covariance)
            spread = covariance if full_covariance else np.diagonal(covariance, axis1=1, axis2=2).copy()
            return map_to.to_information(mean), spread
        if return_dist:
            return self._moments(adata, indices, batch_size, dataloader, full_covariance=full_covariance)
        adata, _ = self._cells_to_read(adata, indices, dataloader)
        if dataloader is not None:
            (z,) = self.posterior.of_minibatches(dataloader, "mean" if give_mean else "draw")
            return self._in(coordinates, z)
        if not give_mean:
            return self._in(coordinates, self.posterior.draws(adata, indices, batch_size, 1).squeeze(0).numpy())
        return self._in(coordinates, self.cells.representations_of(self._rows_of(adata, indices, batch_size)))

    def _moments(
        self,
        adata: AnnData | None,
        indices: Sequence[int] | None,
        batch_size: int | None,
        dataloader: Iterable[dict] | None,
        *,
        full_covariance: bool,
    ) -> tuple[np.ndarray, np.ndarray]:
        """Means ``(n, d)`` and variances ``(n, d)`` or covariances ``(n, d, d)`` of posteriors; minified data keep them."""
        adata, _ = self._cells_to_read(adata, indices, dataloader)
        if dataloader is not None:
            return self.posterior.of_minibatches(dataloader, "covariances" if full_covariance else "variances")
        manager = self.get_anndata_manager(adata, required=True)
        if not manager.has_counts:
            cells = positions_of(indices, adata.n_obs)
            keys = (REGISTRY_KEYS.LATENT_QZM_KEY, REGISTRY_KEYS.LATENT_QZV_KEY)
            mean, var = (np.asarray(manager.get_from_registry(key), np.float32)[cells] for key in keys)
            return mean, _diagonal(var) if full_covariance else var
        if self.module.posterior.is_learned:
            return self._learned_moments(adata, indices, batch_size, full_covariance)
        moments = self.get_posterior(adata, indices, full_covariance=full_covariance, batch_size=batch_size)
        return moments.mean, moments.covariance

    def _learned_moments(
        self, adata: AnnData | None, indices: Sequence[int] | None, batch_size: int | None, full_covariance: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Means ``(n, d)`` and variances ``(n, d)`` or covariances ``(n, d, d)``, as the rows have them."""
        rows = self._rows_of(self._validate_anndata(adata), indices, batch_size)
        rows = self.module.representations(torch.as_tensor(rows, device=self.module.device))
        mean, var = (moment.cpu().numpy() for moment in self.module.posterior.moments(rows))
        return mean, _diagonal(var) if full_covariance else var

    @checked(n_samples=Either(Choice(0), Integer(2)))
    def get_posterior(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        n_samples: int = N_SAMPLES,
        adaptive_rounds: int = N_ROUNDS,
        full_covariance: bool = False,
        batch_size: int | None = None,
    ) -> PosteriorMoments:
        r"""Posterior mean, covariance and evidence of each cell.

        .. math::
            q(z \mid x) \approx \mathcal N(z^*, H^{-1}), \qquad
            w_s \propto \frac{p(x \mid z_s)\, p(z_s)}{q(z_s)}, \qquad
            \hat{\mathbb E}[z \mid x] = \sum_s w_s z_s

        The Laplace approximation at the mode, moved towards the posterior's mean (:func:`scdgd.inference.refined`), is the
        proposal; weights make moments of its draws those of the posterior. Covariances of few draws in many dimensions
        are noisy, so they are shrunk to a multiple of the proposal's, see
        :meth:`scdgd.inference.ImportanceSamples.shrunk_covariance`. Cells whose weights have a heavy tail, Pareto k above
        0.7, are drawn again from proposals that learn from their draws (:func:`scdgd.inference.mended`); only they pay. How
        many keep a heavy tail is said.

        Parameters
        ----------
        adata, indices, batch_size
            As for :meth:`get_latent_representation`.
        n_samples
            Draws of each cell; 0 for the Laplace approximation as it is.
        adaptive_rounds
            Most rounds in which cells with heavy tails are drawn again; 0 for none. Fewer than 25 draws do not show a tail.
        full_covariance
            Return covariances in place of variances.

        Returns
        -------
        The moments and how far to trust them.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        ValueError
            If `n_samples` is negative or one, or `adaptive_rounds` is negative.
        """
        if self.module.decoder.has_kinks:
            msg = (
                "The decoder has ReLU activations. Their kinks give posteriors many modes and no informative curvature, "
                "so variances can cover far too little. Train with `activation='silu'` for uncertainty."
            )
            warnings.warn(msg, UserWarning, stacklevel=settings.warnings_stacklevel)
        parts = []
        for tensors, rows in self.posterior.minibatches(adata, indices, batch_size, "Posteriors"):
            parts.append(moments_of(self.module, tensors, rows, n_samples, adaptive_rounds, full_covariance))
        moments = PosteriorMoments(*(torch.cat(field).cpu().numpy() for field in zip(*parts, strict=True)))
        say_rough(moments.pareto_k, "moments", "n_samples", n_samples)
        return moments

    @checked(calibrate=Flag())
    def predict(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        soft: bool = False,
        batch_size: int | None = None,
        *,
        n_samples: int = 100,
        calibrate: bool = True,
    ) -> np.ndarray | pd.DataFrame:
        r"""Classes of cells, of a model with ``supervision="components"``.

        .. math::
            p(y \mid x) = \mathbb E_{p(z \mid x)}\, p(y \mid z), \qquad
            p(y \mid z) = \sum_{c \in \mathcal C_y} \frac{w_c\, p_c(z)}{p(z)}, \qquad
            \tilde p_y \propto p(y \mid x)^{1/T}, \quad \sum_y \tilde p_y = \sum_y p(y \mid x)

        over importance-weighted draws of the posterior of a cell, not at its representation. The label of a cell plays no part
        in its own prediction: cells whose labels trained the model are placed anew without them (but their counts, and the
        mixture, remember training). The temperature ``T`` was fitted when training ended (`calibration_`). What components of no
        class have is a probability of being none of the classes, which no label tells of, and which is left as it is.

        Parameters
        ----------
        adata, indices, batch_size
            As for :meth:`get_latent_representation`.
        soft
            Return probabilities in place of the most probable class.
        n_samples
            Draws of each posterior. They have a seed of their own, so that calls repeat.
        calibrate
            Whether the temperature is applied; it changes no most probable class.

        Returns
        -------
        The most probable class of each cell, shape ``(n,)``; or probabilities, with the names of cells and a column for each
        class, and behind them ``"unassigned"`` where there are components of no class.

        Raises
        ------
        ValueError
            If the model was made without supervision.
        RuntimeError
            If the model is not trained.
        """
        self._check_if_trained(warn=False)
        categories = self.supervision.categories
        if categories is None:
            msg = (
                "`predict` gives classes that were learned from labels, and this model was made without: "
                f"`{type(self).__name__}(adata, supervision='components')`, after `setup_anndata(labels_key=...)`. Clusters are "
                "`get_cluster_assignments()`."
            )
            raise ValueError(msg)
        adata = self._validate_anndata(adata)
        p = ClassPosterior(self).probabilities(adata, indices, batch_size, n_samples)
        of_classes, unassigned = p[:, :-1], p[:, -1:]
        if not soft:
            return categories[of_classes.argmax(1)]
        if calibrate and self.calibration_ is not None:
            of_classes = tempered(of_classes, self.calibration_["temperature"])
        table = pd.DataFrame(of_classes, adata.obs_names[positions_of(indices, adata.n_obs)], categories)
        if (self.module.prior.classes.owner < 0).any():
            table[UNASSIGNED] = unassigned
        return table

    def get_marginal_ll(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        n_mc_samples: int = 1_000,
        batch_size: int | None = None,
        return_mean: bool = True,
        dataloader: Iterable[dict] | None = None,
        *,
        data_loader_kwargs: dict | None = None,
        n_mc_samples_per_pass: int | None = None,
        adaptive_rounds: int = N_ROUNDS,
    ) -> torch.Tensor | float:
        r"""Log marginal likelihood :math:`\log p(x) = \log \int p(x \mid z)\, p(z \mid \phi)\, dz` of cells.

        By importance sampling around the Laplace approximation, with the model's own prior: a lower bound in expectation
        that rises with the number of samples. Cells whose weights have a heavy tail are drawn again, as for
        :meth:`get_posterior`. It integrates the representation; decoder and prior are fixed. Cells that
        trained the decoder are not held out: see :func:`scdgd.metrics.held_out_log_likelihood`.

        Parameters
        ----------
        adata, indices, batch_size
            As for :meth:`get_latent_representation`.
        n_mc_samples
            Samples of each cell.
        return_mean
            Whether to return the mean over cells.
        dataloader
            Minibatches of a loader that this model made, in place of cells; others do not say which cell is which.
        data_loader_kwargs
            Further arguments of the data loader.
        n_mc_samples_per_pass
            Of scvi-tools' signature, without effect.
        adaptive_rounds
            As for :meth:`get_posterior`.

        Returns
        -------
        The mean in nats per cell, or a tensor of shape ``(n,)``.

        Raises
        ------
        NotImplementedError
            If minibatches of a `dataloader` do not say which rows their cells have.
        RuntimeError
            If the model is not trained.
        ValueError
            If `n_mc_samples` is not positive, or `adaptive_rounds` is negative.
        """
        log_evidence, pareto_k, loading = [], [], data_loader_kwargs or {}
        cells = self.posterior.minibatches(adata, indices, batch_size, "Evidence", dataloader, **loading)
        for tensors, rows in cells:
            samples = mended_samples(self.module, tensors, rows, n_mc_samples, adaptive_rounds)
            log_evidence.append(samples.read(ImportanceSamples.log_evidence))
            pareto_k.append(samples.read(ImportanceSamples.pareto_k))
        say_rough(torch.cat(pareto_k).cpu().numpy(), "marginal likelihoods", "n_mc_samples", n_mc_samples)
        log_evidence = torch.cat(log_evidence).cpu()
        return np.float64(log_evidence.mean()) if return_mean else log_evidence

    def get_importance_weights(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        qz: None = None,
        px: None = None,
        zs: torch.Tensor | None = None,
        max_cells: int = 1_024,
        truncation: bool = False,
        n_mc_samples: int = 200,
        n_mc_samples_per_pass: int | None = None,
        batch_size: int | None = None,
        **data_loader_kwargs: Any,
    ) -> np.ndarray:
        r"""Weights of representations by how well they explain the cells of a group, as in scVI but with our prior.

        .. math::
            w(z) \propto \frac1{|A|} \sum_{a \in A}
            \frac{p(x_a \mid z)\, p(z \mid \phi)}{\hat p(x_a)\, \frac{1}{|A|} \sum_{a'} q(z \mid x_{a'})}

        with the proposals of :func:`scdgd.inference.importance_samples` for ``q``.

        Parameters
        ----------
        adata, indices
            The cells of the group.
        qz, px
            Of scvi-tools' signature; not used, posteriors are computed here.
        zs
            Representations ``(s, n, d)``, drawn from the proposals; one draw for each cell if not given.
        max_cells
            Most anchor cells ``A``; a random subset of larger groups.
        truncation
            Whether to raise small weights to the mean (Ionides 2008), as scvi-tools does.
        n_mc_samples
            Samples of the evidence of each anchor cell.
        n_mc_samples_per_pass
            Of scvi-tools' signature, without effect.
        batch_size
            Cells taken together.
        **data_loader_kwargs
            Further arguments of the data loader.

        Returns
        -------
        Weights that sum to one, shape ``(s * n,)``.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        ValueError
            If `n_mc_samples` is not positive.
        """
        self._check_if_trained(warn=False)
        adata = self._validate_anndata(adata)
        indices = positions_of(indices, adata.n_obs)
        zs = self.posterior.draw_proposals(adata, indices, batch_size, 1) if zs is None else zs
        z = zs.reshape(-1, zs.shape[-1]).to(self.module.device)  # (m, d)
        log_ratio, log_q = [], []
        anchors = anchor_cells(indices, max_cells)
        kept = self.posterior.kept(adata, anchors)
        what = "Importance weights"
        for tensors, rows in self.posterior.minibatches(adata, anchors, batch_size, what, **data_loader_kwargs):
            samples = self.posterior.weighted(kept, tensors, rows, n_mc_samples)
            log_ratio.append(log_prob_of_pairs(self.module, tensors, z) - samples.log_evidence())  # (m, a)
            log_q.append(torch.cat([samples.log_proposal_density(part.unsqueeze(1)) for part in z.split(256)]))
        with torch.no_grad():
            log_prior = torch.cat([self.module.prior.log_prob(part) for part in z.split(10_000)])
        return importance_weights(log_ratio, log_prior, log_q, truncation=truncation)


def _diagonal(var: np.ndarray) -> np.ndarray:
    """Covariances ``(n, d, d)`` of independent dimensions, from their variances ``(n, d)``."""
    return var[..., None] * np.eye(var.shape[1], dtype=var.dtype)
