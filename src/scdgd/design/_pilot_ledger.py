"""Rows of finished fits on disk, so that a study that was killed goes on where it stopped."""

from __future__ import annotations

import contextlib
import json
import os
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from filelock import FileLock, Timeout

from scdgd._files import readable_errors, written_whole

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: Columns of results; ledgers have the reason of a failure besides.
COLUMNS = ["model", "mode", "n_pilot", "repeat", "metric", "value"]
MESSAGE = "message"
#: Last metric of each mode of a fit: 1 if it failed, else 0.
FAILED = "failed"
_START = "# scdgd pilot study "


class PilotLedger:
    """A CSV file with a first line that says which study it is of.

    Rows of a fit are appended by one write, and flushed to disk. Where the process was killed within it, the rest of a
    line and rows of a fit that is not whole are dropped at the next start. One process at a time may write, which
    :meth:`written_alone` sees to.

    Parameters
    ----------
    path
        The file; folders are made.
    settings
        What the results of a study depend on, but for its models.

    Raises
    ------
    ValueError
        If the file is of another study, or no ledger.
    """

    def __init__(self, path: str | Path, settings: Mapping[str, Any]) -> None:
        self.path, self.settings = Path(path), json.loads(json.dumps(settings))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.path.is_dir():
            msg = f"`ledger` must be a file, but {self.path} is a folder."
            raise ValueError(msg)

    @contextlib.contextmanager
    def written_alone(self) -> Iterator[None]:
        """No other study writes to the file meanwhile, on this machine or where the file system locks for others.

        RuntimeError if one does. The lock ends with the process that has it, however it ends.
        """
        lock = FileLock(self.path.with_name(f".{self.path.name}.lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            msg = (
                f"Another study writes to the ledger {self.path} just now. Wait until it has ended, and call `run` again to go on "
                "with what it has done; or choose another path."
            )
            raise RuntimeError(msg) from None
        try:
            yield
        finally:
            lock.release()

    def open(self, modes: Mapping[str, tuple[str, ...]]) -> pd.DataFrame:
        """Rows of whole fits, which have rows of all `modes` of their model; the file holds nothing else afterwards.

        Rows of models without modes stay as they are.
        """
        rows = self._read()
        kept = rows[is_whole(rows, modes)]
        if len(kept) < len(rows) or not self._ends_well():
            self._replace(kept)
        return kept

    def append(self, rows: pd.DataFrame) -> None:
        """Add the rows of a fit.

        OSError if they cannot be written: what was there is left, and half a line of them is dropped at the next start.
        """
        lines = rows.to_csv(index=False, header=False, lineterminator="\n").encode()
        with readable_errors(self.path, len(lines)), self.path.open("ab", buffering=0) as file:
            if file.write(lines) < len(lines):
                msg = "not all was written"
                raise OSError(msg)
            os.fsync(file.fileno())

    def _read(self) -> pd.DataFrame:
        empty = pd.DataFrame(columns=[*COLUMNS, MESSAGE])
        if not self.path.exists():
            return empty
        text = self.path.read_bytes().decode(errors="replace")
        whole = text[: text.rfind("\n") + 1]
        if not text:
            return empty
        first, _, table = whole.partition("\n")
        if not first.startswith(_START):
            msg = f"{self.path} is not a ledger of a pilot study: its first line is {text[:60]!r}. Choose another path."
            raise ValueError(msg)
        self._check(json.loads(first.removeprefix(_START)))
        types = {"model": str, "mode": str, "metric": str, MESSAGE: str}
        exact = {"value": lambda text: float(text or "nan")}  # the default of older pandas rounds
        return pd.read_csv(StringIO(table), dtype=types, keep_default_na=False, converters=exact)

    def _check(self, found: dict[str, Any]) -> None:
        differences = [
            f"`{name}` {found.get(name)!r} there and {value!r} here"
            for name, value in self.settings.items()
            if found.get(name) != value
        ]
        if differences:
            msg = (
                f"The ledger {self.path} is of another study: {'; '.join(differences)}. Choose another path, or pass the "
                "data and settings that it was begun with."
            )
            raise ValueError(msg)

    def _ends_well(self) -> bool:
        return self.path.exists() and self.path.read_bytes().endswith(b"\n")

    def _replace(self, rows: pd.DataFrame) -> None:
        """Write the file anew, at once."""
        table = rows.reindex(columns=[*COLUMNS, MESSAGE]).to_csv(index=False, lineterminator="\n")
        with written_whole(self.path) as part:
            part.write_bytes(f"{_START}{json.dumps(self.settings)}\n{table}".encode())


def is_whole(rows: pd.DataFrame, modes: Mapping[str, tuple[str, ...]]) -> pd.Series:
    """Which rows belong to fits with results of all modes of their model, shape ``(rows,)``.

    Models that `modes` does not name are judged by the last row of each mode that has rows.
    """
    if rows.empty:
        return pd.Series(False, index=rows.index)
    fits = rows.groupby(["model", "n_pilot", "repeat"], sort=False)
    ended = rows["mode"].where(rows["metric"] == FAILED)
    n_ended = ended.groupby([rows["model"], rows["n_pilot"], rows["repeat"]]).transform("nunique")
    n_begun = fits["mode"].transform("nunique")
    n_wanted = rows["model"].map({name: len(of_model) for name, of_model in modes.items()})
    return n_ended >= n_wanted.fillna(n_begun)
