"""What minified data keep of posteriors is all there is to them."""

import pytest
import torch
from torch.distributions import Normal

from scdgd.module._stored_posterior import (
    ComponentEncoding,
    Encoding,
    StoredComponent,
    StoredComponents,
    StoredEncoding,
    StoredMoments,
)

B, D, H, M = 5, 3, 4, 2


def normal(*shape: int) -> Normal:
    return Normal(torch.randn(shape), torch.rand(shape) + 0.1)


def assert_same(first: Normal, second: Normal) -> None:
    torch.testing.assert_close(first.loc, second.loc, equal_nan=True)
    torch.testing.assert_close(first.scale, second.scale, equal_nan=True)


def through(stored, encoding, moments: Normal):
    rows = stored.rows(encoding)
    assert rows.shape == (B, stored.n_columns)
    return stored.read(moments.mean, moments.variance, rows if stored.n_columns else None)


def test_of_normals_moments_are_all():
    base = normal(B, D)
    assert_same(through(StoredMoments(), Encoding(base), base).base, base)


def test_of_flows_and_correlations():
    base, hidden = normal(B, D), torch.randn(B, H)
    again = through(StoredEncoding(D, H, "a flow's"), Encoding(base, hidden), normal(B, D))
    assert_same(again.base, base)
    torch.testing.assert_close(again.hidden, hidden)
    assert again.found is None


def test_posteriors_that_were_found_take_the_place_of_the_encoders():
    base, hidden, found = normal(B, D), torch.randn(B, H), normal(B, D)
    found.loc[2:], found.scale[2:] = torch.nan, torch.nan
    again = through(StoredEncoding(D, H, "a flow's"), Encoding(base, hidden, found), normal(B, D))
    torch.testing.assert_close(again.found.loc, found.loc, equal_nan=True)
    torch.testing.assert_close(again.found.scale[:2], found.scale[:2])
    assert_same(Normal(again.base.loc[2:], again.base.scale[2:]), Normal(base.loc[2:], base.scale[2:]))
    torch.testing.assert_close(again.hidden[2:], hidden[2:])
    assert again.hidden.isfinite().all()


def test_of_components():
    log_qy = torch.log_softmax(torch.randn(M, B), 0)
    given = ComponentEncoding(log_qy, torch.randint(0, 300, (M, B)), normal(M, B, D))
    again = through(StoredComponents(M, D), given, normal(B, D))
    torch.testing.assert_close(again.log_qy, log_qy)
    assert torch.equal(again.components, given.components)
    assert_same(again.qz_given_y, given.qz_given_y)


def test_of_one_component_moments_are_all():
    one = ComponentEncoding(torch.zeros(1, B), torch.zeros(1, B, dtype=torch.int64), normal(1, B, D))
    again = through(StoredComponent(), one, Normal(one.qz_given_y.loc[0], one.qz_given_y.scale[0]))
    assert_same(again.qz_given_y, one.qz_given_y)
    assert again.components.shape == again.log_qy.shape == (1, B)


@pytest.mark.parametrize("n_kept", [None, 3])
def test_rows_of_other_posteriors_are_refused(n_kept):
    rows = None if n_kept is None else torch.zeros(B, n_kept)
    with pytest.raises(ValueError, match=f"has {n_kept or 0} numbers for each cell, and this model keeps 10"):
        StoredEncoding(D, H, "a flow's").read(torch.zeros(B, D), torch.ones(B, D), rows)
