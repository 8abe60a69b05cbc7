"""Loadings of genes on the axes of information."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from scdgd._options import Integer, Optional, Text, checked
from scdgd.inference import undisturbed
from scdgd.inference._change_of_shares import ChangeOfShares
from scdgd.inference._joint_density import frozen

from ._expected_shift import decoders_of
from ._of_models import check_counts, check_trained, coordinates_of, genes_of, some_of

if TYPE_CHECKING:
    from anndata import AnnData
    from scvi.model.base import BaseModelClass

    from scdgd.inference import InformationCoordinates


@checked(
    n_axes=Optional(Integer(1)),
    n_genes=Integer(1),
    n_cells=Integer(2),
    key=Text("a key of `adata.varm` and `adata.uns`"),
    seed=Integer(0),
)
def gene_programs(
    model: BaseModelClass,
    adata: AnnData | None = None,
    *,
    n_axes: int | None = None,
    n_genes: int = 10,
    n_cells: int = 500,
    key: str = "gene_programs",
    seed: int = 0,
) -> pd.DataFrame:
    r"""Gene programmes: how genes change along each axis of information, from the axis that counts tell most about.

    .. math::
        L_{ja} = \frac1n \sum_i \frac12 \log_2 \frac{\rho_j(z_i + \sigma_a v_a)}{\rho_j(z_i - \sigma_a v_a)}

    with the axes :math:`v_a` of :meth:`~scdgd.model.SCDGD.get_information`, and the standard deviation :math:`\sigma_a` of cells
    along each: the log fold change of the expected share of a gene with one of them, base 2. It is averaged over cells where they
    stand, because the mean of all cells may be a place without any. With a linear decoder of loadings :math:`W` it is
    :math:`W V \operatorname{diag}(\sigma) / \log 2` up to a constant of each axis, as shares sum to one.

    Writes ``adata.varm[key]``, shape ``(g, a)``, as :func:`scanpy.tl.pca` writes ``"PCs"``, ``adata.varm[f"{key}_sd"]``, standard
    deviations over cells of what is averaged, and ``adata.uns[key]``: names of the `axes`, their information in `nats` per
    squared unit of z, `sd`, :math:`\sigma`, and `top_genes`, the table that is returned. Genes that the model does not have are NaN.

    Genes are ranked by how much of the information of an axis they have, :math:`\bar\rho_j L_{ja}^2` for Poisson counts, at the end
    that the sign of their loading says: the largest fold changes are those of genes with hardly a count.

    Parameters
    ----------
    model
        Trained model with a decoder: of this package, or of scvi-tools with its training data attached.
    adata
        Cells that are decoded, and where results are written; those of the model if not given.
    n_axes
        Number of axes; all if not given.
    n_genes
        Number of genes at each end of an axis.
    n_cells
        Most cells that are decoded, a random subset of more.
    key
        Key of ``adata.varm`` and ``adata.uns``.
    seed
        Seed of the subset.

    Returns
    -------
    Genes at the ends of the axes, those with the most information first: columns ``"axis"``, ``"end"`` (``"+"`` or ``"-"``),
    ``"gene"``, ``"log_fold_change"``, ``"sd"``, and ``"share"``, the mean expected share.

    Raises
    ------
    TypeError
        If it is no model.
    RuntimeError
        If the model is not trained.
    ValueError
        If the model has fewer axes, or there are less than two cells.
    NotImplementedError
        If values are no counts, or nothing decodes representations into counts (:class:`~scdgd.model.SCDBM`).

    Examples
    --------
    >>> scdgd.tl.gene_programs(model, n_axes=5)
    >>> sc.pl.ranking(adata, "varm", "gene_programs", indices=[0, 1])
    """
    check_trained(model, "gene_programs")
    coordinates = coordinates_of(model)
    check_counts(model)
    given = model.adata if adata is None else adata
    n_axes = _number_of_axes(n_axes, coordinates)
    with undisturbed():
        sd, tables = _changes(model, model._validate_anndata(adata), coordinates, n_axes, n_cells, seed)
    names = [f"axis_{a + 1}" for a in range(n_axes)]
    for name, column in ((key, "log_fold_change"), (f"{key}_sd", "sd")):
        values = pd.DataFrame({axis: table[column] for axis, table in zip(names, tables, strict=True)})
        given.varm[name] = values.reindex(given.var_names).to_numpy(dtype=np.float32)
    ends = [_ends(table, axis, n_genes) for axis, table in zip(names, tables, strict=True)]
    found = pd.concat(ends, ignore_index=True)
    given.uns[key] = {"axes": names, "nats": coordinates.nats[:n_axes], "sd": sd, "top_genes": found.copy()}
    return found


def _number_of_axes(n_axes: int | None, coordinates: InformationCoordinates) -> int:
    n_latent = len(coordinates.nats)
    if n_axes is not None and n_axes > n_latent:
        msg = f"`n_axes` must be at most the number of latent dimensions, {n_latent}, got {n_axes}."
        raise ValueError(msg)
    return n_axes or n_latent


def _changes(
    model: BaseModelClass,
    adata: AnnData,
    coordinates: InformationCoordinates,
    n_axes: int,
    n_cells: int,
    seed: int,
) -> tuple[np.ndarray, list[pd.DataFrame]]:
    """Standard deviations of cells along axes ``(a,)``, and of each axis a table with a row for each gene."""
    positions = some_of(np.random.default_rng(seed), np.arange(adata.n_obs), n_cells)
    if len(positions) < 2:
        msg = f"Axes are as long as cells differ along them, and there are {len(positions)} cells. Pass more."
        raise ValueError(msg)
    z = torch.as_tensor(np.asarray(model.get_latent_representation(adata, positions)))
    axes = torch.as_tensor(coordinates.axes[:, :n_axes]).to(z)
    sd, genes = (z @ axes).std(0), genes_of(model)
    steps, changes = (axes * sd).T.to(model.module.device), [ChangeOfShares(len(genes)) for _ in range(n_axes)]
    with frozen(model.module):
        for cells, shares in decoders_of(model, adata, positions):
            here = z[cells].to(model.module.device)
            for change, step in zip(changes, steps, strict=True):
                change.add([(shares(here - step), shares(here + step))])
    return sd.numpy(), [_halved(change.table().set_index(genes)) for change in changes]


def _halved(table: pd.DataFrame) -> pd.DataFrame:
    """Changes with one standard deviation, of those with two."""
    return pd.DataFrame(
        {
            "log_fold_change": table["log_fold_change"] / 2,
            "sd": table["sd_cells"] / 2,
            "share": (table["share"] + table["share_after"]) / 2,
        }
    )


def _ends(table: pd.DataFrame, axis: str, n_genes: int) -> pd.DataFrame:
    """The genes with the most information at the ends of an axis."""
    change = table["log_fold_change"]
    signed = np.sign(change) * table["share"] * change**2
    ends = {"+": signed[signed > 0].nlargest(n_genes).index, "-": signed[signed < 0].nsmallest(n_genes).index}
    return pd.concat(
        [table.loc[genes].rename_axis("gene").reset_index().assign(axis=axis, end=end) for end, genes in ends.items()]
    )[["axis", "end", "gene", "log_fold_change", "sd", "share"]]
