"""The command line: ``scdgd fit`` for pipelines, ``scdgd demo`` for a first look, ``scdgd map`` for more cells than one machine."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import logging
import os
import sys
import tempfile
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from anndata import AnnData

    from scdgd._report import Job

logger = logging.getLogger(__name__)

_MODELS = ("scdgd",)
#: Exit status after Ctrl-C, as shells give it.
_INTERRUPTED = 130
_COMPONENTS = "auto"
_DEMO_LABELS = "bulk_labels"
_NOT_FOR_USERS = (DeprecationWarning, FutureWarning, ImportWarning, PendingDeprecationWarning, ResourceWarning)
_OPTIONS = {"`n_components`": "--n-components", "`setup_anndata(adata, layer='counts')`": "--layer counts"}


class _UserError(Exception):
    """Something that the user can put right; its text is all that is shown."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Standard output gets the table of results and nothing else; progress and messages go to standard error.

    Returns
    -------
    Exit status: 0, or 1 after one line on standard error. Wrong usage exits with 2. After Ctrl-C it is 130: if training had
    completed an epoch, its results are written, and the table says so; else one line on standard error says what was not.
    """
    started = time.perf_counter()
    # read when torch is loaded: threads that spin while they wait take the cores of whatever else runs
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    args = _parser().parse_args(argv)
    try:
        with contextlib.redirect_stdout(sys.stderr), _quiet():
            table, was_interrupted = args.command(args, started)
    except _UserError as error:
        print(f"scdgd: error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt as interrupt:
        written = str(interrupt) or "nothing was written"
        print(f"scdgd: interrupted; {written}.", file=sys.stderr)
        return _INTERRUPTED
    print(table)
    return _INTERRUPTED if was_interrupted else 0


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """Exit with status 2 and one line on standard error."""
        self.exit(2, f"{self.prog}: error: {message} (see `{self.prog} --help`)\n")


def _parser() -> argparse.ArgumentParser:
    from scdgd import __version__

    parser = _Parser(prog="scdgd", description="Cluster and embed single-cell counts with deep generative decoders.")
    parser.add_argument("--version", action="version", version=f"scdgd {__version__}")
    commands = parser.add_subparsers(required=True, metavar="{fit,demo,map}")

    fit = commands.add_parser("fit", help="add representations and clusters to an .h5ad file")
    fit.set_defaults(command=_fit)
    fit.add_argument("input", type=Path, metavar="INPUT.h5ad", help="cells with raw counts")
    fit.add_argument("-o", "--output", type=Path, required=True, metavar="OUTPUT.h5ad", help="input plus results")
    fit.add_argument("--model", choices=_MODELS, default="scdgd", help="default: %(default)s")
    fit.add_argument("--layer", metavar="L", help="layer of the raw counts (default: X)")
    fit.add_argument("--save-model", type=Path, metavar="DIR", help="save the trained model")
    fit.add_argument("--report", type=Path, metavar="DIR", help="write pictures and a summary")

    demo = commands.add_parser("demo", help="cluster and draw 700 real cells, or your own")
    demo.set_defaults(command=_demo, model="scdgd", layer=None, save_model=None)
    demo.add_argument("--data", type=Path, metavar="FILE.h5ad", help="your cells (default: 700 PBMCs, see pbmc68k)")
    demo.add_argument("-o", "--output", type=Path, default=Path("demo_output"), metavar="DIR", help="%(default)s")

    for command in (fit, demo):
        command.add_argument(
            "--n-components",
            type=_number_or_auto,
            default=_COMPONENTS,
            metavar="K",
            help="number of clusters; default: those that are separate",
        )
        command.add_argument("--batch-key", metavar="COLUMN", help="column of obs with batches, to put into one space")
        command.add_argument(
            "--no-balance",
            dest="balance",
            action="store_false",
            help="leave differences between batches that the decoder does not take in the representations",
        )
        command.add_argument("--labels-key", metavar="COLUMN", help="column of obs with labels, to compare with only")
        command.add_argument("--max-epochs", type=int, metavar="E", help="default: 50, fewer above 50,000 cells")
        command.add_argument("--seed", type=int, default=0, metavar="S", help="default: %(default)s")

    map_ = commands.add_parser("map", help="write representations of any number of cells, in blocks or shards")
    map_.set_defaults(command=_map)
    map_.add_argument("model", type=Path, nargs="?", metavar="MODEL", help="folder of a saved model")
    map_.add_argument("input", type=Path, nargs="?", metavar="INPUT", help=".h5ad file or Zarr store of cells")
    map_.add_argument(
        "-o", "--output", type=Path, metavar="OUT.zarr", help="store to write; the same call goes on with it"
    )
    map_.add_argument(
        "--shard", type=_shard, metavar="I/N", help="only the I-th of N parts of the cells, for job arrays"
    )
    map_.add_argument(
        "--join", type=Path, metavar="OUT.zarr", help="join the shards of a store that all jobs have written"
    )
    return parser


def _shard(text: str) -> tuple[int, int]:
    """Number and number of parts."""
    number, _, n = text.partition("/")
    if not (number.isdecimal() and n.isdecimal() and 1 <= int(number) <= int(n)):
        msg = f"must be a part and the number of parts, such as 1/8, got {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return int(number), int(n)


def _number_or_auto(text: str) -> int | str:
    """A number of components, or that it is to be found."""
    try:
        return text if text == _COMPONENTS else int(text)
    except ValueError as error:
        msg = f"must be a number or {_COMPONENTS!r}, got {text!r}"
        raise argparse.ArgumentTypeError(msg) from error


def _fit(args: argparse.Namespace, started: float) -> tuple[str, bool]:
    return _run(args, lambda: _read(args.input), args.input, args.output, args.report, started)


def _demo(args: argparse.Namespace, started: float) -> tuple[str, bool]:
    if args.data is None:
        from scdgd.datasets import pbmc68k

        read, name = pbmc68k, "pbmc68k"
        args.labels_key = args.labels_key or _DEMO_LABELS
    else:
        read, name = lambda: _read(args.data), args.data.stem
    return _run(args, read, args.data, args.output / f"{name}.h5ad", args.output, started)


def _map(args: argparse.Namespace, started: float) -> tuple[str, bool]:
    """Write representations of the cells of a file, or join what several calls have written."""
    is_whole = None not in (args.model, args.input, args.output)
    if is_whole == (args.join is not None) or (args.join is not None and args.shard is not None):
        msg = "Name MODEL, INPUT and -o OUT.zarr to write, or --join OUT.zarr alone to join shards."
        raise _UserError(msg)
    try:
        path = _join(args.join) if args.join is not None else _write(args)
    except (ImportError, KeyError, OSError, RuntimeError, TypeError, ValueError) as error:
        logger.debug("Mapping failed", exc_info=True)
        raise _UserError(error.args[0] if isinstance(error, KeyError) else error) from error
    except KeyboardInterrupt:
        msg = "blocks that were complete are written, and the same command goes on with the others"
        raise KeyboardInterrupt(msg) from None
    return f"written\t{path}\nseconds\t{time.perf_counter() - started:.1f}", False


def _join(path: Path) -> Path:
    from scdgd.tl import join_latent

    return join_latent(path)


def _write(args: argparse.Namespace) -> Path:
    import scdgd
    from scdgd.data import read_backed
    from scdgd.model import SCDGD
    from scdgd.tl import write_latent

    name = SCDGD.load_registry(args.model)["model_name"]
    model = getattr(scdgd.model, name).load(args.model, adata=False)
    _prepare_directory(args.output.parent)
    return write_latent(model, args.output, read_backed(args.input), shard=args.shard)


def _run(
    args: argparse.Namespace,
    read: Callable[[], AnnData],
    source: Path | None,
    output: Path,
    report: Path | None,
    started: float,
) -> tuple[str, bool]:
    """Train, write everything that was asked for, and return the table, and whether Ctrl-C came before the end."""
    from scdgd import _report
    from scdgd._files import written_whole
    from scdgd._summary import write_summary

    job = _job(args)
    with _warnings_after_success():
        adata = read()
        try:
            model = _report.build(adata, job)
        except (KeyError, TypeError, ValueError) as error:
            raise _UserError(_as_options(str(error.args[0] if error.args else error))) from error
    if source is not None and output.exists() and output.samefile(source):
        msg = f"{output} is the input, which is never overwritten. Choose another output."
        raise _UserError(msg)
    _prepare_file(output)
    for directory in (args.save_model, report):
        if directory is not None:
            _prepare_directory(directory)
    try:
        summary = _report.run(adata, model, job, score_held_out=report is not None)
    except (ArithmeticError, RuntimeError, ValueError) as error:
        logger.debug("Training failed", exc_info=True)
        raise _UserError(error) from error
    except KeyboardInterrupt:
        msg = "no epoch was complete, so nothing was written"
        raise KeyboardInterrupt(msg) from None
    with _written() as written:
        if report is not None:
            _report.draw(adata, model, job, report)
        with written_whole(output) as part:
            adata.write_h5ad(part, compression="gzip")
        written.append(output)
        if args.save_model is not None:
            model.save(args.save_model, overwrite=True)
            written.append(args.save_model)
        summary = dataclasses.replace(summary, seconds_total=time.perf_counter() - started)
        if report is not None:
            write_summary(summary, report)
            written.append(report)
    return summary.table(written=", ".join(map(str, written))), summary.was_interrupted


@contextlib.contextmanager
def _written() -> Iterator[list[Path]]:
    """A list of what the block has written, which it says if it fails or is interrupted."""
    written: list[Path] = []
    try:
        yield written
    except OSError as error:
        msg = f"{str(error).rstrip('.')}. {_listed(written).capitalize() if not written else _listed(written)} was written before it."
        raise _UserError(msg) from error
    except KeyboardInterrupt:
        msg = f"{_listed(written)} was written"
        raise KeyboardInterrupt(msg) from None


def _listed(paths: Sequence[Path]) -> str:
    return ", ".join(map(str, paths)) or "nothing"


def _as_options(message: str) -> str:
    """Name what stands for a Python argument on the command line."""
    for argument, option in _OPTIONS.items():
        message = message.replace(argument, option)
    return message


def _job(args: argparse.Namespace) -> Job:
    from scdgd._options import SEED, Choice, Either, Integer, Optional
    from scdgd._report import Job

    rules = {"max_epochs": Optional(Integer(1)), "n_components": Either(Integer(1), Choice("auto")), "seed": SEED}
    for name, rule in rules.items():
        try:
            rule(f"--{name.replace('_', '-')}", getattr(args, name))
        except ValueError as error:
            raise _UserError(str(error).replace("`", "")) from error
    given = {field.name: getattr(args, field.name) for field in dataclasses.fields(Job) if field.name in args}
    return Job(**given, show_progress=sys.stderr.isatty())


def _read(path: Path) -> AnnData:
    import anndata
    import h5py

    if not path.is_file():
        msg = f"There is no file {path}."
        raise _UserError(msg)
    try:
        if not h5py.is_hdf5(path):
            msg = f"{path} is not an .h5ad file. Write one with `adata.write_h5ad(...)`."
            raise _UserError(msg)
        with h5py.File(path) as file:
            missing = {"obs", "var"} - set(file)
        if missing:
            msg = (
                f"{path} is an HDF5 file but not AnnData (it has no {' and no '.join(sorted(missing))}). "
                "Read it with scanpy, e.g. `scanpy.read_10x_h5`, and write it with `adata.write_h5ad(...)`."
            )
            raise _UserError(msg)
        return anndata.read_h5ad(path)
    except _UserError:
        raise
    except Exception as error:  # whatever a file may hold, it is the file that is wrong
        msg = f"{path} cannot be read as AnnData: {error}"
        raise _UserError(msg) from error


def _prepare_directory(path: Path) -> None:
    """Make a directory and see that files can be written there, before hours go into training."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        msg = f"Nothing can be written to the directory {path}: {error.strerror}."
        raise _UserError(msg) from error


def _prepare_file(path: Path) -> None:
    _prepare_directory(path.parent)
    if path.is_dir():
        msg = f"The output {path} is a directory. Name a file."
        raise _UserError(msg)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Warnings in one line each; no advice from the libraries below, which is not for users of a command line."""
    from lightning.fabric.utilities.warnings import PossibleUserWarning

    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "scvi.data", "scvi.model")]
    with contextlib.ExitStack() as stack:
        for library in loggers:
            stack.callback(library.setLevel, library.level)
            library.setLevel(logging.WARNING)
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("default")
        for category in (*_NOT_FOR_USERS, PossibleUserWarning):
            warnings.simplefilter("ignore", category)
        warnings.showwarning = _show_warning
        yield


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    print(f"scdgd: warning: {' '.join(str(message).split())}", file=sys.stderr)


@contextlib.contextmanager
def _warnings_after_success() -> Iterator[None]:
    """Hold warnings back, and drop them if the block fails: one line says what is wrong."""
    with warnings.catch_warnings(record=True) as caught:
        yield
    for warning in caught:
        _show_warning(warning.message, warning.category, warning.filename, warning.lineno)


if __name__ == "__main__":
    sys.exit(main())
