"""Cards of models for scvi-tools' hub."""

from __future__ import annotations

import pytest

import scdgd
from scdgd.tl._hub_model import card_of
from tests.conftest import make_model, simulate, train


def test_a_card_says_what_was_saved(tmp_path):
    model = train(make_model(simulate(60, 8, n_batches=2), setup={"batch_key": "batch"}))
    model.save(tmp_path / "model")
    card = card_of(scdgd.model.SCDGD.load_registry(tmp_path / "model"), "cc-by-4.0", "Cells of a test.")
    head, _, body = card.removeprefix("---\n").partition("\n---\n")
    assert "license: cc-by-4.0" in head.splitlines()
    assert "- model_cls_name:SCDGD" in head.splitlines()
    assert "Cells of a test." in body
    assert '"batch_key": "batch"' in body
    assert "Trained on 60 cells." in body


def test_no_model_no_card(tmp_path):
    with pytest.raises(ValueError, match="There is no folder"):
        scdgd.tl.hub_model(tmp_path / "nothing", "cc-by-4.0")
