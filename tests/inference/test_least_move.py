"""Least moves against closed forms and SciPy, and the spread of changes against sums over all draws."""

from __future__ import annotations

import numpy as np
import torch
from scipy.optimize import minimize

from scdgd.inference._change_of_shares import ChangeOfShares
from scdgd.inference._least_move import least_move

RNG = np.random.default_rng(0)


def test_of_a_linear_function_it_is_a_regression():
    root, slope, z = (torch.as_tensor(RNG.normal(size=s)) for s in ((3, 3), (3,), (5, 3)))
    root[:, 2] = 0.0  # moves stay in a plane
    move, length = least_move(lambda at: at @ slope, z, 2.5, root)
    covariance = root @ root.T
    expected = covariance @ slope * 2.5 / (slope @ covariance @ slope)
    torch.testing.assert_close(move, expected.expand_as(move), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(length, torch.full((5,), 2.5 / (slope @ covariance @ slope).sqrt().item()).double())


def test_of_log_shares_it_is_the_least_one_that_reaches_the_change():
    root, weights, z = (RNG.normal(size=s) for s in ((3, 3), (12, 3), (4, 3)))
    log_share = lambda at: at @ weights[:2].mean(0) - np.log(np.exp(at @ weights.T).sum(-1))
    w = torch.as_tensor(weights)
    value = lambda at: at @ w[:2].mean(0) - torch.logsumexp(at @ w.T, -1)
    move, length = least_move(value, torch.as_tensor(z), 0.2, torch.as_tensor(root))
    for row, found, sd in zip(z, move.numpy(), length, strict=True):
        assert abs(log_share(row + found) - log_share(row) - 0.2) < 1e-2
        constraint = {"type": "eq", "fun": lambda e, row=row: log_share(row + root @ e) - log_share(row) - 0.2}
        best = minimize(lambda e: e @ e, np.full(3, 0.1), constraints=constraint, method="SLSQP")
        assert best.success
        assert abs(sd - np.sqrt(best.fun)) < 0.02
        np.testing.assert_allclose(found, root @ best.x, atol=0.03)


def test_what_cannot_be_reached_is_approached():
    """A share of one half can double, and not grow eightfold."""
    value = lambda at: torch.nn.functional.logsigmoid(at[:, 0]) / np.log(2)
    move, _ = least_move(value, torch.zeros(2, 1), 3.0, torch.eye(1))
    assert torch.isfinite(move).all()
    assert (value(move) > -0.1).all()


def test_the_spread_is_that_between_cells_and_that_between_draws():
    n, s, g = 4_000, 3, 4
    of_cells, of_draws = np.array([0.0, 1.0, 0.5, 0.2]), np.array([1.0, 0.0, 0.5, 1.0])
    change = 7 + of_cells * RNG.normal(size=(1, n, g)) + of_draws * RNG.normal(size=(s, n, g))
    before = RNG.dirichlet(np.ones(g), size=(s, n))
    found = ChangeOfShares(g)
    for cells in np.array_split(np.arange(n), 3):
        pairs = (torch.as_tensor(part[:, cells]) for part in (before, before * 2**change))
        found.add(zip(*pairs, strict=True))
    table = found.table()
    np.testing.assert_allclose(table["log_fold_change"], change.mean((0, 1)))
    within = change.var(0, ddof=1).mean(0)
    np.testing.assert_allclose(table["sd_posterior"] ** 2, within, atol=1e-9)
    between = np.maximum(change.mean(0).var(0, ddof=1) - within / s, 0)
    np.testing.assert_allclose(table["sd_cells"] ** 2, between, atol=1e-9)
    np.testing.assert_allclose(table["sd_cells"], of_cells, atol=0.15)  # not those of the means of draws
    np.testing.assert_allclose(table["share"], before.mean((0, 1)))
    one = ChangeOfShares(g)
    one.add([(torch.ones(1, g), 2 * torch.ones(1, g))])
    np.testing.assert_array_equal(one.table()[["log_fold_change", "sd_cells", "sd_posterior"]], [[1, 0, 0]] * g)
