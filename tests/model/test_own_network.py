"""Models of counts and of grey values with networks of the user's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from scdgd.model import SCDGD, SCGMVAE, SCVAD, SCVAE, SCVMM, FlexSCVI
from tests.conftest import simulate

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}


class Outputs(nn.Sequential):
    """A decoder, in which batch norm and all."""

    def __init__(self, n_in: int, n_out: int) -> None:
        super().__init__(nn.Linear(n_in, 8), nn.BatchNorm1d(8), nn.SiLU(), nn.Linear(8, n_out))


class Features(nn.Sequential):
    """An encoder."""

    def __init__(self, n_in: int) -> None:
        super().__init__(nn.Linear(n_in, 8), nn.Tanh())


OWN = {"decoder": Outputs, "encoder": Features}
MODELS = {
    "SCDGD": (SCDGD, {"n_components": 2, "decoder": Outputs}),
    "SCVAD": (SCVAD, {"n_components": 2, "decoder": Outputs}),
    "FlexSCVI": (FlexSCVI, {"n_components": 3, **OWN}),
    "of full rank": (FlexSCVI, {"n_components": 3, "posterior": "full", "encode_covariates": True, **OWN}),
    "with sizes": (SCVMM, {"n_components": 3, "use_observed_lib_size": False, **OWN}),
    "of cells": (FlexSCVI, {"prior": "normal", "dispersion": "gene-cell", "gene_likelihood": "zinb", **OWN}),
    "SCVAE": (SCVAE, OWN),
    "SCGMVAE": (SCGMVAE, {"n_components": 2, "decoder": Outputs}),
}


@pytest.mark.parametrize("name", MODELS)
def test_trains_reads_and_is_saved(name, tmp_path):
    model_class, options = MODELS[name]
    cells = simulate(41, 8, n_batches=2)
    adata, new = cells[:31].copy(), cells[31:].copy()  # one cell more than minibatches take, for batch norm
    keys = {"batch_key": "batch", "categorical_covariate_keys": ["donor"], "continuous_covariate_keys": ["age"]}
    model_class.setup_anndata(adata, **keys)
    model = model_class(adata, n_latent=2, **options)
    model.train(3, batch_size=10, **QUIET)
    assert all(np.isfinite(frame.to_numpy(float)).all() for frame in model.history.values())
    z = model.get_latent_representation(new)
    assert z.shape == (10, 2)
    assert np.isfinite(z).all()
    assert np.isfinite(model.get_marginal_ll(n_mc_samples=20))
    model.get_information()
    assert model.prior_predictive_sample(5, batch="batch_0", seed=0).shape == (5, 8)
    model.save(tmp_path / "model")
    loaded = model_class.load(tmp_path / "model", adata=adata[::-1].copy(), accelerator="cpu")
    np.testing.assert_allclose(
        loaded.get_latent_representation(), model.get_latent_representation()[::-1], rtol=1e-4, atol=1e-5
    )
    if model_class not in (SCDGD, SCVAD):
        with pytest.raises(NotImplementedError, match="`decoder` of the reference are networks of your own"):
            model_class.load_query_data(new, model)


class Around(nn.Module):
    """Layers of scvi-tools without their one category, and what stands behind them."""

    def __init__(self, layers: nn.Module, last: nn.Module) -> None:
        super().__init__()
        self.layers, self.last = layers, last

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.layers(x, *(torch.zeros(len(x), 1) for _ in self.layers.n_cat_list)))


def test_a_network_that_does_what_ours_does_is_ours():
    adata = simulate(30, 8)
    FlexSCVI.setup_anndata(adata)
    options = {"prior": "normal", "gene_likelihood": "nb", "n_latent": 2, "n_hidden": 8}
    ours = FlexSCVI(adata, **options, dropout_rate=0.0)
    part, layers = ours.module.decoder, ours.module.z_encoder.encoder
    networks = {"decoder": Around(part.px_decoder, part.px_scale_decoder[0]), "encoder": Around(layers, nn.Identity())}
    own = FlexSCVI(adata, **options, **networks)
    heads = ("z_encoder.mean_encoder", "z_encoder.var_encoder")
    state = {key: value for key, value in ours.module.state_dict().items() if key.startswith(heads) or key == "px_r"}
    own.module.load_state_dict(own.module.state_dict() | state)
    found = []
    for model in (ours, own):
        module, tensors = model.module.eval(), next(iter(model._make_data_loader(adata, batch_size=30)))
        torch.manual_seed(0)
        *_, loss = module(tensors)
        loss.loss.backward()
        found.append((loss.loss.detach(), module.z_encoder.mean_encoder.weight.grad, module.px_r.grad))
    torch.testing.assert_close(*found)


def test_representations_find_their_mode():
    """Second-order placement with a network's slopes: no slope is left, as with ours."""
    adata = simulate(60, 12)
    SCDGD.setup_anndata(adata)
    model = SCDGD(
        adata, n_components=2, n_latent=2, decoder=nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 12))
    )
    model.train(10, polish=True, **QUIET)
    tensors = next(iter(model._make_data_loader(adata, batch_size=60)))
    module = model.module
    z = module.representations(tensors["ind_x"].ravel()).detach().requires_grad_()
    px = module.decode(z, module.log_size(tensors), tensors)
    value = px.log_prob(tensors["X"]) + module.prior.log_prob(z)
    (slope,) = torch.autograd.grad(value.sum(), z)
    assert slope.abs().max() < 1.0
    assert model.get_latent_representation(adata[:5].copy()).shape == (5, 2)


def test_what_does_not_go_together():
    adata = simulate(30, 8)
    for model_class in (SCDGD, FlexSCVI, SCGMVAE):
        model_class.setup_anndata(adata)
    with pytest.raises(TypeError, match="`decoder` must be a torch module, or a class of them"):
        SCDGD(adata, decoder=lambda z: z)
    with pytest.raises(ValueError, match="`decoder` must be one of"):
        FlexSCVI(adata, decoder="convolutional")
    with pytest.raises(ValueError, match="`decoder_dropout_rate` is for hidden layers, and `decoder` is a network"):
        FlexSCVI(adata, prior="normal", decoder=Outputs, decoder_dropout_rate=0.1)
    with pytest.raises(ValueError, match="A decoder of your own gives no"):
        FlexSCVI(adata, prior="normal", decoder=Outputs, k_max=2)
    with pytest.raises(ValueError, match="which `encoder` cannot"):
        SCGMVAE(adata, n_components=2, encoder=Features)
