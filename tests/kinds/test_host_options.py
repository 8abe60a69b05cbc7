"""Options of scvi-tools that a model lacks: what says what is so anyway is taken, the rest is refused in words, on all models."""

from __future__ import annotations

import inspect

import numpy as np
import pytest
import torch
from scvi.model import SCVI
from scvi.module import VAE

from scdgd._absent_options import Absent, check_absent, without
from tests.model.test_contract import data

from .models import OURS, ROWS, assert_same_state, built, every_model, state_of, trained

#: What scvi-tools' model gives its module itself.
_NOT_OF_USERS = {
    "self", "adata", "registry", "kwargs", "n_input", "n_batch", "n_labels", "n_continuous_cov", "n_cats_per_cov",
    "library_log_means", "library_log_vars", "use_size_factor_key",
}  # fmt: skip
#: Options of the stock model.
OF_STOCK = [
    name
    for name in {**inspect.signature(SCVI.__init__).parameters, **inspect.signature(VAE.__init__).parameters}
    if name not in _NOT_OF_USERS
]


def absent_of(model_class: type) -> dict[str, Absent]:
    """Options that a constructor lacks, or one that it hands them on to."""
    found = [getattr(vars(kind).get("__init__"), "absent", {}) for kind in reversed(model_class.__mro__)]
    return {name: absent for options in found for name, absent in options.items()}


@every_model
def test_what_is_so_anyway_is_taken(name):
    """The model is the same, bit for bit."""
    plain, adata = built(name, data()[0]), data()[0]
    for option, absent in absent_of(OURS[name][0]).items():
        for value in absent.says[: 2 if option == "encode_covariates" else 1]:
            assert_same_state(state_of(plain), state_of(built(name, adata, **{option: value})))


@every_model
def test_anything_else_is_refused(name):
    """With the option, its value and a reason."""
    adata = data()[0]
    for option in absent_of(OURS[name][0]):
        with pytest.raises(ValueError, match=f"`{option}='nothing of the kind'` [a-z].*\\.$"):
            built(name, adata, **{option: "nothing of the kind"})


@every_model
def test_no_option_of_the_stock_model_is_unknown(name):
    """Whatever it may be, the message is not that there is no such argument."""
    adata = data()[0]
    for option in OF_STOCK:
        with pytest.raises((TypeError, ValueError)) as error:
            built(name, adata, **{option: object()})
        assert "is not an argument" not in str(error.value)
        assert option in str(error.value)


@pytest.mark.parametrize("name", ROWS)
@pytest.mark.parametrize("dispersion", ["gene-cell", "gene-label"])
def test_dispersions_of_encoders(name, dispersion):
    with pytest.raises(ValueError, match=f"`dispersion='{dispersion}'` (makes|gives) .* Use 'gene' or 'gene-batch'"):
        built(name, data()[0], dispersion=dispersion)


def test_flags_are_no_numbers():
    zero = Absent("drops units.", (0,))
    assert check_absent({"rate": zero}, {"rate": np.float32(0), "other": 1}) == {"other": 1}
    with pytest.raises(ValueError, match="`rate=False` drops units"):
        zero("rate", False)


def test_a_function_without_an_option():
    @without(extra=Absent("is not here.", (None, "none")))
    def function(value, *, other=2):
        return value, other

    assert function(1, extra="none", other=3) == function(1, other=3, extra=None) == (1, 3)
    assert list(inspect.signature(function).parameters) == ["value", "other"]
    with pytest.raises(ValueError, match="`extra='some'` is not here"):
        function(1, extra="some")


#: Of reading methods, what scvi-tools' take; they give the same as without.
READINGS = {
    "representations": lambda m, a, **more: m.get_latent_representation(a, **more),
    "sizes": lambda m, a, **more: m.get_latent_library_size(a, **more),
    "parameters": lambda m, a, **more: m.get_likelihood_parameters(a, **more)["mean"],
    "errors": lambda m, a, **more: m.get_reconstruction_error(a, data_loader_kwargs=more)["reconstruction_loss"],
}


@every_model
@pytest.mark.filterwarnings("ignore:Representations of .* cells")
def test_arguments_of_loaders(name):
    """`num_workers` and its like; a name that loaders do not have is refused with the nearest."""
    model, new = trained(name)
    for read in READINGS.values():
        given = []
        for more in ({}, {"num_workers": 0}):
            torch.manual_seed(0)
            given.append(np.asarray(read(model, new, **more)))
        np.testing.assert_array_equal(*given)
        with pytest.raises(TypeError, match="'num_worker' is not .* Is it 'num_workers'"):
            read(model, new, num_worker=0)
    few = {"n_mc_samples": 3, "data_loader_kwargs": {"num_workers": 0}}
    assert np.isfinite(model.get_marginal_ll(new, **few))


@pytest.mark.parametrize("name", ["SCDBM", "SCVMM", "SCDGD"])
def test_minibatches_in_the_place_of_cells(name):
    model, _ = trained(name)
    given = list(model._make_data_loader(model.adata, batch_size=7))
    for read in (
        lambda **cells: model.get_latent_representation(**cells),
        lambda **cells: model.get_latent_library_size(**cells),
        lambda **cells: model.get_reconstruction_error(**cells)["reconstruction_loss"],
        lambda **cells: model.get_elbo(**cells) if name == "SCDBM" else 0.0,  # of random draws
    ):
        np.testing.assert_allclose(read(dataloader=given), read(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["SCDGD", "SCVAD"])
def test_minibatches_know_the_rows_of_their_cells(name):
    model, new = trained(name)
    model.get_latent_representation(new)
    given = model._make_data_loader(new, batch_size=7)  # a loader that is read draws a seed, as with cells
    for read in (
        lambda **cells: model.get_latent_representation(give_mean=False, **cells),
        lambda **cells: model.get_latent_representation(return_dist=True, **cells),
        lambda **cells: model.get_latent_representation(return_dist=True, coordinates="information", **cells),
        lambda **cells: model.get_marginal_ll(n_mc_samples=20, return_mean=False, **cells),
    ):
        torch.manual_seed(0)
        of_minibatches = read(dataloader=given)
        torch.manual_seed(0)
        np.testing.assert_allclose(of_minibatches, read(adata=new, batch_size=7), rtol=1e-4, atol=1e-5)
        with pytest.raises(ValueError, match="gives none"):
            read(dataloader=iter(()))
        with pytest.raises(ValueError, match="leave out `adata`"):
            read(dataloader=given, adata=new)


@every_model
def test_query_without_data(name):
    model, new = trained(name)
    with pytest.raises(
        (NotImplementedError, ValueError), match="`datamodule=<object.*Pass `adata`|needs no query training"
    ):
        type(model).load_query_data(new, model, datamodule=object())
