"""What all models are asked after training: scvi-tools' downstream methods, with their arguments checked."""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING, Literal

import pandas as pd
from anndata import AnnData
from mudata import MuData
from scvi import REGISTRY_KEYS

from scdgd._compat import get_state_registry
from scdgd._options import check_options, check_positive_integers
from scdgd.likelihood import VALUE_LIKELIHOODS

from ._cells import positions_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy as np
    from sparse import GCXS


class ReadingMixin:
    """Downstream methods, first in the order of classes, so that the others may rely on what they are given.

    scvi-tools reads models that are not trained, takes a mask of any length, and leaves out genes that it does not know.
    """

    def _validate_anndata(self, adata=None, copy_if_view: bool = True):
        if adata is None and self.adata is None:
            msg = "The model was loaded without data: pass `adata`, or attach one with `model.adata = adata`."
            raise ValueError(msg)
        if not isinstance(adata, AnnData | MuData | None):
            msg = f"`adata` must be an AnnData (or MuData) with the genes of the model, got {type(adata).__name__}."
            raise TypeError(msg)
        return super()._validate_anndata(adata, copy_if_view)

    def _make_data_loader(self, adata, indices=None, batch_size: int | None = None, **kwargs):
        check_positive_integers(batch_size=batch_size)
        indices = None if indices is None else positions_of(indices, adata.n_obs)
        return super()._make_data_loader(adata, indices=indices, batch_size=batch_size, **kwargs)

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
        **kwargs,
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
        is_total = isinstance(library_size, Real) and library_size > 0
        if not is_total and not (isinstance(library_size, str) and library_size == "latent"):
            msg = f"`library_size` must be a positive total or 'latent', got {library_size!r}."
            raise ValueError(msg)
        if not self._has_sizes and library_size not in (1, "latent"):
            msg = f"`library_size={library_size!r}` is for counts, and `gene_likelihood` is of other values. Leave it out."
            raise ValueError(msg)
        check_positive_integers(n_samples=n_samples, n_samples_overall=n_samples_overall)
        check_options(weights=(weights, (None, "uniform", "importance")))
        self._check_genes(gene_list)
        if weights == "importance":
            self._check_importance_weights()
        if indices is not None:
            indices = positions_of(indices, self._validate_anndata(adata).n_obs)
        return super().get_normalized_expression(
            adata=adata,
            indices=indices,
            transform_batch=transform_batch,
            gene_list=gene_list,
            library_size=library_size if self._has_sizes else "latent",
            n_samples=n_samples,
            n_samples_overall=n_samples_overall,
            weights=weights,
            batch_size=batch_size,
            return_mean=return_mean,
            return_numpy=return_numpy,
            silent=silent,
            dataloader=dataloader,
            **kwargs,
        )

    def get_likelihood_parameters(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        n_samples: int = 1,
        give_mean: bool = False,
        batch_size: int | None = None,
        dataloader: Iterable[dict] | None = None,
        **kwargs,
    ) -> dict[str, np.ndarray]:
        r"""Parameters of the likelihood of each count, at samples as of :meth:`get_normalized_expression`.

        Parameters
        ----------
        adata, indices
            Cells; those that the model was set up with if not given.
        n_samples
            Number of samples ``s`` of each cell.
        give_mean
            Whether to average over samples.
        batch_size
            Cells per minibatch.
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
        self._check_if_trained(warn=False)
        check_positive_integers(n_samples=n_samples)
        return super().get_likelihood_parameters(
            adata=adata,
            indices=indices,
            n_samples=n_samples,
            give_mean=give_mean,
            batch_size=batch_size,
            dataloader=dataloader,
            **kwargs,
        )

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
        **kwargs,
    ) -> GCXS:
        r"""Replicates of cells: representations are drawn from their posteriors, then counts from the likelihood.

        Representations of :class:`SCDBM` are states of the first hidden layer, drawn from its mean field.

        Parameters
        ----------
        adata, indices
            Cells; those that the model was set up with if not given.
        transform_batch
            Batch to decode as; that of each cell if not given.
        n_samples
            Number of replicates ``s`` of each cell.
        gene_list
            Names of genes; all if not given.
        batch_size
            Cells per minibatch.
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
        self._check_if_trained(warn=False)
        check_positive_integers(n_samples=n_samples)
        self._check_genes(gene_list)
        return super().posterior_predictive_sample(
            adata=adata,
            indices=indices,
            transform_batch=transform_batch,
            n_samples=n_samples,
            gene_list=gene_list,
            batch_size=batch_size,
            dataloader=dataloader,
            silent=silent,
            **kwargs,
        )

    def differential_expression(
        self,
        adata: AnnData | None = None,
        groupby: str | None = None,
        group1: str | Sequence[str] | None = None,
        group2: str | None = None,
        *args,
        **kwargs,
    ) -> pd.DataFrame:
        """Genes that differ between groups of cells, as of :meth:`scvi.model.SCVI.differential_expression`.

        Parameters
        ----------
        adata
            Cells; those that the model was set up with if not given.
        groupby
            Column of ``adata.obs`` that names groups.
        group1, group2
            Groups to compare; each with all others if not given.
        *args, **kwargs
            As in scvi-tools.

        Returns
        -------
        Statistics of each gene and comparison, one row each.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        ValueError
            If there is no such column or group.
        NotImplementedError
            If values are Gaussian and not counts, of which fold changes are no ratios.
        """
        self._check_if_trained(warn=False)
        if not self._has_sizes and self.module.gene_likelihood == "normal":
            msg = (
                "Fold changes are ratios of shares, which values on a logarithmic scale do not have. Compare "
                "`get_normalized_expression()` of two groups by differences, or model the counts."
            )
            raise NotImplementedError(msg)
        if groupby is not None:
            obs = self._validate_anndata(adata).obs
            if groupby not in obs:
                msg = f"`groupby` must be one of the columns of `adata.obs`, {list(obs.columns)}, got {groupby!r}."
                raise ValueError(msg)
            groups = [group1] if group1 is None or isinstance(group1, str) else group1
            unknown = [group for group in (*groups, group2) if group is not None and group not in set(obs[groupby])]
            if unknown:
                msg = f"There are no cells of {unknown} in `adata.obs[{groupby!r}]`, which has {list(obs[groupby].unique())}."
                raise ValueError(msg)
        return super().differential_expression(adata, groupby, group1, group2, *args, **kwargs)

    def _check_genes(self, gene_list: Sequence[str] | None) -> None:
        known = pd.Index(get_state_registry(self.registry, REGISTRY_KEYS.X_KEY)["column_names"])
        unknown = pd.Index([] if gene_list is None else gene_list).difference(known)
        if len(unknown):
            msg = f"Genes {list(unknown[:5])} in `gene_list` are not among the {len(known)} genes of the model."
            raise ValueError(msg)

    @property
    def _has_sizes(self) -> bool:
        """Whether cells have a library size, as those of counts do."""
        module = self.module
        if module.gene_likelihood not in VALUE_LIKELIHOODS:
            return True
        return getattr(module, "mean_activation", "identity") != "identity"
