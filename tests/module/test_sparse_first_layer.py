"""Layers on sparse counts: the value and the gradients of the dense path, without a dense copy."""

from __future__ import annotations

import copy

import pytest
import torch
from scvi.nn import FCLayers

from scdgd.data import SparseCounts
from scdgd.module import HiddenLayers, forward_sparse

N_GENES, N_CELLS, N_CONTINUOUS, N_CATEGORIES = 40, 15, 2, [3, 1, 2]
N_INPUTS = N_GENES + N_CONTINUOUS

LAYERS = {
    "scvi-tools, one layer": lambda: FCLayers(N_INPUTS, 6, N_CATEGORIES),
    "scvi-tools, three layers": lambda: FCLayers(N_INPUTS, 6, N_CATEGORIES, n_layers=3, n_hidden=5),
    "scvi-tools, covariates in the first layer": lambda: FCLayers(
        N_INPUTS, 6, N_CATEGORIES, n_layers=2, n_hidden=5, inject_covariates=False
    ),
    "scvi-tools, layer norm": lambda: FCLayers(
        N_INPUTS, 6, N_CATEGORIES, use_batch_norm=False, use_layer_norm=True, dropout_rate=0.0
    ),
    "scvi-tools, no offset": lambda: FCLayers(N_INPUTS, 6, N_CATEGORIES, bias=False),
    "widths": lambda: HiddenLayers(N_INPUTS, (8, 5, 3), N_CATEGORIES),
    "published order": lambda: HiddenLayers(
        N_INPUTS, (8, 5), N_CATEGORIES, activation="tanh", norm_after_activation=True
    ),
}


def counts(n_cells: int = N_CELLS, n_genes: int = N_GENES, seed: int = 0) -> torch.Tensor:
    """Counts with an empty cell and an empty gene."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.poisson(torch.rand(n_cells, n_genes, generator=generator) * 0.6, generator=generator)
    x[1], x[:, 3] = 0, 0
    return x


def covariates(dtype: torch.dtype, soft: bool) -> tuple[list[torch.Tensor], torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    categories = [torch.randint(n, (N_CELLS, 1), generator=generator) for n in N_CATEGORIES]
    if soft:
        categories[0] = torch.rand(N_CELLS, 3, generator=generator).to(dtype).softmax(1).requires_grad_()
    continuous = torch.randn(N_CELLS, N_CONTINUOUS, generator=generator).to(dtype).requires_grad_()
    return categories, continuous


def evaluate(layers, x, categories, continuous):
    """Output and all gradients, by the sparse path for sparse counts."""
    torch.manual_seed(0)  # dropout
    if isinstance(x, SparseCounts):
        output = forward_sparse(layers, x, *categories, continuous=continuous)
    else:
        output = layers(torch.cat([x.log1p(), continuous], 1), *categories)
    weights = torch.linspace(-1, 2, output.numel(), dtype=output.dtype).reshape(output.shape)
    leaves = [*layers.parameters(), continuous, *(c for c in categories if c.requires_grad)]
    return output, torch.autograd.grad((output * weights).sum(), leaves)


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 2e-4)])
@pytest.mark.parametrize("name", LAYERS)
def test_value_and_gradients_are_those_of_the_dense_path(name, dtype, tolerance, train, soft):
    x, (categories, continuous) = counts().to(dtype), covariates(dtype, soft)
    torch.manual_seed(0)
    dense = LAYERS[name]().to(dtype).train(train)
    sparse = copy.deepcopy(dense)
    expected, expected_gradients = evaluate(dense, x, categories, continuous)
    output, gradients = evaluate(sparse, SparseCounts.from_dense(x), categories, continuous)
    torch.testing.assert_close(output, expected, rtol=tolerance, atol=tolerance)
    for a, b in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)
    for a, b in zip(sparse.buffers(), dense.buffers(), strict=True):  # moving statistics
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance)


def test_no_covariates():
    layers = FCLayers(N_GENES, 4)
    x = counts()
    torch.manual_seed(0)
    expected = layers(x.log1p())
    torch.manual_seed(0)
    torch.testing.assert_close(forward_sparse(layers, SparseCounts.from_dense(x)), expected)


@pytest.mark.parametrize("n_genes", [32767, 33000])
def test_many_genes(n_genes):
    layers = FCLayers(n_genes, 3, use_batch_norm=False, dropout_rate=0.0)
    x = torch.zeros(4, n_genes)
    x[torch.tensor([0, 0, 1, 3]), torch.tensor([0, n_genes - 1, n_genes - 1, 7])] = torch.tensor([1.0, 2.0, 3.0, 4.0])
    (expected,) = torch.autograd.grad(layers(x.log1p()).square().sum(), layers.fc_layers[0][0].weight)
    output = forward_sparse(layers, SparseCounts.from_dense(x))
    (gradient,) = torch.autograd.grad(output.square().sum(), layers.fc_layers[0][0].weight)
    torch.testing.assert_close(gradient, expected)


def test_counts_of_zero_and_one_cell():
    layers = FCLayers(N_GENES, 4).eval()
    x = torch.zeros(1, N_GENES)
    torch.testing.assert_close(forward_sparse(layers, SparseCounts.from_dense(x)), layers(x))
    forward_sparse(layers, SparseCounts.from_dense(x)).sum().backward()
    assert (layers.fc_layers[0][0].weight.grad == 0).all()


def test_counts_in_other_precision_and_fractions():
    layers = FCLayers(N_GENES, 4).eval()
    x = counts().double() * 0.37
    torch.testing.assert_close(forward_sparse(layers, SparseCounts.from_dense(x)), layers(x.log1p().float()))


def test_no_dense_copy_and_nothing_is_left_behind(monkeypatch):
    monkeypatch.delattr(SparseCounts, "to_dense")
    layers, x = FCLayers(N_GENES, 4), SparseCounts.from_dense(counts())
    weight, values = layers.fc_layers[0][0].weight, x.values.clone()
    forward_sparse(layers, x)
    assert torch.equal(x.values, values)
    assert layers.fc_layers[0][0].weight is weight
    assert not layers.fc_layers[0][0]._forward_hooks
    with pytest.raises(ValueError, match="categorical"):
        forward_sparse(FCLayers(N_GENES, 4, [3]), x)
    layers = FCLayers(N_GENES, 4, [3])
    with pytest.raises(RuntimeError):
        forward_sparse(layers, x, torch.full((N_CELLS, 1), 7))
    assert not layers.fc_layers[0][0]._forward_hooks


def test_gradients_add_up_and_a_retained_graph_serves_twice():
    layers, x = FCLayers(N_GENES, 4, use_batch_norm=False, dropout_rate=0.0), SparseCounts.from_dense(counts())
    weight = layers.fc_layers[0][0].weight
    output = forward_sparse(layers, x).square().sum()
    output.backward(retain_graph=True)
    once = weight.grad.clone()
    output.backward()
    forward_sparse(layers, x).square().sum().backward()
    torch.testing.assert_close(weight.grad, 3 * once)


def test_no_gradient_where_none_is_asked_for():
    layers, x = FCLayers(N_GENES, 4, [3]), SparseCounts.from_dense(counts())
    codes = torch.zeros(N_CELLS, 1, dtype=torch.int64)
    with torch.no_grad():
        assert not forward_sparse(layers, x, codes).requires_grad
    with torch.inference_mode():
        forward_sparse(layers, x, codes)
    layers.fc_layers[0][0].weight.requires_grad_(False)
    forward_sparse(layers, x, codes).sum().backward()
    assert layers.fc_layers[0][0].weight.grad is None
    assert layers.fc_layers[0][0].bias.grad is not None


def test_query_hooks_see_the_whole_gradient():
    dense = HiddenLayers(N_GENES, (5, 4), [3], dropout_rate=0.0)
    sparse = copy.deepcopy(dense)
    x, codes = counts(), torch.arange(N_CELLS).remainder(3).unsqueeze(1)
    for layers in (dense, sparse):
        layers.set_online_update_hooks()
    dense(x.log1p(), codes).pow(3).sum().backward()
    forward_sparse(sparse, SparseCounts.from_dense(x), codes).pow(3).sum().backward()
    for a, b in zip(sparse.parameters(), dense.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-4)
    assert (sparse.fc_layers[0][0].weight.grad[:, :N_GENES] == 0).all()
    assert (sparse.fc_layers[0][0].weight.grad[:, N_GENES:] != 0).any()


@pytest.mark.parametrize("continuous", [None, torch.zeros(N_CELLS, 3)])
def test_wrong_number_of_inputs(continuous):
    with pytest.raises(ValueError, match="takes 42 inputs"):
        forward_sparse(FCLayers(N_INPUTS, 4), SparseCounts.from_dense(counts()), continuous=continuous)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_on_an_accelerator():
    layers, x = FCLayers(N_GENES, 4, [3], dropout_rate=0.0).cuda(), counts().cuda()
    codes = torch.arange(N_CELLS, device="cuda").remainder(3).unsqueeze(1)
    weight = layers.fc_layers[0][0].weight
    expected = layers(x.log1p(), codes)
    output = forward_sparse(layers, SparseCounts.from_dense(x), codes)
    torch.testing.assert_close(output, expected, rtol=1e-4, atol=1e-5)
    gradients = [torch.autograd.grad(o.pow(3).sum(), weight)[0] for o in (output, expected)]
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-4)
