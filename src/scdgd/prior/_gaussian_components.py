"""Mixtures whose components are Gaussian, so that their curvature is known."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

import torch

from ._base import Prior


class GaussianComponents(Prior):
    r"""A prior whose components are Gaussians :math:`\mathcal N(m_c, \Lambda_c^{-1})`.

    With :attr:`component_means` and :attr:`precisions` it knows the curvature of its density in closed form.

    Parameters
    ----------
    n_components, n_latent
        As for :class:`Prior`.
    """

    @property
    @abstractmethod
    def precisions(self) -> torch.Tensor:
        r"""Precisions :math:`\Lambda_c`, shape ``(k, d, d)``."""

    def precision(self, z: torch.Tensor, given: Any = None) -> torch.Tensor:
        r"""Curvature of the mixture with its responsibilities held, :math:`\sum_c r_c(z)\, \Lambda_c`.

        This is the curvature of EM's bound on :math:`-\log p`: positive definite everywhere, hence safe for steps, where
        :meth:`hessian` need not be.

        Parameters
        ----------
        z
            Representations, shape ``(..., d)``.
        given
            As for :meth:`Prior.log_prob`.

        Returns
        -------
        Shape ``(..., d, d)``, in 1 / units of `z` squared.
        """
        return torch.einsum("...c,cij->...ij", self.responsibilities(z, given), self.precisions)

    def hessian(self, z: torch.Tensor, given: Any = None) -> torch.Tensor:
        r"""Exact curvature :math:`-\nabla^2 \log p(z)`.

        .. math::
            -\nabla^2 \log p(z) = \sum_c r_c \Lambda_c
                - \sum_c r_c\, (\delta_c - \bar\delta)(\delta_c - \bar\delta)^\top, \qquad
            \delta_c = \Lambda_c (z - m_c), \quad \bar\delta = \sum_c r_c \delta_c

        Indefinite between components. Parameters and result are those of :meth:`precision`.
        """
        r, scores = self.responsibilities(z, given).unsqueeze(-1), self._component_scores(z)  # (..., k, 1), (..., k, d)
        deviations = scores - (r * scores).sum(-2, keepdim=True)
        return self.precision(z, given) - (r * deviations).mT @ deviations

    def _component_scores(self, z: torch.Tensor) -> torch.Tensor:
        r"""Negative scores :math:`\Lambda_c (z - m_c)` of the components, ``(..., d)`` to ``(..., k, d)``."""
        return torch.einsum("cij,...cj->...ci", self.precisions, z.unsqueeze(-2) - self.component_means)
