"""Fixtures: small AnnData drawn from known negative binomial mixtures, and models with sane defaults."""

from __future__ import annotations

import os
import warnings
from pathlib import Path

import anndata as ad
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest
import scvi
import torch
import zarr
from scipy import sparse

from scdgd.model import SCDGD

mpl.use("Agg")


@pytest.fixture(autouse=True)
def _settings(tmp_path, monkeypatch):
    """Every test starts from the same seeds and writes nowhere else."""
    monkeypatch.setenv("XLA_FLAGS", "")  # scvi-tools lengthens it with every seed
    scvi.settings.seed = 0
    scvi.settings.logging_dir = tmp_path / "log"
    scvi.settings.progress_bar_style = "tqdm"


def simulate(
    n_cells: int = 150, n_genes: int = 30, n_types: int = 3, n_batches: int = 1, *, seed: int = 0, depth: float = 300.0
) -> ad.AnnData:
    """Cells of `n_types` with distinct mean profiles, negative binomial counts (theta 5), equal type sizes."""
    rng = np.random.default_rng(seed)
    profiles = rng.lognormal(0, 1.5, size=(n_types, n_genes))
    profiles /= profiles.sum(axis=1, keepdims=True)
    types = np.arange(n_cells) % n_types
    batches = rng.integers(n_batches, size=n_cells)
    shift = np.exp(rng.normal(0, 0.5, size=(n_batches, n_genes))) if n_batches > 1 else np.ones((1, n_genes))
    means = profiles[types] * shift[batches] * depth * rng.lognormal(0, 0.2, size=(n_cells, 1))
    counts = rng.poisson(rng.gamma(5.0, means / 5.0)).astype(np.float32)
    counts[counts.sum(axis=1) == 0, 0] = 1
    obs = pd.DataFrame(
        {
            "cell_type": pd.Categorical([f"type_{t}" for t in types]),
            "batch": pd.Categorical([f"batch_{b}" for b in batches]),
            "donor": pd.Categorical([f"donor_{d}" for d in rng.integers(2, size=n_cells)]),
            "age": rng.normal(size=n_cells),
            "size": counts.sum(axis=1) / depth,
        },
        index=[f"cell_{i}" for i in range(n_cells)],
    )
    modality = np.where(np.arange(n_genes) < 0.6 * n_genes, "rna", "atac")  # for models of several
    var = pd.DataFrame({"modality": modality}, index=[f"gene_{j}" for j in range(n_genes)])
    return ad.AnnData(sparse.csr_matrix(counts), obs=obs, var=var)


@pytest.fixture
def adata() -> ad.AnnData:
    """150 cells of 3 types, 30 genes."""
    return simulate()


def write_store(adata: ad.AnnData, path: Path, *, zarr_format: int = 3, **counts) -> Path:
    """Write a Zarr store; `counts` says how the parts of ``X`` are stored, as ``chunks`` and ``shards``."""

    def write(write_func, store, name, element, dataset_kwargs, iospec) -> None:
        is_counts = name.strip("/") == "X"
        write_func(store, name, element, dataset_kwargs={**dataset_kwargs, **(counts if is_counts else {})})

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of formats to come
        ad.experimental.write_dispatched(
            zarr.open_group(str(path), mode="w", zarr_format=zarr_format), "/", adata, write
        )
    return path


def make_model(adata: ad.AnnData, *, setup: dict | None = None, **model) -> SCDGD:
    """An untrained small model; what a test cares about is said in its arguments."""
    SCDGD.setup_anndata(adata, **(setup or {}))
    return SCDGD(adata, **{"n_components": 3, "n_latent": 4, "n_hidden": 16, **model})


def train(model: SCDGD, max_epochs: int = 2, **kwargs) -> SCDGD:
    """Train quietly on the CPU."""
    model.train(max_epochs, accelerator="cpu", enable_progress_bar=False, **kwargs)
    return model


@pytest.fixture
def trained(adata) -> SCDGD:
    """A model of `adata` after 3 epochs."""
    return train(make_model(adata, setup={"labels_key": "cell_type"}), 3)


def state_of(model: SCDGD) -> dict[str, torch.Tensor]:
    """A copy of everything a model has learned."""
    return {key: value.clone() for key, value in model.module.state_dict().items()}


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    """Matrices here are tiny: threads only wait for each other, above all where pytest-xdist shares the cores."""
    torch.set_num_threads(1)


@pytest.fixture
def data_folder() -> Path:
    """Folder of real data sets, named by the environment variable SCDGD_DATA."""
    folder = os.environ.get("SCDGD_DATA")
    if folder is None:
        pytest.skip("needs real data sets: set SCDGD_DATA to their folder")
    return Path(folder)
