"""Files that hold the state of a training: written whole or not at all."""

from __future__ import annotations

import hashlib
import io
import os
import re
from pathlib import Path

import torch

from scdgd._files import parts_left, written_whole

_MAGIC = b"scdgd training checkpoint\n"
_KEPT = 2
_NAME = re.compile(r"epoch_(\d+)\.ckpt")


class CheckpointFolder:
    """Folder of the newest two checkpoints of one training.

    A file is written under another name, flushed to the disk and then renamed, so a process that dies leaves the old
    files as they were. Each begins with the SHA-256 of its content. Content is read with ``weights_only=True``, so a
    file cannot run code.

    Parameters
    ----------
    path
        The folder; it is made if it does not exist.

    Raises
    ------
    ValueError
        If `path` is a file.
    """

    def __init__(self, path: str | os.PathLike) -> None:
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            msg = f"`checkpoint_dir` must be a folder, but {str(self.path)!r} is a file."
            raise ValueError(msg)
        self.path.mkdir(parents=True, exist_ok=True)

    def files(self) -> list[Path]:
        """Checkpoints, oldest first."""
        found = [(int(match[1]), path) for path in self.path.iterdir() if (match := _NAME.fullmatch(path.name))]
        return [path for _, path in sorted(found)]

    def write(self, epoch: int, state: dict) -> Path:
        """Write the state at the end of `epoch`, and remove all but the newest two files.

        Raises
        ------
        OSError
            If it cannot be written; older files are as they were.
        """
        buffer = io.BytesIO()
        torch.save(state, buffer)
        content = buffer.getbuffer()
        path = self.path / f"epoch_{epoch:06d}.ckpt"
        start = _MAGIC + hashlib.sha256(content).digest()
        with written_whole(path, len(start) + len(content)) as part, part.open("wb") as file:
            file.write(start)
            file.write(content)
        for old in [*self.files()[:-_KEPT], *parts_left(self.path / "epoch_*.ckpt")]:
            old.unlink(missing_ok=True)
        return path

    def read_newest(self) -> dict | None:
        """State of the newest file; ``None`` if there is no file.

        Raises
        ------
        ValueError
            If that file is damaged.
        """
        files = self.files()
        return _read(files[-1], files[:-1]) if files else None


def _read(path: Path, older: list[Path]) -> dict:
    content = path.read_bytes()
    start = len(_MAGIC) + hashlib.sha256().digest_size
    if content[:start] != _MAGIC + hashlib.sha256(content[start:]).digest():
        remedy = f"go on from {older[-1].name}" if older else "start from the beginning"
        msg = f"The checkpoint {str(path)!r} is damaged. Delete it to {remedy}."
        raise ValueError(msg)
    return torch.load(io.BytesIO(content[start:]), map_location="cpu", weights_only=True)
