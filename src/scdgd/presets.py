"""Published hyper-parameters, one dictionary a paper: ``model`` for the constructor, ``train`` for training.

Where the paper and the code released with it differ there are two. ``None`` means that the value is not published.
"""

from __future__ import annotations

#: Schuster & Krogh 2023, as the paper says. PBMC values; ``n_components`` is the number of annotated cell types, the
#: component scale is 0.2 / k, the Dirichlet concentration 2 for k = 9 and 1 for k = 18. The paper states weight decay
#: "on the decoder" without its size (here the code's), and no batch size (here the code's).
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
}

#: Schuster & Krogh 2023, as the released code runs: softplus output, theta > 1, weight decay on all three groups,
#: decoder rate dropped at epoch 300 of 500.
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
        },
    },
}
