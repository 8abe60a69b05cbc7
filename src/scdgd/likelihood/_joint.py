"""Several modalities of the same cells."""

from __future__ import annotations

from copy import copy
from typing import TYPE_CHECKING, Literal, NoReturn, Self

import torch

from scdgd import _devices
from scdgd.data import SparseCounts, as_sparse_counts

from ._base import Likelihood

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from torch.distributions import Distribution


class JointLikelihood(Likelihood):
    r"""Independent values of several modalities, given representations: columns of one matrix, block by block.

    .. math::
        \log p(x_i \mid z_i) = \sum_m w_m h_{im} \log p(x_{im} \mid z_i)

    where :math:`h_{im}` is one if modality :math:`m` was measured in the cell, else zero: it then has no part in it. Weights
    :math:`w_m` other than one make an objective of it, which is no log probability.

    Parameters
    ----------
    parts
        Likelihood of each modality, of shapes ``(..., b, g_m)``.
    present
        Whether cells have the modality, ``(b,)``, bool; ``None`` if all have.
    weights
        Weight of each modality, ``(M,)``; ``None`` for one.
    """

    links = ()
    is_of_counts = can_leave_out_genes = True

    def __init__(
        self,
        parts: Sequence[Likelihood],
        present: Sequence[torch.Tensor | None],
        weights: torch.Tensor | None = None,
    ) -> None:
        self.parts, self.present = list(parts), list(present)
        self.weights = [1.0] * len(self.parts) if weights is None else weights.unbind()
        self.parameters = ()

    @property
    def widths(self) -> list[int]:
        """Number of features of each modality."""
        return [part._input.shape[-1] for part in self.parts]

    def _beside(self, function: Callable[[Likelihood], torch.Tensor]) -> torch.Tensor:
        """What a function gives of each modality, one beside the other, ``(..., b, g)``."""
        return torch.cat([function(part) for part in self.parts], dim=-1)

    def of_parts(
        self, function: Callable[[Likelihood, SparseCounts], torch.Tensor], values: SparseCounts | torch.Tensor
    ) -> list[torch.Tensor]:
        """What a function gives of each modality in those cells that have it, zero in others, each ``(..., b)``."""
        blocks = as_sparse_counts(values).split(self.widths)
        terms = [function(part, block) for part, block in zip(self.parts, blocks, strict=True)]
        given = zip(terms, self.present, strict=True)
        return [term if present is None else term.where(present, 0.0) for term, present in given]

    def _sum(
        self, function: Callable[[Likelihood, SparseCounts], torch.Tensor], values: SparseCounts | torch.Tensor
    ) -> torch.Tensor:
        """Weighted sum over modalities of what a function gives of those cells that have them, ``(..., b)``."""
        return sum(weight * term for weight, term in zip(self.weights, self.of_parts(function, values), strict=True))

    @property
    def eta(self) -> torch.Tensor:
        r"""Linear predictors, shape ``(..., b, g)``."""
        return self._beside(lambda part: part.eta)

    def log_prob(self, values: SparseCounts | torch.Tensor) -> torch.Tensor:
        """As of all likelihoods."""
        return self._sum(lambda part, block: part.log_prob(block), values)

    def log_kernel(self, values: SparseCounts) -> torch.Tensor:
        """Log probability less :meth:`log_constant`, values ``(b, g)`` to ``(b,)``, in double."""
        return self._sum(lambda part, block: part.log_kernel(block), values)

    def log_constant(self, values: SparseCounts) -> torch.Tensor:
        """Terms that no representation changes, values ``(b, g)`` to ``(b,)``, in double."""
        return self._sum(lambda part, block: part.log_constant(block), values)

    def measuring(self, measured: torch.Tensor | None) -> Self:
        """As of all likelihoods; a cell none of whose values of a modality were measured has no part of it."""
        if measured is None:
            return self
        likelihood = copy(self)
        given = [measured_and_present(block) for block in measured.split(self.widths, dim=-1)]
        likelihood.parts = [part.measuring(block) for part, (block, _) in zip(self.parts, given, strict=True)]
        likelihood.present = [present for _, present in given]
        return likelihood

    @property
    def mean(self) -> torch.Tensor:
        """Expected values, shape ``(..., b, g)``."""
        return self._beside(lambda part: part.mean)

    @property
    def variance(self) -> torch.Tensor:
        """Variance of the values, shape ``(..., b, g)``."""
        return self._beside(lambda part: part.variance)

    @property
    def log_zero_probability(self) -> torch.Tensor:
        """Log probability of a zero, shape ``(..., b, g)``."""
        return self._beside(lambda part: part.log_zero_probability)

    @property
    def scale(self) -> torch.Tensor:
        """Share of each feature in the expected values of its modality, shape ``(..., b, g)``."""
        return self._beside(lambda part: part.scale)

    def get_normalized(self, key: Literal["mu", "scale"]) -> torch.Tensor:
        """As of all likelihoods; shares are of the modality."""
        return self._beside(lambda part: part.get_normalized(key))

    def sample(self, sample_shape: Sequence[int] = ()) -> torch.Tensor:
        """Draws of the values, shape ``(*sample_shape, ..., b, g)``."""
        return self._beside(lambda part: part.sample(sample_shape))

    @classmethod
    def distribution(cls, mean: torch.Tensor, scale: torch.Tensor, parameters: Mapping[str, torch.Tensor]) -> NoReturn:
        """Not available: modalities have different families."""
        msg = "The values of several modalities have no distribution of one family."
        raise NotImplementedError(msg)

    @classmethod
    def read(cls, px: Distribution | Likelihood) -> dict[str, torch.Tensor]:
        """Mean and parameters, all ``(..., b, g)``; NaN where a modality does not have a parameter."""
        values = [type(part).read(part) for part in px.parts]
        names = dict.fromkeys(name for of_part in values for name in of_part)
        lacking = [torch.full_like(of_part["mean"], torch.nan) for of_part in values]
        pairs = list(zip(values, lacking, strict=True))
        return {name: torch.cat([of_part.get(name, nan) for of_part, nan in pairs], -1) for name in names}


def measured_and_present(measured: torch.Tensor) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """What was measured of a modality ``(b, m)``, bool, in the cells that have it, and which these are, ``(b,)``.

    Cells without it are as if all had been measured, so that every number is finite; their terms are left out of sums.
    ``None`` stands for all, where that is known without waiting for a device.
    """
    present = measured.any(-1)
    everywhere = measured | ~present.unsqueeze(-1)
    if _devices.runs_ahead(measured.device):
        return everywhere, present
    return (None if everywhere.all() else everywhere), (None if present.all() else present)
