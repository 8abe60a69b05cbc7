"""Weights of modalities by the information that they have of representations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from lightning.pytorch.callbacks import Callback

from scdgd.inference import information_of_modalities

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scdgd.module import DGDModule

#: The largest weight of a modality, relative to that of the likelihood, and the inverse of the least.
_MOST = 10.0


class InformationBalance(Callback):
    r"""Before each epoch but the first, weighs modalities so that all have the same information of representations.

    .. math::
        w_m = \frac{\bar I}{I_m}, \qquad I_m = \frac{1}{n_m} \sum_i \operatorname{tr} F_{im}, \qquad \bar I = \frac1M \sum_m I_m

    with the Fisher information :math:`F_{im}` of the values of modality :math:`m` in cell :math:`i`, over some training cells that have
    it; weights are between a tenth and ten. They move half of the way in logs, so that an epoch by chance does not change them.

    Parameters
    ----------
    minibatches
        Some training cells, as the data loader gives them.
    """

    def __init__(self, minibatches: Sequence[dict[str, torch.Tensor]]) -> None:
        self.minibatches = minibatches

    def on_train_epoch_start(self, trainer: object, pl_module: torch.nn.Module) -> None:
        """Weigh them."""
        if trainer.current_epoch == 0:
            return
        module: DGDModule = pl_module.module
        information = information_of_modalities(module, self.minibatches)
        wanted = (information.mean() / information).clamp(1 / _MOST, _MOST)
        module.modality_weights.copy_((module.modality_weights * wanted).sqrt())
