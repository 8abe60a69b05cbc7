"""Saved models of earlier and later versions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scdgd._constants import CHECKPOINT_FORMAT

if TYPE_CHECKING:
    import torch
    from scvi.model.base import BaseModelClass


class CheckpointFormatMixin:
    """Modules that know the layout of the model they are saved in."""

    def on_load(self, model: BaseModelClass, **kwargs: Any) -> None:
        """Refuse models that a later version of the package has saved."""
        if model.checkpoint_format_ > CHECKPOINT_FORMAT:
            msg = (
                f"The saved model has format {model.checkpoint_format_}, but this version of scdgd reads formats up to "
                f"{CHECKPOINT_FORMAT}. Upgrade with `pip install --upgrade scdgd`."
            )
            raise ValueError(msg)

    @property
    def former_names(self) -> dict[str, str | None]:
        """Names that earlier versions gave to tensors of the module, and those of today; ``None`` for what is gone.

        A name that ends with a dot stands for all that begin with it.
        """
        return {}

    def _load_from_state_dict(
        self, state_dict: dict[str, torch.Tensor], prefix: str, *args: Any, **kwargs: Any
    ) -> None:
        for former, name in self.former_names.items():
            begins = (prefix + former,) if former.endswith(".") else ()
            for key in [key for key in state_dict if key == prefix + former or key.startswith(begins)]:
                value = state_dict.pop(key)
                if name is not None:
                    state_dict[prefix + name + key.removeprefix(prefix + former)] = value
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)
