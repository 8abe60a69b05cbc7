"""What is printed of a model, on every model."""

from __future__ import annotations

from tests.kinds.models import built, every_model, trained
from tests.model.test_contract import data


@every_model
def test_a_model_is_printed_in_a_sentence_and_a_table(name, capsys):
    model, _ = trained(name)
    text = str(model)
    cells, n_batch = model.summary_stats.n_cells, model.summary_stats.n_batch
    assert text.startswith(
        f"{type(model).__name__} of {cells} cells and {model.summary_stats.n_vars} features, trained"
    )
    assert f"{n_batch}, of 'batch'" in text
    assert max(map(len, text.splitlines())) <= 100
    assert model._repr_html_().count("<tr>") == len(text.splitlines()) - 1
    model.component_clusters_ = [0, 1, 1]
    assert "2, of 3 components" in repr(model)
    assert not capsys.readouterr().out, "scvi-tools prints, and returns nothing"
    untrained = built(name, data()[0])
    assert "not trained" in str(untrained)
    assert "batches" not in str(untrained)
