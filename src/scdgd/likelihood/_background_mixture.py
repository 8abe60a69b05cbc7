"""Negative binomial counts of proteins over a background."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch
from torch.nn.functional import logsigmoid, softplus

from ._base import CountLikelihood, FamilyParameter
from ._bounds import MAX_LOG_MEAN
from ._negative_binomial import LOG_THETA, NegativeBinomial
from ._terms import Terms, Wanted

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Self

    from scdgd.data import SparseCounts

#: Of a protein in the background at which a fit starts, at least.
_LEAST_SHARE = 1e-7


class BackgroundMixture(CountLikelihood):
    r"""Counts of proteins, which are background alone, or background and signal: two negative binomials.

    .. math::
        p(x) = \pi_j\, \mathrm{NB}(x;\, b_{ij}, \theta_j) + (1 - \pi_j)\, \mathrm{NB}(x;\, \mu_{ij}, \theta_j), \qquad
        \frac1{b_{ij}} = \frac1{\mu_{ij}} + \frac1{\beta_{ij}}, \qquad \beta_{ij} = s_i e^{a_j}, \qquad \pi_j = \sigma(\rho_j)

    After TOTALVI (Gayoso et al. 2021), whose foreground :math:`\mu` is more than its background, too. Simpler here: the share
    :math:`\pi_j` and the background :math:`\beta` are those of a protein, the latter in proportion to the size :math:`s_i` of the
    cell; TOTALVI decodes one and infers the other for each cell. Where there is much more than :math:`\beta`, background is
    :math:`b \approx \beta`; where there is less, all of it is background, :math:`b \approx \mu`, and both parts are one.

    With :math:`\ell^b, \ell^f` the log probabilities of both parts, :math:`s^b, s^f` their derivatives in the log mean,
    :math:`t = \sigma(\rho + \ell^b - \ell^f)` the posterior probability of background alone, and :math:`w = \mu / (\beta + \mu)` the
    share of signal in :math:`\mu`,

    .. math::
        \frac{\partial\ell}{\partial\log\mu} = (1 - t)\, s^f + t\, (1 - w)\, s^b, \quad
        \frac{\partial\ell}{\partial\log\beta} = t\, w\, s^b, \quad
        \frac{\partial\ell}{\partial\log\theta} = t\, \ell^b_\theta + (1 - t)\, \ell^f_\theta, \quad
        \frac{\partial\ell}{\partial\rho} = t - \pi .

    Parameters
    ----------
    log_mean
        Log of the foreground :math:`\mu`, shape ``(..., b, g)``.
    log_theta
        Log inverse dispersion, shape ``(g,)`` or that of `log_mean`.
    log_background
        Log of the background :math:`\beta` in counts, of these shapes; of :meth:`from_softmax` :math:`a`.
    background_logits
        Logits :math:`\rho` of the share of background alone, of these shapes.
    """

    own_parameters: ClassVar = {
        "log_theta": LOG_THETA,
        "log_background": FamilyParameter(-6.0, argument="background", is_log=True),
        "background_logits": FamilyParameter(-2.0, key="background_share", attribute="background_share"),
    }
    links = ("softmax",)
    can_be_split = can_leave_out_genes = has_background = True

    def __init__(
        self,
        log_mean: torch.Tensor,
        log_theta: torch.Tensor,
        log_background: torch.Tensor,
        background_logits: torch.Tensor,
    ) -> None:
        super().__init__(log_mean, log_theta, log_background, background_logits)

    @classmethod
    def at_size(cls, parameters: Sequence[torch.Tensor], log_size: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Background is in proportion to the size."""
        log_theta, log_background, logits = parameters
        return log_theta, log_background + log_size, logits

    @classmethod
    def from_softmax(cls, pre_activation: torch.Tensor, log_size: torch.Tensor, *parameters: torch.Tensor) -> Self:
        """As of all likelihoods."""
        return super().from_softmax(pre_activation, log_size, *cls.at_size(parameters, log_size))

    @property
    def foreground(self) -> NegativeBinomial:
        """Distribution of counts that have signal in them."""
        return NegativeBinomial(self.log_mean, self.log_theta)

    @property
    def of_background(self) -> NegativeBinomial:
        """Distribution of counts of background alone."""
        return NegativeBinomial(_least(self.log_mean, self.log_background), self.log_theta)

    @property
    def background_share(self) -> torch.Tensor:
        r"""Share :math:`\pi` of background alone, shape ``(..., b, g)``."""
        return self.background_logits.sigmoid().expand_as(self._input)

    @property
    def signal_share(self) -> torch.Tensor:
        r"""Share :math:`w` of signal in the foreground, shape ``(..., b, g)``."""
        return (self.log_mean - self.log_background).sigmoid()

    @property
    def signal(self) -> torch.Tensor:
        r"""Expected counts that are no background, :math:`(1 - \pi) (\mu - b) = (1 - \pi) w \mu`, shape ``(..., b, g)``."""
        return (1 - self.background_share) * self.signal_share * self.mu

    @property
    def mean(self) -> torch.Tensor:
        r"""Expected counts :math:`\pi b + (1 - \pi) \mu`, shape ``(..., b, g)``."""
        return (1 - self.background_share * self.signal_share) * self.mu

    @property
    def variance(self) -> torch.Tensor:
        r"""That of both parts about their means, and of the means: :math:`\pi V^b + (1 - \pi) V^f + \pi (1 - \pi) (w \mu)^2`."""
        p = self.background_share
        within = p * self.of_background.variance + (1 - p) * self.foreground.variance
        return within + p * (1 - p) * (self.signal_share * self.mu).square()

    def log_constant(self, counts: SparseCounts) -> torch.Tensor:
        """Terms that both parts share, counts ``(b, g)`` to ``(b,)``, in double."""
        return NegativeBinomial(self._input, self.log_theta).log_constant(counts)

    @classmethod
    def zero_terms(cls, mean: torch.Tensor, parameters: Sequence[torch.Tensor], wanted: Wanted) -> Terms:
        """See the class."""
        exact = mean.double()  # parts that nearly cancel, and ratios of far numbers
        log_theta, log_background, logits = (p.double() for p in parameters)
        log_mean = exact.clamp(min=torch.finfo(mean.dtype).tiny).log()
        means = _least(log_mean, log_background).exp(), exact
        parts = [NegativeBinomial.zero_terms(m, [log_theta], wanted) for m in means]
        value, d_log_mean, d_parameters = _mixed(*parts, log_mean - log_background, logits, wanted)
        to = lambda term: None if term is None else term.to(mean.dtype)
        return Terms(to(value), to(d_log_mean), tuple(map(to, d_parameters)))

    @classmethod
    def nonzero_terms(
        cls, x: torch.Tensor, log_mean: torch.Tensor, parameters: Sequence[torch.Tensor], wanted: Wanted
    ) -> Terms:
        """See the class."""
        log_theta, log_background, logits = parameters
        means = _least(log_mean, log_background), log_mean
        parts = [NegativeBinomial.nonzero_terms(x, m, [log_theta], wanted) for m in means]
        return _mixed(*parts, log_mean - log_background, logits, wanted)

    def information(self) -> torch.Tensor:
        r"""Fisher information in :math:`\log\mu` of counts whose part is known, :math:`(1 - \pi) I^f + \pi (1 - w)^2 I^b`.

        Shape ``(..., b, g)``. It is exact where the parts are far apart or alike; between, it is above the information of the counts
        alone, which has no closed form.
        """
        p = self.background_share
        of_background = (1 - self.signal_share).square() * self.of_background.information()
        return (1 - p) * self.foreground.information() + p * of_background

    def foreground_probability(self, counts: torch.Tensor | None = None) -> torch.Tensor:
        r"""Probability that one of the molecules counted is signal, :math:`(1 - t) w`, shape ``(..., b, g)``.

        Given counts ``(b, g)``; without, :math:`(1 - \pi) w`.
        """
        has_signal = 1 - self.background_share if counts is None else self._has_signal(counts)
        return has_signal * self.signal_share

    def _has_signal(self, counts: torch.Tensor) -> torch.Tensor:
        r"""Posterior probability :math:`1 - t` that counts ``(b, g)`` are of the foreground, shape ``(..., b, g)``."""
        background, theta = self.of_background.mu, self.theta
        ratio = torch.log1p(self.signal_share * self.mu / (theta + background))  # of theta and either mean
        log_odds = counts * (self.log_mean - self.of_background.log_mean) - (counts + theta) * ratio
        return (log_odds - self.background_logits).sigmoid()

    def other_half(self, x_inferred: torch.Tensor, epsilon: float) -> BackgroundMixture:
        r"""Law of the second part of a binomially split count, given the first ``(b, g)``, whose law this is.

        Each part is as of a negative binomial (:func:`scdgd.metrics.held_out_log_likelihood`), and :math:`\pi` becomes :math:`t`.
        """
        log_theta, theta = self.theta.double().log(), self.theta.double() + x_inferred
        means = self.of_background.log_mean.double(), self.log_mean.double()
        log_ratio = theta.log() + math.log(1 - epsilon) - math.log(epsilon)
        spare = [torch.logaddexp(log_mean, log_theta) for log_mean in means]
        background, foreground = (log_ratio + m - s for m, s in zip(means, spare, strict=True))
        log_signal = (
            log_ratio + self.log_mean + logsigmoid(self.log_mean - self.log_background) + log_theta - sum(spare)
        )
        logits = torch.logit(1 - self._has_signal(x_inferred).double(), eps=1e-12)
        terms = foreground, theta.log(), background + foreground - log_signal, logits
        return type(self)(*(term.to(self._input.dtype) for term in terms))

    def sample(self, sample_shape: Sequence[int] = ()) -> torch.Tensor:
        """Draws of the counts, shape ``(*sample_shape, ..., b, g)``."""
        counts = self.foreground.sample(sample_shape)
        return counts.where(torch.rand_like(counts) >= self.background_share, self.of_background.sample(sample_shape))

    @classmethod
    def parameters_at(
        cls, variance: torch.Tensor | None = None, profile: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """A background of a third of the mean profile ``(g,)``."""
        return {} if profile is None else {"log_background": (profile / 3).clamp(min=_LEAST_SHARE).log()}


def _least(log_mean: torch.Tensor, log_background: torch.Tensor) -> torch.Tensor:
    r""":math:`\log b = -\log(1/\mu + 1/\beta)`, near the smaller of the two."""
    return (log_mean - softplus(log_mean - log_background)).clamp(max=MAX_LOG_MEAN)


def _mixed(
    background: Terms, foreground: Terms, log_ratio: torch.Tensor, logits: torch.Tensor, wanted: Wanted
) -> Terms:
    r"""Terms of the mixture from those of its parts, with :math:`\log(\mu / \beta)`."""
    value = torch.logaddexp(logsigmoid(logits) + background.value, logsigmoid(-logits) + foreground.value)
    if not (wanted.d_log_mean or wanted.d_parameters):
        return Terms(value)
    log_odds = logits + background.value - foreground.value
    t, not_t = log_odds.sigmoid(), (-log_odds).sigmoid()
    of_background = t * background.d_log_mean
    d_log_mean = not_t * foreground.d_log_mean + (-log_ratio).sigmoid() * of_background
    if not wanted.d_parameters:
        return Terms(value, d_log_mean)
    d_theta = t * background.d_parameters[0] + not_t * foreground.d_parameters[0]
    d_logits = _change(logits, background.value - foreground.value)
    return Terms(value, d_log_mean, (d_theta, log_ratio.sigmoid() * of_background, d_logits))


def _change(logits: torch.Tensor, log_odds: torch.Tensor) -> torch.Tensor:
    r""":math:`t - \pi = \sigma(\rho + d) - \sigma(\rho)`, whose large numbers cancel before they are rounded."""
    up = (logits + log_odds).sigmoid() * (-logits).sigmoid() * -torch.expm1(-log_odds.clamp(min=0))
    down = logits.sigmoid() * (-logits - log_odds).sigmoid() * torch.expm1(log_odds.clamp(max=0))
    return torch.where(log_odds > 0, up, down)
