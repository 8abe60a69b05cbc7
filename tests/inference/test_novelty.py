"""How unlike a reference cells are: information, neighbours, p-values, and the score of them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.stats import kstest
from scvi.distributions import NegativeBinomial

from scdgd.inference import (
    InformationCoordinates,
    NoveltyReference,
    ReadCells,
    mean_information,
    nearest,
    shares_above,
)


def test_the_information_is_that_of_a_negative_binomial():
    """Against the Jacobian of log means by automatic differentiation, with the weights of the family."""
    torch.manual_seed(0)
    weight, theta, z = torch.randn(6, 2).double(), torch.rand(6).double() + 0.5, torch.randn(5, 2).double()

    def decode(z: torch.Tensor) -> NegativeBinomial:
        return NegativeBinomial(mu=3 * torch.softmax(z @ weight.T, -1) + 0.1, theta=theta.expand(len(z), -1))

    expected = torch.zeros(2, 2).double()
    for one in z:
        jacobian = torch.autograd.functional.jacobian(lambda v: decode(v[None]).mean[0].log(), one)
        mu = decode(one[None]).mean[0]
        expected += jacobian.T @ torch.diag(mu / (1 + mu / theta)) @ jacobian / len(z)
    torch.testing.assert_close(mean_information(decode, z), expected, rtol=1e-3, atol=1e-6)


def test_neighbours_are_the_nearest_of_other_names():
    rng = np.random.default_rng(0)
    points, z = rng.normal(size=(30, 2)), rng.normal(size=(6, 2))
    of_points, names = np.arange(30).astype(str), np.array(["4", "x", "7", "y", "0", "z"])
    found = nearest(z, names, points, of_points, 5)
    for cell, name in enumerate(names):
        others = of_points != name
        distances = cdist(z[cell : cell + 1], points)[0]
        np.testing.assert_allclose(found.distances[cell], np.sort(distances[others])[:5])
        assert name not in of_points[found.points[cell]]
    assert nearest(z, names, points[:3], of_points[:3], 15).points.shape == (6, 2)


def test_a_cell_among_its_own_points_is_left_out_wherever_it_is():
    points = np.zeros((4, 1))  # all at one place
    names = np.array(["a", "b", "c", "d"])
    found = nearest(points, names, points, names, 3)
    assert all(set(names[row]) == set(names) - {name} for name, row in zip(names, found.points, strict=True))


def test_votes_are_kernels_over_neighbours():
    found = nearest(
        np.zeros((1, 1)), np.array(["q"]), np.array([[1.0], [2.0], [9.0], [9.5]]), np.array(list("abcd")), 2
    )
    weights = np.exp(-0.5 * np.array([1.0, 4.0]) / 2.5)
    np.testing.assert_allclose(found.votes(np.array([1, 0, 0, 0]), 3), [[weights[1], weights[0], 0] / weights.sum()])
    same = nearest(np.zeros((1, 1)), np.array(["q"]), np.zeros((3, 1)), np.array(list("abc")), 2)
    assert np.isfinite(same.votes(np.array([1, 0, 0]), 2)).all()


def test_p_values_count_the_reference():
    reference = np.array([1.0, 2.0, 2.0, 5.0])
    np.testing.assert_allclose(shares_above(np.array([0, 2, 3, 9.0]), reference), [1, 4 / 5, 2 / 5, 1 / 5])


def cells_of(rng: np.random.Generator, n: int, shift: float = 0.0, name: str = "c") -> ReadCells:
    """Cells whose likelihood depends on their depth, shifted from the others in a direction of weak information."""
    depth, z = np.exp(rng.normal(7, 0.4, n)), rng.normal(size=(n, 2)) + [0.0, shift]
    detected = depth**0.7
    likelihood = -2 * depth**0.9 - 30 * np.log(detected) + np.sqrt(depth) * rng.normal(size=n)
    names = np.array([f"{name}{i}" for i in range(n)])
    return ReadCells(names, z, -0.5 * (z**2).sum(1), likelihood, depth, detected)


def reference_of(rng: np.random.Generator, n: int) -> NoveltyReference:
    cells = cells_of(rng, n)
    return NoveltyReference.of(InformationCoordinates.of(np.diag([100.0, 1.0])), cells.z, cells.names, cells)


def test_the_reference_has_a_mean_score_of_zero_and_survives_as_arrays():
    rng = np.random.default_rng(0)
    reference = reference_of(rng, 100)
    assert abs(reference.scores.mean()) < 1e-9
    new = cells_of(rng, 20, name="n")
    again = NoveltyReference(**reference.to_dict())
    np.testing.assert_array_equal(again.score(new), reference.score(new))


def test_cells_of_the_same_law_have_uniform_p_values_at_any_depth():
    rng = np.random.default_rng(1)
    reference = reference_of(rng, 1_000)
    new = cells_of(rng, 1_000, name="n")
    p = reference.p_values(reference.score(new))
    assert kstest(p, "uniform").pvalue > 0.01
    shallow = new.depth < np.median(new.depth)
    assert abs((p[shallow] <= 0.1).mean() - (p[~shallow] <= 0.1).mean()) < 0.06


def test_cells_elsewhere_have_small_p_values():
    rng = np.random.default_rng(2)
    reference = reference_of(rng, 300)
    far = reference.p_values(reference.score(cells_of(rng, 50, shift=8.0, name="n")))
    assert (far <= 0.01).all()
    unlikely = cells_of(rng, 50, name="n")
    unlikely = unlikely._replace(log_likelihood=unlikely.log_likelihood - 30 * np.sqrt(unlikely.depth))
    assert (reference.p_values(reference.score(unlikely)) <= 0.02).mean() > 0.9


@pytest.mark.parametrize("n", [2, 10, 16])
def test_few_cells_are_enough(n):
    rng = np.random.default_rng(3)
    reference = reference_of(rng, n)
    p = reference.p_values(reference.score(cells_of(rng, 5, name="n")))
    assert ((p > 0) & (p <= 1)).all()


def test_the_information_is_that_of_the_genes_that_were_measured():
    """Of counts that share nothing, what a decoder of these genes alone gives, cell by cell."""
    torch.manual_seed(0)
    weight, z = torch.randn(6, 2).double(), torch.randn(2, 2).double()
    measured = torch.tensor([[True] * 6, [True, False, True, True, False, False]])
    decode = lambda z, genes=slice(None): NegativeBinomial(
        mu=(z @ weight[genes].T).exp(), theta=torch.ones(()).double()
    )
    parts = [mean_information(lambda z, m=m: decode(z, m), one[None]) for one, m in zip(z, measured, strict=True)]
    torch.testing.assert_close(mean_information(decode, z, measured), sum(parts) / 2)
    torch.testing.assert_close(
        mean_information(decode, z, torch.ones(2, 6, dtype=torch.bool)), mean_information(decode, z)
    )
