"""What presets of one paper differ by, as a list; and that models take all of them."""

from __future__ import annotations

import numpy as np
import pytest

from scdgd import presets
from scdgd.model import SCDBM, SCDGD, SCIAF, SCVAD, SCVAE, SCVAMP, SCVMM, FlexSCVI
from tests.conftest import make_model, simulate, train


def flat(preset: dict, before: str = "") -> dict:
    """Values by the names that lead to them."""
    values = {}
    for name, value in preset.items():
        path = f"{before}{name}"
        values |= flat(value, f"{path}.") if isinstance(value, dict) else {path: value}
    return values


def differences(one: dict, other: dict) -> dict:
    """Names whose values differ, with both; ``None`` where there is none."""
    one, other = flat(one), flat(other)
    names = sorted(one.keys() | other.keys())
    return {name: (one.get(name), other.get(name)) for name in names if one.get(name) != other.get(name)}


PLAN, PRIOR = "train.plan_kwargs.", "model.prior_kwargs."
DIFFERENCES = {
    "Schuster, paper and code": (
        presets.SCHUSTER_2023,
        presets.SCHUSTER_2023_CODE,
        {
            "model.dispersion_floor": (0, 1),
            "model.output_activation": ("sigmoid", "softplus"),
            "train.max_epochs": (800, 500),
            f"{PLAN}lr_drop_epoch": (500, 300),
            f"{PLAN}lr_drop_resets": (None, True),
            f"{PLAN}weight_decay_prior": (0.0, 1e-4),
            f"{PLAN}weight_decay_z": (0.0, 1e-4),
        },
    ),
    "Schuster, PBMC with 9 components": (
        presets.SCHUSTER_2023,
        presets.SCHUSTER_2023_SETS["pbmc_9"],
        {
            "model.n_components": ("labels", 9),
            f"{PRIOR}concentration": (1.0, 2.0),
            "split.train_size": (0.8, 0.81),
            "split.validation_size": (0.1, 0.09),
            "train.max_epochs": (800, 700),
        },
    ),
    "Schuster, PBMC with 18 components": (
        presets.SCHUSTER_2023_SETS["pbmc_9"],
        presets.SCHUSTER_2023_SETS["pbmc_18"],
        {"model.n_components": (9, 18), f"{PRIOR}concentration": (2.0, 1.0), "train.max_epochs": (700, 600)},
    ),
    "Schuster, 20,000 PBMCs": (
        presets.SCHUSTER_2023,
        presets.SCHUSTER_2023_SETS["pbmc_20k"],
        {"train.max_epochs": (800, 1_000)},
    ),
    "Schuster, images of the DGD and of the VAD": (
        presets.SCHUSTER_2023_IMAGES["dgd_normal"],
        presets.SCHUSTER_2023_IMAGES["vad"],
        {"model.initial_scale": (None, 1.0), "model.noise_scale": (0.0, None)},
    ),
    "Dony, VampPrior and autoencoder": (
        presets.DONY_2020,
        presets.DONY_2020_AE,
        {"model.prior": (None, "normal"), f"{PLAN}max_kl_weight": (None, 0.0)},
    ),
    "Stirn, cortex and lung": (
        presets.STIRN_2024["cortex"],
        presets.STIRN_2024["lung"],
        {
            "model.gene_likelihood": ("zinb", "nb"),
            "model.n_latent": (10, 30),
            "model.n_layers": (1, 2),
            f"{PLAN}lr": (4e-4, 1e-3),
        },
    ),
    "Stirn, lung and SPLiT-seq": (
        presets.STIRN_2024["lung"],
        presets.STIRN_2024["split_seq"],
        {"model.gene_likelihood": ("nb", "zinb")},
    ),
    "Stirn, images": (
        presets.STIRN_2024_IMAGES["mnist"]["vmm"],
        presets.STIRN_2024_IMAGES["fashion"]["vmm"],
        {"model.n_latent": (10, 30)},
    ),
    "Grønbech, defaults and PBMC": (
        presets.GRONBECH_2020["default"],
        presets.GRONBECH_2020["pbmc"],
        {
            "model.gene_likelihood": ("poisson", "nb"),
            "model.n_latent": (2, 100),
            "model.n_layers": (1, 2),
            f"{PLAN}n_epochs_kl_warmup": (None, 200),
        },
    ),
    "Grønbech and the review": (
        presets.GRONBECH_2020["default"],
        presets.ADJILEYE_2023["zinb"],
        {
            "decoder_widths": (None, (100,)),
            "model.gene_likelihood": ("poisson", "zinb"),
            "model.n_hidden": (100, (100,)),
            "model.n_latent": (2, 100),
            "train.early_stopping": (True, None),
            "train.early_stopping_patience": (500, None),
            "train.gradient_clip_algorithm": ("value", None),
            "train.gradient_clip_val": (1.0, None),
            "train.train_size": (0.9, 0.81),
            f"{PLAN}weight_decay": (0.0, 5e-2),
        },
    ),
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_differences_are_those_that_are_listed(name):
    one, other, expected = DIFFERENCES[name]
    assert differences(one, other) == expected


def test_grids():
    paper, code = presets.STIRN_2024_GRID, presets.STIRN_2024_GRID_CODE
    assert set(code["prior_lr_ratio"]) - set(paper["prior_lr_ratio"]) == {0.1, 0.25, 0.5}
    assert code["batch_size"] == paper["batch_size"]


_IMAGES, _GRONBECH = presets.SCHUSTER_2023_IMAGES, presets.GRONBECH_2020
#: A model of each preset, but for those whose own tests train them.
BUILT = {
    **{name: (SCDGD, preset) for name, preset in presets.SCHUSTER_2023_SETS.items()},
    **{f"images {name}": (SCDGD, _IMAGES[name]) for name in ("dgd", "dgd_normal")},
    "images vad": (SCVAD, _IMAGES["vad"]),
    "images vae": (FlexSCVI, _IMAGES["vae"]),
    **{f"mnist {name}": (FlexSCVI, preset) for name, preset in presets.STIRN_2024_IMAGES["mnist"].items()},
    "VaDE, Fashion": (FlexSCVI, presets.JIANG_2017_FASHION),
    **{f"review {name}": (SCVAE, preset) for name, preset in presets.ADJILEYE_2023.items()},
    "SCIAF": (SCIAF, presets.DONY_2020),
    "SCVAMP": (SCVAMP, presets.DONY_2020),
    "SCVMM": (SCVMM, presets.STIRN_2024["lung"]),
    "SCDBM": (SCDBM, presets.TREPPNER_2021),
}


@pytest.mark.parametrize("name", BUILT)
def test_models_take_them(name):
    model_class, preset = BUILT[name]
    adata, small = simulate(30, 6), {}
    if preset["model"].get("gene_likelihood") in ("cross_entropy", "isotropic_normal"):
        adata.X = np.random.default_rng(0).uniform(size=(30, 6)).astype(np.float32)
        model_class.setup_anndata(adata, is_count_data=False)
    else:
        model_class.setup_anndata(adata, labels_key="cell_type")
    if isinstance(preset["model"].get("n_components"), int):
        small["n_components"] = 2
    if model_class in (FlexSCVI, SCVAE, SCVAMP, SCIAF):
        small["n_hidden"] = (6, 4)
    model = model_class(adata, **preset["model"] | small)
    model._training_plan_cls(model.module, **preset["train"]["plan_kwargs"])
    shares = {**preset["train"], **preset.get("split", {})}
    assert 0 < shares.get("train_size", 0.9) + shares.get("validation_size", 0) <= 1


def test_optimisers_begin_anew_where_the_rate_drops():
    """As the released code makes them: steps are counted from there, and the first has the size of the rate."""
    steps = {}
    for resets in (False, True):
        model = make_model(simulate(40, 6), noise_scale=0.0)
        plan_kwargs = {"lr_drop_epoch": 2, "lr_drop_resets": resets, "prior_update": "gradient"}
        train(model, 3, batch_size=20, plan_kwargs=plan_kwargs, mixture_start=0)
        decoder, prior = model.trainer.optimizers
        of_each = [{int(state["step"]) for state in optimizer.state.values()} for optimizer in (decoder, prior)]
        steps[resets] = of_each
        assert decoder.param_groups[0]["lr"] == pytest.approx(0.1 * model.trainer.lightning_module.lr)
    assert steps == {False: [{6}, {6}], True: [{2}, {2}]}
