"""The contract of a prior over representations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import nn

from scdgd._options import check_positive_integers

from ._class_components import ClassComponents
from ._covariance import as_posterior_var
from ._curvature import negative_hessian, positive_part
from ._moments import Moments, collect_moments

if TYPE_CHECKING:
    from ._pseudo_inputs import Encode, PseudoInputs

_N_DRAWS = 1_000


class Prior(nn.Module, ABC):
    r"""A mixture density :math:`p(z) = \sum_c w_c\, p_c(z)` over representations :math:`z \in \mathbb{R}^d`.

    A new prior implements :meth:`_component_log_prob` and :meth:`_sample_components`, and :attr:`weights` unless they are
    equal; densities, responsibilities, clustering, sampling and training by gradients follow. All else has a default and is
    there to be said better: hyper-priors (:meth:`hyper_log_prob`), the means of components, where training starts
    (:meth:`place`), closed-form steps (:meth:`m_step`), the curvature (:class:`GaussianComponents` has that of Gaussians).

    Parameters
    ----------
    n_components
        Number of components ``k``.
    n_latent
        Dimension ``d`` of the representations.

    Raises
    ------
    ValueError
        If a size is smaller than 1.

    Attributes
    ----------
    updates
        Names of the :data:`UPDATES` that it can be trained by, the preferred one first. A training plan takes the first
        that it offers.
    lr_ratio
        Learning rate over that of networks which train with it, if it is not asked for.
    needs_encoder
        Whether components are encoded pseudo-inputs, :attr:`EncodedPrior.pseudo_inputs`.
    is_broad_at_first
        Whether it is :math:`\mathcal N(0, I)` until it is placed, so that representations can train before it is.
    starts_at_clusters
        Whether training begins without it, and it then starts at the clusters of representations.
    has_components
        Whether it is made of components whose number is asked for.
    encoder_options
        Arguments of the constructor that are the default in models with an encoder, where it is named.
    classes
        Which components belong to which class, if they do: then `given`, in densities and steps, are codes ``(...)`` of the
        classes of cells, -1 where there is no label.
    """

    updates: ClassVar[tuple[str, ...]] = ("gradient",)
    lr_ratio: ClassVar[float] = 1.0
    needs_encoder: ClassVar[bool] = False
    is_broad_at_first: ClassVar[bool] = False
    starts_at_clusters: ClassVar[bool] = False
    has_components: ClassVar[bool] = True
    encoder_options: ClassVar[Mapping[str, Any]] = {}

    def __init__(self, n_components: int, n_latent: int) -> None:
        super().__init__()
        check_positive_integers(n_components=n_components, n_latent=n_latent)
        self.n_components, self.n_latent = int(n_components), int(n_latent)
        self.classes: ClassComponents | None = None

    @classmethod
    def make(cls, n_components: int, n_latent: int, pseudo_inputs: PseudoInputs | None = None, **options: Any) -> Self:
        """A prior of this class, whatever its constructor takes.

        Parameters
        ----------
        n_components, n_latent
            Numbers ``k`` of components and ``d`` of dimensions.
        pseudo_inputs
            Encoder inputs, for priors that need an encoder.
        **options
            Further arguments of the constructor.
        """
        return cls(n_components, n_latent, **options)

    def encoded_by(self, encode: Encode | None = None) -> Prior:
        """Prior for the encoder as it is now: itself, unless components are encoded pseudo-inputs.

        Parameters
        ----------
        encode
            Mean and variance, each of shape ``(k, d)``, of the encoder's ``q`` for an :class:`EncoderInput`.
        """
        return self

    # ---------------------------------------------------------------- densities

    def log_prob(self, z: torch.Tensor, given: Any = None) -> torch.Tensor:
        r"""Log density of representations, in nats.

        .. math::
            \log p(z) = \log \sum_c e^{\log w_c + \log p_c(z)}

        Parameters
        ----------
        z
            Representations, shape ``(..., d)``.
        given
            What the density of a cell depends on beside parameters: its class, where components belong to
            :attr:`classes`; in priors of your own also its covariates or coordinates. A prior that depends on none gives the
            same density whatever is given.

        Returns
        -------
        Log densities, shape ``(...)``.

        Raises
        ------
        ValueError
            If the last axis of `z` is not ``d``.
        """
        return torch.logsumexp(self.component_log_prob(z, given), dim=-1)

    def component_log_prob(self, z: torch.Tensor, given: Any = None) -> torch.Tensor:
        r"""Joint log density :math:`\log w_c + \log p_c(z)` of representation and component, shape ``(..., k)``."""
        self._check_shape(z)
        return self._component_log_prob(z) if given is None else self._component_log_prob_given(z, given)

    def expected_component_log_prob(self, z: torch.Tensor, given: Any = None) -> torch.Tensor:
        r"""Expectation of :math:`\log w_c + \log p_c(z)` over what is uncertain about a component, shape ``(..., k)``.

        :meth:`component_log_prob` where nothing is.
        """
        return self.component_log_prob(z, given)

    def expected_log_prob(
        self, z: torch.Tensor, mean: torch.Tensor, var: torch.Tensor, given: Any = None
    ) -> torch.Tensor:
        r"""Estimate :math:`\mathbb E_q \log p(z)` for a Gaussian :math:`q`.

        The density at the draw `z`, unless a prior knows the expectation in closed form.

        Parameters
        ----------
        z
            One draw of each ``q``, shape ``(b, d)``.
        mean, var
            Moments of ``q``, each of shape ``(b, d)``; the variance may be one number for all, or covariances ``(b, d, d)``.
        given
            As for :meth:`log_prob`.

        Returns
        -------
        Shape ``(b,)``, in nats.
        """
        return self.log_prob(z, given)

    def responsibilities(self, z: torch.Tensor, given: Any = None) -> torch.Tensor:
        r"""Posterior :math:`r_c = p(c \mid z)`, shape ``(..., k)``; in log space, so exact far out in the tails too."""
        return torch.softmax(self.component_log_prob(z, given), dim=-1)

    def _check_shape(self, z: torch.Tensor) -> None:
        if z.shape[-1] != self.n_latent:
            msg = f"Representations must have {self.n_latent} dimensions, got shape {tuple(z.shape)}."
            raise ValueError(msg)

    def hyper_log_prob(self) -> dict[str, torch.Tensor]:
        """Log densities of the prior's own parameters, one scalar for each term; empty without hyper-priors."""
        return {}

    # ---------------------------------------------------------------- components

    @property
    def weights(self) -> torch.Tensor:
        """Component weights, shape ``(k,)``, summing to one; equal unless a prior says otherwise."""
        like = next(iter((*self.parameters(), *self.buffers(), torch.zeros(()))))
        return torch.full((self.n_components,), 1 / self.n_components, device=like.device, dtype=like.dtype)

    @property
    def component_means(self) -> torch.Tensor:
        """Mean of each component, shape ``(k, d)``; of 1,000 draws unless a prior knows it."""
        device = self.weights.device
        components = torch.arange(self.n_components, device=device).repeat_interleave(_N_DRAWS)
        with torch.no_grad():
            draws = self._sample_components(components, torch.Generator(device).manual_seed(0))
        return draws.unflatten(0, (self.n_components, _N_DRAWS)).mean(1)

    def sample(
        self, n: int, component: int | None = None, generator: torch.Generator | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw representations.

        Parameters
        ----------
        n
            Number of draws.
        component
            Draw from this component only; ``None`` draws components by their weights.
        generator
            Source of randomness; ``None`` uses torch's global one.

        Returns
        -------
        Representations of shape ``(n, d)`` and their components, shape ``(n,)``.

        Raises
        ------
        ValueError
            If `component` is not one of ``0 ... k-1``.
        """
        if component is None:
            weights = self.weights.expand(self.n_components)
            components = torch.multinomial(weights, n, replacement=True, generator=generator)
        elif component in range(self.n_components):
            components = torch.full((n,), component, device=self.weights.device)
        else:
            msg = f"`component` must be one of 0 ... {self.n_components - 1}, got {component}."
            raise ValueError(msg)
        return self._sample_components(components, generator), components

    # ---------------------------------------------------------------- curvature

    def hessian(self, z: torch.Tensor, given: Any = None) -> torch.Tensor:
        r"""Exact curvature :math:`-\nabla^2 \log p(z)`, which may be indefinite between components.

        Parameters
        ----------
        z
            Representations, shape ``(..., d)``.
        given
            As for :meth:`log_prob`.

        Returns
        -------
        Shape ``(..., d, d)``, in 1 / units of `z` squared.
        """
        return negative_hessian(partial(self.log_prob, given=given), z)

    def precision(self, z: torch.Tensor, given: Any = None) -> torch.Tensor:
        """Positive semidefinite curvature, safe for steps: the positive part of :meth:`hessian`, of the same shape."""
        return positive_part(self.hessian(z, given))

    # ---------------------------------------------------------------- training

    @property
    def is_dense(self) -> bool:
        """Whether steps on moments see covariances of representations, not variances only."""
        return False

    @property
    def can_shrink(self) -> bool:
        """Whether components may become arbitrarily narrow in training."""
        return True

    @property
    def is_placed(self) -> bool:
        """Whether components are where training starts or has brought them; until then they do not train."""
        return True

    def mark_placed(self) -> None:
        """Take components to be where they shall be, as they are now."""

    def reset(self) -> None:
        """Back to what it was before training; nothing to do where :meth:`place` does nothing."""

    def draw_start(self, seed: int = 0) -> None:
        """Tell components of a prior that is not placed apart without cells, and take it to be placed."""

    def place(
        self, z: torch.Tensor, *, posterior_var: float | torch.Tensor = 0.0, seed: int = 0, given: Any = None
    ) -> None:
        """Put the components where cells are; one that is placed moves only if that is better.

        Parameters
        ----------
        z
            Representations, shape ``(n, d)``.
        posterior_var
            Spread of each representation around its row of `z`, as for :meth:`e_step`.
        seed
            Seed of the starts.
        given
            As for :meth:`log_prob`.
        """

    @torch.no_grad()
    def e_step(
        self, z: torch.Tensor, *, posterior_var: float | torch.Tensor = 0.0, given: torch.Tensor | None = None
    ) -> Moments:
        r"""What :meth:`m_step` has to know of some cells, :math:`q_i = \mathcal N(z_i, S_i)`; those of others can be added.

        Parameters
        ----------
        z
            Representations, shape ``(n, d)``.
        posterior_var
            Spread :math:`S_i` of each representation around its row of `z`: one variance for all, variances of shape
            ``(n, d)`` or covariances of shape ``(n, d, d)``, of which axis-aligned priors see the diagonal.
        given
            As for :meth:`log_prob`, one row a cell.

        Raises
        ------
        ValueError
            If `posterior_var` has another shape, or is a negative or infinite number.
        """
        posterior_var = as_posterior_var(posterior_var, z, dense=self.is_dense)
        shape = {"n_components": self.n_components, "dense": self.is_dense}
        return collect_moments(z, posterior_var, self._responsibilities_of, given=given, **shape)

    def m_step(self, moments: Moments, *, dirichlet_weight: float = 1.0) -> None:
        """Maximise the expected log joint density of all cells in closed form.

        Parameters
        ----------
        moments
            Of all cells, from :meth:`e_step`.
        dirichlet_weight
            How often the prior of the weights is counted.

        Raises
        ------
        NotImplementedError
            If there is no closed form.
        """
        msg = f"A {type(self).__name__} has no closed-form M-step; train it with `prior_update='gradient'`."
        raise NotImplementedError(msg)

    def em_step(
        self,
        z: torch.Tensor,
        *,
        posterior_var: float | torch.Tensor = 0.0,
        dirichlet_weight: float = 1.0,
        given: torch.Tensor | None = None,
    ) -> None:
        """One step of expectation maximisation on all cells; arguments are those of :meth:`e_step` and :meth:`m_step`."""
        self.m_step(self.e_step(z, posterior_var=posterior_var, given=given), dirichlet_weight=dirichlet_weight)

    def _responsibilities_of(
        self, z: torch.Tensor, posterior_var: float | torch.Tensor, given: torch.Tensor | None
    ) -> torch.Tensor:
        """Shares of the components in cells ``(b, d)`` of that spread, shape ``(b, k)``."""
        return self.responsibilities(z, given)

    # ---------------------------------------------------------------- what a prior writes

    @abstractmethod
    def _component_log_prob(self, z: torch.Tensor) -> torch.Tensor:
        """``(..., d)`` to ``(..., k)``."""

    def _component_log_prob_given(self, z: torch.Tensor, given: Any) -> torch.Tensor:
        """The same for cells of which something is given: their classes, if the prior has any."""
        log_joint = self._component_log_prob(z)
        return log_joint if self.classes is None else self.classes.restricted(log_joint, given)

    @abstractmethod
    def _sample_components(self, components: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        """One draw from each of the given components, shape ``(n, d)``."""
