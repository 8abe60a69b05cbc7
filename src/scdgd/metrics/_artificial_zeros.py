"""Does a model reproduce zeros, or fill them in."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from scipy import sparse

from scdgd._options import SEED, Function, Number, checked

from ._gene_statistics import gene_statistics
from ._sparse_columns import checked_counts

if TYPE_CHECKING:
    from collections.abc import Callable


class ArtificialZeros(NamedTuple):
    """Zero fractions of ``g`` genes, before and after counts are erased, and of what a model makes of it."""

    original: np.ndarray
    """Of the counts as they were, shape ``(g,)``."""
    erased: np.ndarray
    """Of the counts that the model was trained on, shape ``(g,)``."""
    synthetic: np.ndarray
    """Of the model's cells, shape ``(g,)``."""

    @property
    def error(self) -> float:
        """Mean absolute difference of synthetic cells from what the model was trained on: 0 is right."""
        return float(np.abs(self.synthetic - self.erased).mean())

    @property
    def filled_in(self) -> float:
        r"""Share of the artificial zeros that synthetic cells lack, by least squares over genes.

        .. math::
            \frac{\sum_j (e_j - o_j)(e_j - s_j)}{\sum_j (e_j - o_j)^2}

        0: the model reproduces them; 1: it has the zeros of the original counts. NaN if no count was erased.
        """
        added = self.erased - self.original
        return float(added @ (self.erased - self.synthetic) / (added @ added)) if added.any() else np.nan


@checked(probability=Number(least=0, below=1), seed=SEED)
def erase_counts(
    counts: np.ndarray | sparse.spmatrix, *, probability: float = 0.2, seed: int | None = None
) -> sparse.csr_matrix:
    """Set each entry to zero with the same probability, independently (Treppner et al. 2021).

    Parameters
    ----------
    counts
        Shape ``(n, g)``, dense or sparse, not negative.
    probability
        From 0 to less than 1.
    seed
        Seed of the draws.

    Returns
    -------
    Shape ``(n, g)``. Cells may be left without counts.

    Raises
    ------
    ValueError
        If `probability` is out of range, or counts are negative or not finite.
    """
    erased = sparse.csr_matrix(checked_counts(counts), copy=True)
    erased.sum_duplicates()
    erased.data[np.random.default_rng(seed).random(erased.nnz) < probability] = 0
    erased.eliminate_zeros()
    return erased


@checked(generate=Function(), probability=Number(least=0, below=1), seed=SEED)
def artificial_zeros(
    counts: np.ndarray | sparse.spmatrix,
    generate: Callable[[sparse.csr_matrix], np.ndarray | sparse.spmatrix],
    *,
    probability: float = 0.2,
    seed: int | None = None,
) -> ArtificialZeros:
    """Train a model on counts with artificial zeros, and compare zeros of its cells with those of its input.

    A generator should reproduce the zeros, a denoiser would fill them in (Treppner et al. 2021).

    Parameters
    ----------
    counts
        Shape ``(n, g)``, dense or sparse.
    generate
        Trains a model on counts ``(m, g)`` and returns synthetic counts of the same genes. Cells without counts are left
        out of what it is given.
    probability, seed
        As for :func:`erase_counts`.

    Raises
    ------
    ValueError
        As :func:`erase_counts`, and if `generate` returns another number of genes.

    Examples
    --------
    >>> def generate(counts):
    ...     adata = AnnData(counts)
    ...     scvi.model.SCVI.setup_anndata(adata)
    ...     model = scvi.model.SCVI(adata)
    ...     model.train()
    ...     return scdgd.tl.sample_cells(model, adata.n_obs, seed=0).X
    >>> scdgd.metrics.artificial_zeros(adata.X, generate).error
    """
    erased = erase_counts(counts, probability=probability, seed=seed)
    left = np.asarray(erased.sum(1)).ravel() > 0
    if not left.any():
        msg = f"No cell has counts after each was erased with probability {probability}; lower it."
        raise ValueError(msg)
    erased, original = erased[left], sparse.csr_matrix(counts)[left]
    synthetic = checked_counts(generate(erased), "generate(counts)")
    if synthetic.shape[1] != erased.shape[1]:
        msg = f"`generate` returned {synthetic.shape[1]} genes of the {erased.shape[1]} that it was given."
        raise ValueError(msg)
    return ArtificialZeros(*(gene_statistics(x).zero_fraction for x in (original, erased, synthetic)))
