"""Components that belong to classes: restricted densities, and expectation maximisation with some labels."""

from __future__ import annotations

import pytest
import torch

from scdgd.prior import ClassComponents, GaussianMixture, Prior, SoftballMixture
from tests.prior.mixtures import as_distribution, every_covariance, randomise

#: Classes of the components of `mixture()`: two of two, and one that is nobody's.
OWNERS = [0, 0, 1, 1, -1]


def mixture(covariance_type: str = "tied_diag", *, owned: bool = True) -> GaussianMixture:
    torch.manual_seed(0)
    prior = randomise(GaussianMixture(5, 2, covariance_type=covariance_type).double())
    prior.classes = ClassComponents(2, 5, per_class=2) if owned else None
    return prior


def cells(n: int = 40) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    z = 2 * torch.randn(n, 2, generator=generator, dtype=torch.float64)
    return z, torch.randint(-1, 2, (n,), generator=generator)


def brute_force(prior: GaussianMixture, z: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    """Joint densities of each cell and its components, one after the other, (n, k)."""
    normal = as_distribution(prior).component_distribution
    joint = torch.zeros(len(z), 5, dtype=z.dtype)
    for i, code in enumerate(codes.tolist()):
        for c, owner in enumerate(OWNERS):
            if code in (-1, owner):
                joint[i, c] = prior.weights[c] * normal.log_prob(z[i]).exp()[c]
    return joint


@every_covariance
def test_densities_of_labelled_cells_are_sums_over_their_components(covariance_type):
    prior, (z, codes) = mixture(covariance_type), cells()
    joint = brute_force(prior, z, codes)
    torch.testing.assert_close(prior.log_prob(z, codes), joint.sum(1).log())
    torch.testing.assert_close(prior.responsibilities(z, codes), joint / joint.sum(1, keepdim=True))
    torch.testing.assert_close(prior.hessian(z, codes), Prior.hessian(prior, z, codes))
    assert (torch.linalg.eigvalsh(prior.precision(z, codes)) > 0).all()


def test_densities_of_all_classes_and_nobodys_add_up():
    prior, (z, _) = mixture(), cells()
    of_classes = [prior.log_prob(z, torch.full((len(z),), code)).exp() for code in (0, 1)]
    nobodys = prior.component_log_prob(z)[:, 4].exp()
    torch.testing.assert_close(sum(of_classes) + nobodys, prior.log_prob(z).exp())
    shares = prior.classes.probabilities(prior.responsibilities(z))
    torch.testing.assert_close(shares, torch.stack([*of_classes, nobodys], 1) / prior.log_prob(z).exp()[:, None])
    torch.testing.assert_close(prior.classes.probabilities(prior.responsibilities(z)[None]), shares[None])


def test_cells_without_labels_are_those_of_a_mixture_without_classes():
    prior, plain, (z, _) = mixture(), mixture(owned=False), cells()
    for given in (None, torch.full((len(z),), -1)):
        torch.testing.assert_close(prior.log_prob(z, given), plain.log_prob(z), rtol=0, atol=0)
        torch.testing.assert_close(prior.precision(z, given), plain.precision(z), rtol=0, atol=0)
    torch.testing.assert_close(plain.log_prob(z, torch.zeros(len(z))), plain.log_prob(z), rtol=0, atol=0)


@every_covariance
def test_gradients_of_restricted_densities(covariance_type):
    prior, (z, codes) = mixture(covariance_type), cells(5)
    assert torch.autograd.gradcheck(lambda z: prior.log_prob(z, codes), z.requires_grad_())
    (gradient,) = torch.autograd.grad(prior.log_prob(z, torch.zeros(5)).sum(), prior.means)
    assert (gradient[2:] == 0).all()
    assert (gradient[:2] != 0).all()
    weights = torch.autograd.grad(prior.log_prob(z, torch.zeros(5)).sum(), prior.weight_logits)[0]
    assert (weights != 0).all()  # those of all classes learn how frequent they are


def test_far_away_a_restricted_cell_is_still_of_its_class():
    prior, far = mixture(), torch.full((1, 2), 1e4, dtype=torch.float64, requires_grad=True)
    log_prob = prior.log_prob(far, torch.tensor([1]))
    log_prob.sum().backward()
    assert log_prob.isfinite().all()
    assert far.grad.isfinite().all()
    torch.testing.assert_close(prior.responsibilities(far, torch.tensor([1]))[0, 2:4].sum().item(), 1.0)


@every_covariance
def test_em_climbs_the_density_of_cells_and_labels(covariance_type):
    prior, (z, codes) = mixture(covariance_type), cells(60)
    prior.pseudo_count = 0.0
    values = [prior.log_prob(z, codes).sum().item()]
    for _ in range(15):
        prior.em_step(z, given=codes)
        values.append(prior.log_prob(z, codes).sum().item())
    assert all(after >= before - 1e-8 for before, after in zip(values, values[1:], strict=False))
    if covariance_type != "fixed":
        assert values[-1] > values[0] + 1


def test_weights_learn_the_frequencies_of_classes():
    prior, (z, codes) = mixture(), cells(60)
    labelled = codes >= 0
    prior.em_step(z[labelled], given=codes[labelled])
    weights = prior.classes.probabilities(prior.weights.detach())
    expected = torch.bincount(codes[labelled], minlength=2) / labelled.sum()
    torch.testing.assert_close(weights[:2], expected.double(), atol=1e-5, rtol=0)


def test_blocks_of_cells_do_not_change_a_step(monkeypatch):
    once, blocks, (z, codes) = mixture(), mixture(), cells(50)
    once.em_step(z, given=codes)
    monkeypatch.setattr("scdgd.prior._moments._MAX_ELEMENTS", 70)
    blocks.em_step(z, given=codes)
    torch.testing.assert_close(blocks.state_dict(), once.state_dict())


def islands(labels_of_each: int = 2) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Cells around four corners, of which the first three have a few labels; and where they are from."""
    centres = 6 * torch.tensor([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    origin = torch.arange(4).repeat_interleave(50)
    z = centres[origin] + torch.randn(200, 2, generator=torch.Generator().manual_seed(0))
    codes = torch.full((200,), -1)
    for code in range(3):
        codes[50 * code : 50 * code + labels_of_each] = code
    return z, codes, origin


@pytest.mark.parametrize("labels_of_each", [1, 2, 50])
@pytest.mark.parametrize("initial", ["gaussian_mixture", "softball"])
def test_labels_place_their_components_and_nobodys_go_to_the_rest(initial, labels_of_each):
    z, codes, origin = islands(labels_of_each)
    prior = GaussianMixture(4, 2) if initial == "gaussian_mixture" else SoftballMixture(4, 2, initial_means="kmeans")
    prior.classes = ClassComponents(3, 4)
    prior.place(z, given=codes)
    nearest = torch.cdist(z, prior.means.detach()).argmin(1)
    assert (nearest == origin).all()


def test_a_class_without_cells_owns_nothing_until_it_has_some():
    classes = ClassComponents(3, 7, per_class=2)
    classes.keep([0, 2])
    assert classes.owner.tolist() == [0, 0, -1, -1, 2, 2, -1]
    assert classes.allowed(torch.tensor([1])).all()  # a label that means nothing restricts nothing
    classes.keep(torch.tensor([1]))
    assert classes.owner.tolist() == [-1, -1, 1, 1, -1, -1, -1]
    prior, (z, codes, origin) = GaussianMixture(4, 2), islands()
    prior.classes = ClassComponents(3, 4)
    codes[codes == 1] = -1
    prior.classes.keep([0, 2])
    prior.place(z, given=codes)
    nearest = torch.cdist(z, prior.means.detach()).argmin(1)
    assert len(set(zip(nearest.tolist(), origin.tolist(), strict=True))) == 4


def test_more_components_than_blocks_need_is_fine_and_fewer_is_named():
    assert ClassComponents(2, 5, per_class=2).owner.tolist() == OWNERS
    with pytest.raises(ValueError, match="3 classes of 2 components need 6 components, got 5"):
        ClassComponents(3, 5, per_class=2)
    with pytest.raises(ValueError, match="`per_class`"):
        ClassComponents(3, 5, per_class=0)


def test_one_component_a_class_is_the_supervised_density_of_the_paper():
    """Schuster & Krogh 2023: the log of the weight and the density of a cell's own component."""
    prior = mixture()
    prior.classes = ClassComponents(5, 5)
    z, _ = cells(20)
    codes = torch.arange(20) % 5
    normal = as_distribution(prior).component_distribution
    for i, code in enumerate(codes):
        expected = prior.weights[code].log() + normal.log_prob(z[i])[code]
        torch.testing.assert_close(prior.log_prob(z[i : i + 1], codes[i : i + 1])[0], expected)
