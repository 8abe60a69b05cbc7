"""How the encoder of new cells is trained, beside a model that stays as it is."""

from __future__ import annotations

import copy
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import torch
from scvi import REGISTRY_KEYS
from scvi.utils import track

from scdgd._constants import MEASURED_KEY
from scdgd.data import SparseCounts, as_sparse_counts
from scdgd.inference._joint_density import frozen, neg_log_kernel

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scdgd.module import DGDModule, QueryEncoder

    Tensors = dict[str, torch.Tensor]

#: Shares of the cells of a minibatch that are thinned, and of the minibatches of which some genes are left out.
_THINNED, _MASKED = 0.5, 0.25
#: The least share of its counts that a thinned cell keeps, and of the genes that are left.
_LEAST_DEPTH, _LEAST_PANEL = 0.2, 0.05
#: Share of the epochs in which the rate rises.
_WARM_UP = 0.2


class Distillation(NamedTuple):
    r"""An encoder :math:`f` learns where the modes of representations are, with decoder and prior frozen.

    .. math::
        \min_f\; \mathbb E_{x'} \big[ -\log p(x' \mid f(x')) - \log p(f(x') \mid \phi) \big]

    which is what Gauss-Newton steps go on to minimise for each cell (amortised inference of the mode). The cells
    :math:`x'` are training cells; half of those of a minibatch are thinned, each count binomially, to a share of depth
    between 0.2 and 1, and of every fourth minibatch a random panel of genes is left. The target of a copy is its own mode,
    not the representation of the whole cell, which the copy does not determine.

    Adam's rate rises linearly over a fifth of the epochs and then falls linearly to zero. After each epoch the same objective is taken over training cells that were held
    out, whole; the encoder that is best there is kept, and training ends when none has been better for `patience` epochs.
    """

    max_epochs: int
    """Most passes over the cells."""
    lr: float = 4e-3
    """Highest rate of Adam."""
    patience: int = 30
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
        Objective of the copies and of cells held out, in nats per cell without what no representation changes, by epoch.
        """
        optimizer = torch.optim.Adam(encoder.parameters(), lr=self.lr)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, self._share_of_rate)
        history, best, best_epoch, state = [], float("inf"), 0, None
        copies = partial(copies_of, of_counts=module.link.is_of_counts)
        with frozen(module):
            for epoch in track(range(self.max_epochs), description="Training the encoder", disable=not show_progress):
                loss = _mean(_step(module, encoder, copies(_on(module, cells)), optimizer) for cells in training)
                schedule.step()
                value = _mean(_value(module, encoder, _on(module, cells)) for cells in held_out)
                history.append((loss, value))
                if value < best:
                    best, best_epoch, state = value, epoch, copy.deepcopy(encoder.state_dict())
                elif epoch - best_epoch >= self.patience:
                    break
        if state is not None:
            encoder.load_state_dict(state)
        return history

    def _share_of_rate(self, epoch: int) -> float:
        """Of the highest rate, in an epoch from 0."""
        done = (epoch + 1) / (self.max_epochs + 1)
        return min(done / _WARM_UP, (1 - done) / (1 - _WARM_UP))


def copies_of(tensors: Tensors, *, of_counts: bool = True) -> Tensors:
    """Copies of cells, thinned if values are counts, and of fewer genes at random; those that keep no value are left out."""
    x = as_sparse_counts(tensors[REGISTRY_KEYS.X_KEY])
    depth = torch.where(_random(len(x), x) < _THINNED, _LEAST_DEPTH + (1 - _LEAST_DEPTH) * _random(len(x), x), 1.0)
    copies = thinned(tensors, depth) if of_counts else tensors
    if float(_random(1, x)) < _MASKED:
        panel = _random(x.n_genes, x) < _LEAST_PANEL + (1 - _LEAST_PANEL) * _random(1, x)
        copies = on_panel(copies, panel)
    copies = {**copies, REGISTRY_KEYS.X_KEY: as_sparse_counts(copies[REGISTRY_KEYS.X_KEY])}
    kept = copies[REGISTRY_KEYS.X_KEY].indptr.diff().nonzero().ravel()
    return {key: value[kept] for key, value in copies.items()}


def thinned(tensors: Tensors, depth: torch.Tensor) -> Tensors:
    """The same cells, of whose counts shares ``(b,)`` were seen, drawn binomially; registered sizes shrink with them."""
    x = as_sparse_counts(tensors[REGISTRY_KEYS.X_KEY])
    copies = {**tensors, REGISTRY_KEYS.X_KEY: _with_values(x, torch.binomial(x.values, depth[x.cells]))}
    if REGISTRY_KEYS.SIZE_FACTOR_KEY in tensors:
        copies[REGISTRY_KEYS.SIZE_FACTOR_KEY] = tensors[REGISTRY_KEYS.SIZE_FACTOR_KEY] * depth.unsqueeze(1)
    return copies


def on_panel(tensors: Tensors, panel: torch.Tensor) -> Tensors:
    """The same cells, of which the genes of a panel ``(g,)``, bool, were measured and no others."""
    x = as_sparse_counts(tensors[REGISTRY_KEYS.X_KEY])
    measured = tensors.get(MEASURED_KEY, torch.ones(x.shape, dtype=torch.bool, device=x.device)) & panel
    return {
        **tensors,
        REGISTRY_KEYS.X_KEY: _with_values(x, torch.where(panel[x.indices], x.values, 0)),
        MEASURED_KEY: measured,
    }


def _with_values(x: SparseCounts, values: torch.Tensor) -> SparseCounts:
    """Entries with other values, without those that are zero."""
    kept = values != 0
    indptr = torch.zeros_like(x.indptr)
    torch.cumsum(torch.bincount(x.cells[kept], minlength=len(x)), 0, out=indptr[1:])
    return SparseCounts(indptr, x.indices[kept], values[kept], x.n_genes)


def _random(n: int, x: SparseCounts) -> torch.Tensor:
    return torch.rand(n, device=x.device)


def _on(module: DGDModule, tensors: Tensors) -> Tensors:
    return {key: value.to(module.device) for key, value in tensors.items()}


def _step(module: DGDModule, encoder: QueryEncoder, tensors: Tensors, optimizer: torch.optim.Adam) -> tuple[float, int]:
    """One step; the sum of the objective over the minibatch, and its number of cells."""
    with torch.enable_grad():
        loss = neg_log_kernel(module, tensors, encoder(tensors))
        optimizer.zero_grad()
        loss.mean().backward()
    optimizer.step()
    return float(loss.detach().sum()), len(loss)


def _value(module: DGDModule, encoder: QueryEncoder, tensors: Tensors) -> tuple[float, int]:
    loss = neg_log_kernel(module, tensors, encoder(tensors))
    return float(loss.sum()), len(loss)


def _mean(sums: Iterable[tuple[float, int]]) -> float:
    total, n = map(sum, zip(*sums, strict=True))
    return total / n
