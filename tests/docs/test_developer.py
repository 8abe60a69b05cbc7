"""The developer pages are true: their code runs, and every file, package and name they mention is there."""

from __future__ import annotations

import importlib
import re
from pathlib import Path

import pytest

import scdgd
from tests.conftest import simulate

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs" / "developer").glob("*.md"))
TEXTS = {page.stem: page.read_text() for page in PAGES}
TEXTS["contributing"] = (ROOT / "CONTRIBUTING.md").read_text()
#: Files that a page says how to make.
NOT_YET = {"src/scdgd/likelihood/_geometric.py"}


@pytest.mark.parametrize("page", [page for page, text in TEXTS.items() if "```python" in text])
def test_code_of_a_page_runs(page):
    namespace = {"adata": simulate(40, 8, n_batches=2)}
    for block in re.findall(r"```python\n(.*?)```", TEXTS[page], flags=re.DOTALL):
        exec(compile(block, f"{page}.md", "exec"), namespace)
    if page == "data_flow":
        assert namespace["z"].shape == namespace["gradient"].shape == (16, 4)
        assert namespace["px"].log_prob(namespace["counts"]).shape == (16,)


@pytest.mark.parametrize("page", TEXTS)
def test_files_of_a_page_exist(page):
    pattern = r"`((?:src|tests|docs|benchmarks|\.github|\.ci)/[\w./-]*|[\w.]+\.(?:toml|txt|cff|yaml))`"
    for name in set(re.findall(pattern, TEXTS[page])) - NOT_YET:
        assert (ROOT / name).exists(), name


@pytest.mark.parametrize("page", TEXTS)
def test_links_of_a_page_into_the_repository_lead_somewhere(page):
    of_pages = ROOT if page == "contributing" else ROOT / "docs" / "developer"
    for link in re.findall(r"\]\(((?!http)[^)#]+)", TEXTS[page]):
        assert (of_pages / link).exists(), link
    for path in re.findall(r"github\.com/scdgd/scdgd/blob/main/([^)#]+)\)", TEXTS[page]):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", TEXTS)
def test_names_of_a_page_exist(page):
    for name in set(re.findall(r"\{(?:class|func|meth|mod)\}`~?(scdgd[\w.]+)`", TEXTS[page])):
        *modules, attribute = name.split(".")
        part = scdgd
        for i, piece in enumerate([*modules[1:], attribute], start=1):
            part = (
                getattr(part, piece)
                if hasattr(part, piece)
                else importlib.import_module(".".join(name.split(".")[: i + 1]))
            )
        assert part is not scdgd, name


@pytest.mark.parametrize("page", TEXTS)
def test_commands_of_a_page_exist(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"(?:`|^)make ([a-z-]+)", TEXTS[page], flags=re.MULTILINE)) <= targets


def test_words_of_the_code_that_pages_name():
    """Private names that "adding" tells to edit."""
    where = {
        "prior/_registry.py": ("", ["PRIORS"]),
        "likelihood/_registry.py": ("", ["LIKELIHOODS"]),
        "_scdgd.py": (
            "model",
            ["_module_cls", "_training_plan_cls", "_data_splitter_cls", "_latent_key", "checkpoint_format_"],
        ),
        "_representation_plan.py": ("train", [".place(", ".after_epoch("]),
    }
    for file, (package, names) in where.items():
        source = (ROOT / "src" / "scdgd" / package / file).read_text()
        assert not [name for name in names if name not in source], file
    assert "every_prior" in (ROOT / "tests/prior/encoded.py").read_text()
    assert "REFERENCES = {" in (ROOT / "tests/likelihood/test_stress.py").read_text()
    assert "FAMILIES = [" in (ROOT / "tests/likelihood/test_compiled_families.py").read_text()
