"""Saving and loading of models."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anndata
import mudata
import numpy as np
import pandas as pd
from anndata import AnnData
from mudata import MuData
from scvi import settings
from scvi.data import AnnDataManager

from scdgd._constants import CHECKPOINT_FORMAT
from scdgd._model_file import ATTRIBUTES_KEY, STATE_KEY, VAR_NAMES_KEY, find_data, read_model, write_model
from scdgd._options import Anything, Choice, Either, Flag, Instance, Optional, PathLike, Rule, Text, checked
from scdgd.prior._registry import check_storable, current_name
from scdgd.train import pack_history, unpack_history

from ._devices import ACCELERATOR, ONE_DEVICE, device_of

if TYPE_CHECKING:
    import os
    from typing import Self

_PREFIX = Optional(Text("text that names of files begin with"))
_SAVING: dict[str, Rule] = {
    "dir_path": PathLike("the path of a folder"),
    "prefix": _PREFIX,
    "overwrite": Flag(),
    "save_anndata": Flag(),
    "save_kwargs": Optional(Instance(dict, "a dictionary of arguments of torch.save")),
    "legacy_mudata_format": Flag(),
}
_LOADING: dict[str, Rule] = {
    "dir_path": PathLike("the path of a folder"),
    "adata": Optional(Either(Instance((AnnData, MuData), "an AnnData or MuData"), Choice(False))),
    "accelerator": ACCELERATOR,
    "device": ONE_DEVICE,
    "prefix": _PREFIX,
    "allowed_classes_names_list": Optional(Anything("a list of names of classes")),
}
_HISTORY = "history_"


class SavingMixin:
    """Models in folders, as scvi-tools lays them out, written whole or not at all and checked when they are read."""

    @checked(**_SAVING)
    def save(
        self,
        dir_path: str | os.PathLike,
        prefix: str | None = None,
        overwrite: bool = False,
        save_anndata: bool = False,
        save_kwargs: dict | None = None,
        legacy_mudata_format: bool = False,
        datamodule=None,
        **anndata_write_kwargs,
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
        check_storable(self.init_params_["non_kwargs"].get("prior", "normal"))
        folder.mkdir(parents=True, exist_ok=True)
        attributes = {name: value for name, value in self._get_user_attributes() if name.endswith("_")}
        history = attributes[_HISTORY]
        attributes[_HISTORY] = pack_history(history) if isinstance(history, Mapping) else history
        content = {
            STATE_KEY: dict(self.module.state_dict()),
            VAR_NAMES_KEY: _plain(self.get_var_names(legacy_mudata_format=legacy_mudata_format)),
            ATTRIBUTES_KEY: _plain(attributes),
        }
        data = self.adata if save_anndata else None
        write_model(folder, prefix or "", content, data, save_kwargs or {}, anndata_write_kwargs)

    @classmethod
    @checked(**_LOADING)
    def load(
        cls,
        dir_path: str | os.PathLike,
        adata: AnnData | MuData | bool | None = None,
        accelerator: str = "auto",
        device: int | str = "auto",
        prefix: str | None = None,
        backup_url: str | None = None,
        datamodule=None,
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
        target = device_of(accelerator, device)
        folder, prefix = Path(dir_path), prefix or ""
        content = read_model(folder, prefix, target)
        attributes = dict(content[ATTRIBUTES_KEY])
        registry = attributes.pop("registry_")
        cls._check_class(registry, allowed_classes_names_list or [], folder)
        is_mudata = registry.get("setup_method_name") == "setup_mudata"
        if adata is None:
            adata = _read_data(find_data(folder, prefix, content, is_mudata=is_mudata), is_mudata=is_mudata)
        adata = None if adata is False else adata
        if adata is not None:
            method = getattr(cls, registry.get("setup_method_name", "setup_anndata"))
            method(adata, source_registry=registry, **registry["setup_args"])
        model = cls._initialised(adata, registry, attributes)
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
        model.to_device(target)
        model.module.eval()
        if adata is not None:
            model._validate_anndata(adata)
        return model

    @classmethod
    def _initialised(cls, adata, registry: dict, attributes: dict[str, Any]) -> Self:
        """A model made with the arguments that were saved, and with the attributes."""
        arguments = attributes.pop("init_params_")
        further = {name: value for named in arguments["kwargs"].values() for name, value in named.items()}
        named = {
            name: current_name(value) if name == "prior" else value for name, value in arguments["non_kwargs"].items()
        }
        model = cls(adata, registry, **named, **further)
        history = attributes.get(_HISTORY)
        is_packed = isinstance(history, Mapping) and all(isinstance(column, Mapping) for column in history.values())
        attributes[_HISTORY] = unpack_history(history) if is_packed else history
        for name, value in attributes.items():
            setattr(model, name, value)
        return model

    def _after_loading(self) -> None:
        """What is left to do when state and attributes are those that were saved."""

    @classmethod
    def _check_class(cls, registry: dict, allowed: list[str], folder: Path) -> None:
        saved = registry.get("model_name", cls.__name__)
        if saved != cls.__name__ and saved not in allowed:
            msg = (
                f"It appears you are loading a model from a different class: {str(folder)!r} holds a {saved}, not a "
                f"{cls.__name__}. Call `load` of that class."
            )
            raise ValueError(msg)

    @staticmethod
    @checked(dir_path=_LOADING["dir_path"], prefix=_PREFIX)
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
        AnnDataManager.view_setup_method_args(SavingMixin.load_registry(dir_path, prefix))


def _plain(value: Any) -> Any:
    """Nested containers as plain ones, which a file can hold without running code when it is read."""
    if hasattr(value, "to_dict") and not isinstance(value, pd.DataFrame | pd.Series):  # scvi-tools' dictionaries
        value = value.to_dict()
    if isinstance(value, Mapping | defaultdict):
        return {_plain(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(_plain, value)) if type(value) in (list, tuple) else list(map(_plain, value))
    if isinstance(value, np.ndarray) and value.dtype == object:
        return np.array(value.tolist(), dtype=object) if value.ndim == 1 else value
    return value


def _read_data(path: Path | None, *, is_mudata: bool) -> AnnData | MuData | bool:
    if path is None:
        warnings.warn(
            "Save path contains no saved anndata and no adata was passed. Model will be loaded without anndata.",
            UserWarning,
            stacklevel=settings.warnings_stacklevel,
        )
        return False
    return mudata.read(path) if is_mudata else anndata.read_h5ad(path)
