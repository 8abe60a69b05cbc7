"""What the main job found, in a table and in a file; behind ``scdgd demo`` and ``scdgd fit``."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from scdgd._files import written_whole

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True)
class Summary:
    """What came out; ``None`` for what was not computed."""

    model: str
    n_cells: int
    n_genes: int
    n_components: int
    n_clusters: int
    """Components, or what they make together where they are merged."""
    n_clusters_used: int
    """Clusters that hold at least 1% of the cells."""
    share_unsure: float
    """Share of cells that no cluster holds with a probability of 0.9."""
    seed: int
    seconds_training: float
    seconds_total: float = float("nan")
    labels_key: str | None = None
    ari: float | None = None
    nmi: float | None = None
    ari_pca_kmeans: float | None = None
    nmi_pca_kmeans: float | None = None
    held_out_log_likelihood: float | None = None
    """Mean over test cells, in nats; see :func:`scdgd.metrics.held_out_log_likelihood`."""
    held_out_standard_error: float | None = None
    n_held_out: int | None = None
    batch_key: str | None = None
    n_batches: int | None = None
    n_epochs_balanced: int | None = None
    """Epochs in which shifts between batches were taken out of representations."""
    first_batch_shift: float | None = None
    """Mean length of a move in the first of them, in root nats."""
    last_batch_shift: float | None = None
    own_weights: bool | None = None
    """Whether kinds of cells have weights of their own in each batch."""
    batch_mixing: float | None = None
    """Within labels, if there are any; see :class:`scdgd.metrics.BatchMixing`."""
    batch_mixing_pca: float | None = None
    n_epochs: int | None = None
    max_epochs: int | None = None
    was_interrupted: bool = False
    """Whether Ctrl-C ended training, or the score of held-out cells, before its time."""

    def table(self, **more: str) -> str:
        """The summary for people, a few lines of text; `more` are further rows."""
        rows = [*self.rows(), *more.items()]
        width = max(len(name) for name, _ in rows)
        return "\n".join(f"{name:<{width}}  {value}" for name, value in rows)

    def rows(self) -> list[tuple[str, str]]:
        """Names and values for people."""
        rows = [
            ("cells", f"{self.n_cells:,}"),
            ("genes", f"{self.n_genes:,}"),
            ("clusters", f"{self.n_clusters}{self._sizes()}"),
            ("cells without a clear cluster", f"{self.share_unsure:.1%}"),
        ]
        if self.batch_key is not None:
            rows.append((f"batches in {self.batch_key}", f"{self.n_batches:,}, {self._balance()}"))
        if self.batch_mixing is not None:
            within = "" if self.labels_key is None else f" within {self.labels_key}"
            rows.append(
                (
                    f"mixing of batches{within}",
                    f"{self.batch_mixing:.2f}  (PCA: {self.batch_mixing_pca:.2f}; at random: 1)",
                )
            )
        if self.ari is not None:
            baseline = f"PCA + k-means with K = {self.n_clusters}:"
            rows += [
                (f"ARI with {self.labels_key}", f"{self.ari:.3f}  ({baseline} {self.ari_pca_kmeans:.3f})"),
                (f"NMI with {self.labels_key}", f"{self.nmi:.3f}  ({baseline} {self.nmi_pca_kmeans:.3f})"),
            ]
        if self.held_out_log_likelihood is not None:
            score = f"{self.held_out_log_likelihood:.1f} ± {self.held_out_standard_error:.1f} nats per cell"
            rows.append(("held-out log-likelihood", f"{score}  ({self.n_held_out} cells)"))
        if self.was_interrupted:
            rows.append(("interrupted", self._state_kept()))
        rows.append(("seconds", f"{self.seconds_total:.0f}  (training: {self.seconds_training:.0f})"))
        return rows

    def _sizes(self) -> str:
        """What there is to say of the clusters: how many are small, and of how many components they are made."""
        n_small = self.n_clusters - self.n_clusters_used
        notes = [f"{n_small} with less than 1% of the cells"] if n_small else []
        notes += [f"of {self.n_components} components"] if self.n_components != self.n_clusters else []
        return f"  ({', '.join(notes)})" if notes else ""

    def _balance(self) -> str:
        """What was done about batches."""
        if not self.n_epochs_balanced:
            return "not balanced"
        shift = f"mean shift {self.first_batch_shift:.2g}, at last {self.last_batch_shift:.2g} root nats"
        weights = {
            None: "",
            False: "; the same share of each kind of cells in all",
            True: "; own shares of kinds of cells",
        }
        return f"balanced in {self.n_epochs_balanced} epochs ({shift}{weights[self.own_weights]})"

    def _state_kept(self) -> str:
        """What an interrupt left."""
        if self.n_epochs < self.max_epochs:
            return (
                f"after {self.n_epochs} of {self.max_epochs} epochs; results are of the state that training had reached"
            )
        return "while held-out cells were scored; results are of the whole training"


def write_summary(summary: Summary, directory: Path) -> None:
    """Write ``summary.json`` and ``summary.txt``."""
    texts = {"summary.json": json.dumps(dataclasses.asdict(summary), indent=2), "summary.txt": summary.table()}
    for name, text in texts.items():
        with written_whole(directory / name) as part:
            part.write_text(f"{text}\n", encoding="utf-8")
