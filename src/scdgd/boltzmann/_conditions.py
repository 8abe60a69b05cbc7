"""What a Boltzmann machine of counts is conditioned on."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Iterable


class Conditions(NamedTuple):
    """What the machine is conditioned on, for ``n`` cells or chains."""

    batch: torch.Tensor
    """Batches, shape ``(n,)``, int64."""
    size: torch.Tensor
    """Size factors, shape ``(n,)``; ones if sizes are not modelled."""
    evidence: torch.Tensor | None = None
    r"""What genes with fixed counts add to the log-odds of :math:`h^1`, shape ``(n, H_1)``; ``None`` where no gene is fixed."""

    def of(self, rows: torch.Tensor) -> Conditions:
        """Those of some of the cells."""
        return Conditions(*(None if values is None else values[rows] for values in self))

    @classmethod
    def joined(cls, parts: Iterable[Conditions]) -> Conditions:
        """Batches and sizes of several minibatches, one after another."""
        batches, sizes, _ = zip(*parts, strict=True)
        return cls(torch.cat(batches), torch.cat(sizes))
