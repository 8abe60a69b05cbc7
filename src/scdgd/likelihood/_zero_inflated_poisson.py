"""Zero-inflated Poisson counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from ._poisson import Poisson
from ._zero_inflation import ZI_LOGITS, ZeroInflated

if TYPE_CHECKING:
    from types import SimpleNamespace

    import torch


class ZeroInflatedPoisson(ZeroInflated):
    r"""Poisson with mean :math:`\mu`, of which a share :math:`\pi` was replaced by zeros; see :class:`ZeroInflated`.

    Its variance is :math:`(1 - \pi)(\mu + \pi\mu^2)`.

    Parameters
    ----------
    log_mean
        Log of the Poisson's mean, shape ``(..., b, g)``.
    zi_logits
        Logits of the share of structural zeros, shape ``(g,)`` or that of `log_mean`.
    """

    own_parameters: ClassVar = {"zi_logits": ZI_LOGITS}
    can_be_split = True
    base: ClassVar = Poisson

    def __init__(self, log_mean: torch.Tensor, zi_logits: torch.Tensor) -> None:
        super().__init__(log_mean, zi_logits)

    @property
    def rate(self) -> torch.Tensor:
        """The Poisson's mean, under the name that scvi-tools gives it."""
        return self.mu

    @staticmethod
    def compiled_terms() -> SimpleNamespace:
        """Compiled terms, by numba."""
        from . import _compiled_poisson
        from ._compiled_zero_inflation import inflate

        return inflate(_compiled_poisson)
