"""The log volume of a posterior, by which Laplace's evidence differs from the joint density."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import torch

from ._joint_density import JointDensity

if TYPE_CHECKING:
    from scdgd.module import DGDModule

_LOG_2PI = math.log(2 * math.pi)


class LaplaceTerm(NamedTuple):
    r"""Volumes of the Gaussian posteriors :math:`\mathcal N(z, H^{-1})` of ``b`` cells."""

    log_volume: torch.Tensor
    r""":math:`\tfrac d2 \log 2\pi - \tfrac12 \log\lvert H\rvert` in nats, shape ``(b,)``; NaN where the Cholesky
    factorisation fails."""
    covariance: torch.Tensor
    r""":math:`H^{-1}`, shape ``(b, d, d)``, without a gradient."""


def laplace_term(
    module: DGDModule, tensors: dict[str, torch.Tensor], z: torch.Tensor, n_genes: int | None = None, seed: int = 0
) -> LaplaceTerm:
    r"""Log volume of each cell's posterior, as a function of all that trains.

    .. math::
        \log p(x) \approx \log p(x \mid z) + \log p(z \mid \phi)
            + \tfrac d2 \log 2\pi - \tfrac12 \log\lvert H\rvert, \qquad
        H = J_\eta^\top \operatorname{diag}(w)\, J_\eta + \sum_c r_c \Lambda_c

    with :math:`H` that of :func:`fisher_information`: positive definite, so the determinant needs no jitter. Autograd
    gives the derivatives with respect to `z`, decoder, dispersions and parameters of the prior. The volume times the
    density of the prior is MacKay's Occam factor (1992, *Bayesian interpolation*).

    Of a subset of the genes the determinant is that of an unbiased estimate of :math:`H`, but for the normaliser of a
    softmax. The logarithm is concave, so the log volume is too large on average. Training on *one* subset would spend
    the information of these genes only: draw another by `seed` each time.

    Parameters
    ----------
    module
        The module, left as it is.
    tensors
        Minibatch as the data loader gives it, ``b`` cells, on the device of the module.
    z
        Representations, shape ``(b, d)``.
    n_genes
        Number of genes that estimate the sum over genes, see :func:`choose_genes`; all if not given.
    seed
        Seed of the choice of genes.
    """
    precision = JointDensity(module, tensors).with_genes(n_genes, seed).curvature(z)
    cholesky, failed = torch.linalg.cholesky_ex(precision)
    log_volume = 0.5 * z.shape[1] * _LOG_2PI - cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    log_volume = torch.where(failed == 0, log_volume, torch.nan)
    return LaplaceTerm(log_volume, torch.cholesky_inverse(cholesky.detach()))
