"""Whether mixtures with an encoder find separated clusters, whatever the seed.

    python benchmarks/seeds.py --standard --out docs/benchmarks_seeds.md

*Six types*: 1,500 cells of 300 genes, of six blood cell types (`scdgd.datasets.simulate`), or of six profiles with log-normal
changes (sd 1) of 30% of the genes; `SCVMM`, 150 epochs. *Five populations*: 3,200 cells of 10 genes from Poisson rates; `SCGMVAE`
with as many components, 60 epochs. Cells, rates and model are drawn by the seed. The Bayes classifier knows the parameters (of
the blood cells the profiles of types, not the factors within them). *As published* differs in how the prior starts and steps only: no
warm start, responsibilities of the expected density and batch norm's decay of 0.99 (`SCVMM`), the networks' rate for the prior and
an epsilon of 1e-8 for all (`SCGMVAE`). Agreement is the adjusted Rand index with the types; *loss* is that of the Bayes classifier less that of the model.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from _benchmark import Benchmark, Job, every
from _fits import trained
from _tables import markdown, mean_sd
from anndata import AnnData
from gmvae import five_populations
from scipy import sparse, stats
from sklearn.metrics import adjusted_rand_score

import scdgd
from scdgd.model import SCGMVAE, SCVMM

if TYPE_CHECKING:
    from collections.abc import Iterator

_BLOOD = ("CD14+ Monocyte", "CD19+ B", "CD56+ NK", "CD34+", "CD8+ Cytotoxic T", "CD4+/CD25 T Reg")
_FIRST_SEED = 600


class Tier(NamedTuple):
    sets: tuple[str, ...]
    seeds: int
    n_cells: int
    n_genes: int
    n_populations_cells: int
    epochs: tuple[int, int]
    """Of SCVMM and SCGMVAE."""


SETS = ("six types, blood", "six types, profiles", "five populations")
TIERS = {
    "quick": Tier(SETS, 1, 300, 60, 300, (4, 3)),
    "standard": Tier(SETS, 5, 1_500, 300, 3_200, (150, 60)),
}


class Form(NamedTuple):
    vmm: dict
    vmm_plan: dict
    gmvae_plan: dict


FORMS = {
    "default": Form({}, {}, {}),
    "as published": Form(
        {"prior_kwargs": {"responsibilities": "expected"}, "batch_norm_decay": 0.99},
        {"n_warm_start_epochs": 0},
        {"prior_lr_ratio": 1.0, "eps": 1e-8},
    ),
}


def blood_types(n_cells: int, n_genes: int, seed: int) -> AnnData:
    """Six types in equal numbers; ``obs.bayes``: the likeliest by the profiles of types and the dispersions of genes."""
    adata = scdgd.datasets.simulate(
        n_cells, n_genes, type_proportions=dict.fromkeys(_BLOOD, 1.0), seed=_FIRST_SEED + seed
    )
    share, dispersion = adata.varm["share"].T, np.maximum(adata.var["dispersion"].to_numpy(), 1e-4)
    return with_bayes(adata, adata.obs["library_size"].to_numpy(), share / share.sum(1, keepdims=True), 1 / dispersion)


def profile_types(n_cells: int, n_genes: int, seed: int) -> AnnData:
    """Six types in equal numbers of 1,000 counts, with inverse dispersions of 2."""
    rng = np.random.default_rng(_FIRST_SEED + seed)
    change = rng.normal(size=(6, n_genes)) * (rng.random((6, n_genes)) < 0.3)
    share = np.exp(rng.normal(size=n_genes) + change)
    share /= share.sum(1, keepdims=True)
    types, library = rng.integers(6, size=n_cells), 1_000 * np.exp(0.3 * rng.normal(size=n_cells))
    counts = rng.poisson(rng.gamma(2.0, library[:, None] * share[types] / 2.0))
    adata = AnnData(sparse.csr_matrix(counts.astype(np.float32)))
    adata.obs["cell_type"] = pd.Categorical(types.astype(str))
    return with_bayes(adata, library, share, np.full(n_genes, 2.0))


def with_bayes(adata: AnnData, library: np.ndarray, share: np.ndarray, theta: np.ndarray) -> AnnData:
    counts = adata.X.toarray()
    log_prob = [stats.nbinom.logpmf(counts, theta, theta / (theta + library[:, None] * p)).sum(1) for p in share]
    adata.obs["bayes"] = np.argmax(log_prob, axis=0)
    return adata


def cells(name: str, seed: int, tier: Tier, data: None) -> AnnData:
    if name == "five populations":
        return five_populations(tier.n_populations_cells, seed)
    return {"blood": blood_types, "profiles": profile_types}[name.split(", ")[1]](tier.n_cells, tier.n_genes, seed)


def run(adata: AnnData, job: Job, tier: Tier) -> Iterator[dict]:
    """Clusters of all cells, which all train."""
    form, adata = FORMS[job.method], adata.copy()
    everything = {"train_size": 1.0}
    if job.set == "five populations":
        sizes = {"n_components": 5, "n_latent": 2, "gene_likelihood": "poisson"}
        model = trained(SCGMVAE, adata, tier.epochs[1], everything | {"plan_kwargs": form.gmvae_plan}, **sizes)
    else:
        model = trained(SCVMM, adata, tier.epochs[0], everything | {"plan_kwargs": form.vmm_plan}, **form.vmm)
    found = model.get_cluster_assignments()
    bayes, ari = (adjusted_rand_score(adata.obs["cell_type"], c) for c in (adata.obs["bayes"], found))
    yield {"bayes": bayes, "ari": ari, "n": len(np.unique(found))}


def report(rows: pd.DataFrame, tier: Tier) -> str:
    lines = []
    for (name, form), some in rows.groupby(["set", "method"], sort=False):
        loss = some["bayes"] - some["ari"]
        seeds = ", ".join(f"{value:.3f}" for value in some["ari"])
        lines.append(
            [name, form, mean_sd(some["bayes"], 3), mean_sd(some["ari"], 3), seeds, mean_sd(some["n"], 1)]
            + [f"{(loss <= 0.02).sum()} of {len(some)}", f"{loss.max():.3f}"]
        )
    header = ["set", "form", "Bayes classifier", "model", "each seed", "clusters", "within 0.02", "largest loss"]
    return markdown(header, lines)


BENCHMARK = Benchmark("seeds", "Seeds", __doc__, TIERS, every(FORMS), run, report, cells)

if __name__ == "__main__":
    BENCHMARK.main()
