"""Representations of new cells: the best component mean, then gradient steps, with the model frozen."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from scvi import REGISTRY_KEYS

from scdgd._compat import MODULE_KEYS
from scdgd.module import log_size_factor
from scdgd.train import RowAdam

if TYPE_CHECKING:
    from scdgd.module import DGDModule

#: Width of the classes of log size factors that share decoded means when candidates are scored.
_LOG_SIZE_STEP = 0.05


class NewCellsConfig(NamedTuple):
    """How new cells are placed; the published values are 10 steps at rate 1e-2 with betas (0.5, 0.7)."""

    n_steps: int = 50
    lr: float = 0.2
    betas: tuple[float, float] = (0.9, 0.99)
    anneal: bool = True
    """Whether the rate falls linearly to zero over the steps."""


def place_new_cells(module: DGDModule, tensors: dict[str, torch.Tensor], config: NewCellsConfig) -> torch.Tensor:
    r"""MAP representations of the cells of one minibatch, :math:`\arg\max_z \log p(x \mid z) + \log p(z \mid \phi)`.

    Each cell starts at the component mean that reconstructs it best (the prior is not counted; Schuster & Krogh 2023)
    and then takes steps of Adam. Decoder, prior and training rows are left bit-identical.

    Parameters
    ----------
    module
        The module; its mode is set to evaluation while cells are placed.
    tensors
        Minibatch as the data loader gives it, ``b`` cells.
    config
        Number and rate of steps.

    Returns
    -------
    Representations, shape ``(b, d)``.
    """
    was_training = module.training
    module.eval()
    try:
        with torch.inference_mode(False), torch.enable_grad():
            tensors = {key: value.to(module.device).clone() for key, value in tensors.items()}
            z = best_component_means(module, tensors)
            return _map_steps(module, tensors, z, config)
    finally:
        module.train(was_training)


@torch.no_grad()
def best_component_means(module: DGDModule, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    r"""Component mean with the highest likelihood for each cell, shape ``(b, d)``.

    Cells with the same covariates and nearly the same size factor (classes of 5%) share the ``k`` decoded means. Then

    .. math::
        \log p(x_i \mid m_c) = \sum_j x_{ij} \log\frac{\mu_{cj}}{\mu_{cj} + \theta_j}
                             - \sum_j \theta_j \log\frac{\mu_{cj} + \theta_j}{\theta_j} + \text{const}_i

    is one matrix product per class; nothing of size ``b x k x g`` is formed.
    """
    x, means = tensors[REGISTRY_KEYS.X_KEY], module.prior.component_means.detach()
    log_size = log_size_factor(x, module.size_factor, tensors.get(REGISTRY_KEYS.SIZE_FACTOR_KEY))
    log_size = (log_size / _LOG_SIZE_STEP).round() * _LOG_SIZE_STEP
    covariates = {key: value for key, value in module.covariates(tensors).items() if value is not None}
    classes = torch.cat([log_size, *covariates.values()], dim=1)
    _, class_of_cell = torch.unique(classes, dim=0, return_inverse=True)
    best = torch.empty(len(x), dtype=torch.long, device=x.device)
    for c in range(int(class_of_cell.max()) + 1):
        cells = (class_of_cell == c).nonzero().ravel()
        shared = {key: value[cells[:1]].expand(len(means), -1) for key, value in covariates.items()}
        px = module.generative(means, log_size[cells[:1]].expand(len(means), -1), **shared)[MODULE_KEYS.PX_KEY]
        best[cells] = px.score_each(x[cells]).argmax(dim=1)
    return means[best]


def _map_steps(
    module: DGDModule, tensors: dict[str, torch.Tensor], z: torch.Tensor, config: NewCellsConfig
) -> torch.Tensor:
    x = tensors[REGISTRY_KEYS.X_KEY]
    library = log_size_factor(x, module.size_factor, tensors.get(REGISTRY_KEYS.SIZE_FACTOR_KEY))
    covariates = module.covariates(tensors)
    optimizer = RowAdam(z, lr=config.lr, betas=config.betas)
    every_row = torch.arange(len(z), device=z.device)
    for step in range(config.n_steps):
        if config.anneal:
            optimizer.lr = config.lr * (1 - step / config.n_steps)
        leaf = z.clone().requires_grad_()
        px = module.generative(leaf, library, **covariates)[MODULE_KEYS.PX_KEY]
        log_joint = px.log_prob(x).sum() + module.prior.log_prob(leaf).sum()
        (gradient,) = torch.autograd.grad(-log_joint, leaf)  # not backward(): .grad of the decoder stays untouched
        optimizer.step(every_row, gradient)
    return z.detach()
