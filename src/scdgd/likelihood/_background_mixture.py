"""Negative binomial counts of proteins over a background."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar

import torch
from torch.nn.functional import logsigmoid, softplus

from ._base import CountLikelihood, FamilyParameter
from ._bounds import MAX_LOG_MEAN
from ._measured import log_shares
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
        p(x) = \pi_j\, \mathrm{NB}(x;\, \beta_{ij}, \theta_j) + (1 - \pi_j)\, \mathrm{NB}(x;\, \beta_{ij} + \mu_{ij}, \theta_j), \qquad
        \pi_j = \sigma(\rho_j)

    After TOTALVI (Gayoso et al. 2021), whose foreground is at least its background, as ours is a sum with it. Simpler here: the share
    :math:`\pi_j` is that of a protein, and so is the background but for the size :math:`s_i` of the cell; TOTALVI decodes one and infers
    the other for each cell. What is decoded are shares :math:`\mathrm{softmax}(o)` of the signal, and with background
    :math:`e^{a_j}` in units of all signal

    .. math::
        \beta_{ij} = \frac{s_i e^{a_j}}{1 + \sum_m e^{a_m}}, \qquad
        \mu_{ij} = \frac{s_i\, \mathrm{softmax}(o_i)_j}{1 + \sum_m e^{a_m}},

    which sum to the size. With :math:`\ell^b, \ell^f` the log probabilities of background and foreground, :math:`s^b, s^f` their
    derivatives in the log mean, :math:`t = \sigma(\rho + \ell^b - \ell^f)` the posterior probability of background alone, and
    :math:`w = \mu / (\beta + \mu)`,

    .. math::
        \frac{\partial\ell}{\partial\log\mu} = (1 - t)\, w\, s^f, \quad
        \frac{\partial\ell}{\partial\log\beta} = t\, s^b + (1 - t) (1 - w)\, s^f, \quad
        \frac{\partial\ell}{\partial\log\theta} = t\, \ell^b_\theta + (1 - t)\, \ell^f_\theta, \quad
        \frac{\partial\ell}{\partial\rho} = t - \pi .

    Parameters
    ----------
    log_mean
        Log of the signal :math:`\mu` in counts, shape ``(..., b, g)``.
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
        "background_logits": FamilyParameter(-3.0, key="background_share", attribute="background_share"),
    }
    links = ("softmax",)
    can_be_split = can_leave_out_genes = has_background = True
    #: Outputs, log sizes and :math:`a`, of which signal and background were made; ``None`` if they were given.
    _shares: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None

    def __init__(
        self,
        log_mean: torch.Tensor,
        log_theta: torch.Tensor,
        log_background: torch.Tensor,
        background_logits: torch.Tensor,
    ) -> None:
        super().__init__(log_mean, log_theta, log_background, background_logits)

    @classmethod
    def from_softmax(
        cls, pre_activation: torch.Tensor, log_size: torch.Tensor, *parameters: torch.Tensor
    ) -> BackgroundMixture:
        """See the class."""
        return cls._of_shares(pre_activation, log_size, parameters, None)

    @classmethod
    def _of_shares(
        cls,
        pre_activation: torch.Tensor,
        log_size: torch.Tensor,
        parameters: Sequence[torch.Tensor],
        measured: torch.Tensor | None,
    ) -> BackgroundMixture:
        """Signal and background sum to the size over `measured` genes ``(b, g)``."""
        log_theta, a, logits = parameters
        of_measured = a if measured is None else a.masked_fill(~measured, -torch.inf)
        log_unit = log_size - softplus(torch.logsumexp(of_measured, dim=-1, keepdim=True))
        likelihood = cls(log_unit + log_shares(pre_activation, measured), log_theta, log_unit + a, logits)
        likelihood._shares, likelihood.measured = (pre_activation, log_size, a), measured
        return likelihood

    def measuring(self, measured: torch.Tensor | None) -> Self:
        """As of all likelihoods: signal and background of the measured genes sum to their size."""
        if measured is None or self._shares is None:
            return super().measuring(measured)
        pre_activation, log_size, a = self._shares
        return self._of_shares(pre_activation, log_size, (self.log_theta, a, self.background_logits), measured)

    @classmethod
    def log_prob_of_pairs(
        cls, log_profile: torch.Tensor, parameters: Sequence[torch.Tensor], counts: SparseCounts, log_size: torch.Tensor
    ) -> torch.Tensor:
        """As of all likelihoods."""
        each = (cls.from_softmax(profile, log_size, *parameters) for profile in log_profile.unsqueeze(1))
        return torch.stack([px.log_prob(counts) for px in each])

    @property
    def foreground(self) -> NegativeBinomial:
        """Distribution of the counts of background and signal."""
        log_mean = torch.logaddexp(self.log_mean, self.log_background.expand_as(self._input))
        return NegativeBinomial(log_mean, self.log_theta).measuring(self.measured)

    @property
    def of_background(self) -> NegativeBinomial:
        """Distribution of the counts of background alone."""
        return NegativeBinomial(self.log_background.expand_as(self._input), self.log_theta).measuring(self.measured)

    @property
    def background_share(self) -> torch.Tensor:
        r"""Share :math:`\pi` of background alone, shape ``(..., b, g)``."""
        return self.background_logits.sigmoid().expand_as(self._input)

    @property
    def signal(self) -> torch.Tensor:
        r"""Expected counts that are no background, :math:`(1 - \pi) \mu`, shape ``(..., b, g)``."""
        return (1 - self.background_share) * self.mu

    @property
    def mean(self) -> torch.Tensor:
        r"""Expected counts :math:`\beta + (1 - \pi) \mu`, shape ``(..., b, g)``."""
        return self.background + self.signal

    @property
    def variance(self) -> torch.Tensor:
        r"""That of both parts about their means, and of the means: :math:`\pi V^b + (1 - \pi) V^f + \pi (1 - \pi) \mu^2`."""
        p = self.background_share
        within = p * self.of_background.variance + (1 - p) * self.foreground.variance
        return within + p * (1 - p) * self.mu.square()

    @classmethod
    def constant_terms(cls, x: torch.Tensor, parameters: Sequence[torch.Tensor]) -> torch.Tensor:
        """Those of a negative binomial, which both parts share."""
        return NegativeBinomial.constant_terms(x, parameters[:1])

    @classmethod
    def zero_terms(cls, mean: torch.Tensor, parameters: Sequence[torch.Tensor], wanted: Wanted) -> Terms:
        """See the class."""
        exact = mean.double()  # parts that nearly cancel, and ratios of far numbers
        log_theta, log_background, logits = (p.double() for p in parameters)
        background = log_background.clamp(max=MAX_LOG_MEAN).exp().expand_as(exact)
        parts = [NegativeBinomial.zero_terms(m, [log_theta], wanted) for m in (background, background + exact)]
        total = (background + exact).clamp(min=torch.finfo(exact.dtype).tiny)
        value, d_log_mean, d_parameters = _mixed(*parts, exact / total, logits, wanted)
        to = lambda term: None if term is None else term.to(mean.dtype)
        return Terms(to(value), to(d_log_mean), tuple(map(to, d_parameters)))

    @classmethod
    def nonzero_terms(
        cls, x: torch.Tensor, log_mean: torch.Tensor, parameters: Sequence[torch.Tensor], wanted: Wanted
    ) -> Terms:
        """See the class."""
        log_theta, log_background, logits = parameters
        log_foreground = torch.logaddexp(log_background, log_mean)
        means = (log_background, log_foreground)
        parts = [NegativeBinomial.nonzero_terms(x, m, [log_theta], wanted) for m in means]
        return _mixed(*parts, (log_mean - log_foreground).exp(), logits, wanted)

    def information(self) -> torch.Tensor:
        r"""Fisher information in :math:`\log\mu`, shape ``(..., b, g)``, near enough to place cells and to propose draws.

        With :math:`I^f` of the foreground, it is :math:`w^2 (1 - \pi)\, \mathbb E_f[(1 - t) (s^f)^2]`, which is no closed form. Here
        :math:`1 - t` is that of a count at the mean of the foreground: exact where the two parts are alike or far apart.
        """
        foreground = self.foreground
        not_t = self.foreground_probability(foreground.mu)
        return (self.mu / foreground.mu).square() * (1 - self.background_share) * not_t * foreground.information()

    def log_constant(self, counts: SparseCounts) -> torch.Tensor:
        """Terms that both parts share, counts ``(b, g)`` to ``(b,)``, in double."""
        return NegativeBinomial(self._input, self.log_theta).log_constant(counts)

    def other_half(self, x_inferred: torch.Tensor, epsilon: float) -> BackgroundMixture:
        r"""Law of the second part of a binomially split count, given the first ``(b, g)``, whose law this is.

        Each part is as of a negative binomial (:func:`scdgd.metrics.held_out_log_likelihood`), and :math:`\pi` becomes :math:`t`.
        """
        theta, background, foreground = self.theta, self.background, self.foreground.mu
        log_ratio = (theta + x_inferred).log() + math.log(1 - epsilon) - math.log(epsilon)
        log_background = log_ratio + background.log() - (theta + background).log()
        log_signal = log_ratio + self.log_mean + theta.log() - (theta + foreground).log() - (theta + background).log()
        logits = torch.logit(1 - self.foreground_probability(x_inferred), eps=1e-7)
        return type(self)(log_signal, (theta + x_inferred).log(), log_background, logits)

    def foreground_probability(self, counts: torch.Tensor) -> torch.Tensor:
        r"""Posterior probability :math:`1 - t` that counts ``(b, g)`` have signal in them, shape ``(..., b, g)``."""
        ratio = torch.log1p(self.mu / (self.theta + self.background))  # of (theta + foreground) / (theta + background)
        log_odds = counts * torch.log1p(self.mu / self.background) - (counts + self.theta) * ratio
        return (log_odds - self.background_logits).sigmoid()

    def sample(self, sample_shape: Sequence[int] = ()) -> torch.Tensor:
        """Draws of the counts, shape ``(*sample_shape, ..., b, g)``."""
        counts = self.foreground.sample(sample_shape)
        return counts.where(torch.rand_like(counts) >= self.background_share, self.of_background.sample(sample_shape))

    @classmethod
    def parameters_at(
        cls, variance: torch.Tensor | None = None, profile: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """A background that has the mean profile ``(g,)`` and a third of the counts of the signal."""
        return {} if profile is None else {"log_background": (profile / 3).clamp(min=_LEAST_SHARE).log()}


def _mixed(background: Terms, foreground: Terms, w: torch.Tensor, logits: torch.Tensor, wanted: Wanted) -> Terms:
    """Terms of the mixture from those of its parts."""
    value = torch.logaddexp(logsigmoid(logits) + background.value, logsigmoid(-logits) + foreground.value)
    if not (wanted.d_log_mean or wanted.d_parameters):
        return Terms(value)
    log_odds = logits + background.value - foreground.value
    t, not_t = log_odds.sigmoid(), (-log_odds).sigmoid()
    of_foreground = not_t * foreground.d_log_mean
    d_log_mean = of_foreground * w
    if not wanted.d_parameters:
        return Terms(value, d_log_mean)
    d_theta = t * background.d_parameters[0] + not_t * foreground.d_parameters[0]
    d_background = t * background.d_log_mean + of_foreground * (1 - w)
    return Terms(value, d_log_mean, (d_theta, d_background, _change(logits, background.value - foreground.value)))


def _change(logits: torch.Tensor, log_odds: torch.Tensor) -> torch.Tensor:
    r""":math:`t - \pi = \sigma(\rho + d) - \sigma(\rho)`, whose large numbers cancel before they are rounded."""
    up = (logits + log_odds).sigmoid() * (-logits).sigmoid() * -torch.expm1(-log_odds.clamp(min=0))
    down = logits.sigmoid() * (-logits - log_odds).sigmoid() * torch.expm1(log_odds.clamp(max=0))
    return torch.where(log_odds > 0, up, down)
