"""A Gaussian mixture with as many components as there are clusters, found by merging."""

from __future__ import annotations

import math

import torch
from torch.nn.functional import one_hot

from ._gaussian_mixture import GaussianMixture
from ._moments import Moments, collect_moments
from ._placement import kmeans_centres

#: Cells of an average component at the start, for each dimension.
_CELLS_PER_DIMENSION = 2
#: Steps of expectation maximisation between merges.
_N_EM_STEPS = 2


@torch.no_grad()
def merged_mixture(z: torch.Tensor, n_components: int, seed: int = 0) -> GaussianMixture:
    r"""Gaussian mixture of full covariances, of the clusters of representations.

    From many k-means clusters on, pairs are merged whose merge costs least of the integrated completed likelihood (Biernacki
    et al. 2000), with steps of expectation maximisation between merges, as long as it gains,

    .. math::
        L_a + L_b - L_{a \cup b} \le \tfrac12 \log n, \qquad
        L_c = R_c \log R_c - \tfrac12 R_c \log\lvert\Sigma_c\rvert - \tfrac12 \big(d + \tfrac{d (d + 1)}2\big) \log R_c

    where :math:`R_c` is the number of cells of a component, by which its mean and covariance are penalised.

    Many clusters hardly miss one, whatever the seed, and two parts of one cost little to merge, where k-means with as many
    centres as there are clusters often has two in one.

    Parameters
    ----------
    z
        Representations, shape ``(n, d)``.
    n_components
        The largest number of components.
    seed
        Seed of k-means.
    """
    n, d = z.shape
    z = z.double()
    n_start = max(1, min(n_components, n // (_CELLS_PER_DIMENSION * d)))
    centres = kmeans_centres(z, n_start, seed)
    nearest = lambda block, *_: one_hot(torch.cdist(block, centres).argmin(1), n_start)
    moments = collect_moments(z, 0.0, nearest, n_start, dense=True)
    while True:
        moments = _without(moments, (moments.counts <= d).nonzero().ravel())
        mixture = GaussianMixture(len(moments.counts), d, covariance_type="full").to(z)
        mixture.m_step(moments)
        for _ in range(_N_EM_STEPS):
            moments = mixture.e_step(z)
            mixture.m_step(moments)
        cost, first, second = _cheapest_merge(moments)
        if cost > 0.5 * math.log(n):
            return mixture
        moments = _merged(moments, first, second)


def _cheapest_merge(moments: Moments) -> tuple[float, int, int]:
    """Loss of integrated likelihood of the cheapest merge, in nats, and the two components; infinite for one."""
    k, d = moments.first.shape
    if k == 1:
        return math.inf, 0, 0
    scatter = moments.scatter(moments.first / moments.sizes.unsqueeze(-1))
    within = scatter.sum(0) / moments.n_cells
    first, second = torch.triu_indices(k, k, offset=1, device=scatter.device)

    def log_likelihood(counts: torch.Tensor, sums: torch.Tensor, squares: torch.Tensor) -> torch.Tensor:
        """:math:`L_c` in nats, shape ``(m,)``, of numbers ``(m,)``, sums ``(m, d)`` and second moments ``(m, d, d)`` of cells."""
        scatter = squares - sums.unsqueeze(-1) * sums.unsqueeze(-2) / counts[:, None, None]
        covariance = (scatter + d * within) / (counts + d)[:, None, None]
        return (counts - 0.5 * (d + d * (d + 1) / 2)) * counts.log() - 0.5 * counts * torch.logdet(covariance)

    sums = moments.counts, moments.first, moments.second
    alone, together = log_likelihood(*sums), log_likelihood(*(s[first] + s[second] for s in sums))
    costs = alone[first] + alone[second] - together
    cheapest = int(costs.argmin())
    return float(costs[cheapest]), int(first[cheapest]), int(second[cheapest])


def _merged(moments: Moments, first: int, second: int) -> Moments:
    """The second component in the first one."""
    sums = [s.clone() for s in (moments.counts, moments.first, moments.second)]
    for s in sums:
        s[first] += s[second]
    return _without(Moments(*sums, moments.n_cells), torch.tensor([second], device=moments.counts.device))


def _without(moments: Moments, components: torch.Tensor) -> Moments:
    """Without some components, unless they are all."""
    kept = torch.ones_like(moments.counts, dtype=torch.bool)
    kept[components] = False
    if not kept.any():
        return moments
    return Moments(moments.counts[kept], moments.first[kept], moments.second[kept], moments.n_cells)
