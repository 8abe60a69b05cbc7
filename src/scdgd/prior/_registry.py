"""Priors by name, the same names in all models."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any, Literal

from scvi import settings

from scdgd._options import Rule, constructor_options, shown

from ._base import Prior
from ._dirichlet_process_mixture import DirichletProcessMixture
from ._gaussian_mixture import GaussianMixture
from ._pseudo_inputs import PseudoInputs
from ._softball_mixture import SoftballMixture
from ._standard_normal import StandardNormal
from ._vade import VaDEMixture
from ._vamp_prior import VampPrior
from ._vamp_prior_mixture import VampPriorMixture

PriorName = Literal["normal", "gaussian_mixture", "softball", "dpgmm", "vamp", "vmm", "vade"]

#: Classes by name. What a model can do with them they say themselves (:attr:`Prior.needs_encoder`, :attr:`Prior.updates`).
PRIORS: dict[PriorName, type[Prior]] = {
    "normal": StandardNormal,
    "gaussian_mixture": GaussianMixture,
    "softball": SoftballMixture,
    "dpgmm": DirichletProcessMixture,
    "vamp": VampPrior,
    "vmm": VampPriorMixture,
    "vade": VaDEMixture,
}
#: Former names.
_FORMER = {"gmm": "gaussian_mixture"}


def current_name(prior: Any) -> Any:
    """The name that a prior has now; what is no former name as it is."""
    return _FORMER.get(prior, prior) if isinstance(prior, str) else prior


class PriorRule(Rule):
    """A prior: its name, its class, or the prior itself. Some are made of the model's encoder, if it has one."""

    def __init__(self, *, has_encoder: bool) -> None:
        self.has_encoder = has_encoder
        self.names = [name for name, kind in PRIORS.items() if has_encoder or not kind.needs_encoder]

    @property
    def words(self) -> str:
        """What is accepted."""
        return f"one of {self.names}, a subclass of scdgd.prior.Prior, or an instance of one"

    def __call__(self, name: str, value: Any) -> PriorName | type[Prior] | Prior:
        """The prior, under the name that it has now."""
        given, value = value, current_name(value)
        if value is not given:
            msg = f"`{name}={given!r}` is called {value!r} now; the former name goes in version 0.3."
            warnings.warn(msg, FutureWarning, stacklevel=settings.warnings_stacklevel)
        is_class = isinstance(value, type) and issubclass(value, Prior)
        if not (is_class or isinstance(value, Prior) or (isinstance(value, str) and value in PRIORS)):
            self.refuse(name, value)
        if class_of(value).needs_encoder and not self.has_encoder:
            msg = (
                f"`{name}={shown(given)}` is made of the posteriors of an encoder, and this model has none. It takes "
                f"{self.words}; `scdgd.model.FlexSCVI` takes {given!r}."
            )
            raise ValueError(msg)
        if isinstance(value, Prior) and value.needs_encoder:
            msg = (
                f"Pass the class of a {type(value).__name__}, not the prior itself: the model makes its pseudo-inputs."
            )
            raise ValueError(msg)
        return value


def class_of(prior: PriorName | type[Prior] | Prior) -> type[Prior]:
    """Class of a prior that is given by its name, its class, or itself."""
    if isinstance(prior, str):
        return PRIORS[prior]
    return type(prior) if isinstance(prior, Prior) else prior


def title_of(prior: PriorName | type[Prior] | Prior) -> str:
    """What a prior is called."""
    return prior if isinstance(prior, str) else class_of(prior).__name__


def summary_of(prior: PriorName | type[Prior] | Prior, n_components: int) -> str:
    """What a prior is called, and how many components it has, if it has any."""
    components = f" of {n_components:,} component{'s'[: n_components - 1]}" if class_of(prior).has_components else ""
    return f"{title_of(prior)}{components}"


def components_of(prior: PriorName | type[Prior] | Prior, n_components: int | str) -> int | str:
    """Number of components of a prior: that which is asked for, unless it has its own."""
    if isinstance(prior, Prior):
        return prior.n_components
    return n_components if class_of(prior).has_components else 1


def make_prior(
    prior: PriorName | type[Prior] | Prior,
    n_components: int,
    n_latent: int,
    options: dict[str, Any] | None = None,
    pseudo_inputs: Callable[[], PseudoInputs] | None = None,
) -> Prior:
    """A prior of ``k`` components and ``d`` dimensions by its name or class, or a copy of one.

    It has further `options` of its constructor. What makes encoder inputs is ``None`` for a model without an encoder.
    ValueError if an option is out of range, a prior needs an encoder, or has other dimensions; TypeError for unknown options.
    """
    options, kind = options or {}, class_of(prior)
    if isinstance(prior, Prior):
        if options:
            msg = f"`prior_kwargs` are for the class of a prior, and here is a {kind.__name__} itself. Leave them out."
            raise TypeError(msg)
        if prior.n_latent != n_latent:
            msg = f"The prior has {prior.n_latent} dimensions, and the model `n_latent={n_latent}`."
            raise ValueError(msg)
        return copy.deepcopy(prior)
    of_prior = constructor_options(kind, "n_components", "n_latent", "pseudo_inputs", "generator")
    options = of_prior("prior_kwargs", options)
    if isinstance(prior, str) and pseudo_inputs is not None:
        options = {**kind.encoder_options, **options}
    return kind.make(n_components, n_latent, pseudo_inputs() if kind.needs_encoder else None, **options)
