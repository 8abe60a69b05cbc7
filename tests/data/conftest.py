"""Cells of a reference, and of a query, that tests of registration share."""

from __future__ import annotations

import anndata as ad
import pandas as pd
import pytest

from tests.conftest import simulate


@pytest.fixture
def reference() -> ad.AnnData:
    """60 cells of 3 types in 2 batches, 8 genes."""
    return simulate(60, 8, n_batches=2)


@pytest.fixture
def query() -> ad.AnnData:
    """12 other cells of the same kind."""
    new = simulate(12, 8, n_batches=2, seed=1)
    new.obs_names = [f"new_{i}" for i in range(12)]
    new.obs["batch"] = pd.Categorical(["batch_0", "batch_1"] * 6)
    return new
