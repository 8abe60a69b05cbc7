"""The form of the tutorials: stored as they ran, offline, with links that lead somewhere. `make tutorials` runs them."""

from __future__ import annotations

import ast
import json
import re
import sys
import tempfile
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "tutorials"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MAX_BYTES = 600_000
MAX_COLUMNS = 95  # of code that fits the page without a scroll bar
#: Absolute paths of any machine, and the folders of this one wherever they stand.
HERE = "|".join(re.escape(f"{folder}/") for folder in (ROOT, Path.home(), tempfile.gettempdir()))
MACHINE = re.compile(r"(?<![\w./+-])/[\w.-]+/|file:/|site-packages|[A-Z]:\\\\|" + HERE)
PROGRESS_BAR = re.compile(r"\d+%\|")
IMPORT_NAMES = {"scikit-learn": "sklearn", "scvi-tools": "scvi", "pyro-ppl": "pyro"}

pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="sources without tutorials")


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request) -> Path:
    return request.param


def read(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8"))


def cells_of(path: Path, kind: str) -> list[dict]:
    return [cell for cell in read(path)["cells"] if cell["cell_type"] == kind]


def source_of(path: Path, kind: str) -> str:
    return "\n".join("".join(cell["source"]) for cell in cells_of(path, kind))


def test_paths_are_told_from_urls_and_names_of_cells():
    folders = ("home", "root", "tmp", "Users", "work", "mnt")
    assert all(
        MACHINE.search(f"{before}/{folder}/x") for folder in folders for before in ("", " ", "'", "(", "=", "C:")
    )
    assert not MACHINE.search(
        "https://docs.scvi-tools.org/en/stable, CD4+/CD45RA+/CD25- Naive T, nats/cell, tutorials/1.ipynb"
    )


def test_they_are_numbered_without_gaps():
    assert [int(path.stem.split("_")[0]) for path in NOTEBOOKS] == list(range(1, len(NOTEBOOKS) + 1))


def test_the_overview_and_the_check_name_what_exists():
    linked = re.findall(r"\]\((\w+\.ipynb)\)", (FOLDER / "README.md").read_text())
    assert linked == [path.name for path in NOTEBOOKS]
    checked = re.findall(r"tutorials/(\w+\.ipynb)", (ROOT / ".ci" / "run").read_text())
    assert checked
    assert set(checked) <= set(linked)


def test_it_has_a_title_and_plain_metadata(path):
    notebook = read(path)
    assert notebook["nbformat"] == 4
    assert set(notebook["metadata"]) == {"kernelspec"}
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    first = notebook["cells"][0]
    assert first["cell_type"] == "markdown"
    assert "".join(first["source"]).startswith("# ")
    titles = re.findall(r"^# ", source_of(path, "markdown"), flags=re.MULTILINE)
    assert len(titles) == 1
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    assert path.stat().st_size < MAX_BYTES


def test_its_code_fits_the_page(path):
    lines = source_of(path, "code").splitlines()
    assert [line for line in lines if len(line) > MAX_COLUMNS] == []


def test_it_is_stored_as_it_ran_from_top_to_bottom(path):
    cells = cells_of(path, "code")
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    outputs = [output for cell in cells for output in cell["outputs"]]
    assert all(output["output_type"] != "error" for output in outputs)
    assert any("image/png" in output.get("data", {}) for output in outputs)
    for output in outputs:
        texts = [output.get("text", ""), *(v for k, v in output.get("data", {}).items() if k.startswith("text/"))]
        text = "".join("".join(text) for text in texts)
        assert not MACHINE.search(text)
        assert not PROGRESS_BAR.search(text)


def test_it_imports_what_scdgd_depends_on(path):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {re.match(r"[\w-]+", requirement)[0] for requirement in project["dependencies"]}
    allowed = {IMPORT_NAMES.get(name, name) for name in names} | sys.stdlib_module_names | {"scdgd"}
    imported = set()
    for node in ast.walk(ast.parse(source_of(path, "code"))):
        if isinstance(node, ast.Import):
            imported.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            imported.add(node.module.split(".")[0])
    assert "scdgd" in imported
    assert imported <= allowed


def test_it_has_a_short_form(path):
    source = source_of(path, "code")
    assert 'short = "SCDGD_SHORT" in os.environ' in source
    assert re.search(r"\bif short\b", source)


def test_links_lead_somewhere(path):
    """The documentation copies notebooks to docs/tutorials, so that guides are at ../user_guide."""
    links = re.findall(r"\]\(((?!http)[^)#]+)(?:#[^)]*)?\)", source_of(path, "markdown"))
    assert links
    for link in links:
        inside = link.startswith("../")
        assert (ROOT / "docs" / link[3:] if inside else FOLDER / link).is_file(), link
