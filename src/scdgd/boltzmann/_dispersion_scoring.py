"""Regularised scoring of the dispersions of negative binomial counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from scipy import sparse

from ._negative_binomial_layer import MIN_THETA

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scdgd.data import SparseCounts

    from ._conditions import Conditions
    from ._deep_machine import DeepBoltzmannMachine

_MAX_HALVINGS = 20
_ELEMENTS_TOGETHER = 2**22


def score_and_information(
    counts: torch.Tensor,
    means: torch.Tensor,
    theta: torch.Tensor,
    penalty: float = 0.0,
    size: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""First derivative, and negative second derivative, of :math:`\sum_i \ell(y_i) - \lambda / \theta^2`.

    .. math::
        U &= \sum_i \Big[\Psi(y_i + \theta) - \Psi(\theta) + \log\theta + 1 - \log(\mu_i + \theta)
        - \frac{y_i + \theta}{\mu_i + \theta}\Big] + \frac{2\lambda}{\theta^3} \\
        I &= \sum_i \Big[\Psi'(\theta) - \Psi'(y_i + \theta) - \frac1\theta + \frac{2}{\mu_i + \theta}
        - \frac{y_i + \theta}{(\mu_i + \theta)^2}\Big] + \frac{6\lambda}{\theta^4}

    The information is the observed one. The penalty is subtracted: Treppner et al. 2021 write that it is added, but their
    update is that of subtraction, which discourages small :math:`\theta`.

    With size factors, a cell's dispersion is :math:`s_i \theta` (see :class:`~scdgd.boltzmann.NegativeBinomialLayer`); its terms
    are those above at :math:`s_i \theta`, times :math:`s_i` and :math:`s_i^2`. Arguments have the shapes of
    :func:`fit_dispersion`, :math:`\lambda` the scale of the sum over cells; ``U`` and ``I`` have shapes ``(g,)``.
    """
    s = _column(size, counts)
    r = s * theta
    total, y = means + r, counts + r
    score = torch.digamma(y) - torch.digamma(r) + r.log() + 1 - total.log() - y / total
    information = torch.polygamma(1, r) - torch.polygamma(1, y) - 1 / r + 2 / total - y / total.square()
    return (s * score).sum(0) + 2 * penalty / theta**3, (s**2 * information).sum(0) + 6 * penalty / theta**4


@torch.no_grad()
def fit_dispersion(
    counts: torch.Tensor,
    means: torch.Tensor,
    theta: torch.Tensor | None = None,
    *,
    penalty: float = 0.0,
    n_iterations: int = 20,
    size: torch.Tensor | None = None,
) -> torch.Tensor:
    r"""Penalised maximum likelihood of inverse dispersions by Fisher scoring (Treppner et al. 2021).

    :math:`\theta \leftarrow \max(\theta + U / I, 0.01)`. Where the information is not positive the step is one of
    :math:`\log\theta` uphill, and steps that would lower the objective are halved; the paper does neither.

    Parameters
    ----------
    counts, means
        Counts and means of the same cells, shapes ``(n, g)``.
    theta
        Start, shape ``(g,)``; by moments, :math:`n / \sum_i s_i (y_i / \mu_i - 1)^2`, if not given.
    penalty
        :math:`\lambda \ge 0`.
    n_iterations
        Number of steps.
    size
        Size factors :math:`s_i` of the cells, shape ``(n,)``; ones if not given.

    Returns
    -------
    Inverse dispersions, shape ``(g,)``.
    """
    if theta is None:
        theta = len(counts) / (_column(size, counts) * (counts / means - 1).square()).sum(0)
    theta = theta.clamp(min=MIN_THETA, max=1e6)
    value = _objective(counts, means, theta, penalty, size)
    for _ in range(n_iterations):
        score, information = score_and_information(counts, means, theta, penalty, size)
        uphill = theta * torch.where(score > 0, 2.0, 0.5)
        proposal = torch.where(information > 0, theta + score / information, uphill)
        proposal = proposal.clamp(min=theta / 10, max=theta * 10).clamp(min=MIN_THETA, max=1e6)
        for _ in range(_MAX_HALVINGS):
            new_value = _objective(counts, means, proposal, penalty, size)
            worse = new_value < value
            if not worse.any():
                break
            proposal = torch.where(worse, (theta * proposal).sqrt(), proposal)
        better = new_value >= value
        theta, value = torch.where(better, proposal, theta), torch.where(better, new_value, value)
    return theta


@torch.no_grad()
def score_dispersions(
    module: DeepBoltzmannMachine,
    minibatches: Iterable[tuple[SparseCounts, Conditions, torch.Tensor]],
    *,
    penalty: float,
    n_iterations: int,
) -> None:
    """Set dispersions by :func:`~scdgd.boltzmann.fit_dispersion`, with means at the probabilities of each cell's own first layer.

    Minibatches are counts, conditions and probabilities ``(n, H_1)`` of all cells.
    """
    counts, first, batches, sizes = [], [], [], []
    for v, given, q in minibatches:
        counts.append(v.to_scipy())
        first.append(q)
        batches.append(given.batch)
        sizes.append(given.size)
    counts, first, batches = sparse.vstack(counts).tocsc(), torch.cat(first), torch.cat(batches)
    size, theta, fitted = torch.cat(sizes), module.visible.theta, []
    for genes in torch.arange(counts.shape[1]).split(max(1, _ELEMENTS_TOGETHER // len(first))):
        some = slice(int(genes[0]), int(genes[-1]) + 1)
        natural = module.visible.bias[batches, some] + first @ module.weights[0][some].T
        means = size.unsqueeze(1) * theta[some] / torch.expm1(-natural.clamp(max=-1e-6))
        y = torch.as_tensor(counts[:, some].toarray()).to(means)
        options = {"penalty": penalty, "n_iterations": n_iterations, "size": size.double()}
        fitted.append(fit_dispersion(y.double(), means.double(), theta[some].double(), **options))
    module.visible.set_theta(torch.cat(fitted).to(theta))


def _objective(
    counts: torch.Tensor, means: torch.Tensor, theta: torch.Tensor, penalty: float, size: torch.Tensor | None
) -> torch.Tensor:
    """Penalised log-likelihood without terms free of theta, shape ``(g,)``."""
    r = _column(size, counts) * theta
    terms = torch.lgamma(counts + r) - torch.lgamma(r) + r * r.log()
    return (terms - (counts + r) * (means + r).log()).sum(0) - penalty / theta.square()


def _column(size: torch.Tensor | None, counts: torch.Tensor) -> torch.Tensor:
    return counts.new_ones(len(counts), 1) if size is None else size.unsqueeze(1)
