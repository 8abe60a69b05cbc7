"""CPU seconds of every public reading call of SCDGD and of FlexSCVI, the slowest first.

    python benchmarks/calls.py --standard

Cells are simulated (`scdgd.datasets.simulate`), models train for ten epochs. With ``--against SRC``, the folder of another
version of the package, each call is timed in both versions in turns, on the same saved models and the same seeds, and the
last column says how far the results are apart, relative to the largest number.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from _benchmark import commit, one_quiet_thread, tier_parser, versions
from _tables import markdown

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData


class Tier(NamedTuple):
    cells: int
    new_cells: int
    genes: int
    epochs: int
    repeats: int
    models: tuple[str, ...] = ("SCDGD", "FlexSCVI")


TIERS = {"quick": Tier(60, 20, 30, 2, 1, ("SCDGD",)), "standard": Tier(5_000, 1_000, 2_000, 10, 3)}
GROUPS = {"groupby": "cell_type", "group1": "A", "silent": True}


def calls() -> dict[str, Callable]:
    """Functions of a model, its cells and new cells, each with its arguments' defaults where these are what users pass."""
    from scdgd import tl
    from scdgd.metrics import held_out_log_likelihood

    few = {"n_samples": 2}
    return {
        "get_latent_representation(new)": lambda m, a, new: m.get_latent_representation(new),
        "get_latent_representation(return_dist)": lambda m, a, new: m.get_latent_representation(return_dist=True)[1],
        "get_posterior(n_samples=200)": lambda m, a, new: m.get_posterior().mean,
        "get_cluster_assignments": lambda m, a, new: m.get_cluster_assignments(soft=True),
        "get_normalized_expression": lambda m, a, new: m.get_normalized_expression(return_numpy=True),
        "get_normalized_expression(n_samples=10)": lambda m, a, new: m.get_normalized_expression(
            n_samples=10, return_numpy=True
        ),
        "get_likelihood_parameters": lambda m, a, new: m.get_likelihood_parameters()["mean"],
        "posterior_predictive_sample": lambda m, a, new: m.posterior_predictive_sample().todense(),
        "differential_expression": lambda m, a, new: m.differential_expression(mode="change", **GROUPS),
        "differential_expression(importance)": lambda m, a, new: m.differential_expression(
            mode="change", weights="importance", **GROUPS
        ),
        "differential_abundance": lambda m, a, new: m.differential_abundance(sample_key="sample"),
        "get_feature_correlation_matrix": lambda m, a, new: m.get_feature_correlation_matrix(**few),
        "get_reconstruction_error": lambda m, a, new: m.get_reconstruction_error()["reconstruction_loss"],
        "get_elbo": lambda m, a, new: m.get_elbo(),
        "get_marginal_ll(n_mc_samples=100)": lambda m, a, new: m.get_marginal_ll(n_mc_samples=100, return_mean=False),
        "get_novelty(new)": lambda m, a, new: m.get_novelty(new)["score"],
        "get_information": lambda m, a, new: m.get_information().information,
        "prior_predictive_sample": lambda m, a, new: m.prior_predictive_sample(a.n_obs, seed=0).X.toarray(),
        "tl.sample_cells(posterior)": lambda m, a, new: tl.sample_cells(
            m, a.n_obs, mode="posterior", seed=0
        ).X.toarray(),
        "held_out_log_likelihood(new)": lambda m, a, new: held_out_log_likelihood(m, new).log_likelihood,
        "tl.rank_component_genes": lambda m, a, new: tl.rank_component_genes(m, a, groupby="cell_type"),
        "tl.gene_programs": lambda m, a, new: tl.gene_programs(m).select_dtypes("number"),
        "tl.component_gene_correlation": lambda m, a, new: (
            tl.component_gene_correlation(m, list(a.var_names[:5])).correlation
        ),
        "tl.shift_genes": lambda m, a, new: tl.shift_genes(m, list(a.var_names[:2]), 1.0).table,
        "tl.transfer_labels(new)": lambda m, a, new: tl.transfer_labels(m, new, "cell_type", soft=True),
        "tl.map(new)": lambda m, a, new: tl.map(m, new.copy(), labels_key="cell_type"),
    }


def cells(tier: Tier) -> tuple[AnnData, AnnData]:
    """Cells of the models, and new ones."""
    from scdgd.datasets import simulate

    parts = []
    for n_cells, seed in ((tier.cells, 0), (tier.new_cells, 1)):
        adata = simulate(n_cells, tier.genes, n_types=4, seed=seed)
        adata.obs["cell_type"] = adata.obs["cell_type"].cat.rename_categories(list("ABCD"))
        adata.obs["sample"] = [f"sample_{i % 4}" for i in range(n_cells)]
        adata.obs_names = [f"{seed}_{name}" for name in adata.obs_names]
        parts.append(adata)
    return tuple(parts)


def models() -> dict[str, tuple[type, dict]]:
    from scdgd.model import SCDGD, FlexSCVI

    return {"SCDGD": (SCDGD, {}), "FlexSCVI": (FlexSCVI, {"n_components": 20})}


def prepare(tier: Tier, folder: Path) -> None:
    """Train and save the models."""
    import scvi

    for name, (model_class, options) in models().items():
        scvi.settings.seed = 0
        adata, _ = cells(tier)
        model_class.setup_anndata(adata, labels_key="cell_type")
        model = model_class(adata, **options)
        model.train(tier.epochs, accelerator="cpu", enable_progress_bar=False)
        model.save(folder / name)


def timed(call: Callable, model, adata: AnnData, new: AnnData) -> tuple[float, np.ndarray]:
    """CPU seconds of one call and its numbers, with nothing kept of earlier calls."""
    import scvi

    if hasattr(model, "cells"):
        model.cells.forget_placed()
    model.novelty_reference_ = model.novelty_of_panels_ = None
    scvi.settings.seed = 0
    new, start = new.copy(), time.process_time()
    result = call(model, adata, new)
    seconds = time.process_time() - start
    if result is None:
        return seconds, np.zeros(0)
    if hasattr(result, "sort_index"):
        result = result.sort_index()
        result = result.select_dtypes("number") if hasattr(result, "select_dtypes") else result
    return seconds, np.asarray(result, dtype=float)


def work(tier: Tier, folder: Path, mark: str) -> None:
    """Answer lines ``model<tab>call`` on the standard input by seconds, and write results to `folder`."""
    one_quiet_thread()
    answer, sys.stdout = sys.stdout, sys.stderr
    adata, new = cells(tier)
    loaded, functions = {}, calls()
    for name, (model_class, _) in models().items():
        loaded[name] = model_class.load(folder / name, adata=adata.copy(), accelerator="cpu")
    print(json.dumps(list(functions)), file=answer, flush=True)
    for line in sys.stdin:
        name, call = line.rstrip("\n").split("\t")
        try:
            seconds, numbers = timed(functions[call], loaded[name], loaded[name].adata, new)
        except (AttributeError, NotImplementedError) as error:
            print(json.dumps(str(error)[:60]), file=answer, flush=True)
            continue
        np.save(folder / f"{mark}.npy", numbers)
        print(json.dumps(seconds), file=answer, flush=True)


class Worker:
    """A process with one version of the package."""

    def __init__(self, source: Path | None, tier: str, folder: Path, mark: str) -> None:
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        if source is not None:
            environment["PYTHONPATH"] = str(source)
        self.command = [sys.executable, "-W", "ignore", __file__, f"--{tier}", "--folder", str(folder)]
        self.environment, self.result = environment, folder / f"{mark}.npy"
        self.begin = [*self.command, "--work", mark]

    def prepare(self) -> None:
        subprocess.run([*self.command, "--prepare"], env=self.environment, check=True)

    def start(self) -> list[str]:
        pipe = subprocess.PIPE
        options = {"stdin": pipe, "stdout": pipe, "stderr": None, "text": True}
        self.process = subprocess.Popen(self.begin, env=self.environment, **options)
        return json.loads(self.process.stdout.readline())

    def __call__(self, model: str, call: str) -> float | str:
        self.process.stdin.write(f"{model}\t{call}\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def end(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def difference(first: Path, second: Path) -> str:
    """Largest difference of two results, relative to the largest number."""
    a, b = np.load(first), np.load(second)
    if a.shape != b.shape:
        return f"{a.shape}, {b.shape}"
    if a.size == 0 or np.array_equal(a, b, equal_nan=True):
        return "0" if a.size else "–"
    return f"{np.nanmax(np.abs(a - b)) / max(np.nanmax(np.abs(a)), 1e-30):.0e}"


def compare(args: argparse.Namespace, folder: Path) -> list[list[str]]:
    """Rows of the table."""
    tier, rows = TIERS[args.tier], []
    workers = [Worker(None, args.tier, folder, "this")]
    workers += [Worker(args.against, args.tier, folder, "other")] if args.against else []
    workers[-1].prepare()
    names = [worker.start() for worker in workers][0]
    for model in args.models or tier.models:
        for call in [name for name in names if not args.only or any(part in name for part in args.only)]:
            seconds = [[worker(model, call) for worker in workers] for _ in range(args.repeats or tier.repeats)]
            if isinstance(seconds[0][0], str):
                continue
            best = [min(column) for column in zip(*seconds, strict=True)]
            row = [model, call, *(f"{value:.2f}" for value in best)]
            if args.against:
                row += [f"{best[0] / best[1]:.2f}", difference(*(worker.result for worker in workers))]
            print(" | ".join(row), flush=True)
            rows.append((best[-1], row))
    for worker in workers:
        worker.end()
    return [row for _, row in sorted(rows, key=lambda pair: -pair[0])]


def main() -> None:
    parser = tier_parser(__doc__, TIERS)
    parser.add_argument("--against", type=Path, help="folder `src` of another version of the package")
    parser.add_argument("--only", nargs="+", help="calls whose name has one of these texts")
    parser.add_argument("--models", nargs="+", help="names of models")
    parser.add_argument("--repeats", type=int, help="how often each call is timed; the shortest counts")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--prepare", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--work", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.prepare:
        prepare(TIERS[args.tier], args.folder)
    elif args.work:
        work(TIERS[args.tier], args.folder, args.work)
    else:
        with tempfile.TemporaryDirectory() as folder:
            rows = compare(args, Path(folder))
        header = ["model", "call", "seconds", *(["seconds, other", "ratio", "difference"] if args.against else [])]
        print(markdown(header, rows), f"{versions()}; commit {commit()}", sep="\n\n")


if __name__ == "__main__":
    main()
