"""Zero-inflated negative binomial counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from scvi import distributions

from ._negative_binomial import LOG_THETA, NegativeBinomial
from ._zero_inflation import ZI_LOGITS, ZeroInflated

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import SimpleNamespace

    import torch
    from torch.distributions import Distribution


class ZeroInflatedNegativeBinomial(ZeroInflated):
    r"""Negative binomial, of which a share :math:`\pi` was replaced by zeros; see :class:`ZeroInflated`.

    Its variance is :math:`(1 - \pi)(\mu + \mu^2/\theta + \pi\mu^2)`.

    Parameters
    ----------
    log_mean
        Log of the negative binomial's mean, shape ``(..., b, g)``.
    log_theta
        Log inverse dispersion, shape ``(g,)`` or that of `log_mean`.
    zi_logits
        Logits of the share of structural zeros, shape ``(g,)`` or that of `log_mean`.
    """

    own_parameters: ClassVar = {"log_theta": LOG_THETA, "zi_logits": ZI_LOGITS}
    has_gamma_rates = can_be_split = True
    base: ClassVar = NegativeBinomial

    def __init__(self, log_mean: torch.Tensor, log_theta: torch.Tensor, zi_logits: torch.Tensor) -> None:
        super().__init__(log_mean, log_theta, zi_logits)

    @classmethod
    def distribution(
        cls, mean: torch.Tensor, scale: torch.Tensor, parameters: Mapping[str, torch.Tensor]
    ) -> Distribution:
        """scvi-tools' own."""
        return distributions.ZeroInflatedNegativeBinomial(mu=mean, scale=scale, **parameters)

    @staticmethod
    def compiled_terms() -> SimpleNamespace:
        """Compiled terms, by numba."""
        from . import _compiled_negative_binomial
        from ._compiled_zero_inflation import inflate

        return inflate(_compiled_negative_binomial)
