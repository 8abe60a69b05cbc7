"""The interface of a module with a continuous latent space."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
from scvi import REGISTRY_KEYS

from scdgd._compat import MODULE_KEYS
from scdgd.data import SparseCounts

if TYPE_CHECKING:
    from torch.distributions import Distribution

    from scdgd.likelihood import CountLikelihood, ValueLikelihood
    from scdgd.prior import Prior

Tensors = dict[str, torch.Tensor]


class LatentModule(Protocol):
    """A module of which cells can be drawn and posteriors be found; minibatches have ``b`` cells.

    Modules of scvi-tools become one by :func:`scdgd.inference.latent_module`.
    """

    prior: Prior
    """Prior of representations."""
    keeps_rows: bool
    """Whether cells have rows of a table, which must have been found for a minibatch."""
    has_size: bool
    """Whether decoded profiles are multiplied with the size of a cell."""

    def given_prior(self) -> Prior:
        """Prior of representations, for the encoder as it is now."""

    def log_size(self, tensors: Tensors) -> torch.Tensor:
        """Log of what decoded profiles are multiplied with, for the cells of a minibatch, shape ``(b, 1)``."""

    def has_sizes(self, tensors: Tensors) -> torch.Tensor:
        """Whether these sizes are those of the cells, not the usual ones of what a cell lacks, shape ``(b, 1)``, bool."""

    def transformed(self, z: torch.Tensor) -> torch.Tensor:
        """What the decoder takes for draws of the prior, ``(b, d)``."""

    def decode(self, z: torch.Tensor, log_size: torch.Tensor, tensors: Tensors) -> Distribution | CountLikelihood:
        """Law of the counts at representations ``(b, d)`` and log sizes ``(b, 1)``, with the covariates of `tensors`."""

    def draw_posterior(self, tensors: Tensors, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Draws ``(n, b, d)`` of the posteriors, and log sizes: ``(b, 1)``, or draws ``(n, b, 1)`` if they are inferred."""

    def variational_posterior(self, tensors: Tensors) -> Distribution:
        """Posteriors ``q`` of the bound that training raises, batch shape ``(b, d)``; NotImplementedError if there are none."""


class EncodedLatentMixin:
    """How a :class:`scvi.module.VAE` is a :class:`LatentModule`, but for its prior."""

    keeps_rows = False
    has_size = True
    has_flow = False

    def log_size(self, tensors: Tensors) -> torch.Tensor:
        """The registered size factor, or the total count, which minified data keep beside them."""
        if self.use_size_factor_key:
            return tensors[REGISTRY_KEYS.SIZE_FACTOR_KEY].log()
        total = tensors.get(REGISTRY_KEYS.OBSERVED_LIB_SIZE)
        if total is None:
            total = totals_of(tensors[REGISTRY_KEYS.X_KEY]).unsqueeze(1)
        return total.clamp(min=1).log()

    def has_sizes(self, tensors: Tensors) -> torch.Tensor:
        """All are."""
        return torch.ones_like(tensors[REGISTRY_KEYS.BATCH_KEY], dtype=torch.bool)

    def transformed(self, z: torch.Tensor) -> torch.Tensor:
        """Identity, or the softmax of a logistic normal."""
        return self.z_encoder.z_transformation(z)

    def decode(
        self, z: torch.Tensor, log_size: torch.Tensor, tensors: Tensors
    ) -> Distribution | CountLikelihood | ValueLikelihood:
        """See :class:`LatentModule`."""
        inputs = self._get_generative_input(tensors, {MODULE_KEYS.Z_KEY: z, MODULE_KEYS.LIBRARY_KEY: log_size})
        if inputs[MODULE_KEYS.SIZE_FACTOR_KEY] is not None:
            inputs[MODULE_KEYS.SIZE_FACTOR_KEY] = log_size
        return self.generative(**inputs)[MODULE_KEYS.PX_KEY]

    def draw_posterior(self, tensors: Tensors, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """See :class:`LatentModule`."""
        outputs = self.inference(**self._get_inference_input(tensors), n_samples=n)
        z = outputs[MODULE_KEYS.Z_KEY]
        if self.use_observed_lib_size:
            return z.reshape(n, -1, z.shape[-1]), self.log_size(tensors)
        return z.reshape(n, -1, z.shape[-1]), outputs[MODULE_KEYS.LIBRARY_KEY].reshape(n, -1, 1)

    def variational_posterior(self, tensors: Tensors) -> Distribution:
        """See :class:`LatentModule`."""
        return self.inference(**self._get_inference_input(tensors))[MODULE_KEYS.QZ_KEY]


def totals_of(x: SparseCounts | torch.Tensor) -> torch.Tensor:
    """Total of each cell of ``(b, g)``, shape ``(b,)``."""
    return x.totals() if isinstance(x, SparseCounts) else x.sum(1)
