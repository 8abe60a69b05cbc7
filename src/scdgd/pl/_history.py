"""The course of training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ._figure import bare, finish, get_axes, plotting

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from scvi.model.base import BaseModelClass

#: Colour and label of curves, by the key of ``model.history`` without ``_train`` or ``_validation``.
_CURVES = {
    "elbo": ("C0", "objective"),
    "reconstruction_loss": ("C1", "reconstruction part"),
    "free_energy": ("C2", "free energy"),
}
#: The same of parts of the divergence, on a scale of their own.
_DIVERGENCES = {"kl_z": ("C3", "divergence of z (right)"), "kl_y": ("C4", "that of the component (right)")}
_MAX_FALL = 5


@plotting()
def history(
    model: BaseModelClass,
    *,
    ax: Axes | None = None,
    figsize: tuple[float, float] = (6.0, 4.0),
    save: str | Path | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | Figure:
    r"""Objective of training, and the reconstruction part of it, by epoch; of :class:`~scdgd.model.SCDBM` free energies.

    The objective is the negative evidence lower bound, or the negative log joint density of models with point estimates
    (SCDGD). Both curves are nats per cell, means over the epoch; the distance between them is the prior's part. A dashed
    line marks the epoch at which the mixture was placed. Curves of validation cells, if there are any, are dotted. With the
    axis on the right :class:`~scdgd.model.SCGMVAE` has both parts of its divergence,
    :math:`\mathbb E_{q(y)} \mathrm{KL}(q(z \mid x, y) \,\|\, p(z \mid y))` and :math:`\mathrm{KL}(q(y \mid x) \,\|\, p(y))`. A deep
    Boltzmann machine has another objective in each stage, so its curves are reconstruction errors and free energies, of which
    those of different stages cannot be compared.

    Parameters
    ----------
    model
        Trained model.
    ax
        Where to draw; a new figure if not given.
    %(figure)s

    Returns
    -------
    The Axes, or the figure.

    Raises
    ------
    ValueError
        If the model has no history, because it is not trained.

    Examples
    --------
    >>> scdgd.pl.history(model)
    """
    # with `on_step=True`, means of epochs have a name of their own
    curves = {name.removesuffix("_epoch"): values for name, values in (model.history or {}).items()}
    if not any(f"{name}_train" in curves for name in _CURVES):
        name = type(model).__name__
        msg = f"`history` draws the course of training, but this {name} has not trained. Call `model.train()` first."
        raise ValueError(msg)
    axes = get_axes(ax, 1, figsize)
    ax = axes[0]
    ax.set_ylim(*_limits(_draw(ax, curves, _CURVES)))
    handles = []
    if any(f"{name}_train" in curves for name in _DIVERGENCES):
        on_the_right = ax.twinx()
        highest = max(map(np.nanmax, _draw(on_the_right, curves, _DIVERGENCES)))
        on_the_right.set(ylabel="nats per cell, of the divergence", ylim=(0, 2 * highest))  # below the others
        on_the_right.spines["top"].set_visible(False)
        handles = on_the_right.get_legend_handles_labels()[0]
    start = getattr(model, "mixture_start_", None)
    if start is not None:
        ax.axvline(start + 0.5, color="0.4", linestyle="--", linewidth=1, label="mixture placed")
    ax.set(xlabel="epoch", ylabel="nats per cell", title="Course of training")
    ax.xaxis.get_major_locator().set_params(integer=True)
    ax.legend(handles=[*ax.get_legend_handles_labels()[0], *handles], frameon=False)
    bare(ax)
    return finish(axes, is_single=True, save=save, show=show, return_fig=return_fig)


def _draw(ax: Axes, curves: dict[str, pd.DataFrame], shown: dict[str, tuple[str, str]]) -> list[np.ndarray]:
    """Draw what a history has of some curves, and give their values."""
    drawn = []
    for name, (color, label) in shown.items():
        for split, style in (("train", "-"), ("validation", ":")):
            frame = curves.get(f"{name}_{split}")
            if frame is None:
                continue
            values = frame.iloc[:, 0].to_numpy(dtype=float)
            epochs = np.arange(1, len(values) + 1)
            ax.plot(epochs, values, style, color=color, label=label if split == "train" else f"{label}, validation")
            drawn.append(values)
    return drawn


def _limits(curves: list[np.ndarray]) -> tuple[float, float]:
    """Limits that hold all curves, unless the first epochs fall so far that nothing else could be read."""
    lowest = min(np.nanmin(values) for values in curves)
    highest = max(np.nanmax(values) for values in curves)
    later = max(np.nanmax(values[len(values) // 10 :]) for values in curves)
    if highest - lowest > _MAX_FALL * (later - lowest) > 0:
        highest = later
    margin = 0.05 * (highest - lowest) or 1.0
    return lowest - margin, highest + margin
