"""Panels of genes: cells that lack genes of the model, have them in another order, have others, or a panel by batch."""

from __future__ import annotations

import logging
import re
import warnings

import anndata as ad
import mudata
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse
from scvi import REGISTRY_KEYS

from scdgd._constants import MEASURED_KEY
from scdgd.data import GenePanel, GenesMeasured, SparseCountsLoader, registered_cells
from scdgd.data._cell_source import source_of
from scdgd.model import SCDBM, SCDGD, SCVMM
from tests.conftest import simulate

from .test_cell_source import COLUMNS, COUNTS, DTYPES, FORMS, N_GENES, NAMES

X = REGISTRY_KEYS.X_KEY
few_genes = pytest.mark.filterwarnings("ignore:.*genes are missing from the new data")


def manager_of(reference: ad.AnnData, **setup):
    SCDGD.setup_anndata(reference, **setup)
    return SCDGD(reference, n_components=2, n_latent=2, n_hidden=4).adata_manager


def transferred(manager, query: ad.AnnData):
    """Register `query` as the data of `manager`, and keep it alive, which a model would do."""
    new = manager.transfer_fields(query)
    new.kept = query
    return new


def transfer(reference: ad.AnnData, query: ad.AnnData, **setup):
    """Set `reference` up and register `query` as it was."""
    return transferred(manager_of(reference, **setup), query)


def minibatch(manager, positions=slice(None)) -> dict:
    cells = registered_cells(manager)
    return cells.minibatch(np.arange(len(cells))[positions])


def widened(adata: ad.AnnData) -> ad.AnnData:
    """The same cells with two further genes in front."""
    x = sparse.csr_matrix(adata.X)
    counts = sparse.hstack([x[:, :2] * 2 + x[:, 2:4], x], format="csr")
    return ad.AnnData(counts, obs=adata.obs, var=pd.DataFrame(index=["other_0", "other_1", *adata.var_names]))


# --- columns among genes ---


GENES = [f"gene_{j}" for j in range(N_GENES)]
#: Columns of the data by what they are to the genes of the model.
PANELS = {
    "the same": GENES,
    "another order": GENES[::-1],
    "missing": [GENES[5], GENES[0], GENES[3]],
    "extra": ["a", *GENES[3:], "b", *GENES[:3]],
    "both": ["a", GENES[6], "b", GENES[2]],
}


@pytest.mark.parametrize(
    ("form", "columns"),
    [*((form, "both") for form in FORMS), *((form, c) for form in ("CSR", "dense") for c in PANELS)],
)
def test_sources_give_counts_in_the_order_of_the_model(form, columns, tmp_path):
    names = PANELS[columns]
    panel = GenePanel(GENES, names)
    data = pd.DataFrame(COUNTS, columns=GENES).reindex(columns=names)
    data = data.fillna(7).to_numpy(np.float32)  # of extra genes
    expected = COUNTS * np.isin(GENES, names)
    cells = source_of(FORMS[form](data, tmp_path), panel, NAMES, COLUMNS, DTYPES)
    if form == "rows alone":
        assert len(cells.names) == len(NAMES)
    assert cells.shape == COUNTS.shape
    for max_elements in (1, 3 * N_GENES, 2**24):
        blocks = [block for _, block in cells.blocks(max_elements)]
        assert all(b.shape[0] == 1 or b.shape[0] * N_GENES <= max_elements for b in blocks)
        stacked = np.vstack([b.toarray() if sparse.issparse(b) else b for b in blocks])
        np.testing.assert_array_equal(stacked, expected)
    cells.hold(np.array([0, 3, 5]))
    for positions in (np.array([5, 3, 39, 3, 0]), np.array([3, 5])):
        rows = cells.rows(positions)
        assert isinstance(rows, sparse.csr_matrix)
        assert rows.has_sorted_indices
        np.testing.assert_array_equal(rows.toarray(), expected[positions])
        tensors = cells.minibatch(positions)
        np.testing.assert_array_equal(tensors[X].to_dense(), expected[positions])
        assert list(tensors) == [X, "batch", "size"]
    assert panel.measured.tolist() == np.isin(GENES, names).tolist()


def test_rows_of_a_table_follow_the_genes():
    panel = GenePanel(GENES, PANELS["both"])
    assert panel.rows_of(np.array([9, 6, 9, 2])).tolist() == [0, 0, 2, 0, 0, 0, 6]
    assert list(panel.extra) == ["a", "b"]
    assert list(panel.missing) == [GENES[j] for j in (0, 1, 3, 4, 5)]
    assert panel.n_shared == 2


# --- panels of cells ---


def test_panels_of_cells():
    panels = np.array([[1, 1, 0], [1, 0, 1], [1, 1, 0], [1, 1, 1]], dtype=bool)
    codes = np.array([0, 1, 2, 1])
    measured = GenesMeasured.where_needed(panels, codes)
    assert len(measured.panels) == 2
    assert not measured.is_shared
    for some in (np.arange(4), np.array([3, 0]), np.array([0, 2]), np.array([], dtype=int)):
        assert measured.of(some).tolist() == panels[codes[some]].tolist()
    assert measured.of(np.array([0, 2])).stride() == (0, 1)
    assert measured.numbers_of_cells(np.array([0, 1, 2])).tolist() == [3, 2, 1]
    assert measured.take(np.array([2, 0])).is_shared
    marks = measured.mark(np.zeros(4, np.uint64))
    assert marks[0] == marks[2] != marks[1] == marks[3]
    assert GenesMeasured.where_needed(panels, np.array([3, 3])) is None
    assert GenesMeasured(panels, np.array([3])).mark(np.array([5], np.uint64)).tolist() == [5]


# --- queries ---


@pytest.mark.parametrize("change", [lambda a: a[:, ::-1].copy(), widened, lambda a: widened(a)[:, ::-1].copy()])
def test_order_and_extra_genes_leave_cells_as_they_are(reference, query, change):
    manager = manager_of(reference)
    some = ad.concat([reference[[5, 59]], query])
    plain, other = transferred(manager, some.copy()), transferred(manager, change(some))
    for key, value in minibatch(plain).items():
        of_other = minibatch(other)[key]
        if key == X:
            assert torch.equal(value.to_dense(), of_other.to_dense())
            assert torch.equal(value.indices, of_other.indices)
        else:
            assert torch.equal(value, of_other)
    assert other.rows.tolist() == plain.rows.tolist() == [5, 59] + [-1] * 12
    np.testing.assert_array_equal(other.fingerprints, plain.fingerprints)
    assert other.genes_measured() is None
    assert other.has_one_panel
    assert other.summary_stats.n_vars == 8
    assert list(other.get_state_registry(X).column_names) == list(reference.var_names)
    other.validate_for_training()


@few_genes
def test_missing_genes_are_said_in_minibatches(reference, query):
    manager = transfer(reference, query[:, [7, 0, 3]].copy())
    expected = np.isin(np.arange(8), [0, 3, 7])
    tensors = next(iter(SparseCountsLoader(manager, batch_size=5)))
    assert tensors[MEASURED_KEY].dtype == torch.bool
    assert tensors[MEASURED_KEY].tolist() == [expected.tolist()] * 5
    assert torch.equal(tensors[X].to_dense(), torch.tensor(query.X[:5].toarray() * expected))
    assert manager.genes_measured(np.array([3])).tolist() == [expected.tolist()]
    assert manager.has_one_panel
    assert MEASURED_KEY not in minibatch(manager_of(reference))


@few_genes
def test_training_cells_without_some_genes_are_other_cells(reference):
    """Even where all that they lack is zero."""
    reference.X = reference.X.toarray()
    reference.X[:5, [2, 6]] = 0
    some = reference[:5].copy()
    manager = manager_of(reference)
    assert transferred(manager, some.copy()).rows.tolist() == [0, 1, 2, 3, 4]
    lacking = transferred(manager, some[:, [0, 1, 3, 4, 5, 7]].copy())
    assert lacking.rows.tolist() == [-1] * 5
    again = transferred(manager, some[:, [7, 0, 1, 3, 4, 5]].copy())
    np.testing.assert_array_equal(lacking.fingerprints, again.fingerprints)


@few_genes
@pytest.mark.slow
def test_placed_cells_are_remembered_with_their_panel(query):
    adata = simulate(60, 8)
    SCDGD.setup_anndata(adata)
    model = SCDGD(adata, n_components=2, n_latent=2, n_hidden=4, new_cells={"n_steps": 0})
    model.train(1, accelerator="cpu", enable_progress_bar=False)
    query.X = query.X.toarray()
    query.X[:, 2] = 0
    n_placed = []
    for genes in (slice(None), slice(None, None, -1), [0, 1, 3, 4, 5, 6, 7], [7, 6, 5, 4, 3, 1, 0], [0, 1, 3, 4, 5, 6]):
        model.get_latent_representation(query[:, genes].copy())
        n_placed.append(len(model.cells.placed["keys"]))
    assert n_placed == [12, 12, 24, 24, 36]


def test_changes_in_place_are_refused_for_a_query_in_its_own_order(reference, query):
    other = widened(query)[:, ::-1].copy()
    manager = transfer(reference, other)
    other.obs_names = [*other.obs_names[1:], other.obs_names[0]]
    with pytest.raises(ValueError, match="other counts"):
        manager.validate()
    other.obs_names = query.obs_names
    manager.validate()
    other._inplace_subset_obs([3, 1])
    manager.validate()
    assert manager.names.tolist() == ["new_3", "new_1"]
    other.X[0, 0] += 1  # of a gene of the model
    with pytest.raises(ValueError, match="other counts"):
        manager.validate()
    other.X[0, 0] -= 1
    other.var_names = [*other.var_names[:-1], "renamed"]
    with pytest.raises(
        ValueError, match=r"1 genes have other names \(other_0 is renamed now\).*model.adata = adata.copy"
    ):
        manager.validate()


@few_genes
def test_cells_and_panels_that_are_filtered_in_place_stay_together(reference, query):
    reference.varm["mask"] = mask_of(reference)
    both = ad.concat([reference[:4], query])
    both.varm["mask"] = reference.varm["mask"]
    both.X = both.X.toarray() * mask_of(reference)[both.obs["batch"]].to_numpy().T
    reference.X = reference.X.toarray() * mask_of(reference)[reference.obs["batch"]].to_numpy().T
    manager = transfer(reference, both, batch_key="batch", gene_mask_key="mask")
    before = dict(zip(manager.names, manager.genes_measured().tolist(), strict=True))
    both._inplace_subset_obs([9, 2, 5, 0])
    manager.validate()
    assert dict(zip(manager.names, manager.genes_measured().tolist(), strict=True)) == {
        name: before[name] for name in both.obs_names
    }


@few_genes
def test_a_mudata_may_have_any_panel(reference, query):
    data = mudata.MuData({"rna": reference.copy()})
    data.obs["batch"] = reference.obs["batch"].to_numpy()
    SCDGD.setup_mudata(data, modalities={"layer": "rna"}, batch_key="batch")
    manager = SCDGD(data, n_components=2).adata_manager
    some = ad.concat([reference[:2], query])
    for change in (widened, lambda a: a[:, [7, 0, 3]].copy()):
        new = mudata.MuData({"rna": change(some)})
        new.obs["batch"] = some.obs["batch"].to_numpy()
        tensors = minibatch(transferred(manager, new))
        measured = tensors.get(MEASURED_KEY, torch.ones(1, 8, dtype=torch.bool))[0]
        np.testing.assert_array_equal(tensors[X].to_dense(), some.X.toarray() * measured.numpy())


@few_genes
@pytest.mark.parametrize("form", ["csr", "csc", "dense"])
def test_a_query_in_a_file(reference, query, form, tmp_path):
    other = widened(query)[:, [9, 0, 3, 5]].copy()
    other.X = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "dense": lambda x: x.toarray()}[form](other.X)
    other.write_h5ad(tmp_path / "query.h5ad")
    manager = manager_of(reference)
    in_memory = transferred(manager, other) if form != "csc" else None
    in_file = transferred(manager, ad.read_h5ad(tmp_path / "query.h5ad", backed="r"))
    expected = query.X.toarray() * np.isin(np.arange(8), [1, 3, 7])
    loader = SparseCountsLoader(in_file, batch_size=12, shuffle=True)
    (tensors,) = loader
    assert sorted(tensors[X].to_dense().tolist()) == sorted(expected.tolist())
    assert tensors[MEASURED_KEY].shape == (12, 8)
    if in_memory is not None:
        np.testing.assert_array_equal(in_file.fingerprints, in_memory.fingerprints)


# --- words ---


def message(reference: ad.AnnData, query: ad.AnnData, kind: type[Exception] = UserWarning) -> str:
    with pytest.raises(ValueError) if kind is ValueError else pytest.warns(kind) as caught:  # noqa: PT011 it is returned
        transfer(reference, query)
    return str(caught.value if kind is ValueError else caught[0].message)


@pytest.fixture
def said():
    """What the package logs."""
    messages = []
    handler = logging.Handler()
    handler.emit = lambda record: messages.append(record.getMessage())
    logging.getLogger("scdgd").addHandler(handler)
    yield messages
    logging.getLogger("scdgd").removeHandler(handler)


def test_one_message_each_for_extra_and_missing_genes(said):
    wide, query = simulate(30, 80), simulate(9, 92, seed=1)
    query.obs_names = [f"new_{i}" for i in range(9)]
    transfer(wide, query[:, 10:].copy())
    missing, extra = (next(text for text in said if words in text) for words in ("are missing", "unknown"))
    assert "10 of the model's 80 genes are missing" in missing
    assert "(first: gene_0, gene_1, gene_2, gene_3, gene_4)" in missing
    assert "left out of the likelihood" in missing
    assert "get_normalized_expression" in missing
    assert "12 of the 82 genes" in extra
    assert "ignored" in extra
    assert len([text for text in said if "genes" in text]) == 2


def test_few_shared_genes_are_counted(reference, query):
    text = message(reference, query[:, [0, 2, 3, 4, 5, 7]].copy())
    assert "2 of the model's 8 genes are missing from the new data (first: gene_1, gene_6)" in text
    assert "Only 6 genes are shared, fewer than 50" in text


def test_no_shared_gene_is_an_error(reference, query):
    query.var_names = list("abcdefgh")
    text = message(reference, query, ValueError)
    assert "None of the model's 8 genes (first: gene_0, gene_1" in text
    assert "(first: a, b, c, d, e)" in text
    assert "the same genes under newer or older names" in text
    assert "same species" in message(reference, query[:, :5].copy(), ValueError)


#: Names of the model, of the data, and what the message says.
NAMESPACES = {
    "case": (["CD3E", "CD8A", "MS4A1"], ["Cd3e", "Cd8a", "Ms4a1"], r"3 of them match in another case .*: CD3E of the model is Cd3e"),
    "version": (
        ["ENSG00000000003", "ENSG00000000005", "ENSG00000000419"],
        ["ENSG00000000003.15", "ENSG00000000005.6", "ENSG00000000419.14"],
        "3 of them match without their versions: ENSG00000000003 of the model is ENSG00000000003.15",
    ),
    "version of the model": (
        ["ENSG00000000003.15", "ENSG00000000005.6"],
        ["ENSG00000000005", "ENSG00000000003"],
        "2 of them match without their versions",
    ),
    "separators": (["gene-1", "gene-2", "X"], ["gene.1", "gene_2", "X"], "2 of them match with other separators: gene-1 of"),
    "both": (["Gene-1", "Gene-2"], ["GENE.1", "GENE.2"], "2 of them match in another case and with other separators"),
}  # fmt: skip


@pytest.mark.parametrize("names", NAMESPACES)
def test_names_that_are_spelled_otherwise_are_explained_and_the_remedy_works(reference, query, names):
    of_model, of_data, words = NAMESPACES[names]
    reference, adata = reference[:, : len(of_model)].copy(), query[:, : len(of_data)].copy()
    reference.var_names, adata.var_names = of_model, of_data
    for cells in (adata, reference):
        cells.X = cells.X.toarray() + 1
    kind = UserWarning if set(of_model) & set(of_data) else ValueError
    text = message(reference, adata, kind)
    assert re.search(words, text), text
    model = SCDGD(reference, n_components=2)
    scope = {"adata": adata, "model": model}
    for line in re.findall(r"`((?:known|adata\.var_names) = .*?)`", text):
        exec(line, scope)
    assert set(adata.var_names) == set(of_model)
    transferred(model.adata_manager, adata)


def test_a_column_with_the_names_is_named(reference, query):
    query.var["gene_ids"], query.var_names = query.var_names.astype("category"), [f"ENSG{j:011}" for j in range(8)]
    query.var["n"] = 1
    text = message(reference, query, ValueError)
    assert "adata.var['gene_ids'] holds 8 of the model's 8 names, adata.var_names 0" in text
    exec(re.search(r"`(adata\.var_names = .*?)`", text)[1], {"adata": query})
    transfer(reference, query)


@pytest.mark.parametrize(
    ("of_model", "of_data", "words"),
    [
        ("ENSG{:011}", "GENE{}", r"by identifiers of Ensembl \(ENSG00000000000\), and the data name them by symbols \(GENE0\)"),
        ("GENE{}", "ENSG{:011}.2", r"by symbols \(GENE0\), and the data name them by identifiers of Ensembl"),
        ("ENSG{:011}", "ENSMUSG{:011}", r"another species \(ENSG... of the model, ENSMUSG... in the data\)"),
    ],
)  # fmt: skip
def test_another_namespace_is_named(reference, query, of_model, of_data, words):
    reference.var_names = [of_model.format(j) for j in range(8)]
    query.var_names = [of_data.format(j) for j in range(8)]
    assert re.search(words, message(reference, query, ValueError))


def test_renamed_genes_are_counted(reference, query):
    query.var_names = [*query.var_names[:6], "TYROBP", "SEPTIN7"]
    text = message(reference, query)
    assert "2 of the model's 8 genes are missing" in text
    assert "as many that the model does not know (first: TYROBP, SEPTIN7)" in text


@few_genes
@pytest.mark.parametrize("layer", [None, "counts"])
def test_cells_without_counts_of_shared_genes_are_named_and_the_remedy_works(reference, query, layer):
    adata = widened(query)[:, [0, 1, 2, 5]].copy()
    adata.X = adata.X.toarray()
    adata.X[[3, 7], 2:] = 0
    adata.X[[3, 7], 0] = 4
    adata.X[[4, 5], 2] = 1
    if layer is not None:
        adata.layers[layer], reference.layers[layer] = adata.X, reference.X
    manager = manager_of(reference, layer=layer)
    with pytest.raises(
        ValueError, match=r"2 of 12 cells .* have no count in any of the 2 genes .*first: new_3, new_7\)"
    ) as error:
        transferred(manager, adata)
    names = {"adata": adata, "np": np, "model": SCDGD(reference, n_components=2)}
    for line in re.findall(r"`((?:shared|adata) = .*?)`", str(error.value)):
        exec(line, names)
    assert "new_3" not in names["adata"].obs_names
    transferred(manager, names["adata"])


def test_values_of_extra_genes_do_not_matter(reference, query):
    other = widened(query)
    other.X = other.X.toarray()
    other.X[0, 0] = -1.5
    transfer(reference, other)
    other.X[0, 5] = -1.5
    with pytest.raises(ValueError, match="negative values, first in cell new_0, gene gene_3"):
        transfer(reference, other)


def test_a_model_that_needs_all_genes_says_so(reference, query):
    SCDBM.setup_anndata(reference)
    manager = SCDBM(reference, n_hidden=(3, 2)).adata_manager
    np.testing.assert_array_equal(minibatch(transferred(manager, widened(query)))[X].to_dense(), query.X.toarray())
    with pytest.raises(ValueError, match=r"1 of the model's 8 genes are missing .*gene_0\).*needs all of its genes"):
        transferred(manager, query[:, 1:].copy())
    with pytest.raises(ValueError, match="SCDBM needs counts of all genes.*gene_mask_key='mask'"):
        SCDBM.setup_anndata(reference, batch_key="batch", gene_mask_key="mask")


# --- a mask by batch ---


def mask_of(adata: ad.AnnData) -> pd.DataFrame:
    """Genes 0 to 5 in batch 0, 2 to 7 in batch 1."""
    genes = np.arange(adata.n_vars)
    return pd.DataFrame({"batch_1": genes >= 2, "batch_0": genes < 6}, index=adata.var_names)


def masked(adata: ad.AnnData) -> ad.AnnData:
    """Cells with a mask, and no counts where it is false."""
    adata.varm["mask"] = mask_of(adata)
    adata.X = sparse.csr_matrix(adata.X.toarray() * expected_of(adata))
    return adata


def expected_of(adata: ad.AnnData) -> np.ndarray:
    return mask_of(adata)[adata.obs["batch"]].to_numpy().T


MASK = {"batch_key": "batch", "gene_mask_key": "mask"}


@pytest.mark.parametrize("form", ["frame", "array", "categories"])
def test_minibatches_have_the_panels_of_their_batches(reference, form):
    masked(reference)
    if form == "array":
        reference.varm["mask"] = reference.varm["mask"][["batch_0", "batch_1"]].to_numpy()
    if form == "categories":  # another order than that of names
        reference.obs["batch"] = pd.Categorical(reference.obs["batch"], ["batch_1", "batch_0"])
    manager = manager_of(reference, **MASK)
    tensors = next(iter(SparseCountsLoader(manager, indices=[7, 1, 30], batch_size=3)))
    assert tensors[MEASURED_KEY].tolist() == expected_of(reference)[[7, 1, 30]].tolist()
    assert not manager.has_one_panel
    np.testing.assert_array_equal(manager.genes_measured(), expected_of(reference))
    manager.validate_for_training()


def test_a_mask_of_nothing_is_none(reference):
    reference.varm["mask"] = mask_of(reference) | True
    manager = manager_of(reference, **MASK)
    assert manager.genes_measured() is None
    assert MEASURED_KEY not in minibatch(manager)
    np.testing.assert_array_equal(manager.fingerprints, manager_of(reference.copy()).fingerprints)


@few_genes
def test_a_query_brings_its_own_mask_and_lacks_genes(reference, query):
    manager = manager_of(masked(reference), **MASK)
    np.testing.assert_array_equal(transferred(manager, reference.copy()).rows, np.arange(60))
    query.obs["batch"] = ["batch_0", "new", "batch_1"] * 4
    query.varm["mask"] = pd.DataFrame(
        {"new": np.arange(8) != 4, "batch_0": np.arange(8) < 6, "of no cell": True}, index=query.var_names
    )
    expected = np.array([np.arange(8) < 6, np.arange(8) != 4, np.full(8, True)] * 4)
    query.X = (simulate(12, 8, seed=3).X.toarray() + 1) * expected
    np.testing.assert_array_equal(transferred(manager, query.copy()).genes_measured(), expected)
    lacking = widened(query)
    lacking.varm["mask"] = query.varm["mask"].reindex(lacking.var_names, fill_value=True)
    lacking = lacking[:, [9, 0, 4, 5, 1]].copy()
    new = transferred(manager, lacking)
    np.testing.assert_array_equal(new.genes_measured(), expected & np.isin(np.arange(8), [2, 3, 7]))
    (batch,) = new.levels
    new.rename_levels(batch, np.array(["other", "new"], dtype=object))
    np.testing.assert_array_equal(new.genes_measured(), expected & np.isin(np.arange(8), [2, 3, 7]))


@few_genes
def test_a_mask_that_was_lost_is_missed(reference, query):
    """Without one, all genes that the data have were measured; which is unlikely where a batch looks as in training."""
    manager = manager_of(masked(reference), **MASK)
    masked(query)
    del query.varm["mask"]
    of_batch = query[query.obs["batch"] == "batch_1"].copy()
    with pytest.warns(
        UserWarning, match=r"adata.varm\['mask'\] is not there.*batches \['batch_1'\] have no count in any"
    ):
        assert transferred(manager, of_batch).genes_measured() is None
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*is not there")
        everywhere = of_batch.copy()
        everywhere.X = sparse.csr_matrix(of_batch.X.toarray() + 1)
        transferred(manager, everywhere)
        transferred(manager, of_batch[:, 2:].copy())  # the genes are not there at all
        of_batch.obs["batch"] = "new"
        transferred(manager, of_batch)


def test_a_mask_is_saved_with_the_model(reference, tmp_path):
    manager_of(masked(reference), **MASK)
    model = SCDGD(reference, n_components=2, n_latent=2, n_hidden=4)
    model.save(tmp_path / "model", save_anndata=True)
    loaded = SCDGD.load(tmp_path / "model", accelerator="cpu")
    np.testing.assert_array_equal(loaded.adata_manager.genes_measured(), expected_of(reference))
    np.testing.assert_array_equal(loaded.adata_manager.rows, np.arange(60))
    state = SCDGD.load(tmp_path / "model", adata=False, accelerator="cpu").registry["field_registries"][MEASURED_KEY]
    np.testing.assert_array_equal(state["state_registry"]["panels"], mask_of(reference)[["batch_0", "batch_1"]].T)


def test_a_mudata_has_the_mask_in_the_modality_of_the_counts(reference):
    masked(reference)
    data = mudata.MuData({"rna": reference})
    data.obs["batch"] = reference.obs["batch"].to_numpy()
    SCDGD.setup_mudata(data, modalities={"layer": "rna"}, **MASK)
    manager = SCDGD(data, n_components=2).adata_manager
    np.testing.assert_array_equal(minibatch(manager)[MEASURED_KEY], expected_of(reference))


def test_models_with_an_encoder_take_a_mask(reference):
    SCVMM.setup_anndata(masked(reference), **MASK)
    manager = SCVMM(reference, n_components=2, n_latent=2, n_hidden=4).adata_manager
    np.testing.assert_array_equal(minibatch(manager)[MEASURED_KEY], expected_of(reference))


#: What is made of the mask, and what is said of it.
WRONG_MASKS = {
    "none": (lambda m: None, r"no mask of genes 'mask'; adata.varm has \[\]"),
    "lacks a batch": (lambda m: m[["batch_1"]], r"no column for the batches \['batch_0'\]; it has \['batch_1'\]"),
    "misspelled": (lambda m: m.rename(columns={"batch_0": "b"}), r"no column for the batches \['batch_0'\].*'b'"),
    "numbers": (lambda m: m.astype(int), r"must hold True .* holds 1 for gene gene_0 in batch batch_0.*astype\(bool\)"),
    "missing": (lambda m: m.astype(object).where(m, None), r"holds None for gene gene_6 in batch batch_0"),
    "nowhere": (lambda m: m.assign(batch_1=False), r"2 genes .* in no batch \(first: gene_6, gene_7\).*any\(axis=1\)"),
    "no gene": (lambda m: m & False, "no gene was measured in any batch"),
    "empty batch": (lambda m: m.assign(batch_0=True, batch_1=False), r"none of the genes .* in the batches \['batch_1'\]"),
    "array": (lambda m: m.to_numpy()[:, :1], r"an array with 1 columns.*each of the 2 batches .*\['batch_0', 'batch_1'\]"),
    "sparse": (lambda m: sparse.csr_matrix(m.to_numpy()), r"a csr_matrix, but must be a data frame"),
    "exchanged": (lambda m: m.set_axis(["batch_0", "batch_1"], axis=1), r"(\d+) entries of adata.X \(first: cell cell_\d+ of batch batch_\d, gene gene_\d: "),
}  # fmt: skip


@pytest.mark.parametrize("wrong", WRONG_MASKS)
def test_wrong_masks_are_explained(reference, wrong):
    change, words = WRONG_MASKS[wrong]
    mask = change(masked(reference).varm["mask"])
    del reference.varm["mask"]
    if mask is not None:
        reference.varm["mask"] = mask
    before = list(reference.obs)
    with pytest.raises(ValueError, match=words):
        SCDGD.setup_anndata(reference, **MASK)
    assert list(reference.obs) == before


def test_columns_without_cells_are_ignored_with_a_message(reference, said):
    masked(reference)
    reference.varm["mask"]["elsewhere"] = True
    manager_of(reference, **MASK)
    assert any("columns of no batch that has cells: ['elsewhere']" in text for text in said)


def test_a_mask_needs_batches(reference):
    with pytest.raises(
        ValueError, match="`gene_mask_key='mask'` says which genes were measured in each batch.*batch_key"
    ):
        SCDGD.setup_anndata(masked(reference), gene_mask_key="mask")
