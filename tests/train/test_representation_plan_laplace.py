"""LaplacePlan: what is differentiated, what the steps of the mixture see, and a latent space that keeps its scale."""

from __future__ import annotations

import numpy as np
import pytest
import scvi
import torch
from lightning.pytorch.callbacks import Callback
from scipy import sparse
from scvi import REGISTRY_KEYS

from scdgd.inference import fisher_information, laplace_term
from scdgd.likelihood import ALL_LIKELIHOODS, LIKELIHOODS
from scdgd.model import SCDGD, SCVAD
from scdgd.train import LaplacePlan, _laplace_plan
from tests.conftest import simulate, state_of, train

ALL_GENES = {"n_laplace_genes": None}
FROZEN = {**ALL_GENES, "lr": 0.0, "lr_z": 0.0}


class LaplaceSCDGD(SCDGD):
    _training_plan_cls = LaplacePlan


def make_model(adata, cls: type[SCDGD] = LaplaceSCDGD, **kwargs) -> SCDGD:
    cls.setup_anndata(adata, batch_key="batch")
    return cls(adata, **{"n_components": 3, "n_latent": 4, "n_hidden": 16, "noise_scale": 0.0, **kwargs})


def cells_of(model: SCDGD) -> dict[str, torch.Tensor]:
    """All cells in one minibatch, in the order of their rows."""
    (tensors,) = model._make_data_loader(model.adata, batch_size=1000)
    assert torch.equal(tensors[REGISTRY_KEYS.INDICES_KEY].ravel(), torch.arange(len(model.module.representations)))
    return tensors


def test_the_loss_of_a_minibatch_has_the_term(adata):
    """And so have the gradients of representations, decoder and dispersions."""
    model = train(make_model(adata), 3, plan_kwargs=ALL_GENES)
    module, tensors = model.module, cells_of(model)
    plan = LaplacePlan(module, **ALL_GENES)
    plan.on_fit_start()
    module.train()
    outputs, _, output = plan.forward(tensors, loss_kwargs={})
    z, networks = outputs["representation"], [*module.decoder.parameters(), *module.family_parameters.parameters()]
    gradients = torch.autograd.grad(output.loss, [z, *networks])
    outputs, _, plain = module.forward(tensors)
    z = outputs["representation"]
    log_volume = laplace_term(module, tensors, z).log_volume
    torch.testing.assert_close(output.loss, plain.loss - log_volume.mean())
    torch.testing.assert_close(output.kl_local["neg_log_volume"], -log_volume)
    torch.testing.assert_close(output.kl_local_sum, plain.kl_local_sum - log_volume.sum())
    expected = torch.autograd.grad(plain.loss - log_volume.mean(), [z, *networks])
    for gradient, value in zip(gradients, expected, strict=True):
        torch.testing.assert_close(gradient, value, rtol=1e-4, atol=1e-6)
    assert log_volume.std() > 0


@pytest.mark.parametrize("training", [True, False])
def test_steps_of_representations_alone_have_the_term(adata, monkeypatch, training):
    """Inner steps, and those of validation cells."""
    model = train(make_model(adata), 3, plan_kwargs=ALL_GENES)
    module, tensors = model.module, cells_of(model)
    plan, seen = LaplacePlan(module, **ALL_GENES), []
    plan.on_fit_start()
    module.train(training)
    monkeypatch.setattr(plan.row_optimizer, "step", lambda rows, gradient: seen.append(gradient))
    plan._step_representations(tensors)
    module.train()
    outputs, _, plain = module.forward(tensors)
    z = outputs["representation"]
    evidence = plain.reconstruction_loss_sum + plain.kl_local_sum - laplace_term(module, tensors, z).log_volume.sum()
    torch.testing.assert_close(seen[0], torch.autograd.grad(evidence, z)[0], rtol=1e-4, atol=1e-4)


def test_history_is_the_negative_log_evidence(adata):
    """Of a model that stands still, summed over minibatches."""
    model = train(make_model(adata), 2, plan_kwargs=FROZEN, batch_size=40, mixture_start=1)
    model.module.prior.reset()  # as it was in the first epoch
    tensors = cells_of(model)
    z = model.module.representations.table
    log_volume = laplace_term(model.module, tensors, z).log_volume.sum()
    _, _, output = model.module.forward(tensors)
    expected = (output.reconstruction_loss_sum + output.kl_local_sum - log_volume + output.kl_global_sum) / len(z)
    np.testing.assert_allclose(model.history["elbo_train"].iloc[0].item(), expected.item(), rtol=1e-5)


@pytest.mark.parametrize("covariance_type", ["tied_diag", "full"])
def test_steps_of_the_mixture_see_the_posteriors(adata, monkeypatch, covariance_type):
    model = make_model(adata, prior_kwargs={"covariance_type": covariance_type})
    seen, place = [], model.module.prior.place

    def see(z, *, posterior_var, **kwargs):
        fisher = fisher_information(model.module, cells_of(model), model.module.representations.table)
        seen.append((z.clone(), posterior_var.clone(), fisher.double().inverse().float()))

    def see_and_place(z, **kwargs):
        see(z, **kwargs)
        place(z, **kwargs)

    monkeypatch.setattr(model.module.prior, "e_step", see)
    monkeypatch.setattr(model.module.prior, "m_step", lambda *_, **__: None)
    monkeypatch.setattr(model.module.prior, "place", see_and_place)
    train(model, 3, plan_kwargs={**FROZEN, "placement_interval": None}, mixture_start=1)
    assert len(seen) == 3
    for z, spread, covariance in seen:
        torch.testing.assert_close(z, model.module.representations.table)
        expected = covariance if covariance_type == "full" else covariance.diagonal(dim1=1, dim2=2)
        torch.testing.assert_close(spread, expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("covariance_type", ["tied_diag", "full"])
def test_steps_of_the_mixture_end_at_a_stationary_point_of_the_evidence(adata, covariance_type):
    """With one component, where EM has no shares to choose, and everything else held."""
    model = make_model(adata, n_components=1, prior_kwargs={"covariance_type": covariance_type, "pseudo_count": 0.0})
    train(model, 4, plan_kwargs=ALL_GENES)
    module, tensors = model.module.double(), cells_of(model)
    prior, z = module.prior, module.representations.table
    parameters = [prior.means, prior.log_var, *([prior.couplings] if covariance_type == "full" else [])]
    for _ in range(100):
        with torch.no_grad():
            prior.em_step(z, posterior_var=laplace_term(module, tensors, z).covariance)
    joint = prior.log_prob(z).mean()
    evidence = joint + laplace_term(module, tensors, z).log_volume.mean()
    assert max(g.abs().max() for g in torch.autograd.grad(evidence, parameters, retain_graph=True)) < 1e-5
    assert max(g.abs().max() for g in torch.autograd.grad(joint, parameters)) > 0.02


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_latent_space_keeps_its_scale(seed):
    """Widths of components from their placement to the end: without the term they fall, and would go on to do so."""

    class Widths(Callback):
        def __init__(self) -> None:
            self.of_epoch = []

        def on_train_epoch_end(self, trainer, plan) -> None:
            self.of_epoch.append(plan.module.prior.variances.sqrt().mean().item())

    ratios = []
    for cls in (SCDGD, LaplaceSCDGD):
        scvi.settings.seed = seed
        widths = Widths()
        train(make_model(simulate(seed=seed), cls), 40, mixture_start=15, batch_size=32, callbacks=[widths])
        ratios.append(widths.of_epoch[-1] / widths.of_epoch[15])
    assert ratios[0] < 0.85
    assert 0.93 < ratios[1] < 1.15


def test_each_minibatch_draws_its_genes(adata, monkeypatch):
    seeds, n_genes = [], set()

    def recorded(module, tensors, z, n, seed):
        seeds.append(seed)
        n_genes.add(n)
        return laplace_term(module, tensors, z, n, seed)

    monkeypatch.setattr(_laplace_plan, "laplace_term", recorded)
    train(make_model(adata), 3, batch_size=50, plan_kwargs={"n_laplace_genes": 7})
    assert len(seeds) == len(set(seeds)) == 9
    assert n_genes == {7}


@pytest.mark.parametrize(
    ("options", "training"),
    [
        ({}, {"train_size": 0.8, "check_val_every_n_epoch": 1}),
        ({}, {"plan_kwargs": {"prior_update": "gradient"}}),
        ({"prior": "softball", "hyperprior_weight": {"log_var": "once"}}, {}),
        ({"output_activation": "sigmoid", "gene_likelihood": "poisson", "dispersion": "gene-batch"}, {}),
    ],
    ids=str,
)
def test_trains_in_every_setting(options, training):
    model = train(make_model(simulate(n_batches=2), **options), 4, **training)
    assert all(np.isfinite(frame.to_numpy(float)).all() for frame in model.history.values())
    assert ("elbo_validation" in model.history) == ("train_size" in training)
    assert model.get_latent_representation().shape == (150, 4)


@pytest.mark.parametrize("name", ALL_LIKELIHOODS)
def test_trains_with_every_family(name):
    adata = simulate(40, 10, n_batches=2)
    adata.X = adata.X if name in LIKELIHOODS else (adata.X > 0).astype(np.float32)
    LaplaceSCDGD.setup_anndata(adata, batch_key="batch", is_count_data=not ALL_LIKELIHOODS[name].is_real)
    model = LaplaceSCDGD(adata, n_components=2, n_latent=2, n_hidden=8, noise_scale=0.0, gene_likelihood=name)
    train(model, 2, plan_kwargs={"n_laplace_genes": 6})
    assert np.isfinite(model.history["elbo_train"].to_numpy(float)).all()


def test_held_out_cells_touch_nothing_that_is_shared(adata):
    """Decoder and mixture are the same whatever the counts of validation cells."""
    split = {"datasplitter_kwargs": {"external_indexing": [np.arange(100), np.arange(100, 150)]}}
    other = adata.copy()
    other.X = sparse.vstack([adata.X[:100], adata.X[100:][:, ::-1]], format="csr")
    states = []
    for cells in (adata, other):
        scvi.settings.seed = 0
        model = train(make_model(cells), 3, check_val_every_n_epoch=1, plan_kwargs=ALL_GENES, **split)
        states.append(state_of(model))
    table, other_table = (state.pop("representations.table") for state in states)
    assert torch.equal(table[:100], other_table[:100])
    assert not torch.equal(table[100:], other_table[100:])
    for key, value in states[0].items():
        assert torch.equal(value, states[1][key]), key


class _Stop(Callback):
    def on_train_batch_start(self, trainer, plan, batch, batch_idx):
        if (trainer.current_epoch, batch_idx) == (5, 1):
            raise KeyboardInterrupt


def test_a_resumed_training_ends_as_if_never_interrupted(tmp_path):
    def fresh() -> SCDGD:
        scvi.settings.seed = 0
        return make_model(simulate())

    training = {"batch_size": 40, "mixture_start": 3, "plan_kwargs": {"placement_interval": 2}}
    whole = state_of(train(fresh(), 7, **training))
    checkpoints = {"checkpoint_dir": tmp_path / "c", "checkpoint_every_n_epochs": 2}
    train(fresh(), 7, callbacks=[_Stop()], **checkpoints, **training)
    resumed = state_of(train(fresh(), 7, **checkpoints, **training))
    for key, value in whole.items():
        assert torch.equal(value, resumed[key]), key


def test_errors_say_what_to_do(adata):
    with pytest.raises(ValueError, match=r"`noise_scale=0`, got 0\.6"):
        train(make_model(adata, noise_scale=0.6))
    with pytest.raises(ValueError, match="`n_laplace_genes` must be a positive integer, got 0"):
        train(make_model(adata), plan_kwargs={"n_laplace_genes": 0})
    SCVAD.setup_anndata(adata)
    with pytest.raises(ValueError, match="Gaussian rows learn variances"):
        LaplacePlan(SCVAD(adata, n_components=3).module)


def test_train_takes_the_plan(tmp_path):
    """By name of the class; the saved model is a plain one, and training goes on with the plan that it had."""
    adata = simulate(60, 12)
    model = train(make_model(adata, SCDGD), 2, plan_cls=LaplacePlan)
    assert isinstance(model.trainer.lightning_module, LaplacePlan)
    assert isinstance(train(model, 1).trainer.lightning_module, LaplacePlan)
    model.save(tmp_path / "model")
    loaded = SCDGD.load(tmp_path / "model", adata=adata)
    assert type(loaded) is SCDGD
    np.testing.assert_array_equal(loaded.get_latent_representation(), model.get_latent_representation())
