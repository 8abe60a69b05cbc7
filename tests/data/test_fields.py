"""Registry fields through `setup_anndata` and transfer to new cells."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from scdgd._compat import registry_of
from scdgd.data import find_rows
from scdgd.model import SCDGD, FlexSCVI
from tests.conftest import simulate


def transfer(reference: ad.AnnData, query: ad.AnnData, **setup):
    """Set `reference` up and register `query` as it was."""
    SCDGD.setup_anndata(reference, **setup)
    return SCDGD(reference, n_components=2, n_latent=2, n_hidden=4).adata_manager.transfer_fields(query)


# cells


def test_rows_are_found_by_name_in_any_order(reference):
    shuffled = reference[[5, 59, 0, 17]].copy()
    assert transfer(reference, shuffled).rows.tolist() == [5, 59, 0, 17]
    assert transfer(reference, reference).rows.tolist() == list(range(60))


def test_unknown_cells_have_row_minus_one(reference, query):
    both = ad.concat([query[:2], reference[3:5]])
    assert transfer(reference, both).rows.tolist() == [-1, -1, 3, 4]


def test_number_of_rows_is_that_of_the_training_cells_whatever_is_attached(reference, query):
    manager = transfer(reference, query)
    assert manager.summary_stats.n_trained_cells == 60
    assert manager.summary_stats.n_cells == 12


def test_known_name_with_other_counts_is_another_cell(reference):
    other = reference[:5].copy()
    other.X = other.X.toarray()
    other.X[2, 0] += 1
    with pytest.warns(UserWarning, match=r"1 of 5 cells have the name of a training cell .*first: cell_2.*new cells"):
        manager = transfer(reference, other)
    assert manager.rows.tolist() == [0, 1, -1, 3, 4]


def test_find_rows_tells_new_cells_from_collisions():
    state = {"cell_names": np.array(["a", "b", "c"], dtype=object), "cell_fingerprints": np.array([1, 2, 3], np.uint64)}
    names = np.array(["c", "x", "b", "a"], dtype=object)
    found, collides = find_rows(state, names, np.array([3, 1, 9, 1], np.uint64))
    assert found.tolist() == [2, -1, -1, 0]
    assert collides.tolist() == [False, False, True, False]


def test_most_cells_with_the_counts_of_training_cells_and_other_names_are_warned_about(reference, query):
    renamed = reference[:20].copy()
    renamed.obs_names = [f"run2_{name}" for name in renamed.obs_names]
    with pytest.warns(
        UserWarning, match=r"20 of 20 cells have the counts of training cells .*run2_cell_0, in training cell_0"
    ):
        assert (transfer(reference, renamed).rows == -1).all()
    transfer(reference, ad.concat([renamed[:3], query]))  # a few may be alike


@pytest.mark.parametrize("side", ["reference", "query"])
def test_duplicate_cell_names_are_refused(reference, query, side):
    names = [f"cell_{i}" for i in range(60 if side == "reference" else 12)]
    names[3] = names[4] = names[7]
    (reference if side == "reference" else query).obs_names = names
    with pytest.raises(ValueError, match=r"1 cell names occur more than once \(first: cell_7\).*obs_names_make_unique"):
        transfer(reference, query)


# genes


@pytest.mark.parametrize("side", ["reference", "query"])
def test_duplicate_gene_names_are_refused(reference, query, side):
    if side == "reference":
        reference.var_names = ["gene_0", "gene_2", *reference.var_names[2:]]
    else:
        query = simulate(12, 9)
        query.var_names = [*reference.var_names, "gene_2"]
    with pytest.raises(ValueError, match=r"1 gene names occur more than once \(first: gene_2\).*var_names_make_unique"):
        transfer(reference, query)


def test_gene_without_counts_in_the_query_is_no_news(reference, query):
    query.X = query.X.toarray()
    query.X[:, 3] = 0
    query.X[:, 0] += 1
    assert (transfer(reference, query).rows == -1).all()


def test_nothing_of_ours_stands_in_obs(reference, query):
    transfer(reference, query)
    assert not [name for name in (*reference.obs, *query.obs) if name.startswith("_scdgd")]


# counts


def test_offending_counts_are_named_through_setup(reference):
    reference.layers["scaled"] = reference.X.toarray()
    reference.layers["scaled"][7, 2] = -1.5
    with pytest.raises(
        ValueError, match=r"adata.layers\['scaled'\] has negative values, first in cell cell_7, gene gene_2"
    ):
        SCDGD.setup_anndata(reference, layer="scaled")


def test_query_counts_are_validated_too(reference, query):
    query.X = query.X.toarray()
    query.X[-1, 0] = 0.5
    with pytest.raises(ValueError, match="adata.X has values that are not integer, first in cell new_11, gene gene_0"):
        transfer(reference, query)


def test_missing_layer_is_named(reference):
    reference.layers["raw"] = reference.X
    with pytest.raises(ValueError, match=r"no layer 'counts'; adata.layers has \['raw'\]"):
        SCDGD.setup_anndata(reference, layer="counts")


def test_missing_layer_of_the_query_is_named(reference, query):
    reference.layers["counts"] = reference.X.copy()
    with pytest.raises(ValueError, match=r"no layer 'counts'; adata.layers has \[\]"):
        transfer(reference, query, layer="counts")


def test_missing_x_is_named(reference):
    layers_only = ad.AnnData(obs=reference.obs, var=reference.var, layers={"raw": reference.X})
    with pytest.raises(ValueError, match=r"adata.X is empty.*\['raw'\]"):
        SCDGD.setup_anndata(layers_only)


@pytest.mark.parametrize("to_array", [sparse.csr_array, sparse.csc_array])
@pytest.mark.parametrize("layer", [None, "counts"])
def test_sparse_array_becomes_an_equal_matrix(reference, layer, to_array):
    expected = reference.X.toarray()
    if layer is None:
        reference.X = to_array(reference.X)
    else:
        reference.layers[layer] = to_array(reference.X)
    SCDGD.setup_anndata(reference, layer=layer)
    counts = reference.X if layer is None else reference.layers[layer]
    assert isinstance(counts, sparse.csr_matrix)
    np.testing.assert_array_equal(counts.toarray(), expected)


def test_view_becomes_actual_and_its_parent_stays(reference):
    view = reference[10:40]
    assert view.is_view
    columns = list(reference.obs.columns)
    SCDGD.setup_anndata(view)
    assert not view.is_view
    assert SCDGD(view, n_components=2).adata_manager.rows.tolist() == list(range(30))
    assert list(reference.obs.columns) == columns


# batch and labels


def test_cells_without_batch_are_named(reference):
    reference.obs.loc[["cell_3", "cell_8"], "batch"] = np.nan
    with pytest.raises(ValueError, match=r"2 cells have no batch in adata.obs\['batch'\] \(first: cell_3, cell_8\)"):
        SCDGD.setup_anndata(reference, batch_key="batch")


def test_query_cells_without_batch_are_named(reference, query):
    query.obs.loc["new_3", "batch"] = np.nan
    with pytest.raises(ValueError, match=r"1 cells have no batch .*first: new_3"):
        transfer(reference, query, batch_key="batch")


@pytest.mark.parametrize("side", ["reference", "query"])
def test_missing_batch_column_is_named(reference, query, side):
    del (reference if side == "reference" else query).obs["batch"]
    with pytest.raises(ValueError, match=r"no column 'batch' for the batch; adata.obs has .*cell_type"):
        transfer(reference, query, batch_key="batch")


@pytest.mark.parametrize("categorical", [True, False])
def test_unknown_batch_stands_behind_those_of_training_or_is_named(reference, query, categorical):
    values = ["batch_0", "elsewhere"] * 6
    query.obs["batch"] = pd.Categorical(values) if categorical else values
    manager = transfer(reference, query, batch_key="batch")
    (levels,) = manager.levels.values()
    assert levels.trained.tolist() == ["batch_0", "batch_1"]
    assert levels.new.tolist() == ["elsewhere"]
    (variable,) = manager.levels
    assert manager.codes_of(variable).tolist() == [0, 2] * 6
    with pytest.raises(ValueError, match=r"Batches \['elsewhere'\] .*trained on \['batch_0', 'batch_1'\]"):
        FlexSCVI.setup_anndata(query, batch_key="batch", source_registry=registry_of(SCDGD, reference))


def test_levels_are_renamed_for_all_cells(reference, query):
    query.obs["batch"] = ["b", "a", "batch_1"] * 4
    query.obs["donor"] = ["donor_1", "x", "x"] * 4
    manager = transfer(reference, query, batch_key="batch", categorical_covariate_keys=["donor"])
    batch, donor = manager.levels
    manager.rename_levels(batch, np.array(["other", "b", "a"], dtype=object))
    manager.rename_levels(donor, np.array(["y", "x"], dtype=object))
    assert manager.codes_of(batch).tolist() == [3, 4, 1] * 4
    assert manager.codes_of(donor).tolist() == [1, 3, 3] * 4
    assert manager.levels[batch].names.tolist() == ["batch_0", "batch_1", "other", "b", "a"]
    assert manager.new_levels_of(batch).tolist() == ["b", "a"]
    assert manager.new_levels_of(donor).tolist() == ["x"]


def test_batches_keep_their_codes_in_a_query_with_fewer(reference, query):
    query.obs["batch"] = pd.Categorical(["batch_1"] * 12)
    transfer(reference, query, batch_key="batch")
    assert (query.obs["_scvi_batch"] == 1).all()


def test_batches_that_are_numbers(reference, query):
    reference.obs["run"], query.obs["run"] = np.arange(60) % 3, np.arange(12) % 3
    transfer(reference, query, batch_key="run")
    assert query.obs["_scvi_batch"].tolist() == (np.arange(12) % 3).tolist()
    query.obs["run"] += 1
    transfer(reference, query, batch_key="run")
    assert query.obs["_scvi_batch"].tolist() == (np.arange(12) % 3 + 1).tolist()


@pytest.mark.parametrize("labels", ["absent", "new", "missing", "some new"])
def test_query_needs_no_labels(reference, query, labels):
    if labels == "absent":
        del query.obs["cell_type"]
    elif labels == "missing":
        query.obs["cell_type"] = pd.Categorical([np.nan] * 12)
    else:
        query.obs["cell_type"] = ["new"] * 12 if labels == "new" else ["type_0", "new"] * 6
    if "new" in labels:
        with pytest.warns(
            UserWarning, match=r"cells have labels in adata.obs\['cell_type'\] that the model does not know \(new\)"
        ):
            manager = transfer(reference, query, labels_key="cell_type")
    else:
        manager = transfer(reference, query, labels_key="cell_type")
    state = manager.get_state_registry("labels")
    assert state.categorical_mapping.tolist() == ["type_0", "type_1", "type_2"]
    assert manager.summary_stats.n_labels == 3
    if labels != "absent":
        assert query.obs["cell_type"].isna().all() == (labels == "missing")


def test_known_labels_of_the_query_keep_their_codes(reference, query):
    query.obs["cell_type"] = ["type_2", "type_0"] * 6
    transfer(reference, query, labels_key="cell_type")
    assert query.obs["_scvi_labels"].tolist() == [2, 0] * 6


@pytest.mark.parametrize("argument", ["categorical_covariate_keys", "continuous_covariate_keys"])
def test_one_column_for_a_list_of_them_is_refused(reference, argument):
    with pytest.raises(TypeError, match=rf"Write `{argument}=\['donor'\]`"):
        SCDGD.setup_anndata(reference, **{argument: "donor"})


def test_a_wrong_column_leaves_the_data_as_they_were(reference):
    before = list(reference.obs)
    with pytest.raises(ValueError, match="There is no column 'sample'"):
        SCDGD.setup_anndata(reference, batch_key="sample")
    assert list(reference.obs) == before


def test_missing_label_column_is_named_in_training(reference):
    with pytest.raises(ValueError, match=r"no column 'annotation' of labels; adata.obs has .*cell_type"):
        SCDGD.setup_anndata(reference, labels_key="annotation")


def state_of_labels(adata, **kwargs):
    SCDGD.setup_anndata(adata, labels_key="cell_type", **kwargs)
    return SCDGD._get_most_recent_anndata_manager(adata).get_state_registry("labels")


@pytest.mark.parametrize("dtype", [object, "category"])
@pytest.mark.parametrize("missing", [np.nan, None, pd.NA], ids=repr)
def test_missing_labels_count_as_none(reference, missing, dtype):
    labels = reference.obs["cell_type"].astype(object)
    labels.iloc[[3, 8]] = missing
    labels.iloc[[4, 6, 7]] = "Unknown"
    reference.obs["cell_type"] = labels.astype(dtype)
    state = state_of_labels(reference, unlabeled_category="Unknown")
    assert state.categorical_mapping.tolist() == ["type_0", "type_1", "type_2"]
    assert state.unlabeled_category == "Unknown"
    codes = reference.obs["_scvi_labels"]
    assert np.flatnonzero(codes < 0).tolist() == [3, 4, 6, 7, 8]
    assert codes.iloc[5] == 2
    state = state_of_labels(reference)
    assert state.categorical_mapping.tolist() == ["Unknown", "type_0", "type_1", "type_2"]
    assert np.flatnonzero(reference.obs["_scvi_labels"] < 0).tolist() == [3, 8]


@pytest.mark.parametrize("unlabelled", ["Unknown", 999, 1.5])
def test_what_stands_for_no_label_is_known_where_no_cell_has_it(reference, unlabelled):
    state = state_of_labels(reference, unlabeled_category=unlabelled)
    assert state.unlabeled_category == unlabelled
    assert state.categorical_mapping.tolist() == ["type_0", "type_1", "type_2"]
    assert (reference.obs["_scvi_labels"] >= 0).all()


def test_a_number_may_stand_for_no_label(reference):
    reference.obs["cell_type"] = [999, 0, 1] * (reference.n_obs // 3)
    state = state_of_labels(reference, unlabeled_category=999.0)
    assert state.categorical_mapping.tolist() == [0, 1]
    assert reference.obs["_scvi_labels"].tolist()[:3] == [-1, 0, 1]


def test_what_stands_for_no_label_needs_labels(reference):
    with pytest.raises(ValueError, match=r"`unlabeled_category='Unknown'` .* pass `labels_key`, too"):
        SCDGD.setup_anndata(reference, unlabeled_category="Unknown")
    with pytest.raises((TypeError, ValueError), match="`unlabeled_category` must be"):
        SCDGD.setup_anndata(reference, labels_key="cell_type", unlabeled_category=["Unknown"])


def test_a_column_without_labels_is_said(reference):
    reference.obs["cell_type"] = "Unknown"
    with pytest.warns(
        UserWarning, match=r"None of 60 cells has a label: all in adata.obs\['cell_type'\] are missing or 'Unknown'"
    ):
        assert len(state_of_labels(reference, unlabeled_category="Unknown").categorical_mapping) == 0


def test_one_query_cell_is_no_reason_to_warn(reference, query):
    """Nothing is trained on a query, so few cells of a category are nothing to warn about."""
    single = query[:1].copy()
    assert transfer(reference, single, batch_key="batch", labels_key="cell_type").rows.tolist() == [-1]
