"""Poisson counts whose means add up to the total of the cell."""

from __future__ import annotations

import torch

from scdgd.data import SparseCounts, as_sparse_counts

from ._poisson import Poisson

#: Largest difference of the log size factor from the log total, for rounding.
_TOLERANCE = 1e-4


class ConstrainedPoisson(Poisson):
    r"""Poisson with mean :math:`\mu_j = N\,\mathrm{softmax}(o)_j`, where :math:`N = \sum_j x_j` is the total of the cell.

    .. math::
        \ell = \sum_j x_j \log\mathrm{softmax}(o)_j + N \log N - N - \sum_j \log x_j!,
        \qquad \frac{\partial\ell}{\partial o_j} = x_j - \mu_j

    This is the multinomial of :math:`N` counts plus a constant of the cell, the log probability of :math:`N` under a
    Poisson with mean :math:`N` (Grønbech et al. 2020). It differs from :class:`Poisson` in the size factor only, which is
    the total and nothing else: :meth:`log_prob` and :meth:`log_kernel` refuse counts with other totals. A cell without
    counts may have any size. Log means that are given as such, not by :meth:`from_softmax`, are taken as constrained.
    """

    links = ("softmax",)
    needs_total = True
    compiled_terms = staticmethod(Poisson.compiled_terms)

    @classmethod
    def unconstrained(cls) -> type[Poisson]:
        """A Poisson."""
        return Poisson

    def log_prob(self, counts: SparseCounts | torch.Tensor) -> torch.Tensor:
        """Log probability of whole cells, counts ``(b, g)`` to ``(..., b)``.

        Raises
        ------
        ValueError
            If a size factor is not the total of its cell.
        """
        counts = as_sparse_counts(counts)
        self._check_size(counts)
        return super().log_prob(counts)

    def log_kernel(self, counts: SparseCounts) -> torch.Tensor:
        """As :meth:`CountLikelihood.log_kernel`, with the check of :meth:`log_prob`."""
        self._check_size(counts)
        return super().log_kernel(counts)

    def _check_size(self, counts: SparseCounts) -> None:
        if self._log_size is None:
            return
        totals = counts.totals().unsqueeze(1)
        if ((self._log_size - totals.log()).abs() > _TOLERANCE)[..., totals > 0].any():
            msg = "The size factor of a constrained Poisson must be the total count of the cell."
            raise ValueError(msg)
