"""What models say to questions that make no sense: the same error in words for all of them."""

from __future__ import annotations

import numpy as np
import pytest

from scdgd.model import SCDBM, SCDGD, SCGMVAE, FlexSCVI
from tests.conftest import simulate

MODELS = {
    "SCDGD": (SCDGD, {"n_components": 2, "n_latent": 2, "n_hidden": 4}),
    "FlexSCVI": (FlexSCVI, {"n_components": 2, "n_latent": 2, "n_hidden": 4}),
    "SCGMVAE": (SCGMVAE, {"n_components": 2, "n_latent": 2, "n_hidden": 4}),
    "SCDBM": (SCDBM, {"n_hidden": (2, 2), "n_particles": 4}),
}
READERS = (
    "get_latent_representation",
    "get_cluster_assignments",
    "get_normalized_expression",
    "get_likelihood_parameters",
    "posterior_predictive_sample",
    "get_reconstruction_error",
    "get_marginal_ll",
)
N_CELLS = 30
TRAINING = {"accelerator": "cpu", "enable_progress_bar": False}


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    """A model of each kind after its shortest training."""
    model_class, options = MODELS[request.param]
    adata = simulate(N_CELLS, 6, n_batches=2)
    model_class.setup_anndata(adata, batch_key="batch", labels_key="cell_type")
    fitted = model_class(adata, **options)
    fitted.train(3, **TRAINING)
    return fitted


@pytest.mark.parametrize("reader", READERS)
@pytest.mark.parametrize(
    ("indices", "error", "match"),
    [
        ([], ValueError, "names no cell"),
        (np.zeros(N_CELLS, dtype=bool), ValueError, "names no cell"),
        (np.ones(7, dtype=bool), ValueError, r"each of the 30 cells, got the shape \(7,\)"),
        ([3, 30], IndexError, r"has \[30\], but there are 30 cells"),
        ([0.5], TypeError, "positions from 0, or a mask"),
        (["cell_1"], TypeError, "get_indexer"),
        (3, TypeError, "positions from 0"),
    ],
    ids=["empty", "empty mask", "short mask", "out of range", "fraction", "names", "number"],
)
def test_cells_that_there_are_not(model, reader, indices, error, match):
    with pytest.raises(error, match=match):
        getattr(model, reader)(indices=indices)


def test_masks_and_positions_name_the_same_cells(model):
    mask = np.arange(N_CELLS) % 7 == 2
    by_mask, by_position = (
        model.get_cluster_assignments(indices=cells, soft=True) for cells in (mask, np.flatnonzero(mask))
    )
    np.testing.assert_array_equal(by_mask, by_position)
    assert np.asarray(model.get_normalized_expression(indices=mask, n_samples_overall=3, return_numpy=True)).shape == (
        3,
        6,
    )


@pytest.mark.parametrize("reader", READERS)
def test_data_that_are_none(model, reader):
    with pytest.raises(TypeError, match="must be an AnnData"):
        getattr(model, reader)(np.ones((3, 6)))


@pytest.mark.parametrize(
    ("reader", "options", "match"),
    [
        (
            "get_normalized_expression",
            {"gene_list": ["gene_1", "CD4"]},
            r"\['CD4'\] in `gene_list` are not among the 6",
        ),
        ("get_normalized_expression", {"library_size": -1}, "total above 0 .* or 'latent', got -1"),
        ("get_normalized_expression", {"library_size": "median"}, "total above 0 .* or 'latent', got 'median'"),
        ("get_normalized_expression", {"n_samples": 0}, "`n_samples` must be a positive integer, got 0"),
        ("get_normalized_expression", {"n_samples_overall": 0}, "positive integer, got 0"),
        ("get_normalized_expression", {"weights": "equal"}, "`weights` must be one of"),
        ("get_normalized_expression", {"batch_size": 0}, "`batch_size` must be a positive integer, got 0"),
        ("get_likelihood_parameters", {"n_samples": 0}, "positive integer, got 0"),
        ("posterior_predictive_sample", {"gene_list": ["gene_1", "CD4"]}, r"\['CD4'\]"),
        ("posterior_predictive_sample", {"n_samples": 0}, "positive integer, got 0"),
        ("get_latent_representation", {"batch_size": -1}, "positive integer, got -1"),
        ("differential_expression", {"groupby": "type"}, "`groupby` must be one of the columns"),
        ("differential_expression", {"groupby": "cell_type", "group1": "type_9"}, r"no cells of \['type_9'\]"),
        ("train", {"max_epochs": 0}, "`max_epochs` must be a positive integer, got 0"),
        ("train", {"max_epochs": 2.5}, "positive integer, got 2.5"),
        ("train", {"batch_size": 0}, "`batch_size` must be a positive integer, got 0"),
    ],
)
def test_numbers_and_names_that_are_not_possible(model, reader, options, match):
    with pytest.raises(ValueError, match=match):
        getattr(model, reader)(**options)


@pytest.mark.parametrize("model_class", [SCDGD, FlexSCVI, SCDBM])
def test_setup_of_what_is_no_anndata(model_class):
    with pytest.raises(TypeError, match="must be an AnnData, got a ndarray of shape"):
        model_class.setup_anndata(np.ones((3, 6)))


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize(
    "reader", ["get_latent_representation", "get_normalized_expression", "posterior_predictive_sample"]
)
def test_untrained_models_are_not_read(name, reader):
    model_class, options = MODELS[name]
    adata = simulate(N_CELLS, 6)
    model_class.setup_anndata(adata)
    with pytest.raises(RuntimeError, match="untrained"):
        getattr(model_class(adata, **options), reader)()


@pytest.mark.parametrize("name", ["SCDGD", "FlexSCVI", "SCGMVAE"])
@pytest.mark.parametrize("option", ["n_hidden", "n_layers", "n_latent", "n_components"])
@pytest.mark.parametrize("value", [0, 1.5])
def test_widths_that_are_none(name, option, value):
    model_class, options = MODELS[name]
    adata = simulate(N_CELLS, 6)
    model_class.setup_anndata(adata)
    with pytest.raises(ValueError, match="positive integer|at least one hidden layer"):
        model_class(adata, **{**options, option: value})


def test_sizes_of_a_boltzmann_machine():
    adata = simulate(N_CELLS, 6)
    SCDBM.setup_anndata(adata)
    fitted = SCDBM(adata, n_hidden=2, n_particles=4, use_library_size=True)
    fitted.train(2, estimate_likelihood=False, **TRAINING)
    totals = np.asarray(adata.X.sum(1))
    np.testing.assert_allclose(fitted.get_latent_library_size(), totals / totals.mean(), rtol=1e-5)
