"""Which generator can answer, from a pilot, what the experiment would show."""

from __future__ import annotations

import logging
from concurrent.futures import BrokenExecutor
from contextlib import nullcontext
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse
from scvi.utils import track
from threadpoolctl import threadpool_limits

from scdgd._options import Choice, Flag, Integer, Names, Number, Optional, PathLike, Text, checked
from scdgd.data import Cells, check_counts, counts_of, in_memory
from scdgd.metrics import ReferenceEmbedding, leiden_clusters
from scdgd.pl._figure import finish, get_axes, plotting

from ._pilot_arguments import checked_labels, checked_sizes, fingerprint
from ._pilot_fit import Fit, Reference, failed_fit, run_fit
from ._pilot_ledger import COLUMNS, FAILED, MESSAGE, PilotLedger
from ._pilot_models import PilotModel, checked_models
from ._pilot_plots import boxplots

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

logger = logging.getLogger(__name__)

#: Cells of a plate; pilots of the paper have one to six plates.
PLATE = 384
_LEAST_CELLS, _MAX_NAMED = 10, 5
_OF_FIT = ["model", "mode", "n_pilot", "repeat"]


class PilotStudy:
    r"""How well models that saw few cells generate many (the protocol of Treppner et al. 2021, corrected).

    From a data set that stands for the whole experiment, random pilots are drawn *without* replacement; each model trains on
    each pilot and generates as many cells as the data set has; synthetic cells are mapped to the clusters of the data set,
    and scored. All models see the same pilots. Labels serve to score only.

    Parameters
    ----------
    adata
        All cells, raw counts.
    models
        By name: a function that gets the pilot as AnnData and returns a trained model or a sampler, or a
        :class:`PilotModel`, which says the modes too. ``None`` for SCDBM, stock SCVI from prior and posterior, SCDGD and
        the noise baseline, see :func:`default_models`.
    sizes
        Numbers of cells of pilots; by default one to six plates of 384.
    n_repeats
        Number of pilots of each size.
    n_synthetic
        Number of cells to generate; as many as `adata` has if not given.
    seed
        Seed of all draws. A fit has its own, made of this, its size, repeat and model.
    labels
        Reference clusters: a column of ``adata.obs``, or one for each cell. If not given, Leiden clusters
        (:func:`scdgd.metrics.leiden_clusters`) of 50 principal components.
    layer
        Layer of the counts; ``None`` for ``X``. Factories find them in ``X``.
    embedding
        Where the nearest real cell of a synthetic one is sought: ``"pca"`` or ``"umap"``, fitted to `adata`, see
        :class:`scdgd.metrics.ReferenceEmbedding`.
    space
        Where the Davies-Bouldin index is computed: ``"pca"``, or ``"counts"`` as in the released code.
    resolution
        Of Leiden clusters; as published if not given.

    Attributes
    ----------
    results
        What :meth:`run` returned, ``None`` before.
    failures
        Fits and modes that failed, with the reason.

    Raises
    ------
    ValueError
        If counts are not raw counts, a pilot would have more cells than there are, or an option is out of range.
    TypeError
        If a model is not a function.
    KeyError
        If there is no such layer.

    Examples
    --------
    >>> study = scdgd.design.PilotStudy(adata, sizes=(384, 768), n_repeats=5)
    >>> results = study.run(ledger="pilot.csv", n_jobs=2)
    >>> study.summary("cluster_size_error")
    >>> study.plot("ari")
    """

    @checked(
        adata=Cells(AnnData, "an AnnData"),
        n_repeats=Integer(1),
        n_synthetic=Optional(Integer(_LEAST_CELLS)),
        seed=Integer(0),
        layer=Optional(Text("the name of one layer")),
        embedding=Choice("pca", "umap"),
        space=Choice("pca", "counts"),
        resolution=Number(above=0),
    )
    def __init__(
        self,
        adata: AnnData,
        models: Mapping[str, Callable | PilotModel] | None = None,
        sizes: Sequence[int] = tuple(PLATE * plates for plates in range(1, 7)),
        n_repeats: int = 30,
        n_synthetic: int | None = None,
        seed: int = 0,
        *,
        labels: str | Sequence | np.ndarray | None = None,
        layer: str | None = None,
        embedding: Literal["pca", "umap"] = "pca",
        space: Literal["pca", "counts"] = "pca",
        resolution: float = 0.4,
    ) -> None:
        counts = counts_of(adata, layer)
        location = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
        summary = check_counts(counts, adata.obs_names, adata.var_names, location)
        if adata.n_obs < _LEAST_CELLS or adata.n_vars < 2:
            msg = (
                f"A pilot study needs at least {_LEAST_CELLS} cells and 2 genes, got {adata.n_obs} cells and {adata.n_vars} "
                "genes."
            )
            raise ValueError(msg)
        self.models = checked_models(models)
        self.sizes = checked_sizes(sizes, adata.n_obs)
        self.n_repeats, self.seed = n_repeats, seed
        n_synthetic = adata.n_obs if n_synthetic is None else n_synthetic
        counts = sparse.csr_matrix(in_memory(counts))
        cells = AnnData(counts, obs=adata.obs.copy(), var=adata.var.copy())
        with threadpool_limits(1):  # sums, and so clusters, may depend on the number of threads
            fitted = ReferenceEmbedding(counts, method=embedding, seed=self.seed)
            if labels is None:
                scores = fitted.principal_components(counts)
                labels = leiden_clusters(scores, resolution=resolution, seed=self.seed)
        names = checked_labels(labels, cells)
        self._reference = Reference(cells, names, fitted, n_synthetic, space, resolution, self.seed)
        self._settings = {
            "data": fingerprint(summary.fingerprints.tobytes(), *adata.obs_names, *adata.var_names),
            "labels": fingerprint(*names),
            "sizes": list(self.sizes),
            "seed": self.seed,
            "n_synthetic": n_synthetic,
            "embedding": embedding,
            "space": space,
            "resolution": float(resolution),
        }
        self.results: pd.DataFrame | None = None
        self.failures: pd.DataFrame | None = None

    def __repr__(self) -> str:
        n_cells, n_genes = self._reference.adata.shape
        return (
            f"PilotStudy: {n_cells} cells × {n_genes} genes in {len(np.unique(self.labels))} clusters; models "
            f"{', '.join(self.models)}; pilots of {', '.join(map(str, self.sizes))} cells × {self.n_repeats} repeats"
        )

    @property
    def labels(self) -> np.ndarray:
        """Reference cluster of each cell, as text, shape ``(n,)``."""
        return self._reference.labels

    @checked(ledger=Optional(PathLike("the path of a file")), n_jobs=Integer(-1), show_progress=Flag())
    def run(self, ledger: str | Path | None = None, *, n_jobs: int = 1, show_progress: bool = True) -> pd.DataFrame:
        r"""Do all fits that are not in the ledger yet, and return all results.

        Where the ledger can no longer be written, for the disk is full, the study goes on, results are kept in memory, and an
        error is logged. Fits run on one thread each, so results do not depend on `n_jobs` (but for ``"fit_seconds"``). Training that fails
        is reported, and tried again at the next call; the other fits go on. Warnings of single fits are not shown.

        Parameters
        ----------
        ledger
            CSV file that each finished fit is added to; a study that was killed continues from it. It may get more models
            and repeats later, for these change no fit that is done. It cannot tell a changed factory of the same name. One
            study at a time writes to it.
        n_jobs
            Number of processes, as in joblib; -1 for all cores, or all workers of the backend that is chosen by
            ``joblib.parallel_config(backend="dask")``. Fits whose process ends are tried once more, alone, and fail if it ends again.
        show_progress
            Show a progress bar of the fits.

        Returns
        -------
        One row for each value, columns:

        * ``"model"``, ``"mode"``: name and mode
        * ``"n_pilot"``, ``"repeat"``: number of cells of the pilot, and which one of this size
        * ``"metric"``: scores of :func:`scdgd.metrics.cluster_scores`; ``"mad_median"``, ``"mad_iqr"``, ``"mad_cv"``,
          ``"mad_zero_fraction"`` (:func:`scdgd.metrics.gene_mads`) and ``"correlation_error"``
          (:func:`scdgd.metrics.gene_correlation_error`); ``"mean_count_ratio"``, the mean count of synthetic over that of
          real cells; ``"fit_seconds"``, shared by the modes of a fit; ``"failed"``, 1 if there are no scores, else 0
        * ``"value"``: NaN where a score is not defined

        All scores compare with all cells, those of the pilot included.

        Raises
        ------
        ValueError
            If the ledger is of another study.
        RuntimeError
            If another study writes to the ledger.
        """
        book = None if ledger is None else PilotLedger(ledger, self._settings)
        with nullcontext() if book is None else book.written_alone():
            return self._run_with(book, n_jobs, show_progress)

    def _run_with(self, book: PilotLedger | None, n_jobs: int, show_progress: bool) -> pd.DataFrame:
        """:meth:`run`, with the ledger for this study alone."""
        modes = {name: model.modes for name, model in self.models.items()}
        rows = pd.DataFrame(columns=[*COLUMNS, MESSAGE]) if book is None else book.open(modes)
        is_done = rows["metric"].eq(FAILED) & rows["value"].eq(0)
        done = set(rows.loc[is_done, _OF_FIT].itertuples(index=False, name=None))
        left = [fit for fit in self._fits() if any((fit.model, m, *fit[1:]) not in done for m in modes[fit.model])]
        found = [rows]
        fits = self._run(left, n_jobs)
        for new in track(fits, description="Pilot study", total=len(left), disable=not (left and show_progress)):
            found.append(new)
            try:
                if book is not None:
                    book.append(new)
            except OSError as error:  # no disk is worth the fits
                book = None
                logger.error("%s Results of this fit and of those to come are kept in memory only.", error)
        self.results, self.failures = self._in_order(found)
        if len(self.failures):
            reasons = "; ".join(
                f"{f.model} ({f.mode}) with {f.n_pilot} cells, repeat {f.repeat}: {f.message}"
                for f in self.failures.head(_MAX_NAMED).itertuples()
            )
            logger.warning("%s fits or modes failed: %s. See `failures`.", len(self.failures), reasons)
        return self.results

    def reference_scores(self) -> dict[str, float]:
        """Scores of the real cells in place of synthetic ones: what a perfect generator would reach.

        Returns
        -------
        Those of :func:`scdgd.metrics.cluster_scores`.
        """
        return self._reference.score_clusters(counts_of(self._reference.adata))

    @checked(metric=Text("the name of a metric"))
    def summary(self, metric: str = "cluster_size_error") -> pd.DataFrame:
        """Mean, standard deviation and number of values of a metric.

        Parameters
        ----------
        metric
            One of the metrics of :meth:`run`; the default is that of the published Table 1.

        Returns
        -------
        Columns ``"mean"``, ``"sd"`` and ``"n"``, without failed fits; rows by model, mode and number of pilot cells.

        Raises
        ------
        RuntimeError
            If the study has not run.
        ValueError
            If there is no such metric.
        """
        values = self._of_metric(metric).groupby(["model", "mode", "n_pilot"])["value"]
        series = ((name, mode, n) for name, model in self.models.items() for mode in model.modes for n in self.sizes)
        index = pd.MultiIndex.from_tuples(series, names=["model", "mode", "n_pilot"])
        summary = values.agg(mean="mean", sd="std", n="count").reindex(index)
        return summary.fillna({"n": 0}).astype({"n": int})

    @plotting(metric=Text("the name of a metric"), models=Optional(Names("a list of names of models")))
    def plot(
        self,
        metric: str = "cluster_size_error",
        *,
        models: Sequence[str] | None = None,
        ax: Axes | None = None,
        figsize: tuple[float, float] = (7.0, 4.0),
        save: str | Path | None = None,
        show: bool | None = None,
        return_fig: bool = False,
    ) -> Axes | Figure:
        """Box plots of a metric by the size of pilots, as in the paper.

        Boxes hold the middle half of the repeats, whiskers reach to at most 1.5 times their height, points lie beyond. For
        ``"davies_bouldin"`` and ``"ari"`` a dashed line marks the value of the real cells.

        Parameters
        ----------
        metric
            One of the metrics of :meth:`run`.
        models
            Names of models to draw; all if not given.
        ax
            Where to draw; a new figure if not given.
        %(figure)s

        Returns
        -------
        The Axes, or the figure.

        Raises
        ------
        RuntimeError
            If the study has not run.
        ValueError
            If there is no such metric or model.
        """
        values = self._of_metric(metric)
        unknown = [name for name in models or () if name not in self.models]
        if unknown or (models is not None and len(models) == 0):
            msg = f"There are no models {unknown}; the study has {list(self.models)}."
            raise ValueError(msg)
        line = self.reference_scores()[metric] if metric in ("davies_bouldin", "ari") else None
        axes = get_axes(ax, 1, figsize)
        boxplots(axes[0], values, metric, plate=PLATE, models=models, line=line)
        return finish(axes, is_single=True, save=save, show=show, return_fig=return_fig)

    def _fits(self) -> Iterator[Fit]:
        """All fits; a study that is killed has as many repeats of each size and model, but for one."""
        for repeat in range(self.n_repeats):
            for n_pilot in self.sizes:
                for name in self.models:
                    yield Fit(name, n_pilot, repeat)

    def _run(self, fits: list[Fit], n_jobs: int) -> Iterator[pd.DataFrame]:
        """Rows of fits, in the order in which they finish."""
        from joblib import effective_n_jobs

        if n_jobs == 1:
            yield from (run_fit(fit, self.models[fit.model], self._reference) for fit in fits)
            return
        left = list(fits)
        while left:
            try:
                for fit, rows in self._in_processes(left, n_jobs):
                    left.remove(fit)
                    yield rows
            except Exception as error:
                if not _is_of_dead_process(error):
                    raise
                suspects, left = left[: effective_n_jobs(n_jobs)], left[effective_n_jobs(n_jobs) :]
                logger.warning(
                    "A process of the study has ended. Its fits are tried once more, each in one of its own."
                )
                yield from map(self._alone, suspects)

    def _in_processes(self, fits: list[Fit], n_jobs: int) -> Iterator[tuple[Fit, pd.DataFrame]]:
        """Fits and their rows, in the order in which they finish; they begin in order, as many as there are processes."""
        from joblib import Parallel, delayed

        parallel = Parallel(n_jobs, return_as="generator_unordered", batch_size=1, pre_dispatch="n_jobs")
        yield from parallel(delayed(_named_fit)(fit, self.models[fit.model], self._reference) for fit in list(fits))

    def _alone(self, fit: Fit) -> pd.DataFrame:
        """Rows of a fit that nothing runs beside; those of a failure if its process ends again."""
        try:
            return next(rows for _, rows in self._in_processes([fit], 2))
        except Exception as error:
            if not _is_of_dead_process(error):
                raise
            return failed_fit(fit, self.models[fit.model], "Its process ended twice, perhaps for want of memory.")

    def _in_order(self, found: list[pd.DataFrame]) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Results of this study's fits, the last of each, in the order of its fits and modes; and failures."""
        rows = pd.concat([frame for frame in found if len(frame)], ignore_index=True)
        wanted = ((fit.model, mode, *fit[1:]) for fit in self._fits() for mode in self.models[fit.model].modes)
        order = {key: i for i, key in enumerate(wanted)}
        place = pd.Series(list(rows[_OF_FIT].itertuples(index=False, name=None)))
        rows = rows.assign(place=place.map(order)).dropna(subset="place")
        rows = rows.drop_duplicates(["place", "metric"], keep="last").sort_values("place", kind="stable")
        has_failed = rows["metric"].eq(FAILED) & rows["value"].eq(1)
        failures = rows.loc[has_failed, [*_OF_FIT, MESSAGE]]
        results = rows[COLUMNS].astype({"n_pilot": int, "repeat": int, "value": float})
        return results.reset_index(drop=True), failures.reset_index(drop=True)

    def _of_metric(self, metric: str) -> pd.DataFrame:
        if self.results is None:
            msg = "The study has not run. Call `run()` first; with the ledger of a finished study it only reads."
            raise RuntimeError(msg)
        values = self.results[self.results["metric"] == metric]
        if values.empty:
            msg = f"There is no metric {metric!r}; the study has {list(self.results['metric'].unique())}."
            raise ValueError(msg)
        return values


def _named_fit(fit: Fit, model: PilotModel, reference: Reference) -> tuple[Fit, pd.DataFrame]:
    return fit, run_fit(fit, model, reference)


def _is_of_dead_process(error: Exception) -> bool:
    """Whether an error of joblib says that a process has ended, or a worker of Dask, which need not be installed."""
    return isinstance(error, BrokenExecutor) or type(error).__name__ == "KilledWorker"
