"""Labels of the training cells of each cluster, which pictures show and nothing else reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Iterable

    from scdgd.model import SCDGD

#: Names of cells without a label, of which the first is taken that no label has.
_NONE = ("none", "no label", "(no label)")


def name_of_none(labels: Iterable[str]) -> str:
    """What cells without a label are called beside others that have these."""
    known = set(labels)
    return next((name for name in _NONE if name not in known), _NONE[-1])


def column_of(obs: pd.DataFrame, labels_key: str) -> pd.Series:
    """Labels of the cells of a model; ValueError if there is no such column."""
    if labels_key not in obs:
        msg = f"There is no column {labels_key!r} in the obs of the model's data; there are {list(obs.columns)}."
        raise ValueError(msg)
    return obs[labels_key]


def label_counts(model: SCDGD, labels_key: str, *, merged: bool) -> tuple[pd.DataFrame, pd.Series]:
    """Training cells of each cluster with each label, shape ``(C, L)``, and without one, ``(C,)``; ValueError without such a column."""
    of_all, cells = column_of(model.adata.obs, labels_key), model.posterior.training_cells()
    clusters = model.get_cluster_assignments(indices=cells, merged=merged)
    labels, has_label = of_all.iloc[cells], of_all.iloc[cells].notna().to_numpy()
    names = np.unique(clusters)
    counts = pd.crosstab(clusters[has_label], labels[has_label].astype(str).to_numpy()).reindex(names, fill_value=0)
    return counts, pd.Series(clusters[~has_label]).value_counts().reindex(names, fill_value=0)


class Majority(NamedTuple):
    """The most frequent label of the cells of clusters, and its share in those with a label, each ``(C,)``."""

    labels: list[str]
    shares: np.ndarray

    @classmethod
    def of(cls, model: SCDGD, labels_key: str, names: np.ndarray, *, merged: bool) -> Majority:
        """Of the clusters with these names, each of which has cells."""
        labelled, _ = label_counts(model, labels_key, merged=merged)
        labelled = labelled.reindex(names).assign(**{name_of_none(labelled): 0})
        shares = labelled.max(axis=1) / labelled.sum(axis=1).clip(lower=1)
        return cls(labelled.idxmax(axis=1).where(shares > 0, labelled.columns[-1]).tolist(), shares.to_numpy())

    def texts(self) -> list[str]:
        """Labels with their shares, of which a whole one is not written."""
        return [
            f"{label}, {share:.0%}" if 0 < share < 1 else label
            for label, share in zip(self.labels, self.shares, strict=True)
        ]
