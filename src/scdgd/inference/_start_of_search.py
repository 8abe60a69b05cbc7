"""Where the search for the representation of a new cell starts, and how far it is from there: the kinds there are, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

from ._gauss_newton import GaussNewtonConfig
from ._joint_density import JointDensity
from ._starts import component_starts

if TYPE_CHECKING:
    import torch

    from scdgd.module import DGDModule

StartName = Literal["components", "encoder"]

#: At a kink the promise of a step says little about what it gains: there, cells stop later, and take no step unchecked.
_TOLERANCE, _TOLERANCE_WITH_KINKS = 0.5, 0.1
#: From near the mode, a promise is kept: a step that promises 2 nats is the last one, and a rough curvature does.
_TOLERANCE_NEAR, _GENES_NEAR = 4.0, 100


class StartOfSearch(Protocol):
    """Representations that steps start from."""

    name: StartName
    n_variational_steps: int
    """Usual number of steps up the lower bound, from the Laplace approximation, where posteriors are learned."""

    def __call__(self, module: DGDModule, tensors: dict[str, torch.Tensor], n_starts: int) -> torch.Tensor:
        """Starts of the cells of a minibatch, best first, shape ``(n, b, d)``, where ``n`` is at most `n_starts`."""

    def steps(self, module: DGDModule) -> GaussNewtonConfig:
        """The usual steps from there."""


class AtComponents:
    """The component means that reconstruct a cell best, see :func:`component_starts`."""

    name: StartName = "components"
    n_variational_steps = 40

    def __call__(self, module: DGDModule, tensors: dict[str, torch.Tensor], n_starts: int) -> torch.Tensor:
        """See :class:`StartOfSearch`."""
        return component_starts(module, JointDensity(module, tensors), n_starts)

    def steps(self, module: DGDModule) -> GaussNewtonConfig:
        """See :class:`StartOfSearch`."""
        kinks = module.decoder.has_kinks
        return GaussNewtonConfig(tolerance=_TOLERANCE_WITH_KINKS if kinks else _TOLERANCE, last_step=not kinks)


class AtEncoder:
    """What the encoder of the module says, see :class:`scdgd.module.QueryEncoder`: one start a cell."""

    name: StartName = "encoder"
    n_variational_steps = 0

    def __call__(self, module: DGDModule, tensors: dict[str, torch.Tensor], n_starts: int) -> torch.Tensor:
        """See :class:`StartOfSearch`."""
        if module.query_encoder is None:
            msg = "`start='encoder'` needs an encoder, and the model has none. Call `model.train_encoder()` first."
            raise RuntimeError(msg)
        return module.query_encoder(tensors).unsqueeze(0)

    def steps(self, module: DGDModule) -> GaussNewtonConfig:
        """See :class:`StartOfSearch`."""
        if module.decoder.has_kinks:
            return GaussNewtonConfig(tolerance=_TOLERANCE_WITH_KINKS)
        return GaussNewtonConfig(tolerance=_TOLERANCE_NEAR, n_genes=_GENES_NEAR, n_refreshes=0, last_step=True)


STARTS: dict[str, StartOfSearch] = {start.name: start for start in (AtComponents(), AtEncoder())}
