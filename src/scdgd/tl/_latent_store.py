"""Representations of many cells in a Zarr store, written block by block."""

from __future__ import annotations

import contextlib
import os
import shutil
from typing import TYPE_CHECKING, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd

from scdgd._files import WritingError, flush_folder, part_of, space_in
from scdgd.data import zarr_module

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

#: Where a store says what it holds, and which blocks are written.
_ABOUT = "uns/latent"
_WRITTEN = f"{_ABOUT}/written"


class Shard(NamedTuple):
    """A part of all cells: the `number`-th of `n`, from 1."""

    number: int
    n: int

    def bounds(self, n_cells: int) -> tuple[int, int]:
        """First of its cells, and first of the next one's."""
        return n_cells * (self.number - 1) // self.n, n_cells * self.number // self.n

    def path(self, whole: Path) -> Path:
        """Where it is written, if all are to be joined at `whole`."""
        return whole.with_name(f"{whole.stem}.shard-{self.number}-of-{self.n}{whole.suffix}")


class LatentStore:
    """An AnnData in a Zarr store: names of cells, representations, clusters; a block of cells is a chunk of each array.

    A block is marked when it is written, after its values. A process that dies leaves blocks that are complete, and the next
    one writes the others.

    Parameters
    ----------
    path
        The store.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._group = zarr_module(path).open_group(str(path), mode="r+")
            about = self._group[_ABOUT].attrs
        except (KeyError, FileNotFoundError, ValueError) as error:
            msg = f"{str(path)!r} is no store of representations. Choose another path."
            raise ValueError(msg) from error
        self.key, self.cluster_key = about["key"], about["cluster_key"]
        self.block_cells, self.identity = int(about["block_cells"]), dict(about["identity"])
        self.n_cells, self.n_latent = self._group[f"obsm/{self.key}"].shape

    @classmethod
    def make(
        cls,
        path: Path,
        names: pd.Index,
        n_latent: int,
        *,
        key: str,
        cluster_key: str | None,
        block_cells: int,
        identity: dict[str, str],
    ) -> LatentStore:
        """Make an empty store; within :meth:`made_whole`, or a process that dies leaves half of one.

        Parameters
        ----------
        path
            Where; nothing is there yet.
        names
            Names of the cells.
        n_latent
            Number of dimensions.
        key, cluster_key
            Keys in ``obsm`` and ``obs``; ``None`` for no clusters.
        block_cells
            Cells of a block.
        identity
            What the values depend on, by the words that name it.
        """
        group = zarr_module(path).open_group(str(path), mode="w", zarr_format=2)
        obs = pd.DataFrame(index=names.astype(str))
        ad.io.write_elem(group, "/", ad.AnnData(obs=obs))
        if cluster_key is not None:
            obs[cluster_key] = np.zeros(len(names), np.int32)
        z = np.zeros((len(names), n_latent), np.float32)  # of which nothing is stored
        ad.io.write_elem(group, "obs", obs, dataset_kwargs={"chunks": (block_cells,)})
        ad.io.write_elem(group["obsm"], key, z, dataset_kwargs={"chunks": (block_cells, n_latent)})
        written = np.zeros(-(-len(names) // block_cells), np.uint8)
        ad.io.write_elem(
            group["uns"], _ABOUT.removeprefix("uns/"), {"written": written}, dataset_kwargs={"chunks": (1,)}
        )
        about = {"key": key, "cluster_key": cluster_key, "block_cells": block_cells, "identity": identity}
        group[_ABOUT].attrs.update(about)
        return cls(path)

    @staticmethod
    @contextlib.contextmanager
    def made_whole(path: Path) -> Iterator[Path]:
        """Where to make a store that appears under its name when it is complete."""
        part = part_of(path)
        try:
            with writing(path):
                yield part
                os.replace(part, path)
                flush_folder(path.parent)
        finally:
            shutil.rmtree(part, ignore_errors=True)

    @property
    def n_blocks(self) -> int:
        """Number of blocks."""
        return self._group[_WRITTEN].shape[0]

    @property
    def names(self) -> pd.Index:
        """Names of the cells."""
        return ad.io.read_elem(self._group["obs"]).index

    @property
    def missing(self) -> list[slice]:
        """Blocks that are not written yet."""
        blocks = np.flatnonzero(self._group[_WRITTEN][...] == 0) * self.block_cells
        return [slice(first, min(first + self.block_cells, self.n_cells)) for first in blocks.tolist()]

    def write(self, cells: slice, z: np.ndarray, clusters: np.ndarray | None) -> None:
        """Write a block: representations ``(m, d)`` and clusters ``(m,)``."""
        with writing(self.path):
            self._group[f"obsm/{self.key}"][cells] = z
            if clusters is not None:
                self._group[f"obs/{self.cluster_key}"][cells] = clusters
            self._group[_WRITTEN][cells.start // self.block_cells] = 1

    def blocks(self) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Representations and clusters, block by block."""
        for first in range(0, self.n_cells, self.block_cells):
            cells = slice(first, first + self.block_cells)
            clusters = None if self.cluster_key is None else self._group[f"obs/{self.cluster_key}"][cells]
            yield self._group[f"obsm/{self.key}"][cells], clusters

    def require(self, identity: dict[str, str]) -> None:
        """Raise ValueError if the store holds something else."""
        differ = [what for what, of_now in identity.items() if self.identity.get(what) != of_now]
        if differ:
            msg = (
                f"{str(self.path)!r} holds representations of other {' and other '.join(differ)}. Remove it, or choose "
                "another path."
            )
            raise ValueError(msg)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Say of errors in writing a store what is kept."""
    try:
        yield
    except OSError as error:
        msg = (
            f"Writing {str(path)!r} failed ({error.strerror or error}). Blocks that are written stay, and the same call goes on "
            f"with the others. {space_in(path.parent)}"
        )
        raise WritingError(msg) from error


def join(shards: Sequence[LatentStore], path: Path) -> None:
    """Write stores of cells that follow each other into one at `path`, block by block; shards stay as they are."""
    first, names = shards[0], shards[0].names.append([shard.names for shard in shards[1:]])
    about = {"key": first.key, "cluster_key": first.cluster_key, "block_cells": first.block_cells}
    with LatentStore.made_whole(path) as part:
        store = LatentStore.make(part, names, first.n_latent, **about, identity=first.identity)
        done = 0
        for shard in shards:
            for z, clusters in shard.blocks():
                store.write(slice(done, done + len(z)), z, clusters)
                done += len(z)
