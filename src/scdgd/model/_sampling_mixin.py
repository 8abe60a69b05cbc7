"""Synthetic cells drawn from the model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from scdgd._options import Number, Optional
from scdgd.inference import CellSampler

from ._arguments import reading

if TYPE_CHECKING:
    from anndata import AnnData


class PriorSamplingMixin:
    """Draws from the prior, decoded."""

    @reading(library_size=Optional(Number(above=0)))
    def prior_predictive_sample(
        self,
        n_cells: int,
        *,
        component: int | None = None,
        batch: str | None = None,
        library_size: float | None = None,
        seed: int | None = None,
        batch_size: int | None = None,
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

        Returns
        -------
        AnnData with counts as CSR, ``obs["component"]``, the batch column if there is one, and ``obsm["X_scdgd"]`` (the
        drawn representations, under the model's own key).

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
        return sampler.to_anndata(cells, self._latent_key)
