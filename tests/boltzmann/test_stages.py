"""Stages of the training of Boltzmann machines, against enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from scdgd.boltzmann import BottomStage, ChainOptions, Conditions, JointStage, UpperStage, calibrate_hidden
from scdgd.boltzmann._parameter_average import ParameterAverage
from scdgd.boltzmann._stages import likeliest_states, mean_log_partition, weighted_mean
from scdgd.data import SparseCounts
from tests.boltzmann.test_deep_machine import as_hidden, conditions, log_table, toy

CHAINS = ChainOptions(1, True, 0.0)


def cells(n: int = 40) -> tuple[SparseCounts, Conditions]:
    torch.manual_seed(9)
    v = SparseCounts.from_dense(torch.poisson(torch.rand(n, 2, dtype=torch.float64) * 4))
    return v, Conditions(torch.arange(n) % 2, 0.5 + torch.rand(n, dtype=torch.float64))


def with_sizes(machine):
    """Chains of two batches, each with two sizes."""
    machine.particle_batch.copy_(torch.tensor([0, 1, 0, 1]))
    machine.particle_size.copy_(torch.tensor([0.6, 0.8, 1.1, 1.7]))
    machine.batch_shares.copy_(torch.tensor([0.3, 0.7]))
    return machine


@torch.no_grad()
@pytest.mark.parametrize("n_hidden", [(3,), (3, 2), (2, 2, 2)])
def test_sum_over_states_is_the_partition_function(n_hidden):
    machine = with_sizes(toy(n_hidden))
    log_z = machine.log_partition(machine.particle_conditions)
    shares = machine.batch_shares.double()
    expected = shares[0] * (log_z[0] + log_z[2]) / 2 + shares[1] * (log_z[1] + log_z[3]) / 2
    torch.testing.assert_close(mean_log_partition(machine, machine.odd_states(), shares), expected)
    found = JointStage(machine, CHAINS, sums=True).of_model(shares)
    torch.testing.assert_close(found, expected)
    only_one = mean_log_partition(machine, machine.odd_states(), torch.tensor([0.0, 1.0], dtype=torch.float64))
    torch.testing.assert_close(only_one, (log_z[1] + log_z[3]) / 2)


@torch.no_grad()
def test_likeliest_states():
    machine = toy((4, 2), n_batch=1)
    table, _, states = log_table(machine, conditions(0, 1.0))
    p = torch.softmax(table.logsumexp(0), 0)
    first = as_hidden(states, (4, 2))[0]
    marginal = {}
    for state, mass in zip(first.tolist(), p.tolist(), strict=True):
        marginal[tuple(state)] = marginal.get(tuple(state), 0.0) + mass
    expected = sorted(marginal, key=marginal.get)[-5:]
    assert set(map(tuple, likeliest_states(machine, 5)[0].tolist())) == set(expected)
    assert len(likeliest_states(machine, 16)[0]) == 16


@pytest.mark.parametrize("n_hidden", [(3, 2), pytest.param((2, 2, 2), marks=pytest.mark.slow)])
def test_calibration_gives_units_the_activations_of_cells(n_hidden):
    """At the maximum, model and cells have the same means of units and of products of neighbours."""
    machine = with_sizes(toy(n_hidden))
    machine.uses_size = False
    machine.particle_size.fill_(1.0)
    v, given = cells()
    given = given._replace(size=torch.ones_like(given.size))
    before = {name: value.clone() for name, value in machine.state_dict().items()}
    machine.batch_shares.fill_(0.5)
    halves = [(v[rows], given.of(rows)) for rows in torch.arange(40).split(20)]
    for _ in range(15):  # three rounds each, in turns with mean field
        calibrate_hidden(machine, halves)
    for name, value in machine.state_dict().items():
        is_hidden = name.startswith(("biases", "weights")) and name != "weights.0"
        assert torch.equal(value, before[name]) != (is_hidden or name == "batch_shares"), name
    with torch.no_grad():
        q = machine.mean_field(v, given, tolerance=1e-10, max_iterations=500)
        means = []
        for batch in (0, 1):
            table, _, states = log_table(machine, conditions(batch, 1.0))
            p = torch.softmax(table.logsumexp(0), 0)
            h = as_hidden(states, n_hidden)
            products = [
                (p[:, None, None] * low[:, :, None] * up[:, None, :]).sum(0) for low, up in itertools.pairwise(h)
            ]
            means.append(([p @ layer for layer in h], products))
        for layer in range(len(n_hidden)):
            torch.testing.assert_close(
                (means[0][0][layer] + means[1][0][layer]) / 2, q[layer].mean(0), atol=0.004, rtol=0
            )
        for layer in range(len(n_hidden) - 1):
            expected = (q[layer].T @ q[layer + 1]) / len(v)
            torch.testing.assert_close((means[0][1][layer] + means[1][1][layer]) / 2, expected, atol=0.004, rtol=0)


@torch.no_grad()
def test_calibration_raises_the_bound():
    machine = with_sizes(toy((3, 2)))
    v, given = cells()

    def bound() -> float:
        q = machine.mean_field(v, given)
        shares = torch.bincount(given.batch) / 40.0
        return float(
            machine.lower_bound(v, q, given).mean() - mean_log_partition(machine, machine.odd_states(), shares.double())
        )

    before = bound()
    machine.batch_shares.fill_(0.5)
    calibrate_hidden(machine, [(v, given)])
    assert bound() > before + 0.1


@torch.no_grad()
@pytest.mark.parametrize("n_hidden", [(3,), (3, 2)])
def test_free_energy_of_the_first_layer(n_hidden):
    """Sum over states of the units; with a layer above, of two copies of the counts."""
    machine = toy(n_hidden)
    stage, (v, given) = BottomStage(machine, CHAINS), cells(5)
    m = 1 if len(n_hidden) == 1 else 2
    assert stage.n_copies == m
    states = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)), dtype=torch.float64)
    bottom = machine.bottom()
    for i in range(5):
        one = v[torch.full((8,), i)], given.of(torch.full((8,), i))
        single = bottom.log_joint(one[0], [states], one[1]) - states @ machine.biases[0]
        single = single - given.size[i] * states @ machine.size_bias
        bias = states @ machine.biases[0] + m * given.size[i] * states @ machine.size_bias
        expected = -(m * single + bias).logsumexp(0)
        torch.testing.assert_close(stage.free_energy(v, given)[i], expected)
        p = torch.softmax(m * single + bias, 0) @ states
        torch.testing.assert_close(stage.probabilities(v, given)[i], p)


@torch.no_grad()
def test_free_energy_of_a_further_layer():
    machine = toy((3, 2))
    bottom = BottomStage(machine, CHAINS)
    stage = UpperStage(machine, [bottom], 1, CHAINS)
    stage.begin(torch.tensor([0.2, 0.5, 0.7], dtype=torch.float64))
    v, given = cells(4)
    x = bottom.probabilities(v, given)
    copies = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)), dtype=torch.float64).reshape(-1, 2, 2)
    rbm = stage.machine
    for i in range(4):
        log_joint = x[i] @ rbm.lower_bias + ((x[i] @ rbm.weight + rbm.upper_bias) * copies).sum((1, 2))
        torch.testing.assert_close(stage.free_energy(v, given)[i], -log_joint.logsumexp(0))


def test_chains_of_a_batch_weigh_as_its_cells():
    values, batch = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([0, 1, 1])
    assert weighted_mean(values, batch, torch.tensor([0.25, 0.75])) == pytest.approx(0.25 * 1 + 0.75 * 3)


def test_average_of_parameters():
    parameter, path = torch.nn.Parameter(torch.zeros(2)), np.random.default_rng(0).normal(size=(7, 2))
    average = ParameterAverage([parameter])
    average.put()
    assert (parameter == 0).all()
    for step in path:
        parameter.data = torch.as_tensor(step, dtype=torch.float32)
        average.add()
    average.put()
    np.testing.assert_allclose(parameter.detach(), path.mean(0), rtol=1e-5)
