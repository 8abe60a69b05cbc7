"""Cells that lack genes, in modules with an encoder: the objective is that of a module without these genes."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from scvi import REGISTRY_KEYS
from scvi.nn import FCLayers

from scdgd._compat import MODULE_KEYS
from scdgd._constants import MEASURED_KEY
from scdgd.data import SparseCounts
from scdgd.module import GMVAE, FlexVAE, forward_sparse
from scdgd.module._absent_genes import FOUND_MEAN_KEY, FOUND_SCALE_KEY
from scdgd.module._filled_counts import FilledCounts
from tests.module.test_flex_vae import N_CELLS, N_GENES, as_sparse, covered

LEFT = torch.tensor([0, 2, 3, 6])  # genes that were measured
BERNOULLI = {"gene_likelihood": "bernoulli"}
CASES = {
    "nb": (FlexVAE, {"gene_likelihood": "nb"}),
    "zinb": (FlexVAE, {}),
    "vmm": (FlexVAE, {"prior": "vmm", "n_components": 3}),
    "flow": (FlexVAE, {"posterior": "iaf", "gene_likelihood": "zip"}),
    "linear": (FlexVAE, {"decoder": "linear", "gene_likelihood": "poisson", "dispersion": "gene"}),
    "constrained": (FlexVAE, {"gene_likelihood": "constrained_poisson"}),
    "sizes": (FlexVAE, {"use_size_factor_key": True, "gene_likelihood": "nb"}),
    "rate": (FlexVAE, {"mean_activation": "rate", "gene_likelihood": "nb"}),
    "k_max": (FlexVAE, {"k_max": 3, "gene_likelihood": "nb"}),
    "normal": (FlexVAE, {"mean_activation": "identity", "gene_likelihood": "normal", "log_variational": False}),
    "bernoulli": (FlexVAE, BERNOULLI),
    "gene-cell": (FlexVAE, {"dispersion": "gene-cell"}),
    "covariates": (FlexVAE, {"n_cats_per_cov": [2], "n_continuous_cov": 2, "encode_covariates": True}),
    "gmvae": (GMVAE, {"n_components": 3, "gene_likelihood": "nb"}),
    "vae": (GMVAE, {"n_components": 1}),
}
every_case = pytest.mark.parametrize("case", CASES)
some_cases = pytest.mark.parametrize("case", ["zinb", "linear", "gmvae"])


def module_and_cells(case: str, dtype: torch.dtype = torch.float64) -> tuple[FlexVAE, dict]:
    """A module in evaluation mode, with a mean profile, and cells with all genes."""
    kind, options = CASES[case]
    arguments, tensors = covered(options)
    torch.manual_seed(0)
    module = kind(**arguments).to(dtype).eval()
    module.place_profile(torch.arange(1.0, N_GENES + 1) / 36)
    for name, value in tensors.items():
        tensors[name] = value.to(dtype) if value.is_floating_point() else value
    if options == BERNOULLI:
        tensors[REGISTRY_KEYS.X_KEY] = (tensors[REGISTRY_KEYS.X_KEY] > 0).to(dtype)
    return module, tensors


def lacking(tensors: dict, cells: slice = slice(None), left: torch.Tensor = LEFT) -> dict:
    """The same cells, some of which lack genes."""
    measured = torch.ones(N_CELLS, N_GENES, dtype=torch.bool)
    measured[cells] = torch.isin(torch.arange(N_GENES), left)
    return {**tensors, REGISTRY_KEYS.X_KEY: tensors[REGISTRY_KEYS.X_KEY] * measured, MEASURED_KEY: measured}


class _Chosen(torch.nn.Module):
    def __init__(self, left: torch.Tensor) -> None:
        super().__init__()
        self.left = left

    def forward(self, outputs: torch.Tensor) -> torch.Tensor:
        return outputs[..., self.left]


def with_fewer_outputs(module: FlexVAE, left: torch.Tensor = LEFT) -> FlexVAE:
    """The module with the outputs of some genes only, made anew: nothing of the others is left in its decoder."""
    fewer = copy.deepcopy(module)
    parts = [fewer.decoder.px_scale_decoder[0], fewer.decoder.px_dropout_decoder, fewer.decoder.px_r_decoder]
    for part in parts:
        if isinstance(part, torch.nn.Linear):
            part.weight, part.bias = (torch.nn.Parameter(p[left]) for p in (part.weight, part.bias))
    if fewer.has_linear_decoder:
        fewer.decoder.px_scale_decoder[0] = _Chosen(left)
    for name, linear in getattr(fewer, "parameter_decoders", {}).items():
        width = fewer.likelihood.own_parameters[name].width or 1
        rows = (left[:, None] * width + torch.arange(width)).ravel()
        linear.weight, linear.bias = (torch.nn.Parameter(p[rows]) for p in (linear.weight, linear.bias))
    if module.dispersion == "gene":
        fewer.px_r = torch.nn.Parameter(module.px_r[left])
    return fewer


@every_case
def test_reconstruction_is_that_of_a_decoder_that_has_only_the_measured_genes(case):
    module, tensors = module_and_cells(case)
    tensors = lacking(tensors)
    fewer = with_fewer_outputs(module)
    with torch.no_grad():
        outputs = module.inference(**module._get_inference_input(tensors))
        inputs = module._get_generative_input(tensors, outputs)
        found = module.log_likelihood(module.generative(**inputs, for_loss=True)[MODULE_KEYS.PX_KEY], tensors)
        without = {key: value for key, value in inputs.items() if key != MEASURED_KEY}
        x = {REGISTRY_KEYS.X_KEY: tensors[REGISTRY_KEYS.X_KEY][:, LEFT]}
        expected = fewer.log_likelihood(fewer.generative(**without, for_loss=True)[MODULE_KEYS.PX_KEY], x)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-10)
    _, _, losses = module(as_sparse(tensors))
    assert torch.isfinite(losses.loss)


@some_cases
def test_gradients_are_those_of_a_decoder_that_has_only_the_measured_genes(case):
    module, tensors = module_and_cells(case)
    tensors = lacking(tensors)
    torch.manual_seed(1)
    _, _, losses = module(tensors)
    losses.loss.backward()
    output = module.decoder.px_scale_decoder[0]
    gradient = (
        module.decoder.px_decoder.fc_layers[0][0].weight.grad if module.has_linear_decoder else output.weight.grad
    )
    absent = ~torch.isin(torch.arange(N_GENES), LEFT)
    assert gradient[:N_GENES][absent].abs().max() == 0
    assert gradient[:N_GENES][LEFT].abs().max() > 0


@some_cases
def test_a_mask_of_all_genes_changes_nothing(case):
    module, tensors = module_and_cells(case)
    found = []
    for cells in (tensors, lacking(tensors, slice(0, 0))):
        torch.manual_seed(1)
        found.append(module(cells)[2].loss.detach())
    np.testing.assert_allclose(*found, rtol=1e-12)


@pytest.mark.parametrize("case", ["nb", "constrained", "gmvae", "normal"])
def test_means_are_of_all_genes_at_the_depth_of_the_measured_ones(case):
    module, tensors = module_and_cells(case)
    tensors = lacking(tensors)
    with torch.no_grad():
        outputs, given, _ = module(tensors, compute_loss=True)
        if case == "gmvae":
            outputs, given = module(tensors, compute_loss=False)
        else:
            inputs = module._get_generative_input(tensors, outputs)
            given = module.generative(**inputs)
    px, total = given[MODULE_KEYS.PX_KEY], tensors[REGISTRY_KEYS.X_KEY].sum(1)
    if case != "normal":
        np.testing.assert_allclose(px.mean[:, LEFT].sum(1), total, rtol=1e-6)
        np.testing.assert_allclose(px.scale.sum(1), 1, rtol=1e-6)
        np.testing.assert_allclose(px.mean / px.mean.sum(1, keepdim=True), px.scale, rtol=1e-6)


@pytest.mark.parametrize("case", ["zinb", "linear", "covariates", "sizes", "rate", "normal", "gmvae"])
def test_without_training_cells_the_mean_profile_is_that_of_draws_of_the_prior(case):
    module, _ = module_and_cells(case, torch.float32)
    module.place_profile(None)
    with torch.inference_mode():
        profile = module.profile
    assert profile.shape == (N_GENES,)
    assert not profile.is_inference()
    assert torch.equal(module.profile, profile)
    if case != "normal":
        np.testing.assert_allclose(profile.sum(), 1, rtol=1e-5)


def test_filled_counts_are_the_mean_profile_at_the_depth_of_the_cell():
    x = torch.tensor([[6.0, 0, 0, 2], [0, 1, 0, 0]])
    measured = torch.tensor([[True, True, False, True], [True, True, True, True]])
    profile = torch.tensor([0.1, 0.2, 0.5, 0.2])
    filled = FilledCounts.fill(SparseCounts.from_dense(x), measured, profile, at_depth=True)
    np.testing.assert_allclose(filled.to_dense(), [[6, 0, 8, 2], [0, 1, 0, 0]], rtol=1e-6)
    np.testing.assert_allclose(filled.totals(), [16, 1], rtol=1e-6)
    np.testing.assert_allclose(filled.scaled(torch.tensor([0.5, 3.0])).to_dense(), [[3, 0, 4, 1], [0, 3, 0, 0]])
    as_they_are = FilledCounts.fill(SparseCounts.from_dense(x), measured, profile, at_depth=False)
    np.testing.assert_allclose(as_they_are.to_dense(), [[6, 0, 0.5, 2], [0, 1, 0, 0]])


def test_the_sparse_first_layer_takes_filled_counts_as_dense_layers_do():
    x = torch.poisson(torch.full((9, 6), 2.0, dtype=torch.float64))
    measured = torch.ones(9, 6, dtype=torch.bool)
    measured[:4, 2:] = False
    filled = FilledCounts.fill(
        SparseCounts.from_dense(x * measured), measured, torch.rand(6, dtype=torch.float64), at_depth=True
    )
    layers = FCLayers(6, 5, [2], dropout_rate=0.0).double()
    codes, found = torch.arange(9).unsqueeze(1) % 2, []
    for output in (forward_sparse(layers, filled, codes), layers(filled.to_dense().log1p(), codes)):
        gradients = torch.autograd.grad(output.square().sum(), [*layers.parameters()])
        found.append([output.detach(), *gradients])
    for sparse, dense in zip(*found, strict=True):
        torch.testing.assert_close(sparse, dense, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("case", ["nb", "flow", "gmvae", "vae"])
def test_posteriors_that_were_found_take_the_place_of_the_encoders_for_cells_that_have_them(case):
    module, tensors = module_and_cells(case)
    few = slice(0, 5)
    tensors = lacking(tensors, few)
    mean, scale = torch.full((2, N_CELLS, 3), torch.nan, dtype=torch.float64)
    mean[few], scale[few] = torch.randn(5, 3).double(), 0.3
    cells = {**tensors, FOUND_MEAN_KEY: mean, FOUND_SCALE_KEY: scale}
    with torch.no_grad():
        own = module.inference(**module._get_inference_input(tensors))["qz"]
        qz = module.inference(**module._get_inference_input(cells))["qz"]
        np.testing.assert_allclose(qz.loc[few], mean[few], rtol=1e-10)
        np.testing.assert_allclose(qz.scale[few], scale[few], rtol=1e-7)
        np.testing.assert_array_equal(qz.loc[5:], own.loc[5:])
        z = qz.sample((4,))
        expected = torch.distributions.Normal(mean[few], scale[few]).log_prob(z[:, few]).sum(-1)
        np.testing.assert_allclose(qz.log_prob(z).sum(-1)[:, few], expected, rtol=1e-10)
        np.testing.assert_allclose(qz.log_prob(z).sum(-1)[:, 5:], own.log_prob(z).sum(-1)[:, 5:], rtol=1e-10)
        assert torch.isfinite(module(cells)[2].loss)
        assert torch.isfinite(module.marginal_ll(cells, 4)).all()
