"""A query on a reference: where its cells stand, what they are called, and how much of that is to be believed."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData

from scdgd._options import Instance, Integer, Number, Optional, Text, checked

from ._of_models import check_trained, latent_key
from ._transfer_labels import N_NEIGHBORS, labelled_cells, registered_labels, summarised, transfer_labels

if TYPE_CHECKING:
    from scvi.model.base import BaseModelClass

logger = logging.getLogger(__name__)

#: Cells of the reference that say how wide it is.
_INFORMING = 256


@checked(
    query=Instance(AnnData, "an AnnData with the genes of the model"),
    labels_key=Optional(Text("the name of one column of the reference")),
    prefix=Optional(Text("a text that names begin with")),
    false_alarm_rate=Number(above=0, below=1),
    unknown=Text("the label of cells that are unlike the reference"),
    n_neighbors=Integer(1),
    batch_size=Optional(Integer(1)),
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

    * ``obsm["X_<prefix>"]``: representations, ``(n, d)``
    * ``obs["<prefix>_spread"]``: root of the mean, over dimensions, of the posterior's variance as a share of that of all
      cells of the reference together: near 0 where counts say where a cell stands, near 1 where they do not
    * ``obs["<prefix>_pareto_k"]``, of models whose posteriors are sampled with weights: above 0.7 distrust the spread
    * ``obs["<prefix>_novelty"]``, ``obs["<prefix>_novelty_p"]``, ``obs["<prefix>_is_novel"]``: how unlike the reference a cell
      is, the share of reference cells that are as unlike the others, and whether that is at most `false_alarm_rate`
    * ``obs["<prefix>_best_label"]``, ``obs["<prefix>_probability"]``, ``obs["<prefix>_entropy"]``: the likeliest label, its
      probability, and the entropy of all in nats
    * ``obs["<prefix>_label"]``: that label, or `unknown` where a cell is novel. Where some cells of the reference have no
      label and neighbours give them, also where a cell is unlike all labelled ones; the rate is then shared by both tests
    * ``uns["<prefix>_map"]``: the arguments, where labels come from, and the numbers of cells and genes of the reference

    Parameters
    ----------
    model
        Any trained model of this package, or :class:`scvi.model.SCVI`, with its training data attached. Of models whose
        representations have no density (stock ones, :class:`~scdgd.model.SCDBM`) there is no novelty, which a message says.
    query
        Cells to map, raw counts, from batches of the reference or, where the model takes them, from others. A view becomes an
        AnnData of its own.
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

    Examples
    --------
    >>> scdgd.tl.map(model, query, labels_key="cell_type")
    >>> sc.pl.umap(query, color=["scdgd_label", "scdgd_novelty"])
    """
    check_trained(model, "map")
    prefix = latent_key(model).removeprefix("X_") if prefix is None else prefix
    source = _source_of_labels(model, labels_key)
    best = _labels(model, query, source, n_neighbors, batch_size)  # first, so that wrong names cost no time
    if best is not None and unknown in set(best["label"].cat.categories):
        msg = f"`unknown={unknown!r}` is a label of the reference. Choose another word for cells that are unlike it."
        raise ValueError(msg)
    columns = _position(model, query, batch_size)
    novelty = _novelty(model, query, false_alarm_rate, batch_size)
    query.obsm[f"X_{prefix}"] = columns.pop("z")
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

    key: str | None
    is_prediction: bool

    @property
    def in_words(self) -> str:
        """For ``uns``, which holds no ``None``."""
        return "predict" if self.is_prediction else "none" if self.key is None else f"neighbors, {self.key}"


def _source_of_labels(model: BaseModelClass, labels_key: str | None) -> _Source:
    supervision = getattr(model, "supervision", None)
    if labels_key is None and supervision is not None and supervision.kind is not None:
        return _Source(None, is_prediction=True)
    return _Source(registered_labels(model)[0] if labels_key is None else labels_key, is_prediction=False)


def _labels(
    model: BaseModelClass, query: AnnData, source: _Source, n_neighbors: int, batch_size: int | None
) -> pd.DataFrame | None:
    """Likeliest label, its probability and the entropy, and p-values of being like labelled cells where they say more."""
    if source.is_prediction:
        probabilities = model.predict(query, soft=True, batch_size=batch_size)
        return summarised(probabilities.to_numpy(), probabilities.columns.to_numpy(), query.obs_names)
    if source.key is None:
        logger.info(
            "The model was set up without labels, so cells get none. Name a column of the reference: `labels_key`."
        )
        return None
    best = transfer_labels(model, query, source.key, n_neighbors=n_neighbors, batch_size=batch_size)
    labelled = labelled_cells(model, source.key)
    return best.drop(columns="p_value") if len(labelled.positions) == labelled.n_cells else best


def _position(model: BaseModelClass, query: AnnData, batch_size: int | None) -> dict[str, np.ndarray]:
    """Representations ``"z"``, and how wide posteriors are."""
    z = np.asarray(model.get_latent_representation(query, batch_size=batch_size))
    width = _width(model)
    if hasattr(model, "get_posterior"):
        moments = model.get_posterior(query, batch_size=batch_size)
        found = {"spread": moments.covariance, "pareto_k": moments.pareto_k}
    else:
        found = {"spread": model.get_latent_representation(query, batch_size=batch_size, return_dist=True)[1]}
    return {"z": z} | found | {"spread": np.sqrt((found["spread"] / width).mean(1))}


def _width(model: BaseModelClass) -> np.ndarray:
    """Variance of a representation of which nothing is known but that it is of the reference, shape ``(d,)``."""
    n = model.adata.n_obs
    some = np.sort(np.random.default_rng(0).choice(n, min(n, _INFORMING), replace=False))
    mean, var = model.get_latent_representation(indices=some, return_dist=True)
    return np.asarray(mean).var(0) + np.asarray(var).mean(0)


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
    """Cells that are unlike the reference, or unlike all labelled cells of it, shape ``(n,)``, bool."""
    tests = [p["p_value"].to_numpy() for p in (novelty, best) if p is not None and "p_value" in p]
    return np.min(tests, axis=0) * len(tests) <= rate if tests else np.zeros(len(best), bool)
