"""Rows of finished runs, kept on disk so that an interrupted benchmark goes on, and tables made of them."""

from __future__ import annotations

import csv
from pathlib import Path

import pandas as pd
from filelock import FileLock


class Ledger:
    """A CSV file with one row for each finished (set, seed, method)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)

    def read(self) -> pd.DataFrame:
        return pd.read_csv(self.path) if self.path.exists() else pd.DataFrame(columns=["set", "seed", "method"])

    def has(self, **key) -> bool:
        rows = self.read()
        if rows.empty:
            return False
        mask = pd.Series(True, index=rows.index)
        for column, value in key.items():
            mask &= rows[column] == value
        return bool(mask.any())

    def add(self, row: dict) -> None:
        """Append a row; of several processes one writes at a time."""
        with FileLock(self.path.with_name(f".{self.path.name}.lock")):
            is_new = not self.path.exists()
            with self.path.open("a", newline="") as file:
                writer = csv.DictWriter(file, fieldnames=list(row))
                if is_new:
                    writer.writeheader()
                writer.writerow(row)


def mean_sd(values: pd.Series, digits: int) -> str:
    values = values.dropna()
    if len(values) == 0:
        return "–"
    spread = f" ± {values.std():.{digits}f}" if len(values) > 1 else ""
    return f"{values.mean():.{digits}f}{spread}"


def markdown(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
