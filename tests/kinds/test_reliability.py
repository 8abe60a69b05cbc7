"""Models on disk: saved whole or not at all, never read as another model."""

from __future__ import annotations

import os
import pickle
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import scdgd
from scdgd import _model_file
from scdgd._files import WritingError
from tests.conftest import simulate
from tests.model.test_contract import data

from .models import OURS, assert_same_state, built, covariates_of, every_model, state_of, train, trained

FORMER = Path(__file__).parents[1] / "model/saved_format_1"
#: What writing a model consists of.
STEPS = ((torch, "save"), (os, "fsync"), (os, "replace"))


@pytest.fixture
def full_disk():
    """A function that limits how large a file may become, as a full disk does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    yield lambda n_bytes: resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


def calls(monkeypatch, fails_at: int) -> list[str]:
    """Steps of writing from now on; that of number `fails_at` is the last: the process dies there."""
    made: list[str] = []

    def counted(name: str, step):
        def wrapped(*args, **kwargs):
            made.append(name)
            if len(made) > fails_at:
                raise KeyboardInterrupt
            return step(*args, **kwargs)

        return wrapped

    for owner, name in STEPS:
        monkeypatch.setattr(owner, name, counted(name, getattr(owner, name)))
    return made


@every_model
@pytest.mark.parametrize("with_data", [False, True], ids=["model", "with data"])
def test_saving_that_breaks_off_keeps_the_former_model(name, with_data, tmp_path):
    """Wherever it does."""
    model, _ = trained(name)
    former = state_of(model)
    folder = tmp_path / "model"
    model.save(folder, save_anndata=with_data)
    train(model, 1)
    number_of_steps = 0
    for fails_at in range(20):
        with pytest.MonkeyPatch.context() as monkeypatch:
            made = calls(monkeypatch, fails_at)
            try:
                model.save(folder, overwrite=True, save_anndata=with_data)
            except KeyboardInterrupt:
                pass
            else:
                number_of_steps = len(made)
                break
        adata = None if with_data else model.adata
        kept = state_of(type(model).load(folder, adata, accelerator="cpu"))
        if made[-1] == "fsync" and "replace" in made:  # after the last step that matters
            assert_same_state(kept, state_of(model))
            model.save(folder, overwrite=True, save_anndata=with_data)
        else:
            assert_same_state(kept, former)
    assert number_of_steps >= 4
    assert_same_state(state_of(type(model).load(folder, model.adata, accelerator="cpu")), state_of(model))
    assert not [file.name for file in folder.iterdir() if "part" in file.name or "former" in file.name]


@every_model
def test_a_full_disk_keeps_the_former_model(name, tmp_path, full_disk):
    model, _ = trained(name)
    folder = tmp_path / "model"
    model.save(folder, save_anndata=True)
    former = state_of(model)
    train(model, 1)
    full_disk(2_000)
    try:
        with pytest.raises(WritingError, match=r"the former file is as it was.*has [\d,]+ bytes free"):
            model.save(folder, overwrite=True)
    finally:
        full_disk(resource.RLIM_INFINITY)
    assert_same_state(state_of(type(model).load(folder, accelerator="cpu")), former)


FULL = """
import resource, signal, sys
sys.path.insert(0, {root!r})
from scdgd._files import WritingError
from tests.kinds.models import OURS, assert_same_state, state_of, trained
for name in OURS:
    model, _ = trained(name)
    model.save({folder!r} + name, save_anndata=True)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
for n_bytes in (2_000, 20_000):
    for name in OURS:
        model, _ = trained(name)
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, limit))
        try:
            model.save({folder!r} + name, overwrite=True, save_anndata=True)
        except WritingError as error:
            print(name, error, flush=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
        assert_same_state(state_of(OURS[name][0].load({folder!r} + name, accelerator="cpu")), state_of(model))
        print(name, "kept", flush=True)
"""


@pytest.mark.slow
def test_a_full_disk_keeps_the_former_data(tmp_path):
    """In a process of its own, because HDF5 may not survive its end with files that it could not write."""
    script = textwrap.dedent(FULL).format(root=str(Path(__file__).parents[2]), folder=str(tmp_path / "model"))
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=False)
    for name in OURS:
        assert done.stdout.count(f"{name} kept") == 2, done.stderr
    assert done.stdout.count("bytes free") == 2 * len(OURS)


@every_model
def test_files_of_tensors_run_no_code(name, tmp_path):
    """``weights_only`` reads what a model of this version is saved as."""
    model, _ = trained(name)
    model.save(tmp_path / "model")
    with torch.serialization.safe_globals(_model_file._NUMPY):
        content = torch.load(tmp_path / "model/model.pt", weights_only=True)
    assert set(content["model_state_dict"]) == set(state_of(model))


@every_model
def test_damaged_files_are_never_another_model(name, tmp_path):
    model, _ = trained(name)
    model.save(tmp_path / "model")
    path = tmp_path / "model/model.pt"
    whole, expected = path.read_bytes(), state_of(model)
    rng = np.random.default_rng(0)
    refused = 0
    for place in rng.integers(len(whole), size=25):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << int(rng.integers(8)))]) + whole[place + 1 :])
        refused += _refused_or_same(model, path.parent, expected)
    for length in (0, 1, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="damaged"):
            type(model).load(path.parent, model.adata, accelerator="cpu")
    assert refused >= 10  # the others changed bytes that say nothing


def _refused_or_same(model, folder: Path, expected: dict) -> bool:
    try:
        loaded = type(model).load(folder, model.adata, accelerator="cpu")
    except ValueError as error:
        assert "damaged" in str(error)  # noqa: PT017  either is right
        return True
    assert_same_state(state_of(loaded), expected)
    return False


@every_model
def test_changed_values_are_noticed(name, tmp_path):
    """Even in a file that is whole."""
    model, _ = trained(name)
    model.save(tmp_path / "model")
    path = tmp_path / "model/model.pt"
    content = torch.load(path, weights_only=False)
    key = next(key for key, value in content["model_state_dict"].items() if value.is_floating_point() and value.numel())
    content["model_state_dict"][key].view(-1)[0] += 1e-6
    torch.save(content, path)
    with pytest.raises(ValueError, match="damaged .its values are not those that were saved"):
        type(model).load(path.parent, model.adata, accelerator="cpu")


@every_model
def test_other_files_are_no_models(name, tmp_path):
    model_class, _ = OURS[name]
    folder = tmp_path / "model"
    with pytest.raises(ValueError, match="There is no folder"):
        model_class.load(folder)
    folder.mkdir()
    with pytest.raises(ValueError, match="There is no saved model"):
        model_class.load(folder)
    for content in (b"", b"text", pickle.dumps({"a": 1}), b"PK\x03\x04"):
        (folder / "model.pt").write_bytes(content)
        with pytest.raises(ValueError, match="is damaged|no saved model"):
            model_class.load(folder)
    (folder / "model.pt").unlink()
    (folder / f".model.123{scdgd._files._PART}.pt").write_bytes(b"half")
    with pytest.raises(ValueError, match="was interrupted before it was complete"):
        model_class.load(folder)


def test_data_of_another_save_are_not_taken_for_those_of_the_model(tmp_path):
    model, _ = trained("SCDGD")
    model.save(tmp_path / "model", save_anndata=True)
    model.adata[:20].copy().write_h5ad(tmp_path / "model/adata.h5ad")
    with pytest.raises(ValueError, match="are not those that were saved with the model"):
        type(model).load(tmp_path / "model")
    type(model).load(tmp_path / "model", model.adata)
    (tmp_path / "model/adata.h5ad").unlink()
    with pytest.raises(ValueError, match="are gone"):
        type(model).load(tmp_path / "model")


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", sorted(path.name for path in FORMER.iterdir()))
def test_models_of_the_first_format(name, tmp_path):
    """They give the values that they gave, train on, take queries, and are saved in the format of today."""
    adata = simulate(24, 6, n_batches=2)
    model_class = OURS[name][0]
    model = model_class.load(FORMER / name, adata, accelerator="cpu")
    latent = np.loadtxt(FORMER / name / "latent.csv", delimiter=",", ndmin=2)
    np.testing.assert_allclose(model.get_latent_representation(), latent, atol=5e-6)
    model.save(tmp_path / "again")
    again = model_class.load(tmp_path / "again", adata, accelerator="cpu")
    np.testing.assert_allclose(again.get_latent_representation(), latent, atol=5e-6)
    train(again, 1)
    assert again.get_latent_representation(simulate(8, 6, n_batches=2, seed=1)).shape == (8, latent.shape[1])


@every_model
def test_models_are_copied_and_pickled(name):
    model, new = trained(name)  # itself a deep copy
    other = pickle.loads(pickle.dumps(model))
    assert_same_state(state_of(model), state_of(other))
    np.testing.assert_array_equal(model.get_latent_representation(new), other.get_latent_representation(new))


WITH_CHECKPOINTS = ("SCDGD", "SCVAD")


@pytest.mark.parametrize("name", WITH_CHECKPOINTS)
def test_a_full_disk_ends_training_as_an_interruption_does(name, tmp_path, full_disk, caplog):
    adata, _ = data()
    model = built(name, adata, covariates_of(name))
    train(model, 3, checkpoint_dir=tmp_path / "checkpoints")
    before = {path.name for path in (tmp_path / "checkpoints").iterdir()}
    full_disk(2_000)
    try:
        train(model, 6, checkpoint_dir=tmp_path / "other")
    except WritingError as error:
        assert "bytes free" in str(error)  # noqa: PT017  before the first epoch nothing was lost
    finally:
        full_disk(resource.RLIM_INFINITY)
    assert model.is_trained
    assert np.isfinite(model.get_latent_representation()).all()
    assert "bytes free" in caplog.text
    assert {path.name for path in (tmp_path / "checkpoints").iterdir()} == before


SAVING = """
import sys
sys.path.insert(0, {root!r})
from tests.kinds.models import trained
model, _ = trained({name!r})
model.save({folder!r}, overwrite=True, save_anndata=True)
model.train(1, accelerator="cpu", enable_progress_bar=False)
print("ready", flush=True)
while True:
    model.save({folder!r}, overwrite=True, save_anndata=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["SCDGD", "SCGMVAE", "SCDBM"])
def test_killed_while_saving(name, tmp_path):
    """At eight random moments: the folder holds a model, with its data, always."""
    folder = tmp_path / "model"
    script = textwrap.dedent(SAVING).format(root=str(Path(__file__).parents[2]), name=name, folder=str(folder))
    rng = np.random.default_rng(0)
    for _ in range(8):
        with subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", script], stdout=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout.readline().strip() == "ready"
            time.sleep(rng.uniform(0, 0.3))
            process.kill()
        loaded = OURS[name][0].load(folder, accelerator="cpu")
        assert np.isfinite(loaded.get_latent_representation()).all()


@pytest.mark.slow
@every_model
def test_memory_does_not_grow_with_every_model(name):
    """Fewer than 0.3 MB a cycle of set-up, training and deletion, once caches are full."""
    used = []
    for _ in range(90):
        train(built(name, data()[0], {"batch_key": "batch"}))
        used.append(_memory())
    assert (np.median(used[-30:]) - np.median(used[30:60])) / 30 < 0.3


def _memory() -> float:
    """Resident megabytes of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
