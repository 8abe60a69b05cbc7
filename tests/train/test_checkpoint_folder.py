"""Files that are written whole or not at all."""

from __future__ import annotations

import os

import pandas as pd
import pytest
import torch

from scdgd.train import CheckpointFolder, fingerprint, pack_history, unpack_history


def test_the_newest_two_are_kept_and_the_newest_is_read(tmp_path):
    folder = CheckpointFolder(tmp_path / "a" / "b")
    assert folder.read_newest() is None
    (folder.path / "notes.txt").touch()
    (folder.path / ".epoch_000009.77.part.ckpt").touch()  # of a process that died
    for epoch in (8, 9, 10):
        folder.write(epoch, {"epoch": epoch, "table": torch.full((3, 2), float(epoch))})
    assert sorted(path.name for path in folder.path.iterdir()) == [
        "epoch_000009.ckpt",
        "epoch_000010.ckpt",
        "notes.txt",
    ]
    state = folder.read_newest()
    assert state["epoch"] == 10
    assert torch.equal(state["table"], torch.full((3, 2), 10.0))


def test_epochs_are_numbers_not_words(tmp_path):
    folder = CheckpointFolder(tmp_path)
    for epoch in (999_999, 1_000_000):
        folder.write(epoch, {"epoch": epoch})
    assert folder.read_newest()["epoch"] == 1_000_000


@pytest.mark.parametrize("where", [0, 30, 500, -1])
def test_one_wrong_byte_is_found(tmp_path, where):
    folder = CheckpointFolder(tmp_path)
    path = folder.write(1, {"table": torch.zeros(100, 10)})
    content = bytearray(path.read_bytes())
    content[where] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"epoch_000001\.ckpt.*damaged.*start from the beginning"):
        folder.read_newest()


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    folder = CheckpointFolder(tmp_path)
    folder.write(1, {"epoch": 1})

    def fail(*args):
        raise OSError

    monkeypatch.setattr(os, "replace", fail)
    for epoch in (1, 2):
        with pytest.raises(OSError):  # noqa: PT011
            folder.write(epoch, {"epoch": 2})
    assert folder.read_newest() == {"epoch": 1}


def test_a_file_cannot_run_code(tmp_path):
    folder = CheckpointFolder(tmp_path)
    folder.write(1, {"state": CheckpointFolder})
    with pytest.raises(Exception, match="weights_only"):
        folder.read_newest()


def test_history_survives(tmp_path):
    index = pd.Index([0, 1, 2], name="epoch")
    history = {
        "object": pd.DataFrame({"object": pd.Series([1.5, 2.0, 0.1], dtype=object)}).set_index(index),
        "float": pd.DataFrame({"float": [0.1, 0.2, float("nan")]}, index=index),
    }
    folder = CheckpointFolder(tmp_path)
    folder.write(1, pack_history(history))
    read = unpack_history(folder.read_newest())
    for key, frame in history.items():
        pd.testing.assert_frame_equal(read[key], frame)
    assert unpack_history(pack_history(None)) == {}


def test_fingerprints_tell_order_shape_and_values_apart():
    arrays = [["a", "b"], ["b", "a"], ["ab"], [1.0, 2.0], [2.0, 1.0], [[1.0, 2.0]]]
    assert len({fingerprint(array) for array in arrays}) == len(arrays)
    assert fingerprint(["a", "b"], [1.0]) == fingerprint(pd.Index(["a", "b"]), [1.0])
