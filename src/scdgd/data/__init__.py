"""What enters: registry fields, count validation, the splitter."""

from ._categories import BatchField, LabelsField, MuDataBatchField, MuDataLabelsField
from ._counts import CountSummary, check_counts, iter_row_blocks
from ._fields import CellIndexField, CountsField, MuDataCellIndexField, MuDataCountsField, find_rows
from ._splitter import WholeDataSplitter

__all__ = [
    "BatchField",
    "CellIndexField",
    "CountSummary",
    "CountsField",
    "LabelsField",
    "MuDataBatchField",
    "MuDataCellIndexField",
    "MuDataCountsField",
    "MuDataLabelsField",
    "WholeDataSplitter",
    "check_counts",
    "find_rows",
    "iter_row_blocks",
]
