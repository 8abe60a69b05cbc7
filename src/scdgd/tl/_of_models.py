"""What functions of this package ask of a model first."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from scvi.model.base import BaseModelClass


def check_trained(model: BaseModelClass, function: str, does: str = "asks a trained model") -> None:
    """Raise TypeError if it is no model, and RuntimeError if it is not trained; the messages say what the function `does`."""
    name = type(model).__name__
    if not hasattr(model, "is_trained_"):
        msg = f"`{function}` {does}, but the first argument is a {name}."
        raise TypeError(msg)
    if not model.is_trained_:
        msg = f"`{function}` {does}, but this {name} is not trained. Call `model.train()` first."
        raise RuntimeError(msg)


def latent_key(model: BaseModelClass) -> str:
    """Key of representations in ``obsm``."""
    return getattr(model, "_latent_key", f"X_{type(model).__name__.lower()}")
