"""How a latent space is used: its dimensions, and its clusters against labels."""

from __future__ import annotations

import numpy as np

from scdgd._options import Number, checked

from ._batch_cells import checked_space


@checked(min_variance=Number(least=0))
def active_units(z: np.ndarray, *, min_variance: float = 0.01) -> int:
    r"""Number of latent dimensions that tell cells apart, :math:`\operatorname{Var}_i \mathbb E_q[z_l \mid x_i] > 0.01`.

    Dimensions that an encoder leaves at its prior have the same posterior mean for all cells (Burda et al. 2016).

    Parameters
    ----------
    z
        Posterior means, shape ``(n, d)``.
    min_variance
        Variance over cells above which a dimension counts.

    Raises
    ------
    ValueError
        If `z` is not a finite matrix.
    """
    return int((checked_space(z).var(axis=0) > min_variance).sum())


@checked(share=Number(above=0, most=1))
def n_principal_components(z: np.ndarray, *, share: float = 0.95) -> int:
    r"""Smallest number of principal components that hold `share` of the variance of representations.

    Parameters
    ----------
    z
        Posterior means, shape ``(n, d)``.
    share
        Share of the sum of the eigenvalues of :math:`\operatorname{Cov}_i(z_i)`, above 0 and at most 1.

    Returns
    -------
    Number of components; 0 if all representations are equal.

    Raises
    ------
    ValueError
        If `z` is not a finite matrix, or `share` is out of range.
    """
    z = checked_space(z)
    variances = np.linalg.svd(z - z.mean(axis=0), compute_uv=False) ** 2
    total = variances.sum()
    if total <= np.finfo(float).eps ** 2 * np.square(z).sum():  # rounding of the mean
        return 0
    return int(np.searchsorted(variances.cumsum(), share * total * (1 - 1e-12)) + 1)


@checked(min_share=Number(least=0, most=1))
def n_used_components(assignments: np.ndarray, *, min_share: float = 0.01) -> int:
    """Number of components that hold at least `min_share` of the cells.

    Parameters
    ----------
    assignments
        Component of each cell, shape ``(n,)``, of any type.
    min_share
        Least share of the cells.
    """
    _, sizes = np.unique(np.asarray(assignments), return_counts=True)
    return int((sizes >= min_share * sizes.sum()).sum())


def merged_labels(probabilities: np.ndarray, labels: np.ndarray) -> np.ndarray:
    r"""Label of each cell's cluster, which is that of the cluster's most probable member.

    .. math::
        \hat y_i = y_{m(c_i)}, \qquad c_i = \arg\max_c r_{ic}, \qquad m(c) = \arg\max_i r_{ic}

    so that clusters of the same label are merged (Stirn & Knowles 2024). Many clusters are not punished: with one for
    each cell, all are right. Of equally probable members the first counts.

    Parameters
    ----------
    probabilities
        Probabilities of clusters :math:`r_{ic}`, shape ``(n, k)``, as of ``get_cluster_assignments(soft=True)``.
    labels
        Labels :math:`y_i`, shape ``(n,)``, of any type.

    Returns
    -------
    Shape ``(n,)``, of the type of `labels`.

    Raises
    ------
    ValueError
        If `probabilities` is not a finite matrix, or does not have one row for each label.
    """
    probabilities, labels = checked_space(probabilities, "probabilities"), np.asarray(labels)
    if labels.shape != probabilities.shape[:1]:
        msg = f"`labels` must have shape {probabilities.shape[:1]}, one for each row, got {labels.shape}."
        raise ValueError(msg)
    return labels[probabilities.argmax(axis=0)][probabilities.argmax(axis=1)]


def merged_accuracy(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """Share of cells whose label is that of the most probable member of their cluster.

    Parameters are those of :func:`merged_labels`, and so is the warning.
    """
    return float((merged_labels(probabilities, labels) == np.asarray(labels)).mean())
