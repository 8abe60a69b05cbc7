"""Every family in a model with a table: training, new cells, posterior, samples, scores, files."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from scdgd.data import SparseCounts
from scdgd.datasets import simulate
from scdgd.inference import GaussNewtonConfig, fisher_information, gauss_newton
from scdgd.likelihood import LIKELIHOODS
from scdgd.metrics import held_out_log_likelihood
from scdgd.metrics._count_splitting import conditional_of_other_half
from scdgd.model import SCDGD
from scdgd.module import DGDModule
from scdgd.prior import GaussianMixture

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}
INFLATED = ("zinb", "zip")


@pytest.fixture(scope="module")
def adata():
    return simulate(200, 40, seed=0)


#: What the others share, and what each has of its own, is in these.
_QUICK = ("nb", "zip", "constrained_poisson")
_ROWS = [pytest.param(name, marks=() if name in _QUICK else pytest.mark.slow) for name in LIKELIHOODS]


@pytest.fixture(scope="module", params=_ROWS)
def model(request, adata) -> SCDGD:
    SCDGD.setup_anndata(adata)
    torch.manual_seed(0)
    model = SCDGD(adata, n_components=3, n_latent=3, n_hidden=16, gene_likelihood=request.param)
    model.train(8, **QUIET)
    return model


def names_of(model: SCDGD) -> tuple[str, ...]:
    return LIKELIHOODS[model.module.gene_likelihood].parameter_names


def new_cells(n: int):
    cells = simulate(200, 40, seed=0)[:n].copy()
    cells.obs_names = [f"new_{i}" for i in range(n)]
    return cells


def test_training_moves_what_the_family_has(model):
    history = model.history["elbo_train"].to_numpy().ravel()
    assert history[-1] < history[0]
    module = model.module
    assert hasattr(module.family_parameters, "zi_logits") == ("zi_logits" in names_of(model))
    if "zi_logits" in names_of(model):
        assert module.family_parameters.zi_logits.shape == (40,)
        assert (module.family_parameters.zi_logits != -2).all()
    if "log_theta" in names_of(model):
        assert (module.family_parameters.log_theta.detach() != np.log(2)).any()


def test_parameters(model):
    parameters = model.get_likelihood_parameters()
    keys = {"log_theta": "dispersions", "zi_logits": "dropout"}
    assert set(parameters) == {"mean", *(keys[name] for name in names_of(model))}
    assert all(p.shape == (200, 40) for p in parameters.values())
    np.testing.assert_allclose(parameters["mean"].sum(1), np.asarray(model.adata.X.sum(1)).ravel(), rtol=1e-4)
    if "dropout" in parameters:
        expected = model.module.family_parameters.zi_logits.sigmoid().detach().numpy()
        np.testing.assert_allclose(parameters["dropout"], np.broadcast_to(expected, (200, 40)), rtol=1e-6)
    several = model.get_likelihood_parameters(indices=[0, 5], n_samples=3)
    assert all(p.shape == (3, 2, 40) for p in several.values())
    average = model.get_likelihood_parameters(indices=[0, 5], n_samples=3, give_mean=True)
    assert all(p.shape == (2, 40) for p in average.values())


def test_gauss_newton_finds_a_maximum(model):
    """No row of the table has a larger joint density, and there is no slope left."""
    module, tensors = model.module, next(iter(model._make_data_loader(model.adata, batch_size=100)))
    found = gauss_newton(module, tensors, config=GaussNewtonConfig(n_starts=3, tolerance=1e-3, n_genes=None))
    assert found.converged.all()
    rows = module.representations(tensors["ind_x"].ravel()).detach()
    slopes, values = [], []
    for z in (found.z, rows):
        z = z.clone().requires_grad_()
        library = tensors["X"].totals().log().unsqueeze(1)
        px = module.generative(z, library, tensors["batch"])["px"]
        value = -(px.log_prob(tensors["X"]) + module.prior.log_prob(z))
        slopes.append(torch.autograd.grad(value.sum(), z)[0].norm(dim=1))
        values.append(value.detach())
    assert (values[0] <= values[1] + 0.01).float().mean() > 0.95  # a start may end in another maximum
    assert slopes[0].median() < slopes[1].median() / 10


@pytest.mark.filterwarnings("ignore:.* have the counts of training cells but other names")
def test_new_cells(model):
    assert model.get_latent_representation(new_cells(40)).shape == (40, 3)


@pytest.mark.filterwarnings("ignore:.* have the counts of training cells but other names")
def test_posterior_and_samples(model):
    mean, variance = model.get_latent_representation(new_cells(10), return_dist=True)
    assert mean.shape == variance.shape == (10, 3)
    assert (variance > 0).all()
    counts = model.posterior_predictive_sample(n_samples=2).todense()
    assert counts.shape == (200, 40, 2)
    assert (counts == counts.round()).all()
    assert np.isfinite(model.get_marginal_ll(new_cells(10), n_mc_samples=20))
    samples = model.prior_predictive_sample(300, seed=0, library_size=500.0)
    assert samples.X.sum(1).mean() == pytest.approx(500, rel=0.1)


@pytest.mark.parametrize("form", ["plug_in", "predictive"])
def test_held_out_score(model, form):
    score = held_out_log_likelihood(model, new_cells(20), form=form, n_samples=20, seed=1)
    assert np.isfinite(score.per_cell).all()
    assert score.log_likelihood < 0


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_law_of_a_half_completes_the_joint(name):
    """Binomial parts of a count: the law of one given the other, times that of the other, is the joint."""
    mu, epsilon = 3.0, 0.4
    first, second = (t.ravel().double().unsqueeze(1) for t in torch.meshgrid(*[torch.arange(12)] * 2, indexing="ij"))
    parameters = [
        torch.full((len(first), 1), p).double() for p in (0.7, -0.5)[-len(LIKELIHOODS[name].parameter_names) :]
    ]
    parameters = parameters if LIKELIHOODS[name].parameter_names else []
    of = lambda mean: LIKELIHOODS[name](torch.full_like(first, mean).log(), *parameters)
    split = torch.distributions.Binomial(
        first + second, torch.tensor(epsilon, dtype=torch.float64), validate_args=False
    )
    joint = of(mu).log_prob(first + second) + split.log_prob(first).squeeze(1)
    expected = joint - of(epsilon * mu).log_prob(first)
    conditional = conditional_of_other_half(of(epsilon * mu), first, epsilon)
    torch.testing.assert_close(conditional.log_prob(second), expected, rtol=1e-9, atol=1e-9)
    both = conditional.log_kernel(SparseCounts.from_dense(second)) + conditional.log_constant(
        SparseCounts.from_dense(second)
    )
    torch.testing.assert_close(both, expected, rtol=1e-9, atol=1e-9)


def test_saved_and_loaded(model, adata, tmp_path):
    model.save(tmp_path / "model")
    loaded = SCDGD.load(tmp_path / "model", adata=adata)
    np.testing.assert_array_equal(loaded.get_latent_representation(), model.get_latent_representation())
    for name, parameter in model.get_likelihood_parameters().items():
        np.testing.assert_array_equal(loaded.get_likelihood_parameters()[name], parameter)


@pytest.mark.parametrize("dispersion", ["gene", "gene-batch"])
def test_batches(dispersion):
    adata = simulate(80, 30, seed=1)
    adata.obs["donor"] = np.where(np.arange(80) % 2, "a", "b")
    SCDGD.setup_anndata(adata, batch_key="donor")
    model = SCDGD(adata, n_components=2, n_latent=2, n_hidden=8, gene_likelihood="zinb", dispersion=dispersion)
    model.train(3, **QUIET)
    parameters = model.get_likelihood_parameters()
    per_cell = len(np.unique(parameters["dispersions"], axis=0))
    assert per_cell == (2 if dispersion == "gene-batch" else 1)
    assert len(np.unique(parameters["dropout"], axis=0)) == 1


def test_dispersions_of_cells_are_refused_with_the_reason(adata):
    SCDGD.setup_anndata(adata)
    with pytest.raises(ValueError, match="found as if they did not"):
        SCDGD(adata, dispersion="gene-cell")


def one_cell(name: str, b: int) -> tuple[DGDModule, dict, torch.Tensor]:
    """A decoder in double, and one cell in `b` copies."""
    torch.manual_seed(0)
    module = DGDModule(8, b, GaussianMixture(2, 2), gene_likelihood=name, n_hidden=6).double().eval()
    torch.nn.init.normal_(module.decoder.output.weight)
    if name in INFLATED:
        torch.nn.init.uniform_(module.family_parameters.zi_logits, -2, 1)
    counts = torch.poisson(torch.full((1, 8), 4.0, dtype=torch.float64)).expand(b, -1)
    cells = torch.arange(b).unsqueeze(1)
    tensors = {"X": SparseCounts.from_dense(counts), "batch": torch.zeros(b, 1), "ind_x": cells}
    return module, tensors, torch.tensor([0.3, -0.7], dtype=torch.float64).expand(b, -1)


@pytest.mark.parametrize("name", ["nb", "zinb", "poisson", "zip"])
def test_fisher_information_is_that_of_scores(name):
    r"""What Gauss-Newton steps with is :math:`\mathbb E[\nabla\ell\, \nabla\ell^\top]` over counts of the family."""
    n = 40_000
    module, tensors, z = one_cell(name, n)
    library = tensors["X"].totals().log().unsqueeze(1)
    z = z.clone().requires_grad_()
    px = module.generative(z, library, tensors["batch"])["px"]
    (scores,) = torch.autograd.grad(px.log_prob(px.sample().detach()).sum(), z)
    outer = scores.unsqueeze(2) * scores.unsqueeze(1)
    single, few = one_cell(name, 1)[:2], z.detach()[:1]
    expected = fisher_information(*single, few)[0] - module.prior.precision(few)[0]
    error = (outer.mean(0) - expected).abs() / (outer.std(0) / n**0.5)
    assert (error < 5).all()
    assert (scores.mean(0).abs() < 5 * scores.std(0) / n**0.5).all()


@pytest.mark.slow
@pytest.mark.parametrize("name", INFLATED)
def test_structural_zeros_are_recovered(name):
    """Logits of genes that lose half of their counts rise above those of genes that lose none."""
    adata = simulate(2_000, 60, seed=0)
    lost = np.arange(60) % 2 == 0
    rng = np.random.default_rng(0)
    x = adata.X.toarray()
    x[:, lost] *= rng.random((2_000, lost.sum())) < 0.5
    adata.X = type(adata.X)(x)
    SCDGD.setup_anndata(adata)
    model = SCDGD(adata, n_components=3, n_latent=5, gene_likelihood=name)
    model.train(60, **QUIET)
    pi = model.get_likelihood_parameters()["dropout"][0]
    expressed = x.mean(0) > 1
    assert pi[lost & expressed].min() > pi[~lost & expressed].max()
