"""Labels of a reference for other cells, by neighbours in the latent space."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.special import entr
from scvi import REGISTRY_KEYS

from scdgd._compat import get_state_registry
from scdgd._options import Anything, Flag, Instance, Integer, Optional, Text, checked, shown
from scdgd.data import categorise
from scdgd.inference import information_root, nearest, shares_above

from ._of_models import check_trained

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scvi.model.base import BaseModelClass

N_NEIGHBORS = 15
#: Labelled cells that others are compared with, drawn with a fixed seed.
_MOST_COMPARED = 500


class LabelledCells(NamedTuple):
    """Cells of a reference that have a label."""

    positions: np.ndarray
    """Among the cells that are attached to the model, shape ``(m,)``."""
    codes: np.ndarray
    """Of their classes, shape ``(m,)``, int."""
    classes: np.ndarray
    """Names of the classes."""
    n_cells: int
    """Number of cells of the reference, those without a label among them."""

    @property
    def usual_size(self) -> int:
        """Median number of cells of a class."""
        return int(np.median(np.bincount(self.codes)))


@checked(
    labels_key=Optional(Text("the name of one column of the reference")),
    labels=Anything("labels of the cells of the reference, in their order"),
    unlabeled_category=Anything("the value that stands for no label, beside missing ones"),
    soft=Flag(),
    n_neighbors=Integer(1),
    batch_size=Optional(Integer(1)),
)
def transfer_labels(
    model: BaseModelClass,
    query: AnnData,
    labels_key: str | None = None,
    *,
    labels: Sequence | None = None,
    unlabeled_category: str | None = None,
    soft: bool = False,
    n_neighbors: int = N_NEIGHBORS,
    batch_size: int | None = None,
) -> pd.DataFrame:
    r"""Labels of training cells for the cells of a query, by weighted neighbours in the latent space.

    .. math::
        p_c(x) \propto \sum_{i=1}^k e^{-d_i^2 / 2 h^2} [y_i = c], \qquad d_i = \lVert F^{1/2} (z - z_i) \rVert

    over the `n_neighbors` nearest labelled cells of the reference, with the root mean square of their distances for ``h``
    (scArches weighs neighbours alike, Lotfollahi et al. 2022) and the mean information ``F`` of the counts about
    representations, so that a direction counts for as much as the counts know of it. Models of scvi-tools and
    :class:`~scdgd.model.SCDBM` are taken as they are, :math:`F = I`. No label takes part in training.

    Parameters
    ----------
    model
        Any trained model, or :class:`scvi.model.SCVI`, with the reference attached.
    query
        Cells with the genes of the model. Training cells may be among them: a cell is no neighbour of itself, by its name.
    labels_key
        Column of ``model.adata.obs`` with labels; that of `setup_anndata` if neither it nor `labels` are given.
    labels
        Labels in place of a column, one for each cell of ``model.adata``.
    unlabeled_category
        A value that stands for no label. Missing values always do; that of `setup_anndata` is known.
    soft
        Return probabilities of all classes.
    n_neighbors
        Number ``k`` of neighbours; all, if there are fewer labelled cells.
    batch_size
        Cells read together.

    Returns
    -------
    Data frame with a row for each cell of the query: ``"label"`` (categorical), its ``"probability"``, the ``"entropy"`` of
    all probabilities in nats, and ``"p_value"``, the share of labelled cells that stand as far from the others as this one,
    which is small for cells of a type that has no label. With `soft`, probabilities with a column for each class.

    Raises
    ------
    TypeError
        If it is no model, or the query is no AnnData.
    RuntimeError
        If the model is not trained.
    ValueError
        If no reference is attached, there is no such column, no cell has a label, or `labels` are of another number of cells.

    Examples
    --------
    >>> query.obs["label"] = scdgd.tl.transfer_labels(model, query, "cell_type")["label"]
    """
    check_trained(model, "transfer_labels")
    labelled = labelled_cells(model, labels_key, labels, unlabeled_category)
    Instance(AnnData, "an AnnData with the genes of the model")("query", query)
    root = _root(model)
    names = np.asarray(model.adata.obs_names, dtype=str)[labelled.positions]
    points = _coordinates(model, None, labelled.positions, root, batch_size)
    z = _coordinates(model, query, None, root, batch_size)
    of_query = np.asarray(query.obs_names, dtype=str)
    probabilities = nearest(z, of_query, points, names, n_neighbors).votes(labelled.codes, len(labelled.classes))
    if soft:
        return pd.DataFrame(probabilities, index=query.obs_names, columns=labelled.classes)
    k = max(1, min(n_neighbors, labelled.usual_size - 1))
    some = np.sort(np.random.default_rng(0).permutation(len(names))[:_MOST_COMPARED])
    as_new = _found_anew(model, labelled.positions[some], root, batch_size)
    among_themselves = np.sort(nearest(as_new, names[some], points, names, k).distances[:, -1])
    distances = nearest(z, of_query, points, names, k).distances[:, -1]
    return summarised(probabilities, labelled.classes, query.obs_names).assign(
        p_value=shares_above(distances, among_themselves)
    )


def summarised(probabilities: np.ndarray, classes: np.ndarray, names: pd.Index) -> pd.DataFrame:
    """Likeliest class of each cell, its probability, and the entropy of all in nats."""
    best = probabilities.argmax(1)
    return pd.DataFrame(
        {
            "label": pd.Categorical.from_codes(best, classes),
            "probability": probabilities[np.arange(len(best)), best],
            "entropy": entr(probabilities).sum(1),
        },
        index=names,
    )


def registered_labels(model: BaseModelClass) -> tuple[str | None, str | None]:
    """Column of labels that a model was set up with, ``None`` if with none, and what stands for no label in it."""
    state = get_state_registry(model.registry, REGISTRY_KEYS.LABELS_KEY)
    key = state.get("original_key")
    return (None, None) if key is None or str(key).startswith("_scvi") else (key, state.get("unlabeled_category"))


def labelled_cells(
    model: BaseModelClass,
    labels_key: str | None = None,
    labels: Sequence | None = None,
    unlabeled_category: str | None = None,
) -> LabelledCells:
    """The labelled cells of the data attached to a model; ValueError if there are none, or not two."""
    if model.adata is None:
        msg = "Labels are those of the reference, but the model was loaded without data. Attach them: `model.adata = adata`."
        raise ValueError(msg)
    if labels_key is not None and labels is not None:
        msg = "Pass `labels_key`, a column of the reference, or `labels`, not both."
        raise ValueError(msg)
    obs, (registered, no_label) = model.adata.obs, registered_labels(model)
    if labels is None:
        labels_key = labels_key or registered
        if labels_key not in obs:
            msg = f"`labels_key` must be one of the columns of `model.adata.obs`, {list(obs.columns)}, got {labels_key!r}."
            raise ValueError(msg)
        values, where = obs[labels_key], f"model.adata.obs['{labels_key}']"
        unlabeled_category = no_label if unlabeled_category is None and labels_key == registered else unlabeled_category
    else:
        values, where = pd.Series(np.asarray(labels).ravel()), "`labels`"
        if len(values) != len(obs):
            msg = f"`labels` needs one for each of the {len(obs)} cells of the reference, got {len(values)}."
            raise ValueError(msg)
    has_label = values.notna().to_numpy() & (values.astype(object) != unlabeled_category).to_numpy()
    positions = np.flatnonzero(has_label)
    if len(positions) < 2:
        what = "missing" if unlabeled_category is None else f"missing or {shown(unlabeled_category)}"
        msg = (
            f"Labels are those of neighbours in the reference, but {len(positions)} of its {len(values)} cells have one: others in "
            f"{where} are {what}. Label at least two."
        )
        raise ValueError(msg)
    codes, classes = categorise(values.iloc[positions], where)
    return LabelledCells(positions, np.asarray(codes), np.asarray(classes), len(values))


def _root(model: BaseModelClass) -> np.ndarray | None:
    """Root of the information of counts, ``(d, d)``; none for models of scvi-tools."""
    posterior = getattr(model, "posterior", None)
    return None if posterior is None else information_root(posterior.information())


def _coordinates(
    model: BaseModelClass,
    adata: AnnData | None,
    positions: np.ndarray | None,
    root: np.ndarray | None,
    batch_size: int | None,
) -> np.ndarray:
    """Representations in coordinates of the information."""
    z = np.asarray(model.get_latent_representation(adata, positions, batch_size=batch_size))
    return z if root is None else z @ root


def _found_anew(
    model: BaseModelClass, positions: np.ndarray, root: np.ndarray | None, batch_size: int | None
) -> np.ndarray:
    """Coordinates of cells of the reference as those of new cells are found; there is no difference for an encoder."""
    if root is None:
        return _coordinates(model, None, positions, root, batch_size)
    return model.posterior.found_anew(model.adata, positions, batch_size).cpu().numpy() @ root
