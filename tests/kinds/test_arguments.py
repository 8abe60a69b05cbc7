"""Kind D: what is checked is what is used; each case of the reports, on all models. `tests/fuzz` has the thousands."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import scdgd
from scdgd.model import SCDBM
from tests.model.test_contract import data
from tests.pairs import pairs

from .models import COMPARED, OURS, ROWS, assert_same_state, built, every_model, fitted, state_of, train, trained

ENCODERS = [name for name in OURS if name not in (*ROWS, "SCDBM")]
every_encoder = pytest.mark.parametrize("name", ENCODERS)


@every_model
def test_numbers_of_any_type(name):
    """NumPy's integers and whole floats are integers."""
    plain = train(built(name, data()[0], {"batch_key": "batch"}), 3, batch_size=12)
    adata, _ = data()
    other = {"SCDBM": {"n_hidden": np.array([3, 2])}}.get(name, {"n_latent": np.int64(3), "n_hidden": 16.0})
    model = train(built(name, adata, {"batch_key": "batch"}, **other), np.int32(3), batch_size=12.0)
    assert_same_state(state_of(plain), state_of(model))
    two = model.get_latent_representation(indices=[1, 2], batch_size=np.float64(2))
    np.testing.assert_allclose(two, model.get_latent_representation()[[1, 2]], rtol=1e-4, atol=1e-5)


@every_model
@pytest.mark.parametrize("wrong", [0, -1, 2.5, "3", True, np.nan, [3]], ids=repr)
def test_epochs_that_are_none(name, wrong):
    model = built(name, data()[0])
    with pytest.raises((TypeError, ValueError), match="`max_epochs` must be a positive integer, got"):
        train(model, wrong)
    assert not model.is_trained_


@every_model
@pytest.mark.parametrize("devices", [2, "2", [0, 1], "0,1", -1.5, "many"], ids=repr)
def test_one_device(name, devices):
    model = built(name, data()[0])
    with pytest.raises((NotImplementedError, ValueError), match="devices"):
        train(model, devices=devices)
    assert not model.is_trained_


@every_model
@pytest.mark.parametrize("devices", ["auto", 1, "1"])
def test_devices_that_are_one(name, devices):
    model = train(built(name, data()[0]), devices=devices)
    assert model.is_trained
    assert model.device == torch.device("cpu")


@every_model
def test_all_train_sizes_of_the_host(name):
    """``None`` is the default: nine tenths, and where cells have rows, all."""
    model = train(built(name, data()[0]), train_size=None)
    n_train = 36 if name in ROWS else 33
    assert len(model.train_indices) == n_train


MANUAL = [name for name in OURS if name in (*ROWS, "SCDBM")]


@pytest.mark.parametrize("name", MANUAL)
def test_what_automatic_steps_need_is_refused_where_steps_are_manual(name):
    model = built(name, data()[0])
    for arguments, match in (
        ({"gradient_clip_val": 1.0}, "`gradient_clip_val` is without effect"),
        ({"accumulate_grad_batches": 2}, "`accumulate_grad_batches` is for automatic steps"),
        ({"plan_kwargs": {"optimizer": "AdamW"}}, "would be without effect|must be one of"),
    ):
        with pytest.raises((TypeError, ValueError), match=match):
            train(model, **arguments)
    assert not model.is_trained_


@every_model
def test_metrics_are_those_of_epochs(name):
    """Those of single steps stand beside them, and change nothing."""
    model = built(name, data()[0])
    with pytest.raises((TypeError, ValueError), match="asks for metrics of single steps|have one of their own"):
        train(model, plan_kwargs={"on_epoch": False})
    if name == "SCDBM":
        with pytest.raises((TypeError, ValueError), match="have one of their own"):
            train(model, plan_kwargs={"on_step": True})
        return
    train(model, plan_kwargs={"on_step": True}, batch_size=20)
    assert len(model.history["train_loss_step"]) > len(model.history["elbo_train_epoch"]) == 3
    without = built(name, data()[0])
    train(without, batch_size=20)
    for metric in ("elbo_train", "reconstruction_loss_train", "train_loss"):
        of_epochs = np.ravel(model.history[f"{metric}_epoch"]).astype(float)
        np.testing.assert_allclose(of_epochs, np.ravel(without.history[metric]).astype(float), rtol=1e-5)
    assert "trained for 3 epochs" in repr(model)
    assert len(scdgd.pl.history(model).lines[0].get_xdata()) == 3


@every_model
@pytest.mark.parametrize("option", [{"fast_dev_run": True}, {"barebones": True}], ids=str)
def test_trainings_that_would_leave_no_history(name, option):
    (argument,) = option
    with pytest.raises(ValueError, match=f"`{argument}` must be one of"):
        train(trained(name)[0], **option)


@every_model
@pytest.mark.parametrize(
    "option",
    [{"precision": "foo"}, {"max_time": 3.5}, {"strategy": "foo"}, {"profiler": 1}, {"logger": "foo"}],
    ids=str,
)
def test_what_lightning_would_refuse_is_refused_before_anything_changes(name, option):
    model = built(name, data()[0])
    before = state_of(model)
    with pytest.raises(
        (TypeError, ValueError), match="`profiler` must be|`logger` must be|Lightning's trainer refuses"
    ):
        train(model, **option)
    assert_same_state(before, state_of(model))
    assert not model.is_trained_


@every_model
def test_names_that_are_nearly_right(name):
    model = built(name, data()[0])
    with pytest.raises(TypeError, match="'batch_sise' is not .*Is it 'batch_size'"):
        train(model, batch_sise=3)
    with pytest.raises(TypeError, match="'lrr' is not an (option in `plan_kwargs`|argument of .*Plan).*'lr'"):
        train(model, plan_kwargs={"lrr": 0})
    with pytest.raises(TypeError, match="'drop_lst' is not an option in `datasplitter_kwargs`.*'drop_last'"):
        train(model, datasplitter_kwargs={"drop_lst": True})
    with pytest.raises(TypeError, match="'bach_key' is not an argument of .*setup_anndata.*'batch_key'"):
        OURS[name][0].setup_anndata(data()[0], bach_key="batch")
    with pytest.raises(TypeError, match="'n_hiden' is not an argument of .*'n_hidden'"):
        built(name, data()[0], n_hiden=3)
    model, _ = trained(name)
    with pytest.raises(TypeError, match="'indcies' is not .*'indices'"):
        model.get_latent_representation(indcies=[1])


@every_model
def test_names_of_columns(name):
    adata, _ = data()
    for key, wrong, match in (
        ("batch_key", ["batch"], r"`batch_key` is one name, got \['batch'\]. Write `batch_key='batch'`"),
        ("batch_key", ("batch", "donor"), "`batch_key` must be the name of one column or None|`batch_key` must be"),
        ("batch_key", "", "`batch_key` must be"),
        ("batch_key", "nope", "There is no column 'nope' for the batch"),
        ("labels_key", "nope", "There is no column 'nope' of labels"),
        ("labels_key", 3, "`labels_key` must be"),
        ("categorical_covariate_keys", "donor", r"`categorical_covariate_keys` is a list of names.*\['donor'\]"),
        ("layer", "nope", "There is no layer 'nope'|no layer"),
    ):
        with pytest.raises((KeyError, TypeError, ValueError), match=match):
            built(name, adata, {key: wrong})


GROUPS = {
    "text": ("cell_type", "type_0"),
    "list": ("cell_type", ["type_0"]),
    "integer": ("number", 1),
    "NumPy's integer": ("number", np.int64(1)),
    "truth value": ("truth", True),
}


@pairs(name=list(OURS), groups=GROUPS, mode=["change", "vanilla"])
def test_groups_by_their_value(name, groups, mode):
    """As a mask of the same cells gives it, and nothing is left behind in the AnnData."""
    model, _ = trained(name)
    adata = model.adata
    adata.obs["number"] = adata.obs["cell_type"].cat.codes.astype(int)
    adata.obs["truth"] = adata.obs["cell_type"] == "type_0"
    column, group = groups
    columns, keys = list(adata.obs), set(adata.uns)
    values = adata.obs[column].astype(str)
    mask = values.isin([str(g) for g in (group if isinstance(group, list) else [group])]).to_numpy()
    options = {"mode": mode, "silent": True, "n_samples_overall": 200}
    tables = []
    for arguments in ({"groupby": column, "group1": group}, {"idx1": mask}):
        torch.manual_seed(0)
        np.random.seed(0)  # noqa: NPY002  scvi-tools draws from it
        tables.append(model.differential_expression(**arguments, **options))
    of_groups = ["comparison", "group1", "group2"]
    first, second = (table.sort_index().drop(columns=of_groups, errors="ignore") for table in tables)
    pd.testing.assert_frame_equal(first, second[first.columns], check_names=False)
    assert list(adata.obs) == columns
    assert set(adata.uns) == keys


CELLS = {
    "positions": lambda a: [0, 1, 2, 3],
    "negative positions": lambda a: [-1, -2],
    "mask": lambda a: (a.obs["cell_type"] == "type_0").to_numpy(),
    "mask of objects": lambda a: (a.obs["cell_type"] == "type_0").to_numpy().astype(object),
    "series": lambda a: a.obs["cell_type"] == "type_0",
    "names": lambda a: list(a.obs_names[:4]),
    "query": lambda a: "cell_type == 'type_0'",
}
WRONG_CELLS = {
    "short mask": (lambda a: [True, False, True], "A mask in `idx1` needs an entry for each of the 36 cells"),
    "outside": (lambda a: [0, 99], r"`idx1` has \[99\], but there are 36 cells"),
    "unknown names": (lambda a: ["cell_0", "nobody"], r"`idx1` names cells \['nobody'\]"),
    "none": (lambda a: [], "`idx1` names no cell"),
    "no query": (lambda a: "nope > 3", "is no query"),
    "fractions": (lambda a: [0.5], "`idx1` must be positions from 0"),
}


@pairs(name=list(OURS), cells=CELLS, other=[None, "rest"])
def test_cells_in_every_form(name, cells, other):
    model, _ = trained(name)
    first = cells(model.adata)
    second = None if other is None else model.adata.obs["cell_type"] == "type_1"
    if second is not None and not isinstance(first, str):
        values = first.to_numpy() if isinstance(first, pd.Series) else np.asarray(first)
        names = (
            values
            if values.dtype.kind == "U"
            else model.adata.obs_names[values.astype(bool) if values.dtype == object else values]
        )
        second = ~model.adata.obs_names.isin(names)
    table = model.differential_expression(idx1=first, idx2=second, silent=True, n_samples_overall=50)
    assert set(table.index) == set(model.adata.var_names)


@pairs(name=list(OURS), wrong=WRONG_CELLS, of=["adata of the model", "other adata"])
def test_cells_that_are_none(name, wrong, of):
    model, new = trained(name)
    cells, match = wrong
    adata = None if of == "adata of the model" else model.adata.copy()
    before = list((model.adata if adata is None else adata).obs)
    with pytest.raises((IndexError, KeyError, TypeError, ValueError), match=match):
        model.differential_expression(adata, idx1=cells(model.adata), silent=True)
    assert list((model.adata if adata is None else adata).obs)[: len(before)] == before


@every_model
def test_comparisons_that_are_none(name):
    model, _ = trained(name)
    for arguments, match in (
        ({}, "group|idx1"),
        ({"groupby": "nope"}, "nope"),
        ({"groupby": "cell_type", "group1": "nope"}, "nope"),
        ({"groupby": "cell_type", "group1": "type_0", "group2": "type_0"}, "type_0"),
        ({"idx1": [0, 1, 2], "idx2": [2, 3]}, "both|twice|overlap"),
        ({**COMPARED, "mode": "chnge"}, "`mode` must be one of"),
        ({**COMPARED, "delta": -1}, "`delta` must be"),
        ({**COMPARED, "fdr_target": 2}, "`fdr_target` must be"),
        ({**COMPARED, "batch_correction": True, "batchid1": ["nope"]}, "nope"),
    ):
        before = list(model.adata.obs)
        with pytest.raises((KeyError, TypeError, ValueError), match=match):
            model.differential_expression(silent=True, **{k: v for k, v in arguments.items() if k != "silent"})
        assert list(model.adata.obs) == before


@every_model
def test_genes_and_batches_by_name(name):
    model, _ = trained(name)
    with pytest.raises(
        TypeError, match=r"`gene_list` is a list of names, got 'gene_1'. Write `gene_list=\['gene_1'\]`"
    ):
        model.get_normalized_expression(gene_list="gene_1")
    with pytest.raises(ValueError, match="nope"):
        model.get_normalized_expression(gene_list=["nope"])
    for wrong in ([], "nope", ["batch_0", "nope"], np.nan):
        with pytest.raises((TypeError, ValueError), match="transform_batch|nope"):
            model.get_normalized_expression(transform_batch=wrong)


@every_encoder
def test_surgery_wants_a_trained_reference(name, tmp_path):
    reference, new = built(name, data()[0], {"batch_key": "batch"}), data()[1]
    with pytest.raises(RuntimeError, match="untrained|not trained|train"):
        type(reference).load_query_data(new, reference, accelerator="cpu")
    with pytest.raises(TypeError, match="`reference_model` must be a"):
        type(reference).load_query_data(new, 3)
    reference = fitted(name, data()[0], {"batch_key": "batch"})
    reference.save(tmp_path / "model")
    for folder in (tmp_path / "model", str(tmp_path / "model")):
        assert type(reference).load_query_data(new.copy(), folder, accelerator="cpu").adata.n_obs == new.n_obs
        assert type(reference).prepare_query_anndata(new.copy(), folder, inplace=False).n_vars == 8


@every_model
def test_paths_are_texts_or_paths(name, tmp_path):
    model, _ = trained(name)
    for i, kind in enumerate((str, Path)):
        folder = kind(tmp_path / str(i))
        model.save(folder)
        again = type(model).load(folder, adata=model.adata, accelerator="cpu")
        assert_same_state(state_of(model), state_of(again))


@pytest.mark.parametrize("name", ["SCDGD", "SCVMM"])
@pytest.mark.parametrize(
    "other",
    [
        {"datasplitter_kwargs": {"drop_last": True}},
        {"limit_train_batches": 1},
        {"plan_kwargs": {"lr": 1e-4}},
        {"batch_size": 9},
    ],
    ids=lambda other: next(iter(other)),
)
def test_a_checkpointed_training_goes_on_with_the_same_options_only(name, other, tmp_path):
    usual = {"batch_size": 12, "checkpoint_dir": tmp_path / "c"}
    train(built(name, data()[0]), 3, **usual)
    with pytest.raises(ValueError, match="holds checkpoints of another training"):
        train(built(name, data()[0]), 3, **usual | other)


def test_rates_of_layers():
    """Of a Boltzmann machine: one for all, or one for each; not by name."""
    for wrong in ({"layer": 1}, (1.0, 2.0), "fast", -1.0):
        with pytest.raises((TypeError, ValueError), match=r"`lr"):
            train(built("SCDBM", data()[0]), plan_kwargs={"lr": wrong})
    train(built("SCDBM", data()[0]), plan_kwargs={"lr": 1e-3})
    assert OURS["SCDBM"][0] is SCDBM
