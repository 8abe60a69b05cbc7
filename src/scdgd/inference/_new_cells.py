"""Representations of new cells: the best component mean, then steps up the joint density, with the model frozen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import torch

from scdgd._options import Choice, Flag, Integer, ListOf, Number, Optional, Options

from ._adam import adam_steps
from ._gauss_newton import GaussNewtonConfig, gauss_newton
from ._joint_density import JointDensity, frozen, owned
from ._starts import component_starts

if TYPE_CHECKING:
    from scdgd.module import DGDModule

_ADAM_STEPS, _ADAM_RATE = 50, 0.2
#: At a kink the promise of a step says little about what it gains: there, cells stop later, and take no step unchecked.
_TOLERANCE, _TOLERANCE_WITH_KINKS = 0.5, 0.1


class NewCellsConfig(NamedTuple):
    """How new cells are placed.

    The default is :func:`gauss_newton`. A rate `lr` asks for Adam; the published values are 10 steps at rate 1e-2 with
    betas (0.5, 0.7), not annealed.
    """

    n_steps: int | None = None
    """Most steps: by default 30 of Gauss-Newton, or 50 of Adam."""
    lr: float | None = None
    """Rate of Adam, by default 0.2."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Of Adam."""
    anneal: bool = True
    """Whether the rate of Adam falls linearly to zero over the steps."""
    method: Literal["gauss_newton", "adam"] | None = None
    """``None``: Adam if `lr` is given, else Gauss-Newton."""
    n_starts: int = GaussNewtonConfig().n_starts
    """Component means that Gauss-Newton starts from; the best result counts."""
    tolerance: float | None = None
    """Gauss-Newton stops when a step promises to gain less than half of this, in nats: by default 0.5, and 0.1 if the
    decoder is not smooth (ReLU). With a smooth decoder that step is still taken."""
    n_genes: int | None = GaussNewtonConfig().n_genes
    """Genes that Gauss-Newton estimates the curvature from; ``None`` for all."""

    def gauss_newton(self, module: DGDModule) -> GaussNewtonConfig:
        """What this means for the cells of one module, with defaults filled in."""
        tolerance = self.tolerance
        if tolerance is None:
            tolerance = _TOLERANCE_WITH_KINKS if module.decoder.has_kinks else _TOLERANCE
        options = GaussNewtonConfig(
            n_starts=self.n_starts,
            tolerance=tolerance,
            n_genes=self.n_genes,
            last_step=not module.decoder.has_kinks,
        )
        return options if self.n_steps is None else options._replace(max_steps=self.n_steps)


#: Rules of the options.
NEW_CELLS = Options(
    {
        "n_steps": Optional(Integer(0)),
        "lr": Optional(Number(above=0)),
        "betas": ListOf((Number(least=0, below=1),) * 2),
        "anneal": Flag(),
        "method": Choice(None, "gauss_newton", "adam"),
        "n_starts": Integer(1),
        "tolerance": Optional(Number(above=0)),
        "n_genes": Optional(Integer(1)),
    },
    of="scdgd.inference.NewCellsConfig",
)


def place_new_cells(module: DGDModule, tensors: dict[str, torch.Tensor], config: NewCellsConfig) -> torch.Tensor:
    r"""MAP representations of the cells of one minibatch, :math:`\arg\max_z \log p(x \mid z) + \log p(z \mid \phi)`.

    Each cell starts at the component mean that reconstructs it best (the prior is not counted; Schuster & Krogh 2023)
    and then takes steps. Decoder, prior and training rows are left bit-identical.

    Parameters
    ----------
    module
        The module; its mode is set to evaluation while cells are placed.
    tensors
        Minibatch as the data loader gives it, ``b`` cells.
    config
        Method and effort.

    Returns
    -------
    Representations, shape ``(b, d)``.

    Raises
    ------
    ValueError
        If the method is unknown.
    """
    method = Choice(None, "gauss_newton", "adam")("method", config.method) or (
        "gauss_newton" if config.lr is None else "adam"
    )
    if method == "gauss_newton":
        return gauss_newton(module, tensors, config=config.gauss_newton(module)).z
    with frozen(module):
        density = JointDensity(module, owned(module, tensors))
        start = component_starts(module, density, 1)[0]
        n_steps = _ADAM_STEPS if config.n_steps is None else config.n_steps
        lr = _ADAM_RATE if config.lr is None else config.lr
        return adam_steps(density, start, n_steps=n_steps, lr=lr, betas=config.betas, anneal=config.anneal)
