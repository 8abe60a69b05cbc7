"""Representations written block by block: the same as those of one call, whoever dies, whatever is there already."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pytest
import zarr

import scdgd
from scdgd._files import WritingError
from scdgd.data import read_backed
from scdgd.tl import _write_latent, join_latent, write_latent
from tests.conftest import make_model, simulate, train, write_store
from tests.kinds.models import every_model_slowly, trained


def query(n_cells: int = 50) -> ad.AnnData:
    new = simulate(n_cells, n_batches=2, seed=1)
    new.obs_names = [f"new_{name}" for name in new.obs_names]
    return new


@pytest.fixture
def adata() -> ad.AnnData:
    return simulate(60, n_batches=2)


@pytest.fixture
def reference(adata):
    return train(make_model(adata, setup={"batch_key": "batch"}), 3)


class Killed(BaseException):
    """What no handler of errors sees."""


def killed_after(monkeypatch, n_blocks: int):
    """Let the next call die when it has written some blocks."""
    left = iter(range(n_blocks))
    original = _write_latent.LatentStore.write

    def write(self, *args):
        if next(left, None) is None:
            raise Killed
        original(self, *args)

    monkeypatch.setattr(_write_latent.LatentStore, "write", write)


@every_model_slowly
def test_a_store_holds_what_one_call_gives(name, tmp_path):
    model, new = trained(name)
    path = write_latent(model, tmp_path / "z.zarr", new, block_cells=5)
    written, key = ad.read_zarr(path), scdgd.tl._of_models.latent_key(model)
    z = model.get_latent_representation(new)
    np.testing.assert_allclose(written.obsm[key], z, rtol=1e-5, atol=1e-5)
    assert written.obs_names.equals(new.obs_names)
    clusters = f"{key.removeprefix('X_')}_cluster"
    if clusters in written.obs:
        np.testing.assert_array_equal(written.obs[clusters], model.get_cluster_assignments(new))


def test_cells_of_the_model_and_nothing_is_remembered_of_others(reference, tmp_path):
    n_rows = len(reference.module.representations.placed_later)
    written = ad.read_zarr(write_latent(reference, tmp_path / "own.zarr", block_cells=64))
    np.testing.assert_array_equal(written.obsm["X_scdgd"], reference.get_latent_representation())
    write_latent(reference, tmp_path / "new.zarr", query(), block_cells=20)
    assert len(reference.module.representations.placed_later) == n_rows
    some = query(5)
    first = reference.get_latent_representation(some)
    write_latent(reference, tmp_path / "more.zarr", query(9), block_cells=4)
    np.testing.assert_array_equal(reference.get_latent_representation(some), first)


def test_the_same_call_goes_on_where_one_was_killed(reference, tmp_path, monkeypatch):
    store = write_store(query(), tmp_path / "cells.zarr")
    expected = reference.get_latent_representation(query())
    with monkeypatch.context() as patch:
        killed_after(patch, 2)
        with pytest.raises(Killed):
            write_latent(reference, tmp_path / "z.zarr", read_backed(store), block_cells=20)
    half = ad.read_zarr(tmp_path / "z.zarr")
    assert not half.obsm["X_scdgd"][40:].any()
    read = []
    original = type(reference).get_latent_representation
    monkeypatch.setattr(
        type(reference), "get_latent_representation", lambda self, *a, **k: (read.append(a), original(self, *a, **k))[1]
    )
    write_latent(reference, tmp_path / "z.zarr", read_backed(store), block_cells=7)  # blocks are those of the store
    assert len(read) == 1
    np.testing.assert_allclose(ad.read_zarr(tmp_path / "z.zarr").obsm["X_scdgd"], expected, rtol=1e-5, atol=1e-5)
    write_latent(reference, tmp_path / "z.zarr", read_backed(store))
    assert len(read) == 1


def test_a_store_that_was_being_made_is_made_anew(reference, tmp_path, monkeypatch):
    def half(path, *args, **options):
        path.mkdir()
        (path / "obs").mkdir()
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(_write_latent.LatentStore, "make", half)
        with pytest.raises(Killed):
            write_latent(reference, tmp_path / "z.zarr", query(6))
    assert not list(tmp_path.glob("*z*"))
    write_latent(reference, tmp_path / "z.zarr", query(6))


def test_shards_know_nothing_of_each_other_and_are_joined(reference, tmp_path):
    new = query(50)
    for number in (3, 1, 2):
        path = write_latent(reference, tmp_path / "z.zarr", new, shard=(number, 3), block_cells=7)
        assert path.name == f"z.shard-{number}-of-3.zarr"
    joined = ad.read_zarr(join_latent(tmp_path / "z.zarr"))
    assert joined.obs_names.equals(new.obs_names)
    np.testing.assert_allclose(joined.obsm["X_scdgd"], reference.get_latent_representation(new), rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(joined.obs["scdgd_cluster"], reference.get_cluster_assignments(new))
    with pytest.raises(ValueError, match="already"):
        join_latent(tmp_path / "z.zarr")


def test_shards_that_do_not_make_a_whole_are_named(reference, adata, tmp_path, monkeypatch):
    path, new = tmp_path / "z.zarr", query(20)
    with pytest.raises(FileNotFoundError, match="0 of any shards"):
        join_latent(path)
    write_latent(reference, path, new, shard=(1, 2), block_cells=5)
    with pytest.raises(FileNotFoundError, match="1 of 2 shards .*z.shard-2-of-2.zarr missing"):
        join_latent(path)
    with monkeypatch.context() as patch:
        killed_after(patch, 1)
        with pytest.raises(Killed):
            write_latent(reference, path, new, shard=(2, 2), block_cells=5)
    with pytest.raises(ValueError, match=r"1 of 2 shards are not complete: .*2-of-2.zarr \(1 blocks missing\)"):
        join_latent(path)
    other = train(make_model(adata, setup={"batch_key": "batch"}), 1)
    with pytest.raises(ValueError, match="of other models"):
        write_latent(other, path, new, shard=(2, 2))
    (tmp_path / "elsewhere").mkdir()
    write_latent(other, tmp_path / "elsewhere" / "z.zarr", new, shard=(2, 2))
    store = zarr.open_group(str(tmp_path / "z.shard-2-of-2.zarr"))
    store["uns/latent/written"][:] = 1
    identity = dict(store["uns/latent"].attrs["identity"])
    store["uns/latent"].attrs["identity"] = identity | {"models": "another"}
    with pytest.raises(ValueError, match="of other models"):
        join_latent(path)
    write_latent(reference, path, new, shard=(1, 3))
    with pytest.raises(ValueError, match=r"shards of several runs, in \[2, 3\] parts"):
        join_latent(path)


def test_other_cells_than_those_of_the_store_are_refused(reference, tmp_path):
    new, path = query(20), tmp_path / "z.zarr"
    write_latent(reference, path, new)
    with pytest.raises(ValueError, match="other cells. Remove it"):
        write_latent(reference, path, new[::-1].copy())
    changed = new.copy()
    changed.X = changed.X * 2
    with pytest.raises(ValueError, match="other cells"):
        write_latent(reference, path, changed)
    with pytest.raises(ValueError, match="other genes"):
        write_latent(reference, path, new[:, ::-1].copy())


def test_what_is_refused_in_words(reference, tmp_path):
    new, path = query(4), tmp_path / "z.zarr"
    with pytest.raises(ValueError, match="no part 3 of 2"):
        write_latent(reference, path, new, shard=(3, 2))
    with pytest.raises(ValueError, match="Part 1 of 9 has none of the 4 cells"):
        write_latent(reference, path, new, shard=(1, 9))
    (tmp_path / "text.zarr").mkdir()
    with pytest.raises(ValueError, match="no store of representations"):
        write_latent(reference, tmp_path / "text.zarr", new)
    new.obs["batch"] = "unseen"
    with pytest.raises(
        ValueError, match=r"1 levels of adata.obs\['batch'\] are unknown to the model \(first: unseen\)"
    ):
        write_latent(reference, path, new)
    with pytest.raises(RuntimeError, match="not trained"):
        write_latent(make_model(simulate(20)), path)
    assert not path.exists()


def test_new_batches_that_were_found_before_are_written(adata, tmp_path):
    model = make_model(adata, setup={"batch_key": "batch"}, batch_representation="embedding")
    train(model)
    new = query(30)
    new.obs["batch"] = "unseen"
    model.get_latent_representation(new[:20].copy())
    written = ad.read_zarr(write_latent(model, tmp_path / "z.zarr", new, block_cells=8))
    np.testing.assert_allclose(written.obsm["X_scdgd"], model.get_latent_representation(new), rtol=1e-4, atol=1e-4)


def test_no_space_is_said_and_blocks_stay(reference, tmp_path, monkeypatch):
    path, original = tmp_path / "z.zarr", zarr.Array.__setitem__
    left = iter(range(2 * 3))

    def write(self, *args):
        if self.path.startswith(("obsm", "obs/scdgd", "uns")) and next(left, None) is None:
            raise OSError(28, "No space left on device")
        original(self, *args)

    write_latent(reference, tmp_path / "whole.zarr", query(20), block_cells=5)
    store = _write_latent.LatentStore
    with monkeypatch.context() as patch:
        killed_after(patch, 0)
        with pytest.raises(Killed):
            write_latent(reference, path, query(20), block_cells=5)
    with monkeypatch.context() as patch:
        patch.setattr(zarr.Array, "__setitem__", write)
        with pytest.raises(
            WritingError, match=r"No space left on device\). Blocks that are written stay, .*bytes free"
        ):
            write_latent(reference, path, query(20), block_cells=5)
    assert len(store(path).missing) == 2
    write_latent(reference, path, query(20), block_cells=5)
    both = [ad.read_zarr(p).obsm["X_scdgd"] for p in (path, tmp_path / "whole.zarr")]
    np.testing.assert_array_equal(*both)
