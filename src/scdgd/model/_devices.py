"""Where models train and read: one device of an accelerator that is there."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch.accelerators import AcceleratorRegistry
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from scdgd._compat import parse_device
from scdgd._options import Rule, shown, unknown_name
from scdgd.train import JOINT


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


class _Devices(Rule):
    """Devices of an accelerator: one, or any number where several may be."""

    def __init__(self, *, may_be_several: bool) -> None:
        self.may_be_several = may_be_several

    @property
    def words(self) -> str:
        """What is accepted."""
        return (
            "'auto', a number of devices, or a list of indices"
            if self.may_be_several
            else "one device: 'auto', 1, or a list of one index"
        )

    def __call__(self, name: str, value: Any) -> int | list[int] | str:
        """The devices as scvi-tools takes them."""
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
        if not self.may_be_several and _number_of(list(value) if is_list else int(count)) > 1:
            self.refuse(name, value, NotImplementedError)
        if count == 0 or (is_list and not isinstance(value[0], int)):
            self.refuse(name, value)
        return list(value) if is_list else int(count)


ACCELERATOR, ONE_DEVICE, DEVICES = _Accelerator(), _Devices(may_be_several=False), _Devices(may_be_several=True)
#: Strategies of Lightning in whose place ours comes.
_DDP = ("ddp", "ddp_find_unused_parameters_true", "ddp_find_unused_parameters_false")


def _number_of(devices: int | list[int] | str) -> int:
    if isinstance(devices, list):
        return len(devices)
    return torch.cuda.device_count() if devices == -1 else 1 if devices == "auto" else devices


def strategy_of(devices: int | list[int] | str, n_nodes: int, strategy: Any, *, may_be_several: bool) -> Any:
    """The strategy that Lightning's trainer gets: that of the user for one device, ours for several.

    Parameters
    ----------
    devices, n_nodes, strategy
        As given to `train`.
    may_be_several
        Whether the model can train on several.

    Raises
    ------
    NotImplementedError
        If devices and strategy do not go together, or the model does not train so; with the reason.
    """
    name = str(strategy).lower()
    if n_nodes * _number_of(devices) <= 1:
        if "ddp" in name:
            msg = f"`strategy={shown(strategy)}` is for several devices: name their number, such as `devices=2`, or leave it out."
            raise NotImplementedError(msg)
        return strategy
    asked = (
        f"`devices={shown(devices)}` asks for several"
        if n_nodes == 1
        else f"`num_nodes={n_nodes}` asks for several devices"
    )
    if not may_be_several:
        msg = (
            f"{asked}, and this model or plan trains on one device: what its cells share is not added up between processes. "
            "Pass `devices=1`."
        )
    elif "fsdp" in name or "deepspeed" in name:
        msg = (
            f"`strategy={shown(strategy)}` cuts networks into parts, but networks are small here, and what is large, the cells and "
            "their rows, each process has a part of already. Pass `strategy='ddp'`."
        )
    elif any(start in name for start in ("notebook", "spawn", "fork")):
        msg = (
            f"`strategy={shown(strategy)}` trains in processes that give nothing back to the one that starts them. Write a "
            "script, and pass `strategy='ddp'`."
        )
    elif strategy not in _DDP:
        msg = (
            f"{asked}, and models train on one device unless `strategy='ddp'` is passed, in a script, which each process runs "
            "from its beginning. Pass it, or `devices=1`."
        )
    else:
        return JOINT
    raise NotImplementedError(msg)


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
