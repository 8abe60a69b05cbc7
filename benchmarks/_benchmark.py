"""What benchmarks share: a grid of runs, the ledger of finished ones, processes, the command line and the page.

A script names its tiers, what cells a split has, what a run measures on them, and its tables::

    BENCHMARK = Benchmark("name", "Title", __doc__, TIERS, every(METHODS), run, report, cells)

    if __name__ == "__main__":
        BENCHMARK.main()
"""

from __future__ import annotations

import argparse
import importlib.metadata
import logging
import multiprocessing
import platform
import shlex
import subprocess
import sys
import time
import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import scvi
import torch
from _ledger import Job, Ledger

import scdgd

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import pandas as pd
    from matplotlib.figure import Figure

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "benchmarks" / "out"
PACKAGES = ("torch", "scvi-tools", "scdgd")


def every(methods: Iterable[str]) -> Callable[[Any], list[Job]]:
    """Grid of all methods on each seed and set of a tier, ``tier.seeds`` and ``tier.sets``; their order rotates with the seed."""
    methods = [str(method) for method in methods]

    def grid(tier: Any) -> list[Job]:
        splits = [(name, seed) for seed in range(tier.seeds) for name in tier.sets]
        return [Job(name, seed, method) for name, seed in splits for method in rotated(methods, seed)]

    return grid


def rotated(methods: Iterable[str], seed: int) -> list[str]:
    """`methods` from the one at `seed` on, so that none always runs first."""
    return [str(method) for method in np.roll(list(methods), seed)]


def nothing(name: str, seed: int, tier: Any, data: Path | None) -> None:
    """Cells of benchmarks whose runs have nothing in common."""


def no_figures(rows: pd.DataFrame, tier: Any) -> dict[str, tuple[str, Figure]]:
    """Figures of benchmarks that draw none."""
    return {}


@dataclass(frozen=True)
class Benchmark:
    """A grid of runs and its page.

    Parameters
    ----------
    name
        Of the script and of its ledger, *benchmarks/out/NAME_TIER.jsonl*.
    title
        Of the page.
    about
        Docstring of the script: what is measured, the call, and how, with an empty line between. Data are asked for if the call
        has ``--data DIR``.
    tiers
        Sizes by the name of the tier; one is ``"quick"``.
    grid
        Runs of a tier, in the order of tables; see :func:`every`.
    run
        ``run(cells, job, tier)`` yields one row, or several, with scores by column. Columns ``set``, ``seed``, ``method`` are those
        of the job where a row has none. torch, numpy and scvi-tools have the seed of the job.
    report
        ``report(rows, tier)``: tables of the finished runs.
    cells
        ``cells(name, seed, tier, data)``: what the runs of a split share. They must not change it.
    figures
        ``figures(rows, tier)``: captions and figures by the name of their file, drawn for a page, at its end.
    n_jobs
        Processes, if ``--jobs`` names no other number.
    """

    name: str
    title: str
    about: str
    tiers: dict[str, Any]
    grid: Callable[[Any], list[Job]]
    run: Callable[[Any, Job, Any], Iterable[dict]]
    report: Callable[[pd.DataFrame, Any], str]
    cells: Callable[[str, int, Any, Path | None], Any] = nothing
    figures: Callable[[pd.DataFrame, Any], dict[str, tuple[str, Figure]]] = no_figures
    n_jobs: int = 1

    def main(self) -> None:
        """Do what the command line asks for; exit with 1 if a run fails, after all others."""
        asked = self._asked()
        tier = self.tiers[asked.tier]
        ledger = Ledger(asked.ledger or OUT / f"{self.name}_{asked.tier}.jsonl")
        ledger.begin(anew=asked.tier == "quick")
        jobs = [job for job in self.grid(tier) if asked.methods is None or job.method in asked.methods]
        todo: dict[tuple[str, int], list[Job]] = {}
        for job in ledger.unfinished(jobs):
            todo.setdefault((job.set, job.seed), []).append(job)
        work = [(self.cells, self.run, split, tier, asked.data, ledger) for split in todo.values()]
        failures = sum(in_processes(run_split, work, 1 if asked.tier == "quick" else asked.jobs), [])
        if failures:
            sys.exit("Failed, and tried again by the same command: " + "; ".join(failures))
        rows = ledger.rows_of(jobs)
        self._write(asked, rows, tier)

    def _asked(self) -> argparse.Namespace:
        parser = tier_parser(self.about, self.tiers)
        if self._needs_data:
            parser.add_argument("--data", type=Path, help="folder with the sets (not needed for --quick)")
        else:
            parser.set_defaults(data=None)
        parser.add_argument("--out", type=Path, help="Markdown page to write (default: print only)")
        parser.add_argument(
            "--ledger", type=Path, help=f"finished runs (default: benchmarks/out/{self.name}_TIER.jsonl)"
        )
        parser.add_argument("--jobs", type=int, default=self.n_jobs, help="processes, one thread each")
        parser.add_argument("--methods", nargs="+", metavar="NAME", help="run and print these only")
        asked = parser.parse_args()
        jobs = self.grid(self.tiers[asked.tier])
        if self._needs_data and asked.data is None and asked.tier != "quick":
            parser.error("--data is needed: a folder with " + ", ".join(dict.fromkeys(job.set for job in jobs)))
        known = list(dict.fromkeys(job.method for job in jobs))
        if unknown := [method for method in asked.methods or [] if method not in known]:
            parser.error(f"no method {', '.join(unknown)}; there are {', '.join(known)}")
        return asked

    @property
    def _needs_data(self) -> bool:
        return "--data DIR" in self.about.split("\n\n")[1]

    def _write(self, asked: argparse.Namespace, rows: pd.DataFrame, tier: Any) -> None:
        """Print the text, and write the page and its figures."""
        (what, _, how), text = self.about.split("\n\n", 2), self.report(rows, tier)
        data = "--data DIR " if self._needs_data and asked.tier != "quick" else ""
        some = f" --methods {shlex.join(asked.methods)}" if asked.methods else ""
        command = f"python benchmarks/{self.name}.py {data}--{asked.tier}{some}"
        made = f"Printed by `{command}`; {made_with(rows)}."
        print(f"{text.rstrip()}\n\n{made}")
        if asked.out is not None:
            folder = asked.out.parent / "_static"
            folder.mkdir(parents=True, exist_ok=True)
            for file, (caption, figure) in self.figures(rows, tier).items():
                figure.savefig(folder / f"{file}.png", dpi=90)
                text += f"\n\n![{caption}](_static/{file}.png)"
            asked.out.write_text(f"# {self.title}\n\n{what}\n\n{made}\n{how.strip()}\n\n{text.strip()}\n")


def tier_parser(about: str, tiers: Iterable[str]) -> argparse.ArgumentParser:
    """Parser with one option for each tier, of which the quick one is the default."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    choice = parser.add_mutually_exclusive_group()
    for name in tiers:
        choice.add_argument(f"--{name}", dest="tier", action="store_const", const=name)
    parser.set_defaults(tier="quick")
    return parser


def run_split(
    cells: Callable, run: Callable, jobs: list[Job], tier: Any, data: Path | None, ledger: Ledger
) -> list[str]:
    """All runs of one set and seed, and what failed."""
    one_quiet_thread()
    try:
        shared = cells(jobs[0].set, jobs[0].seed, tier, data)
    except Exception:  # noqa: BLE001  other splits go on
        traceback.print_exc()
        return [f"cells of {jobs[0].set} seed {jobs[0].seed}"]
    failures, record = [], {"commit": commit(), "versions": versions()}
    for job in jobs:
        scvi.settings.seed, start = job.seed, time.perf_counter()
        try:
            rows = list(run(shared, job, tier))
            ledger.add(job, record, rows)
        except Exception:  # noqa: BLE001  other runs go on
            traceback.print_exc()
            failures.append(" ".join(map(str, ("run", *job))))
            continue
        numbers = [
            f"{name} {x:.4g}" for row in rows[:1] for name, x in row.items() if isinstance(x, float) and np.isfinite(x)
        ]
        seconds = time.perf_counter() - start
        print(f"{job.set} seed {job.seed} {job.method}: {', '.join(numbers[:6])} ({seconds:.0f} s)", flush=True)
    return failures


def in_processes(function: Callable, calls: list[tuple], n_processes: int) -> list:
    """Results of `function` with each of the arguments, in processes of their own if there are several."""
    if len(calls) < 2 or n_processes == 1:
        return [function(*arguments) for arguments in calls]
    with multiprocessing.get_context("spawn").Pool(n_processes, maxtasksperchild=1) as pool:
        return pool.starmap(function, calls, chunksize=1)


def alone(function: Callable, *arguments: Any) -> Any:
    """`function` in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(function, arguments)


# ---------------------------------------------------------------- environment


def commit() -> str:
    """Short commit of this tree, with ``+`` where package or benchmarks differ from it."""
    try:
        head, changes = (
            subprocess.run(["git", *command], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
            for command in (["rev-parse", "--short", "HEAD"], ["status", "--porcelain", "--", "src", "benchmarks"])
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    is_here = Path(scdgd.__file__).resolve().is_relative_to(ROOT / "src")
    return head + ("+" if changes else "") + ("" if is_here else " (package from elsewhere)")


def versions() -> str:
    """Of Python and of the packages that results depend on most."""
    of_packages = (f"{name} {importlib.metadata.version(name)}" for name in PACKAGES)
    return ", ".join([f"Python {platform.python_version()}", *of_packages])


def made_with(rows: pd.DataFrame) -> str:
    """Versions and commits of the runs behind a page."""
    environments = list(dict.fromkeys(rows["versions"])) or [versions()]
    commits = list(dict.fromkeys(rows["commit"])) or [commit()]
    return f"{'; '.join(environments)}; commit{'s'[: len(commits) - 1]} {', '.join(commits)}"


def one_quiet_thread() -> None:
    """Runs on one thread of torch, without warnings or progress."""
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)
    scvi.settings.verbosity = logging.ERROR
    torch.set_num_threads(1)


# ---------------------------------------------------------------- time


def cpu_seconds(call: Callable[[], object], repeats: int = 1) -> float:
    """Seconds of the processor that one call takes."""
    start = time.process_time()
    for _ in range(repeats):
        call()
    return (time.process_time() - start) / repeats


def timed(call: Callable[[], Any], clock: Callable[[], float] = time.process_time) -> tuple[Any, float]:
    """What a call returns, and the seconds that it takes, of the processor or by another clock."""
    start = clock()
    result = call()
    return result, clock() - start


def in_turns(calls: dict[Any, Callable[[], object]], rounds: int) -> dict[Any, np.ndarray]:
    """CPU seconds of each call in each round, in which calls take turns; one more round, the first, does not count."""
    seconds = [[cpu_seconds(call) for call in calls.values()] for _ in range(rounds + 1)]
    return dict(zip(calls, np.array(seconds[1:]).T, strict=True))
