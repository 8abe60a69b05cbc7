"""Proteins over a background: shares that sum to the size, parts of counts, and what a model tells apart."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from anndata import AnnData
from mudata import MuData
from sklearn.metrics import roc_auc_score

from scdgd.data import SparseCounts
from scdgd.likelihood import BackgroundMixture
from scdgd.model import MULTIDGD, FlexSCVI
from tests.conftest import simulate

from .families import squared_score

B, G = 5, 7


def inputs() -> list[torch.Tensor]:
    """Outputs, log sizes, and parameters of proteins."""
    torch.manual_seed(0)
    shapes, shifts = ((B, G), (B, 1), (G,), (G,), (B, G)), (0.0, 4.0, 1.0, -2.0, 0.0)
    return [shift + torch.randn(shape, dtype=torch.float64) for shape, shift in zip(shapes, shifts, strict=True)]


def counts_of(seed: int = 0) -> torch.Tensor:
    return torch.poisson(torch.full((B, G), 4.0, dtype=torch.float64), generator=torch.Generator().manual_seed(seed))


def test_foreground_sums_to_the_size_and_gradients_are_those_of_differences():
    output, log_size, *parameters = inputs()
    px = BackgroundMixture.from_softmax(output, log_size, *parameters)
    torch.testing.assert_close(px.foreground.mu.sum(-1, keepdim=True), log_size.exp())
    x = SparseCounts.from_dense(counts_of())
    of = lambda o, *p: BackgroundMixture.from_softmax(o, log_size, *p).log_prob(x)
    assert torch.autograd.gradcheck(of, [t.requires_grad_() for t in (output, *parameters)])


def test_moments_and_draws():
    px = BackgroundMixture.from_softmax(*inputs())
    torch.manual_seed(1)
    draws = px.sample((40_000,))
    error = (px.variance / len(draws)).sqrt()
    assert ((draws.mean(0) - px.mean) / error).abs().max() < 4.5
    torch.testing.assert_close(draws.var(0), px.variance, rtol=0.2, atol=0.05)
    torch.testing.assert_close((draws == 0).double().mean(0), px.log_zero_probability.exp(), rtol=0, atol=0.02)


def test_proteins_that_were_not_measured_leave_it():
    """What is left is the distribution of the others, as if there were no more."""
    output, log_size, *parameters = inputs()
    measured = torch.arange(G) < 4
    x = counts_of() * measured
    px = BackgroundMixture.from_softmax(output, log_size, *parameters).measuring(measured.expand(B, -1))
    few = BackgroundMixture.from_softmax(output[:, :4], log_size, *(p[..., :4] for p in parameters))
    torch.testing.assert_close(px.log_prob(SparseCounts.from_dense(x)), few.log_prob(SparseCounts.from_dense(x[:, :4])))
    torch.testing.assert_close(px.mean[:, :4], few.mean)


def test_pairs_are_each_cell_at_each_profile():
    output, log_size, log_theta, a, logits = inputs()
    given, x = (log_theta, a, logits[0]), SparseCounts.from_dense(counts_of())
    found = BackgroundMixture.log_prob_of_pairs(output.log_softmax(-1), given, x, log_size)
    for i in range(B):
        expected = BackgroundMixture.from_softmax(output[[i]].expand(B, -1), log_size, *given).log_prob(x)
        torch.testing.assert_close(found[i], expected)


def test_the_other_half_of_a_split_count():
    """Both halves together are the count and its split."""
    output, log_size, *parameters = inputs()
    epsilon, first, second = 0.3, counts_of(1), counts_of(2)
    whole = BackgroundMixture.from_softmax(output, log_size, *parameters)
    half = BackgroundMixture.from_softmax(output, log_size + np.log(epsilon), *parameters)
    split = torch.distributions.Binomial(first + second, torch.tensor(epsilon).double()).log_prob(first).sum(1)
    expected = whole.log_prob(SparseCounts.from_dense(first + second)) + split
    other = half.other_half(first, epsilon).log_prob(SparseCounts.from_dense(second))
    torch.testing.assert_close(half.log_prob(SparseCounts.from_dense(first)) + other, expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize(("signal", "background", "tolerance"), [(6.0, 0.0, 1e-2), (-4.0, 2.0, 1e-2), (3.0, 2.0, 0.5)])
def test_information(signal, background, tolerance):
    """Exact where parts are far apart or alike, and above it between."""
    parameters = [1.0, background, 0.3]
    exact = squared_score(BackgroundMixture, signal, parameters, 20_000)
    px = BackgroundMixture(torch.full((1, 1), signal).double(), *(torch.full((1,), p).double() for p in parameters))
    torch.testing.assert_close(px.information().squeeze(), exact, rtol=tolerance, atol=0)
    assert px.information() >= 0.999 * exact


@pytest.mark.slow
def test_signal_is_told_from_background():
    """Three types of cells, each with four proteins of its own over a background of all, and no signal in a fifth of the counts."""
    rng = np.random.default_rng(0)
    of_type = np.arange(12) // 4 == rng.integers(3, size=400)[:, None]
    has_signal = of_type & (rng.random((400, 12)) > 0.2)
    mean = 6.0 + 40.0 * has_signal
    adt = AnnData(rng.poisson(rng.gamma(4.0, mean / 4.0)).astype(np.float32))
    mdata = MuData({"adt": adt})
    MULTIDGD.setup_mudata(mdata, {"protein": "adt"})
    model = MULTIDGD(mdata, n_components=3, n_latent=3, n_hidden=16, likelihoods={"protein": "nb_background"})
    model.train(60, accelerator="cpu", enable_progress_bar=False)
    p = model.get_protein_foreground_probability().to_numpy()
    assert roc_auc_score(has_signal.ravel(), p.ravel()) > 0.97
    assert roc_auc_score(has_signal[of_type], p[of_type]) > 0.97
    signal = model.get_normalized_protein(include_protein_background=False).to_numpy()
    assert signal[of_type].mean() > 4 * signal[~of_type].mean()


def test_models_that_do_not_have_it_say_so():
    adata = simulate(30, 6)
    FlexSCVI.setup_anndata(adata)
    with pytest.raises(ValueError, match="a background in proportion to the size .* SCDGD, SCVAD, MULTIDGD"):
        FlexSCVI(adata, n_components=3, gene_likelihood=BackgroundMixture)
