"""Poisson counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from scvi import distributions

from scdgd.data import as_sparse_counts

from ._base import CountLikelihood
from ._bounds import MAX_LOG_MEAN
from ._linear_in_counts import LinearInCounts
from ._negative_binomial import _log_factorial
from ._terms import Terms, Wanted

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import ModuleType

    from torch.distributions import Distribution

    from scdgd.data import SparseCounts


class Poisson(LinearInCounts, CountLikelihood):
    r"""Poisson with mean :math:`\mu`.

    .. math::
        \ell(0) = -\mu, \qquad \ell(x) = x \log\mu - \mu - \log x!, \qquad
        \frac{\partial\ell}{\partial\log\mu} = x - \mu

    Nothing is a product of probabilities: the zeros of a cell contribute :math:`-\sum_j \mu_j`, however large that is.

    Parameters
    ----------
    log_mean
        Log of the expected counts, shape ``(..., b, g)``.
    """

    can_be_split = True

    def __init__(self, log_mean: torch.Tensor) -> None:
        super().__init__(log_mean)

    @classmethod
    def distribution(
        cls, mean: torch.Tensor, scale: torch.Tensor, parameters: Mapping[str, torch.Tensor]
    ) -> Distribution:
        """scvi-tools' own."""
        return distributions.Poisson(rate=mean, scale=scale, validate_args=False)

    @property
    def rate(self) -> torch.Tensor:
        """The mean, under the name that scvi-tools gives it."""
        return self.mu

    @staticmethod
    def compiled_terms() -> ModuleType:
        """Compiled terms, by numba."""
        from . import _compiled_poisson

        return _compiled_poisson

    @staticmethod
    def constant_terms(x: torch.Tensor, parameters: Sequence[torch.Tensor]) -> torch.Tensor:
        r"""Compute :math:`-\log x!`."""
        return -_log_factorial(x)

    @staticmethod
    def zero_terms(mean: torch.Tensor, parameters: Sequence[torch.Tensor], wanted: Wanted) -> Terms:
        """See the class."""
        return Terms(-mean, -mean if wanted.d_log_mean or wanted.d_parameters else None)

    @staticmethod
    def nonzero_terms(
        x: torch.Tensor, log_mean: torch.Tensor, parameters: Sequence[torch.Tensor], wanted: Wanted
    ) -> Terms:
        """See the class."""
        mean = log_mean.clamp(max=MAX_LOG_MEAN).exp()
        value = x * log_mean - mean
        if wanted.constants:
            value -= _log_factorial(x)
        return Terms(value, x - mean if wanted.d_log_mean or wanted.d_parameters else None)

    def score_each(self, counts: SparseCounts | torch.Tensor) -> torch.Tensor:
        r"""Score cells ``(b, g)`` under parameters ``(k, g)``, up to :math:`\log x!`: ``(b, k)``, in nats."""
        return as_sparse_counts(counts) @ self.natural_parameter.T.contiguous() + self.sum_of_measured(
            self.log_zero_probability
        )

    @property
    def natural_parameter(self) -> torch.Tensor:
        r"""What a log probability gains with each count, :math:`\log\mu`, shape ``(..., b, g)``."""
        return self.log_mean

    def information(self) -> torch.Tensor:
        r"""Fisher information in the log mean, :math:`\mu`, shape ``(..., b, g)``."""
        return self.mu

    @property
    def variance(self) -> torch.Tensor:
        r"""The mean :math:`\mu`, shape ``(..., b, g)``."""
        return self.mu

    def sample(self, sample_shape: Sequence[int] = ()) -> torch.Tensor:
        """Draws of the counts, shape ``(*sample_shape, ..., b, g)``."""
        return torch.poisson(self.mu.expand(*sample_shape, *self.mu.shape))
