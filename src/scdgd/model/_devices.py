"""Where models train and read: one device of an accelerator that is there."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from scdgd._compat import parse_device
from scdgd._options import Rule, shown, unknown_name


class _Accelerator(Rule):
    """An accelerator of this machine, by Lightning's name."""

    words = "the name of an accelerator"

    def __call__(self, name: str, value: Any) -> str:
        if not isinstance(value, str):
            self.refuse(name, value, TypeError)
        known = sorted(AcceleratorRegistry.available_accelerators())
        if value not in ("auto", "gpu", *known):
            raise ValueError(unknown_name(value, ("auto", "gpu", *known), f"an accelerator, as `{name}` must be"))
        there = [kind for kind in known if AcceleratorRegistry[kind]["accelerator"].is_available()]
        wanted = ("cuda", "mps") if value == "gpu" else (value,)
        if value != "auto" and not set(wanted) & set(there):
            msg = f"`{name}={value!r}` is not there: this machine has {there}. Leave it out for the fastest of them."
            raise ValueError(msg)
        return value


class _OneDevice(Rule):
    """One device of an accelerator."""

    words = "one device: 'auto', 1, or a list of one index"

    def __call__(self, name: str, value: Any) -> int | list[int] | str:
        """The device as scvi-tools takes it."""
        text = value.strip() if isinstance(value, str) else None
        if text == "auto":
            return text
        if text is not None and text.rstrip(",").lstrip("-").isdigit():
            value = [int(text.rstrip(","))] if text.endswith(",") else int(text)
        is_list = isinstance(value, list | tuple)
        count = len(value) if is_list else value
        if (
            isinstance(count, bool)
            or not isinstance(count, int | float)
            or count != int(count)
            or not is_list
            and count < -1
        ):
            self.refuse(name, value)
        several = count > 1 or (count == -1 and not is_list and torch.cuda.device_count() > 1)
        if several:
            msg = (
                f"`{name}={shown(value)}` asks for several, and models of scdgd train on one device: representations, chains "
                "and moments of mixtures are not shared between processes. Pass `devices=1`."
            )
            raise NotImplementedError(msg)
        if count == 0 or (is_list and not isinstance(value[0], int)):
            self.refuse(name, value)
        return list(value) if is_list else int(count)


ACCELERATOR, ONE_DEVICE = _Accelerator(), _OneDevice()


def device_of(accelerator: str, devices: int | list[int] | str) -> torch.device:
    """The device that two arguments mean; ValueError if they do not go together."""
    try:
        return parse_device(accelerator, devices)
    except (MisconfigurationException, RuntimeError, TypeError, ValueError) as error:
        msg = (
            f"`accelerator={accelerator!r}` and the device {shown(devices)} do not go together ({error}). Leave the device "
            "out, or pass 1."
        )
        raise ValueError(msg) from error
