"""No module is asked what it is, but in the one place that knows those of scvi-tools."""

from __future__ import annotations

import ast
from pathlib import Path

import scvi
import torch

import scdgd
import scdgd.boltzmann

SOURCE = Path(scdgd.__file__).parent
ADAPTER = SOURCE / "inference" / "_stock_module.py"
KINDS = {
    name
    for package in (scdgd.module, scdgd.boltzmann, scvi.module, scvi.module.base)
    for name in package.__all__
    if isinstance(getattr(package, name), type) and issubclass(getattr(package, name), torch.nn.Module)
} | {"LDVAE", "VAE"}


def asked(path: Path) -> list[str]:
    """Classes of modules that a file tests for."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "isinstance":
            found += list(ast.walk(node.args[1]))
        elif isinstance(node, ast.Compare) and getattr(getattr(node.left, "func", None), "id", "") == "type":
            found += [part for comparator in node.comparators for part in ast.walk(comparator)]
    return [f"{path.name}: {part.id}" for part in found if isinstance(part, ast.Name) and part.id in KINDS]


def test_no_module_is_asked_what_it_is():
    assert {"DGDModule", "FlexVAE", "GMVAE", "VADModule", "DeepBoltzmannMachine", "LinearDecoder", "VAE"} <= KINDS
    assert not [found for path in SOURCE.rglob("*.py") if path != ADAPTER for found in asked(path)]


def test_the_test_sees_them():
    assert asked(ADAPTER) == ["_stock_module.py: VAE"]
