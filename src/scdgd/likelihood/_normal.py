"""Values on a logarithmic scale, with Gaussian noise."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch
from scvi import distributions

from scdgd.data import SparseCounts, as_sparse_counts

from ._base import FamilyParameter, ValueLikelihood, over_genes

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch.distributions import Distribution

#: Of genes that do not vary, where a fit starts.
_LEAST_VARIANCE = 1e-4
_HALF_LOG_TWO_PI = math.log(2 * math.pi) / 2


class Normal(ValueLikelihood):
    r"""Gaussian values, such as log-normalised counts, with mean :math:`m` and standard deviation :math:`\sigma`.

    .. math::
        \ell(x) = -\frac{(x - m)^2}{2\sigma^2} - \log\sigma - \tfrac12 \log 2\pi

    Log densities are those of the values as given: they do not compare with log probabilities of counts.

    Parameters
    ----------
    mean
        Decoder output :math:`m`, shape ``(..., b, g)``.
    log_scale
        Log standard deviation :math:`\log\sigma`, shape ``(g,)`` or that of `mean`.
    """

    own_parameters: ClassVar = {
        "log_scale": FamilyParameter(argument="scale", is_log=True, key="stddev", attribute="stddev")
    }
    can_leave_out_genes = True
    links = ("softmax", "exp", "identity")  # as in scvi-tools, counts may be said to be Gaussian about their means

    def __init__(self, mean: torch.Tensor, log_scale: torch.Tensor) -> None:
        super().__init__(mean, log_scale)

    @classmethod
    def distribution(
        cls, mean: torch.Tensor, scale: torch.Tensor, parameters: Mapping[str, torch.Tensor]
    ) -> Distribution:
        """scvi-tools' own."""
        return distributions.Normal(mean, parameters["scale"], normal_mu=scale, validate_args=False)

    @classmethod
    def parameters_at(
        cls, variance: torch.Tensor | None = None, profile: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Log standard deviations of the values."""
        return {} if variance is None else {"log_scale": variance.clamp(min=_LEAST_VARIANCE).log() / 2}

    def log_prob(self, values: SparseCounts | torch.Tensor) -> torch.Tensor:
        """Log density of whole cells, summed over genes, in nats: values ``(b, g)`` to ``(..., b)``."""
        values = as_sparse_counts(values)
        mean, log_scale = (values.entries_of(t).double() for t in (self.mean, self.log_scale))
        of_entries = _log_density(values.values.double() - mean, log_scale)
        return over_genes(self, values, _log_density(self.mean, self.log_scale), of_entries)

    def score_each(self, values: SparseCounts | torch.Tensor) -> torch.Tensor:
        r"""As :meth:`ValueLikelihood.score_each`, from the square in the density multiplied out."""
        values = as_sparse_counts(values)
        precision = (-2 * self.log_scale).exp().expand_as(self.mean)  # (k, g)
        squares = SparseCounts(values.indptr, values.indices, values.values.square(), values.n_genes)
        constant = self.sum_of_measured(0.5 * precision * self.mean.square() + self.log_scale)
        return values @ (precision * self.mean).T - 0.5 * (squares @ precision.T) - constant

    def information(self) -> torch.Tensor:
        r"""Fisher information in the mean, :math:`1 / \sigma^2`, shape ``(..., b, g)``."""
        return (-2 * self.log_scale).exp().expand_as(self.mean)

    @staticmethod
    def eta_of(mean: torch.Tensor) -> torch.Tensor:
        """The mean itself, shape ``(g,)``."""
        return mean

    @property
    def mean(self) -> torch.Tensor:
        """Expected values, shape ``(..., b, g)``."""
        return self._input

    @property
    def stddev(self) -> torch.Tensor:
        """Standard deviation, shape ``(..., b, g)``."""
        return self.log_scale.exp().expand_as(self._input)

    @property
    def variance(self) -> torch.Tensor:
        """Variance, shape ``(..., b, g)``."""
        return self.stddev.square()

    @property
    def scale(self) -> torch.Tensor:
        """Refused: values on a logarithmic scale have no shares.

        Raises
        ------
        ValueError
            Always.
        """
        msg = "Values with Gaussian noise have no shares in a total: use `get_normalized('mu')`."
        raise ValueError(msg)

    def sample(self, sample_shape: Sequence[int] = ()) -> torch.Tensor:
        """Draws of the values, shape ``(*sample_shape, ..., b, g)``."""
        return torch.normal(*(t.expand(*sample_shape, *self.mean.shape) for t in (self.mean, self.stddev)))


def _log_density(residual: torch.Tensor, log_scale: torch.Tensor) -> torch.Tensor:
    return -0.5 * (residual * (-log_scale).exp()).square() - log_scale - _HALF_LOG_TWO_PI
