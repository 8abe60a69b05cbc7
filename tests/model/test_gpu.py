"""Every model on a CUDA device; skipped where there is none."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scdgd.model import SCDGD, SCGMVAE, SCIAF, SCVAD, SCVAE, SCVAMP, SCVMM, FlexSCVI
from tests.conftest import simulate

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize("model_class", [SCDGD, SCVAD])
def test_trains_places_and_reads(model_class, tmp_path):
    adata, query = simulate(n_batches=2), simulate(40, n_batches=2, seed=1)
    query.obs_names = [f"new_{name}" for name in query.obs_names]
    model_class.setup_anndata(adata, batch_key="batch")
    model = model_class(adata, n_components=3, n_latent=4)
    model.train(2, accelerator="cuda", enable_progress_bar=False, train_size=0.9)
    assert model.device.type == "cuda"
    mean, variance = model.get_latent_representation(query, return_dist=True)
    assert np.isfinite(mean).all()
    assert (variance > 0).all()
    assert model.get_cluster_assignments().shape == (150,)
    assert np.isfinite(model.get_marginal_ll(n_mc_samples=20))
    assert model.posterior_predictive_sample(n_samples=2).shape == (150, 30, 2)
    assert model.prior_predictive_sample(10, seed=0).shape == (10, 30)
    model.save(tmp_path / "model")
    loaded = model_class.load(tmp_path / "model", adata=adata, accelerator="cpu")
    np.testing.assert_allclose(loaded.get_latent_representation(), model.get_latent_representation(), rtol=1e-6)


FLEXIBLE = [
    *((cls, {}) for cls in (SCVMM, SCVAMP, SCIAF, SCGMVAE)),
    (SCVAE, {"n_components": 1}),
    *((FlexSCVI, {"prior": prior}) for prior in ("gaussian_mixture", "dpgmm", "vade")),
]


@pytest.mark.parametrize(("model_class", "parts"), FLEXIBLE)
def test_flexible_models_train_and_read(model_class, parts, tmp_path):
    adata = simulate(n_batches=2)
    model_class.setup_anndata(adata, batch_key="batch")
    model = model_class(adata, **{"n_components": 3, "n_latent": 4, "gene_likelihood": "nb", **parts})
    model.train(2, accelerator="cuda", enable_progress_bar=False)
    assert model.device.type == "cuda"
    mean, variance = model.get_latent_representation(return_dist=True)
    assert np.isfinite(mean).all()
    assert (variance > 0).all()
    assert np.isfinite(model.get_marginal_ll(n_mc_samples=5))
    assert model.prior_predictive_sample(10, seed=0).shape == (10, 30)
    model.save(tmp_path / "model")
    loaded = model_class.load(tmp_path / "model", adata=adata, accelerator="cpu")
    np.testing.assert_allclose(loaded.get_latent_representation(), mean, rtol=1e-3, atol=1e-4)


def test_equals_the_cpu():
    """The likelihood and the gradient of one minibatch are those of the CPU."""
    from scdgd.data import SparseCounts
    from scdgd.likelihood import NegativeBinomial

    generator = torch.Generator().manual_seed(0)
    counts = torch.poisson(torch.rand(8, 50, generator=generator) * 3, generator=generator)
    output = torch.randn(8, 50, generator=generator)
    results = []
    for device in ("cpu", "cuda"):
        o = output.to(device).requires_grad_()
        theta = torch.zeros(50, device=device, requires_grad=True)
        size = counts.sum(1, keepdim=True).log().to(device)
        log_prob = NegativeBinomial.from_softmax(o, size, theta).log_prob(SparseCounts.from_dense(counts).to(device))
        results.append([t.cpu() for t in (log_prob.detach(), *torch.autograd.grad(log_prob.sum(), (o, theta)))])
    torch.testing.assert_close(results[0], results[1], rtol=1e-5, atol=1e-5)
