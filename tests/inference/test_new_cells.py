"""Placing new cells: the model stays as it is, the start is the best component mean, steps climb the joint density."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scvi import REGISTRY_KEYS

from scdgd._compat import MODULE_KEYS
from scdgd.inference import (
    GaussNewtonConfig,
    NewCellsConfig,
    best_component_means,
    gauss_newton,
    place_new_cells,
)
from scdgd.module import DGDModule
from scdgd.posterior import Noisy
from scdgd.prior import GaussianMixture

N_GENES = 40
CONFIG = NewCellsConfig()


def make_module(*, seed: int = 0, prior_scale: float = 2.0, **kwargs) -> DGDModule:
    """A module with random parameters, sharp enough for components to differ."""
    torch.manual_seed(seed)
    prior = GaussianMixture(6, 3)
    module = DGDModule(N_GENES, 10, prior, **{"n_hidden": 16, "n_batch": 2, "n_continuous": 1, **kwargs})
    with torch.no_grad():
        prior.means.copy_(prior_scale * torch.randn(6, 3))
        prior.log_var.fill_(-1.0)
        prior.weight_logits.normal_()
        module.decoder.output.weight.mul_(3)
        for parameter in module.family_parameters.parameters():
            parameter.copy_(1 + 0.5 * torch.randn_like(parameter))
        module.representations.table.normal_()
    return module.eval()


def draw(
    module: DGDModule,
    b: int = 60,
    *,
    z: torch.Tensor | None = None,
    log_size: torch.Tensor | None = None,
    n_continuous: int = 1,
) -> dict[str, torch.Tensor]:
    """A minibatch of cells from the model itself, with random batches, covariates and size factors."""
    torch.manual_seed(1)
    z = module.prior.sample(b)[0].detach() if z is None else z
    log_size = 5 + 0.5 * torch.randn(b, 1) if log_size is None else log_size
    tensors = {
        REGISTRY_KEYS.INDICES_KEY: torch.full((b, 1), -1),
        REGISTRY_KEYS.BATCH_KEY: torch.randint(2, (b, 1)),
        REGISTRY_KEYS.SIZE_FACTOR_KEY: log_size.exp(),
    }
    if n_continuous:
        tensors[REGISTRY_KEYS.CONT_COVS_KEY] = torch.randn(b, n_continuous)
    with torch.no_grad():
        px = module.generative(z, log_size, **module.covariates(tensors))[MODULE_KEYS.PX_KEY]
    tensors[REGISTRY_KEYS.X_KEY] = px.sample()
    tensors[REGISTRY_KEYS.X_KEY][:, 0] += 1
    return tensors


def log_joint(module: DGDModule, tensors: dict, z: torch.Tensor) -> torch.Tensor:
    """What placing maximises, shape ``(b,)``."""
    px = module.generative(z, module.log_size(tensors), **module.covariates(tensors))[MODULE_KEYS.PX_KEY]
    return px.log_prob(tensors[REGISTRY_KEYS.X_KEY]) + module.prior.log_prob(z)


def brute_force_means(module: DGDModule, tensors: dict) -> torch.Tensor:
    """Component with the highest likelihood, by decoding every component for every cell."""
    x, means = tensors[REGISTRY_KEYS.X_KEY], module.prior.component_means.detach()
    library = module.log_size(tensors)
    covariates = module.covariates(tensors)
    with torch.no_grad():
        log_prob = [
            module.generative(mean.expand(len(x), -1), library, **covariates)[MODULE_KEYS.PX_KEY].log_prob(x)
            for mean in means
        ]
    return means[torch.stack(log_prob, dim=1).argmax(1)]


def n_distinct(z: torch.Tensor) -> int:
    return len(z.unique(dim=0))


# the start


@pytest.mark.parametrize("dispersion", ["gene", "gene-batch"])
@pytest.mark.parametrize("n_continuous", [0, 1])
@pytest.mark.parametrize("prior_scale", [2.0, 0.3], ids=["far apart", "alike"])
def test_start_is_the_likeliest_component_mean(dispersion, n_continuous, prior_scale):
    """Exactly so where no score is interpolated."""
    module = make_module(
        size_factor="registered", dispersion=dispersion, n_continuous=n_continuous, prior_scale=prior_scale
    )
    log_size = 0.2 * torch.randint(15, 35, (200, 1))
    tensors = draw(module, 200, log_size=log_size, n_continuous=n_continuous)
    z = best_component_means(module, tensors)
    assert n_distinct(z) > 2
    assert torch.equal(z, brute_force_means(module, tensors))


@pytest.mark.parametrize(
    ("size_factor", "output_activation"), [("observed", "softmax"), ("max", "sigmoid"), ("mean", "softplus")]
)
@pytest.mark.parametrize("n_continuous", [0, 1])
def test_start_is_nearly_always_the_likeliest_component_mean(size_factor, output_activation, n_continuous):
    """Scores are interpolated between size factors."""
    module = make_module(size_factor=size_factor, output_activation=output_activation, n_continuous=n_continuous)
    tensors = draw(module, 300, n_continuous=n_continuous)
    z, expected = best_component_means(module, tensors), brute_force_means(module, tensors)
    assert n_distinct(expected) > 2
    assert float((z == expected).all(1).float().mean()) >= 0.95


def test_start_heeds_categorical_covariates():
    """Cells alike in all but a covariate must not share decoded means."""
    module = make_module(n_cats_per_cov=[3], n_continuous=0, size_factor="registered")
    plain = make_module(n_continuous=0)
    tensors = draw(plain, 150, log_size=torch.full((150, 1), 5.0), n_continuous=0)
    tensors[REGISTRY_KEYS.CAT_COVS_KEY] = torch.randint(3, (150, 1))
    z = best_component_means(module, tensors)
    assert torch.equal(z, brute_force_means(module, tensors))
    others = {**tensors, REGISTRY_KEYS.CAT_COVS_KEY: (tensors[REGISTRY_KEYS.CAT_COVS_KEY] + 1) % 3}
    assert not torch.equal(z, brute_force_means(module, others))


def test_start_ignores_the_prior():
    module = make_module()
    tensors = draw(module)
    before = best_component_means(module, tensors)
    with torch.no_grad():
        module.prior.weight_logits.copy_(torch.linspace(-50, 50, 6))
        module.prior.log_var.fill_(3.0)
    assert torch.equal(best_component_means(module, tensors), before)


# the steps


def test_no_steps_give_the_start():
    module = make_module()
    tensors = draw(module)
    z = place_new_cells(module, tensors, CONFIG._replace(n_steps=0))
    assert torch.equal(z, best_component_means(module, tensors))


def test_steps_climb_to_a_stationary_point_of_the_joint_density():
    module = make_module()
    tensors = draw(module, 100)
    start = log_joint(module, tensors, best_component_means(module, tensors)).detach()
    z = place_new_cells(module, tensors, CONFIG._replace(n_steps=300, lr=0.1)).requires_grad_()
    end = log_joint(module, tensors, z)
    (gradient,) = torch.autograd.grad(end.sum(), z)
    assert (end.detach() >= start - 1e-3).all()
    assert float((end.detach() - start).median()) > 1
    assert float(gradient.norm(dim=1).median()) < 0.05


def test_rate_is_annealed_only_if_asked():
    """Without annealing, the first step is as long as the rate; so is it with; the last is short."""
    module = make_module()
    tensors = draw(module)
    start = best_component_means(module, tensors)
    for anneal in (True, False):
        one = place_new_cells(module, tensors, NewCellsConfig(n_steps=1, lr=0.01, anneal=anneal))
        torch.testing.assert_close((one - start).abs(), torch.full_like(start, 0.01), rtol=0.01, atol=0)
    ends = [
        place_new_cells(module, tensors, NewCellsConfig(n_steps=8, lr=1e-4, anneal=anneal)) for anneal in (True, False)
    ]
    length = [float((end - start).abs().max()) for end in ends]
    assert length[1] == pytest.approx(8e-4, rel=0.05)
    assert length[0] == pytest.approx(1e-4 * (8 - 28 / 8), rel=0.05)


# nothing else changes


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_bit_identical(training):
    module = make_module().train(training)
    tensors = draw(make_module())
    state = {key: value.clone() for key, value in module.state_dict().items()}
    inputs = {key: value.clone() for key, value in tensors.items()}
    place_new_cells(module, tensors, CONFIG._replace(n_steps=5))
    assert module.training is training
    assert all(child.training is training for child in module.modules())
    for key, value in module.state_dict().items():
        assert torch.equal(value, state[key]), key
    for name, parameter in module.named_parameters():
        assert parameter.grad is None, name
        assert parameter.requires_grad, name
    for key, value in tensors.items():
        assert torch.equal(value, inputs[key]), key


def test_cells_are_placed_in_evaluation_mode():
    module = make_module().train()
    modes = []
    module.decoder.hidden.register_forward_hook(lambda decoder, *_: modes.append(decoder.training))
    place_new_cells(module, draw(make_module()), CONFIG._replace(n_steps=2))
    assert len(modes) > 2
    assert not any(modes)


def test_gradients_that_await_a_step_are_left_alone():
    module = make_module()
    tensors = draw(module)
    for parameter in module.parameters():
        parameter.grad = torch.ones_like(parameter)
    place_new_cells(module, tensors, CONFIG._replace(n_steps=2))
    assert all((parameter.grad == 1).all() for parameter in module.parameters())


def test_mode_is_restored_after_a_failure():
    module = make_module().train()
    tensors = draw(make_module())
    tensors[REGISTRY_KEYS.BATCH_KEY] = tensors[REGISTRY_KEYS.BATCH_KEY][:-1]
    with pytest.raises(RuntimeError):
        place_new_cells(module, tensors, CONFIG)
    assert module.training


def test_noise_of_training_is_off():
    quiet, noisy = make_module(), make_module(posterior=Noisy(5.0)).train()
    tensors = draw(quiet)
    config = CONFIG._replace(n_steps=5)
    assert torch.equal(place_new_cells(noisy, tensors, config), place_new_cells(quiet, tensors, config))


def test_works_inside_inference_mode():
    module = make_module()
    expected = place_new_cells(module, draw(module), CONFIG._replace(n_steps=5))
    with torch.inference_mode():
        tensors = {key: value.clone() for key, value in draw(module).items()}
        assert tensors[REGISTRY_KEYS.X_KEY].is_inference()
        z = place_new_cells(module, tensors, CONFIG._replace(n_steps=5))
    assert not z.is_inference()
    assert not z.requires_grad
    torch.testing.assert_close(z, expected)


@pytest.mark.parametrize("method", ["gauss_newton", "adam"])
def test_both_methods_climb(method):
    module = make_module()
    tensors = draw(module, 100)
    start = log_joint(module, tensors, best_component_means(module, tensors)).detach()
    end = log_joint(module, tensors, place_new_cells(module, tensors, CONFIG._replace(method=method))).detach()
    assert (end >= start - 1e-3).all()
    assert float((end - start).median()) > 1


@pytest.mark.parametrize(("activation", "tolerance"), [("silu", 0.5), ("relu", 0.1)])
def test_kinks_ask_for_a_lower_tolerance(activation, tolerance):
    module = make_module(activation=activation)
    tensors = draw(module)
    assert torch.equal(
        place_new_cells(module, tensors, CONFIG), place_new_cells(module, tensors, CONFIG._replace(tolerance=tolerance))
    )
    assert CONFIG.gauss_newton(module).tolerance == tolerance
    assert CONFIG._replace(tolerance=0.02).gauss_newton(module).tolerance == 0.02


def test_default_effort_ends_near_the_mode():
    """From where cells end, what remains to be gained is what the tolerance allows."""
    module = make_module()
    tensors = draw(module, 200)
    z = place_new_cells(module, tensors, CONFIG)
    mode = gauss_newton(module, tensors, z, GaussNewtonConfig(tolerance=1e-6, max_steps=200))
    gap = -log_joint(module, tensors, z).detach() - mode.neg_log_joint
    assert float(gap.mean()) < 0.15
    assert float(gap.quantile(0.95)) < 0.6


def test_means_are_decoded_once_for_cells_with_the_same_covariates():
    module, calls = make_module(n_continuous=0), []
    tensors = draw(module, 40, n_continuous=0)
    module.decoder.output.register_forward_hook(lambda *_: calls.append(1))
    best_component_means(module, tensors)
    assert len(calls) == module.n_batch


def test_a_rate_asks_for_adam():
    module = make_module()
    tensors = draw(module)
    published = {"n_steps": 10, "lr": 1e-2, "betas": (0.5, 0.7), "anneal": False}
    z = place_new_cells(module, tensors, NewCellsConfig(**published))
    assert torch.equal(z, place_new_cells(module, tensors, NewCellsConfig(**published, method="adam")))
    assert float((z - best_component_means(module, tensors)).abs().max()) <= 0.11


def test_unknown_methods_are_refused():
    module = make_module()
    with pytest.raises(ValueError, match="`method` must be one of .*'gauss_newton', 'adam'.*, got 'newton'"):
        place_new_cells(module, draw(module), NewCellsConfig(method="newton"))


@pytest.mark.parametrize("n_continuous", [0, 1])
def test_cells_do_not_depend_on_the_others_of_their_minibatch(n_continuous):
    module = make_module(n_continuous=n_continuous)
    tensors = draw(module, 20, n_continuous=n_continuous)
    together = place_new_cells(module, tensors, CONFIG)
    alone = [
        place_new_cells(module, {key: value[i : i + 1] for key, value in tensors.items()}, CONFIG) for i in range(20)
    ]
    torch.testing.assert_close(torch.cat(alone), together, rtol=0, atol=1e-4)
    order = torch.as_tensor(np.random.default_rng(0).permutation(20))
    permuted = place_new_cells(module, {key: value[order] for key, value in tensors.items()}, CONFIG)
    torch.testing.assert_close(permuted, together[order], rtol=0, atol=1e-4)


def test_cells_are_found_where_they_were_drawn():
    """Deep cells with little dispersion leave little doubt about their representation."""
    module = make_module(prior_scale=1.0)
    with torch.no_grad():
        module.family_parameters.log_theta.fill_(8.0)
    truth = module.prior.sample(100)[0].detach()
    tensors = draw(module, 100, z=truth, log_size=torch.full((100, 1), 9.0))
    z = place_new_cells(module, tensors, CONFIG._replace(n_steps=200))
    error = (z - truth).norm(dim=1).median()
    start_error = (best_component_means(module, tensors) - truth).norm(dim=1).median()
    assert error < 0.1 < 0.5 < start_error
