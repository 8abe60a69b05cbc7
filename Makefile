# What users and developers run; `make` alone lists the targets.
# Needs Python >= 3.11, git and make. Everything else is installed into $(VENV).

PYTHON ?= python3
VENV ?= .venv
DEMO_OUTPUT ?= demo_output
# the user's own data for `make demo`; empty: the real cells that come with the package
DATA =
LABELS =
BATCH =
# `make tutorials`: anything in SHORT makes a quick pass; NOTEBOOKS names some of them
SHORT =
NOTEBOOKS =

# threads that wait shall sleep: spinning ones slow everything down where cores are few or shared
export OMP_WAIT_POLICY ?= passive

BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
DOCS_INSTALLED := $(VENV)/.docs-installed

# pip options for the Python in $(VENV): the tested versions where they exist, else the newest releases
CONSTRAIN = $$($(BIN)/python -c 'import sys; print("-c constraints.txt" if sys.version_info < (3, 14) else "")')
PIP_INSTALL = $(BIN)/python -m pip install --disable-pip-version-check

.DEFAULT_GOAL := help
.PHONY: help demo test test-all test-latest test-oldest lint docs tutorials bench-quick release-check clean
.DELETE_ON_ERROR:

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(firstword $(MAKEFILE_LIST)) | awk -F ':.*## ' '{ printf "  %-12s %s\n", $$1, $$2 }'
	@echo
	@echo '  make demo DATA=my.h5ad LABELS=cell_type BATCH=donor   runs on your own raw counts'
	@echo '  make test PYTHON=python3.12                           chooses the Python of a new $(VENV)'

demo: $(INSTALLED) ## cluster real cells and draw them (DATA=, LABELS=, BATCH= for your own)
	$(BIN)/scdgd demo $(if $(DATA),--data "$(DATA)") $(if $(LABELS),--labels-key "$(LABELS)") $(if $(BATCH),--batch-key "$(BATCH)") -o "$(DEMO_OUTPUT)"

test: $(INSTALLED) ## run the quick tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not gpu" -n 2 --dist loadfile --no-loadscope-reorder

test-all: $(INSTALLED) ## run all tests that need no GPU
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not gpu" -n 2 --dist loadfile --no-loadscope-reorder

test-latest: ## run the quick tests on the newest Python and the newest releases
	.ci/test-latest

test-oldest: ## run the quick tests on the oldest releases that pyproject.toml allows
	.ci/test-oldest

lint: $(INSTALLED) ## check style, format and workflows
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/zizmor --offline --quiet .github/workflows

docs: $(DOCS_INSTALLED) ## build the documentation into docs/_build/html
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

tutorials: $(INSTALLED) ## run every tutorial and store its outputs (SHORT=1: quickly, storing nothing)
	$(BIN)/python .ci/run_tutorials.py $(if $(SHORT),--short) $(NOTEBOOKS)

bench-quick: $(INSTALLED) ## run every benchmark in its short form, two at a time
	OMP_NUM_THREADS=1 $(BIN)/python .ci/bench_quick.py

release-check: $(INSTALLED) ## check all of a release that needs no account: archives, and the wheel on every Python here
	.ci/release-check

clean: ## remove outputs and caches, keep the environments
	rm -rf build dist demo_output docs/_build docs/generated docs/tutorials lightning_logs .pytest_cache .ruff_cache .coverage htmlcov
	find src tests benchmarks docs -type d -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

$(INSTALLED): pyproject.toml constraints.txt Makefile
	@$(BIN)/python -m pip --version >/dev/null 2>&1 || { \
		$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
			echo "scdgd needs Python >= 3.11, but $(PYTHON) is $$($(PYTHON) --version 2>&1). Name another one: make PYTHON=python3.11 ..." >&2; \
			exit 1; \
		}; \
		$(PYTHON) -m venv --clear $(VENV); \
	}
	@test -n "$(CONSTRAIN)" || echo "Note: constraints.txt covers Python 3.11 to 3.13; installing the newest releases."
	$(PIP_INSTALL) --upgrade pip
	$(PIP_INSTALL) $(CONSTRAIN) torch
	$(PIP_INSTALL) $(CONSTRAIN) -e ".[test,bench,dev]"
	@touch $@

$(DOCS_INSTALLED): $(INSTALLED)
	$(PIP_INSTALL) $(CONSTRAIN) -e ".[docs]"
	@touch $@
