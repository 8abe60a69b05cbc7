"""Covariances of Gaussian components: their types, their factors, their products with the spread of a cell."""

from __future__ import annotations

import math
from typing import Literal

import torch

AxisAlignedType = Literal["diag", "tied_diag", "spherical", "fixed"]
CovarianceType = Literal["diag", "tied_diag", "spherical", "full", "tied", "fixed"]

MIN_VAR = 1e-6


def unit_lower(couplings: torch.Tensor, n_latent: int) -> torch.Tensor:
    """Unit lower triangular matrices ``(k, d, d)`` from their entries below the diagonal, ``(k, d (d - 1) / 2)``."""
    matrix = torch.eye(n_latent, dtype=couplings.dtype, device=couplings.device).repeat(len(couplings), 1, 1)
    rows, columns = torch.tril_indices(n_latent, n_latent, offset=-1, device=couplings.device)
    matrix[:, rows, columns] = couplings
    return matrix


def modified_cholesky(covariances: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Factors of the precision, :math:`\Sigma^{-1} = T^\top D^{-1} T` (Pourahmadi 1999).

    ``T`` is unit lower triangular: :math:`-T_{lj}` are the coefficients of the regression of dimension ``l`` on the
    dimensions before it, and the diagonal ``D`` holds the variances of what remains. Any real ``T`` and ``log D`` are
    a positive definite matrix, so that gradient steps need no constraint.

    Eigenvalues are raised to at least 1e-6 first: this is the maximum-likelihood covariance under that bound, and
    with a QR decomposition of its root no factorisation can fail. So singular matrices ``(k, d, d)`` are welcome.

    Returns
    -------
    ``log D``, shape ``(k, d)``, and the entries of ``T`` below its diagonal, shape ``(k, d (d - 1) / 2)``.
    """
    d = covariances.shape[-1]
    values, vectors = torch.linalg.eigh(covariances)
    root = values.clamp(min=MIN_VAR).sqrt().unsqueeze(-1) * vectors.mT  # covariances = root' root
    upper = torch.linalg.qr(root, mode="r").R
    scale = upper.diagonal(dim1=-2, dim2=-1)  # either sign
    identity = torch.eye(d, dtype=root.dtype, device=root.device)
    lower = (upper / scale.unsqueeze(-1)).mT
    inverse = torch.linalg.solve_triangular(lower, identity.expand_as(lower), upper=False, unitriangular=True)
    rows, columns = torch.tril_indices(d, d, offset=-1, device=root.device)
    return scale.square().clamp(min=MIN_VAR).log(), inverse[:, rows, columns]


def as_posterior_var(posterior_var: float | torch.Tensor, z: torch.Tensor, *, dense: bool) -> float | torch.Tensor:
    """Spread of representations as a number, variances ``(n, d)`` or, for `dense` mixtures, covariances ``(n, d, d)``.

    Axis-aligned mixtures see the diagonal of covariances only.
    """
    if not torch.is_tensor(posterior_var) or posterior_var.ndim == 0:
        posterior_var = float(posterior_var)
        if not (0 <= posterior_var < math.inf):
            msg = f"`posterior_var` must be finite and not negative, got {posterior_var}."
            raise ValueError(msg)
        return posterior_var
    n, d = z.shape
    if posterior_var.shape not in ((n, d), (n, d, d)):
        msg = (
            f"`posterior_var` must be a number or have shape {(n, d)} or {(n, d, d)}, got {tuple(posterior_var.shape)}."
        )
        raise ValueError(msg)
    if posterior_var.ndim == 3 and not dense:
        posterior_var = posterior_var.diagonal(dim1=-2, dim2=-1)
    return posterior_var.to(z)


def precision_factors(covariances: torch.Tensor) -> torch.Tensor:
    r"""Lower triangular :math:`L` with :math:`\Sigma^{-1} = L L^\top`, of covariances ``(k, d, d)``, of the same shape."""
    return torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(covariances)))


def diagonal_of(var: torch.Tensor | float, mean: torch.Tensor) -> torch.Tensor | float:
    """Variances, of variances ``(..., d)`` or covariances ``(..., d, d)`` of means ``(..., d)``."""
    is_dense = torch.is_tensor(var) and var.ndim > mean.ndim
    return var.diagonal(dim1=-2, dim2=-1) if is_dense else var


def trace_product(precisions: torch.Tensor, posterior_var: float | torch.Tensor) -> torch.Tensor:
    r"""The traces :math:`\operatorname{tr}(\Lambda_c S_i)`, shape ``(n, k)``, as one product of matrices.

    Precisions :math:`\Lambda_c` are diagonals ``(k, d)`` or matrices ``(k, d, d)``. Spreads :math:`S_i` are diagonals ``(n, d)``;
    with matrices also symmetric matrices ``(n, d, d)``; or a number, and traces ``(k,)``.
    """
    dense_spread = torch.is_tensor(posterior_var) and posterior_var.ndim == 3
    if precisions.ndim == 3 and not dense_spread:
        precisions = precisions.diagonal(dim1=-2, dim2=-1)
    if not torch.is_tensor(posterior_var):
        return posterior_var * precisions.sum(-1)
    return posterior_var.flatten(1) @ precisions.flatten(1).T
