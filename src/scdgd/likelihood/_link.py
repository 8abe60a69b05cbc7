"""Links: from outputs of a decoder, and the size of a cell, to the linear predictor of a likelihood."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal

import torch
from torch.nn.functional import logsigmoid, softplus

from scdgd._constants import NORMALIZED_TOTAL

from ._measured import log_shares
from ._outputs import as_output

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._base import Likelihood
    from ._outputs import Output

#: Links of models without an encoder, and of those with one.
OutputActivation = Literal["softmax", "sigmoid", "softplus", "identity"]
MeanActivation = Literal["softmax", "exp", "rate", "identity"]

#: Of log rates, and of log dispersions beside them, that are decoded without a size (Grønbech et al. 2020).
_MAX_LOG_RATE = 10.0
#: Shares and rates at which a fit starts are at least this.
_LEAST_PROFILE = 1e-7


class Link(ABC):
    r"""From outputs :math:`o` ``(..., b, g)`` of a decoder to the linear predictor :math:`\eta` of a likelihood.

    .. math::
        \eta_{ij} = \log\mu_{ij} = \log s_i + \log a(o_i)_j

    with size :math:`s_i` and activation :math:`a`, whose result is the profile of a cell. A link has no parameters.
    """

    #: The name by which models take it.
    name: ClassVar[str]
    #: Whether outputs become means of counts.
    is_of_counts: ClassVar[bool] = True
    #: Whether means are in proportion to the size of the cell.
    takes_size: ClassVar[bool] = True
    #: Whether profiles sum to one.
    is_share: ClassVar[bool] = False

    def is_of(self, family: type[Likelihood]) -> bool:
        r"""Whether it gives the linear predictor of a family, which then evaluates whole cells."""
        return family.is_of_counts == self.is_of_counts

    @abstractmethod
    def log_profile(self, output: torch.Tensor, measured: torch.Tensor | None = None) -> torch.Tensor:
        r""":math:`\log a(o)`, shape of `output`; shares are those in the total of `measured` genes ``(b, g)``."""

    def profile(self, output: torch.Tensor) -> torch.Tensor:
        """:math:`a(o)`, shape of `output`."""
        return self.log_profile(output).exp()

    @abstractmethod
    def output_of(self, profile: torch.Tensor) -> torch.Tensor:
        """An output with this profile ``(g,)``, at which a fit can start."""

    def log_slope(self, log_profile: torch.Tensor) -> torch.Tensor | None:
        """:math:`a'(o) / a(o)` of single outputs, from their log profiles; ``None`` where it is one, but for a share's sum."""
        return None

    def eta(self, output: torch.Tensor, log_size: torch.Tensor, measured: torch.Tensor | None = None) -> torch.Tensor:
        r""":math:`\eta` ``(..., b, g)``, differentiable in the log size ``(..., b, 1)``, too.

        The size is that of `measured` genes ``(b, g)``, of all if not given.
        """
        return log_size + self.log_profile(output, measured)

    def likelihood(
        self,
        family: type[Likelihood],
        output: torch.Tensor | Output,
        log_size: torch.Tensor,
        parameters: Sequence[torch.Tensor],
        measured: torch.Tensor | None = None,
    ) -> Likelihood:
        """The distribution of whole cells; of a family that has a faster way to it, without gradients of the size.

        Log probabilities are those of the `measured` genes ``(b, g)``, see :meth:`Likelihood.measuring`.
        """
        return family(self.eta(as_output(output).value, log_size, measured), *parameters).measuring(measured)

    def mean_and_scale(self, output: torch.Tensor, log_size: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Means, and what scvi-tools calls ``scale``, as its distributions take them, both ``(..., b, g)``."""
        profile = self.profile(output)
        return log_size.exp() * profile, profile

    def bounded(self, log_parameter: torch.Tensor) -> torch.Tensor:
        """Log of a dispersion that is decoded beside the output."""
        return log_parameter


class Softmax(Link):
    r"""Shares of the size, :math:`\mu = s\,\mathrm{softmax}(o)`."""

    name = "softmax"
    is_share = True

    def log_profile(self, output: torch.Tensor, measured: torch.Tensor | None = None) -> torch.Tensor:
        """See the class."""
        return log_shares(output, measured)

    def profile(self, output: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return torch.softmax(output, dim=-1)

    def likelihood(
        self,
        family: type[Likelihood],
        output: torch.Tensor | Output,
        log_size: torch.Tensor,
        parameters: Sequence[torch.Tensor],
        measured: torch.Tensor | None = None,
    ) -> Likelihood:
        """As :meth:`Link.likelihood`."""
        return family.from_softmax(output, log_size, *parameters).measuring(measured)

    def output_of(self, profile: torch.Tensor) -> torch.Tensor:
        """Log shares."""
        return profile.clamp(min=_LEAST_PROFILE).log()


class Sigmoid(Link):
    r"""Profiles below one, :math:`\mu = s\,\sigma(o)` (Schuster & Krogh 2023)."""

    name = "sigmoid"

    def log_profile(self, output: torch.Tensor, measured: torch.Tensor | None = None) -> torch.Tensor:
        """See the class."""
        return logsigmoid(output)

    def log_slope(self, log_profile: torch.Tensor) -> torch.Tensor:
        r""":math:`1 - \sigma(o)`."""
        return 1 - log_profile.exp()

    def output_of(self, profile: torch.Tensor) -> torch.Tensor:
        """Logits."""
        return torch.logit(profile.clamp(min=_LEAST_PROFILE, max=1 - 1e-4))


class Softplus(Link):
    r"""Positive profiles, :math:`\mu = s \log(1 + e^o)`."""

    name = "softplus"

    def log_profile(self, output: torch.Tensor, measured: torch.Tensor | None = None) -> torch.Tensor:
        """See the class."""
        tiny = output < -20  # log(1 + e^o) = e^o to float precision; masked first, so the log never sees zero
        return torch.where(tiny, output, softplus(torch.where(tiny, 0.0, output)).log())

    def profile(self, output: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return softplus(output)

    def log_slope(self, log_profile: torch.Tensor) -> torch.Tensor:
        r""":math:`\sigma(o) / a = (1 - e^{-a}) / a`."""
        a = log_profile.exp()
        small = a < 1e-4  # where 1 - a/2 is exact to single precision, and the quotient may be 0/0
        return torch.where(small, 1 - a / 2, -torch.expm1(-a) / torch.where(small, 1.0, a))

    def output_of(self, profile: torch.Tensor) -> torch.Tensor:
        r""":math:`\log(e^a - 1)`."""
        p = profile.clamp(min=_LEAST_PROFILE)
        return torch.where(p > 20, p, p.clamp(max=20).expm1().log())


class Identity(Link):
    r"""Values that are not counts, :math:`\eta = o`; no size enters."""

    name = "identity"
    is_of_counts = takes_size = False

    def log_profile(self, output: torch.Tensor, measured: torch.Tensor | None = None) -> torch.Tensor:
        """The output, which is no log profile."""
        return output

    def eta(self, output: torch.Tensor, log_size: torch.Tensor, measured: torch.Tensor | None = None) -> torch.Tensor:
        """The output."""
        return output

    def mean_and_scale(self, output: torch.Tensor, log_size: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Twice the output."""
        return output, output

    def output_of(self, profile: torch.Tensor) -> torch.Tensor:
        r"""The :math:`\eta` itself."""
        return profile


class Exp(Link):
    r"""Log-linear means, :math:`\mu = s\,e^o`."""

    name = "exp"

    def log_profile(self, output: torch.Tensor, measured: torch.Tensor | None = None) -> torch.Tensor:
        """See the class."""
        return output

    def output_of(self, profile: torch.Tensor) -> torch.Tensor:
        """Logs."""
        return profile.log()


class NormalizedExp(Exp):
    r"""Log-linear means of observed totals :math:`N`, :math:`\mu = e^o \max(N / 10^4, 10^{-3})` (Dony et al. 2020).

    scvi-tools' scale is the share of a gene in the means of its cell.
    """

    def eta(self, output: torch.Tensor, log_size: torch.Tensor, measured: torch.Tensor | None = None) -> torch.Tensor:
        """See the class; sizes are totals."""
        log_size = (log_size - torch.tensor(NORMALIZED_TOTAL).log()).clamp(min=torch.tensor(1e-3).log())
        return output + log_size

    def mean_and_scale(self, output: torch.Tensor, log_size: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """As :meth:`Link.mean_and_scale`."""
        return self.eta(output, log_size).exp(), torch.softmax(output, dim=-1)


class Rate(NormalizedExp):
    r"""Rates whatever the size, :math:`\mu = e^o` with :math:`o` cut to :math:`\pm 10` (Grønbech et al. 2020)."""

    name = "rate"
    takes_size = False

    def eta(self, output: torch.Tensor, log_size: torch.Tensor, measured: torch.Tensor | None = None) -> torch.Tensor:
        """See the class."""
        return self.bounded(output)

    def bounded(self, log_parameter: torch.Tensor) -> torch.Tensor:
        """Cut, as rates are."""
        return log_parameter.clamp(-_MAX_LOG_RATE, _MAX_LOG_RATE)


#: Links by the names of ``output_activation`` and ``mean_activation``.
LINKS: dict[str, Link] = {
    link.name: link for link in (Softmax(), Sigmoid(), Softplus(), Identity(), NormalizedExp(), Rate())
}
