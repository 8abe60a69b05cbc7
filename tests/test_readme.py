"""Everything in the README runs, leads somewhere, or stands in the code."""

from __future__ import annotations

import functools
import re
import subprocess
from pathlib import Path

import matplotlib.pyplot as plt
import pytest

import scdgd
from scdgd.cli._main import _parser
from scdgd.model import SCDGD

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", README, flags=re.DOTALL)


def test_python_block_runs(monkeypatch):
    original = SCDGD.train
    monkeypatch.setattr(SCDGD, "train", lambda self: original(self, 3, accelerator="cpu", enable_progress_bar=False))
    (block,) = [code for language, code in BLOCKS if language == "python"]
    assert len(block.strip().splitlines()) - block.strip().splitlines().count("") == 12  # as its heading says
    namespace = {}
    exec(compile(block, "README.md", "exec"), namespace)
    reference, query = namespace["reference"], namespace["query"]
    assert reference.obsm["X_scdgd_information"].shape == (600, 20)
    assert reference.obs["scdgd_cluster"].nunique() > 1
    assert len(namespace["markers"]) == reference.n_vars
    assert set(query.obs["scdgd_label"]) <= {*reference.obs["bulk_labels"], "unknown"}
    plt.close("all")


def test_make_targets_of_the_readme_exist():
    (block,) = [code for language, code in BLOCKS if language == "bash"]
    targets = set(re.findall(r"^make (\w+)", block, flags=re.MULTILINE))
    assert targets == {"demo"}
    plan = subprocess.run(
        ["make", "--dry-run", "demo", "DATA=my.h5ad", "LABELS=cell_type", "BATCH=donor"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert '--data "my.h5ad" --labels-key "cell_type" --batch-key "donor"' in plan


def test_command_of_the_readme_is_understood():
    (command,) = re.findall(r"`scdgd (fit [^`]+)`", README)
    args = _parser().parse_args(command.split())
    assert (str(args.input), str(args.output), str(args.report)) == ("INPUT.h5ad", "OUTPUT.h5ad", "DIR")


@pytest.mark.parametrize("link", sorted(set(re.findall(r"\]\(((?!http)[^)#]+)\)", README))))
def test_links_into_the_repository_lead_somewhere(link):
    assert (ROOT / link).exists()


def test_table_has_every_model():
    assert sorted(re.findall(r"^\| \[`(\w+)`\]", README, flags=re.MULTILINE)) == sorted(scdgd.model.__all__)


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`scdgd\.([\w.]+)`", README))))
def test_names_in_the_readme_exist(name):
    *modules, attribute = name.split(".")
    assert hasattr(functools.reduce(getattr, modules, scdgd), attribute)


def test_publications_are_those_of_the_documentation():
    """Each of the list is cited in the table, is one of the references, and stands in the citation file."""
    references = re.sub(r"[{}]", "", (ROOT / "docs" / "references.bib").read_text())
    titles = re.findall(r"^  title\s+= (.+),$", references, flags=re.MULTILINE)
    citation = (ROOT / "CITATION.cff").read_text()
    publications = re.findall(r"^\d\. .*?(?=^\d\. |\Z)", README, flags=re.MULTILINE | re.DOTALL)
    assert {int(number) for number in re.findall(r"\[(\d)\](?!\()", README)} == {1, 2, 3, 4, 5}
    assert len(publications) == 5
    for publication in publications:
        (title,) = [title for title in titles if title in " ".join(publication.split())]
        assert title in citation
    identifiers = re.findall(r"<https://(?:doi\.org|arxiv\.org/abs)/([^>]+)>", README)
    assert len(identifiers) == 4
    for identifier in identifiers:
        assert identifier in references
        assert identifier in citation
