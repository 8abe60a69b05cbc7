"""Shape of the tail of importance weights."""

from __future__ import annotations

import torch


def pareto_shape(log_weights: torch.Tensor) -> torch.Tensor:
    r"""Shape :math:`\hat k` of a generalised Pareto distribution fitted to the largest weights of each cell.

    The tail has the :math:`\min(S/5, 3\sqrt S)` largest weights, and the fit is the profile posterior mean of Zhang &
    Stephens (2009) with the weak prior at one half of Vehtari et al. (2024, Pareto smoothed importance sampling, eq. 10
    and appendix G). Estimates above 0.7 mean that moments of these weights cannot be trusted.

    Parameters
    ----------
    log_weights
        Logs of importance weights, shape ``(s, b)``.

    Returns
    -------
    Shape ``(b,)``; infinite where there are fewer than 5 weights in the tail.
    """
    n = len(log_weights)
    n_tail = int(min(0.2 * n, 3 * n**0.5))
    if n_tail < 5:
        return torch.full_like(log_weights[0], torch.inf)
    largest = (log_weights - log_weights.amax(0)).double().topk(n_tail + 1, dim=0).values.exp()  # descending
    exceedances = (largest[:-1] - largest[-1]).flip(0).T.clamp(min=1e-300)  # (b, tail), ascending
    n_grid = 30 + int(n_tail**0.5)
    grid = torch.arange(1, n_grid + 1, dtype=torch.float64, device=log_weights.device)
    quartile = exceedances[:, int(n_tail / 4 + 0.5) - 1, None]
    theta = 1 / exceedances[:, -1:] + (1 - (n_grid / (grid - 0.5)).sqrt()) / (3 * quartile)  # (b, grid)
    k = torch.log1p(-theta.unsqueeze(-1) * exceedances.unsqueeze(1)).mean(-1)  # (b, grid)
    log_likelihood = n_tail * ((-theta / k).log() - k - 1)
    theta = (torch.softmax(log_likelihood, dim=1) * theta).sum(1, keepdim=True)
    k = torch.log1p(-theta * exceedances).mean(-1)
    return ((n_tail * k + 10 * 0.5) / (n_tail + 10)).to(log_weights.dtype)
