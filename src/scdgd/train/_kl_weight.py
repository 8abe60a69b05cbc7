"""The weight of the divergence, where the device is."""

from __future__ import annotations

import torch


class KLWeightMixin:
    """Training plans whose weight of the divergence is copied to the device when it changes, not for each minibatch.

    scvi-tools copies it whenever it is asked for, and each copy waits until the device has done all before it.
    """

    _kl_weight: tuple[tuple[int, int | None, torch.device], torch.Tensor] | None = None

    @property
    def kl_weight(self) -> torch.Tensor:
        """scvi-tools' weight, shape ``()``, of this epoch, or of this step if it changes with steps."""
        now = self.current_epoch, self.global_step if self.n_steps_kl_warmup else None, self.device
        if self._kl_weight is None or self._kl_weight[0] != now:
            self._kl_weight = now, super().kl_weight
        return self._kl_weight[1]
