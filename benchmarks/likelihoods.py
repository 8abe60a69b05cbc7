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

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
from _benchmark import Benchmark, Job, every
from _fits import built, fit_model
from _sets import TRUTH, Split, heading, split_cells
from _tables import markdown, spread_table
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from scdgd.metrics import n_used_components
from scdgd.model import SCGMVAE, SCVAE

if TYPE_CHECKING:
    from collections.abc import Iterator

FAMILIES = {
    **{name: {"gene_likelihood": name} for name in ("nb", "zinb", "poisson", "zip", "constrained_poisson")},
    **{f"{name}, rates": {"gene_likelihood": name, "mean_activation": "rate"} for name in ("nb", "poisson")},
}
MODELS = {"VAE": SCVAE, "GMVAE": SCGMVAE}
METHODS = [f"{model}: {family}" for family in FAMILIES for model in MODELS]
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


def run(split: Split, job: Job, tier: Tier) -> Iterator[dict]:
    """Train one model and score it."""
    model, family = job.method.split(": ")
    cls, train, test = MODELS[model], split.train.copy(), split.test.copy()
    options = {"n_components": N_COMPONENTS} if cls is SCGMVAE else {}
    fitted = built(cls, train, n_latent=N_LATENT, **FAMILIES[family], **options)
    seconds = fit_model(fitted, tier.epochs, train_size=1.0, logger=False) / tier.epochs
    types = train.obs["cell_type"]
    if cls is SCGMVAE:
        clusters = fitted.get_cluster_assignments()
    else:
        k_means = KMeans(types.nunique(), n_init=10, random_state=job.seed)
        clusters = k_means.fit_predict(fitted.get_latent_representation())
    yield {
        **split.sizes,
        "elbo": np.mean([float(fitted.get_elbo(test)) for _ in range(N_ELBO_DRAWS)]),
        "iwae": float(fitted.get_marginal_ll(test, n_mc_samples=N_IMPORTANCE_SAMPLES, n_mc_samples_per_pass=20)),
        "used": n_used_components(clusters) if cls is SCGMVAE else np.nan,
        "ari": adjusted_rand_score(types, clusters),
        "nmi": normalized_mutual_info_score(types, clusters),
        "seconds": seconds,
    }


def table(rows: pd.DataFrame, name: str, epochs: int) -> str:
    """Mean ± standard deviation over seeds on one set."""
    rows = rows[rows["set"] == name]
    of_nb = {model: rows[rows["method"] == f"{model}: nb"].set_index("seed")["iwae"] for model in MODELS}
    gains = [row.iwae - of_nb[row.method.split(": ")[0]][row.seed] for row in rows.itertuples()]
    names = sorted(METHODS, key=lambda method: list(MODELS).index(method.split(": ")[0]))
    lines = spread_table(rows.assign(gain=gains), COLUMNS, names, head="model: likelihood")
    return f"\n{heading(rows, name)}, {epochs} epochs\n\n{lines}"


def ranking(rows: pd.DataFrame) -> str:
    """Whether the negative binomial has the highest evidence, as Grønbech et al. 2020 found."""
    lines = []
    for (name, seed), r in rows.groupby(["set", "seed"]):
        for model in MODELS:
            of_model = r[r["method"].str.startswith(f"{model}: ")].sort_values("iwae", ascending=False)
            order = [method.split(": ")[1] for method in of_model["method"]]
            lines.append([name, seed, model, " > ".join(order), "yes" if order[0].startswith("nb") else "no"])
    return markdown(["set", "seed", "model", "likelihoods by IWAE", "NB first"], lines)


def report(rows: pd.DataFrame, tier: Tier) -> str:
    parts = [table(rows, name, tier.epochs) for name in tier.sets]
    return "\n".join([*parts, "\nThe published finding, that the negative binomial is best:\n", ranking(rows)])


BENCHMARK = Benchmark(
    "likelihoods", "Benchmark: count likelihoods", __doc__, TIERS, every(METHODS), run, report, split_cells, n_jobs=2
)

if __name__ == "__main__":
    BENCHMARK.main()
