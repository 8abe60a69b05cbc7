"""The softball: its density, its normaliser and the published initialisation."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats

from scdgd.prior import Softball
from scdgd.prior._softball import log_excess_mass

#: Integrals of the density without normaliser, by dimension and sharpness (closed form by polylogarithms).
EXCESS_MASS = {
    (1, 1): 1.3133,
    (1, 5): 1.00134,
    (1, 10): 1.0000,
    (2, 1): 3.6126,
    (2, 5): 1.1311,
    (2, 10): 1.0329,
    (2, 20): 1.0082,
    (2, 50): 1.0013,
    (2, 100): 1.0003,
    (3, 1): 12.985,
    (3, 5): 1.3951,
    (3, 10): 1.0987,
    (3, 20): 1.0247,
    (3, 50): 1.0040,
    (20, 1): 6.61e18,
    (20, 5): 3.79e6,
    (20, 10): 530,
    (20, 20): 5.36,
    (20, 50): 1.289,
    (20, 100): 1.065,
}


def integrate(softball: Softball) -> float:
    """Integral of the density over the line or, in polar coordinates with one angle a radius, over the plane."""
    radius = torch.linspace(0, softball.scale * (1 + 60 / softball.sharpness), 200_001, dtype=torch.float64)
    if softball.n_latent == 1:
        points, surface = radius[:, None], torch.full_like(radius, 2.0)
    else:
        angle = 1e3 * radius
        points, surface = radius[:, None] * torch.stack([angle.cos(), angle.sin()], dim=1), 2 * math.pi * radius
    return float(torch.trapezoid(softball.log_prob(points).exp() * surface, radius))


@pytest.mark.parametrize(("d", "sharpness"), [key for key in EXCESS_MASS if key[0] <= 2])
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_integral_is_the_closed_form(d, sharpness, scale):
    assert integrate(Softball(d, scale, sharpness)) == pytest.approx(EXCESS_MASS[d, sharpness], rel=1e-4)


@pytest.mark.parametrize("d", [1, 2])
@pytest.mark.parametrize("sharpness", [1, 5, 50])
@pytest.mark.parametrize("scale", [1.0, 2.5])
def test_normalized_density_integrates_to_one(d, sharpness, scale):
    assert integrate(Softball(d, scale, sharpness, normalized=True)) == pytest.approx(1, rel=1e-5)


@pytest.mark.parametrize(("key", "expected"), EXCESS_MASS.items(), ids=str)
def test_log_excess_mass_equals_the_table(key, expected):
    assert log_excess_mass(*key) == pytest.approx(math.log(expected), abs=2e-3)


@pytest.mark.parametrize("sharpness", [0.3, 1, 5, 30])
def test_log_excess_mass_in_one_dimension_has_an_elementary_form(sharpness):
    expected = math.log(np.logaddexp(0, sharpness) / sharpness)
    assert log_excess_mass(1, sharpness) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(("d", "volume"), [(1, 2.0), (2, math.pi), (3, 4 / 3 * math.pi), (4, math.pi**2 / 2)])
def test_sharp_surface_gives_the_uniform_density_of_the_ball(d, volume):
    scale = 1.5
    inside, outside = torch.zeros(2, d, dtype=torch.float64)
    inside[0], outside[0] = 0.9 * scale, 1.1 * scale
    softball = Softball(d, scale, sharpness=1e3)
    assert float(softball.log_prob(inside)) == pytest.approx(-math.log(volume * scale**d))
    assert float(softball.log_prob(outside)) == pytest.approx(-math.log(volume * scale**d) - 100)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("scale", "sharpness"), [(1.0, 1.0), (2.0, 5.0)])
def test_gradient_is_zero_at_the_origin_and_finite_far_outside(dtype, scale, sharpness):
    direction = torch.tensor([0.6, -0.8, 0.0], dtype=dtype)
    m = torch.stack([torch.zeros(3, dtype=dtype), 1e4 * scale * direction, scale * direction]).requires_grad_()
    log_prob = Softball(3, scale, sharpness).log_prob(m)
    log_prob.sum().backward()
    assert torch.isfinite(log_prob).all()
    slope = -sharpness / scale * direction
    torch.testing.assert_close(m.grad, torch.stack([torch.zeros(3, dtype=dtype), slope, slope / 2]))


@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
def test_shape(shape):
    assert Softball(4).log_prob(torch.ones(*shape, 4)).shape == shape


@pytest.mark.parametrize("d", [1, 2, 20])
def test_samples_are_uniform_in_the_ball(d):
    n, scale = 4_000, 2.5
    m = Softball(d, scale).sample(n, torch.Generator().manual_seed(0)).double()
    radius = m.norm(dim=1)
    assert (radius <= scale * (1 + 1e-6)).all()
    assert stats.kstest((radius / scale).numpy() ** d, "uniform").pvalue > 0.01
    direction = (m / radius[:, None]).mean(0)
    assert (direction.abs() < 5 / math.sqrt(n * d)).all()


def test_samples_follow_the_generator():
    draw = lambda seed: Softball(3).sample(5, torch.Generator().manual_seed(seed))
    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


@pytest.mark.parametrize("kwargs", [{"scale": 0}, {"scale": -1.0}, {"sharpness": 0}, {"sharpness": -2.0}])
def test_bad_arguments(kwargs):
    with pytest.raises(ValueError, match="must be a positive number"):
        Softball(2, **kwargs)
