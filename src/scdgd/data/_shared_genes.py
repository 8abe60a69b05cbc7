"""Messages about genes that new data lack or have in addition, and about genes that were changed in place."""

from __future__ import annotations

import logging
import warnings
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scvi import settings

from ._gene_names import reason_of_missing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ._gene_panel import GenePanel

logger = logging.getLogger(__name__)

_MAX_NAMED = 5
#: Fewer shared genes say little of a cell.
_FEW_GENES = 50


def check_shared_genes(panel: GenePanel, var: pd.DataFrame, *, may_miss: bool = True) -> None:
    """Say what the panel of new data lacks and what is ignored.

    Parameters
    ----------
    panel
        Genes of the model and of the data.
    var
        ``adata.var`` of the data.
    may_miss
        Whether the model takes data that lack some of its genes.

    Raises
    ------
    ValueError
        If no gene is shared, or one is missing from data for a model that needs all of them; with the reason, if the names
        give it away.
    """
    missing, n_genes = panel.missing, len(panel.genes)
    reason = reason_of_missing(panel, var)
    if not panel.n_shared:
        msg = (
            f"None of the model's {n_genes} genes (first: {_first(panel.genes)}) is among the {len(panel.columns)} of the new data "
            f"(first: {_first(panel.columns)}).{reason or ' Take data of the same species, with genes under the same names.'}"
        )
        raise ValueError(msg)
    if len(missing) and not may_miss:
        msg = (
            f"{_are_missing(panel)}{reason} A missing gene is not a zero count, so nothing is padded, and this model "
            "needs all of its genes: provide counts of them, train a model on the shared genes, or take one that leaves "
            "missing genes out of its likelihood, such as SCDGD."
        )
        raise ValueError(msg)
    if len(panel.extra):
        logger.warning(
            "%d of the %d genes in the new data are unknown to the model and ignored.",
            len(panel.extra),
            len(panel.columns),
        )
    if len(missing):
        _say_what_is_missing(panel, reason)


def _say_what_is_missing(panel: GenePanel, reason: str) -> None:
    """A warning where genes may be lost by mistake, or hardly any are left; else a message."""
    few = panel.n_shared < _FEW_GENES
    said = (
        f"{_are_missing(panel)} They are left out of the likelihood, which is not the same as counts of zero; "
        "`get_normalized_expression` gives what the model expects of them."
    )
    if few:
        said += (
            f" Only {panel.n_shared} genes are shared, fewer than {_FEW_GENES}, which may say little of a cell: look at the "
            "uncertainty of its representation."
        )
    if few or reason:
        warnings.warn(said + reason, UserWarning, stacklevel=settings.warnings_stacklevel)
    else:
        logger.warning(said)


def _are_missing(panel: GenePanel) -> str:
    return (
        f"{len(panel.missing)} of the model's {len(panel.genes)} genes are missing from the new data (first: "
        f"{_first(panel.missing)})."
    )


def _first(names: pd.Index) -> str:
    return ", ".join(names[:_MAX_NAMED])


def check_unchanged_genes(expected: Sequence[str], received: Sequence[str], *, are_of_model: bool) -> None:
    """Raise ValueError unless an AnnData that a model stands on has the genes, ``(c,)``, and the order of then.

    Parameters
    ----------
    expected
        Names when it was registered.
    received
        Names now.
    are_of_model
        Whether those of then were the genes of the model in their order.
    """
    expected, received = (pd.Index(np.asarray(names).astype(str)) for names in (expected, received))
    if expected.equals(received):
        return
    missing, extra = expected.difference(received, sort=False), received.difference(expected, sort=False)
    if len(missing) and len(expected) == len(received):
        changed = np.flatnonzero(expected != received)
        what = f"{len(changed)} genes have other names ({expected[changed[0]]} is {received[changed[0]]} now)"
        remedy = "give them back by `adata.var_names = model.get_var_names()`"
    elif len(missing):
        what = f"{len(missing)} of {len(expected)} genes are gone (first: {_first(missing)})"
        remedy = "attach data with all of them by `model.adata = adata`"
    elif len(extra):
        what = f"{len(extra)} genes have come (first: {_first(extra)})"
        remedy = "attach data without them by `model.adata = adata[:, model.get_var_names()].copy()`"
    else:
        what = "genes are in another order"
        remedy = "attach data in the order of then by `model.adata = adata[:, model.get_var_names()].copy()`"
    remedy = remedy if are_of_model else "attach the data as they are by `model.adata = adata.copy()`"
    msg = (
        f"The AnnData has changed in place since the model was set up on it: {what}. For this model, {remedy}; for a model "
        "of the data as they are, call `setup_anndata` again and make it anew."
    )
    raise ValueError(msg)
