"""Labels of a reference for other cells, by neighbours in the latent space."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy.special import entr
from scvi import REGISTRY_KEYS

from scdgd._compat import get_state_registry
from scdgd._options import Anything, Flag, Integer, Optional, Text, checked, shown
from scdgd.data import Cells, categorise, column_of
from scdgd.inference import nearest, shares_above, undisturbed
from scdgd.model._query_genes import measured_with, panels_of, with_counts

from ._of_models import check_trained

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scvi.model.base import BaseModelClass

    from scdgd.inference import InformationCoordinates, Neighbors

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


#: Rules of arguments that all functions of labels have.
OF_LABELS = {
    "labels_key": Optional(Text("the name of one column of the reference")),
    "n_neighbors": Integer(1),
    "batch_size": Optional(Integer(1)),
}


@checked(
    **OF_LABELS,
    labels=Anything("labels of the cells of the reference, in their order"),
    unlabeled_category=Anything("the value that stands for no label, beside missing ones"),
    soft=Flag(),
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

    Cells that lack genes have the information of the others for ``F``, and are compared with labelled cells of which the same
    genes, and no others, were read.

    Parameters
    ----------
    model
        Any trained model, or :class:`scvi.model.SCVI`, with the reference attached.
    query
        Cells with genes of the model, all or some. Training cells may be among them: a cell is no neighbour of itself, by its name.
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
    Cells(AnnData, "an AnnData with genes of the model")("query", query)
    with undisturbed():
        z = np.asarray(model.get_latent_representation(query, batch_size=batch_size))
        transfer = Transfer.of(model, labelled, n_neighbors, batch_size)
        probabilities, p_value = transfer.to(query, z, with_p_values=not soft)
    if p_value is None:
        return pd.DataFrame(probabilities, index=query.obs_names, columns=labelled.classes)
    return summarised(probabilities, labelled.classes, query.obs_names).assign(p_value=p_value)


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
        values = column_of(obs, labels_key, "labels_key", "model.adata.obs")
        where = f"model.adata.obs['{labels_key}']"
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


class Transfer(NamedTuple):
    """Labelled cells of a reference, in coordinates of the information of the counts of some genes."""

    model: BaseModelClass
    labelled: LabelledCells
    n_neighbors: int
    batch_size: int | None
    z: np.ndarray
    """Representations of the labelled cells, shape ``(m, d)``."""
    names: np.ndarray
    """Their names, shape ``(m,)``."""
    genes: np.ndarray | None = None
    """Which genes the cells of the query were measured with, shape ``(g,)``, bool; ``None`` for all."""
    coordinates: InformationCoordinates | None = None
    """Of information; ``None`` for models of scvi-tools."""

    @classmethod
    def of(cls, model: BaseModelClass, labelled: LabelledCells, n_neighbors: int, batch_size: int | None) -> Transfer:
        """The labelled cells, without coordinates yet."""
        z = model.get_latent_representation(indices=labelled.positions, batch_size=batch_size)
        names = np.asarray(model.adata.obs_names, dtype=str)[labelled.positions]
        return cls(model, labelled, n_neighbors, batch_size, np.asarray(z), names)

    def to(self, query: AnnData, z: np.ndarray, *, with_p_values: bool) -> tuple[np.ndarray, np.ndarray | None]:
        """Probabilities of classes ``(n, C)`` for cells at `z` ``(n, d)``, and p-values ``(n,)``, each with the genes it has."""
        names = np.asarray(query.obs_names, dtype=str)
        probabilities = np.empty((len(z), len(self.labelled.classes)))
        p_values = np.empty(len(z)) if with_p_values else None
        for genes, cells in _panels(self.model, query):
            among = self.with_genes(genes)
            probabilities[cells] = among.probabilities(z[cells], names[cells])
            if p_values is not None:
                p_values[cells] = among.p_values(z[cells], names[cells])
        return probabilities, p_values

    def with_genes(self, genes: np.ndarray | None) -> Transfer:
        """In coordinates for cells of a query with these genes."""
        posterior = getattr(self.model, "posterior", None)
        coordinates = None if posterior is None else posterior.coordinates(genes)
        return self._replace(genes=genes, coordinates=coordinates)

    def probabilities(self, z: np.ndarray, names: np.ndarray) -> np.ndarray:
        """Of the classes, shape ``(n, C)``."""
        return self._nearest(z, names, self.n_neighbors).votes(self.labelled.codes, len(self.labelled.classes))

    def p_values(self, z: np.ndarray, names: np.ndarray) -> np.ndarray:
        """Shares of labelled cells that stand as far from the others, shape ``(n,)``."""
        k = max(1, min(self.n_neighbors, self.labelled.usual_size - 1))
        some = self._some()
        among_themselves = np.sort(self._nearest(self._found_anew(some), self.names[some], k).distances[:, -1])
        return shares_above(self._nearest(z, names, k).distances[:, -1], among_themselves)

    def _nearest(self, z: np.ndarray, names: np.ndarray, k: int) -> Neighbors:
        points = self.z
        if self.coordinates is not None:
            z, points = self.coordinates.to_information(z), self.coordinates.to_information(points)
        return nearest(z, names, points, self.names, k)

    def _some(self) -> np.ndarray:
        """Labelled cells that others are compared with, by their places among all of these, ascending."""
        positions, draws = self.labelled.positions, np.random.default_rng(0)
        if self.coordinates is None:
            return np.sort(draws.permutation(len(positions))[:_MOST_COMPARED])
        usable = measured_with(self.model, positions, self.genes)
        usable = usable[np.sort(draws.permutation(len(usable))[:_MOST_COMPARED])]
        return np.searchsorted(positions, with_counts(self.model, usable, self.genes))

    def _found_anew(self, some: np.ndarray) -> np.ndarray:
        """Their representations as those of new cells with these genes are found; of scvi-tools' encoders as they are."""
        if self.coordinates is None:
            return self.z[some]
        adata, positions = self.model.adata, self.labelled.positions[some]
        return self.model.posterior.found_anew(adata, positions, self.batch_size, self.genes).cpu().numpy()


def _panels(model: BaseModelClass, query: AnnData) -> list[tuple[np.ndarray | None, np.ndarray]]:
    """Genes that cells were measured with, and which cells; models of scvi-tools need all genes."""
    positions = np.arange(query.n_obs)
    return [(None, positions)] if not hasattr(model, "posterior") else panels_of(model, query, positions)
