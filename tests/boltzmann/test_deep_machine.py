"""Deep Boltzmann machine: every formula against enumeration, finite differences, autograd or long chains."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from scipy.stats import chisquare, nbinom
from torch.special import gammaln

from scdgd.boltzmann import (
    Conditions,
    DeepBoltzmannMachine,
    NegativeBinomialLayer,
    RestrictedBoltzmannMachine,
    annealed_log_partition,
    fit_dispersion,
    without_weights,
)
from scdgd.boltzmann._dispersion_scoring import score_and_information
from scdgd.data import SparseCounts

N_COUNTS = 60  # counts are summed up to here; the rest has no weight in float64


def toy(
    n_hidden: tuple[int, ...] = (3, 2), n_genes: int = 2, *, n_batch: int = 2, seed: int = 0
) -> DeepBoltzmannMachine:
    """A machine whose counts are small and whose units are strongly coupled, in double precision."""
    torch.manual_seed(seed)
    machine = DeepBoltzmannMachine(n_genes, n_hidden, n_batch=n_batch, uses_size=True, n_particles=4).double()
    with torch.no_grad():
        machine.visible.bias.copy_(-0.5 - torch.rand_like(machine.visible.bias))
        machine.visible.log_theta.copy_(torch.randn(n_genes) * 0.3)
        machine.weights[0].copy_(-torch.rand_like(machine.weights[0]))
        for weight in machine.weights[1:]:
            weight.copy_(1.5 * torch.randn_like(weight))
        for bias in [*machine.biases, machine.size_bias]:
            bias.copy_(torch.randn_like(bias))
    return machine


def conditions(batch: int = 1, size: float = 1.3, n: int = 1) -> Conditions:
    return Conditions(torch.full((n,), batch), torch.full((n,), size, dtype=torch.float64))


def log_table(machine: DeepBoltzmannMachine, given: Conditions) -> tuple[torch.Tensor, torch.Tensor, list]:
    """-E of all counts and states by the definition, shape (counts, states); counts (c, g); states, a tuple a row."""
    g, widths = machine.visible.bias.shape[1], machine.n_hidden
    a, s = machine.visible.bias[given.batch[0]], given.size[0]
    r = s * machine.visible.theta
    counts = torch.tensor(list(itertools.product(range(N_COUNTS), repeat=g)), dtype=torch.float64)
    states = list(itertools.product([0.0, 1.0], repeat=sum(widths)))
    base = counts @ a + (gammaln(counts + r) - gammaln(counts + 1) - gammaln(r)).sum(1)
    columns = []
    for state in states:
        h = torch.tensor(state, dtype=torch.float64).split(widths)
        value = base + counts @ machine.weights[0] @ h[0] + (machine.biases[0] + s * machine.size_bias) @ h[0]
        for layer in range(1, len(widths)):
            value = value + h[layer - 1] @ machine.weights[layer] @ h[layer] + machine.biases[layer] @ h[layer]
        columns.append(value)
    return torch.stack(columns, 1), counts, states


def as_hidden(states: list, widths: tuple[int, ...]) -> list[torch.Tensor]:
    return list(torch.tensor(states, dtype=torch.float64).split(widths, dim=1))


@pytest.mark.parametrize("n_hidden", [(3,), (3, 2), (2, 2, 2)])
def test_energies_and_sums_equal_enumeration(n_hidden):
    machine, given = toy(n_hidden), conditions()
    with torch.no_grad():
        table, counts, states = log_table(machine, given)
        hidden = as_hidden(states, n_hidden)
        of_states = conditions(n=len(states))
        v = SparseCounts.from_dense(counts[67:68].expand(len(states), -1))
        torch.testing.assert_close(machine.log_joint(v, hidden, of_states), table[67])
        torch.testing.assert_close(machine.log_joint_of_hidden(hidden, of_states), table.logsumexp(0))
        torch.testing.assert_close(machine.log_partition(given)[0], table.logsumexp((0, 1)))
        some = torch.tensor([0, 5, 67, 70])
        v = SparseCounts.from_dense(counts[some])
        torch.testing.assert_close(machine.log_unnormalised(v, conditions(n=4)), table[some].logsumexp(1))


def test_partition_function_of_many_conditions_is_that_of_each():
    machine = toy()
    given = Conditions(torch.tensor([0, 1, 1, 0]), torch.tensor([0.4, 1.0, 2.5, 7.0], dtype=torch.float64))
    one_by_one = torch.cat([machine.log_partition(given.of(torch.tensor([i]))) for i in range(4)])
    torch.testing.assert_close(machine.log_partition(given), one_by_one)
    assert len(one_by_one.unique()) == 4


@torch.no_grad()
@pytest.mark.parametrize("n_hidden", [(3,), (3, 2), (2, 2, 2)])
def test_conditionals_equal_enumeration(n_hidden):
    machine, given = toy(n_hidden), conditions()
    table, counts, states = log_table(machine, given)
    states = torch.tensor(states, dtype=torch.float64)
    row = 67
    v = SparseCounts.from_dense(counts[row : row + 1])
    firsts = np.cumsum([0, *n_hidden])
    fixed = states[-2].clone()
    hidden = list(fixed.unsqueeze(0).split(n_hidden, dim=1))
    for layer, width in enumerate(n_hidden):
        p = torch.sigmoid(machine.logits(layer, hidden, given, v @ machine.weights[0]))[0]
        for unit in range(width):
            column = firsts[layer] + unit
            others = torch.arange(states.shape[1]) != column
            same = (states[:, others] == fixed[others]).all(1)
            probability = torch.softmax(table[row, same], 0)
            torch.testing.assert_close(p[unit], probability[states[same, column] == 1].sum())
    # counts given the first layer
    state = states.tolist().index(fixed.tolist())
    probability = torch.softmax(table[:, state], 0).reshape(N_COUNTS, N_COUNTS)
    natural = machine.natural(hidden[0], given)
    mean = machine.visible.mean(natural, given.size)[0]
    r = (given.size * machine.visible.theta).numpy()
    for gene, marginal in enumerate((probability.sum(1), probability.sum(0))):
        expected = nbinom(r[gene], 1 - math.exp(natural[0, gene])).pmf(np.arange(N_COUNTS))
        np.testing.assert_allclose(marginal, expected, atol=1e-8)
        torch.testing.assert_close(mean[gene], (marginal * torch.arange(N_COUNTS)).sum(), rtol=1e-6, atol=0)
    log_prob = machine.visible.log_prob(v, machine.shift(hidden[0]), given.batch, given.size)
    torch.testing.assert_close(log_prob[0], torch.log_softmax(table[:, state], 0)[row])


@pytest.mark.parametrize("n_hidden", [(3,), (3, 2)])
def test_contrast_is_the_gradient_of_the_likelihood(n_hidden):
    """Finite differences of the enumerated likelihood against cells minus model, all parameters, dispersions among them."""
    machine, given = toy(n_hidden), conditions()
    cells = SparseCounts.from_dense(torch.tensor([[0.0, 3.0], [2.0, 1.0], [5.0, 0.0]], dtype=torch.float64))
    of_cells = conditions(n=3)

    def log_likelihood() -> float:
        return float((machine.log_unnormalised(cells, of_cells) - machine.log_partition(of_cells)).mean())

    # data term under the exact posterior, model term under the exact marginal of h, as the plan has them
    with torch.no_grad():
        table, counts, states = log_table(machine, given)
        p_h = torch.softmax(table.logsumexp(0), 0)
        rows = [counts.tolist().index(cell.tolist()) for cell in cells.to_dense()]
        posterior = torch.softmax(table[rows], 1)
    hidden, n = as_hidden(states, n_hidden), len(states)
    data = 0.0
    for i in range(3):
        v = cells[torch.full((n,), i)]
        data = data + (posterior[i] * machine.log_joint(v, hidden, conditions(n=n))).sum() / 3
    model = (p_h * machine.log_joint_of_hidden(hidden, conditions(n=n))).sum()
    (data - model).backward()
    for name, parameter in machine.named_parameters():
        flat, gradient = parameter.data.view(-1), parameter.grad.view(-1)
        for index in range(0, len(flat), 2):
            old, step = float(flat[index]), 1e-5
            ends = []
            for sign in (1, -1):
                flat[index] = old + sign * step
                ends.append(log_likelihood())
            flat[index] = old
            assert float(gradient[index]) == pytest.approx((ends[0] - ends[1]) / (2 * step), abs=2e-6), name


@torch.no_grad()
@pytest.mark.parametrize("n_hidden", [(3,), (3, 2), (3, 2, 2)])
def test_mean_field_is_a_fixed_point_and_a_lower_bound(n_hidden):
    machine, given = toy(n_hidden), conditions(n=5)
    v = SparseCounts.from_dense(torch.randint(0, 6, (5, 2)).double())
    q = machine.mean_field(v, given, tolerance=1e-12, max_iterations=1000)
    for layer in range(len(n_hidden)):
        expected = torch.sigmoid(machine.logits(layer, q, given, v @ machine.weights[0]))
        torch.testing.assert_close(q[layer], expected, atol=1e-9, rtol=0)
    bound, exact = machine.lower_bound(v, q, given), machine.log_unnormalised(v, given)
    if len(n_hidden) == 1:
        torch.testing.assert_close(bound, exact)
        return
    assert (bound < exact).all()
    for layer in range(len(n_hidden)):  # a maximum: any change of a layer lowers the bound
        moved = [p.clone() for p in q]
        moved[layer] = (moved[layer] + 0.02 * torch.randn_like(moved[layer])).clamp(1e-6, 1 - 1e-6)
        assert (machine.lower_bound(v, moved, given) < bound).all()


def frequencies(hidden: list[torch.Tensor]) -> np.ndarray:
    """How often each state occurs, in the order of `itertools.product`."""
    bits = torch.cat(hidden, 1).long()
    codes = (bits * 2 ** torch.arange(bits.shape[1] - 1, -1, -1)).sum(1)
    return torch.bincount(codes, minlength=2 ** bits.shape[1]).numpy()


@torch.no_grad()
@pytest.mark.parametrize("collapse", [True, False])
@pytest.mark.parametrize("n_hidden", [(3,), (3, 2), (2, 2, 2)])
def test_chains_have_the_enumerated_distribution(n_hidden, collapse):
    machine, n = toy(n_hidden), 20_000
    table, counts, _ = log_table(machine, conditions())
    given = conditions(n=n)
    torch.manual_seed(1)
    hidden = machine.sample_hidden(given, 30, collapse=collapse)
    p_h = torch.softmax(table.logsumexp(0), 0).numpy()
    assert chisquare_of(frequencies(hidden), p_h * n) > 1e-3
    v = machine.sample_counts(hidden, given)
    p_v = torch.softmax(table.logsumexp(1), 0)
    mean = p_v @ counts
    sd = (p_v @ (counts - mean).square()).sqrt()
    assert ((v.mean(0) - mean).abs() < 4 * sd / n**0.5).all()
    zero = torch.stack([p_v[counts[:, gene] == 0].sum() for gene in range(2)])
    assert (((v == 0).double().mean(0) - zero).abs() < 4 * (zero * (1 - zero) / n).sqrt()).all()


@torch.no_grad()
def test_one_sweep_leaves_the_distribution_as_it_is():
    """One step from exact draws: no burn-in can hide a wrong kernel."""
    machine, n_hidden, n = toy((2, 2)), (2, 2), 40_000
    table, _, states = log_table(machine, conditions())
    p_h = torch.softmax(table.logsumexp(0), 0)
    torch.manual_seed(2)
    start = torch.multinomial(p_h, n, replacement=True)
    hidden = [part[start] for part in as_hidden(states, n_hidden)]
    for collapse in (True, False):
        observed = frequencies(machine.sweep(hidden, conditions(n=n), collapse=collapse))
        assert chisquare(observed, p_h.numpy() * n).pvalue > 1e-3


@pytest.mark.parametrize("collapse", [True, False])
@pytest.mark.parametrize("n_hidden", [(4,), (4, 3)])
def test_annealing_finds_the_partition_function(n_hidden, collapse):
    machine = toy(n_hidden, n_genes=5)
    given = conditions()
    exact = float(machine.log_partition(given))
    torch.manual_seed(3)
    found = annealed_log_partition(machine, given, n_chains=200, n_steps=100, collapse=collapse)
    assert abs(found.value - exact) < 4 * found.standard_error + 1e-9
    assert abs(found.value - exact) < 0.01 * abs(exact)
    assert 0 < found.standard_error < 0.1
    assert 20 < found.effective_samples <= 200.001
    activations = [torch.full((width,), 0.4, dtype=torch.float64) for width in n_hidden]
    base = without_weights(machine, torch.full((2, 5), 0.3, dtype=torch.float64), activations)
    found = annealed_log_partition(machine, given, n_chains=200, n_steps=100, base=base, collapse=collapse)
    assert abs(found.value - exact) < 4 * found.standard_error + 1e-9
    at_start = annealed_log_partition(base, given, n_chains=2, n_steps=1, base=base)
    assert at_start.value == pytest.approx(float(base.log_partition(given)))
    assert at_start.standard_error < 1e-6


# ---------------------------------------------------------------- fixed genes, fixed layers, exact draws


@torch.no_grad()
@pytest.mark.parametrize("n_hidden", [(3,), (3, 2), (2, 2, 2)])
def test_machine_of_the_free_genes_is_the_conditional_one(n_hidden):
    """p(v_F, h | v_C) from the table of all counts and states."""
    machine, given = toy(n_hidden), conditions()
    table, counts, states = log_table(machine, given)
    fixed = torch.tensor([True, False])
    rows = counts[:, 0] == 3
    expected = torch.log_softmax(table[rows].reshape(-1), 0).reshape(N_COUNTS, -1)
    v = SparseCounts.from_dense(torch.tensor([[3.0]], dtype=torch.float64))
    free, conditioned = machine.with_fixed(fixed, v, given)
    hidden = as_hidden(states, n_hidden)
    same = conditioned.of(torch.zeros(len(states), dtype=torch.int64))
    log_z = free.log_partition(conditioned)
    torch.testing.assert_close(free.log_joint_of_hidden(hidden, same) - log_z, expected.logsumexp(0))
    one = SparseCounts.from_dense(torch.tensor([[5.0]], dtype=torch.float64))
    log_p = free.log_unnormalised(one, conditioned) - log_z
    torch.testing.assert_close(log_p[0], expected[5].logsumexp(0))


@torch.no_grad()
@pytest.mark.parametrize("how", ["chains", "blocks", "exact"])
def test_conditional_draws_have_the_enumerated_distribution(how):
    machine, n = toy(n_genes=2), 20_000
    table, counts, _ = log_table(machine, conditions())
    table = table[counts[:, 1] == 4]
    v = SparseCounts.from_dense(torch.full((1, 1), 4.0, dtype=torch.float64))
    free, given = machine.with_fixed(torch.tensor([False, True]), v, conditions())
    given = given.of(torch.zeros(n, dtype=torch.int64))
    torch.manual_seed(4)
    hidden = (
        free.sample_hidden_exactly(given) if how == "exact" else free.sample_hidden(given, 30, collapse=how == "chains")
    )
    p_h = torch.softmax(table.logsumexp(0), 0).numpy()
    assert chisquare_of(frequencies(hidden), p_h * n) > 1e-3
    drawn = torch.bincount(free.sample_counts(hidden, given).ravel().long(), minlength=N_COUNTS)[:N_COUNTS].numpy()
    assert chisquare_of(drawn, torch.softmax(table.logsumexp(1), 0).numpy() * n) > 1e-3


def chisquare_of(observed: np.ndarray, expected: np.ndarray) -> float:
    """p-value, rare outcomes taken together."""
    enough = expected >= 5
    observed = [*observed[enough], observed[~enough].sum()]
    expected = np.array([*expected[enough], expected[~enough].sum() + 1e-9])
    return chisquare(observed, expected * sum(observed) / expected.sum()).pvalue


@torch.no_grad()
@pytest.mark.parametrize("n_hidden", [(3,), (3, 2), (2, 2, 2)])
def test_exact_draws_have_the_enumerated_distribution(n_hidden):
    machine, n = toy(n_hidden), 10_000
    given = Conditions(torch.arange(2).repeat(n), torch.tensor([0.7, 2.0], dtype=torch.float64).repeat(n))
    torch.manual_seed(5)
    hidden = machine.sample_hidden_exactly(given)
    for batch, size in ((0, 0.7), (1, 2.0)):
        table, *_ = log_table(machine, conditions(batch, size))
        p_h = torch.softmax(table.logsumexp(0), 0).numpy()
        assert chisquare_of(frequencies([h[batch::2] for h in hidden]), p_h * n) > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("collapse", [True, False])
@pytest.mark.parametrize("n_hidden", [(3,), (3, 2), (2, 2, 2)])
def test_sweeps_below_a_fixed_top(n_hidden, collapse):
    machine, n = toy(n_hidden), 20_000
    table, _, states = log_table(machine, conditions())
    top = as_hidden(states, n_hidden)[-1]
    wanted = torch.tensor([1.0] + [0.0] * (n_hidden[-1] - 1), dtype=torch.float64)
    matching = (top == wanted).all(1)
    p_h = torch.where(matching, table.logsumexp(0), -torch.inf).softmax(0).numpy()
    torch.manual_seed(6)
    hidden = machine.random_hidden(n)
    hidden[-1] = wanted.expand(n, -1)
    for _ in range(30):
        hidden = machine.sweep(hidden, conditions(n=n), collapse=collapse, fix_top=True)
    assert chisquare_of(frequencies(hidden), p_h * n) > 1e-3


def test_genes_can_be_all_free_but_one():
    machine = toy(n_genes=3)
    v = SparseCounts.from_dense(torch.zeros(2, 2, dtype=torch.float64))
    free, given = machine.with_fixed(torch.tensor([True, False, True]), v, conditions(n=2))
    assert free.visible.bias.shape == (2, 1)
    torch.testing.assert_close(free.visible.theta, machine.visible.theta[1:2])
    assert (given.evidence == 0).all()
    assert free.sample_counts(free.sample_hidden(given, 1), given).shape == (2, 1)


# ---------------------------------------------------------------- machines between hidden layers


@torch.no_grad()
@pytest.mark.parametrize("is_top", [True, False])
def test_machine_between_hidden_layers_equals_enumeration(is_top):
    torch.manual_seed(0)
    machine = RestrictedBoltzmannMachine(
        torch.nn.Parameter(torch.randn(3, 2).double()), torch.nn.Parameter(torch.randn(2).double()), is_top=is_top
    )
    machine.lower_bias.copy_(torch.randn(3))
    m, f = (2, 1.0) if is_top else (1, 2.0)
    upper = torch.tensor(list(itertools.product([0.0, 1.0], repeat=2 * m)), dtype=torch.float64)
    lower = torch.tensor(list(itertools.product([0.0, 1.0], repeat=3)), dtype=torch.float64)
    n_on = upper.reshape(-1, m, 2).sum(1)
    table = lower @ machine.lower_bias + (n_on @ machine.upper_bias)[:, None] + f * n_on @ machine.weight.T @ lower.T
    torch.testing.assert_close(machine.log_joint_of_upper(n_on), table.logsumexp(1))
    all_on = n_on[-1:].expand(len(lower), -1) / m
    torch.testing.assert_close(machine.log_joint(lower, all_on), table[-1])
    p_lower = torch.softmax(table[1], 0)
    torch.testing.assert_close(machine.lower(n_on[1]), p_lower @ lower)
    p_upper = torch.softmax(table[:, 6], 0)
    torch.testing.assert_close(machine.upper(lower[6]), p_upper @ n_on / m)
    chains = torch.zeros(20_000, 2, dtype=torch.float64)
    for _ in range(30):
        chains = machine.sweep(chains)
    mean = torch.softmax(table.logsumexp(1), 0) @ n_on
    torch.testing.assert_close(chains.mean(0), mean, atol=0.03, rtol=0)


# ---------------------------------------------------------------- counts


def test_new_dispersions_keep_mean_counts():
    layer = NegativeBinomialLayer(4, 2)
    means = torch.tensor([[0.01, 1.0, 30.0, 500.0], [0.5, 2.0, 0.0, 4.0]])
    layer.set_means(means)
    layer.set_theta(torch.tensor([0.02, 3.0, 1.0, 10.0]))
    zeros, size = torch.zeros(2, 4), torch.ones(2)
    found = layer.mean(layer.natural(zeros, torch.arange(2)), size)
    torch.testing.assert_close(found, means.clamp(min=1e-6), rtol=1e-3, atol=1e-8)
    torch.testing.assert_close(layer.theta, torch.tensor([0.02, 3.0, 1.0, 10.0]))
    assert (layer.bias < 0).all()


def test_projection_restores_constraints():
    machine = toy()
    with torch.no_grad():
        machine.weights[0][0, 0] = 0.3
        machine.visible.bias[0, 1] = 0.2
        machine.visible.log_theta[0] = -100
    kept = machine.weights[0][1].clone()
    machine.project()
    assert machine.weights[0][0, 0] == 0
    assert machine.visible.bias[0, 1] == -1e-6
    assert machine.visible.theta[0].item() == pytest.approx(0.01)
    assert torch.equal(machine.weights[0][1], kept)


@pytest.mark.parametrize("n_hidden", [(), (0,), (3, -1), (2.5,)])
def test_widths_must_be_positive_integers(n_hidden):
    with pytest.raises(ValueError, match="n_hidden"):
        DeepBoltzmannMachine(3, n_hidden)


def test_too_many_states_are_refused():
    with pytest.raises(ValueError, match="2\\^17 states of 17 units"):
        DeepBoltzmannMachine(3, (17,)).log_partition(Conditions(torch.zeros(1).long(), torch.ones(1)))


# ---------------------------------------------------------------- dispersions


@pytest.fixture(scope="module")
def gene() -> tuple[torch.Tensor, torch.Tensor]:
    """One gene of theta 2 in 2,000 cells whose means differ."""
    rng = np.random.default_rng(0)
    means = rng.lognormal(0.5, 0.7, size=2_000)
    counts = rng.poisson(rng.gamma(2.0, means / 2.0))
    return torch.tensor(counts, dtype=torch.float64).unsqueeze(1), torch.tensor(means).unsqueeze(1)


def objective(gene, theta: float, penalty: float) -> float:
    counts, means = (part[:, 0].numpy() for part in gene)
    return nbinom(theta, theta / (theta + means)).logpmf(counts).sum() - penalty / theta**2


@pytest.mark.parametrize("penalty", [0.0, 7.0])
def test_score_and_information_are_derivatives(gene, penalty):
    counts, means = gene
    theta = torch.tensor([1.3], dtype=torch.float64, requires_grad=True)
    value = torch.lgamma(counts + theta) - torch.lgamma(theta) + theta * torch.log(theta / (means + theta))
    value = (value - counts * torch.log(means + theta)).sum() - penalty / theta.square().sum()
    (first,) = torch.autograd.grad(value, theta, create_graph=True)
    (second,) = torch.autograd.grad(first.sum(), theta)
    score, information = score_and_information(counts, means, theta.detach(), penalty)
    torch.testing.assert_close(score, first.detach())
    torch.testing.assert_close(information, -second)
    assert float(score) == pytest.approx(
        (objective(gene, 1.3 + 1e-5, penalty) - objective(gene, 1.3 - 1e-5, penalty)) / 2e-5, rel=1e-4
    )


def test_scoring_maximises_the_penalised_likelihood(gene):
    fitted = []
    for penalty in (0.0, 10.0, 100.0, 1_000.0):
        best = minimize_scalar(
            lambda t, p=penalty: -objective(gene, t, p), bounds=(0.05, 50), method="bounded", options={"xatol": 1e-8}
        )
        for start in (None, torch.tensor([0.02]).double(), torch.tensor([300.0]).double()):
            theta = fit_dispersion(*gene, start, penalty=penalty, n_iterations=40)
            assert float(theta) == pytest.approx(best.x, rel=1e-4)
        fitted.append(float(theta))
    assert fitted == sorted(fitted)
    assert fitted[0] == pytest.approx(2.0, rel=0.15)


def test_scoring_of_poisson_counts_runs_to_the_largest_theta():
    counts = torch.tensor(np.random.default_rng(0).poisson(3.0, size=(500, 1)), dtype=torch.float64)
    counts = (counts - 3) / 3 + 3  # variance below the mean
    theta = fit_dispersion(counts, torch.full_like(counts, 3.0), n_iterations=60)
    assert 1e3 < float(theta) <= 1e6


def test_scoring_with_size_factors_is_maximum_likelihood():
    """Sums of s cells have dispersion s theta: the maximum by SciPy, and the score by its finite difference."""
    rng = np.random.default_rng(1)
    size, means = rng.lognormal(0, 0.5, size=3_000), rng.lognormal(0.5, 0.7, size=3_000)
    counts = rng.poisson(rng.gamma(2.0 * size, means / 2.0))

    def log_likelihood(theta: float) -> float:
        return nbinom(size * theta, theta / (theta + means)).logpmf(counts).sum() - 5.0 / theta**2

    y, m = (torch.as_tensor(x, dtype=torch.float64).unsqueeze(1) for x in (counts, size * means))
    s, theta = torch.as_tensor(size), torch.tensor([1.3], dtype=torch.float64)
    score, information = score_and_information(y, m, theta, 5.0, s)
    ends = [log_likelihood(t) for t in (1.3 - 1e-4, 1.3, 1.3 + 1e-4)]
    assert float(score) == pytest.approx((ends[2] - ends[0]) / 2e-4, rel=1e-5)
    assert float(information) == pytest.approx(-(ends[2] - 2 * ends[1] + ends[0]) / 1e-8, rel=1e-2)
    best = minimize_scalar(lambda t: -log_likelihood(t), bounds=(0.1, 20), method="bounded", options={"xatol": 1e-8})
    for start in (None, torch.tensor([0.05]).double()):
        assert float(fit_dispersion(y, m, start, penalty=5.0, size=s)) == pytest.approx(best.x, rel=1e-4)
    assert best.x == pytest.approx(2.0, rel=0.15)
    by_moments = len(y) / (s.unsqueeze(1) * (y / m - 1).square()).sum()
    assert float(fit_dispersion(y, m, n_iterations=0, size=s)) == pytest.approx(float(by_moments))
