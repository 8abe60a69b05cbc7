"""Values zero and one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch.nn.functional import logsigmoid

from scdgd.data import SparseCounts, as_sparse_counts

from ._base import ValueLikelihood, over_genes
from ._count_distribution import Normalized

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from torch.distributions import Distribution

#: Share of ones of a gene, beyond which a fit does not start.
_LEAST_SHARE = 1e-4


class Bernoulli(ValueLikelihood):
    r"""Binarised counts, with logits :math:`o` of a one.

    .. math::
        \ell(x) = x\, o - \log(1 + e^o) = \log\sigma\big((2x - 1)\, o\big)

    Parameters
    ----------
    logits
        Decoder output :math:`o`, shape ``(..., b, g)``.
    """

    is_real = takes_fractions = False
    can_leave_out_genes = True
    largest = 1.0
    values_are = "values 0 and 1"
    remedy = (
        "Binarise them: `adata.layers['binary'] = (adata.X > 0).astype('float32')`, and set up with `layer='binary'`."
    )

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__(logits)

    @classmethod
    def distribution(
        cls, mean: torch.Tensor, scale: torch.Tensor, parameters: Mapping[str, torch.Tensor]
    ) -> Distribution:
        """PyTorch's own; `mean` are logits."""
        return SingleBernoulli(logits=mean, validate_args=False)

    @property
    def logits(self) -> torch.Tensor:
        """Logits of a one, shape ``(..., b, g)``."""
        return self._input

    def log_prob(self, values: SparseCounts | torch.Tensor) -> torch.Tensor:
        """Log probability of whole cells, summed over genes, in nats: values ``(b, g)`` to ``(..., b)``.

        Raises
        ------
        ValueError
            If a value is not possible.
        """
        values = as_sparse_counts(values)
        self._check(values)
        logits = values.entries_of(self.logits).double()
        return over_genes(self, values, logsigmoid(-self.logits), self._of_entries(values.values, logits))

    @staticmethod
    def _check(values: SparseCounts) -> None:
        """Raise ValueError unless values are zero and one."""
        other = values.values[(values.values != 0) & (values.values != 1)]
        if len(other):
            msg = f"Values of a Bernoulli are 0 and 1, got {float(other[0])}: binarise counts, as by `counts > 0`."
            raise ValueError(msg)

    @staticmethod
    def _of_entries(x: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Log probabilities of values that are not zero, all of one shape."""
        return logsigmoid((2 * x - 1) * logits)

    def score_each(self, values: SparseCounts | torch.Tensor) -> torch.Tensor:
        r"""As :meth:`ValueLikelihood.score_each`: :math:`\sum_j x_{ij} o_{cj} - \sum_j \log(1 + e^{o_{cj}})`."""
        return as_sparse_counts(values) @ self.logits.T + self.sum_of_measured(logsigmoid(-self.logits))

    def information(self) -> torch.Tensor:
        r"""Fisher information in the logits, :math:`p (1 - p)`, shape ``(..., b, g)``."""
        return self.variance

    @staticmethod
    def eta_of(mean: torch.Tensor) -> torch.Tensor:
        """Logits of shares of ones, shape ``(g,)``, of which those near 0 and 1 are cut."""
        return torch.logit(mean, eps=_LEAST_SHARE)

    @property
    def log_zero_probability(self) -> torch.Tensor:
        """Log probability of a zero, shape ``(..., b, g)``."""
        return logsigmoid(-self.logits)

    @property
    def mean(self) -> torch.Tensor:
        """Probability of a one, shape ``(..., b, g)``."""
        return self.logits.sigmoid()

    @property
    def variance(self) -> torch.Tensor:
        """Variance, shape ``(..., b, g)``."""
        return self.logits.sigmoid() * (-self.logits).sigmoid()

    def sample(self, sample_shape: Sequence[int] = ()) -> torch.Tensor:
        """Draws of the values, shape ``(*sample_shape, ..., b, g)``."""
        return torch.bernoulli(self.mean.expand(*sample_shape, *self.logits.shape))


class SingleBernoulli(Normalized, torch.distributions.Bernoulli):
    """PyTorch's, with the names by which scvi-tools reads a distribution.

    Parameters
    ----------
    probs, logits
        Probability of a one, or its logits.
    validate_args
        As for :class:`torch.distributions.Distribution`.
    """

    @property
    def mu(self) -> torch.Tensor:
        """Probability of a one."""
        return self.probs

    @property
    def scale(self) -> torch.Tensor:
        """Share of each gene in the expected ones of its cell."""
        return self.probs / self.probs.sum(-1, keepdim=True)

    @property
    def zero_probability(self) -> torch.Tensor:
        """Probability of a zero."""
        return (-self.logits).sigmoid()
