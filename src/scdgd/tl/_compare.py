"""Several models of the same cells, judged without labels."""

from __future__ import annotations

import inspect
import itertools
import json
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
from scvi.utils import track

from scdgd._files import written_whole
from scdgd._options import Choice, Flag, Integer, Number, Optional, PathLike, Text, checked, shown
from scdgd.data import check_counts, counts_of
from scdgd.metrics import (
    ReferenceEmbedding,
    batch_mixing,
    held_out_log_likelihood,
    leiden_clusters,
    neighbors_kept,
)
from scdgd.train import fingerprint
from scdgd.train._seeding import quiet_libraries, training_seed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from anndata import AnnData

logger = logging.getLogger(__name__)

_MIXING_NEIGHBORS, _KEPT_NEIGHBORS, _COMPONENTS = 50, 15, 20
_SETTINGS = "comparison.json"


@dataclass(frozen=True)
class Candidate:
    """A model to compare, and how it is made and trained.

    Parameters
    ----------
    model_cls
        Class with scvi-tools' interface, such as :class:`scdgd.model.SCDGD` or :class:`scvi.model.SCVI`.
    model, train
        Arguments of the class, and of its ``train``, such as the entries of a preset.
    """

    model_cls: type
    model: Mapping[str, Any] = field(default_factory=dict)
    train: Mapping[str, Any] = field(default_factory=dict)

    def fitted(self, adata: AnnData, setup: Mapping[str, str | None]) -> Any:
        """The model, trained on all cells of `adata`."""
        takes = inspect.signature(self.model_cls.setup_anndata).parameters
        self.model_cls.setup_anndata(adata, **{name: key for name, key in setup.items() if name in takes})
        model = self.model_cls(adata, **self.model)
        whole = {"train_size": 1.0} if "train_size" in inspect.signature(model.train).parameters else {}
        model.train(**{"enable_progress_bar": False, **whole, **self.train})
        return model

    def __str__(self) -> str:
        return f"{self.model_cls.__name__}, model {shown_options(self.model)}, train {shown_options(self.train)}"


def shown_options(options: Mapping[str, Any]) -> str:
    """Options as text that is the same in every process."""
    return json.dumps(options, default=lambda value: type(value).__name__, sort_keys=True)


class Fit(NamedTuple):
    """What is kept of one training."""

    scores: dict[str, float]
    clusters: np.ndarray
    """Of the training cells, shape ``(n,)``."""
    held_out: np.ndarray
    """Log-likelihood of each test cell, shape ``(m,)``; NaN where the model has none."""
    failure: str = ""
    """Why scores are missing."""


@dataclass(frozen=True, repr=False)
class Comparison:
    """Models beside each other; made by :func:`compare`, drawn by :func:`scdgd.pl.comparison`."""

    table: pd.DataFrame
    """A row for each model, the most likely first: means over seeds of the columns of `fits`, ``"difference"`` of the held-out
    log-likelihood to the best and its ``"standard_error"`` over test cells, and ``"stability"``, the mean agreement (adjusted Rand
    index) of the clusters of two seeds."""
    fits: pd.DataFrame
    """A row for each model and seed: ``"held_out"``, mean log-likelihood of a test cell in nats; ``"mixing"``, by
    :func:`scdgd.metrics.batch_mixing`, where there are batches; ``"kept"``, by :func:`scdgd.metrics.neighbors_kept`; ``"clusters"``, their number;
    ``"seconds"`` of training; ``"agreement"`` of clusters with labels, if these were named; ``"failure"``, why scores are missing."""
    n_train: int
    n_test: int

    def __repr__(self) -> str:
        columns = [name for name in self.table if self.table[name].notna().any()]
        return (
            f"{len(self.table)} models, {self.n_train} cells to train and {self.n_test} to score\n"
            f"{self.table[columns].to_string(float_format='{:.4g}'.format)}"
        )

    def _repr_html_(self) -> str:
        return self.table.to_html(float_format="{:.4g}".format)


@checked(
    layer=Optional(Text("the name of one layer")),
    batch_key=Optional(Text("the name of one column")),
    labels_key=Optional(Text("the name of one column")),
    n_seeds=Integer(1),
    test_size=Number(above=0, below=1),
    form=Choice("plug_in", "predictive"),
    resolution=Number(above=0),
    seed=Integer(0, 2**31 - 1),
    folder=Optional(PathLike("the path of a folder")),
    show_progress=Flag(),
)
def compare(
    adata: AnnData,
    models: Sequence[type] | Mapping[str, type | Candidate],
    *,
    layer: str | None = None,
    batch_key: str | None = None,
    labels_key: str | None = None,
    n_seeds: int = 2,
    test_size: float = 0.2,
    form: str = "plug_in",
    resolution: float = 1.0,
    seed: int = 0,
    folder: str | Path | None = None,
    show_progress: bool = True,
) -> Comparison:
    """Train models on the same cells, several times each, and score them without labels.

    Cells are split once. Each model trains on the larger part with each of the seeds, and is scored by the counts of the others
    (:func:`scdgd.metrics.held_out_log_likelihood`), by how well batches are mixed and how much of the structure within batches is kept, and by
    how far its clusters depend on the seed. Clusters are those of a model that has them, else Leiden's of its representations. A difference in
    likelihood of less than two standard errors is none. Labels, if named, are compared with clusters at the end; nothing is chosen by them.

    Parameters
    ----------
    adata
        Cells with raw counts, which stay as they are.
    models
        Classes, or classes and :class:`Candidate` by name.
    layer
        Layer of the counts; ``None`` for ``X``.
    batch_key, labels_key
        Columns of ``adata.obs`` with batches, which models are told, and with labels, which they are not.
    n_seeds
        Trainings of each model; 2 at least for the stability of clusters.
    test_size
        Share of the cells that do not train.
    form
        Of the held-out score.
    resolution
        Of Leiden clusters.
    seed
        Seed of the split; trainings have this one and those after it.
    folder
        Where finished fits are kept: a comparison that was killed goes on with the same call, and more models can be added. It cannot tell
        a changed class of the same name.
    show_progress
        Whether to show a progress bar of the fits.

    Returns
    -------
    Tables of models and of fits. A fit that fails is named in a warning and in the table, and the others go on.

    Raises
    ------
    ValueError
        If there are no models, counts are not raw counts, either part of the cells is too small, or the folder is of another comparison.
    KeyError
        If there is no such layer or column.
    TypeError
        If a model is no class with scvi-tools' interface.

    Examples
    --------
    >>> comparison = scdgd.tl.compare(adata, [scdgd.model.SCDGD, scvi.model.SCVI], batch_key="batch")
    >>> comparison.table
    >>> scdgd.pl.comparison(comparison)
    """
    candidates = _candidates(models)
    for what, key in (("batch_key", batch_key), ("labels_key", labels_key)):
        if key is not None and key not in adata.obs:
            msg = f"There is no column {key!r} for `{what}`; adata.obs has {list(adata.obs)}."
            raise KeyError(msg)
    location = "adata.X" if layer is None else f"adata.layers[{layer!r}]"
    summary = check_counts(counts_of(adata, layer), adata.obs_names, adata.var_names, location)
    split = _Split.of(adata, batch_key, test_size, seed)
    scoring = _Scoring(split, layer, batch_key, labels_key, form, resolution)
    columns = [adata.obs[key].astype(str).to_numpy(str) for key in (batch_key, labels_key) if key is not None]
    settings = {  # in their order, which the split depends on
        "data": fingerprint(summary.fingerprints, adata.obs_names, adata.var_names, *columns),
        **{"layer": layer, "batch_key": batch_key, "labels_key": labels_key, "test_size": test_size},
        **{"form": form, "resolution": resolution, "seed": seed},
    }
    kept = _KeptFits(folder, settings)
    todo = list(itertools.product(range(seed, seed + n_seeds), candidates))
    fits: dict[tuple[str, int], Fit] = {}
    for number, name in track(todo, description="Fits", disable=not show_progress):
        candidate = candidates[name]
        fit = kept.found(name, number, candidate)
        if fit is None:
            fit = scoring.fit(candidate, number)
            if fit.scores:
                kept.keep(name, number, candidate, fit)
        if fit.failure:
            logger.warning(
                "%s with seed %s has %s scores: %s", name, number, "not all" if fit.scores else "no", fit.failure
            )
        fits[name, number] = fit
    return _comparison(fits, list(candidates), split)


def _candidates(models: Sequence[type] | Mapping[str, type | Candidate]) -> dict[str, Candidate]:
    """Candidates by name; TypeError or ValueError if they are none."""
    named = models if hasattr(models, "items") else {getattr(each, "__name__", str(each)): each for each in models}
    if not named or len(named) < len(models):
        msg = f"`models` must be classes of models, each once, or candidates by name, got {shown(models)}."
        raise ValueError(msg)
    candidates = {}
    for name, each in named.items():
        candidate = each if isinstance(each, Candidate) else Candidate(each)
        if not (isinstance(candidate.model_cls, type) and hasattr(candidate.model_cls, "setup_anndata")):
            msg = f"`models[{name!r}]` must be a class of models or a `scdgd.tl.Candidate`, got {shown(each)}."
            raise TypeError(msg)
        candidates[str(name)] = candidate
    return candidates


class _Split(NamedTuple):
    """Cells that train and cells that are scored."""

    train: AnnData
    test: AnnData

    @classmethod
    def of(cls, adata: AnnData, batch_key: str | None, test_size: float, seed: int) -> _Split:
        """Random parts; no batch is among the test cells alone."""
        order = np.random.default_rng(seed).permutation(adata.n_obs)
        is_test = np.zeros(adata.n_obs, dtype=bool)
        is_test[order[: round(test_size * adata.n_obs)]] = True
        if batch_key is not None:
            is_test &= adata.obs[batch_key].isin(adata.obs[batch_key][~is_test]).to_numpy()
        if is_test.sum() < 2 or (~is_test).sum() < _KEPT_NEIGHBORS + 2:
            msg = (
                f"{(~is_test).sum()} of {adata.n_obs} cells would train and {is_test.sum()} be scored, which is too few. "
                f"At least {_KEPT_NEIGHBORS + 2} and 2 are needed: change `test_size`."
            )
            raise ValueError(msg)
        return cls(adata[~is_test].copy(), adata[is_test].copy())


class _Scoring:
    """What fits are scored by: the same for all models."""

    def __init__(
        self,
        split: _Split,
        layer: str | None,
        batch_key: str | None,
        labels_key: str | None,
        form: str,
        resolution: float,
    ) -> None:
        self.split, self.form, self.resolution = split, form, resolution
        self.setup = {"layer": layer, "batch_key": batch_key}
        obs, n = split.train.obs, split.train.n_obs
        self.batch = None if batch_key is None or obs[batch_key].nunique() < 2 else obs[batch_key]
        self.labels = None if labels_key is None else obs[labels_key]
        components = min(_COMPONENTS, n - 1, split.train.n_vars - 1)
        self.before = ReferenceEmbedding(counts_of(split.train, layer), n_components=components).coordinates
        least = n if self.batch is None else self.batch.value_counts().min()
        self.n_kept, self.n_mixing = min(_KEPT_NEIGHBORS, least - 1), min(_MIXING_NEIGHBORS, n - 1)

    def fit(self, candidate: Candidate, seed: int) -> Fit:
        """Train and score."""
        with quiet_libraries(), training_seed(seed):
            start = time.perf_counter()
            try:
                model = candidate.fitted(self.split.train.copy(), self.setup)
            except (ArithmeticError, KeyError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
                return Fit({}, np.zeros(0, dtype=int), self._nothing, _message(error))
            seconds = time.perf_counter() - start
            z = model.get_latent_representation()
            clusters, (held_out, failure) = self._clusters(model, z, seed), self._held_out(model)
        scores = {"held_out": float(held_out.mean()), **self._of_space(z), "clusters": float(len(np.unique(clusters)))}
        return Fit({**scores, "seconds": seconds, **self._agreement(clusters)}, clusters, held_out, failure)

    def _clusters(self, model: Any, z: np.ndarray, seed: int) -> np.ndarray:
        n_components = getattr(getattr(model.module, "prior", None), "n_components", 1)
        if hasattr(model, "get_cluster_assignments") and n_components > 1:
            return np.asarray(model.get_cluster_assignments())
        return leiden_clusters(z, resolution=self.resolution, seed=seed)

    def _held_out(self, model: Any) -> tuple[np.ndarray, str]:
        """Log-likelihoods of test cells; or why there are none."""
        try:
            return held_out_log_likelihood(model, self.split.test.copy(), form=self.form).per_cell, ""
        except (NotImplementedError, TypeError, ValueError) as error:
            return self._nothing, _message(error)

    @property
    def _nothing(self) -> np.ndarray:
        return np.full(self.split.test.n_obs, np.nan)

    def _of_space(self, z: np.ndarray) -> dict[str, float]:
        if self.n_kept < 1:
            kept = np.nan
        else:
            kept = neighbors_kept(self.before, z, self.batch, n_neighbors=self.n_kept).score
        mixing = np.nan if self.batch is None else batch_mixing(z, self.batch, n_neighbors=self.n_mixing).score
        return {"mixing": float(mixing), "kept": float(kept)}

    def _agreement(self, clusters: np.ndarray) -> dict[str, float]:
        if self.labels is None:
            return {}
        return {"agreement": _rand_index(self.labels.astype(str).to_numpy(), clusters, self.labels.notna().to_numpy())}


def _message(error: Exception) -> str:
    return str(error.args[0] if error.args else error)


def _rand_index(a: np.ndarray, b: np.ndarray, where: np.ndarray | slice = slice(None)) -> float:
    from sklearn.metrics import adjusted_rand_score

    return float(adjusted_rand_score(a[where], b[where]))


class _KeptFits:
    """Finished fits in a folder, or nowhere."""

    def __init__(self, folder: str | Path | None, settings: dict[str, Any]) -> None:
        self.folder = None if folder is None else Path(folder)
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / _SETTINGS
        if not path.exists():
            with written_whole(path) as part:
                part.write_text(json.dumps(settings))
            return
        found = json.loads(path.read_text())
        other = [f"`{k}` {found.get(k)!r} there and {v!r} here" for k, v in settings.items() if found.get(k) != v]
        if other:
            msg = (
                f"The folder {self.folder} is of another comparison: {'; '.join(other)}. Choose another one, or pass what it was begun "
                "with."
            )
            raise ValueError(msg)

    def found(self, name: str, seed: int, candidate: Candidate) -> Fit | None:
        """A fit that was kept; ``None`` if there is none of that candidate."""
        if self.folder is None or not self._path(name, seed).exists():
            return None
        with np.load(self._path(name, seed)) as file:
            if str(file["candidate"]) != str(candidate):
                return None
            scores = json.loads(str(file["scores"]))
            return Fit(scores, file["clusters"], file["held_out"], str(file["failure"]))

    def keep(self, name: str, seed: int, candidate: Candidate, fit: Fit) -> None:
        """Write a fit, in place of one of another candidate of the name."""
        if self.folder is None:
            return
        with written_whole(self._path(name, seed)) as part, part.open("wb") as file:
            texts = {"candidate": str(candidate), "scores": json.dumps(fit.scores), "failure": fit.failure}
            np.savez_compressed(file, clusters=fit.clusters, held_out=fit.held_out, **texts)

    def _path(self, name: str, seed: int) -> Path:
        safe = "".join(letter if letter.isalnum() else f"%{ord(letter):x}" for letter in name)
        return self.folder / f"{safe}_{seed}.npz"


def _comparison(fits: dict[tuple[str, int], Fit], names: list[str], split: _Split) -> Comparison:
    """Tables of all fits."""
    rows = [{"model": name, "seed": seed, **fit.scores, "failure": fit.failure} for (name, seed), fit in fits.items()]
    table = pd.DataFrame(rows)
    numbers = [name for name in table if name not in ("model", "seed", "failure")]
    means = table.groupby("model")[numbers].mean().reindex(names)
    of_models = {name: [fit for (of, _), fit in fits.items() if of == name and fit.scores] for name in names}
    per_cell = pd.DataFrame({name: _mean_of(done, split.test.n_obs) for name, done in of_models.items()})
    means["stability"] = pd.Series({name: _stability(done) for name, done in of_models.items()})
    if "held_out" in means and means["held_out"].notna().any():
        difference = per_cell.sub(per_cell[means["held_out"].idxmax()], axis=0)
        means.insert(1, "difference", difference.mean())
        means.insert(2, "standard_error", difference.std(ddof=1) / np.sqrt(len(difference)))
        means = means.sort_values("held_out", ascending=False, kind="stable", na_position="last")
    return Comparison(means, table, split.train.n_obs, split.test.n_obs)


def _mean_of(fits: list[Fit], n_cells: int) -> np.ndarray:
    return np.mean([fit.held_out for fit in fits], axis=0) if fits else np.full(n_cells, np.nan)


def _stability(fits: list[Fit]) -> float:
    pairs = [_rand_index(a.clusters, b.clusters) for a, b in itertools.combinations(fits, 2)]
    return float(np.mean(pairs)) if pairs else np.nan
