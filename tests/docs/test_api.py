"""The reference is complete: every public name has a page, and every page a public name."""

from __future__ import annotations

import importlib
import pkgutil
import re
from pathlib import Path

import pytest

import scdgd

PAGE = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
LISTS = re.findall(r"\.\. autosummary::\n(.*?)```", PAGE, flags=re.DOTALL)
#: Names with a page of their own; the page of a module lists all of its `__all__`, see docs/_templates.
WITH_PAGE = {name for block in LISTS if ":toctree:" in block for name in re.findall(r"^    (\w[\w.]*)$", block, re.M)}
NAMED = {name for block in LISTS for name in re.findall(r"^    (\w[\w.]*)$", block, re.M)}
MODULES = [
    info.name.removeprefix("scdgd.")
    for info in pkgutil.walk_packages(scdgd.__path__, "scdgd.")
    if not any(part.startswith("_") for part in info.name.split(".")) and info.name != "scdgd.cli"
]


@pytest.mark.parametrize("name", MODULES)
def test_a_public_module_has_a_page_or_all_its_names_have(name):
    module = importlib.import_module(f"scdgd.{name}")
    assert name in WITH_PAGE or {f"{name}.{public}" for public in module.__all__} <= WITH_PAGE


@pytest.mark.parametrize("name", MODULES)
def test_names_of_all_exist(name):
    module = importlib.import_module(f"scdgd.{name}")
    assert [public for public in getattr(module, "__all__", []) if not hasattr(module, public)] == []


@pytest.mark.parametrize("name", sorted(NAMED))
def test_what_the_page_names_is_public(name):
    if name in MODULES:
        return
    module, _, public = name.rpartition(".")
    assert public in importlib.import_module(f"scdgd.{module}").__all__
