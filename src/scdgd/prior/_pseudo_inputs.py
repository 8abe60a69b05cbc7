"""Pseudo-inputs: trainable cells for the encoder."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.distributions import SoftplusTransform

_MIN_COUNT = -1 + 1e-6

_softplus = SoftplusTransform()


class EncoderInput(NamedTuple):
    """What the encoder reads of a cell."""

    counts: torch.Tensor
    """Counts in the encoder's own units, before log1p, above -1; shape ``(k, g)``."""
    continuous: torch.Tensor | None
    """Continuous covariates, shape ``(k, n_continuous)``, or ``None``."""
    categories: tuple[torch.Tensor, ...]
    """Weights of the categories of each categorical input, shapes ``(k, n_categories)``; rows lie on the simplex."""


Encode = Callable[[EncoderInput], tuple[torch.Tensor, torch.Tensor]]


class PseudoInputs(nn.Module):
    r"""Trainable encoder inputs :math:`u_1 \dots u_k`, one for each component of a VampPrior.

    .. math::
        u_{cj} = \log(1 + e^{v_{cj}}) - 1

    so that counts lie in :math:`(-1, \infty)`, where log1p is defined, and a zero is the finite value :math:`v = 0.541`;
    softplus alone could not hold zeros, of which counts are full (released code of Stirn & Knowles 2024). Rounding is
    kept off -1 itself by a bound at :math:`-1 + 10^{-6}`. Category weights are a softmax of logits, from 0: a
    pseudo-input belongs to all batches alike.

    All pseudo-inputs start as empty cells; :meth:`place` tells them apart.

    Parameters
    ----------
    n_components
        Number of pseudo-inputs ``k``.
    n_genes
        Number of genes ``g``.
    n_continuous
        Number of continuous covariates.
    n_categories
        Number of categories of each categorical input. An input with one category has weight one and no parameter.
    nonnegative
        Whether inputs are counts; ``False`` leaves `genes` unconstrained, for inputs of either sign.

    Attributes
    ----------
    placed
        Whether :meth:`place` was called.
    n_trained_categories
        Number of categories that weights are spread over, for each categorical input. Categories appended after training
        (a query batch) have weight exactly 0 and leave all else as it was.
    """

    def __init__(
        self,
        n_components: int,
        n_genes: int,
        n_continuous: int = 0,
        n_categories: Sequence[int] = (),
        *,
        nonnegative: bool = True,
    ) -> None:
        super().__init__()
        self.n_components, self.n_categories, self.nonnegative = n_components, tuple(n_categories), nonnegative
        self.genes = nn.Parameter(self._unconstrained(torch.zeros(n_components, n_genes)))
        self.continuous = nn.Parameter(torch.zeros(n_components, n_continuous)) if n_continuous else None
        self.category_logits = nn.ParameterDict(
            {str(i): torch.zeros(n_components, n) for i, n in enumerate(self.n_categories) if n > 1}
        )
        self.register_buffer("n_trained_categories", torch.tensor(self.n_categories, dtype=torch.int64))
        self.register_buffer("placed", torch.tensor(False))

    def forward(self) -> EncoderInput:
        """Pseudo-inputs as the encoder reads them."""
        counts = (_softplus(self.genes) - 1).clamp(min=_MIN_COUNT) if self.nonnegative else self.genes
        trained = self.n_trained_categories.tolist()
        categories = tuple(self._category_weights(i, n) for i, n in enumerate(trained))
        return EncoderInput(counts, self.continuous, categories)

    def _category_weights(self, index: int, n_trained: int) -> torch.Tensor:
        n = self.n_categories[index]
        if n <= 1:
            return self.genes.new_ones(self.n_components, n)
        weights = torch.softmax(self.category_logits[str(index)][:, :n_trained], dim=-1)
        return nn.functional.pad(weights, (0, n - n_trained))

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        # an input of one category has no logits; when a query appends others, those of the new model stay, unused
        trained = state_dict.get(f"{prefix}n_trained_categories", self.n_trained_categories)
        for index, logits in self.category_logits.items():
            if trained[int(index)] <= 1:
                state_dict.setdefault(f"{prefix}category_logits.{index}", logits.detach())
        super()._load_from_state_dict(state_dict, prefix, *args)

    def _unconstrained(self, counts: torch.Tensor) -> torch.Tensor:
        return _softplus.inv(counts + 1) if self.nonnegative else counts

    @torch.no_grad()
    def place(self, counts: torch.Tensor, continuous: torch.Tensor | None = None) -> None:
        """Put cells in.

        Parameters
        ----------
        counts
            Counts in the encoder's own units, before log1p; shape ``(k, g)``.
        continuous
            Their continuous covariates, shape ``(k, n_continuous)``; ``None`` leaves those as they are.

        Raises
        ------
        ValueError
            If a shape differs, or a count is below zero where inputs are counts.
        """
        for name, value, parameter in (("counts", counts, self.genes), ("continuous", continuous, self.continuous)):
            expected = None if parameter is None else tuple(parameter.shape)
            if value is not None and tuple(value.shape) != expected:
                msg = f"`{name}` must have shape {expected}, got {tuple(value.shape)}."
                raise ValueError(msg)
        if self.nonnegative and not (counts >= 0).all():
            msg = (
                f"`counts` must not be negative, but the smallest is {float(counts.min())}; "
                "use `nonnegative=False` for inputs of either sign."
            )
            raise ValueError(msg)
        self.genes.copy_(self._unconstrained(counts.to(self.genes)))
        if continuous is not None:
            self.continuous.copy_(continuous)
        self.placed.fill_(True)
