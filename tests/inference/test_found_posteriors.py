"""Posteriors of cells that lack genes, in models with an encoder: modes, evidence by quadrature, and how they widen."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import scvi
import torch
from scvi import REGISTRY_KEYS

from scdgd._compat import MODULE_KEYS
from scdgd._constants import MEASURED_KEY
from scdgd.inference import with_found_posteriors
from scdgd.inference._encoder_posterior import fisher_of_counts
from scdgd.model import SCGMVAE, SCIAF, SCVMM, FlexSCVI
from scdgd.module._absent_genes import FOUND_MEAN_KEY, FOUND_SCALE_KEY
from tests.conftest import simulate, train

MODELS = {
    "FlexSCVI": (FlexSCVI, {"prior": "gaussian_mixture", "n_components": 2, "gene_likelihood": "nb"}),
    "SCVMM": (SCVMM, {"n_components": 3}),
    "SCIAF": (SCIAF, {"gene_likelihood": "nb"}),
    "SCGMVAE": (SCGMVAE, {"n_components": 2, "gene_likelihood": "nb"}),
    "SCVAE, own": (SCGMVAE, {"n_components": 1, "k_max": 2}),
}


#: One in the quick tests, all in the slow ones.
every_model = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name == "FlexSCVI" else pytest.mark.slow) for name in MODELS]
)


@functools.cache
def fitted(name: str, n_latent: int = 1, max_epochs: int = 10):
    """A small trained model, shared by tests, which leave it as it is."""
    kind, options = MODELS[name]
    adata = simulate(100, 30, depth=100.0)
    kind.setup_anndata(adata)
    model = train(kind(adata, n_latent=n_latent, n_hidden=16, **options), max_epochs, train_size=1.0)
    scvi.settings.seed = 0  # whether it was trained for this test or for another one
    return model


def minibatch(model, n_left: int = 12, n_cells: int = 10, n_lacking: int | None = None) -> dict:
    """Cells of which the first lack all genes but some."""
    (tensors,) = model._make_data_loader(model.adata, indices=np.arange(n_cells), batch_size=n_cells)
    measured = torch.ones(n_cells, 30, dtype=torch.bool)
    measured[:n_lacking, torch.from_numpy(np.random.default_rng(0).permutation(30)[n_left:])] = False
    dense = tensors[REGISTRY_KEYS.X_KEY].to_dense() * measured
    x = type(tensors[REGISTRY_KEYS.X_KEY]).from_dense(dense)
    return {**tensors, REGISTRY_KEYS.X_KEY: x, MEASURED_KEY: measured}


def log_joint(model, tensors: dict, z: torch.Tensor) -> torch.Tensor:
    """Log joint density at representations ``(s, d)`` of all cells, shape ``(s, b)``, genes one by one."""
    module, prior = model.module, model.module.given_prior()
    dense, measured, found = tensors[REGISTRY_KEYS.X_KEY].to_dense(), tensors[MEASURED_KEY], []
    for one in z:
        px = module.decode(one.expand(len(dense), -1), module.log_size(tensors), tensors)
        found.append((px.log_prob(dense) * measured).sum(-1).double() + prior.log_prob(one.unsqueeze(0)))
    return torch.stack(found)


def test_nothing_is_found_where_all_genes_were_measured():
    model = fitted("FlexSCVI")
    tensors = minibatch(model, n_lacking=0)
    assert with_found_posteriors(model.module, tensors) is tensors
    del tensors[MEASURED_KEY]
    assert with_found_posteriors(model.module, tensors) is tensors


@every_model
def test_found_means_are_modes_and_evidence_equals_quadrature(name):
    model = fitted(name)
    model.module.eval()
    tensors = with_found_posteriors(model.module, minibatch(model, n_lacking=7))
    mean, scale = tensors[FOUND_MEAN_KEY], tensors[FOUND_SCALE_KEY]
    assert mean[7:].isnan().all()
    grid = torch.linspace(-6, 6, 301)
    with torch.no_grad():
        values = log_joint(model, tensors, grid.unsqueeze(1))
        near = [
            torch.stack([log_joint(model, tensors, (z + shift).unsqueeze(0))[0, i] for i, z in enumerate(mean[:7])])
            for shift in (0.0, -0.1, 0.1)
        ]
    assert (near[0] > torch.maximum(near[1], near[2]) - 0.05).all()
    is_highest = values[:, :7].amax(0) - near[0] < 0.02
    assert is_highest.double().mean() > 0.6  # others end in another maximum
    evidence = torch.logsumexp(values, 0) + np.log(12 / 300)
    estimate = model.module.marginal_ll(tensors, 1_000, n_mc_samples_per_pass=1_000)
    close = (estimate - evidence).abs() < 0.1
    assert close[:7][is_highest].double().mean() > 0.7
    assert (scale[:7] > 0).all()


def test_cells_do_not_depend_on_the_minibatch():
    model = fitted("FlexSCVI")
    tensors = minibatch(model)
    few = {key: value[torch.arange(4)] for key, value in tensors.items()}
    many, few = (with_found_posteriors(model.module, cells) for cells in (tensors, few))
    for key in (FOUND_MEAN_KEY, FOUND_SCALE_KEY):
        np.testing.assert_allclose(many[key][:4], few[key], atol=1e-4)


@every_model
def test_posteriors_widen_as_genes_go(name):
    model = fitted(name)
    scales = [
        with_found_posteriors(model.module, minibatch(model, n, 40))[FOUND_SCALE_KEY].log().mean()
        for n in (29, 15, 5, 1)
    ]
    assert np.all(np.diff(scales) > 0)


def test_the_module_and_the_generator_stay_as_they_are():
    model = fitted("FlexSCVI")
    module, tensors = model.module.train(), minibatch(model)
    state = {key: value.clone() for key, value in module.state_dict().items()}
    before = torch.get_rng_state()
    with torch.inference_mode():
        with_found_posteriors(module, tensors)
    assert torch.equal(torch.get_rng_state(), before)
    assert module.training
    assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
    module.eval()


def test_readings_of_a_minibatch_take_what_was_found():
    model = fitted("FlexSCVI")
    module = model.module
    tensors = with_found_posteriors(module, minibatch(model, n_lacking=6))
    with torch.no_grad():
        outputs, given = module(tensors, compute_loss=False)
    np.testing.assert_array_equal(outputs[MODULE_KEYS.QZ_KEY].loc[:6], tensors[FOUND_MEAN_KEY][:6])
    px, x, measured = given[MODULE_KEYS.PX_KEY], tensors[REGISTRY_KEYS.X_KEY].to_dense(), tensors[MEASURED_KEY]
    np.testing.assert_allclose((px.mean * measured).sum(1), (x * measured).sum(1), rtol=1e-5)


def test_information_of_measured_genes_is_a_sum_over_them():
    model = fitted("FlexSCVI")
    tensors, z = minibatch(model), torch.randn(10, 1)
    decode = lambda z: model.module.decode(z, torch.full((10, 1), 4.0), {**tensors, MEASURED_KEY: measured})
    measured = torch.ones(10, 30, dtype=torch.bool)
    with torch.no_grad():
        every = [fisher_of_counts(decode, z, torch.arange(30).expand(10, -1) == j) for j in range(30)]
        np.testing.assert_allclose(sum(every), fisher_of_counts(decode, z), rtol=1e-3, atol=1e-4)
