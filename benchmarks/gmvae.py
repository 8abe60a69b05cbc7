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

from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import scvi
from _benchmark import Benchmark, Job, every, in_turns
from _fits import QUIET, built, fit_model
from _sets import TRUTH, Split, split_cells, train_test_split
from _tables import markdown, mean_sd, spread_table
from anndata import AnnData
from scipy import sparse, stats
from sklearn.metrics import adjusted_rand_score

import scdgd
from scdgd.metrics import n_used_components
from scdgd.model import SCGMVAE, SCVAE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

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
    "standard": Tier((FIVE, "zheng_facs"), 3, 60, 1_000, 500, 5_120, 5),
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


def grid(tier: Tier) -> list[Job]:
    """Cost first, before other processes share the cores."""
    return [Job("simulated", 0, "cost"), *every(VARIANTS)(tier)]


def cells(name: str, seed: int, tier: Tier, data: Path | None) -> Split | None:
    if name == "simulated":
        return None
    if name == FIVE:
        return train_test_split(five_populations(4 * tier.max_cells, seed), seed)
    return split_cells(name, seed, tier, data)


def build(name: str, train: AnnData, variant: Variant) -> SCGMVAE:
    sizes = {"n_components": 10, "n_latent": 10, "gene_likelihood": "nb"}
    if name == FIVE:
        sizes = {"n_components": 5, "n_latent": 2, "gene_likelihood": "poisson"}
    return built(SCGMVAE, train, **{**sizes, **variant.model})


def elbo_of(model: SCGMVAE, test: AnnData) -> float:
    return np.mean([float(model.get_elbo(test)) for _ in range(N_ELBO_DRAWS)])


def run(split: Split | None, job: Job, tier: Tier) -> Iterator[dict]:
    """Train one model and score it."""
    if split is None:
        yield from cost(tier)
        return
    variant, train, test = VARIANTS[job.method], split.train.copy(), split.test.copy()
    model = build(job.set, train, variant)
    seconds = fit_model(model, tier.epochs, train_size=1.0, plan_kwargs=variant.plan, logger=False)
    qy = model.get_cluster_assignments(test, soft=True)
    yield {
        **split.sizes,
        "elbo": elbo_of(model, test),
        "iwae": float(model.get_marginal_ll(test, n_mc_samples=N_IMPORTANCE_SAMPLES, n_mc_samples_per_pass=20)),
        "used": n_used_components(qy.argmax(1)),
        "sure": float(np.median(qy.max(1))),
        "ari": adjusted_rand_score(test.obs["cell_type"], qy.argmax(1)),
        "bayes": adjusted_rand_score(test.obs["cell_type"], test.obs["bayes"]) if job.set == FIVE else np.nan,
        "seconds": seconds / tier.epochs,
        **(truncated(model, test) if job.method == DEFAULT else {}),
    }


def truncated(model: SCGMVAE, test: AnnData) -> dict:
    """Bound of a trained model with the sum over the likeliest `m` components only, less that with all."""
    module, k = model.module, model.module.n_components
    bounds = {}
    for m in (1, 2, 3, 5, k):
        module.max_components_per_cell = m
        bounds[m] = elbo_of(model, test)
    return {f"loss_{m}": bounds[m] - bounds[k] for m in (1, 2, 3, 5)}


def remedies(rows: pd.DataFrame, name: str, epochs: int) -> str:
    """Mean ± standard deviation over seeds on one set."""
    rows = rows[rows["set"] == name]
    cells, genes = rows[["cells", "genes"]].iloc[0].astype(int)
    bayes = f"; ARI of the Bayes classifier {mean_sd(rows.drop_duplicates('seed')['bayes'], 3)}" if name == FIVE else ""
    head = f"\n**{name}**: {cells} training cells × {genes} genes, {epochs} epochs{bayes}\n"
    return head + "\n" + spread_table(rows, COLUMNS, VARIANTS, head="variant")


def truncations(rows: pd.DataFrame) -> str:
    rows, lines = rows[rows["method"] == DEFAULT], []
    for name, r in rows.groupby("set", sort=False):
        lines.append([name, *(mean_sd(r[f"loss_{m}"], 2) for m in (1, 2, 3, 5)), len(r)])
    return markdown(["set", *(f"likeliest {m}" for m in (1, 2, 3, 5)), "seeds"], lines)


def cost(tier: Tier) -> Iterator[dict]:
    """Ratios of epochs to those of stock scVI and of SCVAE."""
    adata = scdgd.datasets.simulate(tier.cost_cells, 2_000, seed=0)
    quiet = {**QUIET, "logger": False, "train_size": 1.0}
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
    seconds = in_turns({key: partial(model.train, 2, **quiet) for key, model in models.items()}, tier.cost_rounds)
    for (label, family), of_model in seconds.items():
        ratios = {other: np.median(of_model / seconds[other, family]) for other in ("stock scVI", "SCVAE")}
        yield {"method": label, "likelihood": family, **ratios}


def costs(rows: pd.DataFrame) -> str:
    others = ["stock scVI", "SCVAE"]
    rows = rows[rows["run"] == "cost"]
    lines = [
        [row["method"], row["likelihood"], *(f"{row[other]:.2f}" for other in others)] for _, row in rows.iterrows()
    ]
    return markdown(["model", "likelihood", *(f"epoch : {other}'s" for other in others)], lines)


def report(rows: pd.DataFrame, tier: Tier) -> str:
    return "\n".join(
        [
            "\n## Remedies",
            *(remedies(rows, name, tier.epochs) for name in tier.sets if name in set(rows["set"])),
            "\n## Cost\n\n2,000 genes, minibatches of 128, one thread.\n",
            costs(rows),
            "\n## Truncated sums\n\nBound with the likeliest components less that with all, nats per test cell.\n",
            truncations(rows),
        ]
    )


BENCHMARK = Benchmark("gmvae", "Benchmark: GMVAE", __doc__, TIERS, grid, run, report, cells, n_jobs=2)

if __name__ == "__main__":
    BENCHMARK.main()
