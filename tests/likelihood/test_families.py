"""Families that users define, and what models pass to a family."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest
import torch
from scipy import stats
from torch.nn.functional import logsigmoid

from scdgd.data import SparseCounts, as_sparse_counts
from scdgd.inference import fisher_information
from scdgd.likelihood import (
    LIKELIHOODS,
    ConstrainedPoisson,
    CountLikelihood,
    FamilyParameter,
    Poisson,
    Terms,
    ZeroInflated,
    ZeroInflatedPoisson,
    register,
)
from scdgd.module import DGDModule
from scdgd.prior import GaussianMixture

from .families import COUNTS, inflate


class Geometric(CountLikelihood):
    r"""A geometric distribution with mean :math:`\mu`, :math:`p(x) = \mu^x / (1 + \mu)^{x + 1}`."""

    @staticmethod
    def constant_terms(x, parameters):
        return torch.zeros_like(x)

    @staticmethod
    def zero_terms(mean, parameters, wanted):
        return Terms(-torch.log1p(mean), -mean / (1 + mean) if wanted.d_log_mean or wanted.d_parameters else None)

    @staticmethod
    def nonzero_terms(x, log_mean, parameters, wanted):
        value = x * logsigmoid(log_mean) + logsigmoid(-log_mean)
        return Terms(value, x * (-log_mean).sigmoid() - log_mean.sigmoid())

    @property
    def natural_parameter(self):
        return logsigmoid(self.log_mean)

    def score_each(self, counts):
        return as_sparse_counts(counts) @ self.natural_parameter.T.contiguous() + self.log_zero_probability.sum(-1)

    def information(self):
        return self.mu / (1 + self.mu)

    def sample(self, sample_shape=()):
        return torch.distributions.Geometric(1 / (1 + self.mu)).sample(sample_shape)


class ZeroInflatedGeometric(ZeroInflated):
    own_parameters: ClassVar = ZeroInflatedPoisson.own_parameters
    base: ClassVar = Geometric


def test_a_family_of_ones_own():
    log_mean = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    expected = stats.geom.logpmf(COUNTS.numpy() + 1, 1 / (1 + log_mean.detach().exp().numpy()))
    np.testing.assert_allclose(Geometric(log_mean).log_prob(COUNTS).detach(), expected.sum(1), rtol=1e-10)
    log_size = torch.ones(3, 1, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda o: Geometric.from_softmax(o, log_size).log_prob(COUNTS), log_mean)


def test_its_zeros_inflated():
    inputs = [torch.randn(3, 4, dtype=torch.float64, requires_grad=True) for _ in range(2)]
    p = 1 / (1 + inputs[0].detach().exp().numpy())
    base = stats.geom.logpmf(COUNTS.numpy() + 1, p)
    expected = inflate(base, COUNTS.numpy(), np.log(p), inputs[1].detach().numpy())
    np.testing.assert_allclose(ZeroInflatedGeometric(*inputs).log_prob(COUNTS).detach(), expected.sum(1), rtol=1e-10)
    assert torch.autograd.gradcheck(lambda *args: ZeroInflatedGeometric(*args).log_prob(COUNTS), inputs)


def module(gene_likelihood: str, **kwargs) -> DGDModule:
    torch.manual_seed(0)
    return DGDModule(6, 5, GaussianMixture(2, 3), gene_likelihood=gene_likelihood, **kwargs).eval()


def minibatch() -> dict[str, torch.Tensor]:
    counts = torch.poisson(torch.full((5, 6), 3.0), generator=torch.Generator().manual_seed(0))
    cells = torch.arange(5).unsqueeze(1)
    return {"X": SparseCounts.from_dense(counts), "batch": torch.zeros(5, 1), "ind_x": cells}


@pytest.mark.parametrize(("name", "family"), [("poisson", Poisson), ("constrained_poisson", ConstrainedPoisson)])
@pytest.mark.parametrize("dispersion", ["gene", "gene-batch"])
def test_a_decoder_without_dispersion(name, family, dispersion):
    model, tensors = module(name, dispersion=dispersion), minibatch()
    _, outputs, losses = model(tensors)
    assert type(outputs["px"]) is family
    assert outputs["px"].parameters == ()
    losses.loss.backward()
    assert not list(model.family_parameters.parameters())
    assert torch.isfinite(model.decoder.output.weight.grad).all()


def test_information_of_a_decoder_without_dispersion():
    """Weights of the Fisher information are means: those of a negative binomial without overdispersion."""
    poisson, negative_binomial, tensors = module("poisson"), module("nb"), minibatch()
    torch.nn.init.constant_(negative_binomial.family_parameters.log_theta, 30.0)
    z = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    expected = fisher_information(negative_binomial, tensors, z)
    torch.testing.assert_close(fisher_information(poisson, tensors, z), expected)
    assert poisson.log_theta.isinf().all()


def test_a_family_by_name(monkeypatch):
    monkeypatch.setitem(LIKELIHOODS, "geometric", Geometric)  # so that it is gone after the test
    register("geometric", Geometric)
    register("geometric", Geometric)
    for given in ("geometric", Geometric):
        model = module(given)
        assert (model.likelihood, model.gene_likelihood) == (Geometric, "geometric")
        assert type(model(minibatch())[1]["px"]) is Geometric
    with pytest.raises(ValueError, match="'geometric' is taken by Geometric"):
        register("geometric", Poisson)
    with pytest.raises(TypeError, match="subclass of CountLikelihood or ValueLikelihood, got <class 'int'>"):
        register("int", int)


def test_families_that_do_not_go_with_their_surroundings():
    with pytest.raises(ValueError, match="`gene_likelihood` must be one of .*'zinb', 'poisson'"):
        module("shaped")
    wide = type("Wide", (Geometric,), {"own_parameters": {"shape": FamilyParameter(width=3)}})
    with pytest.raises(ValueError, match="`shape` of a Wide has several numbers for each gene"):
        module(wide)
    with pytest.raises(ValueError, match="'normal'` does not go with `size_factor='observed'`"):
        module("normal")
    for options in ({"size_factor": "max"}, {"output_activation": "softplus"}):
        with pytest.raises(ValueError, match="needs `size_factor='observed'`"):
            module("constrained_poisson", **options)
