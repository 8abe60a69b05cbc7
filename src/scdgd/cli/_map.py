"""``scdgd map``: representations of more cells than one machine holds."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from ._command import Answer, Command, UserError, refusals, table
from ._files import prepare_directory


def _add_map(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, nargs="?", metavar="MODEL", help="folder of a saved model")
    parser.add_argument("input", type=Path, nargs="?", metavar="INPUT", help=".h5ad file or Zarr store of cells")
    parser.add_argument(
        "-o", "--output", type=Path, metavar="OUT.zarr", help="store to write; the same call goes on with it"
    )
    parser.add_argument(
        "--shard", type=_shard, metavar="I/N", help="only the I-th of N parts of the cells, for job arrays"
    )
    parser.add_argument(
        "--join", type=Path, metavar="OUT.zarr", help="join the shards of a store that all jobs have written"
    )


def _shard(text: str) -> tuple[int, int]:
    """Number and number of parts."""
    number, _, n = text.partition("/")
    if not (number.isdecimal() and n.isdecimal() and 1 <= int(number) <= int(n)):
        msg = f"must be a part and the number of parts, such as 1/8, got {text!r}"
        raise argparse.ArgumentTypeError(msg)
    return int(number), int(n)


def _map(args: argparse.Namespace) -> Answer:
    """Write representations of the cells of a file, or join what several calls have written."""
    started = time.perf_counter()
    is_whole = None not in (args.model, args.input, args.output)
    if is_whole == (args.join is not None) or (args.join is not None and args.shard is not None):
        msg = "Name MODEL, INPUT and -o OUT.zarr to write, or --join OUT.zarr alone to join shards."
        raise UserError(msg)
    try:
        with refusals():
            path = _join(args.join) if args.join is not None else _write(args)
    except KeyboardInterrupt:
        msg = "blocks that were complete are written, and the same command goes on with the others"
        raise KeyboardInterrupt(msg) from None
    return Answer(table([("written", path), ("seconds", f"{time.perf_counter() - started:.1f}")]))


def _join(path: Path) -> Path:
    from scdgd.tl import join_latent

    return join_latent(path)


def _write(args: argparse.Namespace) -> Path:
    from scdgd.data import read_backed
    from scdgd.tl import write_latent

    from ._models import load

    model = load(args.model)
    prepare_directory(args.output.parent)
    return write_latent(model, args.output, read_backed(args.input), shard=args.shard)


MAP = Command("map", "write representations of any number of cells, in blocks or shards", _add_map, _map)
