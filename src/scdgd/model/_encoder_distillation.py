"""The training of the encoder of new cells, on the cells that a model was trained on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scvi import REGISTRY_KEYS, settings

from scdgd.data import SparseCountsLoader
from scdgd.inference import fisher_information, seeded
from scdgd.module import QueryEncoder

if TYPE_CHECKING:
    from scdgd.train import Distillation

    from ._latent_model import LatentModel

_STEPS, _MIN_EPOCHS, _MAX_EPOCHS = 2_000, 10, 200
#: Cells from which the encoder learns what is usual.
_TYPICAL_CELLS = 4_096
#: Cells of which the curvature is known when the step begins to learn.
_CURVED_CELLS = 256


class EncoderDistillation:
    """One call of :meth:`SCDGD.train_encoder`: which cells train, which are held out, and in what order they come.

    Random numbers are drawn from the seed of scvi-tools' settings, or 0, and leave no trace.

    Parameters
    ----------
    model
        Trained model, on its training cells.
    validation_size
        Share of the cells that are held out, at least one cell.
    batch_size
        Cells of a step.
    """

    def __init__(self, model: LatentModel, *, validation_size: float, batch_size: int) -> None:
        self.model, self.batch_size, self.seed = model, batch_size, settings.seed or 0
        model._validate_anndata(None)
        rows = model.adata_manager.rows
        cells = np.flatnonzero((rows >= 0) & (rows < len(model.module.representations)))
        if model.is_query_ or len(cells) < 2:
            msg = (
                "An encoder learns from the cells that a model was trained on, and those attached are others. Call "
                "`train_encoder` of the reference before `load_query_data(adata, reference)`, or attach its cells."
            )
            raise ValueError(msg)
        order = np.random.default_rng(self.seed).permutation(cells)
        n_held_out = min(max(1, round(validation_size * len(cells))), len(cells) - 1)
        self.held_out, self.training = np.sort(order[:n_held_out]), np.sort(order[n_held_out:])

    def default_epochs(self) -> int:
        """As many as give 2,000 steps."""
        return int(np.clip(_STEPS * self.batch_size / len(self.training), _MIN_EPOCHS, _MAX_EPOCHS))

    def __call__(self, distil: Distillation, n_hidden: int, *, show_progress: bool) -> list[tuple[float, float]]:
        """Train an encoder and give it to the module, when it is done; what it cost, epoch by epoch."""
        module = self.model.module
        with seeded(self.seed):
            typical = next(iter(self._loader(self.training, min(len(self.training), _TYPICAL_CELLS), shuffle=True)))
            typical = {key: value.to(module.device) for key, value in typical.items()}
            encoder = QueryEncoder.beside(module, typical, n_hidden)
            encoder.step.start_at(self._usual_curvature(typical))
            training = self._loader(self.training, self.batch_size, shuffle=True)
            held_out = self._loader(self.held_out, self.batch_size)
            history = distil(module, encoder, training, held_out, show_progress=show_progress)
        module.query_encoder = encoder.eval().requires_grad_(False)
        return history

    @torch.no_grad()
    def _usual_curvature(self, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        """Mean curvature at the representations of some cells, ``(d, d)``."""
        module = self.model.module
        few = {
            key: value[torch.arange(min(_CURVED_CELLS, len(value)), device=value.device)]
            for key, value in tensors.items()
        }
        rows = module.representations(few[REGISTRY_KEYS.INDICES_KEY].ravel())
        return fisher_information(module, few, module.posterior.moments(rows)[0]).mean(0)

    def _loader(self, cells: np.ndarray, batch_size: int, *, shuffle: bool = False) -> SparseCountsLoader:
        return SparseCountsLoader(self.model.adata_manager, indices=cells, batch_size=batch_size, shuffle=shuffle)
