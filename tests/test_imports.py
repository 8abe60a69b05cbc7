"""Importing: in any order, without what is not needed, and in the time that scvi-tools needs."""

from __future__ import annotations

import functools
import importlib
import json
import subprocess
import sys

import pytest

import scdgd

#: One process for all tests, because importing PyTorch takes seconds. Time is that of the processor: others may be busy.
SCRIPT = """
import importlib, json, sys, time

start = time.process_time()
import scdgd, scdgd.cli
alone = time.process_time() - start
heavy = sorted({"anndata", "matplotlib", "numpy", "scanpy", "scvi", "torch"} & set(sys.modules))

start = time.process_time()
import scvi
host = time.process_time() - start
known = set(sys.modules)

start = time.process_time()
for part in scdgd.__all__:
    importlib.import_module(f"scdgd.{part}")
parts = time.process_time() - start
new = {name.split(".")[0] for name in set(sys.modules) - known} - set(sys.stdlib_module_names)

for part in ("boltzmann", "cli", "data", "datasets", "design", "inference", "likelihood", "metrics", "model", "module", "pl", "posterior", "prior", "tl", "train"):
    for name in [name for name in sys.modules if name.split(".")[0] == "scdgd"]:
        del sys.modules[name]
    importlib.import_module(f"scdgd.{part}")
print(json.dumps({"alone": alone, "host": host, "parts": parts, "heavy": heavy, "new": sorted(new)}))
"""


@functools.cache
def imported() -> dict:
    """What the script found; it fails if a part cannot be the first one that is imported."""
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_imports_in_any_order():
    assert set(imported()) == {"alone", "host", "parts", "heavy", "new"}


def test_the_package_alone_loads_no_library():
    """Nor does its command line, which has to answer ``--help`` at once."""
    assert imported()["heavy"] == []


def test_all_parts_load_nothing_that_scvi_tools_does_not():
    """What plots, embeds or clusters is imported when it is used."""
    assert [name for name in imported()["new"] if name in ("igraph", "joblib", "leidenalg", "seaborn", "umap")] == []
    assert "scdgd" in imported()["new"]


def test_all_parts_load_in_the_time_of_scvi_tools():
    times = imported()
    assert times["alone"] + times["host"] + times["parts"] < 1.3 * times["host"]


def test_all_public_names_exist():
    for part in scdgd.__all__:
        module = getattr(scdgd, part)
        missing = [name for name in getattr(module, "__all__", ()) if not hasattr(module, name)]
        assert not missing, f"scdgd.{part}.__all__ names {missing}"


#: Parts of the Boltzmann machine that users import from the package of their kind.
OF_THE_BOLTZMANN_MACHINE = {
    "inference": ("BoltzmannSampler", "GibbsCells", "draw_exactly", "run_chains", "split_rhat"),
    "model": ("SCDBM",),
    "module": ("MAX_ENUMERATED", "Conditions", "DeepBoltzmannMachine", "LogPartition", "NegativeBinomialLayer"),
    "train": ("BottomStage", "ChainOptions", "ContrastiveDivergencePlan", "JointStage", "UpperStage", "one_thread"),
}


@pytest.mark.parametrize("part", OF_THE_BOLTZMANN_MACHINE)
def test_names_of_the_boltzmann_machine_are_found_where_their_kind_is(part):
    module = importlib.import_module(f"scdgd.{part}")
    for name in OF_THE_BOLTZMANN_MACHINE[part]:
        assert getattr(module, name) is getattr(scdgd.boltzmann, name)
    with pytest.raises(AttributeError, match=rf"module 'scdgd.{part}' has no attribute 'nothing'"):
        module.nothing  # noqa: B018
