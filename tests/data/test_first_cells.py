"""The first of some minibatches."""

from __future__ import annotations

import pytest
import torch
from scvi import REGISTRY_KEYS

from scdgd.data import first_cells


@pytest.mark.parametrize(("n_cells", "n_read"), [(1, 1), (4, 1), (5, 2), (8, 2), (9, 3), (100, 3)])
def test_as_few_minibatches_as_have_the_cells(n_cells, n_read):
    asked = []
    minibatches = ({REGISTRY_KEYS.X_KEY: torch.zeros(4, 2)} for _ in map(asked.append, range(3)))
    assert len(list(first_cells(minibatches, n_cells))) == len(asked) == n_read
