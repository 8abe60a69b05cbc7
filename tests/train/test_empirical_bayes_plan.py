"""Alternating steps: who moves when, by which gradient, how fast, and from where."""

from __future__ import annotations

import copy
import itertools
from types import SimpleNamespace

import numpy as np
import pytest
import scvi
import torch
from anndata import AnnData
from lightning.pytorch.callbacks import Callback
from scipy import sparse
from scvi.dataloaders import DataSplitter
from sklearn.metrics import adjusted_rand_score

from scdgd.data import SparseCountsSplitter
from scdgd.model import FlexSCVI
from scdgd.module import FlexVAE
from scdgd.prior import StandardNormal
from scdgd.train import EmpiricalBayesPlan
from tests.conftest import simulate, state_of, train

EMPIRICAL_BAYES, BY_ELBO = ("gaussian_mixture", "dpgmm", "vmm"), ("vamp", "vade")


def make(adata=None, setup: dict | None = None, **kwargs) -> FlexSCVI:
    adata = simulate(100, 15) if adata is None else adata
    FlexSCVI.setup_anndata(adata, **(setup or {}))
    return FlexSCVI(adata, **{"prior": "vmm", "n_components": 4, "n_latent": 3, "n_hidden": 8, **kwargs})


def separated_types(seed: int, n_types: int = 6, n_cells: int = 300, n_genes: int = 200, ratio: float = 1.0) -> AnnData:
    """Negative binomial cells of types whose log means differ by deviations of sd 1 in 30% of the genes.

    The largest type has `ratio` times the cells of the smallest.
    """
    rng = np.random.default_rng(seed)
    sizes = np.geomspace(ratio, 1, n_types)
    log_share = rng.normal(size=n_genes) + rng.normal(size=(n_types, n_genes)) * (rng.random((n_types, n_genes)) < 0.3)
    share = np.exp(log_share) / np.exp(log_share).sum(1, keepdims=True)
    types = rng.choice(n_types, n_cells, p=sizes / sizes.sum())
    counts = rng.poisson(rng.gamma(4.0, 500 * share[types] / 4))
    adata = AnnData(sparse.csr_matrix(counts.astype(np.float32)), obs={"type": types})
    FlexSCVI.setup_anndata(adata)
    return adata


def copy_of(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


def _own(plan: EmpiricalBayesPlan) -> torch.optim.Optimizer | None:
    """Optimiser of a prior that takes steps of its own."""
    return plan.prior_update.optimizer if plan.prior_update.wants_draws else None


class Watch(Callback):
    """Three states of each minibatch (before, after the step of the networks, after that of the prior), and the rates."""

    def __init__(self) -> None:
        self.states, self.kl_weights, self.rates, self.losses, self.gradients = [], [], [], [], []

    def on_train_batch_start(self, trainer, pl_module, batch, batch_idx):
        self.plan = pl_module
        if self.states:
            self.states[-1].append(copy_of(pl_module.module))
        self.states.append([copy_of(pl_module.module)])
        optimizer = _own(pl_module)
        if optimizer is not None and len(self.states) == 1:
            step, own = optimizer.step, optimizer.param_groups

            def spy():
                self.gradients.append(
                    [None if p.grad is None else p.grad.clone() for p in pl_module.prior_update.parameters]
                )
                self.rates.append([groups[0]["lr"] for groups in (trainer.optimizers[0].param_groups, own)])
                return step()

            optimizer.step = spy

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        self.states[-1].append(copy_of(pl_module.module))
        self.kl_weights.append(float(pl_module.loss_kwargs["kl_weight"]))
        self.losses.append(float(outputs["loss"]))
        if _own(pl_module) is None or pl_module.is_pretraining:
            self.rates.append([group["lr"] for group in trainer.optimizers[0].param_groups])

    def on_train_end(self, trainer, pl_module):
        self.states[-1].append(copy_of(pl_module.module))


def watched(model: FlexSCVI, max_epochs: int = 2, **kwargs) -> Watch:
    watch = Watch()
    train(model, max_epochs, **{"batch_size": 32, "callbacks": [watch], **kwargs})
    return watch


def differ(first: dict, second: dict, *, prior: bool) -> list[str]:
    return [key for key in first if key.startswith("prior.") == prior and not torch.equal(first[key], second[key])]


# ---------------------------------------------------------------- who moves


@pytest.mark.parametrize("prior", EMPIRICAL_BAYES)
@pytest.mark.parametrize(
    "options", [{}, {"encoder_learns_from_prior": True}, {"detach_responsibilities": False}], ids=str
)
def test_steps_alternate(prior, options):
    watch = watched(make(prior=prior), plan_kwargs=options)
    for before, after_networks, after_prior in watch.states:
        assert differ(before, after_networks, prior=True) == []
        assert any("encoder" in key for key in differ(before, after_networks, prior=False))
        assert any("running_mean" in key for key in differ(before, after_networks, prior=False))
        assert differ(after_networks, after_prior, prior=False) == []
        moved = differ(after_networks, after_prior, prior=True)
        trained = [f"prior.{name}" for name, _ in watch.plan.module.prior.named_parameters()]
        assert set(moved) == set(trained)


@pytest.mark.parametrize("prior", BY_ELBO)
def test_priors_of_the_elbo_move_with_the_networks(prior):
    watch = watched(make(prior=prior))
    assert _own(watch.plan) is None
    for before, after_networks, after_prior in watch.states:
        trained = {f"prior.{name}" for name, _ in watch.plan.module.prior.named_parameters()}
        assert set(differ(before, after_networks, prior=True)) == trained
        assert differ(after_networks, after_prior, prior=True) == differ(after_networks, after_prior, prior=False) == []


@pytest.mark.parametrize("prior", EMPIRICAL_BAYES)
def test_the_elbo_trains_any_prior_on_request(prior):
    watch = watched(make(prior=prior), 1, plan_kwargs={"prior_update": "gradient"})
    for before, after_networks, after_prior in watch.states:
        moved = differ(before, after_networks, prior=True)
        assert {"prior.wishart.raw_diagonal", "prior.log_var"} & set(moved)
        assert differ(after_networks, after_prior, prior=True) == []


@pytest.mark.parametrize("prior", [*EMPIRICAL_BAYES, *BY_ELBO])
def test_groups_of_the_optimiser(prior):
    plan = EmpiricalBayesPlan(make(prior=prior).module, lr=1e-3, prior_lr_ratio=5.0, weight_decay=0.1)
    optimizer = plan.configure_optimizers()["optimizer"]
    of_prior = {id(p) for p in plan.module.prior.parameters()}
    networks, *others = optimizer.param_groups
    assert not of_prior & {id(p) for p in networks["params"]}
    assert len(networks["params"]) + len(of_prior) == len(list(plan.module.parameters()))
    assert (networks["lr"], networks["weight_decay"], networks["eps"]) == (1e-3, 0.1, 0.01)
    if prior in EMPIRICAL_BAYES:
        assert others == []
        return
    (group,) = others
    assert {id(p) for p in group["params"]} == of_prior
    assert (group["lr"], group["weight_decay"], group["eps"]) == (5e-3, 0.0, 1e-8)


def test_the_encoder_learns_from_the_prior_only_on_request():
    states = {}
    for prior, learns in itertools.product(("vmm", "dpgmm"), (False, True)):
        scvi.settings.seed = 0
        model = make(prior=prior)
        train(model, 1, batch_size=90, plan_kwargs={"encoder_learns_from_prior": learns})
        states[prior, learns] = model.module.z_encoder.mean_encoder.weight.detach().clone()
    assert not torch.equal(states["vmm", False], states["vmm", True])
    assert torch.equal(states["dpgmm", False], states["dpgmm", True])  # its components are not encoded


# ---------------------------------------------------------------- by which gradient


def direct_gradient(module: FlexVAE, z: torch.Tensor, prior_batch_size: float, detach: bool = True) -> list:
    """Of the objective of the prior, written out."""
    given = module.given_prior()
    e = given.expected_component_log_prob(z)
    r = torch.softmax(e, dim=-1)
    r = r.detach() if detach else r
    loss = -(r * e).sum() / len(z) - sum(given.hyper_log_prob().values()) / prior_batch_size
    return torch.autograd.grad(loss, [p for p in module.prior.parameters() if p.requires_grad], allow_unused=True)


@pytest.mark.parametrize("prior", EMPIRICAL_BAYES)
@pytest.mark.parametrize("detach", [True, False])
@pytest.mark.parametrize(("batch_size", "prior_batch_size"), [(30, 256), (90, 256), (30, 10_000)])
def test_gradient_of_the_prior(prior, detach, batch_size, prior_batch_size, monkeypatch):
    """With the prior of the parameters weighed by its own number of cells, whatever the minibatch."""
    model, draws = make(prior=prior), []
    draw = EmpiricalBayesPlan._draw

    def spy(self, batch):
        result = draw(self, batch)
        draws.append((result, batch["X"].to_dense()))
        return result

    monkeypatch.setattr(EmpiricalBayesPlan, "_draw", spy)
    options = {"prior_batch_size": prior_batch_size, "detach_responsibilities": detach}
    watch = watched(model, 1, batch_size=batch_size, train_size=0.9, plan_kwargs=options)
    module = copy.deepcopy(model.module).eval()
    assert len(watch.gradients) == len(draws) == 90 // batch_size
    for (z, x), gradients, (_, state, _) in zip(draws, watch.gradients, watch.states, strict=True):
        assert len(z) == batch_size
        module.load_state_dict(state)
        expected = direct_gradient(module, z, prior_batch_size, detach)
        other = direct_gradient(module, z, prior_batch_size, not detach)
        assert any(a is not None and not torch.allclose(a, b, rtol=1e-3) for a, b in zip(expected, other, strict=True))
        for gradient, reference in zip(gradients, expected, strict=True):
            torch.testing.assert_close(gradient, reference, rtol=1e-4, atol=1e-6)
        qz = module._regular_inference(x, torch.zeros(len(x), 1))["qz"]  # of the encoder in evaluation mode
        assert (((z - qz.loc) / qz.scale).abs() < 6).all()


# ---------------------------------------------------------------- how fast


@pytest.mark.parametrize("prior", ["vmm", "vamp"])
def test_the_prior_follows_the_rate_of_the_networks(prior):
    plan = {
        "prior_lr_ratio": 5.0,
        "reduce_lr_on_plateau": True,
        "lr_patience": 0,
        "lr_threshold": 1e9,
        "lr_factor": 0.5,
    }
    plan |= {"n_warm_start_epochs": 0} if prior == "vmm" else {}
    watch = watched(make(prior=prior), 4, plan_kwargs=plan, early_stopping=True)
    rates = np.array(watch.rates)
    np.testing.assert_allclose(rates[:, 1], 5 * rates[:, 0], rtol=1e-6)
    assert rates[-1, 0] < 0.3 * rates[0, 0]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, [1, 1, 1, 1]),
        ({"n_epochs_kl_warmup": 2}, [0, 0.5, 1, 1]),
        ({"n_epochs_kl_warmup": 2, "max_kl_weight": 0.1}, [0, 0.05, 0.1, 0.1]),
        ({"max_kl_weight": 0.0}, [0, 0, 0, 0]),
        ({"n_pretraining_epochs": 2}, [0, 0, 1, 1]),
        ({"max_kl_weight": 0.5, "n_pretraining_epochs": 1}, [0, 0.5, 0.5, 0.5]),
    ],
    ids=str,
)
def test_weight_of_the_divergence(options, expected):
    watch = watched(make(prior="vade"), 4, batch_size=90, train_size=0.9, plan_kwargs=options)
    np.testing.assert_allclose(watch.kl_weights, expected, atol=1e-6)


@pytest.mark.parametrize(("prior", "posterior"), [("vade", "normal"), ("gaussian_mixture", "iaf"), ("vmm", "normal")])
@pytest.mark.slow
def test_pretraining(prior, posterior):
    """The prior waits; then a Gaussian mixture is put where the representations are."""
    model = make(prior=prior, posterior=posterior, n_components=3)
    plan = {"n_pretraining_epochs": 2, "pretraining_lr": 5e-3, "lr": 1e-3}
    watch = watched(model, 4, batch_size=45, train_size=0.9, plan_kwargs=plan)
    start = watch.states[0][0]
    for states in watch.states[:4]:
        for state in states[: 3 if states is not watch.states[3] else 2]:
            assert differ(start, state, prior=True) == []
    placed = watch.states[4][0]
    if prior != "vmm":
        assert not start["prior.placed"]
        assert {"prior.placed", "prior.means", "prior.log_var"} <= set(differ(start, placed, prior=True))
        z = model.get_latent_representation()
        assert np.abs(placed["prior.means"].mean(0).numpy() - z.mean(0)).max() < 3 * z.std()
        assert torch.pdist(placed["prior.means"]).min() > 1e-3
    assert differ(placed, watch.states[-1][-1], prior=True)
    np.testing.assert_allclose([rates[0] for rates in watch.rates], [5e-3] * 4 + [1e-3] * 4)


def test_penalty_of_the_weights():
    losses = {}
    options = {"dispersion": "gene-batch", "batch_representation": "embedding", "prior": "vamp"}
    for penalty in ((0.0, 0.0), (0.01, 0.0), (0.0, 0.02)):
        scvi.settings.seed = 0
        model = make(simulate(100, 15, n_batches=2), {"batch_key": "batch"}, **options)
        kernels = [m.weight.detach() for m in model.module.modules() if isinstance(m, torch.nn.Linear)]
        l1, l2 = penalty
        expected = sum(l1 * float(kernel.abs().sum()) + l2 * float(kernel.square().sum()) for kernel in kernels)
        watch = watched(model, 1, batch_size=90, train_size=0.9, plan_kwargs={"kernel_l1": l1, "kernel_l2": l2})
        losses[penalty] = watch.losses[0] - expected
        if penalty[0]:
            assert expected > 0.1
    np.testing.assert_allclose(list(losses.values()), losses[0.0, 0.0], rtol=1e-4)


# ---------------------------------------------------------------- from where


def counts_of(adata) -> np.ndarray:
    return adata.X.toarray()


@pytest.mark.parametrize("prior", ["vamp", "vmm"])
def test_pseudo_inputs_start_at_training_cells(prior):
    adata = simulate(100, 15, n_batches=3)
    setup = {"batch_key": "batch", "continuous_covariate_keys": ["age"], "categorical_covariate_keys": ["donor"]}
    starts = {}
    for run, seed in enumerate((0, 0, 1)):
        scvi.settings.seed = 0
        model = make(adata, setup, prior=prior, n_components=40, encode_covariates=True)
        watch = watched(model, 1, train_size=0.5, validation_size=0.3, plan_kwargs={"seed": seed})
        assert len(model.train_indices) == 50
        start = watch.states[0][0]
        counts = torch.nn.functional.softplus(start["prior.pseudo_inputs.genes"]) - 1
        distance = np.abs(counts.numpy()[:, None] - counts_of(adata)[None]).max(-1)
        cells = distance.argmin(1)
        assert distance.min(1).max() < 0.01
        assert len(set(cells)) == 40
        assert set(cells) <= set(model.train_indices)
        ages = start["prior.pseudo_inputs.continuous"][:, 0].numpy()
        age = adata.obs["age"].to_numpy()
        np.testing.assert_allclose(ages, ((age - age.mean()) / age.std())[cells], rtol=1e-4)
        for name in ("0", "1"):
            assert (start[f"prior.pseudo_inputs.category_logits.{name}"] == 0).all()
        starts[run] = cells
    np.testing.assert_array_equal(starts[0], starts[1])
    assert not np.array_equal(starts[0], starts[2])


def test_pseudo_inputs_start_in_the_units_of_the_encoder():
    adata = simulate(100, 15)
    watch = watched(make(adata, normalize_input=True), 1)
    counts = torch.nn.functional.softplus(watch.states[0][0]["prior.pseudo_inputs.genes"]) - 1
    torch.testing.assert_close(counts.sum(1), torch.full((4,), 1e4), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    "prior", ["vmm", *(pytest.param(p, marks=pytest.mark.slow) for p in (*EMPIRICAL_BAYES, *BY_ELBO) if p != "vmm")]
)
def test_components_need_training_cells(prior):
    adata = simulate(40, 15)
    with pytest.raises(ValueError, match="41 components.*40"):
        make(adata, prior=prior, n_components=41)
    model = make(adata, prior=prior, n_components=40)
    with pytest.raises(ValueError, match="40 components.*training cells.*20"):
        train(model, 1, train_size=0.5)
    assert not model.is_trained
    train(model, 1, train_size=1.0)


# ---------------------------------------------------------------- the host's options


@pytest.mark.parametrize(
    "prior",
    ["vmm", *(pytest.param(p, marks=pytest.mark.slow) for p in ("normal", *EMPIRICAL_BAYES, *BY_ELBO) if p != "vmm")],
)
def test_same_seed_same_result_and_training_goes_on(prior):
    runs = []
    for seed in (0, 0, 1):
        scvi.settings.seed = seed
        model = make(prior=prior)
        train(model, 1, batch_size=32)
        first = state_of(model)
        watch = watched(model, 1)
        for key, value in first.items():
            assert torch.equal(value, watch.states[0][0][key]), key  # begins where it had ended
        runs.append(state_of(model))
        assert len(model.history["elbo_train"]) == 2
    for key in runs[0]:
        assert torch.equal(runs[0][key], runs[1][key]), key
    assert any(not torch.equal(runs[0][key], runs[2][key]) for key in runs[0] if key.startswith("z_encoder"))


@pytest.mark.parametrize(
    "trainer",
    [
        {"gradient_clip_val": 1.0},
        {"accumulate_grad_batches": 2},
        {"gradient_clip_val": 0.5, "gradient_clip_algorithm": "value", "accumulate_grad_batches": 3},
        {"early_stopping": True, "early_stopping_monitor": "elbo_train", "train_size": 1.0},
        {"load_sparse_tensor": True},
        {"plan_kwargs": {"optimizer": "AdamW"}},
        {"plan_kwargs": {"n_steps_kl_warmup": 3}},
        {"plan_config": {"lr": 1e-4}, "plan_kwargs": {"eps": 1e-8}},
        {"callbacks": None},
    ],
    ids=str,
)
def test_options_of_the_host(trainer):
    model = make()
    train(model, 2, batch_size=32, **trainer)
    assert np.isfinite(float(model.get_elbo()))


def test_accumulated_gradients_step_the_networks_once():
    watch = watched(make(), 1, batch_size=30, train_size=0.9, accumulate_grad_batches=3)
    assert [bool(differ(before, after, prior=False)) for before, after, _ in watch.states][-1]
    parameters = dict(watch.plan.module.named_parameters())
    for before, after, _ in watch.states[:2]:
        assert not [key for key in differ(before, after, prior=False) if key in parameters]


@pytest.mark.parametrize(("splitter", "prior"), [(SparseCountsSplitter, "gaussian_mixture"), (DataSplitter, "vmm")])
def test_datamodule(splitter, prior):
    model = make(prior=prior)
    train(model, 2, datamodule=splitter(model.adata_manager, batch_size=32))
    assert np.isfinite(float(model.get_elbo()))
    without = FlexSCVI(registry=model.registry, prior=prior, n_components=4, n_latent=3, n_hidden=8)
    train(without, 2, datamodule=splitter(model.adata_manager, batch_size=32))
    z = without.get_latent_representation(dataloader=model._make_data_loader(model.adata))
    assert z.shape == (100, 3)
    assert np.isfinite(z).all()


@pytest.mark.parametrize(
    ("prior", "options", "match"),
    [
        ("vmm", {"prior_batch_size": 0}, "prior_batch_size"),
        ("vmm", {"prior_lr_ratio": -1.0}, "prior_lr_ratio"),
    ],
)
def test_wrong_options_are_refused(prior, options, match):
    model = make(prior=prior)
    before = state_of(model)
    with pytest.raises(ValueError, match=match):
        train(model, 1, plan_kwargs=options)
    for key, value in before.items():
        assert torch.equal(value, model.module.state_dict()[key]), key


# ---------------------------------------------------------------- where components start


@pytest.mark.slow
def test_warm_start():
    """The bound has N(0, I) and the mixture is held until it ends; a second training has none."""
    model = make(separated_types(0), n_components=20)
    watch = watched(model, 4, plan_kwargs={"n_warm_start_epochs": 2})
    held = watch.states[: len(watch.states) // 2]
    names = [name for name in held[0][0] if name.startswith("prior.") and "placed" not in name]
    assert all(torch.equal(held[0][0][name], held[-1][1][name]) for name in names)
    assert not torch.equal(watch.states[-1][-1]["prior.dirichlet.logits"], held[-1][1]["prior.dirichlet.logits"])
    assert not held[-1][1]["prior.pseudo_inputs.placed"]
    assert model.module.prior.is_placed
    assert watched(model, 2, plan_kwargs={"n_warm_start_epochs": 2}).plan.n_warm_start_epochs == 0


def test_a_prior_in_the_place_of_the_own_one():
    model = make()
    tensors = next(iter(model._make_data_loader(model.adata)))
    inferred, generated, loss = model.module(tensors, loss_kwargs={"prior": StandardNormal(3)})
    normal = torch.distributions.Normal(0.0, 1.0)
    exact = torch.distributions.kl_divergence(inferred["qz"], normal).sum(-1)
    torch.testing.assert_close(loss.kl_local["kl_divergence_z"], exact)


@pytest.mark.parametrize(("max_epochs", "expected"), [(3, 0), (40, 10), (400, 63), (2_000, 63)])
def test_usual_length_of_a_warm_start(max_epochs, expected):
    plan = EmpiricalBayesPlan(make().module)
    plan.trainer = SimpleNamespace(max_epochs=max_epochs, num_training_batches=4)
    plan._set_warm_start()
    assert plan.n_warm_start_epochs == expected


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(("n_types", "ratio"), [(6, 1), (3, 1), (5, 10)])
def test_types_have_a_component_each(seed, n_types, ratio):
    """Separated types, one component for each of them: which would be found was chance."""
    scvi.settings.seed = seed
    adata = separated_types(seed, n_types, 1_000, 300, ratio)
    model = FlexSCVI(adata, prior="vmm", gene_likelihood="nb")
    train(model, 100)
    assert adjusted_rand_score(adata.obs["type"], model.get_cluster_assignments()) > 0.98


@pytest.mark.slow
def test_six_types_have_a_component_each():
    """One short training; without a warm start there are nine, and the agreement is 0.84."""
    adata = separated_types(0)
    model = FlexSCVI(adata, prior="vmm", n_components=20, n_hidden=32, gene_likelihood="nb")
    train(model, 40, batch_size=100, plan_kwargs={"n_warm_start_epochs": 32, "lr": 8e-3})
    assert adjusted_rand_score(adata.obs["type"], model.get_cluster_assignments()) > 0.98
