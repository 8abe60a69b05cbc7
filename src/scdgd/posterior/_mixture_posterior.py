"""Posterior of a model with a discrete and a continuous latent variable, the discrete one summed out."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.distributions import Categorical, Distribution, Independent, MixtureSameFamily, Normal, constraints

if TYPE_CHECKING:
    from collections.abc import Sequence


class MixturePosterior(Distribution):
    r"""Posterior :math:`q(z \mid x) = \sum_c q(c \mid x)\, q(z \mid x, c)` of ``b`` cells, a mixture of Gaussians.

    .. math::
        \mathbb E z = \sum_c q_c \mu_c, \qquad \mathrm{Var}\, z = \sum_c q_c (\sigma_c^2 + \mu_c^2) - (\mathbb E z)^2

    It stands where scvi-tools expects a diagonal Gaussian of batch shape ``(b, d)``: :attr:`loc` and :attr:`scale` are
    its moments, and :meth:`log_prob` summed over the last axis is its log density. Dimensions are not independent:
    closed forms for Gaussians (entropy, divergences, quantiles) raise ``NotImplementedError``.

    Parameters
    ----------
    log_weights
        Logs of :math:`q(c \mid x)`, shape ``(m, b)``.
    components
        Gaussians :math:`q(z \mid x, c)`, batch shape ``(m, b, d)``.
    """

    arg_constraints = {}
    support = constraints.real_vector

    def __init__(self, log_weights: torch.Tensor, components: Normal) -> None:
        self.log_weights, self.components = log_weights, components
        self._mixture = MixtureSameFamily(
            Categorical(logits=log_weights.T, validate_args=False),
            Independent(Normal(*(p.transpose(0, 1) for p in (components.loc, components.scale))), 1),
            validate_args=False,
        )
        super().__init__(components.batch_shape[1:], validate_args=False)

    def sample(self, sample_shape: Sequence[int] = torch.Size()) -> torch.Tensor:
        """Draws, shape ``(*sample_shape, b, d)``; not differentiable in the weights, and so not at all."""
        return self._mixture.sample(torch.Size(sample_shape))

    def log_prob(self, value: torch.Tensor) -> torch.Tensor:
        """Joint log density of all dimensions of ``(*s, b, d)``, in nats, as ``(*s, b, 1)``."""
        return self._mixture.log_prob(value).unsqueeze(-1)

    @property
    def mean(self) -> torch.Tensor:
        """Mean, shape ``(b, d)``."""
        return self._mixture.mean

    @property
    def variance(self) -> torch.Tensor:
        """Variance of each dimension, shape ``(b, d)``."""
        return self._mixture.variance

    @property
    def loc(self) -> torch.Tensor:
        """As :attr:`mean`."""
        return self.mean

    @property
    def scale(self) -> torch.Tensor:
        """Standard deviation of each dimension, shape ``(b, d)``."""
        return self.variance.sqrt()
