"""Query data (scArches): new cells and batches train what is theirs, and nothing of the reference moves."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scdgd.model import SCVAMP, SCVMM, FlexSCVI
from tests.conftest import simulate, state_of, train

PRIORS = ("normal", "gaussian_mixture", "dpgmm", "vamp", "vmm", "vade")


def make(adata, setup: dict, cls: type[FlexSCVI] = FlexSCVI, **kwargs) -> FlexSCVI:
    cls.setup_anndata(adata, **setup)
    options = {"n_latent": 3, "n_hidden": 8, "gene_likelihood": "nb", "n_components": 4, **kwargs}
    if options.get("posterior") == "iaf":
        options["posterior_kwargs"] = {"n_steps": 2, "hidden_sizes": (8,)}
    return train(cls(adata, **options), 2)


def query_cells(seed: int = 1, batch: str = "query", n_cells: int = 40):
    adata = simulate(n_cells, 12, seed=seed)
    adata.obs_names = f"{batch}_" + adata.obs_names
    adata.obs["batch"] = batch
    return adata


def reading_of(model: FlexSCVI, adata) -> tuple:
    """What is promised to stay bit for bit: representations of the reference, and the prior."""
    was_trained, model.is_trained_ = model.is_trained_, True  # a query is not, before it is trained
    z = model.get_latent_representation(adata, return_dist=True)
    model.is_trained_ = was_trained
    given = model.module.given_prior()
    with torch.no_grad():
        points = torch.linspace(-3, 3, 21).unsqueeze(1).expand(-1, 3)
        return *z, given.component_means.clone().numpy(), given.log_prob(points).numpy()


def assert_equal(first: tuple, second: tuple) -> None:
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a, b)


CHOICES = [
    *((prior, "normal", encodes, "one-hot") for prior in PRIORS for encodes in (True, False)),
    *((prior, "normal", True, "embedding") for prior in ("normal", "vamp", "vmm")),
    ("gaussian_mixture", "normal", False, "embedding"),
    ("vmm", "iaf", True, "one-hot"),
    ("vamp", "iaf", True, "embedding"),
]


@pytest.mark.parametrize(
    ("prior", "posterior", "encodes", "representation"),
    [pytest.param(*row, marks=() if row[0] in ("normal", "vmm") else pytest.mark.slow) for row in CHOICES],
)
def test_new_batches(prior, posterior, encodes, representation, tmp_path):
    adata = simulate(60, 12, n_batches=2)
    options = {"prior": prior, "posterior": posterior, "encode_covariates": encodes}
    reference = make(adata, {"batch_key": "batch"}, batch_representation=representation, **options)
    expected = reading_of(reference, adata)
    reference.save(tmp_path / "reference")
    from_folder = (str(tmp_path / "reference"),) if prior == "vmm" else ()
    for source in (reference, *from_folder):
        query = query_cells()
        model = FlexSCVI.load_query_data(query, source, accelerator="cpu")
        assert model.module.n_batch == 3
        before = reading_of(model, adata.copy())
        for a, b in zip(before, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        if not encodes:
            assert_equal(before, expected)
        if prior in ("vamp", "vmm") and encodes:
            (weights,) = model.module.prior.pseudo_inputs().categories
            assert weights.shape == (4, 3)
            assert (weights[:, 2] == 0).all()
            torch.testing.assert_close(weights.sum(1), torch.ones(4))
        assert not any(p.requires_grad for p in model.module.prior.parameters())
        prior_before = {key: v for key, v in state_of(model).items() if key.startswith("prior.")}
        with pytest.raises(RuntimeError, match="untrained"):
            model.get_latent_representation()
        train(model, 3, batch_size=20)
        for key, value in prior_before.items():
            assert torch.equal(value, model.module.state_dict()[key]), key
        assert_equal(reading_of(model, adata.copy()), before)
        assert model.get_latent_representation().shape == (40, 3)
        if prior != "normal":
            assert model.get_cluster_assignments().shape == (40,)
        assert np.isfinite(float(model.get_elbo()))
        assert np.isfinite(float(model.get_marginal_ll(n_mc_samples=2)))
        assert set(model.prior_predictive_sample(5, seed=0).obs["batch"]) == {"query"}
    assert_equal(reading_of(reference, adata), expected)


@pytest.mark.parametrize("prior", ["gaussian_mixture", "dpgmm", "vamp", "vmm", "vade"])
def test_the_prior_stays_frozen_in_a_query_that_is_not(prior):
    adata = simulate(60, 12, n_batches=2)
    reference = make(adata, {"batch_key": "batch"}, prior=prior)
    model = FlexSCVI.load_query_data(query_cells(), reference, accelerator="cpu", unfrozen=True)
    before = state_of(model)
    train(model, 3, batch_size=20)
    after = model.module.state_dict()
    for key, value in before.items():
        if key.startswith("prior."):
            assert torch.equal(value, after[key]), key
    assert not torch.equal(before["z_encoder.mean_encoder.weight"], after["z_encoder.mean_encoder.weight"])


@pytest.mark.parametrize("prior", ["vmm", "vamp"])
def test_a_query_of_a_query(prior, tmp_path):
    adata = simulate(60, 12, n_batches=2)
    reference = make(adata, {"batch_key": "batch"}, prior=prior, encode_covariates=True)
    first = train(FlexSCVI.load_query_data(query_cells(1, "first"), reference, accelerator="cpu"), 2, batch_size=20)
    first.save(tmp_path / "first")
    for source in (first, str(tmp_path / "first")):
        second = FlexSCVI.load_query_data(query_cells(2, "second"), source, accelerator="cpu")
        (weights,) = second.module.prior.pseudo_inputs().categories
        assert weights.shape == (4, 4)
        assert (weights[:, 2:] == 0).all()
        before = reading_of(second, adata.copy())
        for a, b in zip(before, reading_of(first, adata.copy()), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        train(second, 2, batch_size=20)
        assert_equal(reading_of(second, adata.copy()), before)


@pytest.mark.parametrize(
    ("prior", "encodes", "representation"),
    [
        ("normal", True, "one-hot"),
        ("gaussian_mixture", False, "one-hot"),
        ("vamp", True, "one-hot"),
        ("vmm", True, "one-hot"),
        ("vmm", True, "embedding"),
        ("vamp", True, "embedding"),
    ],
)
def test_a_reference_of_one_batch(prior, encodes, representation):
    """Its batch had no parameters; those it gets beside the new batch's must not change what it was."""
    adata = simulate(60, 12)
    reference = make(
        adata,
        {"batch_key": "batch"},
        prior=prior,
        encode_covariates=encodes,
        batch_representation=representation,
    )
    expected = reading_of(reference, adata)
    query = query_cells()
    model = FlexSCVI.load_query_data(query, reference, accelerator="cpu")
    before = reading_of(model, adata.copy())
    for a, b in zip(before, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    z, code = torch.linspace(-1, 1, 15).reshape(5, 3), torch.zeros(5, 1, dtype=torch.long)
    with torch.no_grad():
        shares = [m.module.generative(z, torch.ones(5, 1), code)["px"].scale for m in (reference, model)]
    torch.testing.assert_close(*shares, rtol=1e-4, atol=1e-6)
    train(model, 2, batch_size=20)
    assert_equal(reading_of(model, adata.copy()), before)


@pytest.mark.parametrize("prior", ["normal", "vmm"])
def test_new_levels_of_categorical_covariates(prior):
    adata = simulate(60, 12, n_batches=2)
    setup = {"batch_key": "batch", "categorical_covariate_keys": ["donor"], "continuous_covariate_keys": ["age"]}
    reference = make(adata, setup, prior=prior, encode_covariates=True)
    query = query_cells()
    query.obs["donor"] = np.where(np.arange(40) % 2, "donor_0", "donor_new")
    with pytest.raises(ValueError, match="query.*unknown"):
        reference.get_latent_representation(query.copy())
    known = query.copy()
    known.obs["batch"] = "batch_0"
    with pytest.raises(ValueError, match="donor_new.*unknown"):
        reference.get_latent_representation(known)
    model = FlexSCVI.load_query_data(query, reference, accelerator="cpu")
    before = reading_of(model, adata.copy())
    for a, b in zip(before, reading_of(reference, adata), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    if prior == "vmm":
        batch, donor = model.module.prior.pseudo_inputs().categories
        assert batch.shape == donor.shape == (4, 3)
        assert (batch[:, 2] == 0).all()
        assert (donor[:, 2] == 0).all()
    train(model, 2, batch_size=20)
    assert_equal(reading_of(model, adata.copy()), before)


def test_known_batches_and_few_cells():
    """A query needs neither new batches nor as many cells as there are components."""
    adata = simulate(60, 12, n_batches=2)
    reference = make(adata, {"batch_key": "batch"}, cls=SCVMM, n_components=30)
    query = query_cells(n_cells=12)
    query.obs["batch"] = "batch_1"
    model = SCVMM.load_query_data(query, reference, accelerator="cpu")
    assert type(model) is SCVMM
    z = model.module.state_dict()["prior.pseudo_inputs.genes"].clone()
    train(model, 1, batch_size=20)
    assert torch.equal(model.module.state_dict()["prior.pseudo_inputs.genes"], z)


def test_weight_decay_is_off_unless_asked_for():
    adata = simulate(60, 12, n_batches=2)
    reference = make(adata, {"batch_key": "batch"}, prior="vmm", encode_covariates=True)
    decays = []
    for plan in ({}, {"weight_decay": 1e-3}):
        model = FlexSCVI.load_query_data(query_cells(), reference, accelerator="cpu")
        given = dict(plan)
        train(model, 1, batch_size=20, plan_kwargs=plan)
        assert plan == given
        decays.append(model.trainer.optimizers[0].param_groups[0]["weight_decay"])
    assert decays == [0.0, 1e-3]


@pytest.mark.filterwarnings("ignore:Query data contains less than 80% of reference var names")
def test_genes_must_be_those_of_the_reference():
    adata = simulate(60, 12, n_batches=2)
    reference = make(adata, {"batch_key": "batch"})
    query = query_cells()[:, :9].copy()
    padded = FlexSCVI.prepare_query_anndata(query, reference, inplace=False)
    assert list(padded.var_names) == list(adata.var_names)
    model = train(FlexSCVI.load_query_data(padded, reference, accelerator="cpu"), 1, batch_size=20)
    assert model.get_latent_representation().shape == (40, 3)


@pytest.mark.parametrize("representation", ["one-hot", "embedding"])
def test_weights_of_new_batches_train_and_others_do_not(representation):
    adata = simulate(60, 12, n_batches=2)
    options = {"encode_covariates": True, "batch_representation": representation, "prior": "vamp"}
    reference = make(adata, {"batch_key": "batch", "categorical_covariate_keys": ["donor"]}, **options)
    query = query_cells()
    query.obs["batch"] = np.where(np.arange(40) % 2, "query", "batch_1")
    model = FlexSCVI.load_query_data(query, reference, accelerator="cpu")
    before = state_of(model)
    train(model, 2, batch_size=20)
    moved = {key: (value != before[key]) for key, value in model.module.state_dict().items()}
    encoder = moved["z_encoder.encoder.fc_layers.Layer 0.0.weight"]
    if representation == "embedding":
        (rows,) = (value for key, value in moved.items() if "embedding" in key)
        assert rows[2].all()
        assert not rows[:2].any()
        assert not encoder.any()
        return
    assert encoder[:, 14].any()  # 12 genes, two batches, the new one, two donors
    assert not encoder[:, :14].any()
    assert not encoder[:, 15:].any()
    decoder = moved["decoder.px_decoder.fc_layers.Layer 0.0.weight"]
    assert decoder[:, 4:].any(0).all()
    assert not decoder[:, :4].any()  # representations, and a batch that has no cells in the query
    source = reference.module.state_dict()["decoder.px_decoder.fc_layers.Layer 0.0.weight"]
    assert torch.equal(before["decoder.px_decoder.fc_layers.Layer 0.0.weight"][:, [0, 1, 2, 3, 4, 6, 7]], source)


@pytest.mark.parametrize("model_class", [FlexSCVI, SCVMM, SCVAMP])
def test_latent_sizes_come_with_a_saved_model(model_class, tmp_path):
    """Laws of sizes are in the state; data to read them off are not needed. Few cells have few components."""
    adata = simulate(60, 8)
    model_class.setup_anndata(adata, batch_key="batch")
    model = model_class(adata, n_latent=3, n_hidden=8, use_observed_lib_size=False)
    assert model.module.prior.n_components == 12
    model.train(1, accelerator="cpu", enable_progress_bar=False)
    model.save(tmp_path / "model")
    loaded = model_class.load(tmp_path / "model", adata=False, accelerator="cpu")
    assert loaded.module.prior.n_components == 12
    np.testing.assert_allclose(loaded.get_latent_representation(adata), model.get_latent_representation(), rtol=1e-6)
    query = model_class.load_query_data(simulate(20, 8, seed=1), tmp_path / "model", accelerator="cpu")
    assert query.module.prior.n_components == 12
    query.train(1, accelerator="cpu", enable_progress_bar=False)
