"""One self-contained page about a fit: numbers, pictures, clusters, what was done about batches, versions, next steps."""

from __future__ import annotations

import base64
import dataclasses
import io
import platform
from dataclasses import dataclass
from html import escape
from importlib.metadata import version
from typing import TYPE_CHECKING

from scdgd._files import written_whole

if TYPE_CHECKING:
    from pathlib import Path

    import pandas as pd
    from matplotlib.figure import Figure

    from scdgd._report import Job
    from scdgd._summary import Summary

_PACKAGES = ("scdgd", "scvi-tools", "torch", "anndata", "scanpy")
_STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; color: #222; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.7rem; } h2 { font-size: 1.25rem; margin-top: 2.2rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; } th, td { text-align: left; padding: .25rem .9rem .25rem 0; border-bottom: 1px solid #ddd;
vertical-align: top; } th { font-weight: 600; }
img { max-width: 100%; } figure { margin: 1.2rem 0; } figcaption { color: #555; font-size: .9rem; }
pre { background: #f5f5f5; padding: .8rem; overflow-x: auto; font-size: .85rem; }
"""


@dataclass(frozen=True)
class Page:
    """What a page tells.

    Parameters
    ----------
    job, summary
        What was done, and what was found.
    clusters
        A row for each cluster; see :func:`scdgd._report.markers`.
    figures
        Figures by name; they are closed when they are written.
    captions
        What each of them shows.
    umap_keys
        Keys of the UMAP and of its neighbours; see :func:`scdgd._report.umap_keys`.
    source, output, model
        Names of the input, of the file of results and of the folder of the saved model, if there is one.
    """

    job: Job
    summary: Summary
    clusters: pd.DataFrame
    figures: dict[str, Figure]
    captions: dict[str, str]
    umap_keys: tuple[str, str]
    source: str
    output: Path
    model: Path | None = None

    def write(self, directory: Path) -> None:
        """Write ``report.html``, and each picture by its name."""
        import matplotlib.pyplot as plt

        pictures = {}
        for name, figure in self.figures.items():
            buffer = io.BytesIO()
            figure.savefig(buffer, format="png", dpi=150, bbox_inches="tight")
            plt.close(figure)
            pictures[name] = buffer.getvalue()
            with written_whole(directory / f"{name}.png") as part:
                part.write_bytes(pictures[name])
        with written_whole(directory / "report.html") as part:
            part.write_text(self._html(pictures), encoding="utf-8")

    def _html(self, pictures: dict[str, bytes]) -> str:
        sections = {
            "Numbers": _table(self.summary.rows()),
            "Clusters": self._clusters(),
            "Batches": self._batches(),
            "Pictures": "".join(_figure(self.captions[name], picture) for name, picture in pictures.items()),
            "Next steps": f"<pre><code>{escape(self._next_steps())}</code></pre>",
            "How it was made": _table([*self._options(), *_versions()]),
        }
        body = "".join(f"<h2>{title}</h2>\n{text}\n" for title, text in sections.items() if text)
        title = f"{escape(self.source)}: clusters by scdgd"
        return (
            f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>{title}</title>\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{_STYLE}</style></head>\n'
            f"<body><h1>{title}</h1>\n<p>{escape(self._first_sentence())}</p>\n{body}</body></html>\n"
        )

    def _first_sentence(self) -> str:
        s = self.summary
        text = f"{s.n_cells:,} cells and {s.n_genes:,} genes make {s.n_clusters} cluster{'s' * (s.n_clusters != 1)}"
        text += f" of {s.n_components} mixture components" if s.n_components != s.n_clusters else ""
        text += f"; {s.share_unsure:.1%} of the cells have no cluster with a probability of 0.9."
        return text + (
            f" Training was interrupted after epoch {s.n_epochs} of {s.max_epochs}." if s.was_interrupted else ""
        )

    def _clusters(self) -> str:
        shown = self.clusters.reset_index()
        shown["share"] = shown["share"].map("{:.1%}".format)
        note = ""
        if "leading genes" in shown:
            note = (
                "<p>Leading genes are those with the highest scores against all other cells. Clusters were made of the same "
                "counts, so these order genes; they do not prove a cluster.</p>"
            )
        return f'{note}<div class="wide">{shown.to_html(index=False, border=0, justify="left")}</div>'

    def _batches(self) -> str:
        s = self.summary
        if s.batch_key is None:
            return ""
        text = f"Batches are the {s.n_batches} values of obs[{s.batch_key!r}]. The decoder is told them."
        if s.n_epochs_balanced:
            text += (
                f" In {s.n_epochs_balanced} epochs shifts between batches that it does not take were moved out of the representations: "
                f"cells moved by {s.first_batch_shift:.2g} root nats on average at first, by {s.last_batch_shift:.2g} at last."
            )
        else:
            text += " Shifts between batches that it does not take were left in the representations."
        if s.batch_mixing is not None:
            within = (
                f", within values of obs[{s.labels_key!r}]" if s.labels_key else ", whatever the kinds of cells in each"
            )
            text += f" Mixing is {s.batch_mixing:.2f} (principal components: {s.batch_mixing_pca:.2f}; at random: 1){within}."
        return f"<p>{escape(text)}</p>"

    def _next_steps(self) -> str:
        read, basis, neighbors = "zarr" if self.output.suffix == ".zarr" else "h5ad", *self.umap_keys
        lines = [
            "import anndata as ad",
            "import scanpy as sc",
            "import scdgd",
            "",
            f'adata = ad.read_{read}("{self.output.name}")',
        ]
        if self.job.umap:
            lines += [
                f'sc.pl.embedding(adata, "{basis}", color="scdgd_cluster")',
                f'sc.tl.leiden(adata, neighbors_key="{neighbors}")  # other clusters, of the same space',
            ]
        if self.model is None:
            return "\n".join([*lines, "", "# with --save-model DIR: differential expression, new cells, uncertainty"])
        lines += ["", f"cells = {'adata.raw.to_adata()' if self.job.raw else 'adata'}"]
        return "\n".join(
            [
                *lines,
                f'model = scdgd.model.SCDGD.load("{self.model.name}", adata=cells)',
                'model.differential_expression(groupby="scdgd_cluster")',
                "scdgd.tl.annotate(model, uncertainty=True)  # how sure the place of each cell is",
                "scdgd.tl.map(model, new_cells)  # cells of another experiment, genes by name",
            ]
        )

    def _options(self) -> list[tuple[str, str]]:
        defaults = {field.name: field.default for field in dataclasses.fields(self.job)}
        return [
            (f"--{name.replace('_', '-')}", str(value))
            for name, value in dataclasses.asdict(self.job).items()
            if name != "show_progress" and (value != defaults[name] or name == "seed")
        ]


def _versions() -> list[tuple[str, str]]:
    return [*((package, version(package)) for package in _PACKAGES), ("Python", platform.python_version())]


def _table(rows: list[tuple[str, str]]) -> str:
    lines = "".join(f"<tr><th>{escape(name)}</th><td>{escape(value)}</td></tr>" for name, value in rows)
    return f'<div class="wide"><table>{lines}</table></div>'


def _figure(caption: str, picture: bytes) -> str:
    data = base64.b64encode(picture).decode("ascii")
    alt = escape(caption)
    return f'<figure><img alt="{alt}" src="data:image/png;base64,{data}"><figcaption>{alt}</figcaption></figure>'
