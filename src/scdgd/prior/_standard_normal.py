"""The standard normal prior."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import nn

from ._covariance import diagonal_of
from ._gaussian_components import GaussianComponents
from ._moments import Moments

if TYPE_CHECKING:
    from ._pseudo_inputs import PseudoInputs


class StandardNormal(GaussianComponents):
    r"""One component :math:`\mathcal N(0, I)` without parameters.

    Parameters
    ----------
    n_latent
        Dimension ``d``.
    """

    updates: ClassVar[tuple[str, ...]] = ("em", "gradient")
    has_components: ClassVar[bool] = False

    def __init__(self, n_latent: int) -> None:
        super().__init__(1, n_latent)
        self.register_buffer("placed", torch.tensor(True))
        self.means = nn.Parameter(torch.zeros(1, self.n_latent), requires_grad=False)

    @classmethod
    def make(cls, n_components: int, n_latent: int, pseudo_inputs: PseudoInputs | None = None, **options: Any) -> Self:
        """As for any prior; the number of components is one."""
        return cls(n_latent, **options)

    @property
    def can_shrink(self) -> bool:
        """No."""
        return False

    @property
    def weights(self) -> torch.Tensor:
        """One, shape ``(1,)``."""
        return torch.ones_like(self.means[:, 0])

    @property
    def component_means(self) -> torch.Tensor:
        """Zero, shape ``(1, d)``."""
        return self.means

    @property
    def precisions(self) -> torch.Tensor:
        """Identity, shape ``(1, d, d)``."""
        return torch.diag_embed(torch.ones_like(self.means))

    def expected_log_prob(
        self, z: torch.Tensor, mean: torch.Tensor, var: torch.Tensor, given: Any = None
    ) -> torch.Tensor:
        r"""Exact: :math:`-\tfrac12 \sum_l (\log 2\pi + \nu_l^2 + \varsigma_l^2)`, shape ``(b,)``."""
        return -0.5 * (math.log(2 * math.pi) + mean.square() + diagonal_of(var, mean)).sum(-1)

    def m_step(self, moments: Moments, *, dirichlet_weight: float = 1.0) -> None:
        """Nothing to do: it does not train."""

    def _component_log_prob(self, z: torch.Tensor) -> torch.Tensor:
        return -0.5 * (math.log(2 * math.pi) + z.square()).sum(-1, keepdim=True)

    def _sample_components(self, components: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        zeros = self.means.expand(len(components), -1)
        return torch.randn(zeros.shape, generator=generator, device=zeros.device, dtype=zeros.dtype)
