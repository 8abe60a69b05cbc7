"""``scdgd compare``: several models of the same cells, judged without labels."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ._command import Answer, Command, UserError, add_columns, add_counts, add_seed, positive, refusals
from ._counts import check_counts
from ._files import check_cells, prepare_directory, read_cells
from ._models import NAMES

if TYPE_CHECKING:
    from anndata import AnnData

    from scdgd.tl import Comparison


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", type=Path, metavar="INPUT", help=".h5ad file or .zarr store of cells with raw counts")
    parser.add_argument(
        "-o",
        "--output",
        type=Path,
        required=True,
        metavar="DIR",
        help="folder of results; the same call goes on with it",
    )
    parser.add_argument(
        "--models",
        nargs="+",
        choices=NAMES,
        default=["scdgd", "scvi"],
        metavar="MODEL",
        help=f"of {', '.join(NAMES)}; default: scdgd scvi",
    )
    add_counts(parser)
    add_columns(parser)
    parser.add_argument(
        "--n-seeds", type=positive, default=2, metavar="N", help="trainings of each; default: %(default)s"
    )
    parser.add_argument("--max-epochs", type=positive, metavar="E", help="default: that of each model")
    add_seed(parser)


def _compare(args: argparse.Namespace) -> Answer:
    check_cells(args.input)
    prepare_directory(args.output)
    adata = read_cells(args.input)
    check_counts(adata, args.input, layer=args.layer, raw=args.raw)
    try:
        with refusals():
            text = _compared(adata, args)
    except KeyboardInterrupt:
        msg = f"trainings that were complete are kept in {args.output}, and the same command goes on with the others"
        raise KeyboardInterrupt(msg) from None
    return Answer(f"{text}\n\nwritten  {args.output}")


def _compared(adata: AnnData, args: argparse.Namespace) -> str:
    from scdgd import tl
    from scdgd._report import Job, cells_of

    from ._models import classes

    for key in (args.batch_key, args.labels_key):
        if key is not None and key not in adata.obs:
            msg = f"There is no column '{key}'; the columns of obs are {list(adata.obs.columns)}."
            raise UserError(msg)
    columns = [key for key in (args.batch_key, args.labels_key) if key is not None]
    cells = cells_of(adata, Job(layer=args.layer, raw=args.raw, hvg=args.hvg, batch_key=args.batch_key), columns)
    train = {} if args.max_epochs is None else {"max_epochs": args.max_epochs}
    found = tl.compare(
        cells,
        {name: tl.Candidate(classes()[name], train=train) for name in args.models},
        layer=args.layer,
        batch_key=args.batch_key,
        labels_key=args.labels_key,
        n_seeds=args.n_seeds,
        seed=args.seed,
        folder=args.output / "fits",
        show_progress=sys.stderr.isatty(),
    )
    _write(found, args.output)
    return repr(found)


def _write(found: Comparison, directory: Path) -> None:
    """Tables and the picture."""
    import matplotlib as mpl

    mpl.use("Agg")  # into files, with or without a screen
    import matplotlib.pyplot as plt

    from scdgd import pl
    from scdgd._files import written_whole

    for name, table in (("comparison", found.table), ("fits", found.fits)):
        with written_whole(directory / f"{name}.csv") as part:
            table.to_csv(part)
    figure = pl.comparison(found, return_fig=True)
    with written_whole(directory / "comparison.png") as part:
        figure.savefig(part, dpi=150, bbox_inches="tight")
    plt.close(figure)


COMPARE = Command("compare", "train several models and compare them without labels", _add_compare, _compare)
