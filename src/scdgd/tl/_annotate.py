"""Representations, clusters and responsibilities, written into an AnnData."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.special import entr

from scdgd._options import Flag, Text, checked

from ._of_models import check_trained, coordinates_if_any
from ._spread import position_of

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData

    from scdgd.inference import InformationCoordinates
    from scdgd.model import SCDGD


@checked(prefix=Text("a text that names begin with"), uncertainty=Flag())
def annotate(
    model: SCDGD, adata: AnnData | MuData | None = None, *, prefix: str = "scdgd", uncertainty: bool = False
) -> None:
    """Write representations and clusters of all cells into `adata`.

    Adds, replacing what has the same name:

    * ``obsm["X_<prefix>"]``: representations, ``(n, d)``
    * ``obsm["X_<prefix>_information"]``: the same in coordinates of information
      (:meth:`~scdgd.model.SCDGD.get_information`), for neighbours, UMAP and Leiden; not of :class:`~scdgd.model.SCDBM`
    * ``obs["<prefix>_cluster"]``: component of each cell; categories are the numbers of components that have cells, in
      their order, for an empty category is an error in much of what comes after
    * ``obsm["<prefix>_responsibilities"]``: probabilities of all components, ``(n, k)``, from ``0`` to ``k - 1``
    * if `uncertainty` is asked for, ``obs["<prefix>_spread"]`` and, of models whose posteriors are sampled with weights,
      ``obs["<prefix>_pareto_k"]``, as :func:`map` writes them; ``obs["<prefix>_cluster_entropy"]``: entropy of the probabilities of
      components in nats

    Parameters
    ----------
    model
        Trained model.
    adata
        Cells with the genes and batches of the model, seen in training or not; the model's own if not given. A view
        becomes an AnnData of its own.
    prefix
        Start of the names.
    uncertainty
        Whether to find posteriors too, which takes models without an encoder longer than all else here. Training cells must
        be attached.

    Raises
    ------
    ValueError
        If no data are given and none are attached to the model, or the training cells are needed and not attached.
    RuntimeError
        If the model is not trained.
    TypeError
        If it is no model.

    Examples
    --------
    >>> scdgd.tl.annotate(model)
    >>> sc.pp.neighbors(adata, use_rep="X_scdgd_information")
    """
    check_trained(model, "annotate", "writes what a model has learned")
    adata = model.adata if adata is None else adata
    if adata is None:
        msg = "`annotate` needs cells, but the model has none attached. Pass them: `annotate(model, adata)`."
        raise ValueError(msg)
    found = position_of(model, adata) if uncertainty else {"z": model.get_latent_representation(adata)}
    responsibilities = model.get_cluster_assignments(adata, soft=True)
    write_results(adata, found.pop("z"), responsibilities, coordinates_if_any(model), prefix=prefix)
    found |= {"cluster_entropy": entr(responsibilities).sum(axis=1)} if uncertainty else {}
    for name, values in found.items():
        adata.obs[f"{prefix}_{name}"] = values


def write_results(
    adata: AnnData | MuData,
    z: np.ndarray,
    responsibilities: np.ndarray,
    coordinates: InformationCoordinates | None,
    *,
    prefix: str = "scdgd",
) -> None:
    """Write representations ``(n, d)`` and probabilities of components ``(n, k)`` under the names of :func:`annotate`."""
    names = [str(component) for component in range(responsibilities.shape[1])]
    adata.obsm[f"X_{prefix}"] = z
    if coordinates is not None:
        adata.obsm[f"X_{prefix}_information"] = coordinates.to_information(z)
    adata.obsm[f"{prefix}_responsibilities"] = responsibilities
    clusters = pd.Categorical.from_codes(responsibilities.argmax(axis=1), names)
    adata.obs[f"{prefix}_cluster"] = clusters.remove_unused_categories()
