"""Run every benchmark in its short form, two at a time, and print what each prints; fail if one does.

Libraries take longer to import than most benchmarks to run. They are imported once, and each benchmark runs in a fork of this
process, otherwise as from the command line.
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import tempfile
import time
from pathlib import Path

import scanpy  # noqa: F401  for all forks
import scvi.external  # noqa: F401
import torch

import scdgd

FOLDER = Path(__file__).resolve().parent.parent / "benchmarks"
N_TOGETHER = 2


def run(script: Path, output: Path) -> int:
    """Start a benchmark in a process of its own, whose output goes to a file; its number."""
    process = os.fork()
    if process:
        return process
    descriptor = os.open(output, os.O_WRONLY | os.O_CREAT)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    status = 1
    try:
        sys.argv, sys.path[0] = [str(script), "--quick"], str(FOLDER)
        runpy.run_path(str(script), run_name="__main__")
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001  whatever it is, the other process reports it
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def main() -> int:
    """Run all; 1 if one fails, which ends the others."""
    torch.set_num_threads(1)
    for part in scdgd.__all__:
        getattr(scdgd, part)
    waiting = sorted(FOLDER.glob("[!_]*.py"), reverse=True)
    n = len(waiting)
    running: dict[int, tuple[Path, Path, float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        while waiting or running:
            while waiting and len(running) < N_TOGETHER:
                script = waiting.pop()
                output = Path(folder) / f"{script.stem}.txt"
                running[run(script, output)] = script, output, time.monotonic()
            process, status = os.wait()
            script, output, start = running.pop(process)
            seconds = time.monotonic() - start
            print(
                f"{script.relative_to(FOLDER.parent)} --quick ({seconds:.0f} s)",
                output.read_text(),
                sep="\n",
                flush=True,
            )
            if status:
                print(f"{script.relative_to(FOLDER.parent)} failed", file=sys.stderr)
                for other in running:
                    os.kill(other, signal.SIGTERM)
                return 1
    print(f"{n} scripts ok")
    return 0


if __name__ == "__main__":
    sys.exit(main())
