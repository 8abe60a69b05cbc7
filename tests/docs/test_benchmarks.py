"""The harness of benchmarks: a grid goes on where it stopped, and says what made its rows."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

ROOT = Path(__file__).parents[2]
ABOUT = "What is measured.\n\n    python benchmarks/toy.py --data DIR --standard\n\nHow it is."


@pytest.fixture
def harness(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    import _benchmark

    monkeypatch.setattr(_benchmark, "one_quiet_thread", lambda: None)
    return _benchmark


@pytest.fixture
def toy(harness, monkeypatch, tmp_path):
    """Runs a grid of two methods on two seeds; collects what ran."""
    ran, failing = [], set()

    def run(cells, job, tier):
        ran.append(tuple(job))
        if job.method in failing:
            raise ValueError(job.method)
        yield {"score": cells + tier.size, "text": "0.10"}
        yield {"method": f"{job.method}, again", "score": None}

    report = lambda rows, tier: " ".join(f"{row.method}:{row.seed}:{row.score}:{row.text}" for row in rows.itertuples())
    tiers = {"quick": None, "standard": SimpleNamespace(sets=("one",), seeds=2, size=0.5)}
    benchmark = harness.Benchmark(
        "toy", "Toy", ABOUT, tiers, harness.every("ab"), run, report, lambda name, seed, tier, data: 10 * seed
    )

    def main(*options: str) -> str:
        page = tmp_path / "page.md"
        arguments = ["toy.py", "--standard", "--data", ".", "--ledger", str(tmp_path / "toy.jsonl"), "--out", str(page)]
        monkeypatch.setattr(sys, "argv", [*arguments, *options])
        ran.clear()
        benchmark.main()
        return page.read_text()

    return SimpleNamespace(main=main, ran=ran, failing=failing)


def test_what_failed_is_tried_again_and_nothing_else(toy):
    toy.failing.add("b")
    with pytest.raises(SystemExit, match="one 0 b; .*one 1 b"):
        toy.main()
    assert len(toy.ran) == 4
    toy.failing.clear()
    page = toy.main()
    assert toy.ran == [("one", 0, "b"), ("one", 1, "b")]
    order = "a:0:0.5:0.10 a, again:0:nan:nan b:0:0.5:0.10 b, again:0:nan:nan b:1:10.5:0.10"
    assert order in page, "rows are in the order of the grid, texts are as they were"


def test_a_page_names_command_versions_and_commits(toy, harness, monkeypatch):
    monkeypatch.setattr(harness, "commit", lambda: "abc1234+")
    page = toy.main("--methods", "a")
    assert {method for _, _, method in toy.ran} == {"a"}
    assert page.startswith(
        "# Toy\n\nWhat is measured.\n\nPrinted by `python benchmarks/toy.py --data DIR --standard --methods a`; Python 3"
    )
    assert "scdgd " in page
    assert "commit abc1234+." in page
    monkeypatch.setattr(harness, "commit", lambda: "def5678")
    assert "commits abc1234+, def5678." in toy.main()


def test_a_ledger_of_an_older_form_is_kept_and_begun_anew(toy, tmp_path, capsys):
    (tmp_path / "toy.jsonl").write_text("set,seed,method\none,0,a\n")
    toy.main()
    assert len(toy.ran) == 4
    assert "begun anew" in capsys.readouterr().out
    assert (tmp_path / "toy.jsonl.old").read_text().startswith("set,seed")


def test_a_line_that_was_cut_off_is_run_again(toy, tmp_path):
    toy.main()
    ledger = tmp_path / "toy.jsonl"
    ledger.write_text(ledger.read_text()[:-20])
    toy.main()
    assert len(toy.ran) == 1
    toy.main()
    assert not toy.ran
