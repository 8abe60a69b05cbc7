"""Parameters of a likelihood that belong to genes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn.functional import softplus

if TYPE_CHECKING:
    from scdgd.likelihood import FamilyParameter, Likelihood


class FamilyParameters(nn.Module):
    r"""What a family has beside its linear predictor, by name: each ``(g,)``, or ``(n_batch, g)``.

    Under its name stands what training moves: of a log inverse dispersion with a floor, :math:`\rho` of
    :math:`\theta = 1 + e^\rho`. Values are read by index, ``parameters["log_theta"]``.

    Parameters
    ----------
    family
        The family.
    n_genes
        Number of genes.
    n_batch
        Number of batches, each with parameters of its own, but for those that are decoded where there is an encoder;
        ``None`` for the same in all.
    dispersion_floor
        Least inverse dispersion, 0 or 1.

    Raises
    ------
    ValueError
        If a parameter has several numbers for each gene.
    """

    def __init__(
        self, family: type[Likelihood], n_genes: int, n_batch: int | None = None, dispersion_floor: int = 0
    ) -> None:
        super().__init__()
        self.family, self.dispersion_floor = family, dispersion_floor
        for name, parameter in family.own_parameters.items():
            if parameter.width is not None:
                msg = f"`{name}` of a {family.__name__} has several numbers for each gene, which a decoder with an encoder gives."
                raise ValueError(msg)
            shape = (n_genes,) if n_batch is None or parameter.is_decoded else (n_batch, n_genes)
            start = math.log(math.exp(parameter.start) - 1) if self._has_floor(parameter) else parameter.start
            self.register_parameter(name, nn.Parameter(torch.full(shape, float(start))))

    def _has_floor(self, parameter: FamilyParameter) -> bool:
        return parameter.is_dispersion and self.dispersion_floor == 1

    def __getitem__(self, name: str) -> torch.Tensor:
        """Value of a parameter."""
        value = getattr(self, name)
        return softplus(value) if self._has_floor(self.family.own_parameters[name]) else value

    def of_genes(self) -> list[torch.Tensor]:
        """Values in the order of the family, those of several batches averaged: each ``(g,)``, in double."""
        values = (self[name].double() for name in self.family.parameter_names)
        return [value if value.ndim == 1 else value.mean(0) for value in values]

    def of_cells(
        self, batch_index: torch.Tensor, genes: torch.Tensor | slice = slice(None)
    ) -> tuple[torch.Tensor, ...]:
        """What the likelihood of some genes of the cells of batches ``(b, 1)`` takes, each ``(m,)`` or ``(b, m)``.

        Batches that came after training have the mean over those of training.
        """
        return tuple(self._of_cells(name, batch_index, genes) for name in self.family.parameter_names)

    def _of_cells(self, name: str, batch_index: torch.Tensor, genes: torch.Tensor | slice) -> torch.Tensor:
        value = self[name][..., genes]
        if value.ndim > 1:
            codes = batch_index.ravel().long()
            if (codes >= len(value)).any():
                value, codes = torch.cat([value, value.mean(0, keepdim=True)]), codes.clamp(max=len(value))
            return value[codes]
        # the compiled likelihood takes those of every cell
        return value.expand(len(batch_index), -1) if self.family.own_parameters[name].is_decoded else value

    @torch.no_grad()
    def start_at(self, variance: torch.Tensor | None = None, profile: torch.Tensor | None = None) -> None:
        """Start at what the variance of values, or the mean profile of counts, ``(g,)`` says, where it says anything."""
        for name, value in self.family.parameters_at(variance, profile).items():
            parameter = getattr(self, name)
            parameter.copy_(value.expand_as(parameter))
