"""Zero inflation: a point mass at zero over a family of counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import torch
from torch.nn.functional import logsigmoid

from scdgd import _devices
from scdgd.data import SparseCounts, as_sparse_counts

from ._base import CountLikelihood, FamilyParameter
from ._terms import Terms, Wanted

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Few zeros are structural at first, but the gradient of the logits, in proportion to :math:`\pi (1 - \pi)`, is not small.
ZI_LOGITS = FamilyParameter(-2.0, key="dropout", attribute="zi_probs", is_decoded=True)


class ZeroInflated(CountLikelihood):
    r"""Counts of a base family, of which a share :math:`\pi = \sigma(\rho)` was replaced by zeros.

    With log probabilities :math:`\ell^b` of the base and :math:`t = \sigma(\rho - \ell^b(0))`, the posterior probability
    that a zero is a structural one,

    .. math::
        \ell(0) = \log\big(e^\rho + e^{\ell^b(0)}\big) - \mathrm{sp}(\rho), \qquad
        \ell(x) = \ell^b(x) - \mathrm{sp}(\rho), \qquad \mathrm{sp}(a) = \log(1 + e^a)

    with derivatives, in :math:`\rho` and in what the base depends on,

    .. math::
        \frac{\partial\ell(0)}{\partial\rho} = t - \pi, \quad
        \frac{\partial\ell(x)}{\partial\rho} = -\pi, \qquad
        \partial\ell(0) = (1 - t)\,\partial\ell^b(0), \quad \partial\ell(x) = \partial\ell^b(x) .

    Probabilities are never multiplied nor mixed outside of log space, so neither a rate of 400 nor a logit of 60
    underflows. A subclass names its `base`, whose :attr:`natural_parameter` is what a log probability gains with each
    count; `zi_logits` :math:`\rho` comes after the parameters of the base.
    """

    base: ClassVar[type[CountLikelihood]]

    @property
    def not_inflated(self) -> CountLikelihood:
        """Distribution of the counts before zeros replaced some."""
        if self._log_size is None:
            base = self.base(self._input, *self.parameters[:-1])
        else:
            base = self.base.from_softmax(self._input, self._log_size, *self.parameters[:-1])
        return base.measuring(self.measured)

    @property
    def zi_logits(self) -> torch.Tensor:
        r"""Logits :math:`\rho` of the share of structural zeros, shape ``(..., b, g)``."""
        return self.parameters[-1].expand_as(self._input)

    @property
    def zi_probs(self) -> torch.Tensor:
        r"""Share :math:`\pi` of structural zeros, shape ``(..., b, g)``."""
        return self.zi_logits.sigmoid()

    @property
    def mean(self) -> torch.Tensor:
        r"""Expected counts :math:`(1 - \pi) \mu`, shape ``(..., b, g)``."""
        return (-self.zi_logits).sigmoid() * self.mu

    @property
    def variance(self) -> torch.Tensor:
        r"""From the variance :math:`V` of the base, :math:`(1 - \pi) (V + \pi \mu^2)`, shape ``(..., b, g)``."""
        return (-self.zi_logits).sigmoid() * (self.not_inflated.variance + self.zi_probs * self.mu.square())

    @classmethod
    def constant_terms(cls, x: torch.Tensor, parameters: Sequence[torch.Tensor]) -> torch.Tensor:
        """Those of the base."""
        return cls.base.constant_terms(x, parameters[:-1])

    @classmethod
    def zero_terms(cls, mean: torch.Tensor, parameters: Sequence[torch.Tensor], wanted: Wanted) -> Terms:
        """See the class."""
        *of_base, logits = parameters
        return _inflated(cls.base.zero_terms(mean, of_base, wanted), logits, wanted)

    @classmethod
    def nonzero_terms(
        cls, x: torch.Tensor, log_mean: torch.Tensor, parameters: Sequence[torch.Tensor], wanted: Wanted
    ) -> Terms:
        """See the class."""
        *of_base, logits = parameters
        base = cls.base.nonzero_terms(x, log_mean, of_base, wanted)
        d_parameters = (*base.d_parameters, -logits.sigmoid()) if wanted.d_parameters else ()
        terms = Terms(base.value + logsigmoid(-logits), base.d_log_mean, d_parameters)
        is_zero = x == 0  # a zero may be stored as an entry
        if not _devices.runs_ahead(x.device) and not is_zero.any():
            return terms
        zero = _inflated(base, logits, wanted)
        choose = lambda at_zero, otherwise: None if otherwise is None else torch.where(is_zero, at_zero, otherwise)
        d_parameters = tuple(map(choose, zero.d_parameters, terms.d_parameters))
        return Terms(choose(zero.value, terms.value), choose(zero.d_log_mean, terms.d_log_mean), d_parameters)

    def score_each(self, counts: SparseCounts | torch.Tensor) -> torch.Tensor:
        """Score cells ``(b, g)`` under parameters ``(k, g)``, up to a constant per cell: ``(b, k)``, in nats.

        Log probabilities of the base are linear in the count but for terms that do not depend on the mean, which are
        left out; where there is a count, the term of the zero is replaced.
        """
        counts, base, at_zero = as_sparse_counts(counts), self.not_inflated, self.log_zero_probability
        present = SparseCounts(counts.indptr, counts.indices, (counts.values > 0).to(at_zero.dtype), counts.n_genes)
        replaced = base.log_zero_probability + logsigmoid(-self.zi_logits) - at_zero
        of_entries = counts @ base.natural_parameter.T.contiguous() + present @ replaced.T.contiguous()
        return of_entries + self.sum_of_measured(at_zero)

    def information(self) -> torch.Tensor:
        r"""Fisher information in :math:`\eta`, shape ``(..., b, g)``, positive and at most that of the counts of the base.

        The score of a zero shrinks by :math:`1 - t`, and a zero has probability :math:`(1 - \pi) e^{\ell^b(0)} / (1 - t)`.
        With information :math:`I^b` and score :math:`s^b` of the base,

        .. math::
            I = (1 - \pi) \big[ I^b - t\, e^{\ell^b(0)}\, s^b(0)^2 \big] .
        """
        base = self.not_inflated
        zero = base.zero_terms(base.mu, base.parameters, Wanted(True, False))
        of_zeros = ((zero.value / 2).exp() * zero.d_log_mean).square()
        t = (self.zi_logits - zero.value).sigmoid()
        return (-self.zi_logits).sigmoid() * (base.information() - t * of_zeros)

    def sample(self, sample_shape: Sequence[int] = ()) -> torch.Tensor:
        """Draws of the counts, shape ``(*sample_shape, ..., b, g)``."""
        counts = self.not_inflated.sample(sample_shape)
        return counts.where(torch.rand_like(counts) >= self.zi_probs, 0)


def _inflated(zero: Terms, logits: torch.Tensor, wanted: Wanted) -> Terms:
    r"""Terms of a zero from those of the base.

    With :math:`d = \rho - \ell^b(0)`, :math:`a = e^{-|d|}` and :math:`b = e^{-|\rho|}` the large numbers cancel before
    they are rounded:

    .. math::
        \ell(0) = \min\big(0, \max(\rho, \ell^b(0))\big) + \log\Big(1 + \frac{a - b}{1 + b}\Big), \qquad
        t - \pi = \frac{1}{(1 + a)(1 + b)} \begin{cases} a - b & d \le 0 \\ 1 - ab & \rho \le 0 < d \\ b - a & \rho > 0
        \end{cases}
    """
    d = logits - zero.value
    a, b = (-d.abs()).exp_(), (-logits.abs()).exp()
    difference, share = a - b, 1 / (1 + b)
    value = torch.maximum(logits, zero.value).clamp_(max=0).add_(torch.log1p(difference * share))
    if not (wanted.d_log_mean or wanted.d_parameters):
        return Terms(value)
    is_structural, reciprocal = d > 0, 1 / (1 + a)
    not_t = torch.where(is_structural, a, 1).mul_(reciprocal)
    d_log_mean = zero.d_log_mean * not_t
    if not wanted.d_parameters:
        return Terms(value, d_log_mean)
    numerator = torch.where(is_structural, torch.where(logits > 0, -difference, 1 - a * b), difference)
    return Terms(value, d_log_mean, (*(d * not_t for d in zero.d_parameters), numerator.mul_(reciprocal).mul_(share)))
