"""Every part of the package can be the first one that is imported."""

import subprocess
import sys

SCRIPT = """
import importlib, sys
for part in ("cli", "data", "datasets", "design", "inference", "likelihood", "metrics", "model", "module", "pl", "prior", "tl", "train"):
    for name in [name for name in sys.modules if name.split(".")[0] == "scdgd"]:
        del sys.modules[name]
    importlib.import_module(f"scdgd.{part}")
"""


def test_imports_in_any_order():
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
