"""Gaussian mixtures: the plain one, and DGD's with a softball over the means."""

from __future__ import annotations

import math
from typing import Literal, get_args

import numpy as np
import torch
from torch import nn

from ._base import Prior
from ._softball import Softball

CovarianceType = Literal["diag", "tied_diag", "spherical", "fixed"]

_LOG_2PI = math.log(2 * math.pi)
_MIN_VAR = 1e-6
_MIN_CELLS = 1e-3
_N_STARTS = 5
_N_EM_STEPS = 20
_BLOCK_CELLS = 10_000
_MAX_PLACING_CELLS = 20_000
_MAX_ELEMENTS = 2**22


class GaussianMixture(Prior):
    r"""Mixture of Gaussians with axis-aligned covariances.

    .. math::
        \log p(z) = \log \sum_c w_c\, \mathcal N\!\big(z;\, m_c,\, \operatorname{diag}\sigma_c^2\big), \qquad
        \log \mathcal N = -\tfrac d2 \log 2\pi - \tfrac12 \sum_l \big[\log\sigma_{cl}^2
                          + (z_l - m_{cl})^2 / \sigma_{cl}^2\big]

    where the sum over components comes *after* the sum over dimensions (Schuster & Krogh 2023, eq. 2).
    It starts as the broad prior :math:`\mathcal N(0, I)`, with all components in one place, until
    :meth:`place` puts them where cells are.

    Parameters
    ----------
    n_components
        Number of components ``k``.
    n_latent
        Dimension ``d``.
    covariance_type
        One of

        * ``"tied_diag"``: one variance per dimension, shared by all components
        * ``"diag"``: one variance per component and dimension
        * ``"spherical"``: one variance per component
        * ``"fixed"``: as ``"tied_diag"``, but constant after :meth:`place`
    concentration
        Parameter :math:`\alpha` of the symmetric Dirichlet prior of the weights; 1 is uniform.

    Raises
    ------
    ValueError
        If `covariance_type` is unknown or `concentration` is not positive.

    Examples
    --------
    >>> prior = GaussianMixture(n_components=3, n_latent=2)
    >>> prior.log_prob(torch.zeros(5, 2)).shape
    torch.Size([5])
    """

    def __init__(
        self,
        n_components: int,
        n_latent: int,
        *,
        covariance_type: CovarianceType = "tied_diag",
        concentration: float = 1.0,
    ) -> None:
        super().__init__(n_components, n_latent)
        if covariance_type not in get_args(CovarianceType):
            msg = f"`covariance_type` must be one of {get_args(CovarianceType)}, got {covariance_type!r}."
            raise ValueError(msg)
        if not concentration > 0:
            msg = f"`concentration` must be positive, got {concentration}."
            raise ValueError(msg)
        self.covariance_type, self.concentration = covariance_type, float(concentration)
        k, d = self.n_components, self.n_latent
        shape = {"diag": (k, d), "spherical": (k, 1)}.get(covariance_type, (1, d))
        self.means = nn.Parameter(torch.zeros(k, d))
        self.log_var = nn.Parameter(torch.zeros(shape), requires_grad=covariance_type != "fixed")
        self.weight_logits = nn.Parameter(torch.ones(k))
        self.register_buffer("placed", torch.tensor(False))

    @property
    def weights(self) -> torch.Tensor:
        """Component weights, shape ``(k,)``."""
        return torch.softmax(self.weight_logits, dim=0)

    @property
    def component_means(self) -> torch.Tensor:
        """Means, shape ``(k, d)``."""
        return self.means

    @property
    def variances(self) -> torch.Tensor:
        """Variances, shape ``(k, d)`` whatever the covariance type."""
        return self.log_var.exp().expand(self.n_components, self.n_latent)

    def _component_log_prob(self, z: torch.Tensor) -> torch.Tensor:
        log_var = self.log_var.expand(self.n_components, self.n_latent)  # (k, d)
        deviation = z.unsqueeze(-2) - self.means  # (..., k, d)
        log_normal = -0.5 * (_LOG_2PI + log_var + deviation.square() * (-log_var).exp()).sum(-1)  # (..., k)
        return torch.log_softmax(self.weight_logits, dim=0) + log_normal

    def _sample_components(self, components: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        scale = self.variances[components].sqrt()
        noise = torch.randn(scale.shape, generator=generator, device=scale.device, dtype=scale.dtype)
        return self.means[components] + scale * noise

    def hyper_log_prob(self) -> dict[str, torch.Tensor]:
        r"""Dirichlet log density of the weights, on the simplex (no Jacobian of the softmax)."""
        return {"weights": self._dirichlet_log_prob()}

    def _dirichlet_log_prob(self) -> torch.Tensor:
        k, alpha = self.n_components, self.concentration
        log_normalizer = math.lgamma(k * alpha) - k * math.lgamma(alpha)
        return log_normalizer + (alpha - 1) * torch.log_softmax(self.weight_logits, dim=0).sum()

    @torch.no_grad()
    def reset(self) -> None:
        """Back to the broad prior N(0, I)."""
        self.means.zero_()
        self.log_var.zero_()
        self.weight_logits.fill_(1.0)
        self.placed.fill_(False)

    @torch.no_grad()
    def place(self, z: torch.Tensor, *, noise_var: float = 0.0, seed: int = 0) -> None:
        """Put the components where cells are: k-means++ and EM from several starts, the likeliest is kept.

        A mixture that is placed already stays as it is unless a start is likelier. The starts see at most 20,000 random
        cells; a last step of EM sees all.

        Parameters
        ----------
        z
            Representations, shape ``(n, d)``.
        noise_var
            Variance of each representation around its row of `z`, added to the scatter.
        seed
            Seed of the starts.
        """
        every_z, z = z, _random_subset(z, seed)
        best, best_log_likelihood = self._copy_state(), self._log_likelihood(z) if self.placed else -math.inf
        for start in range(_N_STARTS):
            self.means.copy_(_kmeans(z, self.n_components, seed + start))
            self.weight_logits.zero_()
            nearest = torch.cat([torch.cdist(block, self.means).argmin(1) for block in z.split(_BLOCK_CELLS)])
            within = (z - self.means[nearest]).square().mean(0) + noise_var  # (d,)
            within = within.mean().expand_as(self.log_var) if self.covariance_type == "spherical" else within
            self.log_var.copy_(within.clamp(min=_MIN_VAR).log().expand_as(self.log_var))
            for _ in range(_N_EM_STEPS):
                self._em_step(z, noise_var, update_variances=True)
            log_likelihood = self._log_likelihood(z)
            if log_likelihood > best_log_likelihood:
                best, best_log_likelihood = self._copy_state(), log_likelihood
        self.load_state_dict(best)
        self._em_step(every_z, noise_var, update_variances=True)
        self.placed.fill_(True)

    def _log_likelihood(self, z: torch.Tensor) -> float:
        return sum(float(self.log_prob(block).sum()) for block in z.split(_BLOCK_CELLS))

    def _copy_state(self) -> dict[str, torch.Tensor]:
        return {name: value.clone() for name, value in self.state_dict().items()}

    @torch.no_grad()
    def em_step(self, z: torch.Tensor, *, noise_var: float = 0.0, dirichlet_weight: float = 1.0) -> None:
        r"""One step of expectation maximisation on representations :math:`q_i = \mathcal N(z_i, v I)`, in closed form.

        .. math::
            R_c = \sum_i r_{ic}, \quad m_c = \frac{\sum_i r_{ic} z_i}{R_c}, \quad
            \sigma_{cl}^2 = \frac{\sum_i r_{ic} (z_{il} - m_{cl})^2}{R_c} + v, \quad
            w_c \propto \max\big(R_c + \kappa (\alpha - 1),\, 10^{-6} n\big)

        with :math:`\sigma^2` pooled over whatever the covariance type shares. The floor of the weights keeps their logs
        finite.

        Parameters
        ----------
        z
            Representations, shape ``(n, d)``.
        noise_var
            Variance ``v`` of each representation around its row of `z`.
        dirichlet_weight
            How often :math:`\kappa` the Dirichlet prior is counted.
        """
        update_variances = self.covariance_type != "fixed"
        self._em_step(z, noise_var, update_variances=update_variances, dirichlet_weight=dirichlet_weight)

    def _em_step(
        self, z: torch.Tensor, noise_var: float, *, update_variances: bool, dirichlet_weight: float = 1.0
    ) -> None:
        n, k, d = len(z), self.n_components, self.n_latent
        # E[log N_c] under q_i is log N_c(z_i) less this
        spread = 0.5 * noise_var * (-self.log_var).exp().expand(k, d).sum(-1)  # (k,)
        # in double, because variances are differences of second moments and squared means
        counts, first, second = (torch.zeros(s, dtype=torch.float64, device=z.device) for s in ((k,), (k, d), (k, d)))
        for block in z.split(max(1, _MAX_ELEMENTS // (k * d))):
            r = torch.softmax(self._component_log_prob(block) - spread, dim=-1).double()
            block = block.double()
            counts += r.sum(0)
            first += r.T @ block
            second += r.T @ block.square()
        alive = counts > _MIN_CELLS  # a component without cells stays where it is
        share = counts.clamp(min=_MIN_CELLS).unsqueeze(-1)
        means = torch.where(alive.unsqueeze(-1), first / share, self.means)
        if update_variances:
            scatter = (second - share * means.square()).clamp(min=0) * alive.unsqueeze(-1)  # (k, d)
            if self.covariance_type in ("diag", "spherical"):
                variances = scatter / share
                variances = variances if self.covariance_type == "diag" else variances.mean(-1, keepdim=True)
                log_var = (variances + noise_var).clamp(min=_MIN_VAR).log()
                self.log_var.copy_(torch.where(alive.unsqueeze(-1), log_var, self.log_var))
            else:
                self.log_var.copy_((scatter.sum(0, keepdim=True) / n + noise_var).clamp(min=_MIN_VAR).log())
        self.means.copy_(means)
        weights = (counts + dirichlet_weight * (self.concentration - 1)).clamp(min=1e-6 * n)
        self.weight_logits.copy_((weights / weights.sum()).log())


class SoftballMixture(GaussianMixture):
    r"""DGD's mixture: a Gaussian mixture whose parameters have priors of their own (Schuster & Krogh 2023, eqs. 3-7).

    .. math::
        m_c \sim \mathrm{softball}(R, a), \qquad
        -\log\sigma_{cl}^2 \sim \mathcal N(-2\log\sigma_0, \tau_0^2), \quad \sigma_0 = 0.2\, R / k, \qquad
        w \sim \mathrm{Dir}(\alpha \mathbf 1_k)

    Means start uniform in the ball, standard deviations at :math:`\sigma_0`, weights equal. A ``"fixed"`` variance has
    no prior.

    Parameters
    ----------
    n_components, n_latent, covariance_type, concentration
        As for :class:`GaussianMixture`; the published covariance is ``"diag"``.
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
    """

    def __init__(
        self,
        n_components: int,
        n_latent: int,
        *,
        covariance_type: CovarianceType = "diag",
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
        for name, value in (("component_scale", self.component_scale), ("log_var_scale", log_var_scale)):
            if value <= 0:
                msg = f"`{name}` must be positive, got {value}."
                raise ValueError(msg)
        with torch.no_grad():
            self.means.copy_(self.softball.sample(self.n_components, generator))
            self.log_var.fill_(2 * math.log(self.component_scale))
        if initial_means not in ("softball", "kmeans"):
            msg = f"`initial_means` must be 'softball' or 'kmeans', got {initial_means!r}."
            raise ValueError(msg)
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
    def place(self, z: torch.Tensor, *, noise_var: float = 0.0, seed: int = 0) -> None:
        """Put the *means* at the k-means centres of `z`; variances keep the start that their prior gives them."""
        self.means.copy_(_kmeans(_random_subset(z, seed), self.n_components, seed))
        self.placed.fill_(True)

    def em_step(self, z: torch.Tensor, *, noise_var: float = 0.0, dirichlet_weight: float = 1.0) -> None:
        """Not available: the softball and the log-normal prior have no closed-form M-step."""
        msg = "A SoftballMixture has no closed-form M-step; train it with `prior_update='gradient'`."
        raise NotImplementedError(msg)


def _random_subset(z: torch.Tensor, seed: int) -> torch.Tensor:
    """At most 20,000 rows of `z`."""
    if len(z) <= _MAX_PLACING_CELLS:
        return z
    rows = np.random.default_rng(seed).choice(len(z), _MAX_PLACING_CELLS, replace=False)
    return z[torch.as_tensor(rows, device=z.device)]


def _kmeans(z: torch.Tensor, n_components: int, seed: int) -> torch.Tensor:
    """K-means centres of the rows of `z`, shape ``(k, d)``."""
    from sklearn.cluster import KMeans

    rows = z.detach().cpu().numpy()
    distinct = np.unique(rows, axis=0)
    if len(distinct) <= n_components:
        centres = distinct[np.arange(n_components) % len(distinct)]
    else:
        centres = KMeans(n_components, n_init=1, random_state=seed).fit(rows).cluster_centers_
    return torch.as_tensor(centres, dtype=z.dtype, device=z.device)
