"""A space made of real cells that synthetic cells are brought into."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
from scipy import sparse

from scdgd._options import Choice, Integer, checked
from scdgd.train._start import fitted_pca, log_normalised, rows_differ

from ._sparse_columns import checked_counts

if TYPE_CHECKING:
    from umap import UMAP

_UMAP = {"n_neighbors": 30, "min_dist": 0.3, "metric": "cosine"}


class ReferenceEmbedding:
    r"""Principal components of log-normalised counts, or a UMAP of them, fitted to real cells only.

    Counts are scaled to the median total count :math:`N` of the real cells, :math:`\log(1 + x_{ij} N / N_i)`, and
    projected on the leading components of the real cells. Synthetic cells get coordinates by :meth:`transform`, so both
    lie in one space. Two embeddings of their own, as in the released code of Treppner et al. 2021, have coordinates that
    cannot be compared.

    Parameters
    ----------
    counts
        Counts of the real cells, shape ``(n, g)``, dense or sparse.
    method
        ``"pca"``, or ``"umap"`` with the paper's cosine distance, 30 neighbours and minimal distance 0.3.
    n_components
        Number of principal components ``d``; fewer where cells or genes are few.
    seed
        Seed of the solver and of UMAP.

    Attributes
    ----------
    coordinates
        Of the real cells, shape ``(n, d)``, or ``(n, 2)`` for UMAP.

    Raises
    ------
    ValueError
        If counts are negative or not finite, or an option is out of range.
    """

    @checked(method=Choice("pca", "umap"), n_components=Integer(1), seed=Integer(0, 2**32 - 1))
    def __init__(
        self,
        counts: np.ndarray | sparse.spmatrix,
        *,
        method: Literal["pca", "umap"] = "pca",
        n_components: int = 50,
        seed: int = 0,
    ) -> None:
        counts = checked_counts(counts)
        self.method, self.n_components, self.n_genes = method, n_components, counts.shape[1]
        totals = np.asarray(counts.sum(axis=1)).ravel()
        self.target = float(np.median(totals[totals > 0])) if totals.any() else 1.0
        self._mean, self._axes = _principal_axes(log_normalised(counts, self.target), n_components, seed)
        self.coordinates = scores = self.principal_components(counts)
        self._umap = None
        if method == "umap":
            self._umap = _fitted_umap(scores, seed)
            self.coordinates = self._umap.embedding_

    def principal_components(self, counts: np.ndarray | sparse.spmatrix) -> np.ndarray:
        """Scores of cells on the principal components of the real cells.

        Parameters
        ----------
        counts
            Shape ``(m, g)``, dense or sparse.

        Returns
        -------
        Shape ``(m, d)``.

        Raises
        ------
        ValueError
            If counts are negative or not finite, or of another number of genes.
        """
        counts = checked_counts(counts)
        if counts.shape[1] != self.n_genes:
            msg = f"The embedding was fitted to {self.n_genes} genes, but `counts` has {counts.shape[1]}."
            raise ValueError(msg)
        return log_normalised(counts, self.target) @ self._axes.T - self._mean @ self._axes.T

    def transform(self, counts: np.ndarray | sparse.spmatrix) -> np.ndarray:
        """Coordinates of cells in the space of the real ones, shape ``(m, d)``, or ``(m, 2)`` for UMAP.

        Counts and errors are those of :meth:`principal_components`.
        """
        return self.place(self.principal_components(counts))

    def place(self, scores: np.ndarray) -> np.ndarray:
        """Coordinates of cells whose principal components are known.

        Parameters
        ----------
        scores
            From :meth:`principal_components`, shape ``(m, d)``.
        """
        return scores if self._umap is None else self._umap.transform(scores)


def _principal_axes(x: sparse.csr_matrix, n_components: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean, shape ``(g,)``, and leading axes of variance, shape ``(d, g)``."""
    mean, n_most = np.asarray(x.mean(axis=0)).ravel(), min(x.shape) - 1
    if n_components <= n_most and (pca := fitted_pca(x, n_components, seed)) is not None:
        return pca.mean_, pca.components_
    if not rows_differ(x):  # any axis will do
        return mean, np.eye(1, x.shape[1])
    # small enough to be dense
    return mean, np.linalg.svd(x.toarray() - mean, full_matrices=False)[2][: max(1, n_most)]


def _fitted_umap(scores: np.ndarray, seed: int) -> UMAP:
    from umap import UMAP

    n_neighbors = min(_UMAP["n_neighbors"], len(scores) - 1)
    return UMAP(**{**_UMAP, "n_neighbors": n_neighbors}, random_state=seed, n_jobs=1).fit(scores)
