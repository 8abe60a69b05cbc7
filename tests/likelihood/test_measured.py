"""Genes that were not measured, against distributions of the other genes alone."""

from __future__ import annotations

import functools
import itertools

import pytest
import torch

from scdgd.data import SparseCounts
from scdgd.likelihood import (
    ALL_LIKELIHOODS,
    LIKELIHOODS,
    Categorised,
    CountLikelihood,
    IsotropicNormal,
    NegativeBinomial,
    Poisson,
    Terms,
    ValueLikelihood,
)
from scdgd.module import log_size_factor

from .test_families import Geometric

B, G = 5, 12


class Hurdle(CountLikelihood):
    """Zero with probability one half, whatever the mean: a zero of mean zero is not certain."""

    zero_terms = staticmethod(
        lambda mean, parameters, wanted: Terms(torch.full_like(mean, -0.7), torch.full_like(mean, 0.3))
    )
    nonzero_terms = staticmethod(lambda x, log_mean, parameters, wanted: Terms(x * log_mean, x))

    def information(self):
        return self.mu

    def sample(self, sample_shape=()):
        return self.mu


COUNT_FAMILIES = {**LIKELIHOODS, "geometric": Geometric, "hurdle": Hurdle}
SAMPLES = ((), (3,))


def _measured() -> torch.Tensor:
    """Cells with panels of their own, one with all genes and one with a single one."""
    measured = torch.rand(B, G, generator=torch.Generator().manual_seed(0)) < 0.6
    measured[0], measured[1] = True, torch.arange(G) == 3
    return measured


def _counts(measured: torch.Tensor, largest: float = torch.inf) -> torch.Tensor:
    counts = torch.poisson(torch.full((B, G), 1.5), generator=torch.Generator().manual_seed(1))
    counts[1, 3] = 2
    return (counts * measured).clamp(max=largest)


def _inputs(family, samples, dtype) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    own = [draw(G) if not p.is_decoded else draw(B, G) for p in family.own_parameters.values()]
    if family is IsotropicNormal:  # one number for all genes
        own = [own[0].detach().mean().expand(G).clone().requires_grad_()]
    return [draw(*samples, B, G), *own]


def _of_some(family, inputs, counts, measured, log_size) -> torch.Tensor:
    """Log probabilities, cell by cell, of distributions that never had the other genes."""
    of_cells = []
    for i, genes in enumerate(measured):
        output, *parameters = (t[genes] if t.ndim == 1 else t[..., i : i + 1, :][..., genes] for t in inputs)
        make = family if log_size is None else functools.partial(_from_softmax, family, log_size[i : i + 1])
        of_cells.append(make(output, *parameters).log_prob(counts[i : i + 1, genes]))
    return torch.cat(of_cells, dim=-1)


def _from_softmax(family, log_size, output, *parameters):
    return family.from_softmax(output, log_size, *parameters)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("samples", "has_softmax"), list(itertools.product(SAMPLES, (True, False))))
@pytest.mark.parametrize("name", COUNT_FAMILIES)
def test_counts(name, samples, has_softmax, dtype):
    family, measured = COUNT_FAMILIES[name], _measured()
    counts, inputs = _counts(measured).to(dtype), _inputs(family, samples, dtype)
    log_size = counts.sum(1, keepdim=True).log() if has_softmax else None
    make = family if log_size is None else functools.partial(_from_softmax, family, log_size)
    px = make(*inputs).measuring(measured)
    expected = _of_some(family, inputs, counts, measured, log_size)
    log_prob = px.log_prob(counts)
    tolerance = 1e-12 if dtype == torch.float64 else 2e-5
    torch.testing.assert_close(log_prob, expected, rtol=tolerance, atol=tolerance)
    weights = torch.linspace(0.5, 2, B, dtype=dtype)
    gradients = torch.autograd.grad((log_prob * weights).sum(), inputs)
    references = torch.autograd.grad((expected * weights).sum(), inputs)
    for gradient, reference in zip(gradients, references, strict=True):
        torch.testing.assert_close(gradient, reference, rtol=tolerance, atol=tolerance)
        if gradient.ndim > 1:
            assert (gradient[..., ~measured] == 0).all()
    if not samples:
        sparse = SparseCounts.from_dense(counts)
        together = px.log_kernel(sparse) + px.log_constant(sparse)
        torch.testing.assert_close(together.to(dtype), expected.detach(), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("family", LIKELIHOODS.values())
def test_no_gradient_reaches_a_gene_that_no_cell_has(family):
    measured = _measured()
    measured[:, 7] = False
    measured[0, 0] = True
    counts, inputs = _counts(measured), _inputs(family, (), torch.float32)
    px = family.from_softmax(inputs[0], counts.sum(1, keepdim=True).clamp(min=1).log(), *inputs[1:])
    for gradient in torch.autograd.grad(px.measuring(measured).log_prob(counts).sum(), inputs):
        assert (gradient[..., 7] == 0).all()


@pytest.mark.parametrize("family", [f for name, f in ALL_LIKELIHOODS.items() if name not in LIKELIHOODS])
def test_values(family):
    measured = _measured()
    values, inputs = _counts(measured, family.largest).double(), _inputs(family, (3,), torch.float64)
    log_prob, expected = (
        family(*inputs).measuring(measured).log_prob(values),
        _of_some(family, inputs, values, measured, None),
    )
    torch.testing.assert_close(log_prob, expected, rtol=1e-12, atol=1e-12)
    for pair in zip(*(torch.autograd.grad(t.sum(), inputs) for t in (log_prob, expected)), strict=True):
        if family is IsotropicNormal:  # whose one scale has its gradient from whatever was measured
            pair = [gradient if gradient.ndim > 1 else gradient.sum() for gradient in pair]
        torch.testing.assert_close(*pair, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("has_softmax", [True, False])
def test_categorised(has_softmax):
    family, measured = Categorised.of(NegativeBinomial, 2), _measured()
    counts = 2 * _counts(measured).double()
    output, log_theta = _inputs(NegativeBinomial, (), torch.float64)
    classes = torch.randn(B, G, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    log_size = counts.sum(1, keepdim=True).log()
    make = functools.partial(_from_softmax, family, log_size) if has_softmax else family
    log_prob = make(output, log_theta, classes).measuring(measured).log_prob(counts)
    for i, genes in enumerate(measured):
        make = functools.partial(_from_softmax, family, log_size[i : i + 1]) if has_softmax else family
        px = make(output[i : i + 1, genes], log_theta[genes], classes[i : i + 1, genes])
        torch.testing.assert_close(log_prob[i : i + 1], px.log_prob(counts[i : i + 1, genes]), rtol=1e-12, atol=0)


@pytest.mark.parametrize("family", [*ALL_LIKELIHOODS.values(), Hurdle])
def test_score_of_each(family):
    """Of the cells of one panel, at log means of two rows."""
    genes = torch.arange(G) % 3 > 0
    values = _counts(genes.expand(B, -1), family.largest).double()
    eta, *parameters = (
        t.detach()[..., :2, :] if t.ndim > 1 else t.detach() for t in _inputs(family, (), torch.float64)
    )
    scores = family(eta, *parameters).measuring(genes).score_each(values)
    of_some = family(eta[:, genes], *(p[..., genes] for p in parameters)).score_each(values[:, genes])
    torch.testing.assert_close(scores, of_some, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("family", [NegativeBinomial, LIKELIHOODS["zinb"]])
def test_derivatives(family):
    measured = _measured()
    counts, inputs = _counts(measured).double(), _inputs(family, (), torch.float64)
    log_size = counts.sum(1, keepdim=True).log()
    log_prob = lambda *given: family.from_softmax(given[0], log_size, *given[1:]).measuring(measured).log_prob(counts)
    assert torch.autograd.gradcheck(log_prob, inputs)


def test_means_are_of_all_genes_at_the_depth_of_those_that_were_measured():
    measured = _measured()
    output, log_theta = _inputs(NegativeBinomial, (3,), torch.float64)
    log_size = torch.linspace(1, 5, B, dtype=torch.float64).unsqueeze(1)
    px = NegativeBinomial.from_softmax(output, log_size, log_theta).measuring(measured)
    of_measured = (px.mean * measured).sum(-1)
    torch.testing.assert_close(of_measured, log_size.exp().squeeze(1).expand(3, -1))
    torch.testing.assert_close(px.scale, output.softmax(-1))
    torch.testing.assert_close(px.mean / px.mean[..., 3:4], (output - output[..., 3:4]).exp())
    assert px.sample((2,)).shape == (2, 3, B, G)
    zinb = LIKELIHOODS["zinb"].from_softmax(output, log_size, log_theta, torch.zeros(G)).measuring(measured)
    torch.testing.assert_close(zinb.mean, px.mean / 2)


def test_sizes_are_of_measured_genes():
    measured = _measured()
    counts = _counts(measured)
    means = torch.stack([cell[genes].mean() for cell, genes in zip(counts, measured, strict=True)])
    torch.testing.assert_close(log_size_factor(counts, "mean", None, measured).exp().squeeze(1), means)
    for kind in ("observed", "max", "none"):
        assert torch.equal(log_size_factor(counts, kind, None, measured), log_size_factor(counts, kind))


def test_all_genes_and_families_that_cannot():
    px = Poisson(torch.zeros(B, G))
    assert px.measuring(None) is px
    assert px.measuring(_measured()) is not px
    assert px.measured is None

    class Own(ValueLikelihood):
        log_prob = score_each = information = sample = None
        mean = eta_of = None

    with pytest.raises(NotImplementedError, match="Own cannot leave out genes.*sum_of_measured"):
        Own(torch.zeros(B, G)).measuring(_measured())
