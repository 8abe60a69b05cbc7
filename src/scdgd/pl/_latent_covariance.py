"""Covariance of representations, and how many principal components hold it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from scdgd._options import Number, Optional, Text
from scdgd.metrics import active_units, n_principal_components
from scdgd.tl._of_models import check_trained

from ._figure import bare, finish, get_axes, plotting

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from anndata import AnnData
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from scvi.model.base import BaseModelClass


@plotting(share=Number(above=0, below=1), cmap=Optional(Text("the name of a colour map")))
def latent_covariance(
    model: BaseModelClass,
    adata: AnnData | None = None,
    *,
    share: float = 0.95,
    cmap: str = "RdBu_r",
    ax: Sequence[Axes] | None = None,
    figsize: tuple[float, float] = (9.0, 4.0),
    save: str | Path | None = None,
    show: bool | None = None,
    return_fig: bool = False,
) -> np.ndarray | Figure:
    r"""Covariance of the posterior means of cells, and the share of it that principal components hold (Dony et al. 2020).

    Left, :math:`\operatorname{Cov}_i(\mathbb E_q[z_l \mid x_i])`, its dimensions in the order of their variance; the title counts
    *active* ones (:func:`scdgd.metrics.active_units`). Right, the cumulative share of principal components, with how many hold
    95% (:func:`scdgd.metrics.n_principal_components`). Few of them beside many active dimensions mean that dimensions say the same.

    Parameters
    ----------
    model
        Trained model with representations: of this package or of scvi-tools.
    adata
        Cells; those of the model if not given.
    share
        Share of the variance.
    cmap
        Colour map of covariances around zero.
    ax
        Two Axes to draw in; a new figure if not given.
    %(figure)s

    Returns
    -------
    The two Axes, or the figure.

    Raises
    ------
    TypeError
        If it is no model.
    RuntimeError
        If the model is not trained.
    ValueError
        If there is one cell only.

    Examples
    --------
    >>> scdgd.pl.latent_covariance(model)
    """
    check_trained(model, "latent_covariance")
    z = model.get_latent_representation(adata).astype(float)
    if len(z) < 2:
        msg = f"A covariance needs two cells or more, but there is {len(z)}."
        raise ValueError(msg)
    of_matrix, of_share = get_axes(ax, 2, figsize)
    covariance = np.atleast_2d(np.cov(z.T))
    order = np.argsort(-covariance.diagonal(), kind="stable")
    largest = np.abs(covariance).max() or 1.0
    image = of_matrix.imshow(covariance[np.ix_(order, order)], cmap=cmap, vmin=-largest, vmax=largest)
    of_matrix.set(
        xlabel="dimension, by variance",
        ylabel="dimension, by variance",
        title=f"Covariance: {active_units(z)} of {z.shape[1]} active",
    )
    of_matrix.figure.colorbar(image, ax=of_matrix, shrink=0.8)
    variances = np.linalg.eigvalsh(covariance)[::-1].clip(0)
    cumulative = variances.cumsum() / (variances.sum() or 1.0)
    n = n_principal_components(z, share=share)
    numbers = np.arange(1, len(variances) + 1)
    of_share.plot(numbers, cumulative, "o-", color="C0", markersize=3)
    of_share.axhline(share, color="0.4", linestyle="--", linewidth=1)
    of_share.axvline(n, color="0.4", linestyle="--", linewidth=1)
    of_share.set(
        xlabel="principal components",
        ylabel="cumulative share of variance",
        title=f"{n} hold {share:.0%}",
        ylim=(0, 1.03),
    )
    of_share.xaxis.get_major_locator().set_params(integer=True)
    bare(of_share)
    return finish([of_matrix, of_share], is_single=False, save=save, show=show, return_fig=return_fig)
