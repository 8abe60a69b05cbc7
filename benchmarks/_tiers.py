"""The command line that benchmarks on sets share: tiers, a ledger of finished runs, and the page."""

from __future__ import annotations

import argparse
import logging
import multiprocessing
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

import scvi
import torch
from _ledger import Ledger

if TYPE_CHECKING:
    from collections.abc import Callable


def tier_choice(about: str, tiers: dict[str, Any]) -> argparse.ArgumentParser:
    """Parser with one option for each tier, of which the quick one is the default."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    choice = parser.add_mutually_exclusive_group()
    for name in tiers:
        choice.add_argument(f"--{name}", dest="tier", action="store_const", const=name)
    parser.set_defaults(tier="quick")
    return parser


def page_parser(about: str, tiers: dict[str, Any]) -> argparse.ArgumentParser:
    """The same with a page, of scripts that need no data."""
    parser = tier_choice(about, tiers)
    parser.add_argument("--out", type=Path, help="Markdown page to write (default: print only)")
    return parser


def tier_parser(about: str, tiers: dict[str, Any]) -> argparse.ArgumentParser:
    """The same with the data."""
    parser = page_parser(about, tiers)
    parser.add_argument("--data", type=Path, help="folder with the .h5ad sets (not needed for --quick)")
    return parser


def tier_and_ledger(
    parser: argparse.ArgumentParser, tiers: dict[str, Any], name: str
) -> tuple[argparse.Namespace, Ledger]:
    """Arguments, and the ledger of the benchmark `name`, which begins anew where the tier is the quick one."""
    parser.add_argument("--ledger", type=Path, help=f"CSV of finished runs (default: benchmarks/out/{name}_TIER.csv)")
    args = parser.parse_args()
    if "data" in args and args.data is None and args.tier != "quick":
        sets = tiers[args.tier].sets
        parser.error("--data is needed: a folder with " + ", ".join(f"{one}.h5ad" for one in sets))
    path = args.ledger or Path(__file__).parent / "out" / f"{name}_{args.tier}.csv"
    if args.tier == "quick":
        path.unlink(missing_ok=True)
    return args, Ledger(path)


def cpu_seconds(call: Callable[[], object], repeats: int = 1) -> float:
    """Seconds of the processor that one call takes."""
    start = time.process_time()
    for _ in range(repeats):
        call()
    return (time.process_time() - start) / repeats


def one_quiet_thread() -> None:
    """Runs on one thread of torch, without warnings or progress."""
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    scvi.settings.verbosity = logging.ERROR
    torch.set_num_threads(1)


def run_jobs(run: Callable[[tuple], None], jobs: list[tuple], n_processes: int) -> None:
    """`run` of each job, in processes of their own if there are several."""
    if len(jobs) == 1 or n_processes == 1:
        for job in jobs:
            run(job)
    else:
        with multiprocessing.get_context("spawn").Pool(n_processes, maxtasksperchild=1) as pool:
            pool.map(run, jobs, chunksize=1)


def write_page(path: Path | None, title: str, script: str, about: str, tier: str, text: str) -> None:
    """Print the text and, if there is a `path`, write a page of it: what is measured, the command, and how.

    Parameters
    ----------
    about
        Docstring of the script: what is measured, the call, and how, with an empty line between.
    """
    print(text)
    if path is not None:
        what, call, how = about.split("\n\n", 2)
        command = f"python benchmarks/{script}.py {'--data DIR ' if '--data DIR' in call else ''}--{tier}"
        path.write_text(f"# {title}\n\n{what}\n\nPrinted by `{command}`.\n{how}\n{text.rstrip()}\n")
