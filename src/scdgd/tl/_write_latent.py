"""Representations and clusters of more cells than are held in memory, written block by block."""

from __future__ import annotations

import logging
import re
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from anndata import AnnData
from scvi.utils import track

from scdgd._options import Integer, ListOf, Optional, PathLike, checked
from scdgd.data import Cells, cell_source, code_of, counts_of, levels_of
from scdgd.train import fingerprint

from ._latent_store import LatentStore, Shard, join
from ._of_models import check_trained, latent_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from scvi.model.base import BaseModelClass

logger = logging.getLogger(__name__)

_MAX_NAMED = 5
#: Cells whose counts tell one data set from another.
_COMPARED = 64


@checked(
    path=PathLike("the path of a Zarr store"),
    adata=Optional(Cells(AnnData, "an AnnData with genes of the model")),
    shard=Optional(ListOf((Integer(1), Integer(1)))),
    block_cells=Integer(1),
)
def write_latent(
    model: BaseModelClass,
    path: str,
    adata: AnnData | None = None,
    *,
    shard: tuple[int, int] | None = None,
    block_cells: int = 20_000,
) -> Path:
    """Write representations and clusters of cells into a Zarr store, block by block, and go on where another call stopped.

    The store is an AnnData: names of cells, ``obsm["X_<model>"]`` as :meth:`~scdgd.model.SCDGD.get_latent_representation` gives
    it, and ``obs["<model>_cluster"]``, numbers of clusters, of models that have several. Memory is that of a block, beside
    model and names; the model keeps nothing of new cells. A killed process leaves whole blocks, and the same call writes
    the others.

    Parameters
    ----------
    model
        Any trained model of this package, or :class:`scvi.model.SCVI`.
    path
        The store to write.
    adata
        Cells, such as those of :func:`scdgd.data.read_backed`; those of the model if not given.
    shard
        Number, from 1, and number of parts, for as many processes that know nothing of each other: ``(3, 8)`` writes the third
        eighth of the cells, beside `path`. :func:`join_latent` joins them.
    block_cells
        Cells of a block.

    Returns
    -------
    What was written.

    Raises
    ------
    RuntimeError
        If the model is not trained.
    ValueError
        If something else is at `path`; batches or levels of covariates are unknown to the model, which would get a vector in
        each block; or the cells are not as the model needs them.
    OSError
        If nothing can be written.
    """
    check_trained(model, "write_latent", "writes what a model has learned")
    of_model = adata is None or adata is model.adata
    adata = model.adata if of_model else adata
    if adata is None:
        msg = "`write_latent` needs cells, but the model has none attached. Pass them: `write_latent(model, path, adata)`."
        raise ValueError(msg)
    part = Shard(*shard) if shard is not None else Shard(1, 1)
    if part.number > part.n:
        msg = (
            f"`shard` is the number of a part and the number of parts, but there is no part {part.number} of {part.n}."
        )
        raise ValueError(msg)
    if not of_model:
        _require_levels(model, adata)
    whole = Path(path)
    path = whole if shard is None else part.path(whole)
    first, last = part.bounds(adata.n_obs)
    if last == first:
        msg = f"Part {part.number} of {part.n} has none of the {adata.n_obs} cells. Take fewer parts."
        raise ValueError(msg)
    read = _reader(model, adata)
    store = _store(model, path, adata, slice(first, last), block_cells, lambda: read(first, first + 1)[0].shape[1])
    missing = store.missing
    if len(missing) < store.n_blocks:
        logger.info("%d of %d blocks of %s are written already.", store.n_blocks - len(missing), store.n_blocks, path)
    for block in track(missing, description=f"Writing {last - first} cells", disable=len(missing) < 2):
        store.write(block, *read(first + block.start, first + block.stop))
    return path


@checked(path=PathLike("the path of a Zarr store"))
def join_latent(path: str) -> Path:
    """Join what calls of :func:`write_latent` for all shards have written into one store.

    Parameters
    ----------
    path
        The path that was given to each of the calls. Shards stay where they are.

    Returns
    -------
    What was written.

    Raises
    ------
    FileNotFoundError
        If there are no shards, or not all; they are named.
    ValueError
        If some are not complete or not of the same model, or there is something at `path` already.
    """
    whole = Path(path)
    if whole.exists():
        msg = f"There is something at {path!r} already. Remove it, or join elsewhere."
        raise ValueError(msg)
    found = {}
    for beside in whole.parent.glob(f"{whole.stem}.shard-*-of-*{whole.suffix}"):
        match = re.fullmatch(
            r"shard-(\d+)-of-(\d+)", beside.name.removeprefix(f"{whole.stem}.").removesuffix(whole.suffix)
        )
        if match:
            found[Shard(*map(int, match.groups()))] = beside
    numbers = {shard.n for shard in found}
    if len(numbers) > 1:
        msg = (
            f"Beside {path!r} are shards of several runs, in {sorted(numbers)} parts. Remove those that are not meant."
        )
        raise ValueError(msg)
    n = max(numbers, default=0)
    lacking = [str(shard.path(whole)) for shard in (Shard(i, n) for i in range(1, n + 1)) if shard not in found]
    if lacking or not found:
        msg = f"There are {len(found)} of {n or 'any'} shards of {path!r}; {', '.join(lacking[:_MAX_NAMED]) or 'none'} missing."
        raise FileNotFoundError(msg)
    stores = [LatentStore(found[shard]) for shard in sorted(found)]
    incomplete = [f"{store.path} ({len(store.missing)} blocks missing)" for store in stores if store.missing]
    if incomplete:
        msg = (
            f"{len(incomplete)} of {n} shards are not complete: {', '.join(incomplete[:_MAX_NAMED])}. Run these again."
        )
        raise ValueError(msg)
    for store in stores:
        store.require({key: value for key, value in stores[0].identity.items() if key != "cells"})
    join(stores, whole)
    return whole


def _store(
    model: BaseModelClass, path: Path, adata: AnnData, cells: slice, block_cells: int, n_latent: Callable[[], int]
) -> LatentStore:
    """The store at `path`, made if there is none; ValueError if it holds something else."""
    key, names = latent_key(model), adata.obs_names[cells]
    counts = cell_source(counts_of(adata, model.registry["setup_args"].get("layer")))
    compared = cells.start + np.unique(np.linspace(0, len(names) - 1, min(len(names), _COMPARED)).astype(np.int64))
    state = model.module.state_dict()
    identity = {
        "models": fingerprint([type(model).__name__, *state], *(value.cpu().numpy() for value in state.values())),
        "cells": fingerprint(names, counts.fingerprints(compared, is_count_data=False)),
        "genes": fingerprint(adata.var_names),
    }
    if not path.exists():
        cluster_key = f"{key.removeprefix('X_')}_cluster" if _has_clusters(model) else None
        about = {"key": key, "cluster_key": cluster_key, "block_cells": min(block_cells, len(names))}
        size = n_latent()
        with LatentStore.made_whole(path) as part:
            LatentStore.make(part, names, size, **about, identity=identity)
    store = LatentStore(path)
    store.require(identity)
    return store


def _has_clusters(model: BaseModelClass) -> bool:
    return getattr(getattr(model.module, "prior", None), "n_components", 1) > 1


def _reader(model: BaseModelClass, adata: AnnData) -> Callable[[int, int], tuple[np.ndarray, np.ndarray | None]]:
    """What gives representations and clusters of the cells from one position to before another."""
    cells = getattr(model, "cells", None)

    def read(first: int, last: int) -> tuple[np.ndarray, np.ndarray | None]:
        """Representations ``(m, d)``, and clusters ``(m,)`` if there are several."""
        is_of_model = adata is model.adata
        block, indices = (None, np.arange(first, last)) if is_of_model else (adata[first:last].to_memory(), None)
        with _quietly(), nullcontext() if cells is None else cells.forgetting():
            z = model.get_latent_representation(block, indices=indices)
            return z, model.get_cluster_assignments(block, indices=indices) if _has_clusters(model) else None

    return read


@contextmanager
def _quietly() -> Iterator[None]:
    """Silence scvi-tools' message of set-up, which would be one line for each block."""
    logger_of_scvi = logging.getLogger("scvi.model.base")
    level = logger_of_scvi.level
    logger_of_scvi.setLevel(logging.WARNING)
    try:
        yield
    finally:
        logger_of_scvi.setLevel(level)


def _require_levels(model: BaseModelClass, adata: AnnData) -> None:
    """Raise ValueError if cells are of batches, or levels of covariates, that have no vector yet."""
    new = getattr(model, "new_levels", {})
    for variable, levels in levels_of(model.registry).items():
        if variable.column not in adata.obs:
            continue  # all are of one, or registration says what is missing
        known = [*levels.names, *new.get(variable.column, ())]
        unknown = [level for level in adata.obs[variable.column].dropna().unique() if code_of(level, known) < 0]
        if unknown:
            named = ", ".join(map(str, unknown[:_MAX_NAMED]))
            msg = (
                f"{len(unknown)} levels of adata.obs['{variable.column}'] are unknown to the model (first: {named}), and each block "
                "would give them vectors of its own. Let the model find them first, on some cells of each: "
                "`model.get_latent_representation(adata[some])`."
            )
            raise ValueError(msg)
