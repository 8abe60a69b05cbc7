"""New cells: Gauss-Newton against the published procedure and against 1,000 steps of Adam; one model, the same cells.

    python benchmarks/new_cells.py --data DIR --standard --out docs/benchmarks_new_cells.md
    python benchmarks/new_cells.py --data DIR --standard --methods encoder  # prints the last section only

All methods start from the same component means, found by the same code, and their times include it. *Published*
(Schuster & Krogh 2023): 10 steps of Adam, rate 1e-2, betas (0.5, 0.7), batches of 32, with the published dense negative
binomial on dense counts. *Referee*: 1,000 steps of Adam, annealed from each of the rates 0.1 and 0.01; the better end of
each cell counts. Times are CPU seconds of one thread, the least over interleaved rounds. Densities are evaluated in
double.
"""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import _encoder_curve
import numpy as np
import torch
from _benchmark import Benchmark, Job
from _encoder_curve import Queries
from _sets import load, train_test_split
from _tables import markdown
from anndata import AnnData
from scipy import sparse
from scvi import REGISTRY_KEYS

from scdgd import presets
from scdgd.data import SparseCounts
from scdgd.inference import NewCellsConfig, best_component_means, gauss_newton, place_new_cells
from scdgd.model import SCDGD

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pandas as pd

N_LATENT = 20
REFEREE = [NewCellsConfig(n_steps=1_000, lr=lr) for lr in (0.1, 0.01)]


class Model(NamedTuple):
    """A model, and how many cells are placed on it."""

    name: str
    """Of the set."""
    n_genes: int
    epochs: int
    cells: int
    published: bool = False
    """Whether the model is the published one (ReLU, softball), too."""

    def __str__(self) -> str:
        return f"{self.name}{', published model (ReLU)' if self.published else ''}, {self.n_genes:,} genes"


class Tier(NamedTuple):
    models: tuple[Model, ...]
    n_curves: int
    """Models, the first ones, on which accuracy and speed are followed as one setting varies."""
    queries: dict[str, Queries]
    """Of the section on an encoder, by set."""
    seeds: int
    """Of that section."""
    rounds: int


MODELS = (
    Model("zheng_facs", 2_000, 100, 700),
    Model("zheng_facs", 20_000, 30, 256),
    Model("kang_ifnb2800", 2_000, 100, 500),
)
QUERIES = dict.fromkeys(("zheng_facs", "kang_ifnb2800", "pbmc_3tech"), Queries(1_000, 1_875))
TIERS = {
    "quick": Tier((Model("simulated", 2_000, 10, 128),), 0, {"pbmc68k": Queries(300, 300, 3, 3, 100)}, 1, 1),
    "standard": Tier(MODELS, 1, QUERIES, 2, 3),
    "full": Tier(
        (*MODELS, Model("simulated", 20_000, 20, 256), Model("zheng_facs", 2_000, 200, 400, published=True)),
        2,
        QUERIES,
        2,
        3,
    ),
}

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


def trained(model: Model, data: Path | None) -> tuple[torch.nn.Module, dict]:
    """Module trained on 80% of the cells, and a minibatch of the others."""
    if model.name == "simulated":
        adata = simulate(1_280, model.n_genes)
    else:
        adata = load(model.name, data, n_genes=model.n_genes)
    fitted, test = train_test_split(adata, 0)
    SCDGD.setup_anndata(fitted, labels_key="cell_type")
    if model.published:
        built = SCDGD(fitted, **presets.SCHUSTER_2023["model"])
        options = {**presets.SCHUSTER_2023["train"], "max_epochs": model.epochs}
    else:
        built, options = SCDGD(fitted, n_components="labels", n_latent=N_LATENT), {"max_epochs": model.epochs}
    built.train(**options, accelerator="cpu", enable_progress_bar=False)
    x = sparse.csr_matrix(test.X[: model.cells], dtype=np.float32)
    return built.module.eval(), {
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


HEADER = [
    *("cells × genes", "ours, cells/s", "ours, two starts", "published", "referee", "ours : published", "steps"),
    *("ours − published (nats)", "at least as high as published", "the same, two starts", "ours − referee (nats)"),
    *("relative", "no more than 0.1 nats below the referee"),
]


def compare(module, tensors: dict, rounds: int) -> tuple[dict[str, object], torch.Tensor]:
    """One line of the table, and log posteriors of the referee."""
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
    share = lambda is_so: f"{100 * float(is_so.double().mean()):.1f}%"
    line = [
        f"{b} × {g}",
        *(f"{b / seconds[name]:.0f}" for name in ("ours", "two starts", "published", "referee")),
        f"{seconds['published'] / seconds['ours']:.1f}",
        f"{found['ours'].n_steps.double().mean():.1f}",
        f"{float((ours - published).mean()):+.2f}",
        *(share(ours >= published), share(two >= published)),
        f"{float((ours - referee).mean()):+.3f}",
        f"{100 * float((ours - referee).mean() / referee.mean().abs()):+.4f}%",
        share(ours >= referee - 0.1),
    ]
    return dict(zip(HEADER, line, strict=True)), referee


CURVE_HEADER = ["steps", "converged", "mean gap (nats)", "median", "99%", "time : default"]


def curves(module, tensors: dict, referee: torch.Tensor, rounds: int) -> Iterator[dict]:
    """Steps, gap and time as one setting is varied."""
    default = NewCellsConfig().gauss_newton(module)
    for title, variants in CURVE.items():
        configs = {"default": default} | {str(next(iter(v.values()))): default._replace(**v) for v in variants}
        methods = {name: partial(gauss_newton, module, tensors, config=config) for name, config in configs.items()}
        found, seconds = interleaved(methods, rounds)
        for name in list(configs)[1:]:
            gap = referee - log_posterior(module, tensors, found[name].z)
            line = [
                f"{found[name].n_steps.double().mean():.2f}",
                f"{100 * float(found[name].converged.double().mean()):.1f}%",
                *(f"{float(gap.mean()):.4f}", f"{float(gap.median()):.4f}", f"{float(gap.quantile(0.99)):.3f}"),
                f"{seconds[name] / seconds['default']:.2f}",
            ]
            yield {"setting": title, "varied": name, **dict(zip(CURVE_HEADER, line, strict=True))}


def grid(tier: Tier) -> list[Job]:
    encoders = [Job(name, seed, "encoder") for name in tier.queries for seed in range(tier.seeds)]
    return [*(Job(str(model), 0, "placement") for model in tier.models), *encoders]


def cells(name: str, seed: int, tier: Tier, data: Path | None) -> Path | None:
    """The folder: no two runs share a model."""
    return data


def run(data: Path | None, job: Job, tier: Tier) -> Iterator[dict]:
    if job.method == "encoder":
        yield from _encoder_curve.run(job.set, tier.queries[job.set], data, job.seed, tier.rounds)
        return
    index = list(map(str, tier.models)).index(job.set)
    module, tensors = trained(tier.models[index], data)
    gauss_newton(module, tensors)  # warm
    line, referee = compare(module, tensors, tier.rounds)
    yield line
    if index < tier.n_curves:
        yield from curves(module, tensors, referee, tier.rounds)


def report(rows: pd.DataFrame, tier: Tier) -> str:
    text, placed = [], rows[rows["run"] == "placement"]
    if len(placed):
        is_line = placed[HEADER[0]].notna()
        text.append(markdown(["set", *HEADER], placed.loc[is_line, ["set", *HEADER]].to_numpy().tolist()))
        for name, of_model in placed[~is_line].groupby("set", sort=False):
            text.append(f"**{name}**: one setting varied")
            for title, some in of_model.groupby("setting", sort=False):
                text.append(markdown([title, *CURVE_HEADER], some[["varied", *CURVE_HEADER]].to_numpy().tolist()))
    if (rows["run"] == "encoder").any():
        text.append(_encoder_curve.section(rows[rows["run"] == "encoder"]))
    return "\n\n".join(text)


BENCHMARK = Benchmark("new_cells", "Benchmark: new cells", __doc__, TIERS, grid, run, report, cells)

if __name__ == "__main__":
    BENCHMARK.main()
