"""Downstream methods that all models share: those of scvi-tools, with checked arguments."""

from __future__ import annotations

import contextlib
import inspect
import warnings
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
import torch
from scipy.stats import rankdata
from scvi import REGISTRY_KEYS, settings
from scvi.model.base import BaseModelClass
from scvi.utils import track

from scdgd._compat import ADATA_MINIFY_TYPE, get_adata_minify_type, get_state_registry
from scdgd._options import Choice, Number, Optional, Options, Text, checked, rules_of, shown
from scdgd.data import code_of
from scdgd.inference import CellSampler, InformationCoordinates, undisturbed

from ._aggregated_posterior import aggregated, samples_of
from ._arguments import READING
from ._cell_posterior import CellPosterior, Decoding
from ._cells import positions_of
from ._data_model import DataModel
from ._differential_expression import differential_expression
from ._groups import comparisons
from ._merged_components import checked_clusters
from ._merged_components import merged as merged_probabilities
from ._minification import minified
from ._novelty import novelty_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from anndata import AnnData
    from scvi.data import AnnDataManager
    from sparse import GCXS
    from torch.distributions import MixtureSameFamily

Coordinates = Literal["latent", "information"]

_MAX_NAMED = 5
#: What scvi-tools says of models that are not trained.
_UNTRAINED = "Trying to query inferred values from an untrained model. Please train the model first."
#: From so many samples on, a bar shows how far it is.
_SHOW_SAMPLES = 10
_WEIGHTING = ("max_cells", "truncation", "n_mc_samples", "n_mc_samples_per_pass")
_BAYES_FACTORS = (
    "n_samples_overall",
    "use_permutation",
    "m_permutation",
    "change_fn",
    "m1_domain_fn",
    "pseudocounts",
    "threshold_counts",
    "test_mode",
    "cred_interval_lvls",
)
#: Methods that scvi-tools calls for itself.
_OF_SCVI_TOOLS = ("deregister_manager", "get_anndata_manager", "get_from_registry", "transfer_fields")
#: Further arguments of expression, and of differential expression, by name.
_OF_EXPRESSION = Options(
    {name: READING[name] for name in _WEIGHTING},
    of="get_normalized_expression",
    further=frozenset({"data_loader_kwargs"}),
    are_arguments=True,
)
_OF_WEIGHTS = Options({name: READING[name] for name in _WEIGHTING}, of="get_importance_weights")
_OF_BAYES_FACTORS = Options(
    {name: READING[name] for name in _BAYES_FACTORS} | {"n_samples_overall": READING["m_permutation"]},
    of="differential_expression",
    further=frozenset({"subset_idx"}),
    are_arguments=True,
)


class LatentModel(DataModel):
    """Downstream methods of all models; :attr:`posterior` computes what differs between kinds of models.

    scvi-tools reads models that are not trained, takes a mask of any length, leaves out genes that it does not know, gives
    columns in another order than was asked for, and takes MuData for the matrix of one modality.

    The arguments of all public methods of a model are checked by the rules of their names (``_arguments.py``), inherited
    methods included.
    """

    _posterior_cls = CellPosterior
    _latent_key: str
    #: What new cells are compared with by :meth:`get_novelty`, arrays by name; ``None`` until it is asked for.
    novelty_reference_: dict[str, np.ndarray] | None = None
    #: The same for cells that lack genes, by a hash of the genes that they have.
    novelty_of_panels_: dict[str, dict[str, np.ndarray]] | None = None
    #: Cluster of each component, ``(k,)``; ``None`` where each is one of its own.
    component_clusters_: np.ndarray | None = None
    #: The tree of the components, by the names of what it is made of; ``None`` until it is asked for.
    component_tree_: dict[str, Any] | None = None
    #: Coordinates of information, arrays by name; ``None`` where they are still to be found.
    information_: dict[str, np.ndarray] | None = None
    #: Names of cells that were attached in training and that no training has seen, in order.
    held_out_cells_: np.ndarray | None = None

    def _check_if_trained(self, warn: bool = True, message: str = _UNTRAINED) -> None:
        """As in scvi-tools; SCANVI, which asks in these words before it makes a model of the arguments of this one, is told more."""
        if message.startswith("Passed in scvi model"):
            self._check_for_scanvi()
        super()._check_if_trained(warn, message)

    def _check_for_scanvi(self) -> None:
        """Raise an error unless SCANVI can begin with this model."""
        msg = (
            "SCANVI begins with the encoder of a model, and this one has none. Learn from labels with "
            "`SCDGD(adata, supervision='components')`, or begin with `scvi.model.SCVI`."
        )
        raise NotImplementedError(msg)

    @property
    def _holds_reference(self) -> bool:
        """Whether training leaves representations of a reference, and what is said of them, as they are."""
        return False

    @property
    def posterior(self) -> CellPosterior:
        """Posteriors of cells."""
        return self._posterior_cls(self)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if not issubclass(cls, BaseModelClass):
            return
        for name in dir(cls):
            method = inspect.getattr_static(cls, name, None)
            if name.startswith("_") or name in _OF_SCVI_TOOLS or not inspect.isfunction(method):
                continue
            parameters = inspect.signature(method).parameters
            rules = {key: READING[key] for key in parameters if key in READING} | rules_of(method)
            if rules.keys() != rules_of(method).keys():
                setattr(cls, name, checked(**rules)(method))

    def train_encoder(self, *args: Any, **kwargs: Any) -> pd.DataFrame:
        """Not available: :meth:`SCDGD.train_encoder` is for models that place new cells by a search.

        Raises
        ------
        NotImplementedError
            Always.
        """
        msg = (
            f"{type(self).__name__} reads new cells in one pass already, so there is no search that an encoder would shorten. "
            "`train_encoder` is for SCDGD and SCVAD."
        )
        raise NotImplementedError(msg)

    def get_normalized_expression(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        transform_batch: Sequence[float | str] | None = None,
        gene_list: Sequence[str] | None = None,
        library_size: float | Literal["latent"] = 1,
        n_samples: int = 1,
        n_samples_overall: int | None = None,
        weights: Literal["uniform", "importance"] | None = None,
        batch_size: int | None = None,
        return_mean: bool = True,
        return_numpy: bool | None = None,
        silent: bool = True,
        dataloader: Iterable[dict] | None = None,
        **kwargs: Any,
    ) -> np.ndarray | pd.DataFrame:
        """Decoded expression, as of :meth:`scvi.model.SCVI.get_normalized_expression`.

        Several samples of a cell are draws of its posterior. One sample is a draw, too, where there is an encoder; the
        representation itself for :class:`SCDGD` and :class:`SCVAD`; and for :class:`SCDBM` the probabilities of the
        first hidden layer, of which several samples are states. Of values that are not counts, expected values.

        Parameters
        ----------
        adata, indices
            Cells; those that the model was set up with if not given.
        transform_batch
            Batch to decode as, or several to average over; that of each cell if not given.
        gene_list
            Names of genes; all if not given.
        library_size
            Total that profiles are scaled to, or ``"latent"`` for expected counts. Values that are not counts have none.
        n_samples
            Number of samples ``s`` of each cell.
        n_samples_overall
            Number of samples of all cells together, in place of `n_samples`.
        weights
            ``"importance"`` weighs samples of all cells by :meth:`get_importance_weights`.
        batch_size
            Cells per minibatch.
        return_mean
            Whether to average over samples.
        return_numpy
            Whether to return an array in place of a data frame.
        silent, dataloader, **kwargs
            As in scvi-tools.

        Returns
        -------
        Shares of each gene in a cell's expected counts times `library_size`, shape ``(n, g)`` or, for samples that are
        not averaged, ``(s, n, g)``; expected counts for ``library_size="latent"``. With `n_samples_overall`, an array of
        that many rows.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        ValueError
            If a gene or batch is unknown, a number is not possible, or a library size is given where values are not counts.
        """
        self._check_if_trained(warn=False)
        weighting = _OF_EXPRESSION("arguments", kwargs)
        if not self._has_sizes and library_size not in (1, "latent"):
            msg = f"`library_size={library_size!r}` is for counts, and `gene_likelihood` is of other values. Leave it out."
            raise ValueError(msg)
        if n_samples_overall is not None and n_samples != 1:
            msg = "Pass `n_samples`, of each cell, or `n_samples_overall`, of all cells together, not both."
            raise ValueError(msg)
        if weights == "importance":
            self._check_importance_weights(n_samples_overall, dataloader, transform_batch)
        counts = library_size == "latent" or not self._has_sizes
        adata, positions = self._cells_to_read(adata, indices, dataloader)
        decoding = Decoding(
            adata,
            positions,
            self._codes_of(transform_batch, "transform_batch"),
            slice(None) if gene_list is None else self._positions_of_genes(gene_list),
            "mu" if counts else "scale",
            1 if counts else library_size,
            n_samples,
            dataloader,
            {"batch_size": batch_size, **(weighting.pop("data_loader_kwargs", None) or {})},
            silent,
        )
        if n_samples_overall is None:
            values = self.posterior.decoded(decoding)
            values = values.mean(0) if n_samples > 1 and return_mean else values
        else:
            values = self.posterior.decoded_overall(decoding, n_samples_overall, weights, weighting)
        is_of_cells = n_samples_overall is None and values.ndim == 2 and dataloader is None
        if not is_of_cells and return_numpy is False:
            msg = "Rows of the result are not the cells (they are draws, or several of a cell), so it is an array."
            warnings.warn(msg, UserWarning, stacklevel=settings.warnings_stacklevel)
        if return_numpy or not is_of_cells:
            return values
        return pd.DataFrame(values, columns=self._genes[decoding.genes], index=adata.obs_names[positions])

    def _expression_of_all(self, *args: Any, **kwargs: Any) -> np.ndarray | pd.DataFrame:
        """Expression of all features of the model."""
        return self.get_normalized_expression(*args, **kwargs)

    def _check_importance_weights(
        self, n_samples_overall: int | None, dataloader: Iterable[dict] | None, transform_batch: Any
    ) -> None:
        self.posterior.check_importance_weights()
        if n_samples_overall is None:
            msg = "`weights='importance'` weighs draws of all cells together: pass their number, `n_samples_overall`."
            raise ValueError(msg)
        if dataloader is not None:
            msg = "`weights='importance'` weighs cells by their positions: leave out `dataloader`, and name `adata` or `indices`."
            raise ValueError(msg)
        if np.size(transform_batch) > 1:
            msg = "Importance weights are those of one way to decode, not of means over batches: name one `transform_batch`."
            raise NotImplementedError(msg)

    def _cells_to_read(
        self, adata: AnnData | None, indices: Sequence[int] | None, dataloader: Iterable[dict] | None
    ) -> tuple[AnnData | None, np.ndarray | None]:
        """The data, and positions of the cells in them; nothing where minibatches are given."""
        if dataloader is None:
            adata = self._validate_anndata(adata)
            return adata, positions_of(indices, adata.n_obs)
        if adata is not None or indices is not None:
            msg = "A `dataloader` says which cells are read: leave out `adata` and `indices`."
            raise ValueError(msg)
        return None, None

    def _minibatches(
        self,
        adata: AnnData | None,
        indices: Sequence[int] | None,
        batch_size: int | None,
        dataloader: Iterable[dict] | None,
        loading: dict | None = None,
    ) -> Iterable[dict]:
        """Minibatches of cells of a trained model, by a loader of these options; those of a `dataloader` if it is given."""
        self._check_if_trained(warn=False)
        adata, positions = self._cells_to_read(adata, indices, dataloader)
        if dataloader is not None:
            return dataloader
        return self._make_data_loader(adata, positions, batch_size=batch_size, **(loading or {}))

    def get_information(self) -> InformationCoordinates:
        """Coordinates in which distances between representations are information of the counts.

        They are found from at most 500 random training cells, each in its own batch and with the genes that were measured, when
        training ends; they are kept with the model and saved with it, and a model of a query has those of its reference. Methods
        with an argument `coordinates` give representations in them; for any others there is
        :meth:`~scdgd.inference.InformationCoordinates.to_information`.

        Returns
        -------
        Axes, their information, and the map to them and back.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        ValueError
            If the model was saved by an earlier version, which kept none, and no training cells are attached.
        NotImplementedError
            Of :class:`SCDBM`, whose hidden units nothing decodes into counts.

        Examples
        --------
        >>> coordinates = model.get_information()
        >>> y = coordinates.to_information(z)
        """
        self.posterior.check_coordinates()
        self._check_if_trained(warn=False)
        if self.information_ is None:
            with undisturbed():
                self.information_ = self.posterior.found_coordinates().to_dict()
        return InformationCoordinates(**self.information_)

    def _note_information(self) -> None:
        """Keep coordinates of information of what training has ended with; numbers that are none are refused when asked for."""
        if self.adata is not None:
            with contextlib.suppress(ValueError):
                self.get_information()

    def _in(self, coordinates: Coordinates, z: np.ndarray) -> np.ndarray:
        """Representations ``(n, d)`` in the coordinates that are asked for."""
        return z if coordinates == "latent" else self.get_information().to_information(z)

    @torch.inference_mode()
    def get_component_means(self, *, coordinates: Coordinates = "latent") -> np.ndarray:
        """Means of the prior's components in the latent space.

        Parameters
        ----------
        coordinates
            ``"latent"``, or those of :meth:`get_information`.

        Returns
        -------
        Means, shape ``(k, d)``.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        """
        self._check_if_trained(warn=False)
        means = self.module.given_prior().component_means
        if coordinates == "information":
            means = self.module.transformed(means)  # what the decoder takes, as representations are
        return self._in(coordinates, means.cpu().numpy().copy())

    def get_likelihood_parameters(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        n_samples: int = 1,
        give_mean: bool = False,
        batch_size: int | None = None,
        dataloader: Iterable[dict] | None = None,
        **kwargs: Any,
    ) -> dict[str, np.ndarray]:
        r"""Parameters of the likelihood of each count, at samples as of :meth:`get_normalized_expression`.

        Parameters
        ----------
        adata, indices, batch_size
            As for :meth:`get_normalized_expression`.
        n_samples
            Number of samples ``s`` of each cell.
        give_mean
            Whether to average over samples.
        dataloader, **kwargs
            As in scvi-tools.

        Returns
        -------
        ``"mean"`` :math:`\mu`, before zeros are inflated; with negative binomial counts ``"dispersions"`` :math:`\theta`
        (:math:`s\theta` in a Boltzmann machine with size factors :math:`s`); with inflated zeros ``"dropout"`` :math:`\pi`;
        with a normal ``"stddev"``. Shapes are ``(n, g)``, or ``(s, n, g)`` for several samples that are not averaged.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        ValueError
            If `n_samples` is not positive.
        """
        cells = self._minibatches(adata, indices, batch_size, dataloader, kwargs)
        parts: dict[str, list[torch.Tensor]] = {}
        with torch.inference_mode():
            for tensors in cells:
                for name, value in self.posterior.parameters_of_counts(tensors, n_samples).items():
                    parts.setdefault(name, []).append(value.cpu())
        parameters = {name: torch.cat(part, dim=-2) for name, part in parts.items()}
        average = give_mean and n_samples > 1
        return {name: (value.mean(0) if average else value).numpy() for name, value in parameters.items()}

    def posterior_predictive_sample(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        transform_batch: Sequence[float | str] | None = None,
        n_samples: int = 1,
        gene_list: Sequence[str] | None = None,
        batch_size: int | None = None,
        dataloader: Iterable[dict] | None = None,
        silent: bool = True,
        **kwargs: Any,
    ) -> GCXS:
        r"""Replicates of cells: representations are drawn from their posteriors, then counts from the likelihood.

        Representations of :class:`SCDBM` are states of the first hidden layer, drawn from its mean field.

        Parameters
        ----------
        adata, indices, batch_size
            As for :meth:`get_normalized_expression`.
        transform_batch
            Batch to decode as; that of each cell if not given.
        n_samples
            Number of replicates ``s`` of each cell.
        gene_list
            Names of genes; all if not given.
        dataloader, silent, **kwargs
            As in scvi-tools.

        Returns
        -------
        Counts, a sparse array of shape ``(n, g)``, or ``(n, g, s)`` for several replicates.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        ValueError
            If a gene or batch is unknown, or `n_samples` is not positive.
        """
        import sparse as pydata_sparse

        cells = self._minibatches(adata, indices, batch_size, dataloader, kwargs)
        codes = self._codes_of(transform_batch, "transform_batch")
        genes = slice(None) if gene_list is None else self._positions_of_genes(gene_list)
        parts = []
        for tensors in cells:
            draws = [
                self.posterior.replicates(tensors, n_samples, code)[:, genes] for code in track(codes, disable=silent)
            ]
            draws = draws[0] if len(draws) == 1 else torch.stack(draws).mean(0)
            parts.append(pydata_sparse.GCXS.from_numpy(draws.cpu().numpy()))
        return parts[0] if len(parts) == 1 else pydata_sparse.concatenate(parts, axis=0)

    def differential_expression(
        self,
        adata: AnnData | None = None,
        groupby: str | None = None,
        group1: Any | Sequence | None = None,
        group2: Any | Sequence | None = None,
        idx1: Sequence[int] | Sequence[bool] | Sequence[str] | str | None = None,
        idx2: Sequence[int] | Sequence[bool] | Sequence[str] | str | None = None,
        mode: Literal["vanilla", "change"] = "vanilla",
        delta: float | None = 0.25,
        batch_size: int | None = None,
        all_stats: bool = True,
        batch_correction: bool = False,
        batchid1: Sequence | None = None,
        batchid2: Sequence | None = None,
        fdr_target: float = 0.05,
        silent: bool = False,
        weights: Literal["uniform", "importance"] | None = "uniform",
        filter_outlier_cells: bool = False,
        importance_weighting_kwargs: dict | None = None,
        **kwargs: Any,
    ) -> pd.DataFrame:
        """Genes that differ between groups of cells, as of :meth:`scvi.model.SCVI.differential_expression`.

        Parameters
        ----------
        adata
            Cells; those that the model was set up with if not given.
        groupby
            Column of ``adata.obs`` that names groups.
        group1
            Groups that are compared, one table each; all that have cells if not given.
        group2
            What each of them is compared with: a group, or several together; all other cells if not given.
        idx1, idx2
            Cells in place of groups: positions, a mask, names, or a query of ``adata.obs``. All others if there is no
            `idx2`.
        mode, delta, batch_correction, batchid1, batchid2, fdr_target, silent
            As in scvi-tools.
        batch_size
            Cells per minibatch.
        all_stats
            Whether to add means of raw counts, counted per 10,000 of the model's genes where they are normalised.
        weights
            ``"importance"`` weighs samples of all cells by :meth:`get_importance_weights`.
        filter_outlier_cells
            Whether to leave out cells that are far from their group in the latent space.
        importance_weighting_kwargs
            Arguments of :meth:`get_importance_weights`.
        **kwargs
            Arguments of :meth:`scvi.model.base.DifferentialComputation.get_bayes_factors`, and `subset_idx`, cells among
            which groups are compared.

        Returns
        -------
        Statistics of each gene and comparison, one row each.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        ValueError
            If nothing is named to compare, there is no such column or group, or groups are empty or share cells.
        NotImplementedError
            If values are Gaussian and not counts, of which fold changes are no ratios.
        """
        self._check_if_trained(warn=False)
        if not self._has_sizes and self.module.likelihood.is_real:
            msg = (
                "Fold changes are ratios of shares, which values on a logarithmic scale do not have. Compare "
                "`get_normalized_expression()` of two groups by differences, or model the counts."
            )
            raise NotImplementedError(msg)
        options = _OF_BAYES_FACTORS("arguments", kwargs)
        weighting = _OF_WEIGHTS("importance_weighting_kwargs", importance_weighting_kwargs or {})
        adata = self._validate_anndata(adata)
        for name, given in (("batchid1", batchid1), ("batchid2", batchid2)):
            if given is not None and not batch_correction:
                msg = f"`{name}` names batches to decode as, which needs `batch_correction=True`."
                raise ValueError(msg)
            self._codes_of(given, name)
        compared = comparisons(adata.obs, groupby, group1, group2, idx1, idx2, options.pop("subset_idx", None))
        if weights == "importance":
            self.posterior.check_importance_weights()
        manager = self.get_anndata_manager(adata, required=True)
        all_stats = all_stats and self._check_raw_counts(manager, mode, options)
        reading = {"return_numpy": True, "n_samples": 1, "batch_size": batch_size, "weights": weights, **weighting}
        return differential_expression(
            manager,
            compared,
            partial(self._expression_of_all, **reading),
            self.get_latent_representation if filter_outlier_cells else None,
            self._genes,
            mode=mode,
            fdr=fdr_target,
            all_stats=all_stats,
            silent=silent,
            delta=delta,
            batchid1=batchid1,
            batchid2=batchid2,
            use_observed_batches=not batch_correction,
            **options,
        )

    def _check_raw_counts(self, manager: AnnDataManager, mode: str, options: dict) -> bool:
        """Whether there are raw counts to take means of; ValueError if they are needed and gone."""
        if get_adata_minify_type(manager.adata) != ADATA_MINIFY_TYPE.LATENT_POSTERIOR:
            return True
        if mode == "change" and options.get("pseudocounts") is None:
            msg = (
                "`mode='change'` estimates `pseudocounts` from raw counts, which minified data do not have: pass a number, "
                "or `mode='vanilla'`."
            )
            raise ValueError(msg)
        return False

    @torch.inference_mode()
    def get_feature_correlation_matrix(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        n_samples: int = 10,
        batch_size: int = 64,
        rna_size_factor: float = 1000,
        transform_batch: Sequence[float | str] | None = None,
        correlation_type: Literal["spearman", "pearson"] = "spearman",
        silent: bool = True,
    ) -> pd.DataFrame:
        """Correlations of genes over draws from the gamma distribution behind negative binomial counts.

        Parameters
        ----------
        adata, indices, batch_size
            As for :meth:`get_normalized_expression`.
        n_samples
            Number of samples of each cell.
        rna_size_factor
            Total count that all cells are taken to have.
        transform_batch
            Batch to decode as, or several to average over; that of each cell if not given.
        correlation_type
            Of ranks, or of values.
        silent
            Whether to hide the progress bar over batches.

        Returns
        -------
        Data frame of shape ``(g, g)``; NaN where a gene does not vary.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        ValueError
            If a batch is unknown.
        NotImplementedError
            If the likelihood is not a negative binomial.
        """
        self._check_if_trained(warn=False)
        if not self.module.likelihood.has_gamma_rates:
            msg = (
                "Correlations are of draws from the gamma distribution behind negative binomial counts, and "
                f"`gene_likelihood` is {self.module.gene_likelihood!r}. Correlate `posterior_predictive_sample`, or "
                "`get_normalized_expression`, instead."
            )
            raise NotImplementedError(msg)
        adata = self._validate_anndata(adata)
        matrices = []
        for code in track(self._codes_of(transform_batch, "transform_batch"), disable=silent):
            draws = self._get_denoised_samples(
                adata=adata,
                indices=indices,
                n_samples=n_samples,
                batch_size=batch_size,
                rna_size_factor=rna_size_factor,
                transform_batch=code,
            )
            draws = draws if n_samples == 1 else np.concatenate(np.moveaxis(draws, -1, 0))  # (s n, g)
            draws = rankdata(draws, axis=0) if correlation_type == "spearman" else draws
            with np.errstate(invalid="ignore", divide="ignore"):  # genes that do not vary
                matrices.append(np.atleast_2d(np.corrcoef(draws, rowvar=False)))
        return pd.DataFrame(np.mean(matrices, axis=0), index=self._genes, columns=self._genes)

    @torch.inference_mode()
    def get_cluster_assignments(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        soft: bool = False,
        batch_size: int | None = None,
        merged: bool = True,
    ) -> np.ndarray:
        r"""Component of each cell at its representation, or the mean of its posterior, :math:`\arg\max_c\, p(c \mid \nu_i)`.

        For a VampPrior mixture probabilities are those of its E-step (Stirn & Knowles 2024). :class:`SCGMVAE` has an
        encoder of components, :math:`\arg\max_c\, q(c \mid x)`. Of merged components (:meth:`merge_components`) probabilities
        add up.

        Parameters
        ----------
        adata, indices, batch_size
            As for :meth:`get_normalized_expression`.
        soft
            Whether to return probabilities.
        merged
            Whether merged components are one cluster; without effect where none are merged.

        Returns
        -------
        Clusters, shape ``(n,)``, int; or probabilities, shape ``(n, C)``. Without merges a cluster is a component.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        ValueError
            If an encoder's prior has one component.
        """
        self._check_if_trained(warn=False)
        clusters = self.component_clusters_
        if clusters is None or not merged:
            return self.posterior.clusters(adata, indices, soft, batch_size)
        probabilities = merged_probabilities(self.posterior.clusters(adata, indices, True, batch_size), clusters)
        return probabilities if soft else probabilities.argmax(axis=1)

    def merge_components(self, clusters: Sequence[int] | np.ndarray | None) -> None:
        """Let components of the prior make one cluster together: the density, and all that is trained, stay as they are.

        Kept with the model (`component_clusters_`) until it trains again. ``SCDGD(adata, n_components="auto")`` calls it.

        Parameters
        ----------
        clusters
            Cluster of each component, shape ``(k,)``, as :func:`scdgd.tl.cut` gives it; ``None`` for a cluster each.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        ValueError
            If it is not one number for each component.
        NotImplementedError
            If the model's clusters are no components: those of :class:`SCDBM`.

        Examples
        --------
        >>> tree = scdgd.tl.component_tree(model)
        >>> model.merge_components(scdgd.tl.cut(tree, n_components=8))
        """
        n_components = len(self.get_component_means())
        self.component_clusters_ = None if clusters is None else checked_clusters(clusters, n_components)

    @torch.inference_mode()
    def get_latent_library_size(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        give_mean: bool = True,
        batch_size: int | None = None,
        dataloader: Iterable[dict] | None = None,
        **data_loader_kwargs: Any,
    ) -> np.ndarray:
        """Size factor of each cell: observed, so `give_mean` makes no difference; one where sizes are not modelled.

        Parameters
        ----------
        adata, indices, batch_size
            As for :meth:`get_normalized_expression`.
        give_mean
            Of scvi-tools' signature, without effect.
        dataloader, **data_loader_kwargs
            As in scvi-tools.

        Returns
        -------
        Size factors, shape ``(n, 1)``.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        """
        cells = self._minibatches(adata, indices, batch_size, dataloader, data_loader_kwargs)
        return self.posterior.sizes(cells).cpu().numpy()

    @torch.inference_mode()
    def get_aggregated_posterior(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        dof: float | None = 3.0,
    ) -> MixtureSameFamily:
        """Mixture of the posteriors of cells, a density over the latent space.

        Components have the means and variances of the posteriors, whatever their shape.

        Parameters
        ----------
        adata, indices, batch_size
            As for :meth:`get_normalized_expression`.
        dof
            Degrees of freedom of Student components; ``None`` for Gaussian ones.

        Returns
        -------
        A distribution of representations, event shape ``(d,)``.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        NotImplementedError
            If representations have no density: hidden units of :class:`SCDBM` are binary.
        """
        self.posterior.check_density("`get_aggregated_posterior`")
        mean, var = self.get_latent_representation(adata, indices, batch_size=batch_size, return_dist=True)
        return aggregated(torch.as_tensor(mean, device=self.device), torch.as_tensor(var, device=self.device), dof)

    @torch.inference_mode()
    def differential_abundance(
        self,
        adata: AnnData | None = None,
        sample_key: str | None = None,
        batch_size: int = 128,
        num_cells_posterior: int | None = None,
        dof: float | None = None,
    ) -> None:
        """Log density of every cell's representation under the posteriors of each sample's cells.

        Written to ``adata.obsm["da_log_probs"]``, as by :meth:`scvi.model.SCVI.differential_abundance`: one column a sample,
        in their order in `adata`, with its name as text.

        Parameters
        ----------
        adata, batch_size
            As for :meth:`get_latent_representation`.
        sample_key
            Column of ``adata.obs`` that names samples.
        num_cells_posterior
            Most cells of a sample, a random subset of larger ones; all if not given.
        dof
            As for :meth:`get_aggregated_posterior`.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        ValueError
            If there is no column `sample_key`, or cells without a sample; they are named.
        TypeError
            If samples are numbers and texts.
        NotImplementedError
            If representations have no density: hidden units of :class:`SCDBM` are binary.
        """
        self.posterior.check_density("`differential_abundance`")
        self._check_if_trained(warn=False)
        validated, batch_size = self._validate_anndata(adata), batch_size or settings.batch_size
        codes, names = samples_of(validated.obs, sample_key)
        z = torch.as_tensor(self.get_latent_representation(validated, batch_size=batch_size), device=self.device)
        rng, log_probs = np.random.default_rng(settings.seed), {}
        for sample in track(pd.unique(codes), description="Samples", disable=len(names) < _SHOW_SAMPLES):
            cells = np.flatnonzero(codes == sample)
            if num_cells_posterior is not None and num_cells_posterior < len(cells):
                cells = np.sort(rng.choice(cells, num_cells_posterior, replace=False))
            posterior = self.get_aggregated_posterior(validated, cells, batch_size=batch_size, dof=dof)
            log_probs[names[sample]] = (
                torch.cat([posterior.log_prob(part) for part in z.split(batch_size)]).cpu().numpy()
            )
        where = validated if adata is None else adata  # a view is validated as a copy
        where.obsm["da_log_probs"] = pd.DataFrame(log_probs, index=validated.obs_names)

    @checked(
        minified_data_type=Choice(*ADATA_MINIFY_TYPE),
        use_latent_qzm_key=Text("a name in `obsm`"),
        use_latent_qzv_key=Text("a name in `obsm`"),
    )
    def minify_adata(
        self,
        minified_data_type: str = ADATA_MINIFY_TYPE.LATENT_POSTERIOR,
        use_latent_qzm_key: str = "X_latent_qzm",
        use_latent_qzv_key: str = "X_latent_qzv",
    ) -> None:
        """Replace the model's data by posteriors and sizes of cells, without counts.

        The AnnData that was attached stays as it is. Representations, clusters, expression, differential expression and
        samples go on, with normal posteriors of the moments that are kept; what needs counts refuses. The model and its minified data
        are saved as any others.

        Representations of :class:`SCDGD` and :class:`SCVAD` stay what they are, whatever the moments. So do posteriors that an encoder
        gives and that are no normals with independent dimensions, of which a row of numbers for each cell is kept: for a flow or
        correlations ``2 d + h``, with the ``h`` units of the encoder's last hidden layer, for ``m`` components of
        :class:`SCGMVAE` ``2 m (1 + d)``, four bytes each. Fewer are kept with `max_components_per_cell`.

        Parameters
        ----------
        minified_data_type
            ``"latent_posterior_parameters"``, or ``"latent_posterior_parameters_with_counts"`` to keep counts.
        use_latent_qzm_key, use_latent_qzv_key
            Keys of ``obsm`` of the means and variances of posteriors; if they are not there, moments are computed.

        Raises
        ------
        NotImplementedError
            If the data are a MuData, or hidden units are binary, as those of :class:`SCDBM`.
        ValueError
            If there is only one of the moments, or counts are gone already.
        RuntimeError
            If the model is not trained.
        """
        self._check_if_trained(warn=False)
        self.posterior.check_minifiable()
        self._validate_anndata(None)
        self.adata = minified(self, minified_data_type, use_latent_qzm_key, use_latent_qzv_key)

    def get_novelty(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        false_alarm_rate: float = 0.05,
        batch_size: int | None = None,
    ) -> pd.DataFrame:
        r"""How unlike the training cells a cell is, and whether it is of a kind that the model was not trained on.

        The distance to the 15th nearest training cell, in coordinates of the information of the counts, the density of the
        prior at the cell's representation, and the likelihood of its counts there, given how many they are, are
        standardised and added; see :class:`~scdgd.inference.NoveltyReference` for the formula. How large such scores are
        without novelty, cells tell that were held out of training (``train(validation_size=0.15)``), if there are 100. Else it
        is training cells whose representations are found anew, as those of new cells are; of a few hundred training cells
        these are too like themselves, and more new cells are called novel than is stated. They are read when the method is
        first called, at most 2,000 of them (drawn with a fixed seed), kept with the model, saved with it, and read again when
        the model was trained further.

        Cells that lack genes are compared with at most 500 training cells as if these had the same genes and no others, each
        panel of genes for itself; the last eight of these references are kept, too. Of a reference whose batches were
        measured with different genes, it is the cells with all genes of the query, if there are 200. Uncertain
        representations of few genes hide novelty.

        Cells of a new batch have its vector, or the column that stands for it, as for all reading methods; what that does not
        take up looks like novelty, so that false alarms are more often than is stated. A subtype close
        to a known type, or one for which the chosen genes have no markers, is not found; shallow cells say little either way.

        Parameters
        ----------
        adata, indices, batch_size
            As for :meth:`get_latent_representation`.
        false_alarm_rate
            Share of cells like those of the reference that may be called novel, between 0 and 1.

        Returns
        -------
        Data frame with a row for each cell: ``"score"``, larger for cells less like the reference, with mean zero over its
        cells; ``"p_value"``, the share of reference cells that are as unlike the others; and ``"is_novel"``, whether that is
        at most `false_alarm_rate`.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        ValueError
            If the training cells are needed and are not attached to the model, or the rate is not possible.
        NotImplementedError
            If representations have no density: hidden units of :class:`SCDBM` are binary.
        """
        self.posterior.check_density("`get_novelty`")
        self._check_if_trained(warn=False)
        adata = self._validate_anndata(adata)
        positions = positions_of(indices, adata.n_obs) % adata.n_obs
        with undisturbed():
            score, p_value = novelty_of(self, adata, positions, batch_size)
        values = {"score": score, "p_value": p_value, "is_novel": p_value <= false_alarm_rate}
        return pd.DataFrame(values, index=adata.obs_names[positions])

    @checked(library_size=Optional(Number(above=0)))
    def prior_predictive_sample(
        self,
        n_cells: int,
        *,
        component: int | None = None,
        batch: str | None = None,
        library_size: float | None = None,
        seed: int | None = None,
        batch_size: int | None = None,
        coordinates: Coordinates = "latent",
    ) -> AnnData:
        r"""Draw synthetic cells: :math:`z \sim p(z)`, decode, :math:`x \sim p(x \mid z)`.

        Each synthetic cell borrows size factor, batch and covariates from a random cell of the attached AnnData, never
        its counts or its representation. :func:`scdgd.tl.sample_cells` has more choices.

        Parameters
        ----------
        n_cells
            Number of cells.
        component
            Draw from this mixture component only.
        batch
            Borrow from the cells of this batch only.
        library_size
            Expected total count of every cell, in place of the borrowed size factor.
        seed
            Seed of all draws; ``None`` continues torch's and a fresh NumPy generator.
        batch_size
            Cells decoded together.
        coordinates
            ``"information"`` adds representations in coordinates of :meth:`get_information`.

        Returns
        -------
        AnnData with counts as CSR, ``obs["component"]``, the batch column if there is one, and ``obsm["X_scdgd"]`` (the
        drawn representations, under the model's own key; in coordinates of information ``obsm["X_scdgd_information"]``).

        Raises
        ------
        ValueError
            If `n_cells`, `component`, `batch` or `library_size` is not possible, or no data are attached.
        """
        self._check_if_trained(warn=False)
        self._validate_anndata(None)
        sampler = CellSampler(self.module, self.adata_manager, batch_size=batch_size)
        cells = sampler.sample_prior(
            n_cells,
            sampler.donors_of(batch),
            component=component,
            library="empirical" if library_size is None else library_size,
            seed=seed,
        )
        drawn = sampler.to_anndata(cells, self._latent_key)
        if coordinates == "information":
            drawn.obsm[f"{self._latent_key}_information"] = self._in(coordinates, cells.z)
        return drawn

    def _positions_of_genes(self, gene_list: Sequence[str], name: str = "gene_list") -> np.ndarray:
        """Positions of genes among those of the model, in the order that they are named by the argument `name`."""
        known = pd.Index(self._genes)
        positions = known.get_indexer(gene_list)
        if (positions < 0).any():
            unknown = [gene for gene, position in zip(gene_list, positions, strict=True) if position < 0]
            msg = f"Genes {unknown[:_MAX_NAMED]} in `{name}` are not among the {len(known)} genes of the model."
            raise ValueError(msg)
        return positions

    def _known_batches(self) -> list:
        """Names of the batches that can be decoded, in the order of their codes."""
        return list(get_state_registry(self.registry, REGISTRY_KEYS.BATCH_KEY)["categorical_mapping"])

    def _codes_of(self, batches: Any, name: str) -> list[int | None]:
        """Codes of the batches that an argument names; one ``None`` for that of each cell."""
        known = self._known_batches()
        is_one = batches is None or isinstance(batches, str | bytes) or np.ndim(batches) == 0
        wanted = [batches] if is_one else list(batches)
        codes = [None if batch is None else code_of(batch, known) for batch in wanted]
        unknown = [batch for batch, code in zip(wanted, codes, strict=True) if code == -1]
        if unknown or not wanted:
            what = f"no cell of {shown(unknown[0])} was trained on" if unknown else "it names none"
            msg = f"`{name}` must name batches of the model, {list(map(_plain, known))}, but {what}."
            raise ValueError(msg)
        return codes

    @property
    def _has_sizes(self) -> bool:
        """Whether cells have a library size, as those of counts do."""
        return self.module.likelihood.is_of_counts or self.module.link.is_of_counts


def _plain(name: Any) -> Any:
    return name.item() if isinstance(name, np.generic) else name
