"""What is released and registered: metadata, workflows, the entry of scverse's list, and what goes into archives."""

from __future__ import annotations

import re
import tomllib
from importlib.metadata import metadata
from importlib.resources import files
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
MAKE_TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))


def steps_of(workflow: dict) -> list[dict]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflow(path):
    """It parses, its permissions are least, its actions are pinned, and its commands exist."""
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] in ({}, {"contents": "read"})
    for job in workflow["jobs"].values():
        assert "timeout-minutes" in job
    for step in steps_of(workflow):
        if "uses" in step:
            assert re.fullmatch(r"[\w-]+/[\w-]+@[0-9a-f]{40}", step["uses"])
            if "checkout" in step["uses"]:
                assert step["with"]["persist-credentials"] is False
        for target in re.findall(r"\bmake ([a-z-]+)", step.get("run", "")):
            assert target in MAKE_TARGETS
        assert "${{" not in step.get("run", "")  # values go through the environment, where they cannot be commands


def test_one_version_of_each_action():
    pins = {
        re.search(r"(\S+)@(\w+)", line).groups()
        for path in WORKFLOWS
        for line in path.read_text().splitlines()
        if "uses:" in line
    }
    assert len(pins) == len({action for action, _ in pins})


def test_release_publishes_what_was_built_without_a_token():
    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "release.yml").read_text())["jobs"]
    publish = jobs["publish"]
    assert publish["needs"] == "build"
    assert publish["environment"]["name"] == "pypi"
    assert publish["permissions"] == {"id-token": "write"}
    assert jobs["build"]["permissions"] == {"contents": "read"}
    uses = [step.get("uses", "").split("@")[0] for step in publish["steps"]]
    assert uses == ["actions/download-artifact", "pypa/gh-action-pypi-publish"]
    assert "password" not in str(publish)


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_issue_form(path):
    form = yaml.safe_load(path.read_text())
    if path.stem == "config":
        assert form["blank_issues_enabled"] is False
        assert all({"name", "url", "about"} == set(link) for link in form["contact_links"])
        return
    assert {"name", "description", "body"} <= set(form)
    ids = [field["id"] for field in form["body"] if "id" in field]
    assert len(ids) == len(set(ids))
    assert all(field["attributes"]["label"] for field in form["body"])


def test_entry_of_the_ecosystem():
    """The keys that version 2.0 of the schema of scverse/ecosystem-packages requires, and ours."""
    entry = yaml.safe_load((ROOT / "docs" / "ecosystem" / "meta.yaml").read_text())
    required = {"name", "description", "project_home", "documentation_home", "license", "tags", "primary_category"}
    assert required | {"language", "category", "install"} <= set(entry)
    assert "version" not in entry
    urls, project = PROJECT["project"]["urls"], PROJECT["project"]
    assert entry["name"] == entry["install"]["pypi"] == project["name"]
    assert entry["license"] == project["license"]
    assert (entry["project_home"], entry["documentation_home"]) == (urls["Source"], urls["Documentation"])
    assert 1 <= len(entry["tags"]) == len(set(entry["tags"])) <= 10
    assert (entry["primary_category"], entry["language"], entry["category"]) == ("scRNA-seq", "Python", "ecosystem")
    assert all(re.fullmatch(r"10.\d{4,9}/[-._;()/:A-Za-z0-9]+", doi) for doi in entry["publications"])
    assert not re.search(r"readthedocs\.io/en/", str(entry))  # their check asks for links to the default version
    assert 'pip install ".[test]"' in entry["test_command"]


def test_one_version_and_licence():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    project = PROJECT["project"]
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])
    assert citation["repository-code"] == project["urls"]["Source"]
    changelog = (ROOT / "CHANGELOG.md").read_text()
    assert "dev" in project["version"] or f"## [{project['version']}]" in changelog


def test_archives_take_what_is_there():
    assert files("scdgd").joinpath("py.typed").is_file()
    assert "Typing :: Typed" in metadata("scdgd").get_all("Classifier")
    assert PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"] == ["src/scdgd"]
    for pattern in PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]:
        assert pattern.startswith("/")
        assert (ROOT / pattern[1:]).exists()


def test_read_the_docs_builds_what_make_docs_builds():
    config = yaml.safe_load((ROOT / ".readthedocs.yaml").read_text())
    (command,) = config["build"]["jobs"]["build"]["html"]
    options = re.search(r"-m sphinx (.*) docs", command)[1]
    assert f"-m sphinx {options} docs docs/_build/html" in (ROOT / "Makefile").read_text()
    assert "docs" in PROJECT["project"]["optional-dependencies"]


def test_recipe_of_conda_forge_has_our_dependencies():
    recipe = yaml.safe_load((ROOT / "docs" / "ecosystem" / "conda-forge" / "recipe.yaml").read_text())
    renamed = {"pytorch": "torch", "python-igraph": "igraph", "matplotlib-base": "matplotlib"}
    listed = [line.split(" ") for line in recipe["requirements"]["run"] if not line.startswith("python ")]
    assert sorted(f"{renamed.get(name, name)}{bound}" for name, bound in listed) == sorted(
        PROJECT["project"]["dependencies"]
    )
    assert recipe["context"]["version"] == PROJECT["project"]["version"].removesuffix(".dev0")
    assert f">={recipe['context']['python_min']}" == PROJECT["project"]["requires-python"]
    about = recipe["about"]
    assert (about["license"], about["summary"]) == (PROJECT["project"]["license"], PROJECT["project"]["description"])
    assert f"scdgd = {PROJECT['project']['scripts']['scdgd']}" in recipe["build"]["python"]["entry_points"]
