"""Saved models of later versions."""

from __future__ import annotations

from scdgd._constants import CHECKPOINT_FORMAT


class CheckpointFormatMixin:
    """Modules that know the layout of the model they are saved in."""

    def on_load(self, model, **kwargs) -> None:
        """Refuse models that a later version of the package has saved."""
        if model.checkpoint_format_ > CHECKPOINT_FORMAT:
            msg = (
                f"The saved model has format {model.checkpoint_format_}, but this version of scdgd reads formats up to "
                f"{CHECKPOINT_FORMAT}. Upgrade with `pip install --upgrade scdgd`."
            )
            raise ValueError(msg)
