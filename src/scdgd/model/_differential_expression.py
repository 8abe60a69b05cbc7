"""Genes that differ between groups of cells."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scvi.model.base import DifferentialComputation
from scvi.utils import track

from scdgd.data import registered_cells

from ._raw_counts import RawCounts

if TYPE_CHECKING:
    from collections.abc import Callable

    from scvi.data import AnnDataManager

    from ._groups import Comparison


class _RegisteredCells:
    """What :class:`scvi.model.base.DifferentialComputation` asks of a manager; counts stay where they are."""

    def __init__(self, manager: AnnDataManager) -> None:
        self.adata, self.get_state_registry = manager.adata, manager.get_state_registry
        self.counts = RawCounts(registered_cells(manager))

    def get_from_registry(self, key: str) -> RawCounts:
        """The counts, which is all that is asked for."""
        return self.counts


def differential_expression(
    manager: AnnDataManager,
    compared: list[Comparison],
    expression: Callable,
    representations: Callable | None,
    genes: np.ndarray,
    *,
    mode: str,
    fdr: float,
    all_stats: bool,
    silent: bool,
    **options: Any,
) -> pd.DataFrame:
    """Statistics of each gene and comparison, as of :meth:`scvi.model.SCVI.differential_expression`.

    Data frame of ``g`` rows for each comparison, the clearest first.

    Parameters
    ----------
    expression
        Normalised expression ``(s, g)`` of `n_samples_overall` draws from the posteriors of cells.
    representations
        Representations by which outliers are left out; ``None`` to keep all cells.
    **options
        Of :meth:`scvi.model.base.DifferentialComputation.get_bayes_factors`.
    """
    cells = _RegisteredCells(manager)
    computation = DifferentialComputation(expression, representations, cells)
    bayes_factors = partial(computation.get_bayes_factors, mode=mode, **options)
    tables = []
    for pair in track(compared, description="DE...", disable=silent):
        columns = bayes_factors(pair.first, pair.second)
        if all_stats:
            columns |= _raw_statistics(cells.counts, pair)
        table = pd.DataFrame(columns, index=genes)
        table = table.sort_values(by="proba_de" if mode == "change" else "bayes_factor", ascending=False)
        if mode == "change":
            table[f"is_de_fdr_{fdr}"] = _is_discovery(table["proba_de"].to_numpy(), fdr)
        if pair.names is not None:
            table["comparison"] = f"{pair.names[0]} vs {pair.names[1]}"
            table["group1"], table["group2"] = pair.names
        tables.append(table)
    return pd.concat(tables, axis=0)


def _raw_statistics(counts: RawCounts, pair: Comparison) -> dict[str, np.ndarray]:
    first, second = counts[pair.first].statistics(), counts[pair.second].statistics()
    return {
        "raw_mean1": first.mean,
        "raw_mean2": second.mean,
        "non_zeros_proportion1": first.nonzero,
        "non_zeros_proportion2": second.nonzero,
        "raw_normalized_mean1": first.normalised,
        "raw_normalized_mean2": second.normalised,
    }


def _is_discovery(probability: np.ndarray, fdr: float) -> np.ndarray:
    r"""The most genes, from the most probable on, whose posterior expected false discovery rate is at most `fdr`.

    .. math::
        \frac1d \sum_{j \le d} (1 - p_{(j)}) \le \alpha
    """
    expected = np.cumsum(1 - probability) / np.arange(1, len(probability) + 1)
    return np.arange(len(probability)) < (expected <= fdr).sum()
