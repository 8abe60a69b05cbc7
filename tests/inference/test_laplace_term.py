"""Laplace's term: value against Hessians by autograd, derivatives against finite differences, invariance to scale."""

from __future__ import annotations

import math

import pytest
import torch
from scvi import REGISTRY_KEYS

from scdgd.inference import _joint_density, fisher_information, laplace_term
from scdgd.inference._gene_subset import choose_genes
from scdgd.inference._joint_density import JointDensity
from scdgd.likelihood import LIKELIHOODS, VALUE_LIKELIHOODS
from scdgd.module import DGDModule
from scdgd.prior import GaussianMixture, SoftballMixture
from tests.inference.test_gauss_newton import VARIANTS, draw, make_module

CASES = {**VARIANTS, "poisson": {"gene_likelihood": "poisson"}}
OF_VALUES = {"size_factor": "none", "output_activation": "identity"}
FAMILIES = {name: {} for name in LIKELIHOODS} | dict.fromkeys(VALUE_LIKELIHOODS, OF_VALUES)
FAMILIES["constrained_poisson"] = {"size_factor": "observed"}
PRIORS = ("tied_diag", "diag", "spherical", "tied", "full")


def make(b: int = 4, covariance_type: str = "tied_diag", **kwargs) -> tuple[DGDModule, dict, torch.Tensor]:
    """A module in double, cells, and representations that are not at their modes."""
    module = make_module(**kwargs)
    prior = GaussianMixture(4, 3, covariance_type=covariance_type).double()
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.normal_(0, 0.5)
    module.prior = prior
    return module, draw(module, b), torch.randn(b, 3, dtype=torch.float64).requires_grad_()


def bound(module: DGDModule, tensors: dict, at: torch.Tensor, i: int):
    """Expected negative log likelihood plus EM's bound of cell `i`, with counts and shares of `at`: a function of z."""
    cell = {key: value[i : i + 1] for key, value in tensors.items()}
    covariates = module.covariates(cell)
    batch, categorical, continuous = (covariates[key] for key in ("batch_index", "cat_covs", "cont_covs"))
    categories = [batch] if categorical is None else [batch, *categorical.split(1, dim=1)]
    theta = module.log_theta.exp()
    theta = theta[batch.ravel()] if theta.ndim == 2 else theta
    mean = lambda z: (cell[REGISTRY_KEYS.SIZE_FACTOR_KEY].log() + module.decoder(z, categories, continuous)).exp()
    share, x = module.prior.responsibilities(at), mean(at)

    def value(z: torch.Tensor) -> torch.Tensor:
        z = z.unsqueeze(0)
        mu = mean(z)
        of_counts = x * mu.log() - mu
        if module.gene_likelihood == "nb":
            of_counts = x * (mu / (mu + theta)).log() - theta * (mu + theta).log()
        return -of_counts.sum() - (share * module.prior.component_log_prob(z)).sum()

    return value


@pytest.mark.parametrize("kwargs", CASES.values(), ids=CASES.keys())
def test_log_volume_is_that_of_the_hessian(kwargs):
    module, tensors, z = make(**kwargs)
    term = laplace_term(module, tensors, z)
    for i, at in enumerate(z.detach().split(1)):
        hessian = torch.autograd.functional.hessian(bound(module, tensors, at, i), at[0])
        expected = 1.5 * math.log(2 * math.pi) - 0.5 * torch.linalg.slogdet(hessian).logabsdet
        torch.testing.assert_close(term.log_volume[i], expected, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(term.covariance[i], hessian.inverse(), rtol=1e-8, atol=1e-10)
    assert not term.covariance.requires_grad


def derivative(value, parameter: torch.Tensor, direction: torch.Tensor, step: float = 1e-5) -> float:
    """Along a direction, by central differences."""
    with torch.no_grad():
        start, values = parameter.clone(), []
        for sign in (1, -1):
            parameter.copy_(start + sign * step * direction)
            values.append(float(value()))
        parameter.copy_(start)
    return (values[0] - values[1]) / (2 * step)


def assert_derivatives(module: DGDModule, tensors: dict, z: torch.Tensor, n_genes: int | None) -> None:
    value = lambda: laplace_term(module, tensors, z, n_genes).log_volume.sum()
    parameters = {"z": z, **dict(module.named_parameters())}
    gradients = torch.autograd.grad(value(), list(parameters.values()), allow_unused=True)
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        gradient = torch.zeros_like(parameter) if gradient is None else gradient
        direction = torch.randn_like(parameter) + gradient / gradient.norm().clamp(min=1e-12)
        along = float((gradient * direction).sum())
        assert derivative(value, parameter, direction) == pytest.approx(along, rel=1e-5, abs=1e-6), name
    seen = {
        name.removeprefix("observations.genes.")
        for name, gradient in zip(parameters, gradients, strict=True)
        if gradient is not None
    }
    assert {"z", "decoder.output.weight", "prior.means", "prior.log_var", "prior.weight_logits"} <= seen
    assert {f"family_parameters.{name}" for name in module.likelihood.parameter_names} <= seen


@pytest.mark.parametrize("kwargs", CASES.values(), ids=CASES.keys())
def test_derivatives(kwargs):
    assert_derivatives(*make(**kwargs), None)


@pytest.mark.parametrize("name", FAMILIES)
def test_derivatives_of_every_family(name):
    assert_derivatives(*make(gene_likelihood=name, **FAMILIES[name]), None)


@pytest.mark.parametrize("covariance_type", PRIORS)
def test_derivatives_with_every_covariance_type(covariance_type):
    assert_derivatives(*make(covariance_type=covariance_type), None)


@pytest.mark.parametrize("output_activation", ["softmax", "sigmoid", "softplus"])
def test_derivatives_of_a_subset_take_its_weights_for_constants(monkeypatch, output_activation):
    module, tensors, z = make(output_activation=output_activation)
    subset = choose_genes(module, 15, seed=3)
    assert subset.weights.max() > 1.5
    monkeypatch.setattr(_joint_density, "choose_genes", lambda *args: subset)
    assert_derivatives(module, tensors, z, 15)


@pytest.mark.slow
@pytest.mark.parametrize(("output_activation", "tolerance"), [("softmax", 0.06), ("sigmoid", 0.02)])
def test_a_subset_is_fair_and_the_seed_draws_another(output_activation, tolerance):
    """Precisions are right on average (a softmax's normaliser is estimated too); log volumes are slightly too large."""
    module, tensors, z = make(5, output_activation=output_activation)
    whole = laplace_term(module, tensors, z)
    parts = [laplace_term(module, tensors, z, 20, seed) for seed in range(150)]
    precision = torch.stack([part.covariance.inverse() for part in parts])
    expected = fisher_information(module, tensors, z)
    error = (precision.mean(0) - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
    assert error.max() < tolerance
    log_volume = torch.stack([part.log_volume for part in parts])
    assert len(log_volume[:, 0].unique()) > 75
    gap = log_volume.mean(0) - whole.log_volume
    assert (gap.mean() > 0) & (gap.abs().max() < 0.15)


def test_rows_do_not_depend_on_each_other_and_a_broken_one_is_nan(monkeypatch):
    """Because a plan names the cells whose loss is not finite."""
    module, tensors, z = make(6)
    whole = laplace_term(module, tensors, z).log_volume
    curvature = JointDensity.curvature

    def indefinite(density, z):
        return curvature(density, z) - 1e6 * torch.diag_embed((torch.arange(6) == 2).double()[:, None].expand(6, 3))

    monkeypatch.setattr(JointDensity, "curvature", indefinite)
    broken = laplace_term(module, tensors, z).log_volume
    assert broken.isnan().tolist() == [False, False, True, False, False, False]
    keep = [0, 1, 3, 4, 5]
    torch.testing.assert_close(broken[keep], whole[keep])


# models.md 5.6: z -> e^-t z, and the first layer back


def rescale(module: DGDModule, z: torch.Tensor, t: float) -> torch.Tensor:
    """Shrink representations and mixture by e^-t, and multiply the first layer by e^t; the shrunk representations."""
    with torch.no_grad():
        module.prior.means.mul_(math.exp(-t))
        module.prior.log_var.sub_(2 * t)
        module.decoder.hidden.fc_layers[0][0].weight[:, : z.shape[1]].mul_(math.exp(t))
    return z.detach() * math.exp(-t)


@pytest.mark.parametrize("n_genes", [None, 20])
@pytest.mark.parametrize("covariance_type", ["tied_diag", "full"])
def test_evidence_does_not_depend_on_the_scale(covariance_type, n_genes):
    """The joint density gains t in every dimension of every cell; the term loses as much."""
    module, tensors, z = make(8, covariance_type)
    joint, term = module.prior.log_prob(z), laplace_term(module, tensors, z, n_genes).log_volume
    shrunk = rescale(module, z, 0.7)
    gain = module.prior.log_prob(shrunk) - joint
    torch.testing.assert_close(gain, torch.full_like(gain, 3 * 0.7), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        laplace_term(module, tensors, shrunk, n_genes).log_volume - term, -gain, rtol=1e-9, atol=1e-9
    )


def test_only_with_the_term_the_scale_has_an_optimum_that_is_no_collapse():
    r"""Hyper-prior counted once: without the term the optimum of t is near :math:`n / 4k` and runs away with n."""
    k, d, n = 2, 3, 60
    module = make_module(k=k, d=d)
    module.prior = SoftballMixture(k, d, component_scale=0.3).double()
    tensors = draw(module, n)
    with torch.no_grad():
        z = module.prior.sample(n)[0]
    scales, objective, evidence = torch.linspace(-1, 12, 66, dtype=torch.float64), [], []
    z = rescale(module, z, float(scales[0]))
    for step in scales.diff(prepend=scales[:1]):
        z = rescale(module, z, float(step))
        with torch.no_grad():
            hyper = sum(module.prior.hyper_log_prob().values())
            objective.append(module.prior.log_prob(z).sum() + hyper)
            evidence.append(objective[-1] + laplace_term(module, tensors, z).log_volume.sum())
    collapsed = float(scales[torch.stack(objective).argmax()])
    assert collapsed == pytest.approx(n / (4 * k), abs=0.3)  # the softball of the means adds a little
    assert abs(float(scales[torch.stack(evidence).argmax()])) < 0.3


def test_genes_without_information_have_a_gradient():
    """A mean that underflows to zero has no Fisher information, and the root of zero no derivative."""
    module, tensors, z = make()
    with torch.no_grad():
        module.decoder.output.bias[0] = -1_000.0
    laplace_term(module, tensors, z).log_volume.sum().backward()
    assert torch.isfinite(z.grad).all()
    assert torch.isfinite(module.decoder.output.weight.grad).all()
