"""Options of training that all models share, checked before anything changes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, get_args

import lightning.pytorch as pl
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import Profiler
from scvi import settings
from scvi.train import Trainer, merge_kwargs
from torch.utils.data import DataLoader

from scdgd._options import (
    Anything,
    Choice,
    Either,
    Flag,
    Instance,
    Integer,
    ListOf,
    Number,
    Optional,
    Options,
    Rule,
    Subclass,
    Text,
    shown,
    unknown_name,
)
from scdgd.data import DeviceCounts, SparseCountsLoader, SparseCountsSplitter
from scdgd.train import BatchBalance, RepresentationPlan

from ._devices import ACCELERATOR, DEVICES

if TYPE_CHECKING:
    from scvi.data import AnnDataManager


_SHARE = Optional(Number(above=0, most=1))
_KWARGS = Optional(Anything("a dictionary, or a configuration of scvi-tools"))

#: Arguments of `train`.
TRAINING: dict[str, Rule] = {
    "max_epochs": Optional(Integer(1)),
    "accelerator": ACCELERATOR,
    "devices": DEVICES,
    "train_size": _SHARE,
    "validation_size": Optional(Number(least=0, below=1)),
    "shuffle_set_split": Flag(),
    "load_sparse_tensor": Flag(),
    "batch_size": Integer(1),
    "early_stopping": Flag(),
    "datasplitter_kwargs": Optional(Instance(dict, "a dictionary of arguments of the data splitter")),
    "plan_config": _KWARGS,
    "plan_kwargs": _KWARGS,
    "datamodule": Optional(Instance(pl.LightningDataModule, "a data module of Lightning")),
    "trainer_config": _KWARGS,
    "warm_start": Choice("pca", "zeros"),
    "mixture_start": Optional(Integer(0)),
    "checkpoint_dir": Anything("the path of a folder"),
    "checkpoint_every_n_epochs": Optional(Integer(1)),
    "polish": Flag(),
    "plan_cls": Optional(Subclass(RepresentationPlan, "a subclass of scdgd.train.RepresentationPlan")),
    "batch_balance": Optional(
        Either(
            Flag(),
            Instance(BatchBalance, "a scdgd.train.BatchBalance"),
            words="True, False or a scdgd.train.BatchBalance",
        )
    ),
    "estimate_likelihood": Flag(),
}

#: What plans log after each epoch.
_OF_CELLS = ("elbo", "reconstruction_loss", "kl_local", "kl_global")
_METRICS = {f"{name}_{of}" for name in _OF_CELLS for of in ("train", "validation")}
_METRICS |= {"train_loss", "validation_loss", "kl_weight"}
_CALLBACK = Instance(pl.Callback, "a callback of Lightning")
_SOME_BATCHES = Optional(
    Either(Integer(1), Number(above=0, most=1), words="a number of minibatches, or a share of them")
)
_AMOUNT = Optional(Number(above=0))
_LOGGER = Instance(Logger, "a logger of Lightning")
_PROFILER = Instance(Profiler, "a profiler of Lightning")
#: Arguments of scvi-tools' and Lightning's trainers whose wrong values would be found late, or never.
OF_TRAINER: dict[str, Rule] = {
    "check_val_every_n_epoch": Optional(Integer(1)),
    "enable_checkpointing": Flag(),
    "checkpointing_monitor": Text("the name of a metric"),
    "num_sanity_val_steps": Integer(-1),
    "enable_model_summary": Flag(),
    "early_stopping": Flag(),
    "early_stopping_monitor": Text("the name of a metric"),
    "early_stopping_min_delta": Number(least=0),
    "early_stopping_patience": Integer(0),
    "early_stopping_warmup_epochs": Integer(0),
    "early_stopping_mode": Choice("min", "max"),
    "enable_progress_bar": Flag(),
    "progress_bar_refresh_rate": Integer(0),
    "simple_progress_bar": Flag(),
    "log_every_n_steps": Integer(0),
    "learning_rate_monitor": Flag(),
    "limit_train_batches": _SOME_BATCHES,
    "limit_val_batches": Optional(
        Either(Choice(0), _SOME_BATCHES, words="a number of minibatches, a share of them, or 0")
    ),
    "max_steps": Integer(-1),
    "min_epochs": Optional(Integer(1)),
    "min_steps": Optional(Integer(1)),
    "num_nodes": Integer(1),
    "benchmark": Optional(Flag()),
    "inference_mode": Flag(),
    "sync_batchnorm": Flag(),
    "use_distributed_sampler": Flag(),
    "enable_autolog_hparams": Flag(),
    "reload_dataloaders_every_n_epochs": Integer(0),
    "profiler": Optional(
        Either(Choice("simple", "advanced", "pytorch"), _PROFILER, words="a profiler of Lightning, or its name")
    ),
    "logger": Optional(
        Either(Flag(), _LOGGER, ListOf(_LOGGER), words="a logger of Lightning, a list of them, or False")
    ),
    "fast_dev_run": Choice(False),
    "barebones": Choice(False),
    "gradient_clip_val": _AMOUNT,
    "gradient_clip_algorithm": Choice(None, "norm", "value"),
    "accumulate_grad_batches": Integer(1),
    "detect_anomaly": Flag(),
    "callbacks": Optional(Either(_CALLBACK, ListOf(_CALLBACK), words="a list of callbacks of Lightning")),
}
#: In names of strategies that need several devices.
_OF_SEVERAL = ("ddp", "fsdp", "deepspeed")
#: Arguments that scvi-tools gives loaders.
_OF_LOADERS = ("shuffle", "data_loader_class", "indices")
#: Arguments of the data splitter and of torch's loader that are checked here.
OF_LOADING: dict[str, Rule] = {
    "device_counts": Choice(*get_args(DeviceCounts)),
    "drop_last": Flag(),
    "least": Integer(1),
    "num_workers": Integer(0),
    "persistent_workers": Flag(),
}


def _arguments_of(*kinds: type) -> set[str]:
    """Names of arguments of constructors."""
    return {name for kind in kinds for name in inspect.signature(kind.__init__).parameters} - {"self", "kwargs"}


_TRAINER = Options(
    OF_TRAINER,
    of="`train` and scvi.train.Trainer",
    further=frozenset(_arguments_of(Trainer, pl.Trainer) | {"ckpt_path"}),
    are_arguments=True,
)
LOADING = Options(
    OF_LOADING,
    of="the data splitter and torch's loader",
    further=frozenset(
        _arguments_of(SparseCountsSplitter.__mro__[1], SparseCountsLoader, DataLoader)
        - {"adata_manager", "dataset", "sampler", "batch_sampler", "shuffle", "indices", "collate_fn", "cells"}
    ),
)


def check_trainer(given: dict[str, Any], config: Any = None, *, manual_steps: str | None = None) -> dict[str, Any]:
    """Arguments of the trainer in their plain types, those of a configuration included.

    Those `given` take precedence over `config`. Where a plan steps its optimisers itself Lightning cannot clip, and
    `manual_steps` says what to use in its place. TypeError if there is no such argument, with the nearest; ValueError if one
    is out of range, or impossible with manual steps. What `strategy` may be depends on devices, see :func:`strategy_of`.
    """
    known = {*_TRAINER.rules, *_TRAINER.further, *TRAINING}
    options = replace(_TRAINER, further=frozenset(known))
    checked = options("train", _of_config(config)) | options("train", given)
    if manual_steps is not None:
        if checked.get("gradient_clip_val") is not None:
            msg = f"`gradient_clip_val` is without effect where a plan steps its optimisers itself. {manual_steps}"
            raise ValueError(msg)
        if checked.get("accumulate_grad_batches", 1) != 1:
            msg = (
                "`accumulate_grad_batches` is for automatic steps, and this model steps by itself: raise `batch_size`."
            )
            raise ValueError(msg)
    is_named = "strategy" in checked and any(kind in str(checked["strategy"]).lower() for kind in _OF_SEVERAL)
    without_rule = set(checked) - {*_TRAINER.rules, *TRAINING, "ckpt_path"} - ({"strategy"} if is_named else set())
    _check_by_lightning({name: checked[name] for name in checked if name in without_rule})
    if "callbacks" in checked:
        given = checked["callbacks"]
        checked["callbacks"] = [given] if isinstance(given, pl.Callback) else list(given or ())
    return checked


def _check_by_lightning(options: dict[str, Any]) -> None:
    """Raise ValueError where Lightning's trainer would refuse arguments that have no rule here, once much has been done."""
    if not options:
        return
    try:
        Trainer(max_epochs=1, accelerator="cpu", devices=1, enable_progress_bar=False, **options)
    except Exception as error:  # of many kinds
        given = ", ".join(f"{name}={shown(value)}" for name, value in options.items())
        msg = f"Lightning's trainer refuses `{given}`: {' '.join(str(error).split())}"
        raise ValueError(msg) from error


def _of_config(config: Any) -> dict[str, Any]:
    """Arguments of a configuration, but for those that `train` has itself, as in scvi-tools."""
    _check_config("trainer_config", config)
    merged = merge_kwargs(config, None, name="trainer")
    return {name: value for name, value in merged.items() if name not in ("max_epochs", "accelerator", "devices")}


def check_loading(given: dict[str, Any] | None) -> dict[str, Any]:
    """Arguments of the data splitter in their plain types; TypeError if there is no such argument, with the nearest."""
    loading = LOADING("datasplitter_kwargs", given or {})
    if loading.get("persistent_workers") and not loading.get("num_workers", settings.dl_num_workers):
        msg = "`persistent_workers=True` keeps workers, and there are none: pass `num_workers=2`, or leave it out."
        raise ValueError(msg)
    return loading


def check_reading(given: dict[str, Any]) -> None:
    """Refuse, by TypeError, further arguments of reading methods that a data loader does not take; the nearest are named."""
    known = {*LOADING.rules, *LOADING.further, *_OF_LOADERS} - {"device_counts"}
    for name in given:
        if name not in known:
            raise TypeError(unknown_name(name, known, "an argument of this method, or of the data loader"))


def merged_plan(config: Any, given: Any) -> dict[str, Any]:
    """Options of the plan, those given before those of a configuration; TypeError if they are neither of the two."""
    _check_config("plan_config", config)
    _check_config("plan_kwargs", given)
    return merge_kwargs(config, given, name="plan")


def _check_config(name: str, value: Any) -> None:
    if value is not None and not isinstance(value, Mapping) and not hasattr(value, "to_kwargs"):
        msg = f"`{name}` must be a dictionary of options, or a configuration of scvi-tools, got {shown(value)}."
        raise TypeError(msg)


def is_of_tuning(callback: pl.Callback) -> bool:
    """Whether a callback reports to `scvi.autotune`, which makes its class of one of ray."""
    return any(kind.__module__.startswith("ray.") for kind in type(callback).__mro__)


def check_monitor(argument: str, monitor: str, plan: type, n_validation: int) -> None:
    """Refuse, by ValueError, a monitored metric that no epoch will have: there is none, or no validation cells are there for it.

    A training plan that logs more than scvi-tools' names that in an attribute ``metrics``.
    """
    known = {*_METRICS, *getattr(plan, "metrics", ())}
    if monitor not in known:
        raise ValueError(unknown_name(monitor, known, f"a metric of {plan.__name__}, as `{argument}` must be"))
    if "validation" in monitor and n_validation == 0:
        msg = (
            f"`{argument}={monitor!r}` needs validation cells, and there are none: pass `train_size=0.9`, or monitor "
            "'elbo_train'."
        )
        raise ValueError(msg)


def check_minibatches(
    manager: AnnDataManager, splitter: type[SparseCountsSplitter], options: dict[str, Any], *, has_batch_norm: bool
) -> SparseCountsSplitter:
    """The splitter of the cells; ValueError if there are no minibatches to train on.

    With batch norm a minibatch needs two cells; `options` are all arguments of the `splitter`.
    """
    shares = [options.get("train_size"), options.get("validation_size")]
    if shares[1] is not None and (total := (0.9 if shares[0] is None else shares[0]) + shares[1]) > 1:
        msg = f"`train_size` (0.9 if not given) and `validation_size` must add up to 1 at most, got {shares}, {total:g} in all."
        raise ValueError(msg)
    split = splitter(manager, **options)
    n_train, batch_size = split.n_train, options["batch_size"]
    if split.drop_last and n_train < batch_size:
        msg = (
            f"`drop_last=True` leaves out minibatches of fewer than `batch_size={batch_size}` cells, and there are {n_train} "
            "training cells, so no minibatch is left to train on. Lower `batch_size`, or leave out `drop_last`."
        )
        raise ValueError(msg)
    if has_batch_norm and min(n_train, batch_size) < 2:
        msg = (
            f"Batch norm needs minibatches of two cells at least, but `batch_size={batch_size}` and {n_train} cells train. "
            "Raise `batch_size`, or build the model with `use_batch_norm='none'`."
        )
        raise ValueError(msg)
    return split
