"""Whether the losses of minibatches are finite."""

from __future__ import annotations

from typing import Any

import torch

from scdgd import _devices


class FiniteLosses:
    """Looks at the loss of each minibatch; where Python runs ahead of the device, at those of an epoch when it has ended.

    Parameters
    ----------
    device
        Where losses are.
    """

    def __init__(self, device: torch.device) -> None:
        self._waits = _devices.runs_ahead(device)
        self._noted: list[tuple[torch.Tensor, Any]] = []

    def note(self, loss: torch.Tensor, of: Any) -> Any | None:
        """Note a loss, shape ``()``, and what it is `of`, which is given back if it is known not to be finite."""
        self._noted.append((loss.detach(), of))
        return None if self._waits else self.first_not_finite()

    def first_not_finite(self) -> Any | None:
        """What the first loss that is not finite is of, of those noted since the last look; ``None`` if all are finite."""
        noted, self._noted = self._noted, []
        if not noted:
            return None
        is_finite = torch.isfinite(torch.stack([loss for loss, _ in noted]))
        return None if is_finite.all() else noted[int(is_finite.int().argmin())][1]
