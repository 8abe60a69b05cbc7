"""Cells drawn from priors and posteriors, against moments that the models state themselves."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import scvi
import torch
from scipy import sparse
from scvi.model import SCVI, LinearSCVI

import scdgd.inference._cell_sampler as cell_sampler
import scdgd.inference._growing_csr as growing_csr
from scdgd.inference import CellSampler, LogNormalLibrary, noise_baseline
from scdgd.inference._growing_csr import GrowingCSR
from scdgd.inference._registered_sampler import spread_evenly
from scdgd.model import SCDGD, SCGMVAE, SCVAD, SCVAE, SCVAMP, SCVMM, FlexSCVI
from tests.conftest import simulate, train

SMALL = {"n_latent": 2, "n_hidden": 8}
MODELS = {
    "SCDGD": (SCDGD, {"n_components": 3, "max_epochs": 30}),  # before, posteriors are far from their approximation
    "SCVAD": (SCVAD, {"n_components": 3}),
    "FlexSCVI": (FlexSCVI, {"n_components": 3, "posterior": "iaf", "prior": "gaussian_mixture"}),
    "SCVMM": (SCVMM, {"n_components": 3}),
    "SCVAMP": (SCVAMP, {"n_components": 3}),
    "SCGMVAE": (SCGMVAE, {"n_components": 3}),
    "SCVAE": (SCVAE, {}),
    "SCVI": (SCVI, {}),
    "SCVI, inferred sizes": (SCVI, {"use_observed_lib_size": False}),
    "LinearSCVI": (LinearSCVI, {}),
}
every_model = pytest.mark.parametrize("name", MODELS)


def make(model_class, setup: dict | None = None, adata=None, max_epochs: int = 2, **options):
    adata = simulate(60, 10, n_batches=2) if adata is None else adata
    model_class.setup_anndata(adata, **({"batch_key": "batch"} if setup is None else setup))
    return train(model_class(adata, **SMALL, **options), max_epochs)


@functools.cache
def model_of(name: str):
    model_class, options = MODELS[name]
    return make(model_class, **options)


def sampler_of(model, **kwargs) -> CellSampler:
    return CellSampler(model.module, model.adata_manager, **kwargs)


def decoded_mean(sampler: CellSampler, z: np.ndarray, donors: np.ndarray, totals: np.ndarray) -> np.ndarray:
    """Expected counts at given representations, written out once more with the module's own generative model."""
    module, manager = sampler.module, sampler.manager
    column = lambda values: torch.as_tensor(np.asarray(values)[donors].reshape(-1, 1))
    batch = column(manager.get_from_registry("batch")).long()
    with torch.no_grad():
        out = module.generative(
            z=torch.as_tensor(z), library=column(np.log(totals)).float(), batch_index=batch, **_labels(module, batch)
        )
    return out["px"].mean.numpy()


def _labels(module, batch: torch.Tensor) -> dict:
    return {} if not isinstance(module, scvi.module.VAE) else {"y": torch.zeros_like(batch)}


# ---------------------------------------------------------------- prior


@every_model
def test_prior_counts_have_the_decoded_mean_at_the_size_of_their_donors(name):
    model = model_of(name)
    sampler = sampler_of(model)
    totals = np.asarray(model.adata.X.sum(1)).ravel()
    cells = sampler.sample_prior(1_500, np.arange(60), seed=1)
    assert sparse.isspmatrix_csr(cells.counts)
    assert cells.counts.shape == (1_500, 10)
    expected = decoded_mean(sampler, cells.z, cells.donors, totals)
    difference = cells.counts.toarray() - expected
    assert (abs(difference.mean(0)) < 5 * difference.std(0) / np.sqrt(1_500) + 1e-6).all()
    # and cell by cell, which a mean over cells does not see
    assert np.corrcoef(np.asarray(cells.counts.sum(1)).ravel(), expected.sum(1))[0, 1] > 0.3


@pytest.mark.parametrize("name", ["SCVI", "LinearSCVI"])
def test_prior_of_stock_models_is_standard_normal(name):
    z = sampler_of(model_of(name)).sample_prior(4_000, np.arange(60), seed=0).z
    np.testing.assert_allclose(z.mean(0), 0, atol=5 / np.sqrt(4_000))
    np.testing.assert_allclose(np.cov(z.T), np.eye(2), atol=0.12)


@pytest.mark.parametrize("model_class", [SCVI, FlexSCVI])
def test_logistic_normal_representations_lie_on_the_simplex(model_class):
    options = {"prior": "normal"} if model_class is FlexSCVI else {}
    model = make(model_class, latent_distribution="ln", **options)
    z = sampler_of(model).sample_prior(2_000, np.arange(60), seed=0).z
    np.testing.assert_allclose(z.sum(1), 1, atol=1e-5)
    logit = np.log(z[:, 0] / z[:, 1])  # the difference of two standard normals
    np.testing.assert_allclose([logit.mean(), logit.var()], [0, 2], atol=0.25)
    replicates = sampler_of(model).sample_posterior(70, np.arange(60), seed=0).z
    np.testing.assert_allclose(replicates.sum(1), 1, atol=1e-5)


def test_prior_does_not_see_counts():
    adata = simulate(60, 10)
    drawn = []
    for order in (np.arange(60), np.random.default_rng(0).permutation(60)):
        cells = adata[order].copy()
        if not drawn:
            model = make(SCDGD, {}, adata=cells, n_components=3)
        else:
            model.adata = cells
        drawn.append(sampler_of(model).sample_prior(100, np.arange(60), library=200.0, seed=4))
    np.testing.assert_array_equal(drawn[0].counts.toarray(), drawn[1].counts.toarray())


@every_model
def test_a_given_library_size_is_the_expected_total(name):
    sampler = sampler_of(model_of(name))
    for sample in (sampler.sample_prior, sampler.sample_posterior):
        totals = np.asarray(sample(800, np.arange(60), library=3_000, seed=0).counts.sum(1)).ravel()
        np.testing.assert_allclose(totals.mean(), 3_000, atol=5 * totals.std() / np.sqrt(800))


def test_seeds():
    sampler = sampler_of(model_of("SCVI"), batch_size=16)
    torch.manual_seed(5)
    before = torch.get_rng_state()
    for sample in (sampler.sample_prior, sampler.sample_posterior):
        one, two, other = (sample(70, np.arange(60), library="lognormal", seed=seed) for seed in (3, 3, 4))
        assert (one.counts != two.counts).nnz == 0
        np.testing.assert_array_equal(one.z, two.z)
        assert (one.counts != other.counts).nnz > 0
    assert torch.equal(torch.get_rng_state(), before)


# ---------------------------------------------------------------- posterior


@every_model
def test_posterior_draws_have_the_moments_of_the_posterior(name):
    model = model_of(name)
    if name == "SCDGD":  # draws and reference are two estimates by importance sampling
        mean, var, _, _, _ = model.get_posterior(n_samples=1_000)
        atol = 0.35
    else:
        mean, var = model.get_latent_representation(return_dist=True)
        atol = 5 / np.sqrt(100)
    cells = sampler_of(model).sample_posterior(200 * 60, np.arange(60), seed=0)
    deviation = (cells.z - mean[cells.donors]) / np.sqrt(var[cells.donors])
    by_cell = np.array([deviation[cells.donors == i].mean(0) for i in range(60)])
    np.testing.assert_allclose(by_cell, 0, atol=atol)
    np.testing.assert_allclose((deviation**2).mean(0), 1, rtol=0.1)


@every_model
def test_replicates_have_the_decoded_mean_of_their_cell(name):
    model = model_of(name)
    sampler = sampler_of(model, batch_size=32)
    totals = np.asarray(model.adata.X.sum(1)).ravel()
    cells = sampler.sample_posterior(1_500, np.arange(60), seed=2)
    if model.module.__dict__.get("use_observed_lib_size", True):
        difference = cells.counts.toarray() - decoded_mean(sampler, cells.z, cells.donors, totals)
        assert (abs(difference.mean(0)) < 5 * difference.std(0) / np.sqrt(1_500)).all()
    else:  # sizes are draws of what the model infers, here far from the observed ones
        with torch.no_grad():
            x = torch.as_tensor(model.adata.X.toarray())
            batch = torch.tensor(model.adata_manager.get_from_registry("batch").copy()).long()
            size = model.module.l_encoder(torch.log1p(x), batch)[0]
            expected = (size.loc + size.scale**2 / 2).exp().ravel().numpy()[cells.donors]
        total = np.asarray(cells.counts.sum(1)).ravel()
        share = decoded_mean(sampler, cells.z, cells.donors, np.ones(60)).sum(1)  # zero inflation
        np.testing.assert_allclose(total.mean(), (expected * share).mean(), rtol=0.15)


@pytest.mark.parametrize("mode", ["prior", "posterior"])
@pytest.mark.parametrize("name", ["SCDGD", "SCVI"])
def test_counts_are_decoded_with_the_batch_of_their_donor(name, mode, monkeypatch):
    sampler, seen = sampler_of(model_of(name), batch_size=16), []
    decode = sampler.module.decode

    def spy(z, log_size, tensors):
        seen.append((z, log_size, tensors["batch"]))
        return decode(z, log_size, tensors)

    monkeypatch.setattr(sampler.module, "decode", spy)
    cells = getattr(sampler, f"sample_{mode}")(200, np.arange(60), seed=0)
    z, log_size, batch = (torch.cat(part).numpy() for part in zip(*seen, strict=True))
    totals = np.asarray(sampler.manager.adata.X.sum(1)).ravel()
    np.testing.assert_array_equal(z, cells.z)
    np.testing.assert_array_equal(batch, sampler.manager.get_from_registry("batch")[cells.donors])
    np.testing.assert_allclose(log_size.ravel(), np.log(totals)[cells.donors], rtol=1e-5)


def test_copies_are_spread_evenly():
    donors = np.array([3, 5, 8, 9])
    for n in (1, 3, 4, 10, 203):
        sources, copies = spread_evenly(n, donors, np.random.default_rng(0))
        assert copies.sum() == n
        assert set(copies) <= {n // 4, n // 4 + 1}
        assert set(sources) <= set(donors)
        assert (copies > 0).all()
    firsts = {int(spread_evenly(1, donors, np.random.default_rng(seed))[0][0]) for seed in range(50)}
    assert firsts == set(donors)  # not the first ones of a sorted file


def test_replicates_do_not_depend_on_how_draws_are_cut(monkeypatch):
    sampler = sampler_of(model_of("SCVAD"), batch_size=7)
    monkeypatch.setattr(cell_sampler, "_DRAWS_TOGETHER", 2)
    cells = sampler.sample_posterior(60 * 5 + 13, np.arange(60), seed=0)
    times = np.bincount(cells.donors, minlength=60)
    assert sorted(set(times)) == [5, 6]
    assert (times == 6).sum() == 13
    assert len(np.unique(cells.z, axis=0)) == 313


# ---------------------------------------------------------------- sizes


def test_log_normal_library_is_fitted_by_batch():
    model = model_of("SCVI")
    sampler = sampler_of(model, batch_size=7)
    fitted = LogNormalLibrary.fit(model.module, sampler._minibatches(np.arange(60)))
    log_total = np.log(np.asarray(model.adata.X.sum(1)).ravel())
    codes = model.adata.obs["batch"].cat.codes.to_numpy()
    for batch in range(2):
        some = log_total[codes == batch]
        np.testing.assert_allclose(fitted.mean[batch], some.mean(), rtol=1e-5)
        np.testing.assert_allclose(fitted.scale[batch], some.std(), rtol=1e-4)
    drawn = fitted.sample(torch.ones(20_000, 1)).numpy()
    np.testing.assert_allclose([drawn.mean(), drawn.std()], [fitted.mean[1, 0], fitted.scale[1, 0]], atol=0.01)


def test_log_normal_sizes_reach_the_counts():
    model = make(SCVI, {}, gene_likelihood="poisson")
    counts = sampler_of(model).sample_prior(4_000, np.arange(60), library="lognormal", seed=0).counts
    total, observed = (np.asarray(x.sum(1)).ravel() for x in (counts, model.adata.X))
    mean, var = np.log(observed).mean(), np.log(observed).var()
    expected = np.exp(mean + var / 2)
    np.testing.assert_allclose(total.mean(), expected, rtol=0.02)
    np.testing.assert_allclose(total.var(), expected + expected**2 * np.expm1(var), rtol=0.15)


@pytest.mark.parametrize("model_class", [SCDGD, FlexSCVI, SCVI])
def test_registered_sizes_are_sizes(model_class):
    model = make(model_class, {"size_factor_key": "size"}, **({} if model_class is SCVI else {"n_components": 3}))
    sampler = sampler_of(model)
    (tensors,) = sampler._minibatches(np.arange(60))
    np.testing.assert_allclose(
        sampler.module.log_size(tensors).ravel().numpy(), np.log(model.adata.obs["size"]), rtol=1e-4, atol=1e-6
    )
    totals = np.asarray(sampler.sample_prior(900, np.arange(60), library=500, seed=0).counts.sum(1)).ravel()
    np.testing.assert_allclose(totals.mean(), 500, atol=5 * totals.std() / 30)
    assert sampler.sample_posterior(61, np.arange(60), library="lognormal", seed=0).counts.shape == (61, 10)


def test_minified_data_keep_their_sizes():
    model = make(SCVI)
    totals = np.asarray(model.adata.X.sum(1)).ravel()
    mean, variance = model.get_latent_representation(return_dist=True)
    model.adata.obsm["X_latent_qzm"], model.adata.obsm["X_latent_qzv"] = mean, variance
    model.minify_adata()
    sampler = sampler_of(model)
    (tensors,) = sampler._minibatches(np.arange(60))
    np.testing.assert_allclose(sampler.module.log_size(tensors).exp().ravel().numpy(), totals, rtol=1e-5)
    cells = sampler.sample_posterior(60 * 200, np.arange(60), seed=0)
    np.testing.assert_allclose(((cells.z - mean[cells.donors]) ** 2).mean(0), variance.mean(0), rtol=0.1)


@pytest.mark.parametrize("as_format", [sparse.csc_matrix, lambda x: x.toarray()])
def test_the_format_of_the_counts_makes_no_difference(as_format):
    model, drawn = make(SCVI, {}), []
    for counts in (model.adata.X, as_format(model.adata.X)):
        model.adata.X = counts
        sampler = sampler_of(model)
        drawn.append([sample(70, np.arange(60), seed=0) for sample in (sampler.sample_prior, sampler.sample_posterior)])
    for one, other in zip(*drawn, strict=True):
        np.testing.assert_array_equal(one.counts.toarray(), other.counts.toarray())


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("wrong", "match"),
    [
        ({"n_cells": 0}, "`n_cells`.*positive.*got 0"),
        ({"n_cells": 2.5}, "`n_cells`.*got 2.5"),
        ({"library": -1}, "`library`.*'lognormal'.*got -1"),
        ({"library": "observed"}, "`library`.*got 'observed'"),
        ({"library": float("nan")}, "`library`"),
    ],
)
def test_impossible_options_are_refused(wrong, match):
    sampler = sampler_of(model_of("SCVI"))
    for sample in (sampler.sample_prior, sampler.sample_posterior):
        with pytest.raises(ValueError, match=match):
            sample(**{"n_cells": 5, "donors": np.arange(60), **wrong})


def test_other_refusals():
    model = model_of("SCVI")
    with pytest.raises(ValueError, match="`batch_size`"):
        sampler_of(model, batch_size=0)
    with pytest.raises(ValueError, match=r"batch_9.*batch_0"):
        sampler_of(model).donors_of("batch_9")
    with pytest.raises(ValueError, match="`component` must be one of"):
        sampler_of(model).sample_prior(5, np.arange(60), component=1)
    rates = make(FlexSCVI, n_components=3, mean_activation="rate")
    assert sampler_of(rates).sample_prior(5, np.arange(60)).counts.shape == (5, 10)
    with pytest.raises(ValueError, match=r"no effect.*'rate'"):
        sampler_of(rates).sample_prior(5, np.arange(60), library=100)
    adata = simulate(60, 10)
    scvi.model.SCANVI.setup_anndata(adata, labels_key="cell_type", unlabeled_category="unknown")
    with pytest.raises(TypeError, match="SCANVAE"):
        sampler_of(scvi.model.SCANVI(adata, **SMALL))


# ---------------------------------------------------------------- the matrix that grows


def test_a_growing_matrix_is_the_stacked_one(monkeypatch):
    monkeypatch.setattr(growing_csr, "_BLOCK_ENTRIES", 7)
    parts = [sparse.random(n, 11, density=d, format="csr", random_state=n) for n, d in ((3, 0.5), (1, 0), (9, 0.9))]
    matrix = GrowingCSR(13, 11)
    matrix.append(parts[0])
    matrix.append(parts[1].toarray())
    matrix.append(parts[2])
    matrix = matrix.to_matrix()
    expected = sparse.vstack(parts).astype(np.float32)
    np.testing.assert_array_equal(matrix.toarray(), expected.toarray())
    assert matrix.indices.dtype == matrix.indptr.dtype == np.int32
    assert matrix.has_canonical_format
    empty = GrowingCSR(4, 3)
    empty.append(np.zeros((4, 3)))
    assert empty.to_matrix().nnz == 0


# ---------------------------------------------------------------- noise


def test_noise_has_the_moments_of_its_law():
    n, g = 20_000, 4
    noisy, donors = noise_baseline(sparse.csr_matrix((50, g)), n, seed=0)
    noise = noisy.toarray()
    a, a2, b, b2 = 5, 100 / 3, 2.5, 25 / 3  # moments of U(0, 10) and U(0, 5)
    covariance = a2 * b2 - (a * b) ** 2  # of two entries of a cell, which share shape and scale
    variance = covariance + a * b2 + a * b
    expected = np.full((g, g), covariance) + np.diag(np.full(g, variance - covariance))
    np.testing.assert_allclose(noise.mean(0), a * b, rtol=0.03)
    np.testing.assert_allclose(np.cov(noise.T), expected, rtol=0.06)
    assert abs(np.corrcoef(noise[:-1, 0], noise[1:, 0])[0, 1]) < 0.03  # cells do not share them
    assert set(np.bincount(donors)) == {400}


def test_noise_is_added_to_the_pilot(monkeypatch):
    pilot = np.random.default_rng(0).poisson(1_000, (6, 5))
    monkeypatch.setattr("scdgd.inference._noise_baseline._MAX_ELEMENTS", 10)  # two cells at once
    noisy, donors = noise_baseline(pilot, seed=1)
    np.testing.assert_array_equal(donors, np.arange(6))
    assert (noisy.toarray() >= pilot).all()
    assert (noisy.toarray() - pilot).max() < 300
    few, donors = noise_baseline(pilot, 15, replicate=True, seed=1)  # the noisy pilot, replicated
    assert len(np.unique(few.toarray(), axis=0)) == 6
    assert (few.toarray() >= pilot[donors]).all()
    assert set(np.bincount(donors)) == {2, 3}
    assert len(np.unique(noise_baseline(pilot, 15, seed=1)[0].toarray(), axis=0)) == 15
    for n_cells in (0, 2.5):
        with pytest.raises(ValueError, match="`n_cells`"):
            noise_baseline(pilot, n_cells)
    with pytest.raises(ValueError, match="finite and not negative"):
        noise_baseline(np.array([[1, np.nan]]))
