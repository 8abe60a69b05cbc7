"""Observations: what one modality says of a cell; `test_joint_observation.py` has several."""

from __future__ import annotations

import pytest
import torch

from scdgd.model import SCDGD, SCVAD
from scdgd.module import Decoder, DGDModule, Modality, Observation
from scdgd.prior import StandardNormal
from scdgd.train import RepresentationPlan
from tests.conftest import simulate


@pytest.fixture(params=[SCDGD, SCVAD])
def module(request):
    adata = simulate(40, 12, n_batches=2)
    request.param.setup_anndata(adata, batch_key="batch")
    model = request.param(adata, n_components=2, n_latent=3, n_hidden=8)
    model.module.minibatch = next(iter(model._make_data_loader(adata, batch_size=16)))
    return model.module.train()


def outputs_of(module):
    torch.manual_seed(0)
    inferred = module.inference(**module._get_inference_input(module.minibatch))
    generated = module.generative(**module._get_generative_input(module.minibatch, inferred))
    loss = module.loss(module.minibatch, inferred, generated)
    loss.loss.backward()
    return inferred, generated["px"], loss


def test_one_is_what_the_module_decodes(module):
    inferred, px, loss = outputs_of(module)
    log_prob = module.genes.log_prob(module.minibatch, inferred["z"])
    assert torch.equal(log_prob, px.log_prob(module.minibatch["X"]))
    assert torch.equal(log_prob, -loss.reconstruction_loss["reconstruction_loss"])


def test_every_parameter_of_several_is_in_an_optimiser():
    """And none twice."""
    rna, atac = Modality(8, "nb", "observed", "softmax"), Modality(5, "bernoulli", "none", "identity")
    module = DGDModule(
        13, 6, StandardNormal(3), n_batch=2, batch_representation="embedding", modalities={"rna": rna, "atac": atac}
    )
    optimizers, _ = RepresentationPlan(module).configure_optimizers()
    stepped = [p for optimizer in optimizers for group in optimizer.param_groups for p in group["params"]]
    assert len(stepped) == len({id(p) for p in stepped})
    assert {id(p) for p in stepped} == {id(p) for p in module.parameters()}


def test_parts_that_do_not_go_together_are_refused():
    decoder = Decoder(3, 5, output_activation="identity")
    with pytest.raises(ValueError, match="does not go with"):
        Observation(decoder, "nb", "observed")


@pytest.mark.parametrize("family", ["nb", "zinb", "zip"])
def test_tensors_are_found_under_the_names_of_former_files(family):
    """Format 2: a decoder with the logits of zeros, and `px_r` for whatever else a family has."""
    first, second = (DGDModule(12, 5, StandardNormal(3), gene_likelihood=family) for _ in range(2))
    for parameter in first.parameters():
        parameter.data.normal_()
    state = {key.removeprefix("observations.genes."): value for key, value in first.state_dict().items()}
    former = {"family_parameters.log_theta": "px_r", "family_parameters.zi_logits": "decoder.zi_logits"}
    state = {former.get(key, key): value for key, value in state.items()}
    state.setdefault("px_r", torch.zeros(12))  # families without a dispersion had one, too
    second.load_state_dict(state)
    for key, value in first.state_dict().items():
        assert torch.equal(second.state_dict()[key], value), key
