"""Published settings: the values as printed in the papers, and that they train; and what mixtures find by default."""

from __future__ import annotations

import numpy as np
import pytest
import scvi
import torch
from torch import nn

from scdgd import presets
from scdgd.metrics import n_used_components
from scdgd.model import SCIAF, SCVAMP, SCVMM, FlexSCVI
from scdgd.train import EmpiricalBayesPlan
from tests.conftest import simulate, train


def fit(cls: type[FlexSCVI], preset: dict, max_epochs: int = 2, n_cells: int = 100, **model) -> FlexSCVI:
    """Built and trained as a user would with a preset, but not for as long."""
    adata = simulate(n_cells, 15, n_batches=2)
    cls.setup_anndata(adata, batch_key="batch")
    fitted = cls(adata, **{**preset["model"], **model})
    return train(fitted, **{**preset["train"], "max_epochs": max_epochs})


def test_dony():
    """Dony et al. 2020: 512-256-128-256-512, tanh, batch norm, dropout 0.2, L1 and L2 5e-4, Adam 5e-5 with a plateau."""
    assert presets.DONY_2020["model"]["n_components"] == 500
    assert presets.DONY_2020["train"]["early_stopping_patience"] == 100
    assert (presets.DONY_2020["train"]["train_size"], presets.DONY_2020["train"]["validation_size"]) == (0.8, 0.1)
    model = fit(SCVAMP, presets.DONY_2020, n_components=20)
    module, plan = model.module, model.trainer.lightning_module
    widths = [
        [layer[0].out_features for layer in part.fc_layers]
        for part in (module.z_encoder.encoder, module.decoder.px_decoder)
    ]
    assert widths == [[512, 256], [256, 512]]
    assert (module.n_latent, module.gene_likelihood, module.dispersion) == (128, "nb", "gene-cell")
    for part in (module.z_encoder.encoder, module.decoder.px_decoder):
        for layer in part.fc_layers:
            kinds = [type(p) for p in layer if p is not None]
            assert kinds == [nn.Linear, nn.Tanh, nn.BatchNorm1d, nn.Dropout]
            assert layer[-1].p == 0.2
    assert (module.normalize_input, module.link.name) == (True, "exp")
    assert (plan.lr, plan.weight_decay, plan.kernel_l1, plan.kernel_l2) == (5e-5, 0.0, 5e-4, 5e-4)
    assert (plan.reduce_lr_on_plateau, plan.lr_factor, plan.lr_patience) == (True, 0.5, 10)
    assert (plan.n_epochs_kl_warmup, plan.max_kl_weight) == (None, 1.0)
    assert len(model.validation_indices) == len(model.test_indices) == 10
    assert np.isfinite(float(model.get_elbo()))
    flow = fit(SCIAF, presets.DONY_2020).module
    assert (len(flow.flow.steps), type(flow.prior).__name__) == (5, "StandardNormal")


def test_dony_autoencoder():
    """The same without divergence, which the ELBO shows but the loss does not weigh."""
    model = fit(FlexSCVI, presets.DONY_2020_AE)
    plan = model.trainer.lightning_module
    assert float(plan.kl_weight) == 0
    assert (model.module.flow, type(model.module.prior).__name__) == (None, "StandardNormal")
    assert {**presets.DONY_2020_AE["model"], "prior": None} == {**presets.DONY_2020["model"], "prior": None}


@pytest.mark.parametrize(
    ("name", "lr", "n_latent", "n_layers", "likelihood"),
    [
        ("cortex", 4e-4, 10, 1, "zinb"),
        ("pbmc", 4e-4, 10, 1, "zinb"),
        ("lung", 1e-3, 30, 2, "nb"),
        ("split_seq", 1e-3, 30, 2, "zinb"),
    ],
)
def test_stirn(name, lr, n_latent, n_layers, likelihood):
    preset = presets.STIRN_2024[name]
    assert preset["model"]["n_components"] == 100
    assert preset["train"]["max_epochs"] == 10_000
    assert preset["train"]["early_stopping_patience"] == 100
    assert preset["train"]["train_size"] == 0.9
    assert preset["train"]["batch_size"] == preset["train"]["plan_kwargs"]["prior_batch_size"] == 256
    model = fit(SCVMM, preset, n_components=20)
    module, plan = model.module, model.trainer.lightning_module
    assert (plan.lr, plan.eps, plan.weight_decay, plan.prior_lr_ratio) == (lr, 1e-7, 0.0, 1.0)
    assert (plan.n_epochs_kl_warmup, float(plan.kl_weight)) == (None, 1.0)
    assert plan.loss_kwargs["encoder_learns_from_prior"] is True
    assert (module.n_latent, module.gene_likelihood) == (n_latent, likelihood)
    assert module.encode_covariates
    widths = [layer[0].out_features for layer in module.z_encoder.encoder.fc_layers]
    assert widths == [128] * n_layers
    assert module.z_encoder.encoder.fc_layers[0][-1].p == 0.1
    assert module.prior.wishart.covariance_type == "full"
    assert np.isfinite(float(model.get_elbo()))


def test_stirn_grid_and_code():
    assert presets.STIRN_2024_GRID["batch_size"] == (128, 256, 512)
    assert presets.STIRN_2024_GRID["prior_lr_ratio"] == (1.0, 2.5, 5.0, 10.0)
    preset = presets.STIRN_2024["pbmc"]
    code = presets.STIRN_2024_CODE
    plan = {**preset["train"]["plan_kwargs"], **code["plan_kwargs"]}
    preset = {"model": preset["model"] | code["model"], "train": {**preset["train"], "plan_kwargs": plan}}
    model = fit(SCVMM, preset, n_components=20)
    plan = model.trainer.lightning_module
    assert plan.prior_update.detach_responsibilities is False
    assert plan.loss_kwargs["encoder_learns_from_prior"] is True
    assert model.module.log_variational is False
    assert [model.module.z_encoder.encoder.inject_into_layer(i) for i in range(2)] == [True, False]


def test_jiang():
    """VaDE as Stirn & Knowles 2024 ran it: 13 = round(5 * 256 / 100) epochs at 2e-3, then 1e-4; 10 components."""
    plan = presets.JIANG_2017["train"]["plan_kwargs"]
    assert (plan["n_pretraining_epochs"], plan["pretraining_lr"], plan["lr"]) == (round(5 * 256 / 100), 2e-3, 1e-4)
    model = fit(FlexSCVI, presets.JIANG_2017, max_epochs=14, n_hidden=(16, 16, 32))
    assert [layer[0].out_features for layer in model.module.z_encoder.encoder.fc_layers] == [16, 16, 32]
    assert presets.JIANG_2017["model"]["n_hidden"] == (500, 500, 2000)
    assert (model.module.prior.n_components, model.module.n_latent) == (10, 10)
    assert presets.JIANG_2017_FASHION["model"] == presets.JIANG_2017["model"] | {"n_latent": 30}
    assert model.module.couplings is not None
    assert not any(isinstance(part, nn.BatchNorm1d | nn.Dropout) for part in model.module.z_encoder.modules())
    assert type(model.module.prior).__name__ == "VaDEMixture"
    assert bool(model.module.prior.placed)
    assert model.trainer.optimizers[0].param_groups[0]["lr"] == 1e-4
    assert torch.pdist(model.module.prior.means).min() > 1e-3


def test_presets_are_not_changed_by_use():
    import copy

    before = copy.deepcopy({name: getattr(presets, name) for name in dir(presets) if name.isupper()})
    fit(SCVMM, presets.STIRN_2024["pbmc"], n_components=5)
    fit(SCVAMP, presets.DONY_2020, n_components=5)
    assert before == {name: getattr(presets, name) for name in dir(presets) if name.isupper()}


@pytest.mark.parametrize(
    ("prior", "ratio"),
    [("vmm", 5.0), ("dpgmm", 2.5), ("gaussian_mixture", 5.0), ("vamp", 1.0), ("vade", 1.0), ("normal", 1.0)],
)
def test_rate_of_the_prior(prior, ratio):
    """By default that of docs/benchmarks_priors.md, or of the networks where the ELBO trains the prior."""
    adata = simulate(20, 5)
    FlexSCVI.setup_anndata(adata)
    module = FlexSCVI(adata, prior=prior, n_components=2).module
    assert EmpiricalBayesPlan(module).prior_lr_ratio == ratio
    assert EmpiricalBayesPlan(module, prior_lr_ratio=2.0).prior_lr_ratio == 2.0


@pytest.mark.slow
@pytest.mark.parametrize("prior", ["vmm", "dpgmm"])
@pytest.mark.parametrize("n_components", [30, 100])
def test_mixtures_use_as_many_components_as_there_are_types(prior, n_components):
    """Six types of equal size, default options: 6 +- 1 components of 1% of the cells or more, on most of five seeds."""
    used = []
    for seed in range(5):
        scvi.settings.seed = seed
        adata = simulate(1_200, 100, 6, seed=seed, depth=1000.0)
        FlexSCVI.setup_anndata(adata)
        model = train(FlexSCVI(adata, prior=prior, n_components=n_components), None)
        used.append(n_used_components(model.get_cluster_assignments()))
    assert sum(5 <= n <= 7 for n in used) >= 3, used
