"""The published form: settings, schedule, and the faults of the public code."""

from __future__ import annotations

import numpy as np
import scvi
import torch

from scdgd import presets
from scdgd.model import SCDGD
from tests.conftest import make_model, simulate, train


def test_presets_equal_the_published_values():
    paper, code = presets.SCHUSTER_2023, presets.SCHUSTER_2023_CODE
    expected_model = {
        "n_components": "labels",
        "n_latent": 20,
        "n_hidden": 100,
        "n_layers": 3,
        "activation": "relu",
        "size_factor": "max",
        "output_activation": "sigmoid",
        "dispersion_floor": 0,
        "prior": "softball",
        "noise_scale": 0.0,
    }
    assert {key: paper["model"][key] for key in expected_model} == expected_model
    assert paper["model"]["prior_kwargs"] == {
        "covariance_type": "diag",
        "concentration": 1.0,
        "scale": 1.0,
        "sharpness": 1.0,
    }
    plan = paper["train"]["plan_kwargs"]
    assert (plan["lr"], plan["lr_z"], plan["lr_prior"]) == (1e-3, 1e-2, 1e-2)
    assert plan["betas"] == plan["betas_z"] == (0.5, 0.7)
    assert (plan["lr_drop_epoch"], plan["lr_drop_factor"]) == (500, 0.1)
    assert (plan["weight_decay"], plan["weight_decay_z"], plan["weight_decay_prior"]) == (1e-4, 0, 0)
    assert paper["train"]["max_epochs"] == 800
    assert paper["train"]["warm_start"] == "zeros"
    assert paper["model"]["new_cells"] == {"n_steps": 10, "lr": 1e-2, "betas": (0.5, 0.7), "anneal": False}
    assert set(paper["model"]["hyperprior_weight"].values()) == {"per_cell"}
    code_plan = code["train"]["plan_kwargs"]
    assert (code["model"]["output_activation"], code["model"]["dispersion_floor"]) == ("softplus", 1)
    assert (code_plan["weight_decay"], code_plan["weight_decay_z"], code_plan["weight_decay_prior"]) == (1e-4,) * 3
    assert (code["train"]["max_epochs"], code["train"]["batch_size"], code_plan["lr_drop_epoch"]) == (500, 256, 300)


def test_supervised_presets_are_the_others_with_a_component_for_each_class(adata):
    supervised = {"supervision": "components", "components_per_class": 1}
    for preset, of_labels, unlabelled in (
        (presets.SCHUSTER_2023_SUPERVISED, presets.SCHUSTER_2023, {}),
        (presets.SCHUSTER_2023_SUPERVISED_CODE, presets.SCHUSTER_2023_CODE, {"unlabeled_category": 999}),
    ):
        assert preset == {
            "setup": unlabelled,
            "model": {**of_labels["model"], **supervised},
            "train": of_labels["train"],
        }
        assert supervised.keys().isdisjoint(of_labels["model"])
    adata.obs["code"] = adata.obs["cell_type"].cat.codes.astype(int)
    adata.obs.loc[adata.obs_names[20:], "code"] = 999
    preset = presets.SCHUSTER_2023_SUPERVISED_CODE
    SCDGD.setup_anndata(adata, labels_key="code", **preset["setup"])
    model = SCDGD(adata, **preset["model"])
    assert model.module.prior.classes.owner.tolist() == [0, 1, 2]
    train(model, 3, **{name: value for name, value in preset["train"].items() if name != "max_epochs"})
    assert model.labelled_rows_.sum() == 20
    assert set(model.predict()) <= {0, 1, 2}


def test_published_start(adata):
    """theta = 2, z = 0, components of sd 0.2 / k inside the unit ball, equal weights."""
    for preset in (presets.SCHUSTER_2023, presets.SCHUSTER_2023_CODE):
        SCDGD.setup_anndata(adata, labels_key="cell_type")
        module = SCDGD(adata, **preset["model"]).module
        np.testing.assert_allclose(module.log_theta.exp().detach(), 2, rtol=1e-6)
        assert (module.representations.table == 0).all()
        np.testing.assert_allclose(module.prior.variances.detach().sqrt(), 0.2 / 3, rtol=1e-6)
        assert module.prior.means.norm(dim=1).max() <= 1
        np.testing.assert_allclose(module.prior.weights.detach(), 1 / 3, rtol=1e-6)


def test_schedule_equals_a_reference_loop(adata):
    """The published algorithm written down plainly: z collects gradients over the epoch and steps at its end."""
    n_epochs, batch_size = 3, 32
    SCDGD.setup_anndata(adata, labels_key="cell_type")
    model = SCDGD(adata, **presets.SCHUSTER_2023_CODE["model"])
    module, start = model.module, {k: v.clone() for k, v in model.module.state_dict().items()}
    order = []

    class Recorder(SCDGD._training_plan_cls):
        def training_step(self, batch, batch_idx):
            order.append(batch["ind_x"].ravel().clone())
            return super().training_step(batch, batch_idx)

    model._training_plan_cls = Recorder
    options = {**presets.SCHUSTER_2023_CODE["train"], "max_epochs": n_epochs, "batch_size": batch_size}
    options["plan_kwargs"] = {**options["plan_kwargs"], "lr_drop_epoch": 2}
    model.train(**options, accelerator="cpu", enable_progress_bar=False)
    trained = {k: v.clone() for k, v in module.state_dict().items()}

    module.load_state_dict(start)
    x, n, k, d = torch.as_tensor(adata.X.toarray()), 150, 3, 20
    z = torch.zeros(n, d, requires_grad=True)
    hidden = [layer[0] for layer in module.decoder.hidden.fc_layers]
    decoder = [*module.decoder.parameters(), module.family_parameters.log_theta]
    adam = {"betas": (0.5, 0.7), "weight_decay": 1e-4}
    step_decoder = torch.optim.Adam(decoder, lr=1e-3, **adam)
    step_prior = torch.optim.Adam(module.prior.parameters(), lr=1e-2, **adam)
    step_z = torch.optim.Adam([z], lr=1e-2, **adam)
    batches = iter(order)
    for epoch in range(n_epochs):
        if epoch == 2:  # both are made anew
            step_decoder = torch.optim.Adam(decoder, lr=1e-4, **adam)
            step_prior = torch.optim.Adam(module.prior.parameters(), lr=1e-2, **adam)
        step_z.zero_grad()
        for _ in range(-(-n // batch_size)):
            rows = next(batches)
            h = z[rows]
            for layer in hidden:
                h = torch.relu(layer(h))
            mu = x[rows].max(dim=1, keepdim=True).values * torch.nn.functional.softplus(module.decoder.output(h))
            theta = 1 + module.family_parameters.log_theta.exp()
            nb = torch.distributions.NegativeBinomial(theta, logits=mu.log() - theta.log()).log_prob(x[rows])
            prior = module.prior
            normal = torch.distributions.Independent(
                torch.distributions.Normal(prior.means, (0.5 * prior.log_var).exp()), 1
            )
            mixture = torch.distributions.MixtureSameFamily(
                torch.distributions.Categorical(logits=prior.weight_logits), normal
            )
            ball = (
                torch.lgamma(torch.tensor(1 + d / 2))
                - d / 2 * np.log(np.pi)
                - torch.log1p((prior.means.norm(dim=1) - 1).exp())
            )
            log_var = torch.distributions.Normal(2 * np.log(0.2 / k), 1).log_prob(prior.log_var)
            loss = -(nb.sum() + mixture.log_prob(z[rows]).sum() + len(rows) * (ball.sum() + log_var.sum()))
            step_decoder.zero_grad()
            step_prior.zero_grad()
            loss.backward()
            step_decoder.step()
            step_prior.step()
        step_z.step()
    assert next(batches, None) is None
    np.testing.assert_allclose(trained["representations.table"], z.detach(), atol=2e-4)
    for name, parameter in module.named_parameters():
        np.testing.assert_allclose(trained[name], parameter.detach(), atol=2e-4, err_msg=name)


def test_scale_degeneracy_of_the_joint_density(adata):
    """models.md 5.6: shrinking z, means and widths while the first layer grows leaves the likelihood and gains n d t."""
    model = make_model(adata, prior="softball", noise_scale=0.0)
    train(model, 2, warm_start="zeros")
    module, t = model.module, 0.3
    before_rec = model.get_reconstruction_error()["reconstruction_loss"]
    z = module.representations.table
    before = module.prior.log_prob(z).sum().item()
    with torch.no_grad():
        first = module.decoder.hidden.fc_layers[0][0]
        z.mul_(np.exp(-t))
        module.prior.means.mul_(np.exp(-t))
        module.prior.log_var.sub_(2 * t)
        first.weight[:, :4].mul_(np.exp(t))
    np.testing.assert_allclose(model.get_reconstruction_error()["reconstruction_loss"], before_rec, rtol=1e-5)
    np.testing.assert_allclose(module.prior.log_prob(z).sum().item() - before, 150 * 4 * t, rtol=1e-3)


def test_published_preset_trains_on_any_seed():
    for seed in range(2):
        scvi.settings.seed = seed
        adata = simulate(seed=seed)
        SCDGD.setup_anndata(adata, labels_key="cell_type")
        model = SCDGD(adata, **presets.SCHUSTER_2023["model"])
        model.train(**{**presets.SCHUSTER_2023["train"], "max_epochs": 5}, accelerator="cpu", enable_progress_bar=False)
        assert np.isfinite(model.get_latent_representation()).all()
        query = simulate(20, seed=seed + 7)
        query.obs_names = "new_" + query.obs_names
        assert model.get_latent_representation(query).shape == (20, 20)


def test_a_softball_mixture_is_placed_once(adata):
    """A later k-means would undo what the mixture has learned."""
    model = make_model(adata, prior="softball", prior_kwargs={"initial_means": "kmeans"}, noise_scale=0.0)
    train(model, 3)
    prior = model.module.prior
    before = {name: value.clone() for name, value in prior.state_dict().items()}
    prior.place(torch.randn(60, prior.n_latent))
    assert all(torch.equal(value, prior.state_dict()[name]) for name, value in before.items())
    assert prior.is_placed
