"""How the encoder of new cells is trained, beside a model that stays as it is."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, NamedTuple

import torch
from scvi.utils import track

from scdgd.inference._joint_density import frozen, neg_log_kernel
from scdgd.inference._start_of_search import N_LEARNED

from ._copies_of_cells import others_like

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scdgd.module import DGDModule, QueryEncoder

    Tensors = dict[str, torch.Tensor]

#: Share of the epochs in which the rate rises.
_WARM_UP = 0.2
#: What a step loses counts up to some such nats, and beyond by its logarithm: no cell leads all others.
_LOST = 10.0
#: Cells are far whose last step promises so many times what it promises to any cell that was held out.
_FAR = 2.0


class Distillation(NamedTuple):
    r"""An encoder :math:`f`, and the length of two steps from there, learn where modes of representations are.

    .. math::
        \min\; \mathbb E_{x'} \big[ J(z_0) + J(z_1) + J(z_2) \big], \qquad
        J(z) = -\log p(x' \mid z) - \log p(z \mid \phi), \qquad z_0 = f(x'), \quad z_{t+1} = z_t + \delta(z_t)

    with decoder and prior frozen: :math:`J` is what Gauss-Newton steps minimise for each cell (amortised inference of the
    mode). The encoder learns from the first term, the steps :math:`\delta`, see :class:`~scdgd.module.QueryStep`, from the
    others, each from its own; a loss of more than 10 nats counts by its logarithm.

    The cells :math:`x'` of half of the minibatches are drawn by the model, at draws around the representations of training
    cells and at shares between 0.2 and 1 of their depths. Of the others, which are training cells, half are thinned, each
    count binomially, to such a share. Of every fourth minibatch a random panel of genes is left. The target of such a cell
    is its own mode, not the representation of the cell that it comes from.

    Adam's rate rises linearly over a fifth of the epochs and then falls linearly to zero. After each epoch the objective
    after the steps is taken over training cells that were held out, whole; what is best there is kept, and training ends when
    nothing has been better for `patience` epochs.
    """

    max_epochs: int
    """Most passes over the cells."""
    lr: float = 4e-3
    """Highest rate of Adam."""
    patience: int = 100
    """Epochs without a better encoder."""

    def __call__(
        self,
        module: DGDModule,
        encoder: QueryEncoder,
        training: Iterable[Tensors],
        held_out: Iterable[Tensors],
        *,
        show_progress: bool = True,
    ) -> list[tuple[float, float]]:
        """Train, on minibatches of training cells; random numbers are torch's.

        Returns
        -------
        Objective after the steps, of the cells that train and of cells held out, in nats per cell without what no representation
        changes, by epoch.
        """
        optimizer = torch.optim.Adam(encoder.parameters(), lr=self.lr)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._share_of_rate)
        history, best, best_epoch, state = [], float("inf"), 0, None
        with frozen(module):
            for epoch in track(range(self.max_epochs), description="Training the encoder", disable=not show_progress):
                loss = _mean(
                    _step(module, encoder, others_like(module, _on(module, cells)), optimizer) for cells in training
                )
                schedule.step()
                value = _mean(_value(module, encoder, _on(module, cells)) for cells in held_out)
                history.append((loss, value))
                if value < best:
                    best, best_epoch, state = value, epoch, copy.deepcopy(encoder.state_dict())
                elif epoch - best_epoch >= self.patience:
                    break
            if state is not None:
                encoder.load_state_dict(state)
            promises = torch.cat([_stepped(module, encoder, _on(module, cells))[2] for cells in held_out])
            encoder.step.far.fill_(_FAR * promises.max())
        return history

    def _share_of_rate(self, epoch: int) -> float:
        """Of the highest rate, in an epoch from 0."""
        done = (epoch + 1) / (self.max_epochs + 1)
        return min(done / _WARM_UP, (1 - done) / (1 - _WARM_UP))


def _on(module: DGDModule, tensors: Tensors) -> Tensors:
    return {key: value.to(module.device) for key, value in tensors.items()}


def _step(module: DGDModule, encoder: QueryEncoder, tensors: Tensors, optimizer: torch.optim.Adam) -> tuple[float, int]:
    """One step of Adam; the sum of the objective over the minibatch, and its number of cells."""
    with torch.enable_grad():
        inputs = encoder.inputs(tensors)
        z = encoder.network(inputs)
        before, gradient = _at(module, tensors, z)
        taught = (z * gradient).sum(1)  # has the gradient of J in the encoder
        for _ in range(N_LEARNED):
            after, end = _after(module, encoder, tensors, inputs, z.detach(), gradient)
            taught = taught + _robust(after, before)
            z, gradient = end, torch.autograd.grad(after.sum(), end, retain_graph=True)[0]
        optimizer.zero_grad()
        taught.mean().backward()
    optimizer.step()
    return float(_robust(after, before).detach().sum()), len(after)


def _after(
    module: DGDModule,
    encoder: QueryEncoder,
    tensors: Tensors,
    inputs: torch.Tensor,
    z: torch.Tensor,
    gradient: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """:math:`J` one step on, ``(b,)``, and where that is, ``(b, d)``."""
    end = z + encoder.step(inputs, z, gradient)
    return neg_log_kernel(module, tensors, end), end


def _robust(after: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    """What cells have after a step, where losses beyond some nats count by their logarithm."""
    lost = (after - before).clamp(min=0)
    return after - lost + _LOST * (lost / _LOST).log1p()


def _value(module: DGDModule, encoder: QueryEncoder, tensors: Tensors) -> tuple[float, int]:
    """The objective after the steps, summed, and the number of cells."""
    z, before, _ = _stepped(module, encoder, tensors)
    value = _robust(neg_log_kernel(module, tensors, z), before)
    return float(value.sum()), len(value)


def _stepped(
    module: DGDModule, encoder: QueryEncoder, tensors: Tensors
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Where the steps of cells end, ``(b, d)``, :math:`J` where they start, and twice what the last promises, ``(b,)``."""
    inputs = encoder.inputs(tensors)
    z = encoder.network(inputs)
    first, gradient = _at(module, tensors, z)
    for step in range(N_LEARNED):
        gradient = _at(module, tensors, z)[1] if step else gradient
        delta = encoder.step(inputs, z, gradient)
        z = z + delta
    return z, first, -(gradient * delta).sum(1)


def _at(module: DGDModule, tensors: Tensors, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """:math:`J`, ``(b,)``, and its gradient, ``(b, d)``."""
    with torch.enable_grad():
        leaf = z.detach().requires_grad_()
        value = neg_log_kernel(module, tensors, leaf)
        (gradient,) = torch.autograd.grad(value.sum(), leaf)
    return value.detach(), gradient


def _mean(sums: Iterable[tuple[float, int]]) -> float:
    total, n = map(sum, zip(*sums, strict=True))
    return total / n
