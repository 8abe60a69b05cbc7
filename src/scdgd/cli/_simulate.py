"""``scdgd simulate``: synthetic cells of a trained model."""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from ._command import Answer, Command, add_counts, add_output, add_seed, positive, refusals, table
from ._files import check_cells, check_output, read_cells, write_cells


def _add_simulate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", type=Path, metavar="MODEL", help="folder of a saved model")
    parser.add_argument("input", type=Path, metavar="INPUT", help="its training cells, .h5ad or .zarr")
    add_output(parser, "OUTPUT", "synthetic cells, .h5ad or .zarr")
    parser.add_argument("-n", "--n-cells", type=positive, required=True, metavar="N", help="number of cells")
    parser.add_argument(
        "--mode",
        choices=("prior", "posterior"),
        default="prior",
        help="new cells, or replicates of the training cells; default: %(default)s",
    )
    parser.add_argument("--component", type=int, metavar="K", help="cells of one component only")
    parser.add_argument("--batch", metavar="NAME", help="cells of one batch only")
    parser.add_argument(
        "--library",
        type=_library,
        default="empirical",
        metavar="SIZE",
        help="total counts: 'empirical', 'lognormal', or a number; default: %(default)s",
    )
    add_counts(parser, genes=False)
    add_seed(parser)


def _library(text: str) -> str | float:
    """A kind of sizes, or one size."""
    if text in ("empirical", "lognormal"):
        return text
    try:
        return float(text)
    except ValueError as error:
        msg = f"must be 'empirical', 'lognormal' or a number, got {text!r}"
        raise argparse.ArgumentTypeError(msg) from error


def _simulate(args: argparse.Namespace) -> Answer:
    started = time.perf_counter()
    check_cells(args.input)
    check_output(args.output, args.input, overwrite=args.overwrite)
    adata = read_cells(args.input)
    from ._models import load

    with refusals():
        from scdgd import tl
        from scdgd.data import counts_of

        model = load(args.model, adata.raw.to_adata() if args.raw and adata.raw is not None else adata)
        options = {"mode": args.mode, "component": args.component, "batch": args.batch, "library": args.library}
        synthetic = tl.sample_cells(model, args.n_cells, seed=args.seed, **options)
        write_cells(synthetic, args.output)
    totals = counts_of(synthetic).sum(axis=1)
    rows = [
        ("cells", f"{synthetic.n_obs:,}"),
        ("genes", f"{synthetic.n_vars:,}"),
        ("mean counts a cell", f"{totals.mean():,.0f}"),
        ("seconds", f"{time.perf_counter() - started:.0f}"),
        ("written", args.output),
    ]
    return Answer(table(rows))


SIMULATE = Command("simulate", "draw synthetic cells from a trained model", _add_simulate, _simulate)
