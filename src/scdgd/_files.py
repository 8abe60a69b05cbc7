"""Files that are written whole or not at all."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_PART = ".part"


class WritingError(OSError):
    """A file could not be written; the former one is as it was."""


def part_of(path: Path) -> Path:
    """Name under which a file is written before it takes the place of `path`; suffixes stay, for some writers read them."""
    return path.with_name(f".{path.stem}.{os.getpid()}{_PART}{path.suffix}")


def parts_left(path: Path) -> list[Path]:
    """Parts of `path` that a process left which did not live to complete them."""
    return sorted(path.parent.glob(f".{path.stem}.*{_PART}{path.suffix}"))


@contextlib.contextmanager
def written_whole(path: str | os.PathLike, n_bytes: int | None = None) -> Iterator[Path]:
    """Write a file under another name, flush it to the disk, and rename it: a process that dies leaves the old one.

    Yields where to write. How large the file will be, `n_bytes`, is for the message where there is no space. OSError if it
    cannot be written; the message names the folder, and what is free there.
    """
    path = Path(path)
    part = part_of(path)
    with readable_errors(path, n_bytes):
        try:
            yield part
            flush(part)
            os.replace(part, path)
            flush_folder(path.parent)
        finally:
            part.unlink(missing_ok=True)


@contextlib.contextmanager
def readable_errors(path: Path, n_bytes: int | None = None) -> Iterator[None]:
    """Say of errors in writing which file it is, that the old one is as it was, and how much is free."""
    try:
        yield
    except (OSError, RuntimeError) as error:  # torch's and HDF5's writers raise the latter on a full disk
        if isinstance(error, RuntimeError) and not _is_of_writing(error):
            raise
        there = "; the former file is as it was" if path.exists() else ""
        msg = f"Writing {str(path)!r} failed ({_reason(error)}){there}. {space_in(path.parent, n_bytes)}"
        raise WritingError(msg) from error


def flush(path: Path) -> None:
    """Have the content of a file on the disk."""
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def flush_folder(path: Path) -> None:
    """Make new names last through a power cut, where folders can be flushed."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def space_in(folder: Path, n_bytes: int | None = None) -> str:
    """What is free in a folder, and what is missing there."""
    try:
        free = shutil.disk_usage(folder).free
    except OSError:
        return f"The folder {str(folder)!r} cannot be read."
    if n_bytes is None or n_bytes <= free:
        needed = "" if n_bytes is None else f" of the {n_bytes:,} needed"
        return f"The folder {str(folder)!r} has {free:,} bytes free{needed}."
    return (
        f"The folder {str(folder)!r} has {free:,} bytes free of the {n_bytes:,} needed: {n_bytes - free:,} are missing."
    )


def _is_of_writing(error: RuntimeError) -> bool:
    text = str(error).lower()
    return any(word in text for word in ("writ", "file", "disk", "space", "unable to", "iostream", "inline_container"))


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__
