"""What enters: registry fields, count validation, the splitter."""

from ._backed_counts import BackedCounts
from ._categories import BatchField, LabelsField, MuDataBatchField, MuDataLabelsField, categorise, code_of
from ._counts import CountSummary, check_counts, iter_row_blocks
from ._covariates import (
    CategoricalCovariatesField,
    ContinuousCovariatesField,
    MuDataCategoricalCovariatesField,
    MuDataContinuousCovariatesField,
    MuDataSizeFactorField,
    SizeFactorField,
)
from ._fields import (
    CellIndexField,
    CountsField,
    MuDataCellIndexField,
    MuDataCountsField,
    find_rows,
)
from ._first_cells import first_cells
from ._layers import counts_of
from ._loader import RunShuffledSampler, SparseCountsDataset, SparseCountsLoader
from ._matrix import as_native, require_matrix
from ._registration import CellRegistration, ChangedDataError, unchanged_if_refused
from ._sparse_counts import SparseCounts, as_sparse_counts
from ._splitter import SparseCountsSplitter

__all__ = [
    "BackedCounts",
    "BatchField",
    "CategoricalCovariatesField",
    "CellIndexField",
    "CellRegistration",
    "ChangedDataError",
    "ContinuousCovariatesField",
    "CountSummary",
    "CountsField",
    "LabelsField",
    "MuDataBatchField",
    "MuDataCategoricalCovariatesField",
    "MuDataCellIndexField",
    "MuDataContinuousCovariatesField",
    "MuDataCountsField",
    "MuDataLabelsField",
    "MuDataSizeFactorField",
    "RunShuffledSampler",
    "SizeFactorField",
    "SparseCounts",
    "SparseCountsDataset",
    "SparseCountsLoader",
    "SparseCountsSplitter",
    "as_native",
    "as_sparse_counts",
    "categorise",
    "code_of",
    "check_counts",
    "counts_of",
    "find_rows",
    "first_cells",
    "iter_row_blocks",
    "require_matrix",
    "unchanged_if_refused",
]
