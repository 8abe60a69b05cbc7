"""GMVAE: what keeps its components in use, what the sum over components costs, and what a truncated sum loses.

    python benchmarks/gmvae.py --data DIR --standard --out docs/benchmarks_gmvae.md

*Remedies*: every (set, seed) is one split of the cells, 80% to train and 20% to score. All models of a (set, seed) see the
same cells and train for the same number of epochs. Real sets: negative binomial, 10 latent dimensions, 10 components. The
set *five populations* is simulated: Poisson counts of 10 genes, the rates of each population a permutation of 1 to 10;
Poisson, 2 latent dimensions, 5 components; the Bayes classifier knows the rates. ELBO (mean of 5 draws) and evidence (IWAE,
100 importance samples) are of the test cells, in nats per cell. *Sure* is the median over test cells of the largest
probability in q(y | x). Labels score; they choose nothing.

*Cost*: seconds of training epochs at 2,000 genes, all models in turns in one run; medians of ratios within rounds.

*Truncated sums*: one trained model with 10 components, whose bound is then evaluated with the likeliest components only.
"""

from __future__ import annotations

import time
from typing import NamedTuple

import numpy as np
import pandas as pd
import scvi
from _ledger import Ledger, markdown, mean_sd
from _sets import TRUTH, load, most_variable, train_test_split
from _tiers import one_quiet_thread, run_jobs, tier_and_ledger, tier_parser, write_page
from anndata import AnnData
from scipy import sparse, stats
from sklearn.metrics import adjusted_rand_score

import scdgd
from scdgd.metrics import n_used_components
from scdgd.model import SCGMVAE, SCVAE

FIVE = "five populations"
N_ELBO_DRAWS, N_IMPORTANCE_SAMPLES = 5, 100
#: Added to the seed of simulated sets: no test draws these cells.
FIRST_SIMULATION = 50


class Tier(NamedTuple):
    sets: tuple[str, ...]
    seeds: int
    epochs: int
    max_cells: int
    max_genes: int
    cost_cells: int
    cost_rounds: int


TIERS = {
    "quick": Tier((FIVE,), 1, 3, 300, 200, 256, 1),
    "standard": Tier((FIVE, "zheng_facs"), 3, 60, 1_000, 500, 1_280, 5),
    "full": Tier((FIVE, *TRUTH, "kang_ifnb2800", "paul15", "pbmc3k"), 5, 200, 10_000, 2_000, 5_120, 10),
}


class Variant(NamedTuple):
    model: dict = {}
    plan: dict = {}


COLD = {"n_warm_start_epochs": 0}
DEFAULT = "default"
VARIANTS = {
    DEFAULT: Variant(),
    "no remedy": Variant(plan=COLD),
    "information": Variant(plan={**COLD, "information_weight": 1.0}),
    "warm start and information": Variant(plan={"information_weight": 1.0}),
    "annealing": Variant(plan={**COLD, "n_epochs_kl_warmup": 30}),
    "free nats": Variant(plan={**COLD, "free_nats": 0.9}),
    "uniform weights": Variant({"component_weights": "uniform"}),
    "batch norm: both": Variant({"use_batch_norm": "both"}),
    "batch norm: none": Variant({"use_batch_norm": "none"}),
    "batch norm: per component (published)": Variant({"use_batch_norm": "both", "norm_per_component": True}, COLD),
    "no term of y (ablation)": Variant(plan={**COLD, "component_regularization": "none"}),
    "cross-entropy for KL (ablation)": Variant(plan={**COLD, "component_regularization": "cross_entropy"}),
}
COLUMNS = {
    "elbo": ("ELBO", 2),
    "iwae": ("IWAE", 2),
    "used": ("components used", 1),
    "sure": ("sure", 2),
    "ari": ("ARI", 3),
    "seconds": ("s per epoch", 3),
}


def five_populations(n_cells: int, seed: int) -> AnnData:
    """Cells of five Poisson populations; the Bayes classifier's clusters are in ``obs.bayes``."""
    rng = np.random.default_rng(FIRST_SIMULATION + seed)
    rates = np.stack([rng.permutation(np.arange(1, 11)) for _ in range(5)])
    types = rng.integers(5, size=n_cells)
    counts = rng.poisson(rates[types]).astype(np.float32)
    adata = AnnData(sparse.csr_matrix(counts))
    adata.obs["cell_type"] = pd.Categorical(types.astype(str))
    adata.obs["bayes"] = stats.poisson.logpmf(counts[:, None], rates).sum(-1).argmax(1)
    return adata


def cells_of(name: str, data, tier: Tier, seed: int) -> AnnData:
    if name == FIVE:
        return five_populations(4 * tier.max_cells, seed)
    return most_variable(load(name, data, tier.max_cells), tier.max_genes)


def build(name: str, train: AnnData, variant: Variant, seed: int) -> SCGMVAE:
    scvi.settings.seed = seed
    SCGMVAE.setup_anndata(train, batch_key="batch" if "batch" in train.obs else None)
    sizes = {"n_components": 10, "n_latent": 10, "gene_likelihood": "nb"}
    if name == FIVE:
        sizes = {"n_components": 5, "n_latent": 2, "gene_likelihood": "poisson"}
    return SCGMVAE(train, **{**sizes, **variant.model})


def elbo_of(model: SCGMVAE, test: AnnData) -> float:
    return np.mean([float(model.get_elbo(test)) for _ in range(N_ELBO_DRAWS)])


def fit(name: str, variant: Variant, train: AnnData, test: AnnData, seed: int, epochs: int) -> dict:
    """Train one model and score it."""
    train, test = train.copy(), test.copy()
    model = build(name, train, variant, seed)
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False}
    start = time.process_time()
    model.train(epochs, train_size=1.0, plan_kwargs=variant.plan, **quiet)
    seconds = (time.process_time() - start) / epochs
    qy = model.get_cluster_assignments(test, soft=True)
    scores = {
        "elbo": elbo_of(model, test),
        "iwae": float(model.get_marginal_ll(test, n_mc_samples=N_IMPORTANCE_SAMPLES, n_mc_samples_per_pass=20)),
        "used": n_used_components(qy.argmax(1)),
        "sure": float(np.median(qy.max(1))),
        "ari": adjusted_rand_score(test.obs["cell_type"], qy.argmax(1)),
        "seconds": seconds,
    }
    return scores | (truncated(model, test) if variant == VARIANTS[DEFAULT] else {})


def truncated(model: SCGMVAE, test: AnnData) -> dict:
    """Bound of a trained model with the sum over the likeliest `m` components only, less that with all."""
    module, k = model.module, model.module.n_components
    bounds = {}
    for m in (1, 2, 3, 5, k):
        module.max_components_per_cell = m
        bounds[m] = elbo_of(model, test)
    return {f"loss_{m}": bounds[m] - bounds[k] for m in (1, 2, 3, 5)}


def run(job: tuple) -> None:
    """All variants on one split; finished ones are skipped."""
    name, seed, data, tier, path = job
    one_quiet_thread()
    ledger = Ledger(path)
    train, test = train_test_split(cells_of(name, data, tier, seed), seed)
    best = adjusted_rand_score(test.obs["cell_type"], test.obs["bayes"]) if name == FIVE else np.nan
    for method in np.roll(list(VARIANTS), seed):
        if ledger.has(set=name, seed=seed, method=method):
            continue
        scores = fit(name, VARIANTS[method], train, test, seed, tier.epochs)
        row = dict.fromkeys([*COLUMNS, *(f"loss_{m}" for m in (1, 2, 3, 5))]) | scores
        ledger.add(
            {"set": name, "seed": seed, "method": method, "cells": train.n_obs, "genes": train.n_vars, "bayes": best}
            | row
        )
        print(f"{name} seed {seed} {method}: IWAE {scores['iwae']:.2f}, used {scores['used']}", flush=True)


def remedies(rows: pd.DataFrame, name: str, epochs: int) -> str:
    """Mean ± standard deviation over seeds on one set."""
    rows = rows[rows["set"] == name]
    lines = []
    for method in VARIANTS:
        r = rows[rows["method"] == method]
        lines.append([method, *(mean_sd(r[c].astype(float), digits) for c, (_, digits) in COLUMNS.items()), len(r)])
    cells, genes = rows[["cells", "genes"]].iloc[0]
    bayes = f"; ARI of the Bayes classifier {mean_sd(rows.drop_duplicates('seed')['bayes'], 3)}" if name == FIVE else ""
    head = f"\n**{name}**: {cells} training cells × {genes} genes, {epochs} epochs{bayes}\n"
    return head + "\n" + markdown(["variant", *(title for title, _ in COLUMNS.values()), "seeds"], lines)


def truncations(rows: pd.DataFrame) -> str:
    rows, lines = rows[rows["method"] == DEFAULT], []
    for name, r in rows.groupby("set", sort=False):
        lines.append([name, *(mean_sd(r[f"loss_{m}"].astype(float), 2) for m in (1, 2, 3, 5)), len(r)])
    return markdown(["set", *(f"likeliest {m}" for m in (1, 2, 3, 5)), "seeds"], lines)


def cost(tier: Tier) -> str:
    """Ratios of epochs to those of stock scVI and of SCVAE."""
    adata = scdgd.datasets.simulate(tier.cost_cells, 2_000, seed=0)
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "train_size": 1.0}
    models = {}
    for family in ("nb", "zinb"):
        for cls, label, options in (
            (scvi.model.SCVI, "stock scVI", {}),
            (SCVAE, "SCVAE", {}),
            (SCGMVAE, "SCGMVAE, 10 components", {"n_components": 10}),
            (SCGMVAE, "SCGMVAE, likeliest 3 of 10", {"n_components": 10, "max_components_per_cell": 3}),
        ):
            scvi.settings.seed = 0
            own = adata.copy()
            cls.setup_anndata(own)
            models[label, family] = cls(own, gene_likelihood=family, **options)
    seconds = {key: [] for key in models}
    for _ in range(tier.cost_rounds + 1):  # the first one warms up
        for key, model in models.items():
            start = time.process_time()
            model.train(2, **quiet)
            seconds[key].append(time.process_time() - start)
    lines = []
    for (label, family), values in seconds.items():
        ratio = {
            other: np.median(np.array(values[1:]) / np.array(seconds[other, family][1:]))
            for other in ("stock scVI", "SCVAE")
        }
        lines.append([label, family, *(f"{ratio[other]:.2f}" for other in ("stock scVI", "SCVAE"))])
    return markdown(["model", "likelihood", "epoch : stock scVI's", "epoch : SCVAE's"], lines)


def main() -> None:
    parser = tier_parser(__doc__, TIERS)
    args, ledger = tier_and_ledger(parser, TIERS, "gmvae")
    tier = TIERS[args.tier]
    one_quiet_thread()
    costs = cost(tier)  # before other processes share the cores
    jobs = [(name, seed, args.data, tier, ledger.path) for seed in range(tier.seeds) for name in tier.sets]
    run_jobs(run, jobs, n_processes=1 if args.tier == "quick" else 2)
    rows = ledger.read()
    parts = [remedies(rows, name, tier.epochs) for name in tier.sets]
    text = "\n".join(
        [
            "\n## Remedies",
            *parts,
            "\n## Cost\n\n2,000 genes, minibatches of 128, one thread.\n",
            costs,
            "\n## Truncated sums\n\nBound with the likeliest components less that with all, nats per test cell.\n",
            truncations(rows),
        ]
    )
    write_page(args.out, "Benchmark: GMVAE", "gmvae", __doc__, args.tier, text)


if __name__ == "__main__":
    main()
