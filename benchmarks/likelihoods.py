"""Count likelihoods: Poisson, NB, ZIP, ZINB and constrained Poisson, each in a VAE and in a GMVAE.

    python benchmarks/likelihoods.py --data DIR --standard --out docs/benchmarks_likelihoods.md

Every (set, seed) is one split of the cells, 80% to train and 20% to score. All models of a (set, seed) see the same cells
and genes and train for the same number of epochs, without early stopping and without warm-up of the divergence, with 10
latent dimensions, one hidden layer of 128, one dispersion a gene, and 10 components (GMVAE). Mean counts are shares of the
observed library, under which Poisson and constrained Poisson are the same model; *rates* do not know the library (the
published form of all but the constrained Poisson). The ELBO (mean of 5 draws) and the evidence (IWAE, 100 importance
samples) are of the test cells, in nats per cell; clusters are of the training cells. Labels score; they choose nothing. ARI
and NMI are of the GMVAE's own clusters and of k-means on the VAE's latent space, which is told the number of types. Seconds
are CPU seconds of training, one thread a run; the order of the models rotates with the seed.
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
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from scdgd.metrics import n_used_components
from scdgd.model import SCGMVAE, SCVAE

FAMILIES = {
    **{name: {"gene_likelihood": name} for name in ("nb", "zinb", "poisson", "zip", "constrained_poisson")},
    **{f"{name}, rates": {"gene_likelihood": name, "mean_activation": "rate"} for name in ("nb", "poisson")},
}
MODELS = {"VAE": SCVAE, "GMVAE": SCGMVAE}
N_COMPONENTS, N_LATENT = 10, 10
N_ELBO_DRAWS, N_IMPORTANCE_SAMPLES = 5, 100


class Tier(NamedTuple):
    sets: tuple[str, ...]
    seeds: int
    epochs: int
    max_cells: int | None
    max_genes: int


TIERS = {
    "quick": Tier(("pbmc68k",), 1, 3, 200, 200),
    "standard": Tier(TRUTH, 3, 100, 1_000, 500),
    "full": Tier((*TRUTH, "kang_ifnb2800", "paul15", "pbmc3k"), 5, 500, None, 2_000),
}
COLUMNS = {
    "elbo": ("ELBO", 2),
    "iwae": ("IWAE", 2),
    "gain": ("IWAE − NB's", 2),
    "used": ("components used", 1),
    "ari": ("ARI", 3),
    "nmi": ("NMI", 3),
    "seconds": ("s per epoch", 3),
}


def fit(model: str, family: str, train: AnnData, test: AnnData, seed: int, epochs: int) -> dict:
    """Train one model and score it."""
    scvi.settings.seed = seed
    cls, train, test = MODELS[model], train.copy(), test.copy()
    cls.setup_anndata(train, batch_key="batch" if "batch" in train.obs else None)
    options = {"n_components": N_COMPONENTS} if cls is SCGMVAE else {}
    fitted = cls(train, n_latent=N_LATENT, **FAMILIES[family], **options)
    start = time.process_time()
    fitted.train(epochs, accelerator="cpu", train_size=1.0, logger=False, enable_progress_bar=False)
    seconds = (time.process_time() - start) / epochs
    types = train.obs["cell_type"]
    if cls is SCGMVAE:
        clusters = fitted.get_cluster_assignments()
    else:
        k_means = KMeans(types.nunique(), n_init=10, random_state=seed)
        clusters = k_means.fit_predict(fitted.get_latent_representation())
    return {
        "elbo": np.mean([float(fitted.get_elbo(test)) for _ in range(N_ELBO_DRAWS)]),
        "iwae": float(fitted.get_marginal_ll(test, n_mc_samples=N_IMPORTANCE_SAMPLES, n_mc_samples_per_pass=20)),
        "used": n_used_components(clusters) if cls is SCGMVAE else np.nan,
        "ari": adjusted_rand_score(types, clusters),
        "nmi": normalized_mutual_info_score(types, clusters),
        "seconds": seconds,
    }


def run(job: tuple) -> None:
    """All models on one split; finished ones are skipped."""
    name, seed, data, tier, path = job
    one_quiet_thread()
    ledger = Ledger(path)
    methods = [f"{model}: {family}" for family in FAMILIES for model in MODELS]
    train, test = train_test_split(most_variable(load(name, data, tier.max_cells), tier.max_genes), seed)
    for method in np.roll(methods, seed):
        if ledger.has(set=name, seed=seed, method=method):
            continue
        model, family = method.split(": ")
        scores = fit(model, family, train, test, seed, tier.epochs)
        sizes = {"cells": train.n_obs, "genes": train.n_vars, "types": train.obs["cell_type"].nunique()}
        ledger.add({"set": name, "seed": seed, "method": method, **sizes, **scores})
        print(f"{name} seed {seed} {method}: IWAE {scores['iwae']:.2f}, ARI {scores['ari']:.3f}", flush=True)


def table(rows: pd.DataFrame, name: str, epochs: int) -> str:
    """Mean ± standard deviation over seeds on one set."""
    rows, lines = rows[rows["set"] == name].copy(), []
    for model in MODELS:
        of_nb = rows[rows["method"] == f"{model}: nb"].set_index("seed")["iwae"]
        for family in FAMILIES:
            r = rows[rows["method"] == f"{model}: {family}"].copy()
            r["gain"] = r["iwae"] - r["seed"].map(of_nb)
            lines.append([model, family, *(mean_sd(r[c], digits) for c, (_, digits) in COLUMNS.items()), len(r)])
    cells, genes, types = rows[["cells", "genes", "types"]].iloc[0]
    measured = "; labels are measured" if name in TRUTH else ""
    head = f"\n**{name}**: {cells} training cells × {genes} genes, {types} types{measured}, {epochs} epochs\n"
    return head + "\n" + markdown(["model", "likelihood", *(title for title, _ in COLUMNS.values()), "seeds"], lines)


def ranking(rows: pd.DataFrame) -> str:
    """Whether the negative binomial has the highest evidence, as Grønbech et al. 2020 found."""
    lines = []
    for (name, seed), r in rows.groupby(["set", "seed"]):
        for model in MODELS:
            of_model = r[r["method"].str.startswith(f"{model}: ")].sort_values("iwae", ascending=False)
            order = [method.split(": ")[1] for method in of_model["method"]]
            lines.append([name, seed, model, " > ".join(order), "yes" if order[0].startswith("nb") else "no"])
    return markdown(["set", "seed", "model", "likelihoods by IWAE", "NB first"], lines)


def main() -> None:
    parser = tier_parser(__doc__, TIERS)
    args, ledger = tier_and_ledger(parser, TIERS, "likelihoods")
    tier = TIERS[args.tier]
    jobs = [(name, seed, args.data, tier, ledger.path) for seed in range(tier.seeds) for name in tier.sets]
    run_jobs(run, jobs, n_processes=1 if args.tier == "quick" else 2)
    rows = ledger.read()
    parts = [table(rows, name, tier.epochs) for name in tier.sets]
    text = "\n".join([*parts, "\nThe published finding, that the negative binomial is best:\n", ranking(rows)])
    write_page(args.out, "Benchmark: count likelihoods", "likelihoods", __doc__, args.tier, text)


if __name__ == "__main__":
    main()
