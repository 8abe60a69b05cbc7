"""Sphinx configuration; built by `make docs`."""

import os
import re
import shutil
import sys
import warnings
from importlib.metadata import metadata
from pathlib import Path

from sphinx.pycode import ModuleAnalyzer

# said once for each type that is shown, of a function between two extensions
warnings.filterwarnings("ignore", message=".*_RstSnippetParser.set_application")

info = metadata("scdgd")

project = info["Name"]
author = "The scdgd developers"
copyright = f"2026, {author}"
version = release = info["Version"]
repository_url = "https://github.com/scdgd/scdgd"

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "sphinx-mathjax-offline",  # MathJax comes with the pages, not from another server
    "sphinx.ext.napoleon",
    "sphinx_autodoc_typehints",
    "sphinx_copybutton",
    "sphinxcontrib.bibtex",
    "sphinxext.opengraph",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "**.ipynb_checkpoints"]

# API pages
autosummary_generate = True
autosummary_imported_members = True
autosummary_ignore_module_all = False
autosummary_context = {"submodules": ["scdgd.likelihood.distributions"]}  # with a page of their own
autodoc_member_order = "bysource"
napoleon_google_docstring = False
napoleon_numpy_docstring = True
napoleon_include_init_with_doc = False
napoleon_use_rtype = False
napoleon_use_param = True
typehints_defaults = "braces"
always_use_bars_union = True


def copy_tutorials(source: Path, target: Path) -> bool:
    """Bring notebooks into this folder, outside of which Sphinx sees none; say if all are there that others link to."""
    target.mkdir(exist_ok=True)
    notebooks = {path.name: path for path in source.glob("*.ipynb")}
    for old in target.glob("*.ipynb"):
        if old.name not in notebooks:
            old.unlink()
    for name, notebook in notebooks.items():
        shutil.copy2(notebook, target / name)  # with its time, so that unchanged ones are not read again
    links = {link for path in notebooks.values() for link in re.findall(r"\]\((\w+\.ipynb)", path.read_text())}
    return links <= notebooks.keys()


# pages and notebooks: notebooks are stored with their outputs and never run here
has_all_tutorials = copy_tutorials(Path(__file__).parent.parent / "tutorials", Path(__file__).parent / "tutorials")
myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
nb_execution_mode = "off"
nb_merge_streams = True

bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"

# Links into other projects need the internet.
if os.environ.get("SCDGD_INTERSPHINX"):
    extensions.append("sphinx.ext.intersphinx")
    intersphinx_mapping = {
        "anndata": ("https://anndata.readthedocs.io/en/stable/", None),
        "mudata": ("https://mudata.readthedocs.io/stable/", None),
        "numpy": ("https://numpy.org/doc/stable/", None),
        "pandas": ("https://pandas.pydata.org/docs/", None),
        "python": ("https://docs.python.org/3/", None),
        "scanpy": ("https://scanpy.readthedocs.io/en/stable/", None),
        "scipy": ("https://docs.scipy.org/doc/scipy/", None),
        "scvi": ("https://docs.scvi-tools.org/en/stable/", None),
        "torch": ("https://docs.pytorch.org/docs/stable/", None),
    }

suppress_warnings = [
    # types that are imported for checkers only, here and in scvi-tools
    "sphinx_autodoc_typehints.forward_reference",
    "sphinx_autodoc_typehints.guarded_import",
    "sphinx_autodoc_typehints.local_function",
    # a source tree without tutorials
    "toc.empty_glob",
    *([] if has_all_tutorials else ["myst.xref_missing"]),
]

# what is shown where a page is linked to
ogp_site_url = "https://scdgd.readthedocs.io/en/stable/"
ogp_image = "_static/pipelines.png"
ogp_image_alt = "Cells of two batches in the spaces of SCDGD, scVI and Harmony"
ogp_social_cards = {"enable": False}

html_theme = "sphinx_book_theme"
html_title = project
html_static_path = ["_static"]
html_css_files = ["custom.css"]
html_theme_options = {
    "repository_url": repository_url,
    "repository_branch": "main",
    "use_repository_button": True,
    "use_issues_button": True,
    "path_to_docs": "docs/",
    "navbar_persistent": [],  # the theme's side bar has the search
}
toc_object_entries_show_parents = "hide"


def describe_value(app, what, name, obj, options, lines) -> None:
    """Values have the docstring of their type, which says nothing of them: in its place, the comment where they are made."""
    if what != "data" or not isinstance(obj, int | str | dict):
        return
    package, _, value = name.rpartition(".")
    made_in = [module for module in sys.modules if module.startswith(f"{package}._")]
    comments = (ModuleAnalyzer.for_module(module).find_attr_docs().get(("", value)) for module in made_in)
    lines[:] = next(filter(None, comments), [])


def keep_spread_together(app, document_name, source) -> None:
    """No line ends between a number and its spread."""
    source[0] = source[0].replace(" ± ", "\u00a0±\u00a0")


def setup(app) -> None:
    """Connect the hooks."""
    app.connect("source-read", keep_spread_together)
    app.connect("autodoc-process-docstring", describe_value)
