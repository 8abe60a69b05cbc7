"""Counts whose first few values are classes of their own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from scdgd.data import SparseCounts, as_sparse_counts

from ._base import Likelihood, over_genes
from ._single_counts import single_log_prob

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._base import CountLikelihood


class Categorised(Likelihood):
    r"""Counts below :math:`k_{\max}` have probabilities of their own, those from there on the shape of a base family.

    .. math::
        p(x) = \begin{cases} e_x & x < k_{\max} \\
        e_{k_{\max}}\, p_{\mathrm{base}}(x - k_{\max}) & x \ge k_{\max} \end{cases},
        \qquad e = \mathrm{softmax}(o), \qquad
        \mathbb E[x] = \sum_{t < k_{\max}} t\, e_t + e_{k_{\max}} (k_{\max} + \mu)

    (Grønbech et al. 2020). The log probability of a zero is :math:`\log\mathrm{softmax}(o)_0`, dense and in closed form;
    the base is evaluated for the few counts from :math:`k_{\max}` on.

    Parameters
    ----------
    base
        Distribution of what counts exceed :math:`k_{\max}` by, shape ``(..., b, g)``; of any family.
    class_logits
        Logits :math:`o` of the classes :math:`0, \dots, k_{\max}`, shape ``(g, k_max + 1)`` or
        ``(..., b, g, k_max + 1)``.

    Raises
    ------
    ValueError
        If there are fewer than two classes.
    """

    def __init__(self, base: CountLikelihood, class_logits: torch.Tensor) -> None:
        super().__init__(base._input, class_logits)
        if class_logits.shape[-1] < 2:
            msg = (
                f"`class_logits` has {class_logits.shape[-1]} classes; for `k_max` of at least 1 there are two or more."
            )
            raise ValueError(msg)
        self.base, self.class_logits = base, class_logits
        self.k_max = class_logits.shape[-1] - 1

    @property
    def log_class_probabilities(self) -> torch.Tensor:
        r"""Log probabilities :math:`\log e` of the classes, shape of `class_logits`."""
        return torch.log_softmax(self.class_logits, dim=-1)

    @property
    def log_zero_probability(self) -> torch.Tensor:
        """Log probability of a zero count, shape ``(..., b, g)``."""
        return self.log_class_probabilities[..., 0].expand_as(self._input)

    def log_prob(self, values: SparseCounts | torch.Tensor) -> torch.Tensor:
        """Log probability of whole cells, summed over genes, in nats: counts ``(b, g)`` to ``(..., b)``."""
        counts, log_classes = as_sparse_counts(values), self.log_class_probabilities
        class_of = counts.values.clamp(max=self.k_max).long()
        entries = (counts.indices,) if log_classes.ndim == 2 else (counts.cells, counts.indices)
        last = (class_of == self.k_max).nonzero().ravel()
        log_mean, *parameters = (counts.entries_of(t)[..., last] for t in (self.base.log_mean, *self.base.parameters))
        beyond = single_log_prob(type(self.base), counts.values[last] - self.k_max, log_mean.double(), parameters)
        of_entries = log_classes[..., *entries, class_of].double().expand(*beyond.shape[:-1], -1)  # (..., nnz)
        return over_genes(counts, self.log_zero_probability, of_entries.index_add(-1, last, beyond))

    @property
    def mean(self) -> torch.Tensor:
        """See the class, shape ``(..., b, g)``."""
        return self._moment(1, self.k_max + self.base.mean)

    @property
    def variance(self) -> torch.Tensor:
        """Variance of the counts, shape ``(..., b, g)``."""
        second = self.base.variance + (self.k_max + self.base.mean).square()
        return self._moment(2, second) - self.mean.square()

    def _moment(self, power: int, of_last: torch.Tensor) -> torch.Tensor:
        probabilities = self.log_class_probabilities.exp()
        of_classes = torch.arange(self.k_max, dtype=of_last.dtype, device=of_last.device) ** power
        return probabilities[..., :-1] @ of_classes + probabilities[..., -1] * of_last

    def sample(self, sample_shape: Sequence[int] = ()) -> torch.Tensor:
        """Draws of the counts, shape ``(*sample_shape, ..., b, g)``."""
        logits = self.class_logits.expand(*self._input.shape, -1)
        class_of = torch.distributions.Categorical(logits=logits).sample(sample_shape)
        return torch.where(class_of < self.k_max, class_of, self.k_max + self.base.sample(sample_shape))
