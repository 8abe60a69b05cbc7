"""A query on a reference: where its cells stand, what they are called, and how much of that is to be believed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.special import entr

from scdgd._options import Number, Optional, Text, checked
from scdgd.data import Cells

from ._of_models import check_trained, coordinates_if_any, latent_key
from ._spread import position_of
from ._transfer_labels import (
    N_NEIGHBORS,
    OF_LABELS,
    LabelledCells,
    Transfer,
    labelled_cells,
    registered_labels,
    summarised,
)

if TYPE_CHECKING:
    from scvi.model.base import BaseModelClass

logger = logging.getLogger(__name__)

#: Cells of a query that take long enough for a message.
_SHOW_CELLS = 2_000


@checked(
    **OF_LABELS,
    query=Cells(AnnData, "an AnnData with genes of the model"),
    prefix=Optional(Text("a text that names begin with")),
    false_alarm_rate=Number(above=0, below=1),
    unknown=Text("the label of cells that are unlike the reference"),
)
def map(
    model: BaseModelClass,
    query: AnnData,
    *,
    labels_key: str | None = None,
    prefix: str | None = None,
    false_alarm_rate: float = 0.05,
    unknown: str = "unknown",
    n_neighbors: int = N_NEIGHBORS,
    batch_size: int | None = None,
) -> None:
    r"""Map a query onto the reference that a model was trained on, and write what came of it into the query.

    Representations are those of :meth:`~scdgd.model.SCDGD.get_latent_representation`; nothing of the model changes but what
    it keeps of new batches. Labels are those that a model with supervision predicts, else those of neighbours
    (:func:`transfer_labels`). Novelty is that of :meth:`~scdgd.model.SCDGD.get_novelty`.

    Adds, replacing what has the same name:

    * ``obsm["X_<prefix>"]``: representations, ``(n, d)``, and ``obsm["X_<prefix>_information"]``: the same in coordinates of
      information of the reference (:func:`information_coordinates`), except of :class:`~scdgd.model.SCDBM`
    * ``obs["<prefix>_spread"]``: root of the mean, over dimensions, of the posterior's variance as a share of that of all
      cells of the reference together: near 0 where counts say where a cell stands, near 1 where they do not
    * ``obs["<prefix>_pareto_k"]``, of models whose posteriors are sampled with weights: above 0.7 distrust the spread
    * ``obs["<prefix>_novelty"]``, ``obs["<prefix>_novelty_p"]``, ``obs["<prefix>_is_novel"]``: how unlike the reference a cell
      is, the share of reference cells that are as unlike the others, and whether that is at most `false_alarm_rate`
    * ``obs["<prefix>_best_label"]``, ``obs["<prefix>_probability"]``, ``obs["<prefix>_entropy"]``: the likeliest label, its
      probability, and the entropy of all in nats
    * ``obs["<prefix>_label"]``: that label, or `unknown` where a cell is novel. Where some cells of the reference have no
      label and neighbours give them, also where a cell is unlike all labelled ones; the rate is then shared by both tests.
      Where the model predicts labels, also where it is likelier that a cell is of none of them than that it is of the likeliest
    * ``uns["<prefix>_map"]``: the arguments, where labels come from, and the numbers of cells and genes of the reference

    Parameters
    ----------
    model
        Any trained model of this package, or :class:`scvi.model.SCVI`, with its training data attached. Of models whose
        representations have no density (stock ones, :class:`~scdgd.model.SCDBM`) there is no novelty, which a message says.
    query
        Cells to map, raw counts of all genes of the model or some, from batches of the reference or, where the model takes
        them, from others. A view becomes an AnnData of its own.
    labels_key
        Column of ``model.adata.obs`` with labels. ``None``: what the model predicts, or the column that it was set up with,
        or no labels, which a message says.
    prefix
        Start of the names; by default the model's name, as in its key of ``obsm``.
    false_alarm_rate
        Share of cells like those of the reference that may be called novel.
    unknown
        Label of cells that are unlike the reference.
    n_neighbors
        As for :func:`transfer_labels`.
    batch_size
        Cells read together.

    Raises
    ------
    TypeError
        If it is no model, or the query is no AnnData.
    RuntimeError
        If the model is not trained.
    ValueError
        If genes, counts or batches of the query are not as the model needs them; a column of labels is not there, or has
        `unknown` among its labels; or the training cells are needed and not attached.
    """
    check_trained(model, "map")
    prefix = latent_key(model).removeprefix("X_") if prefix is None else prefix
    source = _source_of_labels(model, labels_key)
    if unknown in set(source.classes):
        msg = f"`unknown={unknown!r}` is a label of the reference. Choose another word for cells that are unlike it."
        raise ValueError(msg)
    if query.n_obs >= _SHOW_CELLS:
        logger.info("Mapping %d cells: representations, their spread, novelty and labels, in this order.", query.n_obs)
    columns = position_of(model, query, batch_size)
    z = columns.pop("z")
    novelty = _novelty(model, query, false_alarm_rate, batch_size)
    best = _labels(model, query, z, source, n_neighbors, batch_size)
    coordinates = coordinates_if_any(model)
    query.obsm[f"X_{prefix}"] = z
    if coordinates is not None:
        query.obsm[f"X_{prefix}_information"] = coordinates.to_information(z)
    if novelty is not None:
        columns |= {"novelty": novelty["score"], "novelty_p": novelty["p_value"], "is_novel": novelty["is_novel"]}
    if best is not None:
        columns |= _label_columns(best, _is_unknown(novelty, best, false_alarm_rate), unknown)
    for name, values in columns.items():
        query.obs[f"{prefix}_{name}"] = values.array if isinstance(values, pd.Series) else values
    query.uns[f"{prefix}_map"] = {
        "model": type(model).__name__,
        "labels": source.in_words,
        "false_alarm_rate": false_alarm_rate,
        "unknown": unknown,
        "n_neighbors": n_neighbors,
        "n_reference_cells": model.summary_stats.n_cells,
        "n_reference_genes": model.summary_stats.n_vars,
    }


class _Source(NamedTuple):
    """Where labels come from."""

    in_words: str
    """For ``uns``, which holds no ``None``."""
    classes: np.ndarray | tuple = ()
    """Names of the classes."""
    labelled: LabelledCells | None = None
    """Cells that neighbours are among; ``None`` if labels are predicted, or there are none."""


def _source_of_labels(model: BaseModelClass, labels_key: str | None) -> _Source:
    """What is asked for, before any cell is read; ValueError if there is no such column, or no labels in it."""
    supervision = getattr(model, "supervision", None)
    if labels_key is None and supervision is not None and supervision.kind is not None:
        return _Source("predict", supervision.categories)
    key = registered_labels(model)[0] if labels_key is None else labels_key
    if key is None:
        logger.info(
            "The model was set up without labels, so cells get none. Name a column of the reference: `labels_key`."
        )
        return _Source("none")
    labelled = labelled_cells(model, key)
    return _Source(f"neighbors, {key}", labelled.classes, labelled)


def _labels(
    model: BaseModelClass, query: AnnData, z: np.ndarray, source: _Source, n_neighbors: int, batch_size: int | None
) -> pd.DataFrame | None:
    """Likeliest label, its probability and the entropy, and p-values of being like labelled cells where they say more."""
    labelled = source.labelled
    if labelled is None:
        return _predicted(model, query, batch_size) if len(source.classes) else None
    transfer = Transfer.of(model, labelled, n_neighbors, batch_size)
    are_all_labelled = len(labelled.positions) == labelled.n_cells
    probabilities, p_value = transfer.to(query, z, with_p_values=not are_all_labelled)
    best = summarised(probabilities, labelled.classes, query.obs_names)
    return best if p_value is None else best.assign(p_value=p_value)


def _predicted(model: BaseModelClass, query: AnnData, batch_size: int | None) -> pd.DataFrame:
    """Likeliest class, its probability, the entropy, and whether it is likelier that the cell is of none of the classes."""
    classes, table = model.supervision.categories, model.predict(query, soft=True, batch_size=batch_size)
    of_classes, of_none = table[classes].to_numpy(), table.drop(columns=classes).to_numpy()
    best = summarised(of_classes, classes, query.obs_names)
    return best.assign(
        entropy=best["entropy"] + entr(of_none).sum(1), is_none=of_none.sum(1) > best["probability"].to_numpy()
    )


def _novelty(
    model: BaseModelClass, query: AnnData, false_alarm_rate: float, batch_size: int | None
) -> pd.DataFrame | None:
    """Of :meth:`get_novelty`; ``None`` of models that have none."""
    if not hasattr(model, "get_novelty"):
        logger.info("A %s of scvi-tools has no `get_novelty`: nothing is said of novelty.", type(model).__name__)
        return None
    try:
        return model.get_novelty(query, false_alarm_rate=false_alarm_rate, batch_size=batch_size)
    except NotImplementedError as error:
        logger.info("Nothing is said of novelty. %s", error)
        return None


def _label_columns(best: pd.DataFrame, is_unknown: np.ndarray, unknown: str) -> dict[str, pd.Series]:
    """What is written of labels, by name."""
    label = best["label"].cat.add_categories([unknown])
    label[is_unknown] = unknown
    return {
        "label": label.cat.remove_unused_categories(),
        "best_label": best["label"].cat.remove_unused_categories(),
        "probability": best["probability"],
        "entropy": best["entropy"],
    }


def _is_unknown(novelty: pd.DataFrame | None, best: pd.DataFrame, rate: float) -> np.ndarray:
    """Cells that are unlike the reference, unlike all labelled cells of it, or predicted to be of no class: ``(n,)``, bool."""
    tests = [p["p_value"].to_numpy() for p in (novelty, best) if p is not None and "p_value" in p]
    is_none = best["is_none"].to_numpy() if "is_none" in best else np.zeros(len(best), bool)
    return is_none | (np.min(tests, axis=0) * len(tests) <= rate) if tests else is_none
