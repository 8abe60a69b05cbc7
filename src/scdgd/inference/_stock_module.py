"""Adapter that gives modules of scvi-tools the interface of ours; the only place that asks for the type of a module."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

from scvi import REGISTRY_KEYS
from scvi.module import LDVAE, VAE

from scdgd.data import SparseCounts
from scdgd.module import EncodedLatentMixin
from scdgd.prior import StandardNormal

from ._encoder_posterior import log_standard_normal

if TYPE_CHECKING:
    import torch
    from scvi.module.base import BaseModuleClass

    from scdgd.module import LatentModule

#: Modules of scvi-tools with a standard normal prior; subclasses, such as SCANVAE, have priors of their own.
_WITH_STANDARD_NORMAL = (VAE, LDVAE)


def latent_module(module: BaseModuleClass) -> LatentModule:
    """The module itself if it is a :class:`~scdgd.module.LatentModule`, else one that stands for it."""
    return module if hasattr(module, "draw_posterior") else StockModule(module)


def knows_prior(module: BaseModuleClass) -> bool:
    """Whether the prior of what :func:`latent_module` gives is the module's own."""
    return hasattr(module, "draw_posterior") or type(module) in _WITH_STANDARD_NORMAL


class StockModule(EncodedLatentMixin):
    """A module of scvi-tools as a :class:`~scdgd.module.LatentModule`; all else is asked of the module.

    Parameters
    ----------
    module
        A :class:`scvi.module.VAE`, or another one that is only to decode.
    """

    def __init__(self, module: BaseModuleClass) -> None:
        self.module = module

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)

    @functools.cached_property
    def prior(self) -> StandardNormal:
        """Standard normal, on the device of the module."""
        return _StockPrior(self.module.n_latent).to(self.module.device)

    def given_prior(self) -> StandardNormal:
        """The prior."""
        return self.prior

    def transformed(self, z: torch.Tensor) -> torch.Tensor:
        """Identity, or the softmax of a logistic normal."""
        return super().transformed(z) if isinstance(self.module, VAE) else z

    def _get_inference_input(self, tensors: dict[str, torch.Tensor]) -> dict:
        """With dense counts, which stock modules want."""
        x = tensors[REGISTRY_KEYS.X_KEY]
        dense = x.to_dense() if isinstance(x, SparseCounts) else x
        return self.module._get_inference_input(tensors | {REGISTRY_KEYS.X_KEY: dense})


class _StockPrior(StandardNormal):
    log_prob = staticmethod(log_standard_normal)
