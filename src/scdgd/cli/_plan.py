"""``scdgd plan``: how many further cells an experiment needs, from a pilot."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ._command import Answer, Command, UserError, add_counts, add_output, add_seed, positive, refusals
from ._counts import check_counts
from ._files import check_cells, check_free, prepare_directory, read_cells

if TYPE_CHECKING:
    from scdgd.design import Costs, DonorPlan, Plan
    from scdgd.design._plan_targets import Target

#: Arguments of :func:`scdgd.design.plan` that are called the same here.
_OPTIONS = (
    "groups",
    "donors",
    "conditions",
    "layer",
    "sizes",
    "n_donors",
    "cells_per_sample",
    "depth",
    "budget",
    "seed",
)


def _add_plan(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("input", type=Path, metavar="PILOT", help="pilot cells with raw counts, .h5ad or .zarr")
    add_output(parser, "DIR", "folder for plan.csv, plan.png and plan.txt", required=False)
    question = parser.add_mutually_exclusive_group()
    question.add_argument("--find", metavar="GROUP", help="find cells of this group (default: of the rarest one)")
    question.add_argument(
        "--stable", type=float, metavar="ARI", help="two experiments agree on their clusters up to this Rand index"
    )
    question.add_argument("--markers", nargs=2, metavar=("GROUP", "GROUP"), help="call the markers between two groups")
    question.add_argument(
        "--effect", type=float, metavar="FOLD", help="call genes that change so much between conditions; needs --donors"
    )
    parser.add_argument("--group", metavar="GROUP", help="with --effect: cells of this group only (default: all)")
    parser.add_argument("--donors", metavar="COLUMN", help="with --effect: column of obs with donors, the replicates")
    parser.add_argument(
        "--conditions", metavar="COLUMN", help="with --effect: column of obs with conditions of the pilot"
    )
    parser.add_argument("--groups", metavar="COLUMN", help="column of obs with groups (default: Leiden clusters)")
    parser.add_argument(
        "--cells", type=positive, default=20, metavar="M", help="with --find: so many cells; default: %(default)s"
    )
    parser.add_argument(
        "--probability", type=float, default=0.95, metavar="P", help="with --find; default: %(default)s"
    )
    parser.add_argument(
        "--resolution", type=float, default=1.0, metavar="R", help="with --stable, of Leiden; default: %(default)s"
    )
    parser.add_argument(
        "--power",
        type=float,
        default=0.8,
        metavar="P",
        help="with --markers and --effect: share that is called; default: %(default)s",
    )
    parser.add_argument(
        "--fdr", type=float, default=0.05, metavar="P", help="with --markers and --effect; default: %(default)s"
    )
    parser.add_argument("--sizes", type=positive, nargs="+", metavar="N", help="numbers of further cells to tabulate")
    _add_experiment(parser)
    add_counts(parser, genes=False)
    add_seed(parser)


def _add_experiment(parser: argparse.ArgumentParser) -> None:
    """What the new experiment is like, and what it costs."""
    parser.add_argument(
        "--n-donors",
        type=positive,
        nargs="+",
        metavar="D",
        help="donors in each condition; else samples that are paid for",
    )
    parser.add_argument(
        "--cells-per-sample",
        type=positive,
        metavar="N",
        help="with --effect: cells of each donor (default: the pilot's)",
    )
    parser.add_argument(
        "--depth", type=float, default=1.0, metavar="R", help="relative to the pilot's; default: %(default)s"
    )
    parser.add_argument(
        "--budget", type=float, metavar="MONEY", help="say what it pays; needs --cost-cell or other costs"
    )
    for cost, what in (
        ("cell", "one cell"),
        ("sample", "one sample"),
        ("sequencing", "sequencing a cell to the pilot's depth"),
    ):
        parser.add_argument(f"--cost-{cost}", type=float, default=0.0, metavar="MONEY", help=f"of {what}; default: 0")


def _plan(args: argparse.Namespace) -> Answer:
    check_cells(args.input)
    if args.output is not None:
        check_free(args.output, overwrite=args.overwrite)
        prepare_directory(args.output)
    pilot = read_cells(args.input)
    check_counts(pilot, args.input, layer=args.layer, raw=args.raw)
    for what in ("groups", "donors", "conditions"):
        key = getattr(args, what)
        if key is not None and key not in pilot.obs:
            msg = f"There is no column '{key}' for the {what}; the columns of obs are {list(pilot.obs.columns)}."
            raise UserError(msg)
    with refusals():
        from scdgd.design import plan

        cells = pilot.raw.to_adata() if args.raw else pilot
        options = {name: getattr(args, name) for name in _OPTIONS}
        found = plan(cells, _target(args), costs=_costs(args), **options)
    text = f"{found.sentence}\n\n{found.table.to_string(index=False, float_format='{:.3f}'.format)}"
    if args.output is not None:
        with refusals():
            _write(found, text, args.output)
        text += f"\n\nwritten  {args.output}"
    return Answer(text)


def _costs(args: argparse.Namespace) -> Costs | None:
    """What things cost, if that is said."""
    from scdgd.design import Costs

    given = {name: getattr(args, f"cost_{name}") for name in ("cell", "sample", "sequencing")}
    return Costs(**given) if any(given.values()) else None


def _target(args: argparse.Namespace) -> Target:
    """What is to be reached."""
    from scdgd.design import ConditionEffect, FindType, MarkerPower, StableClusters

    if args.effect is not None:
        return ConditionEffect(args.group, fold_change=args.effect, power=args.power, fdr=args.fdr)

    if args.stable is not None:
        return StableClusters(ari=args.stable, resolution=args.resolution)
    if args.markers is not None:
        return MarkerPower(*args.markers, power=args.power, fdr=args.fdr)
    return FindType(args.find, n_cells=args.cells, probability=args.probability)


def _write(found: Plan | DonorPlan, text: str, directory: Path) -> None:
    """The numbers, the picture and the words."""
    import matplotlib as mpl

    mpl.use("Agg")  # into files, with or without a screen
    import matplotlib.pyplot as plt

    from scdgd._files import written_whole

    with written_whole(directory / "plan.csv") as part:
        found.table.to_csv(part, index=False)
    with written_whole(directory / "plan.txt") as part:
        part.write_text(f"{text}\n", encoding="utf-8")
    figure = found.plot().figure
    with written_whole(directory / "plan.png") as part:
        figure.savefig(part, dpi=150, bbox_inches="tight")
    plt.close(figure)


PLAN = Command("plan", "say how many further cells an experiment needs, from a pilot", _add_plan, _plan)
