"""Curvature of log densities, against automatic differentiation."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from scdgd.prior import GaussianComponents, GaussianMixture, Prior, SoftballMixture
from tests.prior.mixtures import every_covariance, precisions_of, randomise


def mixture(covariance_type: str, spread: float = 1.0) -> GaussianMixture:
    return randomise(GaussianMixture(3, 4, covariance_type=covariance_type), spread=spread).double()


@every_covariance
@pytest.mark.parametrize("shape", [(), (6,), (2, 3)])
def test_hessian_equals_automatic_differentiation(covariance_type, shape):
    prior = mixture(covariance_type)
    z = 2 * torch.randn(*shape, 4, dtype=torch.float64)
    exact = [-torch.func.hessian(prior.log_prob)(row) for row in z.reshape(-1, 4)]
    torch.testing.assert_close(prior.hessian(z), torch.stack(exact).reshape(*shape, 4, 4), rtol=1e-9, atol=1e-9)


@every_covariance
@pytest.mark.parametrize("shape", [(), (6,), (2, 3)])
def test_precision_is_the_curvature_of_the_bound(covariance_type, shape):
    """Responsibilities held at z, as in EM."""
    prior = mixture(covariance_type)
    z = 2 * torch.randn(*shape, 4, dtype=torch.float64)
    bound = lambda row, r: (r * prior.component_log_prob(row)).sum()
    exact = [-torch.func.hessian(bound)(row, prior.responsibilities(row).detach()).detach() for row in z.reshape(-1, 4)]
    torch.testing.assert_close(
        prior.precision(z).detach(), torch.stack(exact).reshape(*shape, 4, 4), rtol=1e-9, atol=1e-9
    )


@every_covariance
def test_precision_is_positive_definite_where_the_hessian_is_not(covariance_type):
    prior = mixture(covariance_type)
    with torch.no_grad():
        prior.means.copy_(torch.tensor([[-9.0, 0, 0, 0], [9.0, 0, 0, 0], [0, 50.0, 0, 0]]))
    segment = torch.linspace(-9, 9, 2001, dtype=torch.float64)[:, None] * torch.eye(4, dtype=torch.float64)[0]
    between = segment[prior.responsibilities(segment).max(-1).values.argmin()]  # where both are as likely
    assert torch.linalg.eigvalsh(prior.hessian(between)).min() < 0
    assert torch.linalg.eigvalsh(prior.precision(between)).min() > 0


@every_covariance
def test_far_away_one_component_rules(covariance_type):
    prior = mixture(covariance_type)
    z = torch.full((1, 4), 1e4, dtype=torch.float64)
    nearest = precisions_of(prior)[prior.responsibilities(z).argmax()]
    torch.testing.assert_close(prior.precision(z)[0].detach(), nearest)
    torch.testing.assert_close(prior.hessian(z)[0].detach(), nearest)


@every_covariance
def test_general_formulas_agree_with_those_of_the_type(covariance_type):
    """A new prior needs its means, precisions and responsibilities only."""
    prior = mixture(covariance_type)
    z = torch.randn(5, 4, dtype=torch.float64)
    torch.testing.assert_close(prior.precision(z), GaussianComponents.precision(prior, z))
    torch.testing.assert_close(prior._component_scores(z), GaussianComponents._component_scores(prior, z))


def test_softball_mixture_has_a_curvature():
    prior = SoftballMixture(3, 2).double()
    z = torch.randn(2, dtype=torch.float64)
    torch.testing.assert_close(prior.hessian(z), -torch.func.hessian(prior.log_prob)(z))


@every_covariance
def test_curvature_of_any_density_is_found_by_autograd(covariance_type):
    prior, z = mixture(covariance_type), torch.randn(2, 5, 4, dtype=torch.float64)
    exact = Prior.hessian(prior, z)
    torch.testing.assert_close(exact, prior.hessian(z))
    values = torch.linalg.eigvalsh(Prior.precision(prior, z))
    assert (values > -1e-9).all()
    torch.testing.assert_close(values, torch.linalg.eigvalsh(exact).clamp(min=0).sort(-1).values)
    with torch.inference_mode():
        torch.testing.assert_close(Prior.hessian(prior, z.clone()), exact)


class LargestTensor(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation returns."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if torch.is_tensor(tensor):
                self.elements = max(self.elements, tensor.numel())
        return result


@every_covariance
@pytest.mark.parametrize("method", ["precision", "hessian", "log_prob", "em_step"])
def test_no_matrix_for_each_cell_and_component(covariance_type, method):
    n, k, d = 50, 11, 7
    prior = randomise(GaussianMixture(k, d, covariance_type=covariance_type))
    z, kwargs = torch.randn(n, d), {}
    if method == "em_step":
        kwargs["posterior_var"] = torch.eye(d).repeat(n, 1, 1)
    with torch.no_grad(), LargestTensor() as largest:
        getattr(prior, method)(z, **kwargs)
    assert n * d <= largest.elements <= n * d * max(k, d)


@pytest.mark.parametrize("posterior_var", ["variances", "covariances"])
def test_em_step_looks_at_one_block_of_cells_at_a_time(monkeypatch, posterior_var):
    monkeypatch.setattr("scdgd.prior._moments._MAX_ELEMENTS", 2_000)
    prior = GaussianMixture(3, 7, covariance_type="full")
    z = torch.randn(1_000, 7)
    spread = torch.ones(1_000, 7) if posterior_var == "variances" else torch.eye(7).repeat(1_000, 1, 1)
    with LargestTensor() as largest:
        prior.em_step(z, posterior_var=spread)
    assert largest.elements <= 2_000
