"""Regularised scoring of the dispersions of negative binomial counts."""

from __future__ import annotations

import torch

from ._negative_binomial_layer import MIN_THETA

_MAX_HALVINGS = 20


def score_and_information(
    counts: torch.Tensor, means: torch.Tensor, theta: torch.Tensor, penalty: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""First derivative, and negative second derivative, of :math:`\sum_i \ell(y_i) - \lambda / \theta^2`.

    .. math::
        U &= \sum_i \Big[\Psi(y_i + \theta) - \Psi(\theta) + \log\theta + 1 - \log(\mu_i + \theta)
        - \frac{y_i + \theta}{\mu_i + \theta}\Big] + \frac{2\lambda}{\theta^3} \\
        I &= \sum_i \Big[\Psi'(\theta) - \Psi'(y_i + \theta) - \frac1\theta + \frac{2}{\mu_i + \theta}
        - \frac{y_i + \theta}{(\mu_i + \theta)^2}\Big] + \frac{6\lambda}{\theta^4}

    The information is the observed one. The penalty is subtracted: Treppner et al. 2021 write that it is added, but their
    update is that of subtraction, which discourages small :math:`\theta`.

    Parameters
    ----------
    counts, means
        Counts and means of the same cells, shapes ``(n, g)``.
    theta
        Inverse dispersions, shape ``(g,)``.
    penalty
        :math:`\lambda`, on the scale of the sum over cells.

    Returns
    -------
    ``U`` and ``I``, shapes ``(g,)``.
    """
    total, y = means + theta, counts + theta
    score = torch.digamma(y) - torch.digamma(theta) + theta.log() + 1 - total.log() - y / total
    information = torch.polygamma(1, theta) - torch.polygamma(1, y) - 1 / theta + 2 / total - y / total.square()
    return score.sum(0) + 2 * penalty / theta**3, information.sum(0) + 6 * penalty / theta**4


@torch.no_grad()
def fit_dispersion(
    counts: torch.Tensor,
    means: torch.Tensor,
    theta: torch.Tensor | None = None,
    *,
    penalty: float = 0.0,
    n_iterations: int = 20,
) -> torch.Tensor:
    r"""Penalised maximum likelihood of inverse dispersions by Fisher scoring (Treppner et al. 2021).

    :math:`\theta \leftarrow \max(\theta + U / I, 0.01)`. Where the information is not positive the step is one of
    :math:`\log\theta` uphill, and steps that would lower the objective are halved; the paper does neither.

    Parameters
    ----------
    counts, means
        Counts and means of the same cells, shapes ``(n, g)``.
    theta
        Start, shape ``(g,)``; by moments, :math:`n / \sum_i (y_i / \mu_i - 1)^2`, if not given.
    penalty
        :math:`\lambda \ge 0`.
    n_iterations
        Number of steps.

    Returns
    -------
    Inverse dispersions, shape ``(g,)``.
    """
    if theta is None:
        theta = len(counts) / (counts / means - 1).square().sum(0)
    theta = theta.clamp(min=MIN_THETA, max=1e6)
    value = _objective(counts, means, theta, penalty)
    for _ in range(n_iterations):
        score, information = score_and_information(counts, means, theta, penalty)
        uphill = theta * torch.where(score > 0, 2.0, 0.5)
        proposal = torch.where(information > 0, theta + score / information, uphill)
        proposal = proposal.clamp(min=theta / 10, max=theta * 10).clamp(min=MIN_THETA, max=1e6)
        for _ in range(_MAX_HALVINGS):
            new_value = _objective(counts, means, proposal, penalty)
            worse = new_value < value
            if not worse.any():
                break
            proposal = torch.where(worse, (theta * proposal).sqrt(), proposal)
        better = new_value >= value
        theta, value = torch.where(better, proposal, theta), torch.where(better, new_value, value)
    return theta


def _objective(counts: torch.Tensor, means: torch.Tensor, theta: torch.Tensor, penalty: float) -> torch.Tensor:
    """Penalised log-likelihood without terms free of theta, shape ``(g,)``."""
    terms = torch.lgamma(counts + theta) - torch.lgamma(theta) + theta * theta.log()
    return (terms - (counts + theta) * (means + theta).log()).sum(0) - penalty / theta.square()
