"""Coordinates of information of any model, and cells in them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from anndata import AnnData
from mudata import MuData

from scdgd._options import Integer, Optional, Text, checked
from scdgd.data import Cells

from ._of_models import check_trained, coordinates_of, latent_key

if TYPE_CHECKING:
    from scvi.model.base import BaseModelClass

    from scdgd.inference import InformationCoordinates


@checked(
    adata=Optional(Cells((AnnData, MuData), "an AnnData (or MuData) with the genes of the model")),
    key_added=Optional(Text("a name in `obsm`")),
    batch_size=Optional(Integer(1)),
)
def information_coordinates(
    model: BaseModelClass,
    adata: AnnData | MuData | None = None,
    *,
    key_added: str | None = None,
    batch_size: int | None = None,
) -> InformationCoordinates:
    """Write representations in coordinates in which distances are information of the counts, for neighbours and UMAP.

    Those of a model of this package are what :meth:`~scdgd.model.SCDGD.get_information` gives. Of :class:`scvi.model.SCVI`, and of
    others with its module, they are found from at most 500 of the attached cells, the same each time.

    Adds ``obsm["X_<model>_information"]``, shape ``(n, d)``.

    Parameters
    ----------
    model
        Trained model with a decoder: of this package, or of scvi-tools with its training data attached.
    adata
        Cells with the genes of the model; the model's own if not given.
    key_added
        Another key of ``obsm``.
    batch_size
        Cells read together.

    Returns
    -------
    The coordinates, which map other representations, too.

    Raises
    ------
    TypeError
        If it is no model.
    RuntimeError
        If the model is not trained.
    ValueError
        If training cells are needed, or cells to write to, and none are attached.
    NotImplementedError
        Of :class:`~scdgd.model.SCDBM`, whose hidden units nothing decodes into counts.

    Examples
    --------
    >>> scdgd.tl.information_coordinates(model)
    >>> sc.pp.neighbors(adata, use_rep="X_scvi_information")
    """
    check_trained(model, "information_coordinates")
    coordinates = coordinates_of(model)
    adata = model.adata if adata is None else adata
    if adata is None:
        msg = "`information_coordinates` needs cells, but the model has none attached. Pass them: `information_coordinates(model, adata)`."
        raise ValueError(msg)
    z = np.asarray(model.get_latent_representation(adata, batch_size=batch_size))
    adata.obsm[key_added or f"{latent_key(model)}_information"] = coordinates.to_information(z)
    return coordinates
