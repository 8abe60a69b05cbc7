"""What every posterior of a row keeps to, and what tells them apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.distributions import Independent, Normal

from scdgd.module import DGDModule
from scdgd.posterior import Gaussian, Noisy, Point, RowPosterior
from scdgd.prior import GaussianMixture

POSTERIORS = {"point": Point(), "noisy": Noisy(0.3), "gaussian": Gaussian(0.5)}


def rows_of(posterior: RowPosterior, n: int = 6, d: int = 2) -> torch.Tensor:
    rows = torch.randn(n, posterior.width(d), generator=torch.Generator().manual_seed(0))
    rows[:, d:] = rows[:, d:] / 3 - 1
    return rows


@pytest.mark.parametrize("name", POSTERIORS)
@pytest.mark.slow
def test_draws_have_the_moments(name):
    posterior = POSTERIORS[name]
    rows = rows_of(posterior)
    torch.manual_seed(0)
    z = torch.stack([posterior.draw(rows) for _ in range(20_000)])
    mean, var = posterior.moments(rows)
    np.testing.assert_allclose(z.mean(0), mean, atol=0.02)
    np.testing.assert_allclose(z.std(0), torch.as_tensor(var).sqrt().expand_as(mean), rtol=0.03, atol=1e-6)


@pytest.mark.parametrize("name", POSTERIORS)
def test_a_seed_gives_the_same_minibatches_to_all(name):
    torch.manual_seed(0)
    torch.randn(6, 2)
    expected = torch.rand(())
    torch.manual_seed(0)
    POSTERIORS[name].draw(rows_of(POSTERIORS[name]))
    assert torch.rand(()) == expected


@pytest.mark.parametrize("name", POSTERIORS)
def test_a_table_starts_as_the_posterior_says(name):
    posterior = POSTERIORS[name]
    table = DGDModule(5, 4, GaussianMixture(2, 3), posterior=posterior).representations.table
    assert table.shape == (4, posterior.width(3))
    mean, var = posterior.moments(table)
    assert (mean == 0).all()
    np.testing.assert_allclose(var, {"point": 0, "noisy": 0.09, "gaussian": 0.25}[name], rtol=1e-6)


def test_entropy_is_that_of_the_gaussian():
    rows = rows_of(POSTERIORS["gaussian"])
    mean, log_scale = rows.chunk(2, dim=1)
    torch.testing.assert_close(
        POSTERIORS["gaussian"].entropy(POSTERIORS["gaussian"].moments(rows)[1]),
        Independent(Normal(mean, log_scale.exp()), 1).entropy(),
    )
    assert POSTERIORS["point"].entropy(0.0) == POSTERIORS["noisy"].entropy(0.09) == 0  # constants are left out


def test_held_out_cells_see_no_noise_but_their_own():
    rows = rows_of(POSTERIORS["noisy"])
    assert POSTERIORS["noisy"].draw(rows, training=False) is rows
    assert POSTERIORS["point"].draw(rows, training=False) is rows
    rows = rows_of(POSTERIORS["gaussian"])
    assert (POSTERIORS["gaussian"].draw(rows, training=False) != rows[:, :2]).all()


@pytest.mark.parametrize("make", [Noisy, Gaussian])
@pytest.mark.parametrize("scale", [0, -1.0, float("nan"), "a"])
def test_scales_are_positive(make, scale):
    with pytest.raises((ValueError, TypeError), match="scale"):
        make(scale)
