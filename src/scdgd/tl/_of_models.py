"""What functions of this package ask of a model first."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from scdgd.inference import undisturbed
from scdgd.model._cell_posterior import CellPosterior
from scdgd.model._information import coordinates_of_stock
from scdgd.model._information import some_of as some_of  # of cells

if TYPE_CHECKING:
    from scvi.model.base import BaseModelClass

    from scdgd.inference import InformationCoordinates

logger = logging.getLogger(__name__)


def check_trained(model: BaseModelClass, function: str, does: str = "asks a trained model") -> None:
    """Raise TypeError if it is no model, and RuntimeError if it is not trained; the messages say what the function `does`."""
    name = type(model).__name__
    if not hasattr(model, "is_trained_"):
        msg = f"`{function}` {does}, but the first argument is a {name}."
        raise TypeError(msg)
    if not model.is_trained_:
        msg = f"`{function}` {does}, but this {name} is not trained. Call `model.train()` first."
        raise RuntimeError(msg)


def latent_key(model: BaseModelClass) -> str:
    """Key of representations in ``obsm``."""
    return getattr(model, "_latent_key", f"X_{type(model).__name__.lower()}")


def coordinates_of(model: BaseModelClass) -> InformationCoordinates:
    """Coordinates of information of a trained model: those that ours keep; of models of scvi-tools, from attached cells.

    NotImplementedError of models that have none, ValueError where training cells are needed and not attached.
    """
    if hasattr(model, "get_information"):
        return model.get_information()
    if model.adata is None:
        msg = f"Coordinates of information of a {type(model).__name__} are found from its training cells. Attach them: `model.adata = adata`."
        raise ValueError(msg)
    with undisturbed():
        return coordinates_of_stock(model)


def genes_of(model: BaseModelClass) -> pd.Index:
    """Names of the genes of a model, in its order."""
    return pd.Index(model._genes if hasattr(model, "_genes") else np.asarray(model.get_var_names()))


def posterior_of(model: BaseModelClass) -> CellPosterior:
    """Posteriors of the cells of a model, of this package or of scvi-tools."""
    return model.posterior if hasattr(model, "posterior") else CellPosterior(model)


def check_counts(model: BaseModelClass) -> None:
    """Raise NotImplementedError where genes have no shares in the counts of a cell, because values are no counts."""
    name, family = getattr(model.module, "gene_likelihood", None), getattr(model.module, "likelihood", None)
    if name == "normal" or not getattr(family, "is_of_counts", True):
        msg = (
            "Fold changes are those of shares in the counts of a cell, and `gene_likelihood` is "
            f"{name!r}. Compare `get_normalized_expression()`."
        )
        raise NotImplementedError(msg)


def coordinates_if_any(model: BaseModelClass) -> InformationCoordinates | None:
    """:func:`coordinates_of`; ``None``, with a message, where there are none or they cannot be found."""
    try:
        return coordinates_of(model)
    except (NotImplementedError, ValueError) as error:
        logger.info("No coordinates of information are written. %s", error)
        return None
