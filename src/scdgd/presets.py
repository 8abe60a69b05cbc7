"""Published hyper-parameters, one dictionary a paper: ``model`` for the constructor, ``train`` for training.

Where the paper and the code released with it differ there are two. What is not published is said beside it, with whose value stands in
its place. ``split`` has the shares of training and validation cells of the paper, for ``train(**preset["train"], **preset["split"])``
on all cells; without it, training is on all cells that it is given.
"""

from __future__ import annotations

from typing import Any

#: Schuster & Krogh 2023, as the paper says, for sets without settings of their own in ``SCHUSTER_2023_SETS``. ``n_components`` is the
#: number of annotated cell types, the component scale is 0.2 / k. The paper states weight decay "on the decoder" without its
#: size (here the code's), and no batch size (here the code's). It keeps the epoch with the best accuracy by labels, which is not here.
SCHUSTER_2023 = {
    "model": {
        "n_components": "labels",
        "n_latent": 20,
        "n_hidden": 100,
        "n_layers": 3,
        "activation": "relu",
        "gene_likelihood": "nb",
        "dispersion": "gene",
        "dispersion_floor": 0,
        "batch_representation": "one-hot",
        "size_factor": "max",
        "output_activation": "sigmoid",
        "prior": "softball",
        "prior_kwargs": {"covariance_type": "diag", "concentration": 1.0, "scale": 1.0, "sharpness": 1.0},
        "noise_scale": 0.0,
        "hyperprior_weight": {"log_var": "per_cell", "weights": "per_cell", "means": "per_cell"},
        "new_cells": {"n_steps": 10, "lr": 1e-2, "betas": (0.5, 0.7), "anneal": False},
    },
    "train": {
        "max_epochs": 800,
        "batch_size": 256,
        "warm_start": "zeros",
        "batch_balance": False,
        "plan_kwargs": {
            "lr": 1e-3,
            "lr_z": 1e-2,
            "lr_prior": 1e-2,
            "betas": (0.5, 0.7),
            "betas_z": (0.5, 0.7),
            "weight_decay": 1e-4,
            "weight_decay_z": 0.0,
            "weight_decay_prior": 0.0,
            "lr_drop_epoch": 500,
            "lr_drop_factor": 0.1,
            "prior_update": "gradient",
        },
    },
    "split": {"train_size": 0.8, "validation_size": 0.1},
}


def _schuster(max_epochs: int, concentration: float, train_size: float, **model: Any) -> dict[str, dict]:
    of_model = SCHUSTER_2023["model"]
    return {
        "model": {**of_model, "prior_kwargs": {**of_model["prior_kwargs"], "concentration": concentration}, **model},
        "train": {**SCHUSTER_2023["train"], "max_epochs": max_epochs},
        "split": {"train_size": train_size, "validation_size": round(0.9 - train_size, 2)},
    }


#: Their sets with settings of their own: PBMC (Zheng et al. 2017) with 9 and 18 components, of which the second has a Dirichlet
#: concentration of 1, and 20,000 PBMCs.
SCHUSTER_2023_SETS = {
    "pbmc_9": _schuster(700, 2.0, 0.81, n_components=9),
    "pbmc_18": _schuster(600, 1.0, 0.81, n_components=18),
    "pbmc_20k": _schuster(1_000, 1.0, 0.8),
}

#: Schuster & Krogh 2023, as the released code runs: softplus output, theta > 1, weight decay on all three groups,
#: decoder rate dropped at epoch 300 of 500, where the optimisers of decoder and mixture are made anew, without their moments.
SCHUSTER_2023_CODE = {
    "model": {**SCHUSTER_2023["model"], "output_activation": "softplus", "dispersion_floor": 1},
    "train": {
        **SCHUSTER_2023["train"],
        "max_epochs": 500,
        "plan_kwargs": {
            **SCHUSTER_2023["train"]["plan_kwargs"],
            "weight_decay_z": 1e-4,
            "weight_decay_prior": 1e-4,
            "lr_drop_epoch": 300,
            "lr_drop_resets": True,
        },
    },
    "split": SCHUSTER_2023["split"],
}

_SUPERVISED = {"supervision": "components", "components_per_class": 1}

#: The supervised and semi-supervised form of Schuster & Krogh 2023: one component for each label category, which labelled cells
#: are drawn from, and all else as in ``SCHUSTER_2023``. It has no settings of its own in the paper.
SCHUSTER_2023_SUPERVISED = {
    "setup": {},
    "model": {**SCHUSTER_2023["model"], **_SUPERVISED},
    "train": SCHUSTER_2023["train"],
}

#: The same with the settings of the released code, in which a label of 999 is none. Not repeated are its faults: it sums log
#: densities over the components of a class and multiplies by the number of classes, takes absolute values of the log densities of
#: labelled cells, and counts the prior of the parameters twice for the others.
SCHUSTER_2023_SUPERVISED_CODE = {
    "setup": {"unlabeled_category": 999},
    "model": {**SCHUSTER_2023_CODE["model"], **_SUPERVISED},
    "train": SCHUSTER_2023_CODE["train"],
}

_IMAGES_MODEL = {
    "n_latent": 20,
    "gene_likelihood": "cross_entropy",
    "hyperprior_weight": SCHUSTER_2023["model"]["hyperprior_weight"],
    "new_cells": SCHUSTER_2023["model"]["new_cells"],
}
_IMAGES_TRAIN = {
    "max_epochs": 500,
    "batch_size": 256,  # not published
    "warm_start": "zeros",
    "batch_balance": False,
    "plan_kwargs": {
        "lr": 1e-3,
        "lr_z": 1e-2,
        "lr_prior": 1e-1,
        "betas": (0.5, 0.7),
        "betas_z": (0.5, 0.7),
        "prior_update": "gradient",
    },
}
_SOFTBALL_3 = {"covariance_type": "diag", "concentration": 2.0, "scale": 3.0, "sharpness": 5.0}

#: The Fashion-MNIST models of Schuster & Krogh 2023, for images set up with ``is_count_data=False``: ``"dgd"`` with 20 components of
#: scale 3 / 20, ``"dgd_normal"`` with one fixed :math:`\mathcal N(0, I)`, for ``SCDGD``; ``"vad"`` for ``SCVAD``; ``"vae"`` for
#: ``FlexSCVI``. Networks are given beside them: ``decoder=scdgd.module.ConvolutionalDecoder(20, 784)`` (32 channels in their
#: comparisons), ``encoder=ConvolutionalEncoder(784)``. Not here are the PixelCNN layers behind the published decoder. The batch
#: size is not published (here that of the code for cells), nor are decays (here none). Their largest models train 1,000 epochs.
SCHUSTER_2023_IMAGES = {
    "dgd": {
        "model": {
            **_IMAGES_MODEL,
            "n_components": 20,
            "prior": "softball",
            "prior_kwargs": {**_SOFTBALL_3, "component_scale": 3 / 20},
            "noise_scale": 0.0,
        },
        "train": _IMAGES_TRAIN,
    },
    "dgd_normal": {
        "model": {"n_components": 1, "prior": "normal", "noise_scale": 0.0}
        | {key: value for key, value in _IMAGES_MODEL.items() if key != "hyperprior_weight"},
        "train": _IMAGES_TRAIN,
    },
    "vad": {
        "model": {"n_components": 1, "prior": "normal", "initial_scale": 1.0}
        | {key: value for key, value in _IMAGES_MODEL.items() if key != "hyperprior_weight"},
        "train": _IMAGES_TRAIN,
    },
    "vae": {
        "model": {"prior": "normal", "n_latent": 20, "gene_likelihood": "cross_entropy"},
        "train": {
            "max_epochs": 500,
            "batch_size": 256,
            "plan_kwargs": {"lr": 1e-3, "weight_decay": 0.0, "n_epochs_kl_warmup": None},
        },
    },
}

#: Dony et al. 2020, as the paper says, for ``SCVAMP`` (500 pseudo-inputs) and ``SCIAF`` (5 flow steps; components are then
#: not used). The batch size is not published (here the code's), nor is a largest number of epochs (1,000 are ours: training stops
#: before); the paper has 10% validation and 10% test cells. The released code has other widths, no dropout, no penalties, two flow
#: steps, and encodes pseudo-inputs with layers of their own: there is no preset of it.
DONY_2020 = {
    "model": {
        "n_components": 500,
        "n_latent": 128,
        "n_hidden": (512, 256),
        "activation": "tanh",
        "norm_after_activation": True,
        "dropout_rate": 0.2,
        "decoder_dropout_rate": 0.2,
        "normalize_input": True,
        "mean_activation": "exp",
        "gene_likelihood": "nb",
        "dispersion": "gene-cell",
        "posterior_kwargs": {"n_steps": 5},
    },
    "train": {
        "max_epochs": 1_000,
        "batch_size": 128,
        "train_size": 0.8,
        "validation_size": 0.1,
        "early_stopping": True,
        "early_stopping_patience": 100,
        "plan_kwargs": {
            "lr": 5e-5,
            "eps": 1e-8,
            "weight_decay": 0.0,
            "kernel_l1": 5e-4,
            "kernel_l2": 5e-4,
            "reduce_lr_on_plateau": True,
            "lr_factor": 0.5,
            "lr_patience": 10,
            "n_epochs_kl_warmup": None,
        },
    },
}

#: The deterministic autoencoder that Dony et al. 2020 compare with: the same without divergence, for
#: ``FlexSCVI(prior="normal")``. Without it nothing keeps the variance of posteriors, which vanishes.
DONY_2020_AE = {
    "model": {**DONY_2020["model"], "prior": "normal"},
    "train": {**DONY_2020["train"], "plan_kwargs": {**DONY_2020["train"]["plan_kwargs"], "max_kl_weight": 0.0}},
}

_STIRN_MODEL = {
    "n_components": 100,
    "n_hidden": 128,
    "dropout_rate": 0.1,
    "gene_likelihood": "zinb",
    "encode_covariates": True,
    "prior_kwargs": {"responsibilities": "expected"},
    "batch_norm_decay": 0.99,
}
_STIRN_TRAIN = {
    "max_epochs": 10_000,
    "batch_size": 256,
    "train_size": 0.9,
    "early_stopping": True,
    "early_stopping_patience": 100,
}
_STIRN_PLAN = {
    "eps": 1e-7,
    "weight_decay": 0.0,
    "prior_lr_ratio": 1.0,
    "prior_batch_size": 256,
    "encoder_learns_from_prior": True,
    "n_warm_start_epochs": 0,
    "n_epochs_kl_warmup": None,
}


def _stirn(lr: float, **model: Any) -> dict[str, dict]:
    return {"model": {**_STIRN_MODEL, **model}, "train": {**_STIRN_TRAIN, "plan_kwargs": {"lr": lr, **_STIRN_PLAN}}}


#: Stirn & Knowles 2024, for ``SCVMM``, by data set. Batch size and rate ratio were tuned on labels over
#: ``STIRN_2024_GRID``, and the chosen values stand in a figure only: here are 256 and 1. The prior counts once per
#: minibatch: change ``prior_batch_size`` with ``batch_size``. The text says ``"nb"`` for lung, its code ran ``"zinb"``. The gradient
#: of the bound (their eq. 11) reaches the encoder through pseudo-inputs, too, which ours stops unless it is asked for
#: (``encoder_learns_from_prior``): the paper calls encoder weights variational parameters only, but nothing in it stops the gradient.
STIRN_2024 = {
    "cortex": _stirn(4e-4, n_latent=10, n_layers=1),
    "pbmc": _stirn(4e-4, n_latent=10, n_layers=1),
    "lung": _stirn(1e-3, n_latent=30, n_layers=2, gene_likelihood="nb"),
    "split_seq": _stirn(1e-3, n_latent=30, n_layers=2),
}

#: What Stirn & Knowles 2024 tuned over, by labels; the code tries smaller ratios, too, where the rate is 1e-3.
STIRN_2024_GRID = {"batch_size": (128, 256, 512), "prior_lr_ratio": (1.0, 2.5, 5.0, 10.0)}
STIRN_2024_GRID_CODE = {**STIRN_2024_GRID, "prior_lr_ratio": (0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)}

#: Options to add to ``STIRN_2024`` that repeat the first released code of Stirn & Knowles 2024, not its paper: the encoder reads raw
#: counts, covariates enter the first layers only, and gradients pass responsibilities (options of
#: :class:`~scdgd.train.EmpiricalBayesPlan`).
STIRN_2024_CODE = {
    "model": {"log_variational": False, "deeply_inject_covariates": False},
    "plan_kwargs": {"detach_responsibilities": False},
}


def _stirn_images(n_latent: int, prior: str, n_components: int) -> dict[str, dict]:
    return {
        "model": {
            "prior": prior,
            "n_components": n_components,
            "n_latent": n_latent,
            "n_hidden": (500, 500, 2000),
            "use_batch_norm": "none",
            "dropout_rate": 0.0,
            "posterior": "full",
            "gene_likelihood": "isotropic_normal",
        },
        "train": {
            "max_epochs": 10_000,
            "batch_size": 256,
            "early_stopping": True,
            "early_stopping_patience": 100,
            "plan_kwargs": {"lr": 1e-4, **_STIRN_PLAN},
        },
    }


#: The image models of Stirn & Knowles 2024, for ``FlexSCVI`` and pixels from -1 to 1 set up with ``is_count_data=False``: by set,
#: then by prior. Clustering there stops by NMI
#: with labels on validation images; this preset stops by the bound. The tables of the bound train 500 epochs with a patience of 20.
STIRN_2024_IMAGES = {
    name: {
        prior: _stirn_images(n_latent, prior, 1 if prior == "normal" else 100)
        for prior in ("normal", "vamp", "dpgmm", "vmm")
    }
    for name, n_latent in (("mnist", 10), ("fashion", 30))
}

#: VaDE (Jiang et al. 2017) as Stirn & Knowles 2024 compare with it, for ``FlexSCVI`` and images as in ``STIRN_2024_IMAGES``: MNIST;
#: ``JIANG_2017_FASHION`` has 30 dimensions. Pre-training is for round(5 b / 100) epochs with batches of b = 256.
JIANG_2017 = {
    "model": {**STIRN_2024_IMAGES["mnist"]["vamp"]["model"], "prior": "vade", "n_components": 10},
    "train": {
        **STIRN_2024_IMAGES["mnist"]["vamp"]["train"],
        "plan_kwargs": {
            "lr": 1e-4,
            "eps": 1e-7,
            "weight_decay": 0.0,
            "n_pretraining_epochs": 13,
            "pretraining_lr": 2e-3,
            "n_epochs_kl_warmup": None,
        },
    },
}
JIANG_2017_FASHION = {"model": {**JIANG_2017["model"], "n_latent": 30}, "train": JIANG_2017["train"]}

_GRONBECH_MODEL = {
    "n_latent": 2,
    "n_hidden": 100,
    "n_layers": 1,
    "dropout_rate": 0.0,
    "gene_likelihood": "poisson",
    "dispersion": "gene-cell",
    "mean_activation": "rate",
    "log_variational": False,
    "encode_covariates": False,
    "component_weights": "uniform",
    "use_batch_norm": "both",
    "norm_per_component": True,
    "batch_norm_decay": 0.999,
    "batch_norm_scale": False,
    "analytic_kl": False,
}
_GRONBECH_TRAIN = {
    "max_epochs": 500,
    "batch_size": 100,
    "train_size": 0.9,
    "early_stopping": True,
    "early_stopping_patience": 500,
    "gradient_clip_val": 1.0,
    "gradient_clip_algorithm": "value",
    "plan_kwargs": {
        "lr": 1e-4,
        "eps": 1e-8,
        "weight_decay": 0.0,
        "n_warm_start_epochs": 0,
        "component_regularization": "kl",
        "free_nats": 0.0,
        "information_weight": 0.0,
        "prior_lr_ratio": 1.0,
        "n_epochs_kl_warmup": None,
    },
}

#: Grønbech et al. 2020, for ``SCGMVAE`` and ``SCVAE``: the defaults of the released code with the 500 epochs of the paper,
#: its PBMC run and its TCGA run. ``n_components`` is the number of annotated types, which the user passes. Early stopping
#: never stops (the patience is all epochs), but ends in the state with the largest bound on validation cells, 10% of
#: those that are not test cells. The code's batch norm sees one component at a time (``norm_per_component``).
GRONBECH_2020 = {
    "default": {"model": _GRONBECH_MODEL, "train": _GRONBECH_TRAIN},
    "pbmc": {
        "model": {**_GRONBECH_MODEL, "n_latent": 100, "n_layers": 2, "gene_likelihood": "nb"},
        "train": {**_GRONBECH_TRAIN, "plan_kwargs": {**_GRONBECH_TRAIN["plan_kwargs"], "n_epochs_kl_warmup": 200}},
    },
    "tcga": {
        "model": {**_GRONBECH_MODEL, "n_latent": 50, "n_hidden": 1000, "n_layers": 2, "gene_likelihood": "nb"},
        "train": _GRONBECH_TRAIN,
    },
}


def _adjileye(likelihood: str, encoder: tuple[int, ...], decoder: tuple[int, ...], n_latent: int) -> dict[str, Any]:
    return {
        "model": {**_GRONBECH_MODEL, "gene_likelihood": likelihood, "n_hidden": encoder, "n_latent": n_latent},
        "decoder_widths": decoder,
        "train": {
            **{key: value for key, value in _GRONBECH_TRAIN.items() if not key.startswith(("early", "gradient"))},
            "train_size": 0.81,
            "plan_kwargs": {**_GRONBECH_TRAIN["plan_kwargs"], "weight_decay": 5e-2},
        },
    }


#: The review of these models by Adjileye & Si Salah 2023, for ``SCVAE``, by likelihood: the best of their grids, 500 epochs, weight
#: decay of 5e-2 (Adam's), 81% training cells. Their decoders have other widths than their encoders, which ``model`` mirrors: pass
#: ``decoder`` a network of ``decoder_widths``. The Poisson model that ran 500 epochs had one layer of 100 in its encoder. Their divergence is divided by the number of cells, which is a fault and not here.
ADJILEYE_2023 = {
    "poisson": _adjileye("poisson", (100, 250, 500, 1000), (100, 250), 50),
    "nb": _adjileye("nb", (100,), (100, 250, 500, 1000), 100),
    "zip": _adjileye("zip", (100,), (100, 250, 500, 1000), 50),
    "zinb": _adjileye("zinb", (100,), (100,), 100),
}

#: Treppner et al. 2021, for ``SCDBM``: the notebook that was released for the Segerstolpe data, whose rates are the only ones
#: published (the paper says "small"). Rates of layer 1 are those of updates 1 to 3,500, to 4,500 and after. The paper
#: scores dispersions every 5 epochs while layer 1 trains; here they are scored in joint training too. Its pilot study trains on 70% of
#: each sample.
TREPPNER_2021 = {
    "model": {"n_hidden": (4, 2), "theta": 0.5, "n_particles": 100},
    "train": {
        "max_epochs": 110,
        "batch_size": 64,
        "plan_kwargs": {
            "optimizer": "sgd",
            "lr": (((1e-11, 3_500), (5e-5, 1_000), (1e-5, 10_000)), 1e-11, 1e-11),
            "epoch_shares": (60, 40, 10),
            "n_gibbs_steps": (1, 5),
            "collapse": False,
            "restart_rate": 0.0,
            "sum_states": False,
            "bound_means": False,
            "average_share": 0.0,
            "joint_update": "epoch",
            "dispersion": "fisher",
            "dispersion_every": 5,
            "dispersion_penalty": 1.0,
            "n_scoring_steps": 20,
        },
    },
    "split": {"train_size": 0.7},
}
