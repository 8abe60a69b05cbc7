"""Seconds of a training epoch for each prior with 100 components, beside stock scVI's.

    python benchmarks/prior_cost.py --standard

All models take turns in one run, on the same simulated cells, minibatches of 128 cells; figures are medians over rounds of
the ratio to stock scVI's epoch in the same round.
"""

from __future__ import annotations

import argparse
import time
import warnings

import numpy as np
import scvi
import torch

import scdgd

VARIANTS = {
    "normal": {"prior": "normal"},
    "gmm": {"prior": "gaussian_mixture"},
    "dpgmm": {"prior": "dpgmm"},
    "vamp": {"prior": "vamp"},
    "vmm": {"prior": "vmm"},
    "iaf": {"prior": "normal", "posterior": "iaf"},
    "iaf + vamp": {"prior": "vamp", "posterior": "iaf"},
}


def ratios(n_cells: int, n_genes: int, gene_likelihood: str, n_rounds: int) -> str:
    """Table of epochs over stock scVI's, after one epoch of each that warms up."""
    adata = scdgd.datasets.simulate(n_cells, n_genes, seed=0)
    scvi.model.SCVI.setup_anndata(adata)
    models = {"stock scVI": scvi.model.SCVI(adata, gene_likelihood=gene_likelihood)}
    ours = adata.copy()
    scdgd.model.FlexSCVI.setup_anndata(ours)
    for name, parts in VARIANTS.items():
        models[name] = scdgd.model.FlexSCVI(ours, n_components=100, gene_likelihood=gene_likelihood, **parts)
    seconds = {name: [] for name in models}
    for _ in range(n_rounds + 1):
        for name, model in models.items():
            start = time.perf_counter()
            model.train(2, accelerator="cpu", enable_progress_bar=False, train_size=1.0)
            seconds[name].append(time.perf_counter() - start)
    stock = np.array(seconds["stock scVI"][1:])
    lines = ["| model | epoch / stock scVI's | rounds |", "| --- | --- | --- |"]
    for name, values in seconds.items():
        ratio = np.array(values[1:]) / stock
        lines.append(f"| {name} | {np.median(ratio):.2f} | {', '.join(f'{r:.2f}' for r in ratio)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tier = parser.add_mutually_exclusive_group(required=True)
    tier.add_argument("--quick", action="store_true")
    tier.add_argument("--standard", action="store_true")
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore")
    torch.set_num_threads(arguments.threads)
    scvi.settings.seed = 0
    sizes = (500, 500) if arguments.quick else (3_000, 2_000)
    for gene_likelihood in ("nb",) if arguments.quick else ("nb", "zinb"):
        print(f"\n{gene_likelihood}, {sizes[0]} cells x {sizes[1]} genes, {torch.get_num_threads()} threads:\n")
        print(ratios(*sizes, gene_likelihood, 1 if arguments.quick else 5))


if __name__ == "__main__":
    main()
