"""The mixture of VaDE."""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from ._covariance import diagonal_of, trace_product
from ._gaussian_mixture import GaussianMixture


class VaDEMixture(GaussianMixture):
    r"""Gaussian mixture trained jointly with an encoder by the ELBO of VaDE (Jiang et al. 2017).

    Without priors of its parameters, and not by alternating steps. For everything else see :class:`GaussianMixture`.
    """

    updates: ClassVar[tuple[str, ...]] = ("gradient", "em")
    lr_ratio: ClassVar[float] = 1.0

    def expected_log_prob(
        self, z: torch.Tensor, mean: torch.Tensor, var: torch.Tensor, given: Any = None
    ) -> torch.Tensor:
        r"""VaDE's lower bound of :math:`\mathbb E_q \log p(z)` for :math:`q = \mathcal N(\nu, \operatorname{diag}\varsigma^2)`.

        .. math::
            \sum_c \gamma_c \big(\mathbb E_q[\log w_c \mathcal N_c(z)] - \log\gamma_c\big), \qquad
            \mathbb E_q \log \mathcal N_c(z) = \log \mathcal N_c(\nu)
                - \tfrac12 \operatorname{tr} \Lambda_c \operatorname{diag}\varsigma^2

        with :math:`\gamma_c = p(c \mid z)` at the draw `z`. With the entropy of ``q`` it is
        :math:`-\sum_c \gamma_c [\mathrm{KL}(q \Vert \mathcal N_c) + \log\gamma_c - \log w_c]`.

        Parameters
        ----------
        z
            One draw of each ``q``, shape ``(b, d)``.
        mean, var
            Moments of ``q``, each of shape ``(b, d)``; or covariances ``(b, d, d)``.
        given
            As for :meth:`Prior.log_prob`.

        Returns
        -------
        Shape ``(b,)``, in nats.
        """
        log_gamma = torch.log_softmax(self.component_log_prob(z, given), dim=-1)
        precisions = self.precisions if self.is_dense else self._inverse_log_var()
        spread = var if self.is_dense else diagonal_of(var, mean)
        expected = self.component_log_prob(mean, given) - 0.5 * trace_product(precisions, spread)
        terms = (expected - log_gamma).masked_fill(log_gamma.isneginf(), 0)  # components that are not of a cell's class
        return (log_gamma.exp() * terms).sum(-1)

    def hyper_log_prob(self) -> dict[str, torch.Tensor]:
        """Empty: parameters have no prior."""
        return {}
