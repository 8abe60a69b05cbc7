"""DGD's mixture: Gaussians with a softball over their means."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal, get_args

import torch

from scdgd._options import Choice, Instance, Number, Optional, checked

from ._covariance import AxisAlignedType
from ._gaussian_components import GaussianComponents
from ._gaussian_mixture import GaussianMixture
from ._placement import random_rows, start_centres
from ._softball import Softball


class SoftballMixture(GaussianMixture):
    r"""DGD's mixture: a Gaussian mixture whose parameters have priors of their own (Schuster & Krogh 2023).

    .. math::
        m_c \sim \mathrm{softball}(R, a), \qquad
        -\log\sigma_{cl}^2 \sim \mathcal N(-2\log\sigma_0, \tau_0^2), \quad \sigma_0 = 0.2\, R / k, \qquad
        w \sim \mathrm{Dir}(\alpha \mathbf 1_k)

    Means start uniform in the ball, standard deviations at :math:`\sigma_0`, weights equal. A ``"fixed"`` variance has
    no prior.

    Parameters
    ----------
    n_components, n_latent, concentration
        As for :class:`GaussianMixture`.
    covariance_type
        One of the axis-aligned types of :class:`GaussianMixture`, which the prior of log variances is made for; the
        published one is ``"diag"``.
    scale, sharpness
        Radius ``R`` and steepness ``a`` of the softball.
    component_scale
        Standard deviation :math:`\sigma_0` that components start from and are drawn to; ``None`` for the published
        :math:`0.2\,R/k`, not rounded.
    log_var_scale
        Standard deviation :math:`\tau_0` of the prior of log variances.
    initial_means
        ``"softball"``: uniform draws from the ball (published); ``"kmeans"``: centres of k-means++ on representations,
        when training places them.
    generator
        Source of randomness of the means; ``None`` uses torch's global one.

    Raises
    ------
    ValueError
        If `covariance_type` is not axis-aligned or an argument is out of range.
    """

    updates: ClassVar[tuple[str, ...]] = ("gradient", "empirical_bayes")
    lr_ratio: ClassVar[float] = 1.0
    is_broad_at_first: ClassVar[bool] = False
    encoder_options: ClassVar[Mapping[str, Any]] = {}

    @checked(
        covariance_type=Choice(*get_args(AxisAlignedType)),
        concentration=Number(above=0),
        scale=Number(above=0),
        sharpness=Number(above=0),
        component_scale=Optional(Number(above=0)),
        log_var_scale=Number(above=0),
        initial_means=Choice("softball", "kmeans"),
        generator=Optional(Instance(torch.Generator, "a generator of torch")),
    )
    def __init__(
        self,
        n_components: int,
        n_latent: int,
        *,
        covariance_type: AxisAlignedType = "diag",
        concentration: float = 1.0,
        scale: float = 1.0,
        sharpness: float = 1.0,
        component_scale: float | None = None,
        log_var_scale: float = 1.0,
        initial_means: Literal["softball", "kmeans"] = "softball",
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__(n_components, n_latent, covariance_type=covariance_type, concentration=concentration)
        self.softball = Softball(self.n_latent, scale, sharpness)
        self.component_scale = 0.2 * scale / self.n_components if component_scale is None else component_scale
        self.log_var_scale = log_var_scale
        with torch.no_grad():
            self.means.copy_(self.softball.sample(self.n_components, generator))
            self.log_var.fill_(2 * math.log(self.component_scale))
        self.placed.fill_(initial_means == "softball")

    def reset(self) -> None:
        """Nothing to do: an untrained softball mixture is as it was drawn."""

    def hyper_log_prob(self) -> dict[str, torch.Tensor]:
        """Log densities of means, log variances (unless fixed) and weights, in nats."""
        terms = {"means": self.softball.log_prob(self.means).sum(), "weights": self._dirichlet_log_prob()}
        if self.covariance_type != "fixed":
            location = 2 * math.log(self.component_scale)
            terms["log_var"] = torch.distributions.Normal(location, self.log_var_scale).log_prob(self.log_var).sum()
        return terms

    @torch.no_grad()
    def place(
        self,
        z: torch.Tensor,
        *,
        posterior_var: float | torch.Tensor = 0.0,
        seed: int = 0,
        given: torch.Tensor | None = None,
    ) -> None:
        """Put the *means* at the k-means centres of `z`; variances keep the start that their prior gives them.

        Of components that belong to classes, at those of the cells `given` to them. Once only: placing it again would undo what it has learned, for likelihoods are not compared.
        """
        if not self.is_placed:
            rows = random_rows(len(z), seed)
            self.means.copy_(start_centres(z[rows], self, None if given is None else given[rows], seed))
            self.mark_placed()

    #: The softball and the log-normal prior have no closed form.
    m_step = GaussianComponents.m_step
