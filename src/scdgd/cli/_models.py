"""Saved models, and models by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._command import UserError

if TYPE_CHECKING:
    from pathlib import Path

    from anndata import AnnData

#: Models that can be compared, by what they are called on the command line; ``scvi`` is the stock model.
NAMES = ("scdgd", "scvad", "scvae", "scgmvae", "scvmm", "scvamp", "sciaf", "flexscvi", "scdbm", "scvi")


def load(folder: Path, adata: AnnData | None = None) -> Any:
    """The model of a folder, with its cells if they are given."""
    import scdgd
    from scdgd.model import SCDGD

    if not folder.is_dir():
        msg = f"There is no folder {folder} of a saved model. Save one with `scdgd fit ... --save-model DIR`."
        raise UserError(msg)
    name = SCDGD.load_registry(folder)["model_name"]
    return getattr(scdgd.model, name).load(folder, adata=False if adata is None else adata)


def classes() -> dict[str, type]:
    """Classes by their names."""
    import scvi

    import scdgd

    ours = {name.lower(): getattr(scdgd.model, name) for name in scdgd.model.__all__}
    return {name: scvi.model.SCVI if name == "scvi" else ours[name] for name in NAMES}
