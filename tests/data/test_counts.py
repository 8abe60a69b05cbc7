"""Validation of counts: every storage format, every block, and messages that name the culprit."""

from __future__ import annotations

import warnings

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

from scdgd.data import _cell_source, check_counts, iter_row_blocks
from tests.pairs import pairs

N_CELLS, N_GENES = 7, 5
CELLS = [f"cell_{i}" for i in range(N_CELLS)]
GENES = [f"gene_{j}" for j in range(N_GENES)]

FORMATS = {
    "csr_matrix": sparse.csr_matrix,
    "csc_matrix": sparse.csc_matrix,
    "csr_array": sparse.csr_array,
    "csc_array": sparse.csc_array,
    "dense": np.array,
    "fortran": np.asfortranarray,
    "strided": lambda x: np.repeat(np.repeat(x, 2, axis=0), 2, axis=1)[::2, ::2],
}
every_format = pytest.mark.parametrize("to_format", FORMATS.values(), ids=FORMATS.keys())
BACKED = {"csr": sparse.csr_matrix, "csc": sparse.csc_matrix, "dense": np.array}
every_backing = pytest.mark.parametrize("to_backed", BACKED.values(), ids=BACKED.keys())


#: Rows that are looked at together; ``None`` for all.
BLOCKS = (None, 1, 2, 3)


@pytest.fixture
def in_blocks(monkeypatch):
    """A function that makes checks run with blocks of so many rows."""

    def use(rows: int | None) -> None:
        if rows is not None:
            monkeypatch.setattr(_cell_source, "iter_row_blocks", lambda x, _: iter_row_blocks(x, rows * N_GENES))

    return use


def valid_counts(seed: int = 0) -> np.ndarray:
    """Sparse-ish counts without empty cells or genes, float64."""
    counts = np.random.default_rng(seed).poisson(1.0, size=(N_CELLS, N_GENES)).astype(float)
    counts[np.arange(N_CELLS), np.arange(N_CELLS) % N_GENES] += 1
    return counts


def check(counts):
    return check_counts(counts, CELLS, GENES, "adata.layers['raw']")


def to_h5ad(counts, path) -> ad.AnnData:
    """The counts in a file, opened in backed mode."""
    adata = ad.AnnData(counts)
    adata.obs_names, adata.var_names = CELLS, GENES
    adata.write_h5ad(path)
    return ad.read_h5ad(path, backed="r")


@pairs(to_format=FORMATS, dtype=["float32", "float64", "int64", "uint8"], rows=BLOCKS)
def test_totals_and_fingerprints_do_not_depend_on_storage(to_format, dtype, rows, in_blocks):
    in_blocks(rows)
    counts = valid_counts()
    stored = to_format(counts.astype(dtype))
    totals, fingerprints, _ = check(stored)
    np.testing.assert_array_equal(totals, counts.sum(axis=1))
    assert fingerprints.dtype == np.uint64
    np.testing.assert_array_equal(fingerprints, check(sparse.csr_matrix(counts)).fingerprints)


@every_format
def test_boolean_counts(to_format):
    counts = valid_counts() > 1
    counts[np.arange(N_CELLS), np.arange(N_CELLS) % N_GENES] = True
    totals, fingerprints, _ = check(to_format(counts))
    np.testing.assert_array_equal(totals, counts.sum(axis=1))
    np.testing.assert_array_equal(fingerprints, check(counts.astype(float)).fingerprints)


@pairs(to_backed=BACKED, rows=BLOCKS)
def test_backed_counts(to_backed, rows, in_blocks, tmp_path):
    in_blocks(rows)
    counts = valid_counts()
    backed = to_h5ad(to_backed(counts.astype(np.float32)), tmp_path / "counts.h5ad")
    totals, fingerprints, _ = check(backed.X)
    np.testing.assert_array_equal(totals, counts.sum(axis=1))
    np.testing.assert_array_equal(fingerprints, check(counts).fingerprints)
    backed.file.close()


def test_explicit_zeros_and_unsorted_indices_change_nothing():
    counts = valid_counts()
    columns = np.random.default_rng(0).permuted(np.tile(np.arange(N_GENES), (N_CELLS, 1)), axis=1)
    data = np.take_along_axis(counts, columns, axis=1).ravel()
    messy = sparse.csr_matrix((data, columns.ravel(), np.arange(N_CELLS + 1) * N_GENES), shape=counts.shape)
    assert not messy.has_sorted_indices
    assert (messy.data == 0).any()
    summary = check(messy)
    np.testing.assert_array_equal(summary.totals, counts.sum(axis=1))
    np.testing.assert_array_equal(summary.fingerprints, check(counts).fingerprints)
    np.testing.assert_array_equal(messy.data, data)
    np.testing.assert_array_equal(messy.indices, columns.ravel())


def test_fingerprints_tell_cells_apart():
    """One count more, two counts swapped, or the same counts at other genes: three other cells."""
    counts = np.array([[1, 2, 0, 3, 1], [1, 2, 0, 4, 1], [2, 1, 0, 3, 1], [1, 2, 3, 0, 1], [1, 2, 0, 3, 1]])
    fingerprints = check_counts(counts, CELLS[:5], GENES, "adata.X").fingerprints
    assert len(np.unique(fingerprints)) == 4
    assert fingerprints[0] == fingerprints[4]


def test_fingerprints_do_not_collide_on_small_counts():
    counts = np.random.default_rng(0).poisson(0.1, size=(5_000, 300))
    counts[:, 0] += 1
    fingerprints = check_counts(counts, np.arange(5_000), np.arange(300), "adata.X").fingerprints
    assert len(np.unique(fingerprints)) == len(np.unique(counts, axis=0))


# offending values

PROBLEMS = {
    "negative": (-2.0, "negative values"),
    "fractional": (0.5, "integer"),
    "log-normalised": (np.log1p(3.7), "integer"),
    "nan": (np.nan, "NaN or infinite"),
    "inf": (np.inf, "NaN or infinite"),
    "-inf": (-np.inf, "NaN or infinite"),
}


@pairs(to_format=FORMATS, problem=PROBLEMS, rows=BLOCKS)
def test_offending_value_in_the_last_cell_is_named(to_format, problem, rows, in_blocks):
    in_blocks(rows)
    value, match = problem
    counts = valid_counts().astype(np.float32)
    counts[-1, 3] = value
    with pytest.raises(ValueError, match=match) as error:
        check(to_format(counts))
    assert f"cell cell_{N_CELLS - 1}, gene gene_3: {value:g}" in str(error.value)
    assert "adata.layers['raw']" in str(error.value)


@pairs(to_backed=BACKED, problem=PROBLEMS, rows=BLOCKS)
def test_offending_value_in_a_file_is_named(to_backed, problem, rows, in_blocks, tmp_path):
    in_blocks(rows)
    value, match = problem
    counts = valid_counts()
    counts[-1, 3] = value
    backed = to_h5ad(to_backed(counts), tmp_path / "counts.h5ad")
    with pytest.raises(ValueError, match=f"{match}.*cell cell_{N_CELLS - 1}, gene gene_3: {value:g}"):
        check(backed.X)
    backed.file.close()


@every_format
@pytest.mark.parametrize("dtype", ["int8", "int64"])
def test_negative_integers_are_found(to_format, dtype):
    counts = valid_counts().astype(dtype)
    counts[2, 1] = -1
    with pytest.raises(ValueError, match="negative values, first in cell cell_2, gene gene_1: -1"):
        check(to_format(counts))


@pytest.mark.parametrize("value", [-1.0, 0.5, np.nan])
def test_remedy_is_offered(value):
    counts = valid_counts()
    counts[0, 0] = value
    remedy = "Load the raw counts again" if np.isnan(value) else r"setup_anndata\(adata, layer='counts'\)"
    with pytest.raises(ValueError, match=remedy):
        check(counts)


def test_at_most_five_culprits_are_named():
    counts = valid_counts() + 0.5
    with pytest.raises(ValueError, match="integer") as error:
        check(counts)
    assert str(error.value).count("gene_") == 5


def test_complex_counts_are_no_numbers_of_molecules():
    with pytest.raises(TypeError, match="must hold numbers, but its dtype is complex128"):
        check(valid_counts().astype(complex))


# empty cells and genes


@pytest.mark.parametrize(
    ("to_format", "rows"), [(to_format, BLOCKS[i % 4]) for i, to_format in enumerate(FORMATS.values())]
)
def test_empty_cells_are_named_with_the_remedy(to_format, rows, in_blocks):
    in_blocks(rows)
    counts = valid_counts()
    counts[[2, 6]] = 0
    with pytest.raises(ValueError, match=r"2 of 7 cells .*first: cell_2, cell_6.*filter_cells\(adata, min_counts=1\)"):
        check(to_format(counts))


@every_backing
def test_empty_cells_in_a_file_are_named(to_backed, tmp_path):
    counts = valid_counts()
    counts[6] = 0
    backed = to_h5ad(to_backed(counts), tmp_path / "counts.h5ad")
    with pytest.raises(ValueError, match="first: cell_6"):
        check(backed.X)
    backed.file.close()


@pytest.mark.parametrize(
    ("to_format", "rows"), [(to_format, BLOCKS[i % 4]) for i, to_format in enumerate(FORMATS.values())]
)
def test_empty_genes_give_exactly_one_warning(to_format, rows, in_blocks):
    in_blocks(rows)
    counts = valid_counts()
    counts[:, [1, 4]] = 0
    counts[:, 0] += 1
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        check(to_format(counts))
    (warning,) = caught
    assert warning.category is UserWarning
    assert "2 of 5 genes" in str(warning.message)
    assert "first: gene_1, gene_4" in str(warning.message)
    assert "filter_genes" in str(warning.message)


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
@pytest.mark.parametrize("to_format", [np.zeros, sparse.csr_matrix], ids=["dense", "csr"])
def test_matrices_of_size_zero(shape, to_format):
    with pytest.raises(ValueError, match=f"has {shape[0]} cells and {shape[1]} genes; both must be at least 1"):
        check_counts(to_format(shape), CELLS[: shape[0]], GENES[: shape[1]], "adata.X")


def test_one_cell_and_one_gene():
    totals, _, largest = check_counts(np.array([[3]]), ["a"], ["b"], "adata.X")
    assert totals.tolist() == [3.0]
    assert largest == 3


# blocks


@every_format
@pytest.mark.parametrize("rows", [1, 2, 3, 7, 100])
def test_blocks_cover_all_rows_once(to_format, rows):
    counts = valid_counts()
    seen = list(iter_row_blocks(to_format(counts), max_elements=rows * N_GENES))
    assert [first for first, _ in seen] == list(range(0, N_CELLS, rows))
    assert all(block.shape[0] <= rows for _, block in seen)
    dense = [block.toarray() if sparse.issparse(block) else block for _, block in seen]
    np.testing.assert_array_equal(np.vstack(dense), counts)


def test_blocks_of_sparse_counts_are_csr_and_of_dense_counts_dense():
    counts = valid_counts()
    for to_sparse in (sparse.csr_matrix, sparse.csc_array):
        assert all(isinstance(block, sparse.csr_matrix) for _, block in iter_row_blocks(to_sparse(counts)))
    assert all(isinstance(block, np.ndarray) for _, block in iter_row_blocks(counts))


@pytest.mark.parametrize("name", ["coo", "lil", "dok", "bsr", "dia"])
@pytest.mark.parametrize("kind", ["matrix", "array"])
def test_blocks_of_every_sparse_format(name, kind):
    counts = valid_counts()
    blocks = iter_row_blocks(getattr(sparse, f"{name}_{kind}")(counts), max_elements=2 * N_GENES)
    np.testing.assert_array_equal(np.vstack([block.toarray() for _, block in blocks]), counts)


def test_a_row_longer_than_a_block_is_one_block():
    assert [first for first, _ in iter_row_blocks(valid_counts(), max_elements=2)] == list(range(N_CELLS))
