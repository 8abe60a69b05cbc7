"""What is printed of a model: a sentence, and a row for each of its parts."""

from __future__ import annotations

import html
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scdgd._compat import ADATA_MINIFY_TYPE

if TYPE_CHECKING:
    from collections.abc import Mapping

    from scvi.model.base import BaseModelClass


@dataclass(frozen=True)
class Description:
    """Printed as text, and as a table where HTML is shown."""

    sentence: str
    parts: Mapping[str, str]

    def __str__(self) -> str:
        width = max(map(len, self.parts), default=0)
        wrap = {"width": 100, "subsequent_indent": " " * (width + 4)}
        rows = [textwrap.fill(f"  {name:<{width}}  {text}", **wrap) for name, text in self.parts.items()]
        return "\n".join([self.sentence, *rows])

    def to_html(self) -> str:
        """The sentence, and the parts in a table."""
        cells = "".join(f"<tr><th>{html.escape(k)}</th><td>{html.escape(v)}</td></tr>" for k, v in self.parts.items())
        return f"<p>{html.escape(self.sentence)}</p><table>{cells}</table>"


def describe(model: BaseModelClass, parts: Mapping[str, str]) -> Description:
    """A model and its data, how far it is trained, its `parts`, and the clusters that were found."""
    if not hasattr(model, "summary_stats"):
        return Description(f"{type(model).__name__} without data, not trained.", parts)
    stats = model.summary_stats
    size = f"{stats.n_cells:,} cell{'s'[: stats.n_cells - 1]} and {stats.n_vars:,} feature{'s'[: stats.n_vars - 1]}"
    sentence = f"{type(model).__name__} of {size}, {_training_of(model)}."
    if getattr(model, "minified_data_type", None) == ADATA_MINIFY_TYPE.LATENT_POSTERIOR:
        sentence += " Counts were dropped (minified)."
    key = model.registry["setup_args"].get("batch_key")
    batches = {} if key is None else {"batches": f"{stats.n_batch:,}, of {key!r}"}
    return Description(sentence, {**parts, **batches, **_clusters_of(model)})


def _training_of(model: BaseModelClass) -> str:
    if not model.is_trained_:
        return "not trained"
    history = model.history
    by_epoch = [] if history is None else [values for values in history.values() if values.index.name != "step"]
    n = max(map(len, by_epoch), default=0)
    return f"trained for {n:,} epoch{'s'[: n - 1]}" if n else "trained"


def _clusters_of(model: BaseModelClass) -> dict[str, str]:
    clusters = getattr(model, "component_clusters_", None)
    return {} if clusters is None else {"clusters": f"{max(clusters) + 1}, of {len(clusters)} components"}
