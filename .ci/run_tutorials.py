"""Run tutorials from top to bottom; a full run stores their outputs, a short one (``--short``) stores nothing.

Each notebook runs in an empty folder of its own, so that what it writes is not left behind. The first error ends the run.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

FOLDER = Path(__file__).resolve().parent.parent / "tutorials"
SECONDS_PER_CELL = 3600
#: Lines that are not stored: progress bars, and what Lightning and scvi-tools log at every call.
NOISE = (
    r"\d+%\|.*\|",
    r"Seed set to \d+",
    r"[GTH]PU available:",
    r"`Trainer\.fit` stopped:",
    r"Tip: For seamless",
    r"ttempting to transfer (AnnData )?setup",
    r"already downloaded",
    r"Monitored metric",
)
#: Warnings that are not stored: of packages that are not installed, of versions, and of Lightning's own settings.
UNSTORED_WARNINGS = (
    "ignore:IProgress not found",
    "ignore:`isinstance(treespec",
    "ignore:The number of training batches",
)


def run(path: Path, *, short: bool) -> None:
    """Execute one notebook, and store its outputs unless the run is short."""
    os.environ.pop("SCDGD_SHORT", None)
    os.environ["PYTHONWARNINGS"] = ",".join(UNSTORED_WARNINGS)
    if short:
        os.environ["SCDGD_SHORT"] = "1"
    notebook = nbformat.read(path, as_version=4)
    with tempfile.TemporaryDirectory() as folder:
        client = NotebookClient(
            notebook,
            kernel_name="python3",
            timeout=SECONDS_PER_CELL,
            resources={"metadata": {"path": folder}},
            record_timing=False,
            coalesce_streams=True,
            extra_arguments=["--IPKernelApp.log_level=ERROR"],  # no warning that channels are not encrypted
        )
        client.execute()
    if not short:
        nbformat.write(tidy(notebook), path)


def tidy(notebook: nbformat.NotebookNode) -> nbformat.NotebookNode:
    """Leave out what differs from run to run: progress bars and the version of Python."""
    for cell in notebook.cells:
        if cell.cell_type != "code":
            continue
        for output in cell.outputs:
            if output.output_type == "stream":
                lines = output.text.splitlines(keepends=True)
                output.text = "".join(line for line in lines if not any(re.search(noise, line) for noise in NOISE))
        cell.outputs = [output for output in cell.outputs if output.get("text", "full").strip()]
    notebook.metadata.pop("language_info", None)
    return notebook


def main() -> int:
    """Run the notebooks named, or all of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("notebooks", nargs="*", type=Path, help="all of tutorials/ if none is named")
    parser.add_argument("--short", action="store_true", help="short trainings, outputs are not stored")
    arguments = parser.parse_args()
    for path in arguments.notebooks or sorted(FOLDER.glob("*.ipynb")):
        start = time.perf_counter()
        try:
            run(path, short=arguments.short)
        except CellExecutionError as error:
            print(f"{path.name} failed after {time.perf_counter() - start:.0f} s:\n{error}", file=sys.stderr)
            return 1
        print(f"{path.name}: {time.perf_counter() - start:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
