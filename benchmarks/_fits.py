"""Models as benchmarks train them, and what they are compared by."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import numpy as np
import scanpy as sc
import torch
from _benchmark import cpu_seconds
from _sets import batch_key
from lightning.pytorch.callbacks import Callback
from sklearn.neighbors import KNeighborsClassifier, NearestNeighbors

from scdgd.metrics import held_out_log_likelihood

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData

    from scdgd.metrics import HeldOutScore

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


def built(cls: type, adata: AnnData, *, setup: dict[str, str] | None = None, **options: Any) -> Any:
    """A model of these cells, which knows their batches, if they have several, and the further columns of `setup`."""
    cls.setup_anndata(adata, **batch_key(adata), **(setup or {}))
    return cls(adata, **options)


def fit_model(model: Any, epochs: int | None = None, **options: Any) -> float:
    """Train for so many epochs, or as many as is the default; CPU seconds."""
    return cpu_seconds(lambda: model.train(epochs, **QUIET, **options))


def trained(cls: type, adata: AnnData, epochs: int | None = None, training: dict | None = None, **options: Any) -> Any:
    """:func:`built` and trained."""
    model = built(cls, adata, **options)
    fit_model(model, epochs, **(training or {}))
    return model


def log_evidence(model: Any, adata: AnnData, **options: Any) -> float:
    """Mean over cells of the importance-weighted log likelihood, nats; stock models give that of means of minibatches."""
    return float(np.asarray(model.get_marginal_ll(adata, return_mean=False, **options)).mean())


def silent(plan_cls: type) -> type:
    """The training plan without a history, which takes half of the time of small minibatches; the result is the same."""

    class SilentPlan(plan_cls):
        def log(self, *args, **kwargs) -> None:
            pass

        def compute_and_log_metrics(self, *args, **kwargs) -> None:
            pass

    return SilentPlan


class Trace(Callback):
    """Held-out score and CPU seconds of training so far, every few epochs: tuples of epoch, seconds and score."""

    def __init__(
        self, model: Any, test: AnnData, every: int, score: Callable[..., HeldOutScore] = held_out_log_likelihood
    ) -> None:
        self.model, self.test, self.every, self.score, self.points = model, test, every, score, []
        self.off_clock, self.start = 0.0, time.process_time()

    @property
    def seconds(self) -> float:
        """CPU seconds since the callback was made, without those of scoring."""
        return time.process_time() - self.start - self.off_clock

    def on_train_epoch_end(self, trainer, plan) -> None:
        epoch = trainer.current_epoch + 1
        if epoch % self.every == 0:
            self.add(epoch)

    def end(self, epoch: int) -> None:
        """Score after the last epoch, if that has not been done."""
        if not self.points or self.points[-1][0] < epoch:
            self.add(epoch)

    def add(self, epoch: int) -> None:
        """Score the model, whose training goes on as if nothing had happened."""
        model, seconds, began = self.model, self.seconds, time.process_time()
        was_trained, was_training = model.is_trained_, model.module.training
        model.is_trained_ = True
        model.module.eval()
        with torch.random.fork_rng():
            self.points.append((epoch, seconds, self.score(model, self.test).log_likelihood))
        if hasattr(model, "cells"):
            model.cells.forget_placed()  # the decoder is about to change
        model.is_trained_ = was_trained
        model.module.train(was_training)
        self.off_clock += time.process_time() - began


def principal_components(adata: AnnData, n_comps: int, seed: int = 0) -> np.ndarray:
    """Of log-normalised counts, shape ``(n, n_comps)``."""
    adata = adata.copy()
    sc.pp.normalize_total(adata)
    sc.pp.log1p(adata)
    sc.pp.pca(adata, n_comps=n_comps, random_state=seed)
    return adata.obsm["X_pca"]


def neighbor_accuracy(z: np.ndarray, labels: np.ndarray, k: int) -> float:
    """Share of cells whose label most of their `k` nearest others have."""
    types, codes = np.unique(labels, return_inverse=True)
    near = codes[NearestNeighbors(n_neighbors=k).fit(z).kneighbors(return_distance=False)]
    votes = np.stack([(near == t).sum(axis=1) for t in range(len(types))], axis=1)
    return float((votes.argmax(axis=1) == codes).mean())


def transfer_accuracy(z: np.ndarray, labels: np.ndarray, z_query: np.ndarray, truth: np.ndarray, k: int = 15) -> float:
    """Share of queries whose label most of the nearest cells with labels have."""
    classifier = KNeighborsClassifier(min(k, len(z))).fit(z, labels)
    return float((classifier.predict(z_query) == truth).mean())
