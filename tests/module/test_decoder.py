"""The decoder: output activations in log space, start at a profile, covariates, sample axes."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scdgd.module import Decoder

EXTREMES = (
    -1e4,
    -90.0,
    -25.0,
    -20.5,
    -20.0,
    -19.5,
    -9.0,
    -6.0,
    -5.0,
    -1e-3,
    0.0,
    1e-3,
    5.0,
    19.5,
    20.5,
    25.0,
    90.0,
    1e4,
)
OUTPUT_ACTIVATIONS = ("softmax", "sigmoid", "softplus")
every_output = pytest.mark.parametrize("output_activation", OUTPUT_ACTIVATIONS)


def constant_decoder(output: torch.Tensor, output_activation: str) -> Decoder:
    """A decoder whose last layer gives `output` whatever enters."""
    decoder = Decoder(2, len(output), n_hidden=4, output_activation=output_activation).to(output.dtype)
    with torch.no_grad():
        decoder.output.weight.zero_()
        decoder.output.bias.copy_(output)
    return decoder


def exact(output_activation: str) -> tuple[np.ndarray, np.ndarray]:
    """Log activations of the extremes and their derivatives, in double without overflow."""
    o = np.array(EXTREMES)
    log_sigmoid = -np.logaddexp(0, -o)
    if output_activation == "sigmoid":
        return log_sigmoid, np.exp(-np.logaddexp(0, o))
    small = np.exp(np.minimum(o, -25.0))
    log_softplus = np.where(o < -25, o - small / 2, np.log(np.logaddexp(0, np.maximum(o, -25.0))))
    return log_softplus, np.exp(log_sigmoid - log_softplus)


@pytest.mark.parametrize("output_activation", ["sigmoid", "softplus"])
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 2e-6), (torch.float64, 3e-9)])
def test_activation_is_exact_at_the_extremes(output_activation, dtype, rtol):
    decoder = constant_decoder(torch.tensor(EXTREMES, dtype=dtype), output_activation)
    log_profile = decoder(torch.zeros(1, 2, dtype=dtype))[0]
    log_profile.sum().backward()
    value, derivative = exact(output_activation)
    np.testing.assert_allclose(log_profile.detach(), value, rtol=rtol, atol=1e-30)
    np.testing.assert_allclose(decoder.output.bias.grad, derivative, rtol=rtol, atol=1e-30)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_softmax_is_finite_at_the_extremes(dtype):
    decoder = constant_decoder(torch.tensor(EXTREMES, dtype=dtype), "softmax")
    log_profile = decoder(torch.zeros(1, 2, dtype=dtype))[0]
    log_profile[0].backward()
    assert torch.isfinite(log_profile).all()
    assert float(log_profile[0].detach()) == -2e4
    assert float(log_profile[-1].detach()) == 0
    assert decoder.output.bias.grad[0] == 1
    assert decoder.output.bias.grad[-1] == -1


@pytest.mark.parametrize("shape", [(3,), (2, 3)])
def test_ranges_of_profiles(shape):
    z = 5 * torch.randn(*shape, 2)
    profile = {name: Decoder(2, 6, n_hidden=8, output_activation=name)(z).exp() for name in OUTPUT_ACTIVATIONS}
    assert all(p.shape == (*shape, 6) for p in profile.values())
    torch.testing.assert_close(profile["softmax"].sum(-1), torch.ones(shape))
    assert (profile["sigmoid"] < 1).all()
    assert all((p > 0).all() for p in profile.values())


# start at a profile


@pytest.mark.parametrize(
    ("output_activation", "profile"),
    [
        ("softmax", [0.5, 0.3, 0.15, 0.0499, 1e-4, 0.0]),
        ("sigmoid", [0.9, 0.5, 1e-2, 1e-4, 1e-6, 0.0]),
        ("softplus", [300.0, 25.0, 19.0, 1.0, 1e-5, 0.0]),
    ],
)
def test_start_at_profile_reproduces_the_profile(output_activation, profile):
    profile = torch.tensor(profile)
    decoder = Decoder(2, 6, n_hidden=4, output_activation=output_activation)
    before = decoder.output.weight.detach().clone()
    decoder.start_at_profile(profile)
    torch.testing.assert_close(decoder.output.weight.detach(), 0.1 * before)
    assert decoder.output.bias.requires_grad
    with torch.no_grad():
        decoder.output.weight.zero_()
        started = decoder(torch.randn(3, 2)).exp()
    torch.testing.assert_close(started, profile.clamp(min=1e-7).expand(3, 6), rtol=1e-4, atol=0)


def test_start_at_a_profile_of_one_is_finite_under_sigmoid():
    decoder = Decoder(2, 2, n_hidden=4, output_activation="sigmoid")
    decoder.start_at_profile(torch.tensor([1.0, 1.5]))
    assert torch.isfinite(decoder.output.bias).all()
    assert (decoder.output.bias > 5).all()


# covariates


@pytest.mark.parametrize("n_layers", [1, 3])
def test_each_category_of_each_covariate_has_its_own_profile(n_layers):
    decoder = Decoder(2, 5, n_cats_per_cov=[3, 2], n_hidden=8, n_layers=n_layers)
    categories = torch.cartesian_prod(torch.arange(3), torch.arange(2))
    profiles = decoder(torch.ones(6, 2), [categories[:, :1], categories[:, 1:]])
    assert (torch.cdist(profiles, profiles) + torch.eye(6) > 1e-4).all()
    again = decoder(torch.ones(1, 2), [torch.tensor([[2]]), torch.tensor([[1]])])
    torch.testing.assert_close(again[0], profiles[5])


def test_categories_enter_every_hidden_layer():
    decoder = Decoder(2, 5, n_cats_per_cov=[3], n_hidden=8, n_layers=2)
    assert [layer.in_features for layer in decoder.hidden.modules() if isinstance(layer, torch.nn.Linear)] == [5, 11]


def test_continuous_covariates_have_an_effect():
    decoder = Decoder(2, 5, n_continuous=2, n_hidden=8)
    continuous = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]], requires_grad=True)
    profiles = decoder(torch.ones(3, 2), continuous=continuous)
    assert (torch.cdist(profiles, profiles) + torch.eye(3) > 1e-4).all()
    profiles[:, 0].sum().backward()
    assert (continuous.grad != 0).all()


@pytest.mark.parametrize("samples", [1, 3])
def test_leading_sample_axis_equals_one_sample_at_a_time(samples):
    decoder = Decoder(2, 5, n_cats_per_cov=[3, 2], n_continuous=2, n_hidden=8, n_layers=2)
    z = torch.randn(samples, 4, 2)
    categories = [torch.tensor([[0], [1], [2], [0]]), torch.tensor([[1], [0], [1], [0]])]
    continuous = torch.randn(4, 2)
    together = decoder(z, categories, continuous)
    assert together.shape == (samples, 4, 5)
    torch.testing.assert_close(together, torch.stack([decoder(one, categories, continuous) for one in z]))


@every_output
@pytest.mark.parametrize("activation", ["silu", "relu", "tanh"])
def test_every_parameter_gets_a_gradient(activation, output_activation):
    decoder = Decoder(
        3,
        5,
        n_cats_per_cov=[2],
        n_continuous=1,
        n_hidden=8,
        n_layers=2,
        activation=activation,
        output_activation=output_activation,
    )
    log_profile = decoder(torch.randn(20, 3), [torch.arange(20)[:, None] % 2], torch.randn(20, 1))
    log_profile.square().sum().backward()
    for name, parameter in decoder.named_parameters():
        assert (parameter.grad != 0).any(), name


def test_one_cell_is_decoded_as_among_others():
    """No layer mixes the cells of a minibatch, in training mode either."""
    decoder = Decoder(2, 5, n_hidden=8, n_layers=2).train()
    z = torch.randn(6, 2)
    torch.testing.assert_close(decoder(z[3:4])[0], decoder(z)[3])


@every_output
def test_slopes_of_normed_layers_are_those_of_autograd(output_activation):
    torch.manual_seed(0)
    decoder = Decoder(
        3, 5, n_cats_per_cov=[2], n_hidden=4, n_layers=2, use_layer_norm=True, output_activation=output_activation
    ).double()
    z, batch = torch.randn(6, 3, dtype=torch.float64), [torch.tensor([[0], [1]] * 3)]
    linear = decoder.linearise(z, batch, genes=torch.arange(5), gene_weights=torch.ones(5, dtype=torch.float64))
    slopes = torch.autograd.functional.jacobian(lambda z: decoder(z, batch).sum(0), z)  # (g, b, d)
    torch.testing.assert_close(linear.rows(slice(None)), slopes.permute(1, 2, 0))
    torch.testing.assert_close(linear.eta, decoder(z, batch))
    plain = Decoder(3, 5, n_hidden=4, n_layers=2, output_activation=output_activation)
    assert not any(isinstance(part, torch.nn.LayerNorm) for part in plain.modules())
