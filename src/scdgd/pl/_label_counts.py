"""Labels of the training cells of each cluster, which pictures show and nothing else reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

if TYPE_CHECKING:
    import numpy as np

    from scdgd.model import SCDGD

#: Name of cells without a label.
_NONE = "none"


def column_of(obs: pd.DataFrame, labels_key: str) -> pd.Series:
    """Labels of the cells of a model; ValueError if there is no such column."""
    if labels_key not in obs:
        msg = f"There is no column {labels_key!r} in the obs of the model's data; there are {list(obs.columns)}."
        raise ValueError(msg)
    return obs[labels_key]


def label_counts(model: SCDGD, labels_key: str, *, merged: bool) -> pd.DataFrame:
    """Training cells of each cluster with each label, shape ``(C, L)``; ValueError if there is no such column."""
    of_all, cells = column_of(model.adata.obs, labels_key), model.posterior.training_cells()
    clusters = model.get_cluster_assignments(indices=cells, merged=merged)
    column = of_all.iloc[cells]
    labels = column.astype(object).where(column.notna(), _NONE).astype(str)
    return pd.crosstab(clusters, labels.to_numpy())


class Majority(NamedTuple):
    """The most frequent label of the cells of clusters, and its share in those with a label, each ``(C,)``."""

    labels: list[str]
    shares: np.ndarray

    @classmethod
    def of(cls, model: SCDGD, labels_key: str, names: np.ndarray, *, merged: bool) -> Majority:
        """Of the clusters with these names, each of which has cells."""
        counts = label_counts(model, labels_key, merged=merged).reindex(names)
        labelled = counts.drop(columns=_NONE, errors="ignore").assign(**{_NONE: 0})
        shares = labelled.max(axis=1) / labelled.sum(axis=1).clip(lower=1)
        return cls(labelled.idxmax(axis=1).where(shares > 0, _NONE).tolist(), shares.to_numpy())

    def texts(self) -> list[str]:
        """Labels with their shares, of which a whole one is not written."""
        return [
            f"{label}, {share:.0%}" if 0 < share < 1 else label
            for label, share in zip(self.labels, self.shares, strict=True)
        ]
