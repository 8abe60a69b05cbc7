"""Several modalities of the same cells: what is observed adds up, and what is absent has no part."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch
from scvi import REGISTRY_KEYS
from torch.distributions import Bernoulli, NegativeBinomial, Poisson

from scdgd._constants import MEASURED_KEY
from scdgd.data import SparseCounts
from scdgd.inference import information_of_modalities
from scdgd.inference._joint_density import JointDensity
from scdgd.inference._starts import component_starts
from scdgd.module import DGDModule, Modality
from scdgd.prior import GaussianMixture
from scdgd.train import InformationBalance

MODALITIES = {
    "rna": Modality(9, "nb", "observed", "softmax"),
    "atac": Modality(7, "poisson", "observed", "softmax"),
    "protein": Modality(4, "bernoulli", "none", "identity"),
}
COLUMNS = {"rna": slice(0, 9), "atac": slice(9, 16), "protein": slice(16, 20)}
N = 12


def made(modalities: dict) -> DGDModule:
    torch.manual_seed(3)
    prior = GaussianMixture(n_components=3, n_latent=2)
    with torch.no_grad():
        prior.means.copy_(torch.randn(3, 2))
    n_genes = sum(modality.n_features for modality in modalities.values())
    module = DGDModule(n_genes, N, prior, n_hidden=8, modalities=modalities).eval()
    for name, observation in module.observations.items():  # the same whatever other modalities there are
        torch.manual_seed(len(name))
        for parameter in observation.parameters():
            torch.nn.init.normal_(parameter, std=0.5)
    return module


@pytest.fixture
def joint() -> DGDModule:
    return made(MODALITIES)


def minibatch() -> dict:
    """Cells 0-3 lack chromatin, 4-6 genes; cell 8 lacks two genes."""
    generator = torch.Generator().manual_seed(0)
    x = torch.poisson(torch.full((N, 20), 2.0), generator=generator)
    x[:, COLUMNS["protein"]] = (x[:, COLUMNS["protein"]] > 2).float()
    measured = torch.ones(N, 20, dtype=torch.bool)
    measured[:4, COLUMNS["atac"]] = measured[4:7, COLUMNS["rna"]] = measured[8, 2:4] = False
    x = x * measured
    return {
        REGISTRY_KEYS.X_KEY: SparseCounts.from_dense(x),
        REGISTRY_KEYS.BATCH_KEY: torch.zeros(N, 1, dtype=torch.long),
        REGISTRY_KEYS.INDICES_KEY: torch.arange(N).unsqueeze(1),
        MEASURED_KEY: measured,
    }


def means_of(module: DGDModule, tensors: dict, z: torch.Tensor) -> dict[str, torch.Tensor]:
    """Linear predictors by hand: totals times shares of what was measured; logits of proteins."""
    x, measured = tensors[REGISTRY_KEYS.X_KEY].to_dense(), tensors[MEASURED_KEY]
    found = {}
    for name, observation in module.observations.items():
        output = observation.decoder.output(observation.decoder.hidden(z, torch.zeros(len(z), 1)))
        if name != "protein":
            there = measured[:, COLUMNS[name]]
            there = there | ~there.any(1, keepdim=True)  # of an absent modality any share will do: its total is zero
            share = output.exp() / (output.exp() * there).sum(1, keepdim=True)
            output = x[:, COLUMNS[name]].sum(1, keepdim=True) * share
        found[name] = output
    return found


def log_prob_of(module: DGDModule, tensors: dict, z: torch.Tensor) -> torch.Tensor:
    """Log likelihood by distributions of torch, entry by entry, ``(b,)``."""
    x, measured, total = tensors[REGISTRY_KEYS.X_KEY].to_dense().double(), tensors[MEASURED_KEY], 0.0
    means = means_of(module, tensors, z)
    theta = module.observations.rna.log_theta.exp()
    mean = means["rna"].clamp(min=1e-30)
    laws = {
        "rna": NegativeBinomial(theta, logits=mean.log() - theta.log(), validate_args=False),
        "atac": Poisson(means["atac"].clamp(min=1e-30), validate_args=False),
        "protein": Bernoulli(logits=means["protein"]),
    }
    for name, law in laws.items():
        there = measured[:, COLUMNS[name]]
        terms = law.log_prob(x[:, COLUMNS[name]])
        total = total + torch.where(there, terms, 0.0).sum(1)
    return total


def test_log_probabilities_and_gradients_add(joint):
    """As torch has them, of the loss and of the density that new cells climb."""
    joint, tensors = joint.double(), minibatch()
    z = torch.randn(N, 2, dtype=torch.float64).requires_grad_()
    expected = log_prob_of(joint, tensors, z)
    px = joint.decode(z, joint.log_size(tensors), tensors)
    torch.testing.assert_close(px.log_prob(tensors[REGISTRY_KEYS.X_KEY]), expected)
    value, gradient = JointDensity(joint, tensors).value_and_gradient(z.detach())
    log_joint = expected + joint.prior.log_prob(z)
    (by_hand,) = torch.autograd.grad(-log_joint.sum(), z)
    torch.testing.assert_close(value, -log_joint.detach())
    torch.testing.assert_close(gradient, by_hand)
    several = JointDensity(joint, tensors).log_likelihood(z.detach().expand(3, -1, -1))
    torch.testing.assert_close(several, expected.detach().expand(3, -1))


def test_information_is_that_of_all_that_was_measured(joint):
    """Jacobians of all linear predictors by autograd, with the Fisher weights of each family."""
    joint, tensors = joint.double(), minibatch()
    z, measured = torch.randn(N, 2, dtype=torch.float64), tensors[MEASURED_KEY]
    expected = torch.zeros(N, 2, 2, dtype=torch.float64)
    means = {name: mean.detach() for name, mean in means_of(joint, tensors, z).items()}
    theta = joint.observations.rna.log_theta.exp()
    p = means["protein"].sigmoid()
    weights = {"rna": means["rna"] / (1 + means["rna"] / theta), "atac": means["atac"], "protein": p * (1 - p)}
    for name, weight in weights.items():
        eta = lambda z, name=name: means_of(joint, tensors, z)[name]
        link = (lambda of: of) if name == "protein" else (lambda of: of.clamp(min=1e-300).log())
        jacobian = torch.autograd.functional.jacobian(lambda z, e=eta, k=link: k(e(z)), z)  # (b, m, b, d)
        jacobian = torch.stack([jacobian[i, :, i] for i in range(N)])
        part = torch.einsum("bmd,bm,bme->bde", jacobian, weight * measured[:, COLUMNS[name]], jacobian)
        expected = expected + part
    density = JointDensity(joint, tensors)
    torch.testing.assert_close(density.information(z), expected)
    torch.testing.assert_close(density[torch.tensor([7, 0])].information(z[[7, 0]]), expected[[7, 0]])
    torch.testing.assert_close(density.with_genes(3).information(z).isfinite(), torch.ones(N, 2, 2, dtype=torch.bool))


@pytest.mark.parametrize("kept", ["rna", "atac"])
def test_cells_without_a_modality_are_those_of_a_model_without_it(kept):
    """Bit for bit: density, gradient, information, where the search starts; the other decoder does not move."""
    two = {name: MODALITIES[name] for name in ("rna", "atac")}
    tensors = minibatch()
    x = tensors[REGISTRY_KEYS.X_KEY].to_dense()
    there = torch.zeros(N, 16, dtype=torch.bool)
    there[:, COLUMNS[kept]] = True
    both = {**tensors, REGISTRY_KEYS.X_KEY: SparseCounts.from_dense(x[:, :16] * there), MEASURED_KEY: there}
    alone = {**tensors, REGISTRY_KEYS.X_KEY: SparseCounts.from_dense(x[:, COLUMNS[kept]])}
    del alone[MEASURED_KEY]
    large, small = made(two), made({kept: MODALITIES[kept]})
    z, densities = torch.randn(N, 2), (JointDensity(large, both), JointDensity(small, alone))
    for first, second in zip(*(d.value_and_gradient(z) for d in densities), strict=True):
        assert torch.equal(first, second)
    assert torch.equal(*(d.information(z) for d in densities))
    assert torch.equal(*(component_starts(m, d, 2) for m, d in zip((large, small), densities, strict=True)))
    large.train()
    _, _, loss = large(both)
    loss.loss.backward()
    other = next(name for name in two if name != kept)
    assert all((p.grad == 0).all() for p in large.observations[other].parameters() if p.grad is not None)
    assert large.observations[kept].decoder.output.weight.grad.abs().sum() > 0


def test_weights_are_those_of_single_modalities(joint):
    """Of values, gradients, informations, and of each cell at each mean: sums over modalities alone, with their weights."""
    joint, tensors, z = joint.double(), minibatch(), torch.randn(N, 2, dtype=torch.float64)

    def found(weights: list[float]) -> list[torch.Tensor]:
        joint.modality_weights.copy_(torch.tensor(weights))
        density = JointDensity(joint, tensors)
        value, gradient = density.value_and_gradient(z.detach())
        prior = -joint.prior.log_prob(z.requires_grad_())
        (of_prior,) = torch.autograd.grad(prior.sum(), z)
        pairs = density.log_likelihood_of_pairs(z[:3].detach()).detach()
        px = joint.decode(z.detach(), joint.log_size(tensors), tensors)
        return [
            value - prior.detach(),
            gradient - of_prior,
            density.information(z.detach()),
            pairs,
            px.log_prob(tensors[REGISTRY_KEYS.X_KEY]).detach(),
        ]

    single = [found([float(i == j) for j in range(3)]) for i in range(3)]
    for weighted, *each in zip(found([0.5, 2.0, 3.0]), *single, strict=True):
        torch.testing.assert_close(weighted, 0.5 * each[0] + 2 * each[1] + 3 * each[2])


def test_balanced_modalities_have_the_same_information(joint):
    """Within bounds, and as far as half a step in logs leads."""
    tensors = [minibatch()]
    information = information_of_modalities(joint, tensors)
    present = tensors[0][MEASURED_KEY][:, COLUMNS["rna"]].any(1)
    z = joint.posterior.moments(joint.representations(torch.arange(N)))[0]
    joint.modality_weights.copy_(torch.tensor([1.0, 0.0, 0.0]))
    traces = JointDensity(joint, tensors[0]).information(z).diagonal(dim1=-2, dim2=-1).sum(-1)
    torch.testing.assert_close(information[0], traces[present].mean())
    joint.modality_weights.fill_(1.0)
    balance = InformationBalance(tensors)
    plan = SimpleNamespace(module=joint)
    balance.on_train_epoch_start(SimpleNamespace(current_epoch=0), plan)
    assert (joint.modality_weights == 1).all()
    for epoch in range(1, 30):
        balance.on_train_epoch_start(SimpleNamespace(current_epoch=epoch), plan)
    wanted = (information.mean() / information).clamp(0.1, 10)
    torch.testing.assert_close(joint.modality_weights, wanted, rtol=1e-4, atol=1e-5)


def test_absent_modalities_are_decoded_at_the_usual_size(joint):
    joint.usual_log_size.copy_(torch.tensor([1.0, 2.0, 0.0]))
    tensors = minibatch()
    log_size = joint.log_size(tensors)
    assert (log_size[4:7, 0] == 1).all()
    assert (log_size[:4, 1] == 2).all()
    totals = tensors[REGISTRY_KEYS.X_KEY].to_dense()[7:, COLUMNS["rna"]].sum(1)
    torch.testing.assert_close(log_size[7:, 0].exp(), totals)
    px = joint.decode(torch.zeros(N, 2), log_size, tensors)
    torch.testing.assert_close(px.mean[:4, COLUMNS["atac"]].sum(1).log(), torch.full((4,), 2.0))
    assert px.sample().shape == px.variance.shape == px.get_normalized("scale").shape == (N, 20)


def test_blocks_of_counts():
    """Columns are cut as NumPy cuts them, and cells may have none."""
    dense = torch.poisson(torch.full((5, 9), 0.6))
    dense[2] = 0
    blocks = SparseCounts.from_dense(dense).split([4, 0, 5])
    for block, expected in zip(blocks, dense.split([4, 0, 5], dim=1), strict=True):
        assert torch.equal(block.to_dense(), expected)
