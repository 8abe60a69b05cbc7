"""A saved model, as scvi-tools' hub takes it."""

from __future__ import annotations

import json
import os
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from scdgd._compat import n_cells_of
from scdgd._options import PathLike, Text, checked
from scdgd.model import SCDGD

if TYPE_CHECKING:
    from scvi.hub import HubModel

_PARENT = "scdgd.model"


@checked(dir_path=PathLike("the folder of a saved model"), license_info=Text("a licence, as 'cc-by-4.0'"))
def hub_model(dir_path: str | os.PathLike, license_info: str, description: str = "") -> HubModel:
    """Describe a saved model for `scvi-tools' hub <https://huggingface.co/scvi-tools>`_, whose own cards know its own classes.

    Saved with its data, minified or not, the model comes back by ``hub_model(...).model``, there and after a download.

    Parameters
    ----------
    dir_path
        Folder of a model saved with ``save(dir_path, save_anndata=True)``.
    license_info
        Licence of model and data, as Hugging Face names it.
    description
        What it was trained on, in Markdown.

    Returns
    -------
    :class:`scvi.hub.HubModel`, to be written (``save``) or uploaded (``push_to_huggingface_hub``).

    Raises
    ------
    ModuleNotFoundError
        If ``huggingface_hub`` is not installed.
    ValueError
        If there is no model, or it is damaged.

    Examples
    --------
    >>> model.minify_adata()
    >>> model.save("pbmc", save_anndata=True)
    >>> scdgd.tl.hub_model("pbmc", license_info="cc-by-4.0").save()
    """
    registry = SCDGD.load_registry(dir_path)
    from huggingface_hub import ModelCard
    from scvi.hub import HubMetadata, HubModel

    metadata = HubMetadata.from_dir(
        os.fspath(dir_path), anndata_version=version("anndata"), model_parent_module=_PARENT
    )
    card = ModelCard(card_of(registry, license_info, description))
    return HubModel(os.fspath(dir_path), metadata=metadata, model_card=card)


def card_of(registry: dict[str, Any], license_info: str, description: str) -> str:
    """The card of a model, in Markdown: who made it, how to load it, and what was set up."""
    name = registry["model_name"]
    made_by = {package: version(package) for package in ("scdgd", "scvi-tools", "anndata")}
    tags = ["biology", "genomics", "single-cell", f"model_cls_name:{name}"]
    tags += [f"{package.replace('-tools', '')}_version:{number}" for package, number in made_by.items()]
    head = [
        "---",
        f"license: {license_info}",
        "library_name: scvi-tools",
        "tags:",
        *(f"- {tag}" for tag in tags),
        "---",
    ]
    setup = {key: value for key, value in registry["setup_args"].items() if value is not None}
    parts = [
        "\n".join(head),
        f"# {name}",
        description,
        f"A model of the class `{_PARENT}.{name}` of scdgd, which stands on scvi-tools.",
        "```python\nimport scvi.hub\n\nmodel = scvi.hub.HubModel.pull_from_huggingface_hub(...).model\n```",
        f"Arguments of `setup_anndata`:\n```json\n{json.dumps(setup, indent=2, default=str)}\n```",
        f"Trained on {n_cells_of(registry)} cells.",
    ]
    return "\n\n".join(part for part in parts if part) + "\n"
