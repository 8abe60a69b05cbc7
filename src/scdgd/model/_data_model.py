"""The data that a model stands on: set up, compared with what was set up before each use, saved and loaded with the model."""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from anndata import AnnData
from mudata import MuData
from scvi import REGISTRY_KEYS
from scvi.data import AnnDataManager
from scvi.model.base import BaseModelClass
from scvi.utils import setup_anndata_dsp

from scdgd._compat import (
    assign_uuid,
    forget_manager,
    forget_model,
    get_adata_minify_type,
    get_state_registry,
    is_registered,
    known_manager,
    make_actual,
    register_manager,
)
from scdgd._constants import CHECKPOINT_FORMAT
from scdgd._model_file import ATTRIBUTES_KEY, STATE_KEY, VAR_NAMES_KEY, find_data, read_model, write_model
from scdgd._options import Integer, Optional, checked, checked_by, unknown_name
from scdgd.data import (
    BatchField,
    CategoricalCovariatesField,
    CellRegistration,
    ContinuousCovariatesField,
    CountsField,
    GeneMaskField,
    LabelsField,
    SizeFactorField,
    StackedCounts,
    as_anndata,
    in_units,
    unchanged_if_refused,
)
from scdgd.train import pack_history

from ._arguments import SETUP
from ._cells import positions_of
from ._description import describe
from ._devices import device_of
from ._saving import HISTORY, LOADING, PREFIX, SAVING, check_storable, initialised, plain, read_data
from ._training_options import check_reading

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence
    from typing import Self

    import pandas as pd
    from scvi.data.fields import BaseAnnDataField
    from scvi.train import Trainer
    from torch.utils.data import DataLoader

#: What scvi-tools hands on when it registers data for a model that exists.
_OF_TRANSFER = ("source_registry", "extend_categories", "allow_missing_labels")


class NoNetworksError(ValueError, AttributeError):
    """A model that was made without data is used before a data module has said what it is for.

    Where scvi-tools has no words its users catch an :class:`AttributeError`, of the module that is not there.
    """


class DataModel:
    """What all models do with data and with files.

    The AnnData that a model stands on must stay what it was; what has changed in place is refused in words (see
    :class:`~scdgd.data.CellRegistration`). Others are registered anew where they have changed. Files are as scvi-tools lays
    them out, written whole or not at all, and checked when they are read.
    """

    #: Of the last training; ``None`` where none needed one, as placing the cells of a query.
    trainer: Trainer | None = None
    _is_forgotten_with_me = False
    #: Whether new levels of batch and covariates are registered, for the model to find vectors of them or to refuse them.
    _keeps_new_levels = False
    #: Whether cells may lack genes of the model, each with its own panel; a model that needs all genes refuses it in words.
    _takes_gene_panels: ClassVar[bool] = True
    #: Parts of the model by name, in words; see :meth:`_describe`.
    _parts: Mapping[str, str] = MappingProxyType({})
    #: Arguments of the constructor that files of earlier versions do not have, and what they meant.
    _former_arguments: ClassVar[dict[str, Any]] = {}

    def __init__(
        self, adata: AnnData | MuData | None = None, registry: dict | None = None, *args: Any, **kwargs: Any
    ) -> None:
        if adata is None and registry is None:
            msg = "A model stands on data: pass the AnnData that `setup_anndata` of its class set up, or the `registry` of one that was."
            raise ValueError(msg)
        super().__init__(adata, registry, *args, **kwargs)

    def _describe(self, **parts: str) -> None:
        """Keep what is printed of the model's parts; scvi-tools' summary has it in a line."""
        self._parts = {name.replace("_", " "): text for name, text in parts.items()}
        self._model_summary_string = f"{type(self).__name__}: " + "; ".join(f"{k} {v}" for k, v in self._parts.items())

    def __repr__(self) -> str:
        return str(describe(self, self._parts))

    def _repr_html_(self) -> str:
        return describe(self, self._parts).to_html()

    @property
    def _constructed_with(self) -> dict[str, dict[str, Any]]:
        """Arguments of the constructor, as scvi-tools keeps them."""
        return self.init_params_

    @property
    def adata(self) -> AnnData | MuData | None:
        """The data that the model stands on."""
        return self._adata

    @adata.setter
    def adata(self, adata: AnnData | MuData) -> None:
        BaseModelClass.adata.fset(self, as_anndata(adata))
        self.module.minified_data_type = getattr(self, "minified_data_type", None)

    def _validate_anndata(self, adata: AnnData | MuData | None = None, copy_if_view: bool = True) -> AnnData | MuData:
        self._check_made()
        if adata is None and self.adata is None:
            msg = "The model was loaded without data: pass `adata`, or attach one with `model.adata = adata`."
            raise ValueError(msg)
        adata = as_anndata(adata)
        if not isinstance(adata, AnnData | MuData | None):
            msg = f"`adata` must be an AnnData (or MuData) with the genes of the model, got {type(adata).__name__}."
            raise TypeError(msg)
        if adata is None or adata is self._adata:
            self.adata_manager.validate()
            return self._adata
        registered = known_manager(self, adata)
        if registered is not None and _has_changed(registered):
            forget_manager(self, registered)
        return super()._validate_anndata(adata, copy_if_view)

    def _wait_for_cells(self, arguments: dict[str, dict[str, Any]]) -> None:
        """Have no networks until a data module says for which genes and batches."""
        self._adata = self._adata_manager = self.module = self.history_ = None
        self._module_init_on_train, self.is_trained_ = True, False
        self.init_params_ = arguments

    def _stand_on(self, registry: dict) -> None:
        """Have the networks that were asked for, for the genes and batches of a registry."""
        made = initialised(type(self), None, registry, {"init_params_": self._constructed_with})
        vars(self).update(vars(made))

    def _check_made(self) -> None:
        """Raise :class:`NoNetworksError` while the model has no networks yet."""
        if self._module_init_on_train:
            msg = (
                "The model was made without data, so it has no networks before `train(datamodule=...)`. Make it with an AnnData "
                "that was set up, or with a `registry`, to use it otherwise."
            )
            raise NoNetworksError(msg)

    def get_anndata_manager(self, adata: AnnData | MuData, required: bool = False) -> AnnDataManager | None:
        """As in scvi-tools; the attached data are known even if ``uns`` has lost their mark."""
        if adata is not None and adata is self._adata and self.adata_manager.adata is adata:
            assign_uuid(self.adata_manager)
            return self.adata_manager
        return super().get_anndata_manager(adata, required)

    def get_from_registry(self, adata: AnnData | MuData, registry_key: str) -> np.ndarray | pd.DataFrame:
        """As in scvi-tools: values of cells that were set up, continuous covariates in their units.

        Networks take these as :class:`~scdgd.data.ContinuousCovariatesField` standardises them.

        Parameters
        ----------
        adata
            Data of the model, or others that it has read.
        registry_key
            Key of the registry, one of :data:`scvi.REGISTRY_KEYS`.

        Returns
        -------
        Values of the ``n`` cells, of the shape that was registered.
        """
        values = super().get_from_registry(adata, registry_key)
        if registry_key != REGISTRY_KEYS.CONT_COVS_KEY:
            return values
        return in_units(values, self.get_anndata_manager(adata, required=True).get_state_registry(registry_key))

    def _register_manager_for_instance(self, adata_manager: AnnDataManager) -> None:
        super()._register_manager_for_instance(adata_manager)
        weakref.finalize(adata_manager.adata, forget_manager, weakref.ref(self), adata_manager).atexit = False
        if not self._is_forgotten_with_me:
            weakref.finalize(self, forget_model, type(self), self.id).atexit = False
            self._is_forgotten_with_me = True

    def get_var_names(self, legacy_mudata_format: bool = False) -> np.ndarray | dict[str, np.ndarray]:
        """Names of the genes of the model, whatever the attached data have become.

        Parameters
        ----------
        legacy_mudata_format
            As in scvi-tools, for MuData.

        Returns
        -------
        Names, shape ``(g,)``; of MuData, names of each modality.
        """
        genes = self._genes
        if not isinstance(self.adata, MuData):
            return genes
        names = super().get_var_names(legacy_mudata_format)
        return names if legacy_mudata_format else names | {self._counts_modality: genes}

    @property
    def _genes(self) -> np.ndarray:
        """Names of the genes, shape ``(g,)``."""
        return np.asarray(get_state_registry(self.registry, REGISTRY_KEYS.X_KEY)["column_names"]).astype(str)

    @property
    def _counts_modality(self) -> str:
        return self.adata_manager.data_registry[REGISTRY_KEYS.X_KEY].mod_key

    def _make_data_loader(
        self,
        adata: AnnData | MuData,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        **kwargs: Any,
    ) -> DataLoader:
        check_reading(kwargs)
        batch_size = Optional(Integer(1))("batch_size", batch_size)
        indices = None if indices is None else positions_of(indices, adata.n_obs)
        return super()._make_data_loader(adata, indices=indices, batch_size=batch_size, **kwargs)

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
        gene_mask_key: str | None = None,
        unlabeled_category: str | float | None = None,
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
        gene_mask_key
            Key of ``adata.varm``, for cells that were measured with different panels: a data frame of truth values, genes by
            batches, whose columns are called by the batches in ``adata.obs[batch_key]`` (or an array of a column for each, in
            their order). Genes that were not measured in a batch leave the likelihood of its cells; their counts must be
            zero. Needs `batch_key`.
        unlabeled_category
            What stands in the column of labels for a cell without one, as in :class:`scvi.model.SCANVI`; a missing value does so
            always. It is no category of the model. Labels of new cells that the model does not know count as none, with a
            warning.
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
        cls._check_mask(gene_mask_key, batch_key)
        make_actual(adata)
        setup_method_args = cls._get_setup_method_args(**locals())
        counts = cls._counts_fields(adata, layer, is_count_data)
        cls._register(adata, cls._fields(counts, setup_method_args["setup_args"]), setup_method_args, kwargs)

    @classmethod
    def _fields(cls, counts: Sequence[BaseAnnDataField], of: dict[str, Any]) -> list[BaseAnnDataField]:
        """Fields of counts, and those of columns that the arguments of set-up name."""
        batch, size_factor_key, mask = (
            BatchField(of["batch_key"], keeps_new=cls._keeps_new_levels),
            of.get("size_factor_key"),
            of.get("gene_mask_key"),
        )
        return [
            *counts,
            batch,
            LabelsField(of["labels_key"], of["unlabeled_category"]),
            *([] if size_factor_key is None else [SizeFactorField(size_factor_key)]),
            CategoricalCovariatesField(of["categorical_covariate_keys"], keeps_new=cls._keeps_new_levels),
            ContinuousCovariatesField(of["continuous_covariate_keys"], standardise=of["standardize_covariates"]),
            *([] if mask is None else [GeneMaskField(mask, counts[0], batch)]),
            *cls._fields_written(counts[0]),
        ]

    @classmethod
    def _check_mask(cls, gene_mask_key: str | None, batch_key: str | None) -> None:
        """Raise ValueError for a mask of genes that the model does not take, or without batches."""
        if gene_mask_key is None:
            return
        if not cls._takes_gene_panels:
            msg = (
                f"{cls.__name__} needs counts of all genes in all cells, so `gene_mask_key={gene_mask_key!r}` has no meaning here. "
                "Train it on the genes that all batches share, or take a model that leaves genes out of the likelihood of "
                "cells, such as SCDGD."
            )
            raise ValueError(msg)
        if batch_key is None:
            msg = f"`gene_mask_key={gene_mask_key!r}` says which genes were measured in each batch: name these by `batch_key`."
            raise ValueError(msg)

    @classmethod
    def _counts_fields(cls, adata: AnnData, layer: str | None, is_count_data: bool) -> list[BaseAnnDataField]:
        """Field of the counts, and those that come with it."""
        return [CountsField(layer, holds_counts=is_count_data, takes_panels=cls._takes_gene_panels)]

    @classmethod
    def _fields_written(cls, counts: CountsField) -> list[BaseAnnDataField]:
        """Fields that write columns of their own; registered last, so that a wrong argument leaves the data as they were."""
        return []

    @classmethod
    def _fields_of_minified(cls, data: AnnData | MuData) -> list[BaseAnnDataField]:
        """Fields of what is kept of cells, where data are minified."""
        kind, fields = get_adata_minify_type(data), getattr(cls, "_get_fields_for_adata_minification", None)
        return [] if kind is None or fields is None else fields(kind)

    @classmethod
    def _register(cls, data: AnnData | MuData, fields: list, setup_method_args: dict, options: dict) -> None:
        for name in options:
            if name not in _OF_TRANSFER:
                known = [*setup_method_args["setup_args"], *_OF_TRANSFER]
                raise TypeError(unknown_name(name, known, f"an argument of {cls.__name__}.setup_anndata"))
        name, given = setup_method_args["setup_method_name"], setup_method_args["setup_args"]
        setup_method_args = setup_method_args | {"setup_args": cls._noted(name, given)}
        manager = CellRegistration(
            fields=fields, setup_method_args=setup_method_args, of_minified=cls._fields_of_minified
        )
        with unchanged_if_refused(data):
            manager.register_fields(data, **options)
        register_manager(cls, manager)

    @classmethod
    def _noted(cls, setup_method_name: str, setup_args: dict[str, Any]) -> dict[str, Any]:
        """Arguments of set-up without those at their defaults that scvi-tools does not have, which its models would not know."""
        own = {
            name: parameter.default
            for name, parameter in inspect.signature(getattr(cls, setup_method_name)).parameters.items()
            if parameter.kind is parameter.KEYWORD_ONLY
        }
        return {name: value for name, value in setup_args.items() if name not in own or value is not own[name]}

    @checked_by(SAVING)
    def save(
        self,
        dir_path: str | os.PathLike,
        prefix: str | None = None,
        overwrite: bool = False,
        save_anndata: bool = False,
        save_kwargs: dict | None = None,
        legacy_mudata_format: bool = False,
        datamodule: Any = None,
        **anndata_write_kwargs: Any,
    ) -> None:
        """Save the model, as :meth:`scvi.model.SCVI.save` does, so that nothing is lost if it is interrupted.

        Files are written beside those of a former model, flushed to the disk, and then take their places at once; other
        files in the folder stay. If saving fails or the process is killed, the former model is as it was.

        Parameters
        ----------
        dir_path
            Folder.
        prefix
            What names of files begin with.
        overwrite
            Whether the folder may be there, and a model in it be replaced.
        save_anndata
            Whether to save the data with it.
        save_kwargs
            Arguments of :func:`torch.save`.
        legacy_mudata_format, datamodule
            As in scvi-tools.
        **anndata_write_kwargs
            Arguments of the writer of the data.

        Raises
        ------
        ValueError
            If the folder is there and is not to be overwritten, there are no data to save, or the class of a prior cannot
            be named in a file.
        OSError
            If there is no space, or nothing may be written.
        """
        self._check_made()
        folder = Path(dir_path)
        if folder.exists() and not (overwrite and folder.is_dir()):
            what = "already exists" if folder.is_dir() else "is a file"
            msg = f"{dir_path} {what}. Please provide another directory for saving, or pass `overwrite=True`."
            raise ValueError(msg)
        if datamodule is not None:
            super().save(dir_path, prefix, overwrite, save_anndata, save_kwargs, legacy_mudata_format, datamodule)
            return
        if save_anndata and self.adata is None:
            msg = "`save_anndata=True` saves the data of the model, but it has none. Leave it out."
            raise ValueError(msg)
        if save_anndata and isinstance(getattr(self.adata, "X", None), StackedCounts):
            msg = (
                "The counts are in a collection, which AnnData does not write. Leave out `save_anndata=True`, and load the model with "
                "the collection: `adata=scdgd.data.read_backed(path)`, or `adata=AnnCollection(adatas, ...)`."
            )
            raise NotImplementedError(msg)
        check_storable(self._constructed_with)
        attributes = {name: value for name, value in self._get_user_attributes() if name.endswith("_")}
        history = attributes[HISTORY]
        attributes[HISTORY] = pack_history(history) if isinstance(history, Mapping) else history
        content = {
            STATE_KEY: dict(self.module.state_dict()),
            VAR_NAMES_KEY: plain(self.get_var_names(legacy_mudata_format=legacy_mudata_format)),
            ATTRIBUTES_KEY: plain(attributes),
        }
        folder.mkdir(parents=True, exist_ok=True)
        data = self.adata if save_anndata else None
        write_model(folder, prefix or "", content, data, save_kwargs or {}, anndata_write_kwargs)

    @classmethod
    @checked_by(LOADING)
    def load(
        cls,
        dir_path: str | os.PathLike,
        adata: AnnData | MuData | bool | None = None,
        accelerator: str = "auto",
        device: int | str = "auto",
        prefix: str | None = None,
        backup_url: str | None = None,
        datamodule: Any = None,
        allowed_classes_names_list: list[str] | None = None,
    ) -> Self:
        """A saved model, whose values are checked to be those that were saved.

        Parameters
        ----------
        dir_path
            Folder.
        adata
            Cells with the genes of the model, in any order, seen in training or not; the data that were saved with it if
            not given; ``False`` for none.
        accelerator, device
            Where the model is put, as in scvi-tools.
        prefix
            What names of files begin with.
        backup_url, datamodule
            As in scvi-tools.
        allowed_classes_names_list
            Names of other classes that the saved model may be of.

        Returns
        -------
        The model.

        Raises
        ------
        ValueError
            If there is no model, it is damaged, never written to its end, of another class, or of a later version; or the
            data do not fit it.
        """
        if backup_url is not None or datamodule is not None:
            options = (prefix, backup_url, datamodule, allowed_classes_names_list)
            return super().load(dir_path, adata, accelerator, device, *options)
        folder, prefix, device = Path(dir_path), prefix or "", device_of(accelerator, device)
        content = read_model(folder, prefix, device)
        attributes = dict(content[ATTRIBUTES_KEY])
        registry = attributes.pop("registry_")
        setup_method = registry.get("setup_method_name", "setup_anndata")
        registry["setup_args"] = cls._noted(setup_method, registry["setup_args"])  # earlier versions noted all
        saved = registry.get("model_name", cls.__name__)
        if saved not in (cls.__name__, *(allowed_classes_names_list or ())):
            msg = (
                f"It appears you are loading a model from a different class: {str(folder)!r} holds a {saved}, not a "
                f"{cls.__name__}. Call `load` of that class."
            )
            raise ValueError(msg)
        is_mudata = setup_method == "setup_mudata"
        adata = cls._as_registered(adata, registry)
        if adata is None:
            adata = read_data(find_data(folder, prefix, content, is_mudata=is_mudata), is_mudata=is_mudata)
        adata = None if adata is False else adata
        if adata is not None:
            if get_adata_minify_type(adata) is not None and not is_registered(registry, REGISTRY_KEYS.MINIFY_TYPE_KEY):
                msg = "It appears you are trying to load a non-minified model with minified adata"
                raise ValueError(msg)
            getattr(cls, setup_method)(adata, source_registry=registry, **registry["setup_args"])
        model = initialised(cls, adata, registry, attributes)
        state = content[STATE_KEY]
        state.pop("pyro_param_store", None)
        model.module.on_load(model)
        try:
            model.module.load_state_dict(state)
        except RuntimeError as error:
            msg = f"The saved model in {str(folder)!r} does not fit its own description: {' '.join(str(error).split())}"
            raise ValueError(msg) from error
        model.checkpoint_format_ = CHECKPOINT_FORMAT  # in which it would be saved
        model._after_loading()
        model.to_device(device)
        model.module.eval()
        if adata is not None:
            model._validate_anndata(adata)
        return model

    @classmethod
    def _as_registered(cls, adata: AnnData | MuData | None, registry: dict) -> AnnData | MuData | None:
        """Data as the model reads them, which has this registry."""
        return adata

    def _after_loading(self) -> None:
        """What is left to do when state and attributes are those that were saved."""

    @staticmethod
    @checked(dir_path=LOADING["dir_path"], prefix=PREFIX)
    def load_registry(dir_path: str | os.PathLike, prefix: str | None = None) -> dict:
        """What was set up for a saved model.

        Parameters
        ----------
        dir_path
            Folder.
        prefix
            What names of files begin with.

        Returns
        -------
        The registry.

        Raises
        ------
        ValueError
            If there is no model, or it is damaged.
        """
        return read_model(Path(dir_path), prefix or "", "cpu")[ATTRIBUTES_KEY]["registry_"]

    @staticmethod
    def view_setup_args(dir_path: str | os.PathLike, prefix: str | None = None) -> None:
        """Print the arguments of set-up of a saved model.

        Parameters
        ----------
        dir_path
            Folder.
        prefix
            What names of files begin with.

        Raises
        ------
        ValueError
            If there is no model, or it is damaged.
        """
        AnnDataManager.view_setup_method_args(DataModel.load_registry(dir_path, prefix))


def _has_changed(registered: CellRegistration) -> bool:
    """Whether data that no model stands on are others than when they were registered."""
    try:
        registered.validate()
    except ValueError:
        return True
    return bool(registered.changed_columns())
