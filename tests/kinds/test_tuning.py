"""Hyper-parameters are searched by scvi-tools on all models; needs ray."""

from __future__ import annotations

import pytest
import scvi

from .models import OURS, data

_TRAINING = {"max_epochs": 3, "accelerator": "cpu"}
#: Models whose validation cells have another measure than the ELBO.
_METRICS = {"SCDBM": "free_energy_validation"}


@pytest.mark.slow
@pytest.mark.parametrize("name", OURS)
def test_one_trial(name, tmp_path):
    tune = pytest.importorskip("ray.tune")
    tuning = pytest.importorskip("scvi.autotune", exc_type=ImportError)
    adata, _ = data()
    model_class, options = OURS[name]
    model_class.setup_anndata(adata, batch_key="batch")
    metric = _METRICS.get(name, "elbo_validation")
    space = {
        "model_params": {key: tune.choice([value]) for key, value in options.items()},
        "train_params": {**_TRAINING, "train_size": 0.8},
    }
    scvi.settings.logging_dir = tmp_path
    found = tuning.run_autotune(
        model_class, adata, metric, "min", space, 1, scheduler="fifo", searcher="random", seed=0, resources={"cpu": 1},
        ignore_reinit_error=True,
    )  # fmt: skip
    assert found.result_grid[0].error is None
    assert found.result_grid[0].metrics[metric] > 0
