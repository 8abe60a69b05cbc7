"""``scdgd fit`` and ``scdgd demo``: from raw counts to clusters, in a file, and a report."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from ._command import (
    AUTO,
    Answer,
    Command,
    UserError,
    add_columns,
    add_counts,
    add_output,
    add_seed,
    as_options,
    number_or_auto,
    refusals,
)
from ._counts import check_counts
from ._files import check_cells, check_free, check_output, prepare_directory, read_cells, write_cells
from ._warnings import warnings_after_success

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

    from anndata import AnnData

    from scdgd._report import Job
    from scdgd._summary import Summary
    from scdgd.model import SCDGD

logger = logging.getLogger(__name__)

MODELS = ("scdgd",)
_DEMO_LABELS = "bulk_labels"


def _add_fit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", type=Path, metavar="INPUT", help=".h5ad file or .zarr store of cells with raw counts")
    add_output(parser, "OUTPUT", "input plus results, .h5ad or .zarr")
    parser.add_argument("--model", choices=MODELS, default="scdgd", help="default: %(default)s")
    add_counts(parser)
    _add_training(parser)
    parser.add_argument("--no-umap", dest="umap", action="store_false", help="leave neighbours and UMAP out")
    parser.add_argument("--save-model", type=Path, metavar="DIR", help="save the trained model")
    parser.add_argument("--report", type=Path, metavar="DIR", help="write report.html, its pictures and a summary")


def _add_demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=Path, metavar="FILE", help="your cells (default: 700 PBMCs, see pbmc68k)")
    parser.add_argument("-o", "--output", type=Path, default=Path("demo_output"), metavar="DIR", help="%(default)s")
    add_counts(parser)
    _add_training(parser)
    parser.set_defaults(model="scdgd", umap=True)


def _add_training(parser: argparse.ArgumentParser) -> None:
    """What a model is, and how it trains."""
    parser.add_argument(
        "--n-components",
        type=number_or_auto,
        default=AUTO,
        metavar="K",
        help="number of clusters; default: those that are separate",
    )
    add_columns(parser)
    parser.add_argument(
        "--no-balance",
        dest="balance",
        action="store_false",
        help="leave differences between batches that the decoder does not take in the representations",
    )
    parser.add_argument("--max-epochs", type=int, metavar="E", help="default: 50, fewer above 50,000 cells")
    add_seed(parser)


@dataclasses.dataclass(frozen=True)
class _Paths:
    """What is read and written."""

    name: str
    source: Path | None
    output: Path
    report: Path | None = None
    model: Path | None = None


def _fit(args: argparse.Namespace) -> Answer:
    check_cells(args.input)
    check_output(args.output, args.input, overwrite=args.overwrite)
    for directory in (args.save_model, args.report):
        if directory is not None:
            if not directory.is_file():  # said in other words
                check_free(directory, overwrite=args.overwrite)
            prepare_directory(directory)
    paths = _Paths(args.input.name, args.input, args.output, args.report, args.save_model)
    return _run(args, lambda: read_cells(args.input), paths)


def _demo(args: argparse.Namespace) -> Answer:
    """The same, of packaged cells or a user's, with a report; what an earlier demo has written is replaced."""
    if args.data is None:
        paths = _Paths("pbmc68k", None, args.output / "pbmc68k.h5ad", args.output)
        args.labels_key = args.labels_key or _DEMO_LABELS
    else:
        check_cells(args.data)
        paths = _Paths(args.data.name, args.data, args.output / f"{args.data.stem}.h5ad", args.output)
    check_output(paths.output, paths.source, overwrite=True)

    return _run(args, _packaged_cells if args.data is None else lambda: read_cells(args.data), paths)


def _packaged_cells() -> AnnData:
    """Those of the demo."""
    from scdgd.datasets import pbmc68k

    return pbmc68k()


def _run(args: argparse.Namespace, read: Callable[[], AnnData], paths: _Paths) -> Answer:
    """Train, write everything that was asked for, and tell."""
    started = time.perf_counter()
    with warnings_after_success():
        adata = read()
        check_counts(adata, paths.source, layer=args.layer, raw=args.raw)
        with refusals():
            from scdgd import _report

            job = _job(args)
            model = _report.build(adata, job)
    try:
        with refusals():
            summary = _report.run(adata, model, job, score_held_out=paths.report is not None)
    except KeyboardInterrupt:
        msg = "no epoch was complete, so nothing was written"
        raise KeyboardInterrupt(msg) from None
    summary, written = _write(adata, model, job, summary, paths, started)
    return Answer(summary.table(written=", ".join(map(str, written))), summary.was_interrupted)


def _write(
    adata: AnnData, model: SCDGD, job: Job, summary: Summary, paths: _Paths, started: float
) -> tuple[Summary, list[Path]]:
    """All that was asked for; the summary with its total time, and what was written."""
    from scdgd import _report
    from scdgd._html_report import Page
    from scdgd._summary import write_summary

    with _written() as written:
        clusters = None if paths.report is None else _report.markers(adata, model)
        figures = {} if paths.report is None else _report.draw(adata, model, job)
        write_cells(adata, paths.output)
        written.append(paths.output)
        if paths.model is not None:
            model.save(paths.model, overwrite=True)
            written.append(paths.model)
        summary = dataclasses.replace(summary, seconds_total=time.perf_counter() - started)
        if paths.report is not None:
            drawn = (figures, _report.CAPTIONS, _report.umap_keys(adata))
            page = Page(job, summary, clusters, *drawn, paths.name, paths.output, paths.model)
            page.write(paths.report)
            write_summary(summary, paths.report)
            written.append(paths.report)
    return summary, written


@contextlib.contextmanager
def _written() -> Iterator[list[Path]]:
    """A list of what the block has written, which it says if it fails or is interrupted."""
    written: list[Path] = []
    try:
        yield written
    except OSError as error:
        msg = f"{str(error).rstrip('.')}. {_listed(written).capitalize() if not written else _listed(written)} was written before it."
        raise UserError(msg) from error
    except KeyboardInterrupt:
        msg = f"{_listed(written)} was written"
        raise KeyboardInterrupt(msg) from None


def _listed(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths)) or "nothing"


def _job(args: argparse.Namespace) -> Job:
    from scdgd._options import SEED, Choice, Either, Integer, Optional
    from scdgd._report import Job

    rules = {"max_epochs": Optional(Integer(1)), "n_components": Either(Integer(1), Choice("auto")), "seed": SEED}
    for name, rule in rules.items():
        try:
            rule(f"--{name.replace('_', '-')}", getattr(args, name))
        except ValueError as error:
            raise UserError(as_options(str(error)).replace("`", "")) from error
    given = {field.name: getattr(args, field.name) for field in dataclasses.fields(Job) if field.name in args}
    return Job(**given, show_progress=sys.stderr.isatty())


FIT = Command("fit", "add representations, clusters and a UMAP to a file of cells", _add_fit, _fit)
DEMO = Command("demo", "cluster and draw 700 real cells, or your own", _add_demo, _demo)
