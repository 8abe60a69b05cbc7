"""Rows of finished runs, kept on disk so that an interrupted benchmark goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from filelock import FileLock

if TYPE_CHECKING:
    from collections.abc import Iterable

#: What every row has: which run it is of, its name, and what made it.
COLUMNS = ("set", "seed", "run", "method", "commit", "versions")


class Job(NamedTuple):
    """One run: a method on a split of a set."""

    set: str
    seed: int
    method: str


class Ledger:
    """A file with a line of JSON for each finished run: its set, seed and method, what made it, and its rows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def begin(self, *, anew: bool) -> None:
        """Go on with the file, or begin anew, also where an older form of benchmarks wrote it; that file is kept."""
        if anew:
            self.path.unlink(missing_ok=True)
            return
        older = self.path.with_suffix(".csv")
        if self.path.exists():
            text = self.path.read_text()
            self.path.write_text(text[: text.rfind("\n") + 1])  # without a line whose writing was interrupted
            try:
                self._runs()
            except (ValueError, KeyError, TypeError):
                older = self.path.replace(self.path.with_name(f"{self.path.name}.old"))
        if older.exists() and not self.path.exists():
            print(f"{older} is of an older form, which does not say what made its runs: kept, but begun anew.")

    def _runs(self) -> dict[Job, dict[str, Any]]:
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        return {Job(run["set"], run["seed"], run["method"]): run for run in map(json.loads, lines)}

    def add(self, job: Job, record: dict[str, str], rows: list[dict]) -> None:
        """Append a run; of several processes one writes at a time."""
        line = json.dumps({**job._asdict(), **record, "rows": rows}, default=_plain)
        with FileLock(self.path.with_name(f".{self.path.name}.lock")), self.path.open("a") as file:
            file.write(f"{line}\n")

    def unfinished(self, jobs: Iterable[Job]) -> list[Job]:
        done = self._runs()
        return [job for job in jobs if job not in done]

    def rows_of(self, jobs: Iterable[Job]) -> pd.DataFrame:
        """Rows of these runs, by seed and in their order, with :data:`COLUMNS` first."""
        runs, rows = self._runs(), []
        for job in sorted(jobs, key=lambda job: job.seed):
            run = runs[job]
            of_run = job._asdict() | {"run": job.method, "commit": run["commit"], "versions": run["versions"]}
            rows += [of_run | {c: np.nan if x is None else x for c, x in row.items()} for row in run["rows"]]
        return pd.DataFrame(rows, columns=list(dict.fromkeys([*COLUMNS, *(column for row in rows for column in row)])))


def _plain(value: Any) -> Any:
    """Numbers of NumPy as those of Python."""
    if isinstance(value, np.generic):
        return value.item()
    msg = f"A row of a benchmark has numbers and texts, got {type(value).__name__}."
    raise TypeError(msg)
