"""Inverse autoregressive flow: a density, its draws and its inverse agree, for any number of coordinates."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys

import numpy as np
import pytest
import torch
from pyro.distributions.transforms import ConditionalAffineAutoregressive
from torch.distributions import Normal, kl_divergence

from scdgd.posterior import FlowPosterior, InverseAutoregressiveFlow

N_CONTEXT, N_CELLS = 4, 6


def flow_and_base(
    n_latent: int = 3, dtype: torch.dtype = torch.float64, strength: float = 2.0, **options
) -> tuple[InverseAutoregressiveFlow, Normal, torch.Tensor]:
    """A flow that is far from the identity (weights times `strength`), with bases and contexts of cells."""
    torch.manual_seed(0)
    options = {"hidden_sizes": (40, 40), "gate_bias": 1.0, **options}
    flow = InverseAutoregressiveFlow(n_latent, N_CONTEXT, **options).to(dtype)
    with torch.no_grad():
        for parameter in flow.parameters():
            parameter.mul_(strength)
    base = Normal(torch.randn(N_CELLS, n_latent, dtype=dtype), torch.rand(N_CELLS, n_latent, dtype=dtype) + 0.3)
    return flow, base, torch.randn(N_CELLS, N_CONTEXT, dtype=dtype)


def jacobian(function, z: torch.Tensor) -> torch.Tensor:
    return torch.autograd.functional.jacobian(function, z)


@pytest.mark.parametrize("n_latent", [1, 2, 30])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_log_determinant_is_that_of_the_jacobian(n_latent, dtype, tolerance):
    flow, base, context = flow_and_base(n_latent, dtype)
    z_0 = base.sample()
    _, log_scale = flow.transform(z_0, context)
    for i in range(N_CELLS):
        matrix = jacobian(lambda z, i=i: flow.transform(z, context[i])[0], z_0[i])
        _, expected = torch.linalg.slogdet(matrix.double())
        np.testing.assert_allclose(log_scale[i].sum().item(), expected.item(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("step", [0, 1])
def test_each_step_is_triangular_in_its_order(step):
    flow, base, context = flow_and_base(5, n_steps=2)
    flow.steps = flow.steps[step : step + 1]
    below = torch.zeros(5, 5, dtype=torch.float64)
    for i in range(N_CELLS):
        matrix = jacobian(lambda z, i=i: flow.transform(z, context[i])[0], base.loc[i])
        matrix = matrix.flip(0, 1) if step == 1 else matrix
        assert (matrix.triu(1) == 0).all()
        assert (matrix.diag() > 0).all()
        below += matrix.tril(-1).abs()
    assert (below[torch.tril_indices(5, 5, -1).unbind()] > 0).all()  # each coordinate sees all before it


def test_one_coordinate_is_an_affine_map():
    flow, _, context = flow_and_base(1)
    z_0 = torch.tensor([[-3.0], [0.0], [5.0]], dtype=torch.float64)
    z, _ = flow.transform(z_0, context[:1].expand(3, -1))
    slopes = z.diff(dim=0) / z_0.diff(dim=0)
    torch.testing.assert_close(slopes[0], slopes[1])


@pytest.mark.parametrize("options", [{"n_steps": 0}, {"gate_bias": 50.0}], ids=str)
def test_no_steps_and_open_gates_are_the_base(options):
    flow, base, context = flow_and_base(3, **options)
    torch.manual_seed(1)
    z, log_q = flow(base, context, (7,))
    torch.manual_seed(1)
    expected = base.rsample((7,))
    torch.testing.assert_close(z, expected)
    torch.testing.assert_close(log_q, base.log_prob(expected).sum(-1))
    torch.testing.assert_close(flow.log_prob(expected, base, context), base.log_prob(expected).sum(-1))
    posterior = FlowPosterior(flow, base, context)
    torch.testing.assert_close(posterior.loc, base.loc)
    torch.testing.assert_close(posterior.scale, base.scale)


def test_starts_near_the_identity():
    torch.manual_seed(0)
    flow = InverseAutoregressiveFlow(10, N_CONTEXT)
    z_0 = torch.randn(500, 10)
    z, log_scale = flow.transform(z_0, torch.randn(500, N_CONTEXT))
    assert np.corrcoef(z.flatten().detach(), z_0.flatten())[0, 1] > 0.95
    np.testing.assert_allclose(log_scale.exp().mean().item(), torch.tensor(2.0).sigmoid().item() ** 5, atol=0.05)


@pytest.mark.slow
def test_density_integrates_to_one():
    flow, base, context = flow_and_base(2)
    axis = torch.arange(-7, 7, 0.05, dtype=torch.float64)
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 1, 2)
    with torch.no_grad():
        density = flow.log_prob(grid.expand(-1, 2, -1), Normal(base.loc[:2], base.scale[:2]), context[:2]).exp()
    np.testing.assert_allclose(density.sum(0) * 0.05**2, 1.0, atol=1e-4)
    corners = density.reshape(len(axis), len(axis), 2)[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert (corners < 1e-12).all()


def test_draws_have_the_density():
    """Share of draws in cells of a grid, against the integral of the density over them."""
    flow, base, context = flow_and_base(2)
    base, context = Normal(base.loc[:1], base.scale[:1]), context[:1]
    step, n = 0.05, 50_000
    axis = torch.arange(-6, 6, step, dtype=torch.float64) + step / 2
    grid = torch.stack(torch.meshgrid(axis, axis, indexing="ij"), -1).reshape(-1, 1, 2)
    with torch.no_grad():
        density = flow.log_prob(grid, base, context).exp().reshape(len(axis), len(axis)) * step**2
        z = flow(base, context, (n,))[0].squeeze(1)
    edges = [-6, -1, -0.5, 0, 0.5, 1, 1.5, 2, 6]
    share, _, _ = np.histogram2d(z[:, 0], z[:, 1], bins=[edges, edges])
    first = np.searchsorted(axis.numpy(), edges)
    expected = np.add.reduceat(np.add.reduceat(density.numpy(), first[:-1], 0), first[:-1], 1)
    np.testing.assert_allclose(share / n, expected, atol=5 * np.sqrt(0.25 / n))


@pytest.mark.parametrize("n_latent", [1, 2, 30])
@pytest.mark.parametrize("sample_shape", [(), (3,), (2, 3)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-9), (torch.float32, 2e-3)])
def test_inverse_and_density_of_own_draws(n_latent, sample_shape, dtype, tolerance):
    flow, base, context = flow_and_base(n_latent, dtype, strength=1.5)
    z, log_q = flow(base, context, sample_shape)
    assert z.shape == (*sample_shape, N_CELLS, n_latent)
    assert log_q.shape == (*sample_shape, N_CELLS)
    assert z.dtype == log_q.dtype == dtype
    torch.testing.assert_close(flow.log_prob(z, base, context), log_q, rtol=tolerance, atol=tolerance)
    z_0, log_scale = flow.inverse(z, context)
    again, expected = flow.transform(z_0, context)
    torch.testing.assert_close(again, z, rtol=tolerance, atol=tolerance)
    torch.testing.assert_close(log_scale, expected, rtol=tolerance, atol=tolerance)


def test_equals_the_flow_of_pyro():
    flow, base, context = flow_and_base(5, n_steps=3, gate_bias=1.3)
    z = base.sample()
    expected, log_determinant = z, 0.0
    for network in flow.steps:
        transform = ConditionalAffineAutoregressive(network, sigmoid_bias=1.3, stable=True).condition(context)
        before, expected = expected, transform(expected)
        log_determinant = log_determinant + transform.log_abs_det_jacobian(before, expected)
    result, log_scale = flow.transform(z, context)
    torch.testing.assert_close(result, expected)
    torch.testing.assert_close(log_scale.sum(-1), log_determinant)


@pytest.mark.parametrize("n_latent", [1, 2, 10])
def test_divergences_are_not_negative(n_latent):
    flow, base, context = flow_and_base(n_latent, gate_bias=0.0)
    with torch.no_grad():
        z, log_q = flow(base, context, (5_000,))
        for p in (Normal(0.0, 1.0), base):
            differences = log_q - p.log_prob(z).sum(-1)
            error = differences.std(0) / len(differences) ** 0.5
            assert (differences.mean(0) > -4 * error).all()


@pytest.mark.parametrize("gate", [-80.0, 80.0, 800.0])
def test_extreme_gates_stay_finite(gate):
    flow, base, context = flow_and_base(3, torch.float32, n_steps=1, gate_bias=gate)
    base.loc.requires_grad_()
    z, log_q = flow(base, context)
    assert torch.isfinite(z).all()
    (log_q.sum() + z.sum()).backward()
    gradients = [base.loc.grad, *(p.grad for p in flow.parameters())]
    assert all(torch.isfinite(g).all() for g in [log_q, *gradients])


@pytest.mark.parametrize("n_latent", [1, 2, 30])
def test_gradients_reach_every_parameter(n_latent):
    flow, base, context = flow_and_base(n_latent)
    loc, scale = base.loc.requires_grad_(), base.scale.requires_grad_()
    context.requires_grad_()
    z, log_q = flow(Normal(loc, scale), context)
    (log_q + z.square().sum(-1)).sum().backward()
    assert all((p.grad != 0).any() for p in flow.parameters())
    assert all((p.grad != 0).any(0).all() for p in (loc, scale, context))


def test_gradients_of_draws_and_densities():
    flow, base, context = flow_and_base(2, n_steps=2, hidden_sizes=(6, 6))
    epsilon = torch.randn(N_CELLS, 2, dtype=torch.float64)

    def draw(loc, scale, context):
        return flow.transform(loc + scale * epsilon, context)

    def density(z, loc, scale, context):
        return flow.log_prob(z, Normal(loc, scale), context)

    leaves = [part.clone().requires_grad_() for part in (base.loc, base.scale, context)]
    assert torch.autograd.gradcheck(draw, leaves)
    assert torch.autograd.gradcheck(density, [epsilon.requires_grad_(), *leaves])


@pytest.mark.parametrize("n_latent", [1, 2, 30])
def test_context_moves_target_and_gate_of_every_coordinate(n_latent):
    flow, base, context = flow_and_base(n_latent, hidden_sizes=(320, 320), strength=1.0)
    for network in flow.steps:
        moved = [b != a for a, b in zip(network(base.loc, context), network(base.loc, context + 0.5), strict=True)]
        assert all(part.any(0).all() for part in moved)


def test_order_is_reversed_from_step_to_step():
    flow, _, _ = flow_and_base(3, n_steps=3)
    assert [network.permutation.tolist() for network in flow.steps] == [[0, 1, 2], [2, 1, 0], [0, 1, 2]]


def test_masks_do_not_depend_on_the_seed():
    flows = []
    for seed in range(2):
        torch.manual_seed(seed)
        flows.append(InverseAutoregressiveFlow(4, N_CONTEXT))
    for a, b in zip(flows[0].buffers(), flows[1].buffers(), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("n_latent", [1, 2, 30, 320])
def test_every_hidden_unit_reaches_an_output(n_latent):
    for network in InverseAutoregressiveFlow(n_latent, N_CONTEXT, n_steps=2).steps:
        for layer in network.layers:
            assert layer.mask.any(0)[:N_CONTEXT].all()
            assert layer.mask.any(1).all()
        assert all(layer.mask.any(0).all() for layer in network.layers[1:])


def test_copies_and_pickles_are_identical_after_use():
    flow, base, context = flow_and_base()
    flow(base, context)
    flow.log_prob(base.loc, base, context)
    expected = flow.transform(base.loc, context)
    for twin in (copy.deepcopy(flow), pickle.loads(pickle.dumps(flow))):
        assert all(torch.equal(a, b) for a, b in zip(twin.transform(base.loc, context), expected, strict=True))
        assert not set(map(id, twin.parameters())) & set(map(id, flow.parameters()))


@pytest.mark.slow
def test_state_in_a_new_process_is_bit_identical(tmp_path):
    flow, base, context = flow_and_base(5, torch.float32)
    torch.save((flow.state_dict(), base.loc, context), tmp_path / "state.pt")
    program = (
        "import sys, torch\n"
        "from scdgd.module import InverseAutoregressiveFlow\n"
        f"torch.manual_seed(123); torch.set_num_threads({torch.get_num_threads()})\n"
        "state, z, context = torch.load(sys.argv[1])\n"
        f"flow = InverseAutoregressiveFlow(5, {N_CONTEXT}, hidden_sizes=(40, 40), gate_bias=1.0)\n"
        "flow.load_state_dict(state)\n"
        "torch.save(flow.transform(z, context), sys.argv[2])\n"
    )
    paths = [str(tmp_path / name) for name in ("state.pt", "result.pt")]
    subprocess.run([sys.executable, "-c", program, *paths], check=True)
    for a, b in zip(torch.load(paths[1]), flow.transform(base.loc, context), strict=True):
        assert torch.equal(a, b)


def test_narrow_hidden_layers():
    with pytest.raises(ValueError, match="Hidden dimension"):
        InverseAutoregressiveFlow(10, N_CONTEXT, hidden_sizes=(9,))


def test_posterior_terms_sum_to_the_joint_log_density():
    flow, base, context = flow_and_base()
    posterior = FlowPosterior(flow, base, context)
    z = posterior.sample([5])
    assert not z.requires_grad
    assert posterior.rsample().requires_grad
    assert posterior.log_prob(z).shape == z.shape == (5, N_CELLS, 3)
    torch.testing.assert_close(posterior.log_prob(z).sum(-1), flow.log_prob(z, base, context))


def test_posterior_moments():
    flow, base, context = flow_and_base()
    posterior = FlowPosterior(flow, base, context)
    z = posterior.sample((20_000,))
    assert (z.mean(0) - base.loc).abs().max() > 0.2  # moments of z, not of the base
    assert ((posterior.loc - z.mean(0)) / z.std(0)).abs().max() < 0.2
    assert (posterior.scale / z.std(0)).log().abs().max() < 0.3
    mean, variance = posterior.moments(2000, torch.Generator().manual_seed(1))
    assert ((mean - z.mean(0)) / z.std(0)).abs().max() < 0.03
    torch.testing.assert_close(variance.sqrt(), z.std(0), rtol=0.03, atol=0)
    assert torch.equal(posterior.mean, posterior.loc)
    torch.testing.assert_close(posterior.stddev, posterior.scale)


def test_posterior_moments_are_reproducible_and_do_not_depend_on_other_cells():
    flow, base, context = flow_and_base()
    posterior = FlowPosterior(flow, base, context)
    state = torch.get_rng_state()
    assert torch.equal(posterior.loc, FlowPosterior(flow, base, context).loc)
    assert torch.equal(torch.get_rng_state(), state)
    first, second, third = (posterior.moments(10, torch.Generator().manual_seed(s)) for s in (3, 3, 4))
    assert torch.equal(first[0], second[0])
    assert torch.equal(first[1], second[1])
    assert not torch.equal(first[0], third[0])
    order = torch.tensor([4, 0, 2])
    some = FlowPosterior(flow, Normal(base.loc[order], base.scale[order]), context[order])
    torch.testing.assert_close(some.loc, posterior.loc[order], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(some.scale, posterior.scale[order], rtol=1e-12, atol=1e-12)


def test_closed_forms_of_a_gaussian_raise():
    posterior = FlowPosterior(*flow_and_base())
    with pytest.raises(NotImplementedError):
        posterior.entropy()
    with pytest.raises(NotImplementedError):
        kl_divergence(posterior, Normal(0.0, 1.0))
    with pytest.raises(NotImplementedError):
        posterior.cdf(torch.zeros(N_CELLS, 3))
