"""Models that pilot studies train, and how they make cells."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from scdgd.tl import noise_baseline, sample_cells

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData
    from scvi.model import SCVI
    from scvi.model.base import BaseModelClass

    from scdgd.model import SCDBM, SCDGD


@dataclass(frozen=True)
class PilotModel:
    """A generator of cells, and the modes to draw from it.

    Parameters
    ----------
    factory
        Called with an AnnData of the pilot, raw counts in ``X``, which it may change. Returns what cells are drawn from:

        * a trained model that :func:`scdgd.tl.sample_cells` knows
        * a function ``sampler(n_cells, *, mode, seed)`` that returns an AnnData of counts with the genes of the pilot

        Seeds of scvi-tools, torch and NumPy are set before the call. To run in parallel, a factory must be picklable by
        cloudpickle: functions of a script or notebook are.
    modes
        Modes that cells are drawn in, all from one fit: ``"prior"`` and ``"posterior"`` for models; a function gets what
        stands here.
    """

    factory: Callable[[AnnData], Any]
    modes: tuple[str, ...] = ("prior",)


def default_models() -> dict[str, PilotModel]:
    """Models of a pilot study that names none.

    * ``"SCDBM"``: :class:`scdgd.model.SCDBM` with its defaults, 110 epochs; Gibbs sampling
    * ``"SCVI"``: stock :class:`scvi.model.SCVI` with scvi-tools' defaults: zero-inflated negative binomial, 10 latent
      dimensions, one hidden layer of 128, 90% of the cells train, 400 epochs for pilots of up to 20,000 cells, no early
      stopping; from the prior, with library sizes of pilot cells, and from the posterior, of one fit
    * ``"SCDGD"``: :class:`scdgd.model.SCDGD` with its defaults, 50 epochs for pilots; from the prior
    * ``"noise"``: :func:`scdgd.tl.noise_baseline`, which has no parameters; mode ``"noise"``, and ``"replicated"`` if it is
      asked for, which adds noise once to each pilot cell, as published

    Returns
    -------
    By name, to be changed or added to.

    Examples
    --------
    >>> models = default_models() | {"mine": my_factory}
    """
    return {
        "SCDBM": PilotModel(fit_scdbm),
        "SCVI": PilotModel(fit_scvi, ("prior", "posterior")),
        "SCDGD": PilotModel(fit_scdgd),
        "noise": PilotModel(add_noise, ("noise",)),
    }


def fit_scdbm(pilot: AnnData) -> SCDBM:
    """Train SCDBM with its defaults, without the estimate of the likelihood that ends it."""
    from scdgd.model import SCDBM

    return _fitted(SCDBM, pilot, estimate_likelihood=False)


def fit_scvi(pilot: AnnData) -> SCVI:
    """Train stock SCVI with scvi-tools' defaults."""
    from scvi.model import SCVI

    return _fitted(SCVI, pilot)


def fit_scdgd(pilot: AnnData) -> SCDGD:
    """Train SCDGD with its defaults."""
    from scdgd.model import SCDGD

    return _fitted(SCDGD, pilot)


def _fitted(kind: type[BaseModelClass], pilot: AnnData, **options: bool) -> BaseModelClass:
    kind.setup_anndata(pilot)
    model = kind(pilot)
    model.train(enable_progress_bar=False, **options)
    return model


def add_noise(pilot: AnnData) -> Callable:
    """Sampler of pilot cells with noise."""

    def sampler(n_cells: int, *, mode: str, seed: int) -> AnnData:
        """Copies of the pilot, each with noise of its own, or copies of the noisy pilot if ``mode="replicated"``."""
        return noise_baseline(pilot, n_cells, replicate=mode == "replicated", seed=seed)

    return sampler


def checked_models(models: Mapping[str, PilotModel | Callable] | None) -> dict[str, PilotModel]:
    """Models by name, each with its modes.

    TypeError if one is neither a factory nor a :class:`PilotModel`; ValueError if there are none, or one has no modes.
    """
    models = default_models() if models is None else dict(models)
    if not models:
        msg = "A pilot study needs models, but `models` is empty. Leave it out for the default ones."
        raise ValueError(msg)
    for name, model in models.items():
        factory = model.factory if isinstance(model, PilotModel) else model
        if not isinstance(name, str) or not callable(factory) or hasattr(factory, "is_trained_"):
            msg = (
                f"`models` maps names to functions that train a model on a pilot, but {name!r} has a "
                f"{type(factory).__name__}. Pass a function, `lambda pilot: trained_model(pilot)`, or a `PilotModel` of one."
            )
            raise TypeError(msg)
        models[name] = model if isinstance(model, PilotModel) else PilotModel(model)
        if not models[name].modes or isinstance(models[name].modes, str):
            msg = f"`modes` of {name!r} must be a tuple of at least one name, got {models[name].modes!r}."
            raise ValueError(msg)
    return models


def draw_cells(generator: Any, n_cells: int, mode: str, seed: int) -> AnnData:
    """Cells of what a factory returned, a trained model or a sampler; see :func:`scdgd.tl.sample_cells`."""
    if callable(generator) and not hasattr(generator, "is_trained_"):
        return generator(n_cells, mode=mode, seed=seed)
    return sample_cells(generator, n_cells, mode=mode, seed=seed)
