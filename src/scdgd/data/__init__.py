"""What enters: registry fields, count validation, the splitter."""

from ._backed_counts import BackedCounts
from ._categories import BatchField, LabelsField, MuDataBatchField, MuDataLabelsField
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
    TrainedCells,
    find_rows,
)
from ._layers import counts_of
from ._loader import RunShuffledSampler, SparseCountsDataset, SparseCountsLoader
from ._sparse_counts import SparseCounts, as_sparse_counts
from ._splitter import SparseCountsSplitter, WholeDataSplitter

__all__ = [
    "BackedCounts",
    "BatchField",
    "CategoricalCovariatesField",
    "CellIndexField",
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
    "TrainedCells",
    "WholeDataSplitter",
    "as_sparse_counts",
    "check_counts",
    "counts_of",
    "find_rows",
    "iter_row_blocks",
]
