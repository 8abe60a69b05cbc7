"""Thousands of odd arguments and data on all models: each is of use, or refused in words of ours before anything changes."""

from __future__ import annotations

import pytest

from .calls import draw, outcome
from .inputs import draw_inputs, outcome_of

#: The quick suite tries 100 cases, the slow one thousands.
_QUICK, _SLOW = range(2), range(100, 140)


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    """Odd names of folders are made somewhere."""
    monkeypatch.chdir(tmp_path)


def failures(cases, outcome) -> list[str]:
    return [f"{case}: {what}" for case in cases if (what := outcome(case))]


@pytest.mark.parametrize("seed", _QUICK)
def test_arguments(seed):
    assert failures(draw(seed, 40), outcome) == []


@pytest.mark.parametrize("seed", _QUICK)
def test_data(seed):
    assert failures(draw_inputs(seed, 10), outcome_of) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", _SLOW)
def test_many_arguments(seed):
    assert failures(draw(seed, 200), outcome) == []


@pytest.mark.slow
@pytest.mark.parametrize("seed", _SLOW)
def test_much_data(seed):
    assert failures(draw_inputs(seed, 50), outcome_of) == []
