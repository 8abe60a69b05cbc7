"""Registration of data."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scvi.utils import setup_anndata_dsp

from scdgd._compat import make_actual, register_manager
from scdgd._options import checked_by, unknown_name
from scdgd.data import (
    BatchField,
    CategoricalCovariatesField,
    CellIndexField,
    CellRegistration,
    ContinuousCovariatesField,
    CountsField,
    LabelsField,
    MuDataBatchField,
    MuDataCategoricalCovariatesField,
    MuDataCellIndexField,
    MuDataContinuousCovariatesField,
    MuDataCountsField,
    MuDataLabelsField,
    MuDataSizeFactorField,
    SizeFactorField,
    unchanged_if_refused,
)

from ._arguments import SETUP

if TYPE_CHECKING:
    from anndata import AnnData
    from mudata import MuData
    from scvi.data.fields import BaseAnnDataField

#: What scvi-tools hands on when it registers data for a model that exists.
_OF_TRANSFER = ("source_registry", "extend_categories", "allow_missing_labels")


class SetupMixin:
    """Validated counts, and the columns that models know."""

    @classmethod
    @setup_anndata_dsp.dedent
    @checked_by(SETUP)
    def setup_anndata(
        cls,
        adata: AnnData,
        layer: str | None = None,
        batch_key: str | None = None,
        labels_key: str | None = None,
        size_factor_key: str | None = None,
        categorical_covariate_keys: list[str] | None = None,
        continuous_covariate_keys: list[str] | None = None,
        *,
        is_count_data: bool = True,
        standardize_covariates: bool = True,
        **kwargs: Any,
    ) -> None:
        """%(summary)s

        All counts are validated: they must be non-negative integers, with at least one count per cell. A view becomes
        an AnnData of its own, and sparse *arrays* become the equal sparse matrices. Categories that no cell has are not
        registered. A model keeps the codes of its cells: what is set up later on the same AnnData does not concern it.

        Parameters
        ----------
        %(param_adata)s
        %(param_layer)s
        %(param_batch_key)s
        %(param_labels_key)s
        %(param_size_factor_key)s
        %(param_cat_cov_keys)s
        %(param_cont_cov_keys)s
        is_count_data
            If not, values only have to be finite, and only ``gene_likelihood="normal"`` takes them.
        standardize_covariates
            Whether continuous covariates are brought to mean zero and standard deviation one, by those of these cells,
            before a network takes them. ``False`` takes them in their units, as scvi-tools does; values of other size than
            one then cost likelihood, or end training.

        Raises
        ------
        ValueError
            If counts, names or columns are not as they must be; the message names cells, genes and the remedy.
        TypeError
            If counts stand in an array that is not read, or an argument is of another kind.
        """
        make_actual(adata)
        setup_method_args = cls._get_setup_method_args(**locals())
        counts, *further = cls._counts_fields(adata, layer, is_count_data)
        fields = [
            counts,
            *further,
            BatchField(batch_key),
            LabelsField(labels_key),
            *([] if size_factor_key is None else [SizeFactorField(size_factor_key)]),
            CategoricalCovariatesField(categorical_covariate_keys),
            ContinuousCovariatesField(continuous_covariate_keys, standardise=standardize_covariates),
            *cls._fields_written(counts),
        ]
        cls._register(adata, fields, setup_method_args, kwargs)

    @classmethod
    def _counts_fields(cls, adata: AnnData, layer: str | None, is_count_data: bool) -> list[BaseAnnDataField]:
        """Field of the counts, and those that come with it."""
        return [CountsField(layer, holds_counts=is_count_data)]

    @classmethod
    def _fields_written(cls, counts: CountsField) -> list[BaseAnnDataField]:
        """Fields that write columns of their own; registered last, so that a wrong argument leaves the data as they were."""
        return []

    @classmethod
    def _register(cls, data: AnnData | MuData, fields: list, setup_method_args: dict, options: dict) -> None:
        for name in options:
            if name not in _OF_TRANSFER:
                known = [*setup_method_args["setup_args"], *_OF_TRANSFER]
                raise TypeError(unknown_name(name, known, f"an argument of {cls.__name__}.setup_anndata"))
        manager = CellRegistration(fields=fields, setup_method_args=setup_method_args)
        with unchanged_if_refused(data):
            manager.register_fields(data, **options)
        register_manager(cls, manager)


class CellSetupMixin(SetupMixin):
    """Registration of cells that have a row each, of AnnData or MuData."""

    @classmethod
    def _fields_written(cls, counts: CountsField) -> list[BaseAnnDataField]:
        return [CellIndexField(counts)]

    @classmethod
    @setup_anndata_dsp.dedent
    @checked_by(SETUP)
    def setup_mudata(
        cls,
        mdata: MuData,
        layer: str | None = None,
        batch_key: str | None = None,
        labels_key: str | None = None,
        size_factor_key: str | None = None,
        categorical_covariate_keys: list[str] | None = None,
        continuous_covariate_keys: list[str] | None = None,
        modalities: dict[str, str] | None = None,
        *,
        standardize_covariates: bool = True,
        **kwargs: Any,
    ) -> None:
        """%(summary_mdata)s

        Parameters
        ----------
        %(param_mdata)s
        layer
            Layer of the counts in their modality; ``None`` for its ``X``.
        %(param_batch_key)s
        %(param_labels_key)s
        %(param_size_factor_key)s
        %(param_cat_cov_keys)s
        %(param_cont_cov_keys)s
        %(param_modalities)s
            ``modalities={"layer": "rna"}`` is the least: the modality of the counts. Arguments that are not named are
            looked up in ``mdata.obs``.
        standardize_covariates
            As for :meth:`setup_anndata`.

        Raises
        ------
        ValueError
            As :meth:`setup_anndata`, and if no modality is named for the counts.
        TypeError
            If it is no MuData.
        """
        setup_method_args = cls._get_setup_method_args(**locals())
        if not modalities or "layer" not in modalities:
            msg = f"Name the modality of the counts: `modalities={{'layer': ...}}`, one of {list(mdata.mod)}."
            raise ValueError(msg)
        of = cls._create_modalities_attr_dict(modalities, setup_method_args)
        counts = MuDataCountsField(layer, mod_key=of.layer, mod_required=True)
        fields = [
            counts,
            MuDataBatchField(batch_key, mod_key=of.batch_key),
            MuDataLabelsField(labels_key, mod_key=of.labels_key),
            *([] if size_factor_key is None else [MuDataSizeFactorField(size_factor_key, mod_key=of.size_factor_key)]),
            MuDataCategoricalCovariatesField(categorical_covariate_keys, mod_key=of.categorical_covariate_keys),
            MuDataContinuousCovariatesField(
                continuous_covariate_keys,
                standardise=standardize_covariates,
                mod_key=of.continuous_covariate_keys,
            ),
            MuDataCellIndexField(counts.adata_field, mod_key=of.layer, mod_required=True),
        ]
        cls._register(mdata, fields, setup_method_args, kwargs)
