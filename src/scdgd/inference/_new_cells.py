"""Representations of new cells: the best component mean, then steps up the joint density, with the model frozen."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import torch

from scdgd._options import Choice, Either, Flag, Integer, ListOf, Number, Optional, Options

from ._adam import adam_steps
from ._gauss_newton import GaussNewtonConfig
from ._joint_density import JointDensity, frozen, owned
from ._start_of_search import STARTS, StartName, StartOfSearch

if TYPE_CHECKING:
    from scdgd.module import DGDModule

_ADAM_STEPS, _ADAM_RATE = 50, 0.2


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
    n_genes: int | Literal["auto"] | None = "auto"
    """Genes that Gauss-Newton estimates the curvature from; ``None`` for all, ``"auto"`` for 300."""
    start: StartName = "components"
    """Where steps start: ``"components"``, the component means that reconstruct a cell best, or ``"encoder"``, what the
    encoder of :meth:`scdgd.model.SCDGD.train_encoder` says. From there two learned steps are left, see
    :class:`scdgd.module.QueryStep`. Cells that the second one promises more than `tolerance`, by default twice as much as to
    any cell held out when the encoder was trained, take checked steps instead if `n_steps` allows for more. `n_starts` has no
    effect."""

    def gauss_newton(self, module: DGDModule) -> GaussNewtonConfig:
        """What this means for the cells of one module, with defaults filled in."""
        usual = STARTS[self.start].steps(module)
        given = {"max_steps": self.n_steps, "tolerance": self.tolerance}
        given = {name: value for name, value in given.items() if value is not None}
        if self.n_genes != "auto":
            given["n_genes"] = self.n_genes
        return usual._replace(n_starts=self.n_starts, **given)


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
        "n_genes": Either(Choice("auto"), Optional(Integer(1))),
        "start": Choice(*STARTS),
    },
    of="scdgd.inference.NewCellsConfig",
)


def place_new_cells(module: DGDModule, tensors: dict[str, torch.Tensor], config: NewCellsConfig) -> torch.Tensor:
    r"""MAP representations of the cells of one minibatch, :math:`\arg\max_z \log p(x \mid z) + \log p(z \mid \phi)`.

    Each cell starts at the component mean that reconstructs it best (the prior is not counted; Schuster & Krogh 2023), or
    where an encoder says, and then takes steps. Decoder, prior and training rows are left bit-identical.

    Parameters
    ----------
    module
        The module; its mode is set to evaluation while cells are placed.
    tensors
        Minibatch as the data loader gives it, ``b`` cells.
    config
        Start, method and effort.

    Returns
    -------
    Representations, shape ``(b, d)``.

    Raises
    ------
    ValueError
        If method or start is unknown.
    RuntimeError
        If the start is an encoder, and there is none.
    """
    method = Choice(None, "gauss_newton", "adam")("method", config.method) or (
        "gauss_newton" if config.lr is None else "adam"
    )
    start = STARTS[Choice(*STARTS)("start", config.start)]
    with frozen(module):
        tensors = owned(module, tensors)
        return (_by_gauss_newton if method == "gauss_newton" else _by_adam)(module, tensors, start, config)


def _by_gauss_newton(
    module: DGDModule, tensors: dict[str, torch.Tensor], start: StartOfSearch, config: NewCellsConfig
) -> torch.Tensor:
    return start.search(module, tensors, config.gauss_newton(module))


def _by_adam(
    module: DGDModule, tensors: dict[str, torch.Tensor], start: StartOfSearch, config: NewCellsConfig
) -> torch.Tensor:
    n_steps = _ADAM_STEPS if config.n_steps is None else config.n_steps
    lr = _ADAM_RATE if config.lr is None else config.lr
    z = start(module, tensors, 1)[0]
    density = JointDensity(module, tensors)
    return adam_steps(density, z, n_steps=n_steps, lr=lr, betas=config.betas, anneal=config.anneal)
