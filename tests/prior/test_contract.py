"""What every prior answers, whatever it is: the registered ones, and one that is two methods."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from scdgd.prior import PRIORS, UPDATES, EmpiricalBayesUpdate, GaussianMixture, Moments, Prior, VampPrior
from scdgd.prior._registry import PriorRule, class_of, components_of, current_name, make_prior, title_of
from scdgd.prior._update import WITH_ENCODER, WITH_ROWS, update_of
from tests.prior.encoded import Encoder, pseudo_inputs
from tests.prior.mixtures import clusters


class Cubes(Prior):
    r"""Components of logistic coordinates, :math:`\prod_l \tfrac14 \cosh^{-2}\big(\tfrac12 (z_l - m_{cl})\big)`."""

    def __init__(self, n_components: int, n_latent: int) -> None:
        super().__init__(n_components, n_latent)
        self.centres = nn.Parameter(torch.randn(n_components, n_latent, generator=torch.Generator().manual_seed(0)))

    def _component_log_prob(self, z):
        deviation = z.unsqueeze(-2) - self.centres
        log_densities = nn.functional.logsigmoid(deviation) + nn.functional.logsigmoid(-deviation)
        return log_densities.sum(-1) - math.log(self.n_components)

    def _sample_components(self, components, generator):
        draws = torch.rand(len(components), self.n_latent, generator=generator).clamp(1e-6, 1 - 1e-6)
        return self.centres[components] + torch.logit(draws)


class Shifted(Cubes):
    """The same, about a place that is given for each cell."""

    def _component_log_prob_given(self, z, given):
        return self._component_log_prob(z - given)


def made(name: str, k: int = 4, d: int = 2) -> Prior:
    return make_prior({"cubes": Cubes}.get(name, name), k, d, pseudo_inputs=lambda: pseudo_inputs(k))


def state(prior: Prior) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in prior.state_dict().items()}


def same(one: dict, other: dict) -> bool:
    return all(torch.equal(one[key], other[key]) for key in one)


NAMES = [*PRIORS, "cubes"]
every = pytest.mark.parametrize("name", NAMES)


@every
def test_it_says_what_it_is(name):
    prior = made(name)
    assert prior.updates
    assert set(prior.updates) <= set(UPDATES)
    assert prior.lr_ratio > 0
    assert prior.needs_encoder == isinstance(prior, VampPrior | PRIORS["vmm"])
    assert all(type(said) is bool for said in (prior.is_placed, prior.is_dense, prior.can_shrink))
    encoded = prior.encoded_by(Encoder(2))
    assert all(value.shape == () for value in encoded.hyper_log_prob().values())
    assert (encoded is prior) == (name not in ("vamp", "vmm", "dpgmm"))


@every
def test_densities_agree_with_each_other(name):
    prior, z = made(name).encoded_by(Encoder(2)), torch.randn(7, 2)
    joint = prior.component_log_prob(z)
    torch.testing.assert_close(prior.log_prob(z), joint.logsumexp(-1))
    torch.testing.assert_close(prior.responsibilities(z), joint.softmax(-1))
    torch.testing.assert_close(prior.log_prob(z, given=torch.ones(7, 3)), prior.log_prob(z))
    assert (prior.expected_component_log_prob(z) <= joint + 1e-5).all()
    assert prior.expected_log_prob(z, z, torch.ones_like(z)).shape == (7,)
    torch.testing.assert_close(prior.weights.sum(), torch.tensor(1.0))


@every
def test_curvature_is_that_of_the_density(name):
    prior, z = made(name).double().encoded_by(Encoder(2)), torch.randn(5, 2, dtype=torch.float64)
    torch.testing.assert_close(prior.hessian(z), Prior.hessian(prior, z))
    assert (torch.linalg.eigvalsh(prior.precision(z)) > -1e-9).all()


@every
def test_draws_have_the_means_of_the_components(name):
    prior = made(name).encoded_by(Encoder(2))
    z, components = prior.sample(20_000, generator=torch.Generator().manual_seed(0))
    for c in components.unique():
        deviation = z[components == c].mean(0) - prior.component_means[c]
        assert deviation.abs().max() < 0.3


@every
def test_place_and_reset(name):
    prior, fresh = made(name), None
    prior.reset()
    fresh = state(prior)
    z = clusters(200)[0].float()
    prior.place(z, posterior_var=0.1, seed=1)
    assert prior.is_placed or prior.needs_encoder  # which pseudo-inputs are placed for
    if prior.is_broad_at_first:
        assert prior.log_prob(z).mean() > -6
        assert (torch.cdist(prior.component_means, z).min(1).values < 1).all()
        once = prior.log_prob(z).sum()
        prior.place(z, posterior_var=0.1, seed=2)
        assert prior.log_prob(z).sum() >= once - 1e-2
        assert not same(fresh, state(prior))
    prior.reset()
    assert same(fresh, state(prior))
    assert prior.is_placed != prior.is_broad_at_first or prior.needs_encoder


@every
def test_a_start_without_cells(name):
    prior = made(name)
    before = state(prior)
    prior.draw_start(3)
    assert same(before, state(prior)) != prior.is_broad_at_first
    after = state(prior)
    prior.draw_start(4)  # once is enough
    prior.mark_placed()
    assert same(after, state(prior))


@every
@pytest.mark.parametrize("posterior_var", [0.3, "variances"])
def test_moments_add_up(name, posterior_var):
    prior, z = made(name).encoded_by(Encoder(2)), torch.randn(30, 2)
    var = torch.rand(30, 2) if posterior_var == "variances" else posterior_var

    def of(rows: slice) -> Moments:
        return prior.e_step(z[rows], posterior_var=var[rows] if torch.is_tensor(var) else var)

    parts, whole = of(slice(11)) + of(slice(11, 30)), of(slice(30))
    for field in ("counts", "first", "second"):
        torch.testing.assert_close(getattr(parts, field), getattr(whole, field))
    assert (parts.n_cells, parts.shared_var) == (whole.n_cells, whole.shared_var)
    assert whole.counts.sum().item() == pytest.approx(30, rel=1e-5)


def test_moments_of_different_spread_do_not():
    prior, z = GaussianMixture(2, 2), torch.randn(5, 2)
    with pytest.raises(ValueError, match=r"variances 0.1 and 0.2 do not add up"):
        prior.e_step(z, posterior_var=0.1) + prior.e_step(z, posterior_var=0.2)


@every
def test_steps_of_expectation_maximisation(name):
    prior, z = made(name), clusters(100)[0].float()
    if "em" not in prior.updates:
        with pytest.raises(NotImplementedError, match="prior_update='gradient'"):
            prior.encoded_by(Encoder(2)).em_step(z)
        return
    prior.draw_start()
    before, start = prior.log_prob(z).sum(), state(prior)
    UPDATES["em"](prior).after_epoch(lambda: (z, 0.0))
    assert prior.log_prob(z).sum() >= before - 1e-3
    assert same(start, state(prior)) != prior.has_components


@every
def test_steps_of_empirical_bayes(name):
    prior, encoder = made(name), Encoder(2)
    prior.draw_start()
    if "empirical_bayes" not in prior.updates:
        return
    update, start = EmpiricalBayesUpdate(prior), state(prior)
    update.begin(1e-2)
    assert update.wants_draws
    update.after_minibatch(prior.encoded_by(encoder), torch.randn(50, 2), 1e-2)
    moved = {key for key, value in prior.state_dict().items() if not torch.equal(value, start[key])}
    assert {key for key, p in prior.named_parameters() if p.requires_grad and p.numel()} == moved
    assert encoder.weight.grad is None
    prior.requires_grad_(False)
    update.begin(1e-2)
    assert not update.wants_draws


@every
def test_gradients_reach_every_parameter(name):
    prior = made(name)
    if not prior.has_components:
        assert not any(p.requires_grad for p in prior.parameters())
        return
    prior.draw_start()
    (-prior.encoded_by(Encoder(2)).log_prob(torch.randn(50, 2))).mean().backward()
    without = {"dirichlet.raw_inverse_concentration"}  # of its hyper-prior only
    trained = {key: p for key, p in prior.named_parameters() if p.requires_grad and p.numel() and key not in without}
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained.values())


@every
@pytest.mark.parametrize("offered", [WITH_ENCODER, WITH_ROWS])
def test_the_update_is_the_first_that_is_offered(name, offered):
    prior = made(name)
    possible = [update for update in prior.updates if update in offered]
    assert update_of(prior, offered).name == possible[0]
    for wanted in UPDATES:
        if wanted in possible:
            assert update_of(prior, offered, wanted) is UPDATES[wanted]
            continue
        with pytest.raises(ValueError, match=rf"`prior_update='{wanted}'` here: it takes"):
            update_of(prior, offered, wanted)


# the registry


@every
def test_a_prior_itself_is_copied(name):
    prior = made(name)
    other = make_prior(prior, 99, 2)
    assert other is not prior
    assert type(other) is type(prior) is class_of(prior)
    assert same(state(prior), state(other))
    assert components_of(prior, 99) == prior.n_components
    assert title_of(prior) == type(prior).__name__
    with pytest.raises(ValueError, match="2 dimensions, and the model `n_latent=3`"):
        make_prior(prior, 4, 3)
    with pytest.raises(TypeError, match="`prior_kwargs` are for the class"):
        make_prior(prior, 4, 2, {"covariance_type": "diag"})


@every
def test_a_model_without_encoder_refuses_in_words(name):
    prior = {"cubes": Cubes}.get(name, name)
    rule = PriorRule(has_encoder=False)
    assert PriorRule(has_encoder=True)("prior", prior) == prior
    if not class_of(prior).needs_encoder:
        assert rule("prior", prior) == prior
        assert rule("prior", class_of(prior)) is class_of(prior)
        return
    with pytest.raises(ValueError, match=rf"`prior='{name}'` is made of the posteriors of an encoder.*FlexSCVI"):
        rule("prior", prior)
    with pytest.raises(ValueError, match="Pass the class"):
        PriorRule(has_encoder=True)("prior", made(name))


def test_the_former_name_is_told_of():
    with pytest.warns(FutureWarning, match="`prior='gmm'` is called 'gaussian_mixture' now"):
        assert PriorRule(has_encoder=True)("prior", "gmm") == "gaussian_mixture"
    assert current_name("gmm") == "gaussian_mixture"
    assert current_name(Cubes) is Cubes


def test_defaults_of_a_model_with_an_encoder_are_for_names():
    assert make_prior("gaussian_mixture", 3, 2, pseudo_inputs=lambda: None).covariance_type == "full"
    assert make_prior(GaussianMixture, 3, 2, pseudo_inputs=lambda: None).covariance_type == "tied_diag"
    assert make_prior("gaussian_mixture", 3, 2).covariance_type == "tied_diag"


def test_a_prior_may_depend_on_what_is_given():
    prior, z, place = Shifted(3, 2), torch.randn(6, 2), torch.randn(6, 2)
    torch.testing.assert_close(prior.log_prob(z, given=place), Cubes.log_prob(prior, z - place))
    torch.testing.assert_close(prior.responsibilities(z, place), prior.responsibilities(z - place))
