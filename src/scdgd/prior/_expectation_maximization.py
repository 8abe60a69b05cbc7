"""Expectation maximisation: how Gaussian mixtures are fitted to representations in closed form."""

from __future__ import annotations

import math
from abc import abstractmethod
from itertools import repeat

import torch

from ._covariance import as_posterior_var, trace_product
from ._gaussian_components import GaussianComponents
from ._moments import Moments, collect_moments
from ._placement import random_rows, start_centres

_N_STARTS = 5
_N_EM_STEPS = 20
#: What belongs to so many cells stays in the caches of a core.
_BLOCK_CELLS = 1_000


class ExpectationMaximization(GaussianComponents):
    """The part of :class:`~scdgd.prior.GaussianMixture`, the owner of the parameters, that fits them to cells."""

    @abstractmethod
    def _set_covariance(self, covariance: torch.Tensor, replaced: torch.Tensor | bool = True) -> None:
        """Take over variances ``(..., d)`` or, if dense, matrices ``(..., d, d)``, where `replaced`, ``(k, 1)``."""

    @torch.no_grad()
    def place(
        self,
        z: torch.Tensor,
        *,
        posterior_var: float | torch.Tensor = 0.0,
        seed: int = 0,
        given: torch.Tensor | None = None,
    ) -> None:
        """Put the components where cells are: k-means++ and EM from several starts, the likeliest is kept.

        A mixture that is placed already stays as it is unless a start is likelier. The starts see at most 20,000 random
        cells; a last step of EM sees all.

        Where components belong to classes, those of a class start at the centres of the cells `given` to it, and the others
        among the cells without a label that are far from these (:func:`class_centres`).

        Representations `z` are ``(n, d)``, with spreads `posterior_var` around them as for :meth:`e_step`; `seed` is that of
        the starts.
        """
        posterior_var = as_posterior_var(posterior_var, z, dense=self.is_dense)
        every, rows = (z, posterior_var, given), random_rows(len(z), seed)
        z, posterior_var, given = (value[rows] if torch.is_tensor(value) else value for value in every)
        best, best_log_likelihood = self._copy_state(), self._log_likelihood(z, given) if self.is_placed else -math.inf
        for start in range(_N_STARTS):
            self.means.copy_(start_centres(z, self, given, seed + start))
            self.weight_logits.zero_()
            nearest = torch.cat([torch.cdist(block, self.means).argmin(1) for block in z.split(_BLOCK_CELLS)])
            self._set_covariance(self._spread_within(z - self.means[nearest], posterior_var))
            for _ in range(_N_EM_STEPS):
                self._start_step(z, posterior_var, given)
            log_likelihood = self._log_likelihood(z, given)
            if log_likelihood > best_log_likelihood:
                best, best_log_likelihood = self._copy_state(), log_likelihood
        self.load_state_dict(best)
        self._start_step(*every)
        self.placed.fill_(True)

    def _spread_within(self, deviations: torch.Tensor, posterior_var: float | torch.Tensor) -> torch.Tensor:
        """Variances ``(d,)``, or their mean where dimensions share one; for dense types the covariance ``(1, d, d)``."""
        spread = posterior_var.mean(0) if torch.is_tensor(posterior_var) else posterior_var
        if not self.is_dense:
            within = deviations.square().mean(0) + spread
            return within.mean().expand_as(self.log_var) if self.covariance_type == "spherical" else within
        if not torch.is_tensor(spread) or spread.ndim < 2:
            spread = spread * torch.eye(self.n_latent, dtype=torch.float64, device=deviations.device)
        deviations = deviations.double()
        return (deviations.T @ deviations / len(deviations) + spread).unsqueeze(0)

    def _log_likelihood(self, z: torch.Tensor, given: torch.Tensor | None) -> float:
        known = repeat(None) if given is None else given.split(_BLOCK_CELLS)
        blocks = zip(z.split(_BLOCK_CELLS), known, strict=False)
        return sum(float(self.log_prob(block, part).sum()) for block, part in blocks)

    def _copy_state(self) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in self.state_dict().items()}

    @torch.no_grad()
    def m_step(self, moments: Moments, *, dirichlet_weight: float = 1.0) -> None:
        r"""The M-step of expectation maximisation on representations :math:`q_i = \mathcal N(z_i, S_i)`, in closed form.

        .. math::
            r_{ic} \propto w_c\, \mathcal N_c(z_i)\, e^{-\frac12 \operatorname{tr} \Lambda_c S_i}, \quad
            R_c = \sum_i r_{ic}, \quad m_c = \frac{\sum_i r_{ic} z_i}{R_c}, \quad
            w_c \propto \max\big(R_c + \kappa (\alpha - 1),\, 10^{-6} n\big)

        and, from the scatter :math:`C_c = \sum_i r_{ic} \big[(z_i - m_c)(z_i - m_c)^\top + S_i\big]`, the covariance
        :math:`C_c / R_c`, pooled over whatever the covariance type shares; for ``"full"``

        .. math::
            \Sigma_c = \frac{C_c + \nu\, \bar\Sigma}{R_c + \nu}, \qquad \bar\Sigma = \frac1n \sum_c C_c

        as if each component had :math:`\nu` (`pseudo_count`) cells more with the covariance of all: the mode under an
        inverse-Wishart density of scale :math:`\nu \bar\Sigma`. Without it a component of fewer than ``d`` cells would
        be flat. Variances, or eigenvalues, are at least 1e-6; the floor of the weights keeps their logs finite. A
        component without cells keeps its mean and a covariance of its own. Cells `given` a class are of its components only,
        :math:`r_{ic} = 0` elsewhere. The moments are those of all cells, from
        :meth:`e_step`; the Dirichlet prior is counted `dirichlet_weight` :math:`\kappa` times.
        """
        self._m_step(moments, update_covariance=self.covariance_type != "fixed", dirichlet_weight=dirichlet_weight)

    def _m_step(self, moments: Moments, *, update_covariance: bool, dirichlet_weight: float = 1.0) -> None:
        alive, n = moments.alive.unsqueeze(-1), moments.n_cells
        means = torch.where(alive, moments.first / moments.sizes.unsqueeze(-1), self.means)
        if update_covariance:
            covariance = moments.covariance(means, self.covariance_type, self.pseudo_count)
            self._set_covariance(covariance, replaced=alive if len(covariance) == len(alive) else True)
        self.means.copy_(means)
        weights = (moments.counts + dirichlet_weight * (self.concentration - 1)).clamp(min=1e-6 * n)
        self.weight_logits.copy_((weights / weights.sum()).log())

    def _start_step(self, z: torch.Tensor, posterior_var: float | torch.Tensor, given: torch.Tensor | None) -> None:
        """A step of EM that moves covariances of every type."""
        shape = {"n_components": self.n_components, "dense": self.is_dense}
        moments = collect_moments(z, posterior_var, self._responsibilities_of, given=given, **shape)
        self._m_step(moments, update_covariance=True)

    def _responsibilities_of(
        self, z: torch.Tensor, posterior_var: float | torch.Tensor, given: torch.Tensor | None
    ) -> torch.Tensor:
        precisions = self.precisions if self.is_dense else self._inverse_log_var()
        log_joint = self.component_log_prob(z, given)
        return torch.softmax(log_joint - 0.5 * trace_product(precisions, posterior_var), dim=-1)
