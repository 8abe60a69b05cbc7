"""What the arguments of models may be: one table for checks, documentation and tests."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from inspect import signature
from typing import TYPE_CHECKING, Any, get_args

from anndata import AnnData
from mudata import MuData
from scvi.nn import Embedding
from torch import Tensor
from torch.nn import Module
from torch.utils.data import DataLoader

from scdgd._options import (
    SEED,
    Anything,
    Choice,
    Either,
    Flag,
    Function,
    Instance,
    Integer,
    ListOf,
    Names,
    Number,
    Optional,
    Options,
    Rule,
    Subclass,
    Text,
    rules_of,
)
from scdgd.data import MODALITIES, Cells
from scdgd.inference import NEW_CELLS, StartName
from scdgd.likelihood import ALL_LIKELIHOODS, LIKELIHOODS, VALUE_LIKELIHOODS, CountLikelihood, ValueLikelihood
from scdgd.likelihood._link import MeanActivation
from scdgd.module._flex_parts import DecoderName, PosteriorName
from scdgd.prior._registry import PriorRule
from scdgd.train import OF_TRAINING_PLAN

from ._devices import ACCELERATOR, ONE_DEVICE
from ._found_minibatches import FoundMinibatches
from ._host_options import DISPERSIONS_OF_ENCODERS
from ._training_options import LOADING, OF_LOADING, OF_TRAINER

if TYPE_CHECKING:
    pass


class _Minibatches(Rule):
    """A loader, or minibatches one after the other."""

    words = "a data loader, or minibatches as scvi-tools makes them (dictionaries of tensors)"

    def __call__(self, name: str, value: Any) -> Any:
        is_list = isinstance(value, list | tuple) and value and all(isinstance(item, Mapping) for item in value)
        if not (is_list or isinstance(value, DataLoader | FoundMinibatches | Iterator)):
            self.refuse(name, value, TypeError)
        return value


class _Family(Rule):
    """A likelihood, by its name or its class."""

    @property
    def values(self) -> tuple[str, ...]:
        """Names of likelihoods."""
        return (*LIKELIHOODS, *VALUE_LIKELIHOODS)

    @property
    def words(self) -> str:
        """What is accepted."""
        return f"one of {list(self.values)}, or a subclass of CountLikelihood or ValueLikelihood of scdgd.likelihood"

    def __call__(self, name: str, value: Any) -> Any:
        """The name as it is registered, or the class."""
        if isinstance(value, type) and issubclass(value, CountLikelihood | ValueLikelihood):
            return value
        if isinstance(value, str) and value in ALL_LIKELIHOODS:
            return str(value)
        return self.refuse(name, value)


class _Network(Rule):
    """A network of the user's."""

    words = "a torch module, or a class of them"

    def __call__(self, name: str, value: Any) -> Module | type[Module]:
        """The module or class."""
        if not (isinstance(value, Module) or (isinstance(value, type) and issubclass(value, Module))):
            self.refuse(name, value, TypeError)
        return value


class _Registry(Rule):
    """What was set up for a model."""

    words = "the registry of a model (`model.registry`)"

    def __call__(self, name: str, value: Any) -> Mapping:
        if not isinstance(value, Mapping) or "field_registries" not in value:
            self.refuse(name, value, TypeError)
        return value


CELLS = Optional(Cells((AnnData, MuData), "an AnnData (or MuData) with the genes of the model"))
POSITIONS = Anything("positions of cells from 0, or a mask")
COLUMN = Optional(Text("the name of one column"))
#: Totals that single precision holds, with all that is made of them.
_SIZE = Number(above=0, most=1e12)
GROUP = Anything("a value of the column `groupby`")

#: Arguments of set-up, the same in all models.
SETUP: dict[str, Rule] = {
    "adata": Cells(AnnData, "an AnnData"),
    "mdata": Instance(MuData, "a MuData (for an AnnData there is `setup_anndata`)"),
    "layer": Optional(Text("the name of one layer")),
    "batch_key": COLUMN,
    "labels_key": COLUMN,
    "unlabeled_category": Optional(Either(Instance(str, "a text"), Number(), words="one category, a text or a number")),
    "size_factor_key": COLUMN,
    "categorical_covariate_keys": Optional(Names("a list of columns")),
    "continuous_covariate_keys": Optional(Names("a list of columns")),
    "gene_mask_key": Optional(Text("the name of a mask in `adata.varm`")),
    "is_count_data": Flag(),
    "standardize_covariates": Flag(),
    "modalities": Optional(Instance(dict, "a dictionary from arguments to modalities")),
    "layers": Optional(Instance(dict, "a dictionary from modalities to layers")),
    "modality_key": Text("the name of one column of `adata.var`"),
    "protein_obsm_key": Optional(Text("the name of counts in `adata.obsm`")),
}

#: Arguments of reading methods, which mean the same wherever they occur.
READING: dict[str, Rule] = {
    "adata": CELLS,
    "indices": POSITIONS,
    "batch_size": Optional(Integer(1)),
    "transform_batch": Anything("a batch of the model, or a list of them"),
    "gene_list": Optional(Names("a list of genes", may_be_empty=False)),
    "library_size": Either(_SIZE, Choice("latent"), words="a total above 0 and at most 1e+12, or 'latent'"),
    "n_samples": Integer(1),
    "n_samples_overall": Optional(Integer(1)),
    "weights": Choice(None, "uniform", "importance"),
    "return_mean": Flag(),
    "return_numpy": Optional(Flag()),
    "silent": Flag(),
    "dataloader": Optional(_Minibatches()),
    "give_mean": Flag(),
    "mc_samples": Integer(1),
    "return_dist": Flag(),
    "full_covariance": Flag(),
    "soft": Flag(),
    "merged": Flag(),
    "clusters": Anything("the cluster of each component, integers from 0 on, or None"),
    "n_mc_samples": Integer(1),
    "adaptive_rounds": Integer(0),
    "n_mc_samples_per_pass": Optional(Integer(1)),
    "max_cells": Integer(1),
    "truncation": Flag(),
    "dof": Optional(Number(above=0)),
    "num_cells_posterior": Optional(Integer(1)),
    "sample_key": Text("the name of one column"),
    "groupby": COLUMN,
    "group1": GROUP,
    "group2": GROUP,
    "idx1": POSITIONS,
    "idx2": POSITIONS,
    "mode": Choice("vanilla", "change"),
    "delta": Optional(Number(least=0)),
    "all_stats": Flag(),
    "batch_correction": Flag(),
    "batchid1": Anything("a list of batches of the model"),
    "batchid2": Anything("a list of batches of the model"),
    "fdr_target": Number(least=0, most=1),
    "false_alarm_rate": Number(above=0, below=1),
    "filter_outlier_cells": Flag(),
    "use_permutation": Flag(),
    "m_permutation": Integer(1),
    "change_fn": Optional(Either(Choice("log-fold"), Function())),
    "m1_domain_fn": Optional(Function()),
    "pseudocounts": Optional(Number(least=0)),
    "threshold_counts": Number(least=0),
    "test_mode": Choice("two", "three"),
    "cred_interval_lvls": Optional(ListOf(Number(above=0, below=1))),
    "rna_size_factor": _SIZE,
    "correlation_type": Choice("spearman", "pearson"),
    "n_cells": Integer(1),
    "coordinates": Choice("latent", "information"),
    "component": Optional(Integer(0)),
    "batch": Anything("a batch of the model, or None"),
    "seed": SEED,
    "n_steps": Optional(Integer(0)),
    "lr": Optional(Number(above=0)),
    "start": Choice(None, *get_args(StartName)),
    "layer": Optional(Integer(0)),
    "importance_weighting_kwargs": Optional(Instance(dict, "a dictionary of arguments of `get_importance_weights`")),
    "data_loader_kwargs": Optional(LOADING),
    "zs": Optional(Instance(Tensor, "a tensor of representations")),
    **dict.fromkeys(("qz", "px"), Anything("anything: it is of scvi-tools' signature, and not used")),
}


_OPTIONS = Optional(Instance(dict, "a dictionary of options"))
_PARTS = Choice("encoder", "decoder", "none", "both")
#: A model that another one stands on.
REFERENCE = Anything("a trained model of the same class, or the folder of a saved one")
_REGISTRY = Optional(_Registry())

#: Arguments of the constructors of models without an encoder.
BUILDING: dict[str, Rule] = {
    "adata": Optional(Cells((AnnData, MuData), "an AnnData (or MuData) that was set up")),
    "registry": _REGISTRY,
    "n_components": Either(Integer(1), Choice("auto", "labels")),
    "n_latent": Integer(1),
    "n_hidden": Integer(1),
    "n_layers": Integer(1),
    "activation": Choice("silu", "relu", "tanh"),
    "decoder": Optional(_Network()),
    "use_layer_norm": _PARTS,
    "gene_likelihood": _Family(),
    "likelihoods": Optional(Instance(dict, "a dictionary from modalities to likelihoods")),
    "dispersion": Choice("gene", "gene-batch", refused=DISPERSIONS_OF_ENCODERS),
    "size_factor": Choice(None, "observed", "max", "mean", "registered", "latent", "none"),
    "use_observed_lib_size": Flag(),
    "output_activation": Choice(None, "softmax", "sigmoid", "softplus", "identity"),
    "dispersion_floor": Choice(0, 1),
    "batch_representation": Choice("embedding", "one-hot"),
    "batch_embedding_kwargs": Optional(Options({"embedding_dim": Integer(1)}, of="SCDGD")),
    "prior": PriorRule(has_encoder=False),
    "prior_kwargs": _OPTIONS,
    "noise_scale": Number(least=0),
    "initial_scale": Number(above=0),
    "hyperprior_weight": _OPTIONS,
    "new_cells": _OPTIONS,
    "supervision": Choice(None, "components"),
    "modality_weights": Either(
        Choice("likelihood", "information"),
        Options(dict.fromkeys(MODALITIES, Number(above=0)), of="the modalities"),
        words="'likelihood', 'information', or a positive number for each of some modalities, by name",
    ),
    "components_per_class": Integer(1),
}

#: Those of scvi.nn.FCLayers that scvi-tools' encoder and decoder do not give themselves.
_OF_LAYERS: dict[str, Rule] = {
    "bias": Flag(),
    "use_activation": Flag(),
    "activation_fn": Subclass(Module, "a class of torch modules"),
}
#: Arguments of the constructors of models with an encoder, and of scvi-tools' and our modules behind them.
BUILDING_ENCODERS: dict[str, Rule] = {
    "adata": Optional(Cells(AnnData, "an AnnData that was set up")),
    "registry": _REGISTRY,
    "n_hidden": Either(Integer(1), ListOf(Integer(1), least=1)),
    "n_latent": Integer(1),
    "n_layers": Integer(1),
    "n_components": Optional(Integer(1)),
    "dropout_rate": Number(least=0, below=1),
    "dispersion": Choice("gene", "gene-batch", "gene-label", "gene-cell"),
    "gene_likelihood": _Family(),
    "use_observed_lib_size": Flag(),
    "latent_distribution": Choice("normal", "ln"),
    "prior": PriorRule(has_encoder=True),
    "prior_kwargs": _OPTIONS,
    "posterior": Choice(*get_args(PosteriorName)),
    "posterior_kwargs": _OPTIONS,
    "decoder": Either(Choice(*get_args(DecoderName)), _Network()),
    "encoder": Optional(_Network()),
    "activation": Choice("relu", "tanh", "selu", "elu", "silu"),
    "norm_after_activation": Flag(),
    "decoder_dropout_rate": Number(least=0, below=1),
    "normalize_input": Flag(),
    "mean_activation": Choice(None, *get_args(MeanActivation)),
    "k_max": Integer(0),
    "n_prior_samples": Integer(1),
    "log_variational": Flag(),
    "encode_covariates": Flag(),
    "deeply_inject_covariates": Flag(),
    "batch_representation": Choice("one-hot", "embedding"),
    "use_batch_norm": Choice(None, "encoder", "decoder", "none", "both"),
    "use_layer_norm": _PARTS,
    "extra_payload_autotune": Flag(),
    "extra_encoder_kwargs": Optional(Options({"var_eps": Number(above=0), **_OF_LAYERS}, of="scvi.nn.Encoder")),
    "extra_decoder_kwargs": Optional(Options(_OF_LAYERS, of="scvi.nn.DecoderSCVI")),
    "batch_embedding_kwargs": Optional(
        Options(
            {"embedding_dim": Integer(1)}, of="scvi.nn.Embedding", further=frozenset(signature(Embedding).parameters)
        )
    ),
    "var_activation": Optional(Function()),
    "component_weights": Either(Choice("uniform", "learned", "labels"), ListOf(Number(least=0), least=1)),
    "max_components_per_cell": Optional(Integer(1)),
    "analytic_kl": Flag(),
    "norm_per_component": Flag(),
    "batch_norm_decay": Optional(Number(least=0, below=1)),
    "batch_norm_scale": Flag(),
}

#: What of a reference is frozen when it is extended.
FREEZING: dict[str, Rule] = {
    "unfrozen": Flag(),
    "freeze_dropout": Flag(),
    "freeze_expression": Flag(),
    "freeze_decoder_first_layer": Flag(),
    "freeze_batchnorm_encoder": Flag(),
    "freeze_batchnorm_decoder": Flag(),
    "freeze_classifier": Flag(),
}
#: Arguments of `load_query_data` of models with an encoder.
SURGERY: dict[str, Rule] = {
    "adata": Cells(AnnData, "an AnnData with the genes of the reference"),
    "reference_model": REFERENCE,
    "inplace_subset_query_vars": Flag(),
    "accelerator": ACCELERATOR,
    "device": ONE_DEVICE,
    "transfer_batch": Flag(),
    **FREEZING,
}


def nested_options_of(model_class: type) -> dict[str, dict[str, Rule]]:
    """Rules of what a model takes in dictionaries, and as further arguments of `train`, by their name."""
    of_plans = [rules_of(vars(kind).get("__init__")) for kind in reversed(model_class._training_plan_cls.__mro__)]
    found = {
        "plan_kwargs": {name: rule for rules in (OF_TRAINING_PLAN, *of_plans) for name, rule in rules.items()},
        "datasplitter_kwargs": OF_LOADING,
        "trainer_kwargs": OF_TRAINER,
    }
    if "new_cells" in options_of(model_class)["__init__"]:
        found["new_cells"] = NEW_CELLS.rules
    return {name: dict(rules) for name, rules in found.items()}


def options_of(model_class: type) -> dict[str, dict[str, Rule]]:
    """Rules of all arguments of a model, by method, in the order of the class."""
    constructors = [rules_of(vars(kind).get("__init__")) for kind in reversed(model_class.__mro__)]
    further = getattr(model_class, "_further_arguments", frozenset)()
    found = {"__init__": {name: rule for rules in constructors for name, rule in rules.items()}}
    of_modules = {name: rule for name, rule in BUILDING_ENCODERS.items() if name in further}
    found["__init__"] |= {name: rule for name, rule in of_modules.items() if name not in found["__init__"]}
    found |= {name: rules_of(getattr(model_class, name)) for name in dir(model_class) if not name.startswith("_")}
    return {name: dict(rules) for name, rules in found.items() if rules}
