"""One table of options drives checks, the page of the documentation and the fuzz; nothing that users may pass is left out.

``python -m tests.model.test_options`` writes the page.
"""

from __future__ import annotations

import inspect
import re
from importlib.metadata import version
from pathlib import Path

import pytest
from scvi.model.base import DifferentialComputation

from scdgd._options import rules_of
from scdgd.model._arguments import READING, SETUP, nested_options_of, options_of
from scdgd.model._training_options import OF_LOADING, OF_TRAINER, TRAINING
from tests.model.test_contract import MODELS

PAGE = Path(__file__).parents[2] / "docs/user_guide/options.md"
OURS = {name: model_class for name, (model_class, _) in MODELS.items() if name != "scVI"}
#: Methods by which scvi-tools' own parts talk to each other, and arguments that are handed on to it as they are.
_OF_SCVI_TOOLS = {
    "convert_legacy_save",
    "data_registry",
    "deregister_manager",
    "get_anndata_manager",
    "get_from_registry",
    "get_setup_arg",
    "get_state_registry",
    "get_var_names",
    "prepare_query_anndata",
    "prepare_query_mudata",
    "register_manager",
    "to_device",
    "transfer_fields",
    "update_setup_method_args",
    "view_anndata_setup",
    "view_registry",
    "view_setup_args",
}
_HANDED_ON = {"load": {"backup_url", "datamodule"}, "save": {"datamodule"}}


def public_methods(model_class: type) -> list[str]:
    """Names of what users call, the constructor first."""
    names = ["__init__", *(name for name in dir(model_class) if not name.startswith("_"))]
    return [name for name in names if name not in _OF_SCVI_TOOLS and callable(getattr(model_class, name))]


#: Methods that later releases of scvi-tools add have no rules until they are tested.
_TESTED = re.search(r"^scvi-tools==(.+)$", (Path(__file__).parents[2] / "constraints.txt").read_text(), re.MULTILINE)


@pytest.mark.skipif(version("scvi-tools") != _TESTED[1], reason=f"rules are for scvi-tools {_TESTED[1]}")
@pytest.mark.parametrize("name", OURS)
def test_every_argument_has_a_rule(name):
    model_class, without = OURS[name], []
    rules = options_of(model_class)
    for method in public_methods(model_class):
        if inspect.isclass(getattr(model_class, method)):
            continue
        for argument, parameter in inspect.signature(getattr(model_class, method)).parameters.items():
            is_one = parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
            if is_one and argument not in {"self", "cls", *rules.get(method, {}), *_HANDED_ON.get(method, ())}:
                without.append(f"{method}({argument})")
    assert without == []


@pytest.mark.parametrize("name", OURS)
def test_every_option_of_a_plan_has_a_rule(name):
    plan = OURS[name]._training_plan_cls
    rules = nested_options_of(OURS[name])["plan_kwargs"]
    without = [
        option
        for option, parameter in inspect.signature(plan.__init__).parameters.items()
        if parameter.kind is not parameter.VAR_KEYWORD and option not in {"self", "module", *rules}
    ]
    assert without == []


def test_rules_are_of_arguments_that_there_are():
    """A rule whose argument was renamed would check nothing."""
    methods = [getattr(model, name) for model in OURS.values() for name in public_methods(model)]
    used = set().union(*(inspect.signature(method).parameters for method in methods if not inspect.isclass(method)))
    of_comparison = set(inspect.signature(DifferentialComputation.get_bayes_factors).parameters)  # handed on to it
    assert set(READING) - used - of_comparison == set()
    assert set(SETUP) - used == set()
    assert set(TRAINING) - used == set()


def table(rules: dict) -> list[str]:
    rows = (
        f"| `{name}` | {rule.words[0].upper()}{rule.words[1:].replace('|', chr(92) + '|')} |"
        for name, rule in rules.items()
    )
    return ["| argument | what it may be |", "|---|---|", *rows, ""]


def constructor(model_class: type) -> list[str]:
    """What a constructor takes, of a model that is another one with more, what differs."""
    rules = options_of(model_class)["__init__"]
    base = next((kind for kind in model_class.__mro__[1:] if kind in OURS.values()), None)
    if base is None:
        return table(rules)
    of_base = options_of(base)["__init__"]
    own = {name: rule for name, rule in rules.items() if name not in of_base or of_base[name].words != rule.words}
    same = f"As `{base.__name__}`"
    return [f"{same}, and:", "", *table(own)] if own else [f"{same}.", ""]


def page() -> str:
    lines = [
        "# Options",
        "",
        "Which values arguments accept. The tables are printed from the rules by which models check arguments before anything",
        "changes. Error messages say what was passed and what is accepted; for an unknown name they give the nearest known one.",
        "Numbers may be of any numeric type, NumPy's too: `3.0` is the integer 3, `True` is no number. `None` stands for the default.",
        "",
        "## `setup_anndata` and `setup_mudata`",
        "",
        *table(SETUP),
        "## Constructors",
        "",
    ]
    for name, model_class in OURS.items():
        lines += [f"### {name}", "", *constructor(model_class)]
    lines += ["## `train`", "", *table(TRAINING)]
    lines += ["### Of the trainer", "", "Further arguments of `train`.", "", *table(OF_TRAINER)]
    lines += ["### Of the data splitter", "", "In `datasplitter_kwargs`.", "", *table(OF_LOADING)]
    lines += ["### Of training plans", "", "In `plan_kwargs`.", ""]
    plans = {model_class._training_plan_cls: model_class for model_class in reversed(OURS.values())}
    for plan, model_class in sorted(plans.items(), key=lambda item: item[0].__name__):
        own = {name for kind in plan.__mro__ for name in rules_of(vars(kind).get("__init__"))}
        rules = nested_options_of(model_class)["plan_kwargs"]
        of_all = {name: rule for name, rule in rules.items() if name not in own}
        lines += [f"#### {plan.__name__}", "", *table({name: rule for name, rule in rules.items() if name in own})]
    lines += [
        "#### Of scvi-tools' plan",
        "",
        "Those that have an effect; others raise an error.",
        "",
        *table(of_all),
    ]
    lines += ["## `new_cells`", "", *table(nested_options_of(OURS["SCDGD"])["new_cells"])]
    lines += ["## Reading methods", "", "The same names mean the same in all of them.", "", *table(READING)]
    return "\n".join(lines).rstrip() + "\n"


def test_the_page_says_what_is_checked():
    assert PAGE.read_text() == page()


if __name__ == "__main__":
    PAGE.write_text(page())
