"""Where the search for the representation of a new cell starts, and how far it is from there: the kinds there are, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Protocol

from ._gauss_newton import GaussNewtonConfig, climb, climb_from
from ._joint_density import JointDensity
from ._starts import component_starts

if TYPE_CHECKING:
    import torch

    from scdgd.module import DGDModule, QueryEncoder

StartName = Literal["components", "encoder"]

#: At a kink the promise of a step says little about what it gains: there, cells stop later, and take no step unchecked.
_TOLERANCE, _TOLERANCE_WITH_KINKS = 0.5, 0.1

#: Learned steps from an encoder.
N_LEARNED = 2


class StartOfSearch(Protocol):
    """Representations that steps start from."""

    name: StartName
    n_variational_steps: int
    """Usual number of steps up the lower bound, from the Laplace approximation, where posteriors are learned."""

    def __call__(self, module: DGDModule, tensors: dict[str, torch.Tensor], n_starts: int) -> torch.Tensor:
        """Starts of the cells of a minibatch, best first, shape ``(n, b, d)``, where ``n`` is at most `n_starts`."""

    def steps(self, module: DGDModule) -> GaussNewtonConfig:
        """The usual steps from there."""

    def search(self, module: DGDModule, tensors: dict[str, torch.Tensor], steps: GaussNewtonConfig) -> torch.Tensor:
        """Where steps end, ``(b, d)``; starts, if there are none to take."""


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

    def search(self, module: DGDModule, tensors: dict[str, torch.Tensor], steps: GaussNewtonConfig) -> torch.Tensor:
        """See :class:`StartOfSearch`."""
        starts = self(module, tensors, steps.n_starts)
        if steps.max_steps == 0:
            return starts[0]
        density = JointDensity(module, tensors).with_genes(steps.n_genes, steps.seed)
        return climb_from(density.without_constant(), starts, steps).z


class AtEncoder:
    """What the encoder of the module says, see :class:`scdgd.module.QueryEncoder`: one start a cell.

    Two learned steps are taken from there, see :class:`scdgd.module.QueryStep`. Cells that the second one promises more than
    the tolerance, or that lost by the first, are too far for that, and take the usual steps from what the encoder says instead.
    """

    name: StartName = "encoder"
    n_variational_steps = 0

    def __call__(self, module: DGDModule, tensors: dict[str, torch.Tensor], n_starts: int) -> torch.Tensor:
        """See :class:`StartOfSearch`."""
        return _encoder_of(module)(tensors).unsqueeze(0)

    def steps(self, module: DGDModule) -> GaussNewtonConfig:
        """See :class:`StartOfSearch`."""
        return STARTS["components"].steps(module)._replace(tolerance=float(_encoder_of(module).step.far))

    def search(self, module: DGDModule, tensors: dict[str, torch.Tensor], steps: GaussNewtonConfig) -> torch.Tensor:
        """See :class:`StartOfSearch`."""
        encoder = _encoder_of(module)
        inputs = encoder.inputs(tensors)
        z = encoder.network(inputs)
        if steps.max_steps == 0:
            return z
        density = JointDensity(module, tensors).without_constant()
        start, usual = z, STARTS["components"].steps(module).tolerance
        values = []
        for _ in range(min(steps.max_steps, N_LEARNED)):
            value, gradient = density.value_and_gradient(z)
            values.append(value)
            delta = encoder.step(inputs, z, gradient)
            z = z + delta
        if steps.max_steps > N_LEARNED:
            far = (-(gradient * delta).sum(1) > steps.tolerance) | (values[-1] > values[0] + usual)
            far = far.nonzero().ravel()
            if len(far):
                checked = steps._replace(tolerance=min(steps.tolerance, usual))
                z[far] = climb(density[far].with_genes(steps.n_genes, steps.seed), start[far], checked).z
        return z


def _encoder_of(module: DGDModule) -> QueryEncoder:
    if module.query_encoder is None:
        msg = "`start='encoder'` needs an encoder, and the model has none. Call `model.train_encoder()` first."
        raise RuntimeError(msg)
    return module.query_encoder


STARTS: dict[str, StartOfSearch] = {start.name: start for start in (AtComponents(), AtEncoder())}
