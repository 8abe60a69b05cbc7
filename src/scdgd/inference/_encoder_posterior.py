"""Posteriors of models with an encoder, whose Gaussian is where the search for a better one starts."""

from __future__ import annotations

import math
from copy import copy
from typing import TYPE_CHECKING

import torch
from scvi.distributions import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial

from scdgd.likelihood import ConstrainedPoisson, Likelihood, ZeroInflatedPoisson
from scdgd.likelihood._cells import log_prob_of_cells
from scdgd.likelihood.distributions import CountDistribution

from ._gauss_newton import GaussNewtonConfig, climb
from ._importance import ImportanceSamples, weighted_draws
from ._joint_density import frozen
from ._laplace import LaplacePosterior
from ._refinement import natural_gradient_steps

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch.distributions import Distribution, Normal

#: Fisher scoring: a curvature of all genes, computed anew after every step.
SCORING = GaussNewtonConfig(
    max_steps=10, tolerance=0.1, n_refreshes=None, secant=False, damping=0.01, damping_factors=(0.1, 10.0)
)
#: Added to means before their logs, as scvi-tools does.
_TINY = 1e-8
#: Of the slopes of a distribution, in memory at once.
_MAX_ELEMENTS = 2**24
_LOG_2PI = math.log(2 * math.pi)
#: A constrained Poisson's means sum to a constant: what its information lacks of a Poisson's, its slopes do not have.
_POISSON = (Poisson, CountDistribution.of(ConstrainedPoisson))
_ZERO_INFLATED_POISSON = CountDistribution.of(ZeroInflatedPoisson)
_ZERO_INFLATED = (ZeroInflatedNegativeBinomial, _ZERO_INFLATED_POISSON)
_KNOWN = (NegativeBinomial, *_POISSON, *_ZERO_INFLATED)


def log_standard_normal(z: torch.Tensor) -> torch.Tensor:
    r"""Log density of :math:`\mathcal N(0, I)` at ``(..., d)``, shape ``(...)``, in nats."""
    return -0.5 * (z.square().sum(-1) + z.shape[-1] * _LOG_2PI)


def encoder_samples(
    module: torch.nn.Module,
    decode: Callable[[torch.Tensor], Distribution],
    x: torch.Tensor,
    qz: Normal,
    n_samples: int,
    log_prior: Callable[[torch.Tensor], torch.Tensor] = log_standard_normal,
    measured: torch.Tensor | None = None,
) -> ImportanceSamples:
    r"""Weighted draws of the posteriors of a model with an encoder, which need not be a good one.

    An encoder's normal has independent dimensions and is off by what amortisation costs, so that in 20 dimensions a few
    of its draws carry all weight. It is only where damped Fisher scoring on

    .. math::
        J(z) = -\log p(x \mid z) - \log p(z)

    starts; the Gaussian that is found is refined (:func:`natural_gradient_steps`) and sampled (:func:`weighted_draws`)
    as for models without an encoder. The curvature is the Fisher information of the counts from all genes
    (:func:`fisher_of_counts`), plus that of the prior, its negative Hessian with eigenvalues in absolute value.

    Parameters
    ----------
    module
        What decodes, left as it is.
    decode
        Law of the counts, ``(b, g)``, at representations ``(b, d)``: a negative binomial, zero-inflated or not, or a
        Poisson of :mod:`scvi.distributions`. Rows must not depend on each other.
    x
        Counts, shape ``(b, g)``.
    qz
        The encoder's normals, shape ``(b, d)``.
    n_samples
        Number of draws ``s`` of each cell, rounded up to an even number.
    log_prior
        Log density of the prior at ``(..., d)``, shape ``(...)``, twice differentiable; the standard normal's by default.
    measured
        Genes that were measured, shape ``(b, g)``, bool; ``None`` for all. The others take no part.

    Returns
    -------
    The draws and their weights, with the exact joint density.
    """
    with frozen(module):
        density = DecodedDensity(decode, x, log_prior, measured)
        posterior = fisher_scoring(density, qz.loc.clone(), qz.scale)
        proposal = natural_gradient_steps(posterior, lambda z: density.value_and_gradient(z)[1], density.curvature)
        return weighted_draws(proposal, density.log_joint, n_samples)


class DecodedDensity:
    """Negative log joint density of cells with counts `x` ``(b, g)``, see :func:`encoder_samples`.

    Indexing gives some of the cells; the whole minibatch is decoded for them, because `decode` takes no other.
    """

    def __init__(
        self,
        decode: Callable[[torch.Tensor], Distribution],
        x: torch.Tensor,
        log_prior: Callable[[torch.Tensor], torch.Tensor],
        measured: torch.Tensor | None = None,
        *,
        takes_draws: bool = False,
    ) -> None:
        self.decode, self.x, self.log_prior, self.measured = decode, x, log_prior, measured
        self.takes_draws = takes_draws
        self.cells = torch.arange(len(x), device=x.device)

    def __getitem__(self, rows: torch.Tensor) -> DecodedDensity:
        part = copy(self)
        part.cells = self.cells[rows]
        return part

    def log_joint(self, z: torch.Tensor) -> torch.Tensor:
        """Log joint densities of these cells at ``(s, b, d)``, shape ``(s, b)``."""
        return torch.stack([self._log_joint(self._among_all(one))[self.cells] for one in z]).to(z.dtype)

    def _log_joint(self, z: torch.Tensor) -> torch.Tensor:
        log_prob = log_prob_of_cells(self.decode(z), self.x, self.measured, torch.float64)
        return log_prob + self.log_prior(z)

    def _among_all(self, z: torch.Tensor) -> torch.Tensor:
        """Representations of the minibatch, with those of these cells."""
        return z.detach().new_zeros(len(self.x), z.shape[1]).index_copy(0, self.cells, z.detach())

    def value_and_gradient(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute :math:`J`, shape ``(b,)``, and its gradient, shape ``(b, d)``."""
        with torch.enable_grad():
            leaf = self._among_all(z).requires_grad_()
            value = -self._log_joint(leaf)
            (gradient,) = torch.autograd.grad(value.sum(), leaf)
        return value.detach()[self.cells], gradient[self.cells]

    def curvature(self, z: torch.Tensor) -> torch.Tensor:
        """Fisher information of the counts plus the curvature of the prior, shape ``(b, d, d)``."""
        with torch.enable_grad():
            leaf = self._among_all(z).requires_grad_()
            (gradient,) = torch.autograd.grad(self.log_prior(leaf).sum(), leaf, create_graph=True)
            rows = [torch.autograd.grad(column.sum(), leaf, retain_graph=True)[0] for column in gradient.unbind(1)]
        values, vectors = torch.linalg.eigh(torch.stack(rows, dim=1))
        of_counts = fisher_of_counts(self.decode, leaf.detach(), self.measured, takes_draws=self.takes_draws)
        return (of_counts + (vectors * values.abs().unsqueeze(1)) @ vectors.mT)[self.cells]

    first_curvature = curvature


def fisher_scoring(
    density: DecodedDensity, z: torch.Tensor, scale: torch.Tensor, config: GaussNewtonConfig = SCORING
) -> LaplacePosterior:
    """Laplace approximation near `z` ``(b, d)``; the precision is that of `scale` ``(b, d)`` where there is no other."""
    found = climb(density, z, config)
    cholesky, failed = torch.linalg.cholesky_ex(density.curvature(found.z))
    cholesky = torch.where((failed == 0)[:, None, None], cholesky, torch.diag_embed(1 / scale))
    return LaplacePosterior(found.z, cholesky, found.neg_log_joint, failed > 0)


def fisher_of_counts(
    decode: Callable[[torch.Tensor], Distribution],
    z: torch.Tensor,
    measured: torch.Tensor | None = None,
    *,
    takes_draws: bool = False,
) -> torch.Tensor:
    r"""Fisher information :math:`J^\top I J` of the counts about representations ``(b, d)``, shape ``(b, d, d)``.

    With :math:`w = \mu\theta/(\mu + \theta)` and :math:`p_0 = (1 + \mu/\theta)^{-\theta}` a negative binomial, with
    :math:`w = \mu` and :math:`p_0 = e^{-\mu}` a Poisson, has :math:`I = w` in :math:`\log\mu`, and a zero-inflated one,
    in :math:`\log\mu` and the logit of :math:`\pi`, with :math:`P_0 = \pi + (1 - \pi) p_0`,

    .. math::
        I = \frac{1 - \pi}{P_0} \begin{pmatrix}
        w\,(P_0 - \pi p_0 w) & -\pi p_0 w \\ -\pi p_0 w & \pi^2 (1 - p_0)
        \end{pmatrix}

    Other likelihoods of :mod:`scdgd.likelihood` give their :math:`I` in :math:`\eta`; of those that do not, it is
    :math:`1 / \mathrm{Var}\,x` in the mean, which the information is not less than. Only `measured` genes ``(b, g)`` count.
    The Jacobian takes a forward-mode product for each of the ``d`` directions; several at once where `decode` takes several
    representations of a cell, ``(m, b, d)``, which scvi-tools' modules do not always.
    """
    root = _information_root(decode(z))
    root = root if measured is None else root * measured
    columns = []
    for directions in torch.eye(z.shape[1], dtype=z.dtype, device=z.device).split(
        _n_together(root) if takes_draws else 1
    ):
        tangents = directions.unsqueeze(1).repeat(1, len(z), 1)  # (m, b, d)
        tangents = tangents if takes_draws else tangents[0]
        _, slope = torch.func.jvp(lambda z: _parameters(decode(z)), (z.expand_as(tangents).clone(),), (tangents,))
        slope = slope if takes_draws else slope.unsqueeze(1)  # (p, m, b, g)
        weighted = (root.unsqueeze(2) * slope).sum(1)  # (p, m, b, g)
        columns.append(weighted.permute(2, 1, 0, 3).flatten(2))  # (b, m, p * g)
    jacobian = torch.cat(columns, dim=1)
    return jacobian @ jacobian.mT


def _n_together(root: torch.Tensor) -> int:
    """Directions in which slopes ``(p, b, g)`` are held together, from a root ``(p, p, b, g)``."""
    return max(1, _MAX_ELEMENTS // root[0].numel())


def _parameters(px: Distribution) -> torch.Tensor:
    r""":math:`\log\mu` and, if counts are zero-inflated, the logit of :math:`\pi`, or as there is: shape ``(p, b, g)``."""
    if not isinstance(px, _KNOWN):
        px = _whole_cells(px)
        return (px.eta if isinstance(px, Likelihood) else px.mean).unsqueeze(0)
    if isinstance(px, _ZERO_INFLATED):
        return torch.stack([(px.mu + _TINY).log(), px.zi_logits])
    return (px.mean + _TINY).log().unsqueeze(0)


def _information_root(px: Distribution) -> torch.Tensor:
    r""":math:`L^\top` of :math:`I = L L^\top` for every count, shape ``(p, p, b, g)``, see :func:`fisher_of_counts`."""
    if not isinstance(px, _KNOWN):
        px = _whole_cells(px)
        information = px.information() if isinstance(px, Likelihood) else 1 / px.variance.clamp(min=_TINY)
        return information.sqrt()[None, None]
    if isinstance(px, _POISSON):
        return px.mean.sqrt()[None, None]
    if isinstance(px, _ZERO_INFLATED_POISSON):
        w, p_0 = px.mu, (-px.mu).exp()
    else:
        w, p_0 = px.mu / (1 + px.mu / px.theta), (-px.theta * torch.log1p(px.mu / px.theta)).exp()
    if not isinstance(px, _ZERO_INFLATED):
        return w.sqrt()[None, None]
    pi = torch.sigmoid(px.zi_logits)
    of_zero = pi + (1 - pi) * p_0
    share = (1 - pi) / of_zero
    mean_mean, mean_logit = share * w * (of_zero - pi * p_0 * w), -share * pi * p_0 * w
    first = mean_mean.clamp(min=_TINY).sqrt()
    second = mean_logit / first
    third = (share * pi.square() * (1 - p_0) - second.square()).clamp(min=0).sqrt()
    return torch.stack([torch.stack([first, second]), torch.stack([torch.zeros_like(third), third])])


def _whole_cells(px: Distribution) -> Distribution | Likelihood:
    """The likelihood of which single counts are given, where there is one."""
    return px.likelihood if isinstance(px, CountDistribution) else px
