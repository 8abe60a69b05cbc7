"""Where the search for a representation starts: the component means that reconstruct the cell best."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from scdgd._compat import MODULE_KEYS
from scdgd._constants import MEASURED_KEY

from ._distinct_rows import distinct_rows
from ._joint_density import JointDensity, slice_of
from ._panels import distinct_panels

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scdgd.module import DGDModule

#: Distance of the log size factors between which scores are interpolated.
_LOG_SIZE_STEP = 0.2


@torch.no_grad()
def best_component_means(module: DGDModule, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """Component mean with the highest likelihood for each cell, shape ``(b, d)``; see :func:`component_starts`."""
    return component_starts(module, JointDensity(module, tensors), 1)[0]


@torch.no_grad()
def component_starts(module: DGDModule, density: JointDensity, n_starts: int) -> torch.Tensor:
    r"""Component means with the highest likelihood for each cell, best first, shape ``(n_starts, b, d)``.

    Cells with the same covariates and panel of genes share the ``k`` decoded means. Then

    .. math::
        \log p(x_i \mid m_c) = \sum_j x_{ij} \log\frac{\mu_{cj}}{\mu_{cj} + \theta_j}
                             - \sum_j \theta_j \log\frac{\mu_{cj} + \theta_j}{\theta_j} + \text{const}_i

    is a matrix product; nothing of size ``b x k x g`` is formed. It is evaluated at size factors :math:`e^{0.2\,t}`,
    :math:`t \in \mathbb Z`, and interpolated linearly in :math:`\log s`. With continuous covariates no two cells share
    a decoded mean, and every cell has its own size factor. The prior is not counted (Schuster & Krogh 2023). Scores of several
    modalities add up.
    """
    means, scores = module.prior.component_means.detach(), None
    for part in density.parts:
        of_part = part.weight * _scores(part, means)
        of_part = of_part if part.present is None else of_part.where(part.present.unsqueeze(1), 0.0)
        scores = of_part if scores is None else scores + of_part
    best = scores.topk(min(n_starts, len(means)), dim=1).indices  # (b, n_starts)
    return means[best.T]


def _scores(density: JointDensity, means: torch.Tensor) -> torch.Tensor:
    """Log likelihood of each cell at each of the means ``(k, d)``, up to a constant of the cell, ``(b, k)``; one modality."""
    covariates = {key: value for key, value in density.covariates.items() if value is not None}
    exact = MODULE_KEYS.CONT_COVS_KEY in covariates
    classes = distinct_rows(torch.cat([*_columns(covariates), *([density.library] if exact else [])], dim=1))
    scores = density.library.new_zeros(len(density), len(means))
    for c in range(int(classes.max()) + 1):
        cells = (classes == c).nonzero().ravel()
        shared = {key: value[cells[:1]].expand(len(means), -1) for key, value in covariates.items()}
        unit = density.observation.likelihood(means, means.new_zeros(len(means), 1), **shared)
        eta = unit.eta  # at a size factor of one
        panel = None if density.measured is None else density.measured[cells[0]]
        log_size, order = density.library[cells, 0].sort()
        cells = cells[order]
        x = density.x[cells]
        nodes = [(log_size[0], torch.ones_like(log_size))] if exact else _interpolation_nodes(log_size)
        for node, weight in nodes:
            px = type(unit)(node + eta, *unit.at_size(unit.parameters, node)).measuring(panel)
            near = weight.nonzero().ravel()  # in order of size they follow each other
            near = slice(int(near[0]), int(near[-1]) + 1)
            scores[cells[near]] += weight[near].unsqueeze(1) * px.score_each(slice_of(x, near))
    return scores


def _columns(covariates: dict[str, torch.Tensor]) -> list[torch.Tensor]:
    """Covariates, and the number of the panel in the place of its genes, each ``(b, c)``."""
    return [distinct_panels(value).unsqueeze(1) if key == MEASURED_KEY else value for key, value in covariates.items()]


def _interpolation_nodes(log_size: torch.Tensor) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Grid points, and the weight of each for every cell: a hat as wide as two steps."""
    position = log_size / _LOG_SIZE_STEP
    # a position that misses a grid point by rounding sits on it
    position = torch.where((position - position.round()).abs() < 1e-4, position.round(), position)
    for node in torch.cat([position.floor(), position.ceil()]).unique():
        yield node * _LOG_SIZE_STEP, (1 - (position - node).abs()).clamp(min=0)
