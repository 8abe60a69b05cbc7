"""One fit of a pilot study: draw a pilot, train, generate, score."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from threadpoolctl import threadpool_limits

from scdgd.data import counts_of
from scdgd.metrics import ReferenceEmbedding, cluster_scores, gene_correlation_error, gene_mads
from scdgd.train._seeding import quiet_libraries, training_seed

from ._pilot_ledger import COLUMNS, FAILED, MESSAGE
from ._pilot_models import PilotModel, draw_cells

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData
    from scipy import sparse


class Reference(NamedTuple):
    """What synthetic cells are compared with."""

    adata: AnnData
    """All cells, raw counts in ``X``."""
    labels: np.ndarray
    """Reference cluster of each cell, shape ``(n,)``."""
    embedding: ReferenceEmbedding
    """Fitted to all cells."""
    n_synthetic: int
    """Number of synthetic cells."""
    space: Literal["pca", "counts"]
    """Space of the Davies-Bouldin index."""
    resolution: float
    """Of Leiden clusters of synthetic cells."""
    seed: int
    """Of the study."""

    def draw_pilot(self, n_pilot: int, repeat: int) -> AnnData:
        """A random pilot, without replacement; the same for all models."""
        rng = np.random.default_rng([self.seed, n_pilot, repeat])
        return self.adata[np.sort(rng.choice(self.adata.n_obs, n_pilot, replace=False))].copy()

    def score(self, synthetic: AnnData) -> dict[str, float]:
        """Scores of synthetic cells; those of embeddings and clusters have the seed of the study."""
        real, counts = counts_of(self.adata), counts_of(synthetic[:, self.adata.var_names])
        clusters = self.score_clusters(counts)
        ratio = float((counts.sum() / counts.shape[0]) / (real.sum() / real.shape[0]))
        genes = {f"mad_{name}": value for name, value in gene_mads(real, counts)._asdict().items()}
        return clusters | genes | {"correlation_error": gene_correlation_error(real, counts), "mean_count_ratio": ratio}

    def score_clusters(self, counts: sparse.csr_matrix) -> dict[str, float]:
        """:func:`scdgd.metrics.cluster_scores` of counts ``(m, g)``."""
        options = {"space": self.space, "resolution": self.resolution, "seed": self.seed}
        return cluster_scores(counts_of(self.adata), self.labels, counts, embedding=self.embedding, **options)


class Fit(NamedTuple):
    """Which fit: its results depend on nothing else, but for the reference and the factory."""

    model: str
    n_pilot: int
    repeat: int

    def seed(self, study: int, purpose: str) -> int:
        """Seed of a step of this fit, below :math:`2^{32}`."""
        words = [study, self.n_pilot, self.repeat, *f"{self.model}/{purpose}".encode()]
        return int(np.random.SeedSequence(words).generate_state(1)[0])


def run_fit(fit: Fit, model: PilotModel, reference: Reference) -> pd.DataFrame:
    """Rows of one fit, all modes, with a column ``"message"``; if something fails, rows that say so, with the reason.

    The last row of each mode is ``"failed"``.
    """
    rows: list[tuple] = []
    start = time.perf_counter()
    with _by_itself(fit.seed(reference.seed, "fit")):
        try:
            generator = model.factory(reference.draw_pilot(fit.n_pilot, fit.repeat))
            seconds, error = time.perf_counter() - start, None
            _check_interruption(generator)
        except Exception as failure:  # noqa: BLE001  (recorded and reported; other fits go on)
            generator, seconds, error = None, time.perf_counter() - start, failure
        for mode in model.modes:
            scores, failure = {}, error
            if error is None:
                scores, failure = _scores(generator, mode, fit.seed(reference.seed, mode), reference)
            scores |= {"fit_seconds": seconds, FAILED: float(failure is not None)}
            message = "" if failure is None else " ".join(f"{type(failure).__name__}: {failure}".split())
            rows += [(fit.model, mode, fit.n_pilot, fit.repeat, *score, message) for score in scores.items()]
    return pd.DataFrame(rows, columns=[*COLUMNS, MESSAGE])


def failed_fit(fit: Fit, model: PilotModel, message: str) -> pd.DataFrame:
    """Rows of a fit that gave nothing, as :func:`run_fit` has them."""
    rows = [(fit.model, mode, fit.n_pilot, fit.repeat, FAILED, 1.0, message) for mode in model.modes]
    return pd.DataFrame(rows, columns=[*COLUMNS, MESSAGE])


def _scores(generator: Any, mode: str, seed: int, reference: Reference) -> tuple[dict[str, float], Exception | None]:
    try:
        return reference.score(draw_cells(generator, reference.n_synthetic, mode, seed)), None
    except Exception as failure:  # noqa: BLE001  (as above)
        return {}, failure


def _check_interruption(generator: Any) -> None:
    """End the study if training was interrupted: models of this package would else count as trained."""
    interruption = getattr(getattr(generator, "trainer", None), "interruption", None)
    if getattr(interruption, "ended", False):
        raise KeyboardInterrupt


@contextlib.contextmanager
def _by_itself(seed: int) -> Iterator[None]:
    """One thread, fixed seeds and no chatter inside the block, everything as before after it."""
    n_threads = torch.get_num_threads()
    with training_seed(seed), threadpool_limits(1), quiet_libraries():
        try:
            torch.set_num_threads(1)
            yield
        finally:
            torch.set_num_threads(n_threads)
