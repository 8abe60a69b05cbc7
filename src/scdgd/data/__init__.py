"""What enters: registry fields, count validation, the splitter."""

from ._ann_collection import Cells, as_anndata, is_prepared_collection
from ._backed_counts import BackedCounts, Runs
from ._categories import BatchField, LabelsField, MuDataBatchField, MuDataLabelsField, categorise, code_of, column_of
from ._cell_source import (
    CellsInCompressedRows,
    CellsInFile,
    CellsInMemory,
    CellsOfPanel,
    CellSource,
    cell_source,
    iter_row_blocks,
    registered_cells,
)
from ._cells_of_modality import CellsOfModality
from ._cells_on_device import CellsOnDevice, DeviceCounts, begins_of, on_device
from ._counts import CountSummary, check_counts
from ._covariates import (
    CategoricalCovariatesField,
    ContinuousCovariatesField,
    MuDataCategoricalCovariatesField,
    MuDataContinuousCovariatesField,
    MuDataSizeFactorField,
    SizeFactorField,
    in_units,
)
from ._fields import CellIndexField, CountsField, MuDataCellIndexField, MuDataCountsField, find_rows
from ._first_cells import first_cells
from ._gene_mask import GeneMaskField, MuDataGeneMaskField
from ._gene_panel import GenePanel
from ._genes_measured import GenesMeasured
from ._joined_modalities import MODALITY_KEY, joined_modalities, joined_proteins, last_joined
from ._layers import counts_of
from ._levels import Levels, Variable, has_levels, levels_of, refuse_levels
from ._loader import RunShuffledSampler, SparseCountsDataset, SparseCountsLoader
from ._matrix import as_native, in_memory, require_matrix
from ._minibatches_together import MinibatchesTogether, minibatches_of
from ._modalities import MODALITIES
from ._modality_counts import ModalityCountsField, modalities_in
from ._padded import padded_to
from ._read_backed import read_backed, zarr_module
from ._registration import CellRegistration, ChangedDataError, unchanged_if_refused
from ._sparse_counts import SparseCounts, as_sparse_counts
from ._splitter import SparseCountsSplitter
from ._stacked_counts import StackedCounts
from ._write_collection import write_collection

__all__ = [
    "Cells",
    "as_anndata",
    "is_prepared_collection",
    "MinibatchesTogether",
    "minibatches_of",
    "BackedCounts",
    "BatchField",
    "CategoricalCovariatesField",
    "CellIndexField",
    "CellRegistration",
    "CellSource",
    "CellsInCompressedRows",
    "CellsInFile",
    "CellsInMemory",
    "CellsOfModality",
    "CellsOfPanel",
    "CellsOnDevice",
    "ChangedDataError",
    "ContinuousCovariatesField",
    "CountSummary",
    "CountsField",
    "DeviceCounts",
    "GeneMaskField",
    "GenePanel",
    "GenesMeasured",
    "LabelsField",
    "Levels",
    "MODALITIES",
    "MODALITY_KEY",
    "ModalityCountsField",
    "MuDataBatchField",
    "MuDataCategoricalCovariatesField",
    "MuDataCellIndexField",
    "MuDataContinuousCovariatesField",
    "MuDataCountsField",
    "MuDataGeneMaskField",
    "MuDataLabelsField",
    "MuDataSizeFactorField",
    "RunShuffledSampler",
    "Runs",
    "SizeFactorField",
    "SparseCounts",
    "SparseCountsDataset",
    "SparseCountsLoader",
    "SparseCountsSplitter",
    "StackedCounts",
    "Variable",
    "as_native",
    "as_sparse_counts",
    "begins_of",
    "categorise",
    "cell_source",
    "code_of",
    "column_of",
    "check_counts",
    "counts_of",
    "find_rows",
    "first_cells",
    "has_levels",
    "in_units",
    "in_memory",
    "iter_row_blocks",
    "joined_modalities",
    "joined_proteins",
    "last_joined",
    "levels_of",
    "on_device",
    "modalities_in",
    "padded_to",
    "read_backed",
    "refuse_levels",
    "registered_cells",
    "require_matrix",
    "unchanged_if_refused",
    "write_collection",
    "zarr_module",
]
