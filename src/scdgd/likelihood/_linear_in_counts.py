"""Families whose log probability is linear in the count, but for a constant: many cells at many means."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from scdgd.data import SparseCounts

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Relative error of interpolated sums over genes, below single precision.
_ERROR = 1e-9
#: Profiles of genes that are evaluated together stay in cache.
_ELEMENTS = 2**19


class LinearInCounts:
    r"""Families with :math:`\ell(x) = \ell_0(\mu) + x\,\tau(\mu) + c(x)`: the negative binomial and the Poisson.

    :math:`\tau` is the ``natural_parameter``, :math:`\ell_0` the ``log_zero_probability``.
    """

    @classmethod
    def log_prob_of_pairs(
        cls, log_profile: torch.Tensor, parameters: Sequence[torch.Tensor], counts: SparseCounts, log_size: torch.Tensor
    ) -> torch.Tensor:
        r"""As :meth:`CountLikelihood.log_prob_of_pairs`, where each pair costs as much as the genes that the cell has counts of.

        The sum over all genes, :math:`f_m(\log s) = \sum_j \ell_0(s\,\rho_{mj})`, is a smooth function of the size alone. It is
        evaluated at the Chebyshev nodes of the sizes of the cells and interpolated in between. Its singularities nearest to
        the real line are those of :math:`\log(1 + \mu/\theta)`, at an imaginary part of :math:`\pi`, so the error falls as
        fast as :func:`chebyshev` says.
        """
        nodes, weights = chebyshev(log_size.ravel())
        constant = cls(log_profile[:1].expand(len(counts), -1), *parameters).log_constant(counts)
        parts = [
            cls._kernels_of_pairs(part, parameters, counts, log_size, nodes, weights)
            for part in log_profile.split(max(1, _ELEMENTS // counts.n_genes))
        ]
        return (torch.cat(parts) + constant).to(log_profile.dtype)

    @classmethod
    def _kernels_of_pairs(
        cls,
        log_profile: torch.Tensor,
        parameters: Sequence[torch.Tensor],
        counts: SparseCounts,
        log_size: torch.Tensor,
        nodes: list[float],
        weights: torch.Tensor,
    ) -> torch.Tensor:
        """Log probabilities ``(m, b)`` of a few profiles ``(m, g)`` without what depends on counts alone, in double."""
        no_entries = counts.indices[:0], counts.values[:0]
        none = SparseCounts(counts.indptr.new_zeros(len(log_profile) + 1), *no_entries, counts.n_genes)
        of_zeros = [cls(log_profile + node, *parameters).log_kernel(none) for node in nodes]
        log_prob = torch.stack(of_zeros, dim=1) @ weights
        bounds, by_gene = counts.indptr.tolist(), log_profile.T.contiguous()  # look-ups of genes are of whole rows
        for cell, size in enumerate(log_size.ravel().tolist()):
            entries = slice(bounds[cell], bounds[cell + 1])
            genes = counts.indices[entries]
            of_genes = (p[genes].unsqueeze(1) for p in parameters)
            gained = cls(by_gene.index_select(0, genes) + size, *of_genes).natural_parameter  # (entries, m)
            log_prob[:, cell] += counts.values[entries].double() @ gained.double()
        return log_prob


def chebyshev(x: torch.Tensor) -> tuple[list[float], torch.Tensor]:
    r"""Nodes, and weights by which values there give those at `x` ``(b,)``, shape ``(q, b)``, in double.

    For functions without singularities where the imaginary part is below :math:`\pi`. With half the range of `x` as unit these
    are outside the ellipse of Bernstein through :math:`i\pi / h`, whose semi-axes have the sum :math:`r`, so the error is of
    the order of :math:`r^{-q}` (Trefethen 2019, Approximation Theory and Approximation Practice, theorem 8.2).
    """
    x = x.double()
    low, high = float(x.min()), float(x.max())
    half = max((high - low) / 2, 1e-6)
    sum_of_axes = math.pi / half + math.hypot(math.pi / half, 1)
    q = max(2, math.ceil(-math.log(_ERROR) / math.log(sum_of_axes)) + 1)
    angles = (torch.arange(q, dtype=torch.float64, device=x.device) + 0.5) * (math.pi / q)
    at = torch.acos(((x - (low + high) / 2) / half).clamp(-1, 1))
    degrees = torch.arange(q, dtype=torch.float64, device=x.device).unsqueeze(1)
    factors = torch.full((q, 1), 2 / q, dtype=torch.float64, device=x.device)
    factors[0] = 1 / q
    weights = (factors * torch.cos(degrees * angles)).T @ torch.cos(degrees * at)  # polynomials at nodes and at x
    return ((low + high) / 2 + half * angles.cos()).tolist(), weights
