"""Likely reasons why names of genes do not match."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._gene_panel import GenePanel

#: An identifier of Ensembl: of which species, the number, and perhaps a version.
_ENSEMBL = r"^(ENS[A-Z]*)G\d{6,}(?:\.\d+)?$"
_MAX_NAMED = 5


class _Spelling(NamedTuple):
    """A way in which the same name can be written otherwise."""

    what: str
    expression: str
    """What both have in common, of ``name``, as the user would write it."""
    plain: Callable[[str], str]
    """The same as a function."""
    of_identifiers: bool = False
    """Whether it is for identifiers of Ensembl alone, for symbols may end in a dot and a number."""


_SPELLINGS = (
    _Spelling("without their versions", "name.partition('.')[0]", lambda name: name.partition(".")[0], True),
    _Spelling(
        "in another case (symbols of mouse and human differ so)", "name.casefold()", lambda name: name.casefold()
    ),
    _Spelling(
        "with other separators",
        "name.replace('.', '-').replace('_', '-')",
        lambda name: name.replace(".", "-").replace("_", "-"),
    ),
    _Spelling(
        "in another case and with other separators",
        "name.casefold().replace('.', '-').replace('_', '-')",
        lambda name: name.casefold().replace(".", "-").replace("_", "-"),
    ),
)


def reason_of_missing(panel: GenePanel, var: pd.DataFrame) -> str:
    """Why genes of a model may be missing from data, and how to mend it: a sentence or two, or nothing.

    Parameters
    ----------
    panel
        Genes of the model and of the data.
    var
        ``adata.var`` of the data, whose columns may have the names that are missing.
    """
    if not len(panel.missing):
        return ""
    for reason in (_in_a_column(panel, var), _spelled_otherwise(panel), _of_another_namespace(panel)):
        if reason:
            return f" {reason}"
    if len(panel.missing) == len(panel.extra):
        return (
            f" The data have as many that the model does not know (first: {', '.join(panel.extra[:_MAX_NAMED])}): if these are "
            "the same genes under newer or older names, give them those of the model by `adata.var_names`."
        )
    return ""


def _explains(n_found: int, panel: GenePanel) -> bool:
    """Whether so many of the missing genes are half of them, or a tenth of all."""
    return n_found > 0 and (2 * n_found >= len(panel.missing) or 10 * n_found >= len(panel.genes))


def _in_a_column(panel: GenePanel, var: pd.DataFrame) -> str:
    """Whether a column of ``var`` has names that are missing."""
    best, n_best = None, 0
    for column in var.columns[~var.columns.duplicated(keep=False)]:
        if pd.api.types.is_numeric_dtype(var[column].dtype):
            continue
        n_found = int(panel.genes.isin(var[column].dropna().astype(str)).sum())
        best, n_best = (column, n_found) if n_found > n_best else (best, n_best)
    if not _explains(n_best - panel.n_shared, panel):
        return ""
    where, unique = f"adata.var[{best!r}]", "" if var[best].is_unique else " and `adata.var_names_make_unique()`"
    return (
        f"{where} holds {n_best} of the model's {len(panel.genes)} names, adata.var_names {panel.n_shared}: rename them by "
        f"`adata.var_names = {where}.astype(str).to_numpy()`{unique}."
    )


def _spelled_otherwise(panel: GenePanel) -> str:
    """Whether missing genes are there, spelled otherwise."""
    for spelling in _SPELLINGS:
        if spelling.of_identifiers and not (_has_identifiers(panel.genes) and _has_identifiers(panel.columns)):
            continue
        there = {spelling.plain(name): name for name in panel.extra}
        pairs = [(name, there[plain]) for name in panel.missing if (plain := spelling.plain(name)) in there]
        if _explains(len(pairs), panel):
            name, other = pairs[0]
            return (
                f"{len(pairs)} of them match {spelling.what}: {name} of the model is {other} in the data. If they are the same "
                f"genes, rename them by `known = {{{spelling.expression}: name for name in model.get_var_names()}}` and "
                f"`adata.var_names = [known.get({spelling.expression}, name) for name in adata.var_names]`."
            )
    return ""


def _of_another_namespace(panel: GenePanel) -> str:
    """Whether one side has identifiers of Ensembl and the other has not, or both have those of other species."""
    expected, received = _has_identifiers(panel.genes), _has_identifiers(panel.columns)
    if expected != received:
        kinds = ("identifiers of Ensembl", "symbols")
        of_model, of_data = kinds if expected else kinds[::-1]
        return (
            f"The model knows genes by {of_model} ({panel.genes[0]}), and the data name them by {of_data} ({panel.columns[0]}). "
            f"Put the {of_model} into a column of adata.var, and rename: "
            "`adata.var_names = adata.var['...'].astype(str).to_numpy()`."
        )
    if expected and (species := _species_of(panel.genes)) != (other := _species_of(panel.columns)):
        return (
            f"The model's identifiers are those of another species ({species}G... of the model, {other}G... in the data). "
            "Rename genes to their orthologues, or take a model of this species."
        )
    return ""


def _has_identifiers(names: pd.Index) -> bool:
    """Whether most names are identifiers of Ensembl."""
    return bool(names.str.match(_ENSEMBL).mean() > 0.5)


def _species_of(names: pd.Index) -> str:
    """The most frequent prefix of identifiers of Ensembl."""
    prefixes, counts = np.unique(names.str.extract(_ENSEMBL, expand=False).dropna().to_numpy(str), return_counts=True)
    return str(prefixes[counts.argmax()])
