"""The layers of docs/developer/house.md: a package imports from those before it only, and no files from each other in a circle.

Imports inside functions and for type checkers count as those at the top of a file: who reads has to open the file anyway.
"""

from __future__ import annotations

import ast
import functools
import itertools
import re
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import scdgd.model

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "scdgd"
#: In the order in which the data go. Packages of a row may import each other.
LAYERS = (
    {
        "_constants",
        "_lazy",
        "_compat",
        "_devices",
        "_precision",
        "_options",
        "_absent_options",
        "_files",
        "_model_file",
        "presets",
    },
    {"data", "datasets"},
    {"likelihood"},
    {"prior"},
    {"posterior"},
    {"module"},
    {"inference"},
    {"train"},
    {"metrics"},
    {"clusters"},
    {"model"},
    {"boltzmann"},
    {"tl"},
    {"pl"},
    {"design"},
    {"_report", "_summary", "_html_report", "_epoch_lines"},
    {"cli"},
)
LAYER_OF = {name: number for number, names in enumerate(LAYERS) for name in names}
FILES = sorted(path for path in SOURCE.rglob("*.py") if path != SOURCE / "__init__.py")


@functools.cache
def nodes_of(path: Path) -> list[ast.AST]:
    """Everything in a file, parsed once."""
    return list(ast.walk(ast.parse(path.read_text())))


@functools.cache
def imported(path: Path) -> set[tuple[str, str]]:
    """Absolute name of each module that a file imports from, and what it takes from it."""
    package = ["scdgd", *path.relative_to(SOURCE).parent.parts]
    pairs = set()
    for node in nodes_of(path):
        if isinstance(node, ast.Import):
            pairs |= {(alias.name, "") for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *filter(None, [node.module])])
            pairs |= {(module, alias.name) for alias in node.names}
    return pairs


def test_every_package_has_a_layer():
    assert {path.relative_to(SOURCE).parts[0].removesuffix(".py") for path in FILES} == set(LAYER_OF)


@pytest.mark.parametrize("name", sorted(LAYER_OF))
def test_a_layer_imports_from_those_before_it(name):
    wrong = []
    for path in FILES:
        if path.relative_to(SOURCE).parts[0].removesuffix(".py") != name:
            continue
        for module, item in imported(path):
            top, *rest = module.split(".")
            source = rest[0] if rest else item
            if top == "scdgd" and LAYER_OF.get(source, -1) > LAYER_OF[name]:
                wrong.append(f"{path.relative_to(SOURCE)} imports {source}")
    assert not wrong


def dotted(path: Path) -> str:
    """Absolute name of the module that a file is."""
    return ".".join(["scdgd", *path.relative_to(SOURCE).with_suffix("").parts]).removesuffix(".__init__")


def test_no_files_import_from_each_other_in_a_circle():
    """What two files share stands in a third one."""
    names = {dotted(path) for path in FILES}
    graph = {}
    for path in FILES:
        pairs = {(f"{module}.{item}", module) for module, item in imported(path)}
        graph[dotted(path)] = {whole if whole in names else module for whole, module in pairs} & names
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as circle:
        pytest.fail(" <- ".join(circle.args[1]))


def test_private_names_of_other_packages_are_touched_in_one_file():
    wrong = []
    for path in FILES:
        for module, item in imported(path):
            names = [*module.split("."), item]
            is_private = any(re.match(r"_(?!_)", name) for name in names)
            if is_private and names[0] not in ("scdgd", "__future__") and path.name != "_compat.py":
                wrong.append(f"{path.relative_to(SOURCE)} imports {module}.{item}")
    assert not wrong


#: Names that begin with an underscore and are public all the same: of named tuples, and methods that scvi-tools gives to models.
_PUBLIC = {"_asdict", "_fields", "_replace", "_check_if_trained"}
#: Where NumPy's arrays have been pickled from, and torch's sampler of gamma variates that takes a generator.
_KNOWN = {
    ("_model_file.py", "_core"),
    ("_model_file.py", "_reconstruct"),
    ("_negative_binomial_layer.py", "_standard_gamma"),
}


def test_private_attributes_of_other_packages_are_touched_in_one_file():
    """Those that no file of the package makes; a subclass may call what its base class has. Lightning's loops are private."""
    made, touched = set(), []
    for path in FILES:
        for node in nodes_of(path):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                made.add(node.name)
            elif isinstance(node, (ast.Attribute, ast.Name)) and isinstance(node.ctx, ast.Store):
                made.add(node.attr if isinstance(node, ast.Attribute) else node.id)
            elif isinstance(node, ast.Attribute) and ast.unparse(node.value) not in ("self", "cls", "super()"):
                is_private = re.match(r"_(?!_)", node.attr) and node.attr not in _PUBLIC
                if (is_private or node.attr.endswith("_loop")) and path.name != "_compat.py":
                    touched.append((path.name, node.attr))
    assert {pair for pair in touched if pair[1] not in made} <= _KNOWN


def test_the_page_of_the_house_has_this_order():
    page = (ROOT / "docs" / "developer" / "house.md").read_text()
    rows = re.findall(r"^\| \d+ \| (.+?) \|", page, flags=re.MULTILINE)
    assert [set(re.findall(r"`(\w+)[./\w]*`", row)) for row in rows] == list(LAYERS)


def own_classes(model_cls: type) -> list[type]:
    """Classes of this package that a model is, itself the first."""
    return [kind for kind in model_cls.__mro__ if kind.__module__.startswith("scdgd.")]


@pytest.mark.parametrize("name", scdgd.model.__all__)
def test_a_model_is_few_classes_whose_order_does_not_matter(name):
    """At most six, and none defines what another one that it does not derive from defines too."""
    classes = own_classes(getattr(scdgd.model, name))
    assert len(classes) <= 6
    beside = [pair for pair in itertools.combinations(classes, 2) if not issubclass(*pair)]
    assert [(set(vars(a)) & set(vars(b))) - {"__module__", "__doc__"} for a, b in beside] == []
