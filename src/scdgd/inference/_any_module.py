"""One face for modules with a table, with an encoder, and of scvi-tools: what drawing cells asks of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from scvi import REGISTRY_KEYS
from scvi.module import LDVAE, VAE

from scdgd._compat import MODULE_KEYS
from scdgd.data import SparseCounts
from scdgd.module import DGDModule, FlexVAE
from scdgd.prior import Prior, StandardNormal

from ._posterior import posterior_draws

if TYPE_CHECKING:
    from torch.distributions import Distribution

    from scdgd.likelihood import CountLikelihood

Tensors = dict[str, torch.Tensor]

#: Modules of scvi-tools with a standard normal prior.
_STOCK = (VAE, LDVAE)


def check_module(module: torch.nn.Module) -> None:
    """Raise TypeError unless the functions of this file know the module."""
    if not isinstance(module, DGDModule | FlexVAE) and type(module) not in _STOCK:
        msg = (
            f"Cells are drawn from models of scdgd, `scvi.model.SCVI` and `scvi.model.LinearSCVI`, not from a model "
            f"with the module {type(module).__name__}, whose prior is another one. Use the model's own "
            "`posterior_predictive_sample`, if it has one."
        )
        raise TypeError(msg)


def prior_of(module: DGDModule | VAE) -> Prior:
    """Prior of representations, for the encoder as it is now."""
    if isinstance(module, FlexVAE):
        return module.given_prior()
    if isinstance(module, DGDModule):
        return module.prior
    return StandardNormal(module.n_latent).to(module.device)


def n_components_of(module: DGDModule | VAE) -> int:
    """Number of components of the prior, one for stock models."""
    return 1 if type(module) in _STOCK else module.prior.n_components


def log_size_of(module: DGDModule | VAE, tensors: Tensors) -> torch.Tensor:
    r"""Log of what a model multiplies decoded profiles with, for the cells of a minibatch, shape ``(b, 1)``.

    That is :meth:`~scdgd.module.DGDModule.log_size` where the model has no encoder; else the registered size factor, or the
    total count, which minified data keep beside them.

    Parameters
    ----------
    module
        Module of a model.
    tensors
        Minibatch of ``b`` cells.
    """
    if isinstance(module, DGDModule):
        return module.log_size(tensors)
    x, registered = tensors[REGISTRY_KEYS.X_KEY], tensors.get(REGISTRY_KEYS.SIZE_FACTOR_KEY)
    if module.use_size_factor_key:
        return registered.log()
    total = tensors.get(REGISTRY_KEYS.OBSERVED_LIB_SIZE)
    if total is None:
        total = (x.totals() if isinstance(x, SparseCounts) else x.sum(1)).unsqueeze(1)
    return total.clamp(min=1).log()


def draw_posterior(module: DGDModule | VAE, tensors: Tensors, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Draws ``(n, b, d)`` of the posteriors of a minibatch, and log sizes, ``(n, b, 1)`` or ``(b, 1)``.

    Where the model infers sizes, they are draws, too.
    """
    if isinstance(module, DGDModule):
        rows = module.representations(tensors[REGISTRY_KEYS.INDICES_KEY].ravel())
        return posterior_draws(module, tensors, rows, n), log_size_of(module, tensors)
    given = tensors if isinstance(module, FlexVAE) else _dense(tensors)
    outputs = module.inference(**module._get_inference_input(given), n_samples=n)
    z = outputs[MODULE_KEYS.Z_KEY]
    if module.use_observed_lib_size:
        return z.reshape(n, -1, z.shape[-1]), log_size_of(module, tensors)
    return z.reshape(n, -1, z.shape[-1]), outputs[MODULE_KEYS.LIBRARY_KEY].reshape(n, -1, 1)


def decode(
    module: DGDModule | VAE, z: torch.Tensor, log_size: torch.Tensor, tensors: Tensors
) -> Distribution | CountLikelihood:
    """Law of the counts at representations ``(b, d)`` and log sizes ``(b, 1)``, with the covariates of `tensors`."""
    if isinstance(module, DGDModule):
        return module.generative(z, log_size, **module.covariates(tensors))[MODULE_KEYS.PX_KEY]
    inputs = module._get_generative_input(tensors, {MODULE_KEYS.Z_KEY: z, MODULE_KEYS.LIBRARY_KEY: log_size})
    if inputs[MODULE_KEYS.SIZE_FACTOR_KEY] is not None:
        inputs[MODULE_KEYS.SIZE_FACTOR_KEY] = log_size
    return module.generative(**inputs)[MODULE_KEYS.PX_KEY]


def _dense(tensors: Tensors) -> Tensors:
    """Dense counts, which stock modules want."""
    x = tensors[REGISTRY_KEYS.X_KEY]
    return tensors | {REGISTRY_KEYS.X_KEY: x.to_dense() if isinstance(x, SparseCounts) else x}
