"""Rows of presets run with the slow tests."""

from __future__ import annotations

from pathlib import Path

import pytest

#: Other arguments of `FlexSCVI` or of `SCGMVAE`, which run with the quick tests, and `SCDGD` with two modalities.
_PRESETS = {"SCVMM", "SCVAMP", "SCIAF", "SCVAE", "MULTIDGD"}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items) -> None:
    """Mark the rows before any are deselected."""
    for item in items:
        row = getattr(item, "callspec", None)
        if item.path.parent == Path(__file__).parent and row is not None and _PRESETS & {*row.id.split("-")}:
            item.add_marker(pytest.mark.slow)
