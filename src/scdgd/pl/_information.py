"""How much the counts of a cell tell about each axis of the latent space."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scdgd.tl._of_models import check_trained, coordinates_of

from ._figure import bare, finish, get_axes, plotting

if TYPE_CHECKING:
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from scvi.model.base import BaseModelClass

#: Shares of the largest information below which an axis is drawn at the foot of a logarithmic scale.
_LEAST = 1e-6
#: Ratio of the largest and the least from which the scale is logarithmic.
_WIDE = 20


@plotting()
def information(
    model: BaseModelClass,
    *,
    ax: Axes | None = None,
    figsize: tuple[float, float] = (6.0, 4.0),
    save: str | Path | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> Axes | Figure:
    """Information of the counts along each axis of :meth:`~scdgd.model.SCDGD.get_information`, and their cumulative share.

    Below the dashed line the prior's unit scale says more of where a cell stands than its counts do. A flat curve means that
    all dimensions are in use; more may help. Where the last axes are far below the line, fewer would do.

    Parameters
    ----------
    model
        Trained model with a decoder: of this package, or of scvi-tools with its training data attached.
    ax
        Where to draw; a new figure if not given. The cumulative share has an axis of its own on the right.
    %(figure)s

    Returns
    -------
    The Axes, or the figure.

    Raises
    ------
    TypeError
        If it is no model.
    RuntimeError
        If the model is not trained.
    NotImplementedError
        Of :class:`~scdgd.model.SCDBM`, whose hidden units nothing decodes into counts.

    Examples
    --------
    >>> scdgd.pl.information(model)
    """
    check_trained(model, "information")
    nats = coordinates_of(model).nats
    axes = get_axes(ax, 1, figsize)
    ax, numbers = axes[0], np.arange(1, len(nats) + 1)
    is_wide = nats[0] > _WIDE * nats[-1]
    shown = np.maximum(nats, _LEAST * nats[0]) if is_wide else nats
    ax.plot(numbers, shown, "o-", color="C0", markersize=4)
    ax.axhline(1.0, color="0.4", linestyle="--", linewidth=1, label="of a prior of unit scale")
    ax.set(xlabel="axis, by information", title="Information of the counts")
    ax.set_ylabel("per squared unit of z (half of it in nats)", color="C0")
    ax.legend(frameon=False, loc="center right")
    ax.set_yscale("log" if is_wide else "linear")
    ax.set_ylim(None if is_wide else 0)
    ax.xaxis.get_major_locator().set_params(integer=True)
    bare(ax)
    of_share = ax.twinx()
    of_share.plot(numbers, np.cumsum(nats) / max(nats.sum(), np.finfo(float).tiny), "-", color="C1")
    of_share.set_ylabel("cumulative share", color="C1")
    of_share.set_ylim(0, 1.03)
    of_share.spines[["top", "left"]].set_visible(False)
    return finish(axes, is_single=True, save=save, show=show, return_fig=return_fig)
