"""The main job, from raw counts to clusters, pictures and a summary; behind ``scdgd demo`` and ``scdgd fit``."""

from __future__ import annotations

import dataclasses
import logging
import time
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from anndata import AnnData

from scdgd._compat import layer_names
from scdgd._summary import Summary
from scdgd.data._layers import counts_of, raw_matrix_of
from scdgd.metrics import batch_mixing, held_out_log_likelihood, n_used_components
from scdgd.model import SCDGD
from scdgd.tl._annotate import write_results

if TYPE_CHECKING:
    from collections.abc import Collection

    from matplotlib.figure import Figure

    from scdgd.metrics import HeldOutScore

logger = logging.getLogger(__name__)

#: Model classes by the name that the command line takes.
MODELS = {"scdgd": SCDGD}

_CLUSTER_KEY, _SPACE_KEY = "scdgd_cluster", "X_scdgd_information"
_MIN_MAPPED_CELLS = 15
#: Shares of genes that the trend of variances is fitted to at a time, until one works; the first is scanpy's.
_SPANS = (0.3, 0.6, 1.0)
_TEST_SHARE = 0.2
_MIN_TEST_CELLS = 10
_SURE = 0.9
_N_SAMPLES = 500
_MAX_BASELINE_GENES = 2_000
#: Mixing of batches: so many cells, drawn at random, tell it; neighbours of each; and rows of a picture.
_MIXED_CELLS, _MIXED_NEIGHBORS, _MAX_ROWS = 10_000, 50, 100


@dataclass(frozen=True)
class Job:
    """What to do."""

    model: str = "scdgd"
    n_components: int | str = "auto"
    layer: str | None = None
    raw: bool = False
    """Whether counts and genes are those of ``raw``."""
    hvg: int | None = None
    """Number of variable genes that the model gets; ``None`` for all."""
    umap: bool = True
    batch_key: str | None = None
    balance: bool = True
    """Whether shifts between batches are taken out of representations."""
    labels_key: str | None = None
    max_epochs: int | None = None
    seed: int = 0
    show_progress: bool = True


def build(adata: AnnData, job: Job) -> SCDGD:
    """An untrained model of the counts in `adata`, which is left as it is.

    Registration writes columns of its own, so it gets an AnnData that shares the counts and holds nothing else. Labels
    are not among what it holds: no model of this job ever sees them. ValueError if counts, columns or options are not as
    they must be.
    """
    import scvi

    scvi.settings.seed = job.seed
    _check_keys(adata, job)
    return _build_on(cells_of(adata, job, [job.batch_key] if job.batch_key else []), job)


def cells_of(adata: AnnData, job: Job, columns: list[str]) -> AnnData:
    """The counts and genes of a job, in the same layer, and some columns of ``obs``; nothing else of `adata`."""
    source = adata.raw if job.raw else adata
    counts = raw_matrix_of(adata) if job.raw else counts_of(adata, job.layer)
    cells = AnnData(
        X=counts if job.layer is None else None,
        obs=adata.obs[columns].copy(),
        var=source.var[[]].copy(),
        layers={} if job.layer is None else {job.layer: counts},
    )
    return cells if job.hvg is None else cells[:, _most_variable(cells, job)].copy()


def _most_variable(cells: AnnData, job: Job) -> np.ndarray:
    """Mask of the most variable genes, by scanpy's ``seurat_v3``, within batches if there are any."""
    import scanpy as sc

    if job.hvg > cells.n_vars:
        msg = f"There are {cells.n_vars} genes, so no {job.hvg} of them can be chosen. Leave --hvg out for all."
        raise ValueError(msg)
    options = {"layer": job.layer, "batch_key": job.batch_key, "inplace": False, "flavor": "seurat_v3"}
    for span in _SPANS:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # whether they are counts is checked with more words
                found = sc.pp.highly_variable_genes(cells, n_top_genes=job.hvg, span=span, **options)
            return found["highly_variable"].to_numpy()
        except ImportError as error:
            msg = "Choosing variable genes needs the package scikit-misc: pip install scikit-misc."
            raise ImportError(msg) from error
        except ValueError:  # the curve of variances has no unique solution where few cells have few different counts
            logger.info("Variances by means cannot be fitted with a span of %s of the genes", span)
    msg = f"Variable genes of {cells.n_obs} cells cannot be found: their variances have no trend. Leave --hvg out."
    raise ValueError(msg)


def _build_on(cells: AnnData, job: Job) -> SCDGD:
    model_class = MODELS[job.model]
    model_class.setup_anndata(cells, layer=job.layer, batch_key=job.batch_key)
    return model_class(cells, n_components=job.n_components)


def _check_keys(adata: AnnData, job: Job) -> None:
    if job.layer is not None and job.layer not in adata.layers:
        msg = f"There is no layer '{job.layer}'; the layers are {layer_names(adata)}."
        raise ValueError(msg)
    for what, key in (("batches", job.batch_key), ("labels", job.labels_key)):
        if key is not None and key not in adata.obs:
            msg = f"There is no column '{key}' for the {what}; the columns of obs are {list(adata.obs.columns)}."
            raise ValueError(msg)
    if job.labels_key is not None and adata.obs[job.labels_key].isna().all():
        msg = f"No cell has a label in the column '{job.labels_key}' of obs."
        raise ValueError(msg)


def run(adata: AnnData, model: SCDGD, job: Job, *, score_held_out: bool) -> Summary:
    """Train the model that :func:`build` made, write its results into `adata`, and compare them with labels if there are any.

    With `score_held_out` a second model trains on 80% of the cells and is scored on the others. The summary lacks the total
    time.
    """
    logger.info("Training on %d cells and %d genes", adata.n_obs, model.adata.n_vars)
    start = time.perf_counter()
    _train(model, job)
    seconds = time.perf_counter() - start
    responsibilities = model.get_cluster_assignments(soft=True)
    write_results(adata, model.get_latent_representation(), responsibilities, model.get_information())
    if job.hvg is not None:
        adata.var[_free(adata.var, "highly_variable")] = adata.var_names.isin(model.adata.var_names)
    if job.umap:
        _write_umap(adata, job)
    summary = Summary(
        model=job.model,
        n_cells=adata.n_obs,
        n_genes=model.adata.n_vars,
        n_components=model.module.prior.n_components,
        n_clusters=responsibilities.shape[1],
        n_clusters_used=n_used_components(responsibilities.argmax(axis=1)),
        share_unsure=float((responsibilities.max(axis=1) < _SURE).mean()),
        seed=job.seed,
        seconds_training=seconds,
        n_epochs=model.trainer.current_epoch,
        max_epochs=model.trainer.max_epochs,
        was_interrupted=model.trainer.interruption.ended,
    )
    if job.batch_key is not None:
        summary = dataclasses.replace(summary, **_describe_batches(adata, model, job))
    if job.labels_key is not None:
        summary = dataclasses.replace(summary, **_compare_with_labels(adata, model, job, summary.n_clusters))
    if score_held_out and not summary.was_interrupted:
        try:
            score = _score_held_out(model.adata, job)
        except KeyboardInterrupt:  # what the first model found is not lost
            return dataclasses.replace(summary, was_interrupted=True)
        if score is not None:
            summary = dataclasses.replace(
                summary,
                held_out_log_likelihood=score.log_likelihood,
                held_out_standard_error=score.standard_error,
                n_held_out=len(score.per_cell),
            )
    return summary


def _train(model: SCDGD, job: Job) -> None:
    from scdgd._epoch_lines import EpochLines

    options = {"enable_progress_bar": job.show_progress, "callbacks": [] if job.show_progress else [EpochLines()]}
    model.train(job.max_epochs, batch_balance=None if job.balance else False, **options)


def _free(names: Collection[str], name: str) -> str:
    """A name that nothing has yet, so that nothing is replaced but what this job wrote before."""
    if name not in names:
        return name
    return name.replace("X_", "X_scdgd_", 1) if name.startswith("X_") else f"scdgd_{name}"


def _write_umap(adata: AnnData, job: Job) -> None:
    """Neighbours and a UMAP in coordinates of information, where scanpy looks for them, or beside those that are there already."""
    import scanpy as sc

    if adata.n_obs < _MIN_MAPPED_CELLS:
        logger.info("There are too few cells for a UMAP.")
        return
    logger.info("Finding neighbours and a UMAP")
    cells = AnnData(obs=adata.obs[[]], obsm={_SPACE_KEY: adata.obsm[_SPACE_KEY]})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries below, about each other
        sc.pp.neighbors(cells, use_rep=_SPACE_KEY, random_state=job.seed)
        sc.tl.umap(cells, random_state=job.seed)
    of = {one: _free(adata.obsp, one) for one in ("connectivities", "distances")}
    for name, key in of.items():
        adata.obsp[key] = cells.obsp[name]
    graph = cells.uns["neighbors"]
    adata.uns[_free(adata.uns, "neighbors")] = {
        **graph,
        "connectivities_key": of["connectivities"],
        "distances_key": of["distances"],
    }
    adata.uns[_free(adata.uns, "umap")] = cells.uns["umap"]
    adata.obsm[_free(adata.obsm, "X_umap")] = cells.obsm["X_umap"]


class _Spaces(NamedTuple):
    """Cells of several batches before and after integration, with their batches and labels."""

    arrays: dict[str, np.ndarray]
    batch: np.ndarray
    labels: np.ndarray | None


def _spaces(adata: AnnData, model: SCDGD, job: Job) -> _Spaces | None:
    """Principal components and representations of some cells, with labels if there are any; ``None`` if all are of one batch."""
    rng = np.random.default_rng(job.seed)
    batch = adata.obs[job.batch_key].astype(str).to_numpy()
    known = np.flatnonzero(np.ones(adata.n_obs, bool) if job.labels_key is None else adata.obs[job.labels_key].notna())
    some = np.sort(rng.choice(known, min(len(known), _MIXED_CELLS), replace=False))
    if len(np.unique(batch[some])) < 2:
        return None
    arrays = {
        "PCA": principal_components(model.adata[some], layer=job.layer, seed=job.seed),
        "SCDGD": np.asarray(adata.obsm[_SPACE_KEY])[some],
    }
    labels = None if job.labels_key is None else adata.obs[job.labels_key].iloc[some].astype(str).to_numpy()
    return _Spaces(arrays, batch[some], labels)


def _describe_batches(adata: AnnData, model: SCDGD, job: Job) -> dict:
    """What was done about batches, and how well they are mixed in principal components and in the representations."""
    balanced = model.batch_balance_ or {"covariates": {}, "n_epochs": 0, "first_shift": None, "last_shift": None}
    found = {
        "batch_key": job.batch_key,
        "n_batches": int(adata.obs[job.batch_key].nunique()),
        "n_epochs_balanced": balanced["n_epochs"],
        "first_batch_shift": balanced["first_shift"],
        "last_batch_shift": balanced["last_shift"],
        "own_weights": balanced["covariates"].get("batch", {}).get("own_weights"),
    }
    spaces = _spaces(adata, model, job)
    if spaces is not None:
        k = min(_MIXED_NEIGHBORS, len(spaces.batch) - 1)
        scores = {
            name: batch_mixing(z, spaces.batch, spaces.labels, n_neighbors=k).score for name, z in spaces.arrays.items()
        }
        if np.isfinite(list(scores.values())).all():  # else no label is in two batches
            found |= {"batch_mixing": scores["SCDGD"], "batch_mixing_pca": scores["PCA"]}
    return found


def _compare_with_labels(adata: AnnData, model: SCDGD, job: Job, n_clusters: int) -> dict:
    """Agreement of labels with the model's clusters, and with those of PCA + k-means with as many clusters."""
    from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

    labels = adata.obs[job.labels_key]
    known = labels.notna().to_numpy()
    labels = labels[known].astype(str)
    scores: dict = {"labels_key": job.labels_key}
    baseline = cluster_pca(model.adata, n_clusters, layer=job.layer, seed=job.seed)
    for suffix, clusters in (("", adata.obs[_CLUSTER_KEY].to_numpy()), ("_pca_kmeans", baseline)):
        scores[f"ari{suffix}"] = float(adjusted_rand_score(labels, clusters[known]))
        scores[f"nmi{suffix}"] = float(normalized_mutual_info_score(labels, clusters[known]))
    return scores


def cluster_pca(adata: AnnData, n_clusters: int, *, layer: str | None = None, seed: int = 0) -> np.ndarray:
    """Clusters as most analyses find them: k-means (10 starts) on principal components. Cluster of each cell, shape ``(n,)``."""
    from sklearn.cluster import KMeans

    scores = principal_components(adata, layer=layer, seed=seed)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # fewer distinct cells than clusters
        return KMeans(n_clusters, n_init=10, random_state=seed).fit_predict(scores)


def principal_components(adata: AnnData, *, layer: str | None = None, seed: int = 0) -> np.ndarray:
    """Principal components as most analyses find them, of log-normalised counts of variable genes.

    Scores of each cell, shape ``(n, 20)`` or narrower, of the 2,000 most variable genes, or of all genes if there are fewer, of
    the raw counts in `layer`, or in ``X``.
    """
    import scanpy as sc

    cells = AnnData(counts_of(adata, layer).astype(np.float32), obs=adata.obs[[]], var=adata.var[[]])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # small or repetitive data sets; the clusters are right all the same
        sc.pp.normalize_total(cells)
        sc.pp.log1p(cells)
        if cells.n_vars > _MAX_BASELINE_GENES:
            sc.pp.highly_variable_genes(cells, n_top_genes=_MAX_BASELINE_GENES, subset=True)
        n_comps = min(20, cells.n_obs - 1, cells.n_vars - 1)
        if n_comps == 0:
            return np.zeros((cells.n_obs, 1))
        return sc.pp.pca(counts_of(cells), n_comps=n_comps, random_state=seed)


def _score_held_out(cells: AnnData, job: Job) -> HeldOutScore | None:
    """Score of a second model, trained like the first but without the cells that it is scored on."""
    is_test = _draw_test_cells(cells, job)
    n_components = 1 if job.n_components == "auto" else job.n_components
    if is_test.sum() < _MIN_TEST_CELLS or (~is_test).sum() < n_components:
        logger.info("There are too few cells to hold some of them out.")
        return None
    import scvi

    scvi.settings.seed = job.seed
    logger.info("Training a second model on %d cells, to score it on the other %d", (~is_test).sum(), is_test.sum())
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*have no count in any cell.*")  # said once, for the first model
        model = _build_on(cells[~is_test].copy(), job)
        _train(model, job)
        if model.trainer.interruption.ended:
            raise KeyboardInterrupt
        return held_out_log_likelihood(model, cells[is_test].copy(), seed=job.seed)


def _draw_test_cells(cells: AnnData, job: Job) -> np.ndarray:
    """Mask of a fifth of the cells of each batch, rounded down, so that each batch trains."""
    rng = np.random.default_rng(job.seed)
    batches = cells.obs[job.batch_key].to_numpy() if job.batch_key else np.zeros(cells.n_obs)
    is_test = np.zeros(cells.n_obs, dtype=bool)
    for batch in np.unique(batches.astype(str)):
        members = np.flatnonzero(batches.astype(str) == batch)
        is_test[rng.choice(members, int(_TEST_SHARE * len(members)), replace=False)] = True
    return is_test


def umap_keys(adata: AnnData) -> tuple[str, str]:
    """Where the UMAP of this job is in ``obsm``, and its neighbours in ``uns``: beside those that were there before."""
    return (
        "X_scdgd_umap" if "X_scdgd_umap" in adata.obsm else "X_umap",
        "scdgd_neighbors" if "scdgd_neighbors" in adata.uns else "neighbors",
    )


#: Pictures of a report, and what they show.
CAPTIONS = {
    "latent": "Cells in the plane: a UMAP of the representations in coordinates of information. Neighbours mean something, distances "
    "between islands little.",
    "components": "Cells of each cluster.",
    "information": "Information that each direction of the latent space has of the counts, in nats per cell.",
    "batch_mixing": "How well batches are mixed among the nearest neighbours of cells, before and after; 1 is as at random.",
    "history": "Training: the objective by epoch.",
}


def draw(adata: AnnData, model: SCDGD, job: Job) -> dict[str, Figure]:
    """Pictures by the names of `CAPTIONS`, which are not shown; ``"batch_mixing"`` is there if there are several batches."""
    import matplotlib as mpl

    mpl.use("Agg")  # into files, with or without a screen
    from scdgd import pl

    logger.info("Drawing")
    color = [_CLUSTER_KEY] if job.labels_key is None else [_CLUSTER_KEY, job.labels_key]
    basis, _ = umap_keys(adata)
    found = {
        "latent": pl.latent(
            adata, model, basis=basis, color=color, n_samples=_N_SAMPLES, seed=job.seed, return_fig=True
        ),
        "components": pl.components(adata, job.labels_key, return_fig=True),
        "information": pl.information(model, return_fig=True),
    }
    spaces = None if job.batch_key is None else _spaces(adata, model, job)
    if spaces is not None and len(np.unique(spaces.batch if spaces.labels is None else spaces.labels)) <= _MAX_ROWS:
        k = min(_MIXED_NEIGHBORS, len(spaces.batch) - 1)
        found["batch_mixing"] = pl.batch_mixing(*spaces, n_neighbors=k, return_fig=True)
    return found | {"history": pl.history(model, return_fig=True)}


def markers(adata: AnnData, model: SCDGD, n_genes: int = 5) -> pd.DataFrame:
    """Cells, share and leading marker genes of each cluster; markers also go where scanpy looks for them, in ``adata.uns``."""
    from scdgd.tl import rank_component_genes

    counts = adata.obs[_CLUSTER_KEY].value_counts(sort=False)
    table = pd.DataFrame({"cells": counts, "share": counts / counts.sum()})
    table.index.name = "cluster"
    if len(table) < 2:
        return table
    logger.info("Ranking genes of %d clusters", len(table))
    rank_component_genes(model)
    ranked = model.adata.uns.pop("rank_genes_groups")
    adata.uns[_free(adata.uns, "rank_genes_groups")] = ranked
    names = ranked["names"]
    table["leading genes"] = [", ".join(names[c][:n_genes]) if c in names.dtype.names else "" for c in table.index]
    return table
