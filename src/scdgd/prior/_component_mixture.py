"""A mixture of Gaussians whose parameters belong to another prior."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cached_property, partial
from typing import Any, NamedTuple

import torch

from ._gaussian_components import GaussianComponents

_LOG_2PI = math.log(2 * math.pi)


class _Components(NamedTuple):
    log_weights: torch.Tensor  # (k,)
    means: torch.Tensor  # (k, d)
    factors: torch.Tensor  # (k, d) or (k, d, d)
    mean_var: torch.Tensor | None  # (k, d) or (k, d, d)


class ComponentMixture(GaussianComponents):
    r"""Mixture of Gaussians with given weights, means and factors of precisions; it owns no parameters.

    .. math::
        p(z) = \sum_c w_c\, \mathcal N\big(z;\, \nu_c,\, \Lambda_c^{-1} + S_c\big), \qquad \Lambda_c = L_c L_c^\top

    where :math:`S_c` is the uncertainty of the mean, :math:`m_c \sim \mathcal N(\nu_c, S_c)`: the *predictive*
    density (Stirn & Knowles 2024). Its factor follows from that of :math:`\Lambda_c` without an inverse,

    .. math::
        (\Lambda_c^{-1} + S_c)^{-1} = F_c F_c^\top, \qquad F_c = L_c C_c^{-\top}, \qquad
        C_c C_c^\top = I + L_c^\top S_c L_c

    with eigenvalues of at least 1 under the root, so that the factorisation cannot fail. It happens once, when a
    density first needs it. An instance lives for one step: it holds tensors, and their graph, as they were given.

    Parameters
    ----------
    log_weights
        Log weights, shape ``(k,)``, normalised.
    means
        :math:`\nu_c`, shape ``(k, d)``.
    factors
        :math:`L_c`: positive diagonals ``(k, d)``, or lower triangular matrices ``(k, d, d)`` with positive diagonals.
    mean_var
        :math:`S_c`: diagonals ``(k, d)``, or matrices ``(k, d, d)``; ``None`` for means that are known.
    hyper_log_prob
        Computes the owner's log densities of its parameters; ``None`` where there are none.
    """

    def __init__(
        self,
        log_weights: torch.Tensor,
        means: torch.Tensor,
        factors: torch.Tensor,
        *,
        mean_var: torch.Tensor | None = None,
        hyper_log_prob: Callable[[], dict[str, torch.Tensor]] | None = None,
    ) -> None:
        super().__init__(*means.shape)
        if mean_var is not None and mean_var.ndim == 3 and factors.ndim == 2:
            factors = torch.diag_embed(factors)
        # in a tuple, the parameters of the owner do not become parameters of this module
        self._components = _Components(log_weights, means, factors, mean_var)
        self._hyper_log_prob = hyper_log_prob

    @property
    def weights(self) -> torch.Tensor:
        """Component weights, shape ``(k,)``."""
        return self._components.log_weights.exp()

    @property
    def component_means(self) -> torch.Tensor:
        r"""Means :math:`\nu_c`, shape ``(k, d)``."""
        return self._components.means

    @property
    def mean_var(self) -> torch.Tensor | None:
        r""":math:`S_c`, the uncertainty of the means, diagonals ``(k, d)`` or ``(k, d, d)``; ``None`` for known means."""
        return self._components.mean_var

    @property
    def precisions(self) -> torch.Tensor:
        r"""Predictive precisions :math:`(\Lambda_c^{-1} + S_c)^{-1}`, shape ``(k, d, d)``."""
        factors, _ = self._predictive
        return torch.diag_embed(factors.square()) if factors.ndim == 2 else factors @ factors.mT

    def hyper_log_prob(self) -> dict[str, torch.Tensor]:
        """Log densities of the owner's parameters, one scalar for each term."""
        return {} if self._hyper_log_prob is None else self._hyper_log_prob()

    def expected_component_log_prob(self, z: torch.Tensor, given: Any = None) -> torch.Tensor:
        r"""Expectation of the joint log density over uncertain means, a lower bound of :meth:`component_log_prob`.

        .. math::
            \log w_c + \tfrac12 \log\Big\lvert\frac{\Lambda_c}{2\pi}\Big\rvert
                - \tfrac12 (z - \nu_c)^\top \Lambda_c (z - \nu_c) - \tfrac12 \operatorname{tr} \Lambda_c S_c

        Parameters
        ----------
        z
            Representations, shape ``(..., d)``.
        given
            As for :meth:`Prior.log_prob`.

        Returns
        -------
        Shape ``(..., k)``, in nats.

        Raises
        ------
        ValueError
            If the last axis of `z` is not ``d``.
        """
        _, _, factors, mean_var = self._components
        if mean_var is None:
            return self.component_log_prob(z, given)
        self._check_shape(z)
        squares = factors.square() if factors.ndim == 2 else factors.square().sum(-1)  # diagonals of precisions, (k, d)
        trace = (
            (squares * mean_var).sum(-1) if mean_var.ndim == 2 else ((factors.mT @ mean_var) * factors.mT).sum((1, 2))
        )
        return self._joint_log_prob(z, factors, self._log_det) - 0.5 * trace

    @cached_property
    def _log_det(self) -> torch.Tensor:
        r"""Log determinants of :math:`L_c`, shape ``(k,)``."""
        return _diagonals(self._components.factors).log().sum(-1)

    @cached_property
    def _predictive(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Factors of predictive precisions and their log determinants."""
        _, _, factors, mean_var = self._components
        if mean_var is None:
            return factors, self._log_det
        if factors.ndim == 2:
            inner = 1 + factors.square() * mean_var
            return factors * inner.rsqrt(), self._log_det - 0.5 * inner.log().sum(-1)
        inner = factors.mT @ (mean_var.unsqueeze(-1) * factors if mean_var.ndim == 2 else mean_var @ factors)
        inner = torch.linalg.cholesky(inner + torch.eye(self.n_latent, dtype=inner.dtype, device=inner.device))
        predictive = torch.linalg.solve_triangular(inner.mT, factors, upper=True, left=False)
        return predictive, self._log_det - _diagonals(inner).log().sum(-1)

    def _component_log_prob(self, z: torch.Tensor) -> torch.Tensor:
        return self._joint_log_prob(z, *self._predictive)

    def _joint_log_prob(self, z: torch.Tensor, factors: torch.Tensor, log_det: torch.Tensor) -> torch.Tensor:
        log_weights, means, _, _ = self._components
        k, d = means.shape
        if factors.ndim == 2:
            whitened = (z.unsqueeze(-2) - means) * factors  # (..., k, d)
        else:
            origins = (means.unsqueeze(-2) @ factors).flatten()
            whitened = z @ factors.transpose(0, 1).reshape(d, k * d) - origins
            whitened = whitened.unflatten(-1, (k, d))
        return log_weights + log_det - 0.5 * (d * _LOG_2PI + whitened.square().sum(-1))

    def _sample_components(self, components: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        _, means, factors, mean_var = self._components
        z = means[components]
        randn = partial(torch.randn, z.shape, generator=generator, device=z.device, dtype=z.dtype)
        if mean_var is not None:
            z = z + _spread(mean_var, components, randn())
        noise = randn()
        if factors.ndim == 2:
            return z + noise / factors[components]
        deviation = torch.zeros_like(noise)
        for c in components.unique():
            rows = components == c
            deviation[rows] = torch.linalg.solve_triangular(factors[c], noise[rows], upper=False, left=False)
        return z + deviation


class PredictiveMixture(ComponentMixture):
    """The same mixture, whose cells are assigned by the predictive density, that of the ELBO."""

    def expected_component_log_prob(self, z: torch.Tensor, given: Any = None) -> torch.Tensor:
        """The joint log density, shape ``(..., k)``."""
        return self.component_log_prob(z, given)


def _spread(mean_var: torch.Tensor, components: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
    """Noise ``(n, d)`` with the covariance of the means of components ``(n,)``."""
    if mean_var.ndim == 2:
        return mean_var[components].sqrt() * noise
    return (torch.linalg.cholesky(mean_var)[components] @ noise.unsqueeze(-1)).squeeze(-1)


def _diagonals(factors: torch.Tensor) -> torch.Tensor:
    return factors if factors.ndim == 2 else factors.diagonal(dim1=-2, dim2=-1)
