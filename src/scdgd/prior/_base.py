"""The contract of a prior over representations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import nn

from scdgd._options import check_positive_integers

if TYPE_CHECKING:
    from ._pseudo_inputs import Encode


class Prior(nn.Module, ABC):
    r"""A mixture density :math:`p(z) = \sum_c w_c\, p_c(z)` over representations :math:`z \in \mathbb{R}^d`.

    A new prior implements :meth:`_component_log_prob` and :meth:`_sample_components`; densities, responsibilities,
    clustering and sampling follow. Hyper-priors on its parameters, if any, go into :meth:`hyper_log_prob`.
    Where components are Gaussian, their :attr:`precisions` give the curvature of the density too.

    Parameters
    ----------
    n_components
        Number of components ``k``.
    n_latent
        Dimension ``d`` of the representations.

    Raises
    ------
    ValueError
        If a size is smaller than 1.

    Attributes
    ----------
    empirical_bayes
        Whether parameters are fitted to draws of :math:`q(z \mid x)` by alternating steps (Stirn & Knowles 2024), not
        by the gradient of the ELBO.
    """

    empirical_bayes: ClassVar[bool] = False

    def __init__(self, n_components: int, n_latent: int) -> None:
        super().__init__()
        check_positive_integers(n_components=n_components, n_latent=n_latent)
        self.n_components, self.n_latent = int(n_components), int(n_latent)

    def given(self, encode: Encode | None = None) -> Prior:
        """Return this prior for the encoder as it is now: itself, unless components are encoded pseudo-inputs.

        Parameters
        ----------
        encode
            Mean and variance, each of shape ``(k, d)``, of the encoder's ``q`` for an :class:`EncoderInput`.
        """
        return self

    def log_prob(self, z: torch.Tensor) -> torch.Tensor:
        r"""Log density of representations, in nats.

        .. math::
            \log p(z) = \log \sum_c e^{\log w_c + \log p_c(z)}

        Parameters
        ----------
        z
            Representations, shape ``(..., d)``.

        Returns
        -------
        Log densities, shape ``(...)``.

        Raises
        ------
        ValueError
            If the last axis of `z` is not ``d``.
        """
        return torch.logsumexp(self.component_log_prob(z), dim=-1)

    def component_log_prob(self, z: torch.Tensor) -> torch.Tensor:
        r"""Joint log density :math:`\log w_c + \log p_c(z)` of representation and component, shape ``(..., k)``."""
        self._check_shape(z)
        return self._component_log_prob(z)

    def expected_component_log_prob(self, z: torch.Tensor) -> torch.Tensor:
        r"""Expectation of :math:`\log w_c + \log p_c(z)` over what is uncertain about a component, shape ``(..., k)``.

        :meth:`component_log_prob` where nothing is.
        """
        return self.component_log_prob(z)

    def _check_shape(self, z: torch.Tensor) -> None:
        if z.shape[-1] != self.n_latent:
            msg = f"Representations must have {self.n_latent} dimensions, got shape {tuple(z.shape)}."
            raise ValueError(msg)

    def responsibilities(self, z: torch.Tensor) -> torch.Tensor:
        r"""Posterior :math:`r_c = p(c \mid z)`, shape ``(..., k)``; in log space, so exact far out in the tails too."""
        return torch.softmax(self.component_log_prob(z), dim=-1)

    def sample(
        self, n: int, component: int | None = None, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw representations.

        Parameters
        ----------
        n
            Number of draws.
        component
            Draw from this component only; ``None`` draws components by their weights.
        generator
            Source of randomness; ``None`` uses torch's global one.

        Returns
        -------
        Representations of shape ``(n, d)`` and their components, shape ``(n,)``.

        Raises
        ------
        ValueError
            If `component` is not one of ``0 ... k-1``.
        """
        if component is None:
            weights = self.weights.expand(self.n_components)
            components = torch.multinomial(weights, n, replacement=True, generator=generator)
        elif component in range(self.n_components):
            components = torch.full((n,), component, device=self.weights.device)
        else:
            msg = f"`component` must be one of 0 ... {self.n_components - 1}, got {component}."
            raise ValueError(msg)
        return self._sample_components(components, generator), components

    def expected_log_prob(self, z: torch.Tensor, mean: torch.Tensor, var: torch.Tensor) -> torch.Tensor:
        r"""Estimate :math:`\mathbb E_q \log p(z)` for :math:`q = \mathcal N(\nu, \operatorname{diag}\varsigma^2)`.

        The density at the draw `z`, unless a prior knows the expectation in closed form.

        Parameters
        ----------
        z
            One draw of each ``q``, shape ``(b, d)``.
        mean, var
            Moments of ``q``, each of shape ``(b, d)``.

        Returns
        -------
        Shape ``(b,)``, in nats.
        """
        return self.log_prob(z)

    def precision(self, z: torch.Tensor) -> torch.Tensor:
        r"""Curvature of the mixture with its responsibilities held, :math:`\sum_c r_c(z)\, \Lambda_c`.

        This is the curvature of EM's bound on :math:`-\log p`: positive definite everywhere, hence safe for steps, where
        :meth:`hessian` need not be.

        Parameters
        ----------
        z
            Representations, shape ``(..., d)``.

        Returns
        -------
        Shape ``(..., d, d)``, in 1 / units of `z` squared.
        """
        return torch.einsum("...c,cij->...ij", self.responsibilities(z), self.precisions)

    def hessian(self, z: torch.Tensor) -> torch.Tensor:
        r"""Exact curvature :math:`-\nabla^2 \log p(z)` of a mixture of Gaussians.

        .. math::
            -\nabla^2 \log p(z) = \sum_c r_c \Lambda_c
                - \sum_c r_c\, (\delta_c - \bar\delta)(\delta_c - \bar\delta)^\top, \qquad
            \delta_c = \Lambda_c (z - m_c), \quad \bar\delta = \sum_c r_c \delta_c

        Indefinite between components. Parameters and result are those of :meth:`precision`.
        """
        r, scores = self.responsibilities(z).unsqueeze(-1), self._component_scores(z)  # (..., k, 1), (..., k, d)
        deviations = scores - (r * scores).sum(-2, keepdim=True)
        return self.precision(z) - (r * deviations).mT @ deviations

    def _component_scores(self, z: torch.Tensor) -> torch.Tensor:
        r"""Negative scores :math:`\Lambda_c (z - m_c)` of the components, ``(..., d)`` to ``(..., k, d)``."""
        return torch.einsum("cij,...cj->...ci", self.precisions, z.unsqueeze(-2) - self.component_means)

    def hyper_log_prob(self) -> dict[str, torch.Tensor]:
        """Log densities of the prior's own parameters, one scalar for each term; empty without hyper-priors."""
        return {}

    @property
    @abstractmethod
    def weights(self) -> torch.Tensor:
        """Component weights, shape ``(k,)``, summing to one."""

    @property
    @abstractmethod
    def component_means(self) -> torch.Tensor:
        """Mean of each component, shape ``(k, d)``."""

    @property
    def precisions(self) -> torch.Tensor:
        r"""Precisions :math:`\Lambda_c` of Gaussian components, shape ``(k, d, d)``."""
        msg = f"{type(self).__name__} has no `precisions`: its curvature is not known in closed form."
        raise NotImplementedError(msg)

    @abstractmethod
    def _component_log_prob(self, z: torch.Tensor) -> torch.Tensor:
        """``(..., d)`` to ``(..., k)``."""

    @abstractmethod
    def _sample_components(self, components: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        """One draw from each of the given components, shape ``(n, d)``."""
