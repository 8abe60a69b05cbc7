"""Files of saved models: tensors and plain values with a digest, written whole or not at all."""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from mudata import MuData

from scdgd._files import flush, flush_folder, part_of, parts_left, readable_errors

if TYPE_CHECKING:
    from anndata import AnnData

logger = logging.getLogger(__name__)

#: Names that scvi-tools gives files and their parts.
MODEL_NAME, ADATA_NAME, MDATA_NAME = "model.pt", "adata.h5ad", "mdata.h5mu"
STATE_KEY, VAR_NAMES_KEY, ATTRIBUTES_KEY = "model_state_dict", "var_names", "attr_dict"
_DIGEST_KEY, _DATA_KEY = "digest", "data_digest"
_FORMER = ".former"
#: What arrays of NumPy are made of in a pickle; none of it runs code.
_NUMPY = [
    bytes,
    np.ndarray,
    np.dtype,
    *(
        type(np.dtype(kind))
        for kind in ("?", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "O", "U")
    ),
    (np.core.multiarray._reconstruct if not hasattr(np, "_core") else np._core.multiarray._reconstruct),
    (np.core.multiarray.scalar if not hasattr(np, "_core") else np._core.multiarray.scalar),
]


def write_model(
    folder: Path,
    prefix: str,
    content: dict[str, Any],
    data: AnnData | MuData | None,
    save_kwargs: dict,
    write_kwargs: dict,
) -> None:
    """Write a model, and data if there are any, into a folder; other files in it stay.

    All is written beside the former files and flushed. Then the files take their places, the model's last. A process that
    dies before leaves the former model; between the two, former data are still there, and :func:`find_data` knows them by
    their digest, which the model holds.
    Names of files begin with `prefix`; `content` are state, names of genes and attributes; further arguments are those of
    :func:`torch.save` and of the writer of `data`.

    Raises
    ------
    OSError
        If there is no space, or nothing may be written; the former model is as it was.
    """
    model = folder / f"{prefix}{MODEL_NAME}"
    beside = None if data is None else folder / f"{prefix}{_name_of(data)}"
    parts: list[Path] = []
    try:
        if beside is not None:
            parts.append(part_of(beside))
            with readable_errors(beside):
                _write_data(data, parts[0], write_kwargs)
                flush(parts[0])
        content = {**content, _DATA_KEY: None if beside is None else _digest_of_file(parts[0])}
        content[_DIGEST_KEY] = digest_of(content)
        parts.append(part_of(model))
        with readable_errors(model):
            torch.save(content, parts[-1], **save_kwargs)
            flush(parts[-1])
        if beside is not None and beside.exists():
            os.replace(beside, _former(beside))
        for part, path in zip(parts, [model] if beside is None else [beside, model], strict=True):
            os.replace(part, path)
        flush_folder(folder)
        if beside is not None:
            _former(beside).unlink(missing_ok=True)
    finally:
        for part in (*parts, *parts_left(model)):
            part.unlink(missing_ok=True)


def read_model(folder: Path, prefix: str, map_location: torch.device | str | None = None) -> dict[str, Any]:
    """State, names of genes and attributes of a saved model, whose digest is that of when it was saved.

    Files of tensors and plain values are read as such. Those that hold other objects, as files of earlier versions and of
    models with a prior of one's own do, are read by pickle, which can run code; a log message says so.

    Raises
    ------
    ValueError
        If there is no model, it was never written to its end, or it is damaged.
    """
    path = folder / f"{prefix}{MODEL_NAME}"
    if not path.is_file():
        raise ValueError(_missing(folder, path))
    _check_archive(path)
    content = _unpickled(path, map_location)
    if not isinstance(content, Mapping) or ATTRIBUTES_KEY not in content:
        msg = f"{str(path)!r} is no saved model: it holds no attributes of one."
        raise ValueError(msg)
    content = dict(content)
    digest = content.pop(_DIGEST_KEY, None)
    if digest is not None and digest != digest_of(content):
        raise ValueError(_damaged(path, "its values are not those that were saved"))
    return content


def find_data(folder: Path, prefix: str, content: dict[str, Any], *, is_mudata: bool) -> Path | None:
    """The data that were saved with a model, of which :func:`read_model` gave the `content`; ``None`` if there are none.

    ValueError if the data beside the model belong to another save.
    """
    path = folder / f"{prefix}{MDATA_NAME if is_mudata else ADATA_NAME}"
    if _DATA_KEY not in content:  # of earlier versions, or of scvi-tools
        return path if path.exists() else None
    if content[_DATA_KEY] is None:
        return None
    for candidate in (path, _former(path)):
        if candidate.exists() and _digest_of_file(candidate) == content[_DATA_KEY]:
            return candidate
    what = "are not those that were saved with the model" if path.exists() else "are gone"
    msg = (
        f"The data in {str(path)!r} {what}: the file was replaced or damaged, or saving was interrupted. Pass the data: "
        "`load(..., adata=adata)`, or load without: `adata=False`."
    )
    raise ValueError(msg)


def digest_of(content: Any) -> str:
    """SHA-256 of nested containers of tensors, arrays and plain values; of other objects, of their kind."""
    digest = hashlib.sha256()
    _update(digest, content)
    return digest.hexdigest()


def _update(digest: Any, value: Any) -> None:
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().contiguous()
        digest.update(f"tensor {value.dtype} {tuple(value.shape)}".encode())
        digest.update(value.reshape(-1).view(torch.uint8).numpy().tobytes())
    elif isinstance(value, np.ndarray) and value.dtype.kind not in "OV":
        digest.update(f"array {value.dtype.str} {value.shape}".encode() + value.tobytes())
    elif isinstance(value, np.ndarray):
        digest.update(f"objects {value.shape}".encode())
        _update(digest, value.tolist())
    elif isinstance(value, Mapping):
        digest.update(f"dict {len(value)}".encode())
        for key, item in value.items():
            _update(digest, key)
            _update(digest, item)
    elif isinstance(value, list | tuple):
        digest.update(f"list {len(value)}".encode())
        for item in value:
            _update(digest, item)
    elif value is None or isinstance(value, bool | int | float | complex | str | bytes):
        digest.update(f"{type(value).__name__} {value!r}".encode())
    else:
        digest.update(type(value).__qualname__.encode())


def _check_archive(path: Path) -> None:
    """Raise ValueError where a file is cut, or an entry has another checksum than when it was written."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, OSError, EOFError, ValueError, RuntimeError, NotImplementedError) as error:
        raise ValueError(_damaged(path, str(error))) from error
    if broken is not None:
        raise ValueError(_damaged(path, f"the checksum of its part {broken!r} is wrong"))


def _unpickled(path: Path, map_location: str | torch.device | None) -> Any:
    try:
        with torch.serialization.safe_globals(_NUMPY):
            return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        logger.debug("%s", error)
    except (RuntimeError, EOFError, KeyError, ValueError) as error:
        raise ValueError(_damaged(path, " ".join(str(error).split())[:200])) from error
    logger.info(
        "%s holds more than tensors and plain values, so it is read as a program (pickle). Load only files that you trust.",
        path,
    )
    try:
        return torch.load(path, map_location=map_location, weights_only=False)
    except (pickle.UnpicklingError, RuntimeError, EOFError, KeyError, ValueError) as error:
        raise ValueError(_damaged(path, " ".join(str(error).split())[:200])) from error


def _write_data(data: AnnData | MuData, path: Path, write_kwargs: dict) -> None:
    if not isinstance(data, MuData) and data.isbacked:
        data.copy(filename=path).file.close()
    else:
        data.write(path, **write_kwargs)


def _digest_of_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _former(path: Path) -> Path:
    """Where a file is while another takes its place."""
    return path.with_name(f"{_FORMER}.{path.name}")


def _name_of(data: AnnData | MuData) -> str:
    return MDATA_NAME if isinstance(data, MuData) else ADATA_NAME


def _missing(folder: Path, path: Path) -> str:
    if parts_left(path):
        return (
            f"Saving a model to {str(folder)!r} was interrupted before it was complete ({parts_left(path)[0].name} is what "
            "was written), and there was none before. Save it again."
        )
    if not folder.is_dir():
        return f"There is no folder {str(folder)!r} of a saved model."
    names = ", ".join(sorted(file.name for file in folder.iterdir())[:5]) or "nothing"
    return f"There is no saved model in {str(folder)!r}: it has no {path.name}, but {names}."


def _damaged(path: Path, how: str) -> str:
    return f"The saved model {str(path)!r} is damaged ({how}). Take a copy of it from elsewhere, or train it again."
