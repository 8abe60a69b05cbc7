"""Damped Gauss-Newton (Fisher scoring) for the representations of many cells at once."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch

from ._joint_density import JointDensity, fisher_information, frozen, owned
from ._starts import component_starts

if TYPE_CHECKING:
    from scdgd.module import DGDModule

_MIN_DAMPING, _MAX_DAMPING = 1e-6, 1e8


class GaussNewtonConfig(NamedTuple):
    """How representations are found by :func:`gauss_newton`."""

    n_starts: int = 1
    """Start from so many component means, the likeliest first, and keep the best result."""
    max_steps: int = 30
    """Most steps of a cell from one start."""
    tolerance: float = 0.1
    """Stop when the next step promises to gain less than half of this, in nats."""
    n_genes: int | None = 300
    """Number of genes that the Fisher information is estimated from; ``None`` for all. The gradient sees all."""
    n_refreshes: int | None = 1
    """After how many of the first steps the Fisher information is computed anew; ``None`` for after every step, before it is
    asked what the next one promises."""
    secant: bool = True
    """Whether each step corrects the curvature by what it did to the gradient (BFGS)."""
    damping: float = 0.1
    r"""First :math:`\lambda`."""
    seed: int = 0
    """Seed of the choice of genes."""
    damping_factors: tuple[float, float] = (0.5, 4.0)
    r"""What :math:`\lambda` is multiplied with after a step that was taken, and after one that was not."""
    last_step: bool = False
    """Whether a cell that stops because the next step promises little takes that step, too, without evaluating it."""


class MAPEstimate(NamedTuple):
    """Representations at maxima of the joint density."""

    z: torch.Tensor
    """Shape ``(b, d)``."""
    neg_log_joint: torch.Tensor
    """Negative log joint density :math:`J(z)` in nats, shape ``(b,)``; what the quadratic model says after a `last_step`."""
    n_steps: torch.Tensor
    """Steps tried and evaluated, shape ``(b,)``, int."""
    converged: torch.Tensor
    """Whether the tolerance was reached, shape ``(b,)``, bool."""
    fisher: torch.Tensor | None = None
    """:func:`fisher_information` at `z` from all genes, shape ``(b, d, d)``, if asked for."""


def gauss_newton(
    module: DGDModule,
    tensors: dict[str, torch.Tensor],
    z: torch.Tensor | None = None,
    config: GaussNewtonConfig | None = None,
    *,
    with_fisher: bool = False,
) -> MAPEstimate:
    r"""MAP representations :math:`\arg\min_z J(z) = -\log p(x \mid z) - \log p(z \mid \phi)` by damped Fisher scoring.

    .. math::
        (B + \lambda \operatorname{diag} B)\, \Delta = -\nabla J(z)

    The step is taken if :math:`J` decreases, and then :math:`\lambda \leftarrow \lambda / 2`; else
    :math:`\lambda \leftarrow 4 \lambda`. A cell stops when :math:`-(1 + \lambda) \nabla J^\top \Delta`, the Newton
    decrement, is below the tolerance. The gradient is exact. The curvature :math:`B` is the Fisher information of the
    counts, estimated from a subset of the genes, plus the precision of the prior; every step :math:`\Delta`, taken or
    not, that changes the gradient by :math:`y` with :math:`y^\top \Delta > 0` corrects it to :math:`B \Delta = y`,

    .. math::
        B \leftarrow B - \frac{B \Delta \Delta^\top B}{\Delta^\top B \Delta} + \frac{y y^\top}{y^\top \Delta}

    which mends what the Fisher information leaves out: the subset, the curvature of the decoder and the pull between
    components. The maximum does not depend on :math:`B`, only the number of steps does; where there are several, each
    start finds one of them. Nothing here has a length scale, so it serves narrow and broad latent spaces alike, where a
    rate of Adam does not. ReLU decoders have kinks, which are maxima without a zero gradient: steps end there as those
    of Adam do, and more starts help (``benchmarks/new_cells.py``). The float32 sums behind :math:`J` resolve about
    :math:`10^{-7} J`; a tolerance below that runs into the limit of steps.

    Parameters
    ----------
    module
        The module, left as it is.
    tensors
        Minibatch as the data loader gives it, ``b`` cells. The result of a cell does not depend on the others.
    z
        Where to start, shape ``(b, d)``; the component means that reconstruct a cell best if not given.
    config
        Number of starts and steps, tolerance, genes; defaults if not given.
    with_fisher
        Whether to compute the Fisher information from all genes at the result.
    """
    config = GaussNewtonConfig() if config is None else config
    with frozen(module):
        density = JointDensity(module, owned(module, tensors)).with_genes(config.n_genes, config.seed)
        if z is None:
            starts = component_starts(module, density, config.n_starts)
        else:
            starts = z.detach().to(module.device).clone().unsqueeze(0)
        found = climb_from(density, starts, config)
    return found._replace(fisher=fisher_information(module, tensors, found.z)) if with_fisher else found


@dataclass
class _Search:
    """Cells on their way, one row each."""

    density: Density
    cells: torch.Tensor
    z: torch.Tensor
    value: torch.Tensor
    gradient: torch.Tensor
    curvature: torch.Tensor
    damping: torch.Tensor
    n_steps: torch.Tensor

    def __getitem__(self, rows: torch.Tensor) -> _Search:
        return _Search(*(getattr(self, field.name)[rows] for field in fields(self)))


class Density(Protocol):
    """Negative log joint densities :math:`J` of ``b`` cells; indexing gives those of some of them."""

    def __getitem__(self, rows: torch.Tensor) -> Density: ...

    def value_and_gradient(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute :math:`J`, shape ``(b,)``, and its gradient, shape ``(b, d)``."""

    def first_curvature(self, z: torch.Tensor) -> torch.Tensor:
        """Curvature at the start, where many cells may have the same representation, shape ``(b, d, d)``."""

    def curvature(self, z: torch.Tensor) -> torch.Tensor:
        """Positive curvature near a mode, shape ``(b, d, d)``."""


def climb_from(density: Density, starts: torch.Tensor, config: GaussNewtonConfig) -> MAPEstimate:
    """The best of what :func:`climb` finds from starts ``(n, b, d)``."""
    found = climb(density, starts[0], config)
    for start in starts[1:]:
        found = _better(found, climb(density, start, config))
    return found


def climb(density: Density, z: torch.Tensor, config: GaussNewtonConfig) -> MAPEstimate:
    """Steps of :func:`gauss_newton` from one start ``(b, d)``; cells that have converged leave: the others cost less."""
    search = _start(density, z, config)
    found = MAPEstimate(z.clone(), search.value.clone(), search.n_steps.clone(), search.n_steps > 0)
    for step in range(config.max_steps + 1):
        delta, promise = damped_step(search.curvature, search.gradient, search.damping)
        converged = promise < config.tolerance
        leaving = converged | (step == config.max_steps)
        if leaving.any():
            z, value = search.z, search.value
            if config.last_step and step < config.max_steps:  # the quadratic model says what this step changes
                z, value = z + delta, value + 0.5 * (search.gradient * delta).sum(1)
            for of_all, of_search in zip(found, (z, value, search.n_steps, converged), strict=False):
                of_all[search.cells[leaving]] = of_search[leaving]
            if leaving.all():
                break
            search, delta = search[~leaving], delta[~leaving]
        if config.n_refreshes is not None and 0 < step <= config.n_refreshes:
            search.curvature = search.density.curvature(search.z)
            delta, _ = damped_step(search.curvature, search.gradient, search.damping)
        _try_step(search, delta, config)
        if config.n_refreshes is None:
            search.curvature = search.density.curvature(search.z)
    return found


def _start(density: Density, z: torch.Tensor, config: GaussNewtonConfig) -> _Search:
    value, gradient = density.value_and_gradient(z)
    return _Search(
        density=density,
        cells=torch.arange(len(z), device=z.device),
        z=z,
        value=value,
        gradient=gradient,
        curvature=density.first_curvature(z),
        damping=torch.full_like(z[:, 0], config.damping),
        n_steps=torch.zeros(len(z), dtype=torch.long, device=z.device),
    )


def _try_step(search: _Search, delta: torch.Tensor, config: GaussNewtonConfig) -> None:
    value, gradient = search.density.value_and_gradient(search.z + delta)
    if config.secant:
        search.curvature = secant_update(search.curvature, delta, gradient - search.gradient)
    better = value < search.value
    search.z = torch.where(better.unsqueeze(1), search.z + delta, search.z)
    search.gradient = torch.where(better.unsqueeze(1), gradient, search.gradient)
    search.value = torch.where(better, value, search.value)
    factor = torch.where(better, *config.damping_factors)
    search.damping = (search.damping * factor).clamp(_MIN_DAMPING, _MAX_DAMPING)
    search.n_steps = search.n_steps + 1


def damped_step(
    curvature: torch.Tensor, gradient: torch.Tensor, damping: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Solve :math:`(B + \lambda \operatorname{diag} B) \Delta = -\nabla J` for ``b`` cells.

    Where the Cholesky factorisation fails, :math:`\Delta` is a gradient step scaled by the diagonal.

    Parameters
    ----------
    curvature, gradient, damping
        :math:`B`, :math:`\nabla J` and :math:`\lambda`, shapes ``(b, d, d)``, ``(b, d)`` and ``(b,)``.

    Returns
    -------
    :math:`\Delta`, shape ``(b, d)``, and the Newton decrement :math:`-(1 + \lambda) \nabla J^\top \Delta`, which hardly
    depends on the damping, shape ``(b,)``.
    """
    diagonal = curvature.diagonal(dim1=1, dim2=2)  # (b, d)
    factor, info = torch.linalg.cholesky_ex(curvature + torch.diag_embed(damping.unsqueeze(1) * diagonal))
    delta = -torch.cholesky_solve(gradient.unsqueeze(-1), factor).squeeze(-1)
    usable = (info == 0) & torch.isfinite(delta).all(1)
    scale = (1 + damping.unsqueeze(1)) * diagonal.nan_to_num(1.0).clamp(min=1e-6)
    delta = torch.where(usable.unsqueeze(1), delta, -gradient / scale)
    return delta, -(1 + damping) * (gradient * delta).sum(1)


def secant_update(curvature: torch.Tensor, step: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    r"""BFGS: the nearest curvature that maps the last step to the last change of the gradient, ``(b, d, d)``.

    Left as it is where :math:`y^\top \Delta` is not clearly positive, so it stays positive definite.
    """
    mapped = (curvature @ step.unsqueeze(-1)).squeeze(-1)  # B delta, (b, d)
    expected, observed = (step * mapped).sum(1), (step * change).sum(1)  # (b,)
    valid = (observed > 1e-3 * expected) & torch.isfinite(observed)
    expected, observed = torch.where(valid, expected, 1.0), torch.where(valid, observed, 1.0)
    updated = (
        curvature
        - mapped.unsqueeze(2) * (mapped / expected.unsqueeze(1)).unsqueeze(1)
        + change.unsqueeze(2) * (change / observed.unsqueeze(1)).unsqueeze(1)
    )
    return torch.where(valid[:, None, None], updated, curvature)


def _better(a: MAPEstimate, b: MAPEstimate) -> MAPEstimate:
    """The lower :math:`J` of each cell; steps add up."""
    first = a.neg_log_joint <= b.neg_log_joint
    return MAPEstimate(
        torch.where(first.unsqueeze(1), a.z, b.z),
        torch.where(first, a.neg_log_joint, b.neg_log_joint),
        a.n_steps + b.n_steps,
        torch.where(first, a.converged, b.converged),
    )
