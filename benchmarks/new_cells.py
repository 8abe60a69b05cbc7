"""New cells: Gauss-Newton against the published procedure and against 1,000 steps of Adam; one model, the same cells.

    python benchmarks/new_cells.py --data DIR --standard --out docs/benchmarks_new_cells.md
    python benchmarks/new_cells.py --data DIR --standard --encoder  # prints the last section only

All methods start from the same component means, found by the same code, and their times include it. *Published*
(Schuster & Krogh 2023): 10 steps of Adam, rate 1e-2, betas (0.5, 0.7), batches of 32, with the published dense negative
binomial on dense counts. *Referee*: 1,000 steps of Adam, annealed from each of the rates 0.1 and 0.01; the better end of
each cell counts. Times are CPU seconds of one thread, the least over interleaved rounds. Densities are evaluated in
double.
"""

from __future__ import annotations

import argparse
import logging
import time
import warnings
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scanpy as sc
import scvi
import torch
from _encoder_curve import section
from _ledger import markdown
from _sets import train_test_split
from anndata import AnnData
from scipy import sparse
from scvi import REGISTRY_KEYS

from scdgd import presets
from scdgd.data import SparseCounts
from scdgd.inference import NewCellsConfig, best_component_means, gauss_newton, place_new_cells
from scdgd.model import SCDGD

N_LATENT = 20
REFEREE = [NewCellsConfig(n_steps=1_000, lr=lr) for lr in (0.1, 0.01)]


class Job(NamedTuple):
    name: str
    n_genes: int
    epochs: int
    cells: int
    published: bool = False
    """Whether the model is the published one (ReLU, softball), too."""


TIERS = {
    "quick": [Job("simulated", 2_000, 10, 128)],
    "standard": [
        Job("zheng_facs", 2_000, 100, 700),
        Job("zheng_facs", 20_000, 30, 256),
        Job("kang_ifnb2800", 2_000, 100, 500),
    ],
    "full": [
        Job("zheng_facs", 2_000, 100, 700),
        Job("zheng_facs", 20_000, 30, 256),
        Job("kang_ifnb2800", 2_000, 100, 500),
        Job("simulated", 20_000, 20, 256),
        Job("zheng_facs", 2_000, 200, 400, published=True),
    ],
}

#: Jobs of a tier, the first ones, whose accuracy and speed are followed as one setting varies.
N_CURVES = {"quick": 0, "standard": 1, "full": 2}
#: What is varied, one at a time, around the defaults.
CURVE = {
    "genes for the curvature": [{"n_genes": n} for n in (100, 200, 300, 500, 1_000, None)],
    "curvature computed anew": [{"n_refreshes": n} for n in (0, 1, 2, 3)],
    "plain Fisher scoring": [{"secant": False, "n_refreshes": 1_000}],
    "tolerance": [{"tolerance": t} for t in (1.0, 0.3, 0.1, 0.03, 0.01, 0.001)],
    "first damping": [{"damping": t} for t in (0.01, 0.1, 1.0)],
    "starts": [{"n_starts": n} for n in (1, 2, 3)],
}


def simulate(n_cells: int, n_genes: int, seed: int = 0) -> AnnData:
    """Ten types with log-normal profiles along two shared programmes, theta 2, 0.4 counts per gene in the mean."""
    rng = np.random.default_rng(seed)
    types = rng.integers(10, size=n_cells)
    base, of_type = rng.normal(0, 2.5, n_genes), rng.normal(0, 0.7, (10, n_genes)) * (rng.random((10, n_genes)) < 0.2)
    programmes = rng.normal(0, 0.3, (2, n_genes)) * (rng.random((2, n_genes)) < 0.3)
    depth = 0.4 * n_genes * rng.lognormal(0, 0.4, (n_cells, 1))
    blocks = []
    for rows in np.array_split(np.arange(n_cells), max(1, n_cells // 256)):
        log_rate = base + of_type[types[rows]] + rng.normal(size=(len(rows), 2)) @ programmes
        rate = np.exp(log_rate)
        mean = depth[rows] * rate / rate.sum(1, keepdims=True)
        blocks.append(sparse.csr_matrix(rng.poisson(rng.gamma(2.0, mean / 2.0)).astype(np.float32)))
    adata = AnnData(sparse.vstack(blocks, format="csr"))
    adata.obs["cell_type"] = [f"type_{t}" for t in types]
    return adata


def load(job: Job, data: Path | None) -> AnnData:
    if job.name == "simulated":
        return simulate(1_280, job.n_genes)
    adata = sc.read_h5ad(data / f"{job.name}.h5ad")
    sc.pp.filter_genes(adata, min_cells=1)
    if adata.n_vars > job.n_genes:
        sc.pp.highly_variable_genes(adata, flavor="seurat_v3", n_top_genes=job.n_genes)
        adata = adata[:, adata.var["highly_variable"]].copy()
    sc.pp.filter_cells(adata, min_counts=2)
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str).astype("category")
    return adata


def train(job: Job, data: Path | None) -> tuple[torch.nn.Module, dict]:
    """Module trained on 80% of the cells, and a minibatch of the others."""
    scvi.settings.seed = 0
    fitted, test = train_test_split(load(job, data), 0)
    SCDGD.setup_anndata(fitted, labels_key="cell_type")
    if job.published:
        model = SCDGD(fitted, **presets.SCHUSTER_2023["model"])
        options = {**presets.SCHUSTER_2023["train"], "max_epochs": job.epochs}
    else:
        model, options = SCDGD(fitted, n_components="labels", n_latent=N_LATENT), {"max_epochs": job.epochs}
    model.train(**options, accelerator="cpu", enable_progress_bar=False)
    x = sparse.csr_matrix(test.X[: job.cells], dtype=np.float32)
    return model.module.eval(), {
        REGISTRY_KEYS.X_KEY: SparseCounts.from_scipy(x),
        REGISTRY_KEYS.BATCH_KEY: torch.zeros(x.shape[0], 1),
    }


def published_placement(module, tensors: dict) -> torch.Tensor:
    """The published procedure, as the released code runs it: batches of 32, dense counts, dense formula."""
    x = tensors[REGISTRY_KEYS.X_KEY].to_dense()
    start = best_component_means(module, tensors)
    library = x.sum(1, keepdim=True) if module.size.name == "observed" else x.amax(1, keepdim=True)
    placed = []
    for rows in torch.arange(len(x)).split(32):
        z = start[rows].clone().requires_grad_()
        optimizer = torch.optim.Adam([z], lr=1e-2, betas=(0.5, 0.7))
        for _ in range(10):
            optimizer.zero_grad()
            categories = [tensors[REGISTRY_KEYS.BATCH_KEY][rows]]
            mean = library[rows] * module.decoder(z, categories).exp()
            loss = dense_nb_loss(x[rows], mean, module.log_theta.exp()) - module.prior.log_prob(z).sum()
            loss.backward()
            optimizer.step()
        placed.append(z.detach())
    return torch.cat(placed)


def dense_nb_loss(x: torch.Tensor, mean: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    """Negative binomial as published, every term at every entry."""
    eps = 1e-10
    log_prob = (
        torch.lgamma(x + theta)
        - torch.lgamma(theta)
        - torch.lgamma(x + 1)
        + x * (mean / (mean + theta) + eps).log()
        + theta * (theta / (mean + theta) + eps).log()
    )
    return -log_prob.sum()


@torch.no_grad()
def log_posterior(module, tensors: dict, z: torch.Tensor) -> torch.Tensor:
    """log p(x | z) + log p(z) of each cell, in double."""
    x = tensors[REGISTRY_KEYS.X_KEY].to_dense().double()
    library = x.sum(1, keepdim=True) if module.size.name == "observed" else x.amax(1, keepdim=True)
    module.double()
    z = z.double()
    eta = library.log() + module.decoder(z, [tensors[REGISTRY_KEYS.BATCH_KEY]])
    theta, log_theta = module.log_theta.exp(), module.log_theta
    u = eta - log_theta
    softplus = torch.nn.functional.softplus
    log_prob = (
        torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1) - x * softplus(-u) - theta * softplus(u)
    )
    value = log_prob.sum(1) + module.prior.log_prob(z)
    module.float()
    return value


def interleaved(methods: dict, rounds: int) -> tuple[dict, dict]:
    """Result and least seconds of each method; one round runs each once."""
    results, seconds = {}, dict.fromkeys(methods, np.inf)
    for _ in range(rounds):
        for name, method in methods.items():
            start = time.process_time()
            results[name] = method()
            seconds[name] = min(seconds[name], time.process_time() - start)
    return results, seconds


def compare(job: Job, module, tensors: dict, rounds: int) -> tuple[list, torch.Tensor, torch.Tensor]:
    """One line of the table; log posteriors of published procedure and referee."""
    default = NewCellsConfig().gauss_newton(module)
    methods = {
        "ours": lambda: gauss_newton(module, tensors, config=default),
        "two starts": lambda: gauss_newton(module, tensors, config=default._replace(n_starts=2)),
        "published": lambda: published_placement(module, tensors),
    }
    found, seconds = interleaved(methods, rounds)
    start = time.process_time()
    referees = [log_posterior(module, tensors, place_new_cells(module, tensors, config)) for config in REFEREE]
    seconds["referee"] = (time.process_time() - start) / len(REFEREE)
    referee = torch.stack(referees).amax(0)
    ours, two = (log_posterior(module, tensors, found[name].z) for name in ("ours", "two starts"))
    published = log_posterior(module, tensors, found["published"])
    b, g = tensors[REGISTRY_KEYS.X_KEY].shape
    line = [
        f"{job.name}{', published model (ReLU)' if job.published else ''}",
        f"{b} × {g}",
        *(f"{b / seconds[name]:.0f}" for name in ("ours", "two starts", "published", "referee")),
        f"{seconds['published'] / seconds['ours']:.1f}",
        f"{found['ours'].n_steps.double().mean():.1f}",
        f"{float((ours - published).mean()):+.2f}",
        f"{100 * float((ours >= published).double().mean()):.1f}%",
        f"{100 * float((two >= published).double().mean()):.1f}%",
        f"{float((ours - referee).mean()):+.3f}",
        f"{100 * float((ours - referee).mean() / referee.mean().abs()):+.4f}%",
        f"{100 * float((ours >= referee - 0.1).double().mean()):.1f}%",
    ]
    return line, published, referee


HEADER = [
    "set", "cells × genes", "ours, cells/s", "ours, two starts", "published", "referee", "ours : published", "steps",
    "ours − published (nats)", "at least as high as published", "the same, two starts", "ours − referee (nats)",
    "relative", "no more than 0.1 nats below the referee",
]  # fmt: skip


def curve(module, tensors: dict, referee: torch.Tensor, rounds: int) -> str:
    """Steps, gap and time as one setting is varied."""
    text, default = [], NewCellsConfig().gauss_newton(module)
    for title, variants in CURVE.items():
        configs = {str(next(iter(v.values()))): default._replace(**v) for v in variants}
        methods = {
            "default": lambda: gauss_newton(module, tensors, config=default),
            **{
                name: (lambda config=config: gauss_newton(module, tensors, config=config))
                for name, config in configs.items()
            },
        }
        found, seconds = interleaved(methods, rounds)
        rows = []
        for name in configs:
            gap = referee - log_posterior(module, tensors, found[name].z)
            rows.append([
                name,
                f"{found[name].n_steps.double().mean():.2f}",
                f"{100 * float(found[name].converged.double().mean()):.1f}%",
                f"{float(gap.mean()):.4f}", f"{float(gap.median()):.4f}", f"{float(gap.quantile(0.99)):.3f}",
                f"{seconds[name] / seconds['default']:.2f}",
            ])  # fmt: skip
        header = [title, "steps", "converged", "mean gap (nats)", "median", "99%", "time : default"]
        text.append(markdown(header, rows))
    return "\n\n".join(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder with the .h5ad sets (not needed for --quick)")
    tiers = parser.add_mutually_exclusive_group()
    for tier in TIERS:
        tiers.add_argument(f"--{tier}", dest="tier", action="store_const", const=tier)
    parser.add_argument("--encoder", action="store_true", help="only the section on cells placed from an encoder")
    parser.add_argument("--out", type=Path, help="Markdown page to write (default: print only)")
    parser.set_defaults(tier="quick")
    args = parser.parse_args()
    if args.data is None and any(job.name != "simulated" for job in TIERS[args.tier]):
        parser.error("--data is needed: a folder with the .h5ad sets")
    warnings.filterwarnings("ignore")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    scvi.settings.verbosity = logging.ERROR
    torch.set_num_threads(1)
    rounds = 1 if args.tier == "quick" else 3
    encoder = section(args.tier, args.data, rounds)
    if args.encoder:
        print(encoder)
        return
    lines, curves = [], []
    for i, job in enumerate(TIERS[args.tier]):
        module, tensors = train(job, args.data)
        gauss_newton(module, tensors)  # warm
        line, _, referee = compare(job, module, tensors, rounds)
        lines.append(line)
        print(" | ".join(line), flush=True)
        if i < N_CURVES[args.tier]:
            curves.append(f"**{line[0]}, {line[1]}**: one setting varied\n\n{curve(module, tensors, referee, rounds)}")
    text = "\n\n".join([markdown(HEADER, lines), *curves, encoder])
    print(text)
    if args.out:
        command = f"python benchmarks/new_cells.py --data DIR --{args.tier}"
        args.out.write_text(f"# Benchmark: new cells\n\n{__doc__}\nPrinted by `{command}`.\n\n{text}\n")


if __name__ == "__main__":
    main()
