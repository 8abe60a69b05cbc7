"""Results that do not change by a bit, unless a change is deliberate and told of."""

from __future__ import annotations

import numpy as np
import pytest

from .cases import CASES, machine, read_values, values_of

STORED, MACHINE = read_values()
#: One of each class but for presets runs with the quick tests.
_QUICK = {"SCDGD", "SCVAD", "FlexSCVI", "SCGMVAE", "SCDBM"}


@pytest.mark.skipif(machine() != MACHINE, reason=f"exact values are those of {MACHINE}")
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in _QUICK else pytest.mark.slow) for name in CASES]
)
def test_results_are_those_that_were_stored(name):
    found = values_of(CASES[name])
    assert found.keys() == STORED[name].keys()
    for key, value in found.items():
        np.testing.assert_array_equal(value, STORED[name][key], err_msg=key)


def test_every_case_is_stored():
    assert STORED.keys() == CASES.keys()
