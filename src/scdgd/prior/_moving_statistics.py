"""Moving averages of what an M-step needs to know of the cells."""

from __future__ import annotations

import torch
from torch import nn


class MovingStatistics(nn.Module):
    r"""Averages per cell of responsibilities and moments, exponentially weighted over minibatches.

    .. math::
        \bar s_t = (1 - \rho)\, \bar s_{t-1} + \frac\rho b \sum_{i \in \mathcal B_t} s_i, \qquad
        s_i = \big(r_{ic},\ r_{ic} z_i,\ r_{ic} z_i z_i^\top\big)_c

    divided, as in Adam, by :math:`1 - (1 - \rho)^t`, so that all minibatches seen have a weight of one together. They are
    not available before :math:`1/\rho` minibatches: an M-step on one alone would fit that minibatch. Held in double,
    because scatter is a difference of second moments and squared means.

    Parameters
    ----------
    n_components, n_latent
        Numbers ``k`` of components and ``d`` of dimensions.
    rate
        Weight :math:`\rho` of one minibatch, at most 1/2; :math:`1/\rho` minibatches are remembered.
    dense
        Whether second moments are matrices, not their diagonals.

    Raises
    ------
    ValueError
        If `rate` is out of range.
    """

    def __init__(self, n_components: int, n_latent: int, *, rate: float = 0.05, dense: bool = True) -> None:
        super().__init__()
        if not 0 < rate <= 0.5:
            msg = f"`rate` must be above 0 and at most 0.5, got {rate}."
            raise ValueError(msg)
        k, d = n_components, n_latent
        self.rate, self.dense = rate, dense
        self.register_buffer("n_updates", torch.tensor(0))
        for name, shape in (("_counts", (k,)), ("_first", (k, d)), ("_second", (k, d, d) if dense else (k, d))):
            self.register_buffer(name, torch.zeros(shape, dtype=torch.float64))

    @torch.no_grad()
    def update(self, z: torch.Tensor, responsibilities: torch.Tensor) -> None:
        """Add a minibatch.

        Parameters
        ----------
        z
            Representations, shape ``(b, d)``.
        responsibilities
            Their responsibilities, shape ``(b, k)``.
        """
        z, r = z.double(), responsibilities.double() / len(z)
        squares = (z.unsqueeze(-1) * z.unsqueeze(-2)).flatten(1) if self.dense else z.square()  # (b, d d) or (b, d)
        self._counts.lerp_(r.sum(0), self.rate)
        self._first.lerp_(r.T @ z, self.rate)
        self._second.lerp_((r.T @ squares).view_as(self._second), self.rate)
        self.n_updates += 1

    @property
    def is_ready(self) -> bool:
        r"""Whether :math:`1/\rho` minibatches were seen and averages are available."""
        return self.n_updates.item() >= round(1 / self.rate)

    @property
    def counts(self) -> torch.Tensor:
        """Mean responsibilities, shape ``(k,)``, summing to one; double."""
        return self._counts / self._weight

    @property
    def first(self) -> torch.Tensor:
        r"""Means of :math:`r_{ic} z_i`, shape ``(k, d)``."""
        return self._first / self._weight

    @property
    def _weight(self) -> float:
        if not self.is_ready:
            n, needed = self.n_updates.item(), round(1 / self.rate)
            msg = f"Averages over {n} minibatches are not for an M-step yet: a rate of {self.rate} asks for {needed}."
            raise RuntimeError(msg)
        return 1 - (1 - self.rate) ** self.n_updates.item()

    def scatter(self, means: torch.Tensor) -> torch.Tensor:
        r"""Means of :math:`r_{ic} (z_i - m_c)(z_i - m_c)^\top`, shape ``(k, d, d)``, or their diagonals, ``(k, d)``.

        Parameters
        ----------
        means
            Any points :math:`m_c`, shape ``(k, d)``.
        """
        means = means.double()
        second, first = self._second / self._weight, self.first
        if not self.dense:
            counts = self.counts.unsqueeze(-1)
            return (second - 2 * means * first + counts * means.square()).clamp(min=0)
        cross, counts = means.unsqueeze(-1) * first.unsqueeze(-2), self.counts[:, None, None]
        return second - cross - cross.mT + counts * means.unsqueeze(-1) * means.unsqueeze(-2)
