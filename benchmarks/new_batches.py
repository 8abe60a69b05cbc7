"""Cells of a batch that the model has not seen: likelihood and label transfer, against a model that saw it, and scArches.

    python benchmarks/new_batches.py --data DIR --standard --out docs/benchmarks_new_batches.md

Each batch of a set is left out in turn. A random half of its cells are queries. The *reference* trains on all cells of the
other batches, the model of *all batches* on these and on the half of the batch that are no queries; the latter is what a
model can do that has seen the batch. SCDGD places queries with the reference frozen, as cells of a new batch, or as cells
of the known batch under which their counts are likeliest (*as a known batch*). scVI with surgery (scArches) trains the
weights of the new batch on the queries, with the arguments that its authors recommend; training on queries alone is what
it is made for.

Held-out log-likelihood: from one half of the counts of a query to the other (`scdgd.metrics.held_out_log_likelihood`);
surgery, too, sees one half only. Label transfer: share of queries whose label most of the 15 nearest cells of the
other batches have. Labels take no part in training. Seconds: of one core, to embed the queries, after the reference.
SCDGD has 20 components, each a cluster.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import scvi
from _ledger import Ledger, markdown, mean_sd
from _sets import NOT_MERGED, load_batches
from _tiers import one_quiet_thread, run_jobs, tier_and_ledger, tier_parser, write_page
from sklearn.neighbors import KNeighborsClassifier

from scdgd.metrics import held_out_log_likelihood, split_counts
from scdgd.model import SCDGD

if TYPE_CHECKING:
    from anndata import AnnData

N_LATENT, N_NEIGHBORS = 20, 15
NEW, KNOWN, SEEN = "SCDGD, new batch", "SCDGD, as a known batch", "SCDGD, all batches"
SURGERY, SCVI_SEEN = "scVI, surgery", "scVI, all batches"
METHODS = (NEW, KNOWN, SEEN, SURGERY, SCVI_SEEN)
#: What scArches' authors recommend for references.
SCARCHES = {"use_layer_norm": "both", "use_batch_norm": "none", "encode_covariates": True, "n_layers": 2}


class Tier(NamedTuple):
    sets: tuple[str, ...]
    seeds: int
    max_batches: int | None
    """Batches that are left out, the first ones."""
    max_cells: int | None
    max_genes: int
    epochs: int | None
    scvi_epochs: int
    surgery_epochs: int


SETS = ("kang_ifnb2800", "pbmc_3tech", "simulated_by_type")
TIERS = {
    "quick": Tier(("simulated_by_type",), 1, 1, 300, 200, 4, 2, 2),
    "standard": Tier(SETS, 2, None, 2_000, 1_000, None, 200, 100),
    "full": Tier(SETS, 3, None, None, 2_000, None, 400, 200),
}


class Split(NamedTuple):
    reference: AnnData
    """Cells of the other batches."""
    everything: AnnData
    """The same, first, and the half of the batch that are no queries."""
    query: AnnData


def split(adata: AnnData, batch: str, seed: int) -> Split:
    rng = np.random.default_rng(seed)
    is_other = (adata.obs["batch"] != batch).to_numpy()
    inside = rng.permutation(np.flatnonzero(~is_other))
    cut = len(inside) // 2
    outside = np.flatnonzero(is_other)
    seen = np.asarray(adata.X[outside].sum(axis=0)).ravel() > 0
    adata = adata[:, seen]
    enough = lambda part: part[np.asarray(part.X.sum(axis=1)).ravel() > 1].copy()
    return Split(
        adata[outside].copy(),
        adata[np.concatenate([outside, inside[:cut]])].copy(),
        enough(adata[np.sort(inside[cut:])]),
    )


# ---------------------------------------------------------------- SCDGD


def trained_scdgd(cells: AnnData, tier: Tier) -> SCDGD:
    SCDGD.setup_anndata(cells, batch_key="batch")
    model = SCDGD(cells, n_latent=N_LATENT, **NOT_MERGED)
    model.train(tier.epochs, accelerator="cpu", enable_progress_bar=False)
    return model


def as_known_batch(model: SCDGD, query: AnnData) -> AnnData:
    """Queries under the name of the batch that suits them best, chosen by the half of counts that no score is of."""
    half, fit = split_counts(query)[0], {}
    for batch in model.adata.obs["batch"].unique():
        half.obs["batch"] = batch
        fit[batch] = held_out_log_likelihood(model, half.copy(), seed=1).log_likelihood
    renamed = query.copy()
    renamed.obs["batch"] = max(fit, key=fit.get)
    return renamed


def transfer(z: np.ndarray, z_query: np.ndarray, reference: AnnData, query: AnnData) -> float:
    """Share of queries whose label their nearest reference cells tell; `z` begins with those of the reference."""
    classifier = KNeighborsClassifier(N_NEIGHBORS).fit(z[: reference.n_obs], reference.obs["cell_type"].astype(str))
    return float((classifier.predict(z_query) == query.obs["cell_type"].astype(str)).mean())


def scores_of(model: Any, query: AnnData, cells: Split) -> dict:
    """Scores of a model that embeds queries by itself."""
    start = time.process_time()
    z_query = model.get_latent_representation(query)
    seconds = time.process_time() - start
    return {
        "held_out": held_out_log_likelihood(model, query).log_likelihood,
        "transfer": transfer(model.get_latent_representation(), z_query, cells.reference, query),
        "seconds": seconds,
    }


def of_scdgd(cells: Split, tier: Tier, seed: int, methods: list[str]) -> dict[str, dict]:
    found = {}
    if {NEW, KNOWN} & set(methods):
        scvi.settings.seed = seed
        reference = trained_scdgd(cells.reference.copy(), tier)
        found[KNOWN] = scores_of(reference, as_known_batch(reference, cells.query), cells)
        try:
            found[NEW] = scores_of(reference, cells.query.copy(), cells)
        except ValueError as error:  # a version that only knows the batches of its training cells
            found[NEW] = {"failure": str(error).splitlines()[0][:100]}
    if SEEN in methods:
        scvi.settings.seed = seed
        found[SEEN] = scores_of(trained_scdgd(cells.everything.copy(), tier), cells.query.copy(), cells)
    return found


# ---------------------------------------------------------------- scVI


def trained_scvi(cells: AnnData, tier: Tier) -> scvi.model.SCVI:
    scvi.model.SCVI.setup_anndata(cells, batch_key="batch")
    model = scvi.model.SCVI(cells, n_latent=N_LATENT, gene_likelihood="nb", **SCARCHES)
    model.train(tier.scvi_epochs, accelerator="cpu", enable_progress_bar=False, train_size=1.0)
    return model


def surgery(reference: scvi.model.SCVI, query: AnnData, tier: Tier) -> scvi.model.SCVI:
    query = query.copy()
    scvi.model.SCVI.prepare_query_anndata(query, reference)
    model = scvi.model.SCVI.load_query_data(query, reference, accelerator="cpu")
    options = {"train_size": 1.0, "plan_kwargs": {"weight_decay": 0.0}, "enable_progress_bar": False}
    model.train(tier.surgery_epochs, accelerator="cpu", **options)
    return model


def of_scvi(cells: Split, tier: Tier, seed: int, methods: list[str]) -> dict[str, dict]:
    found = {}
    if SURGERY in methods:
        scvi.settings.seed = seed
        reference = trained_scvi(cells.reference.copy(), tier)
        start = time.process_time()
        z_query = surgery(reference, cells.query, tier).get_latent_representation()
        seconds = time.process_time() - start
        on_half = surgery(reference, split_counts(cells.query)[0], tier)  # the half that the score infers from
        found[SURGERY] = {
            "held_out": held_out_log_likelihood(on_half, cells.query.copy()).log_likelihood,
            "transfer": transfer(reference.get_latent_representation(), z_query, cells.reference, cells.query),
            "seconds": seconds,
        }
    if SCVI_SEEN in methods:
        scvi.settings.seed = seed
        found[SCVI_SEEN] = scores_of(trained_scvi(cells.everything.copy(), tier), cells.query.copy(), cells)
    return found


# ---------------------------------------------------------------- runs and page


def jobs_of(tier: Tier, data) -> list[tuple[str, str, int]]:
    """Sets, left-out batches and seeds."""
    jobs = []
    for name in tier.sets:
        batches = load_batches(name, data, tier.max_cells, tier.max_genes).obs["batch"].cat.categories
        jobs += [(name, batch, seed) for seed in range(tier.seeds) for batch in batches[: tier.max_batches]]
    return sorted(jobs, key=lambda job: job[2])


def unfinished(rows: pd.DataFrame, name: str, batch: str, seed: int) -> list[str]:
    if rows.empty:
        return list(METHODS)
    of_split = rows[(rows["set"] == name) & (rows["left_out"].astype(str) == batch) & (rows["seed"] == seed)]
    return [m for m in METHODS if m not in set(of_split.loc[of_split["failure"].isna(), "method"])]


def run(job: tuple) -> None:
    """All methods on one split; finished ones are skipped, failed ones tried again."""
    name, batch, seed, data, tier, path = job
    one_quiet_thread()
    ledger = Ledger(path)
    todo = unfinished(ledger.read(), name, batch, seed)
    if not todo:
        return
    cells = split(load_batches(name, data, tier.max_cells, tier.max_genes, seed), batch, seed)
    sizes = {"cells": cells.reference.n_obs, "queries": cells.query.n_obs, "genes": cells.query.n_vars}
    nothing = dict.fromkeys(("held_out", "transfer", "seconds", "failure"))
    for of_family in (of_scdgd, of_scvi):
        for method, scores in of_family(cells, tier, seed, todo).items():
            if method in todo:
                row = {"set": name, "left_out": batch, "seed": seed, "method": method, **sizes, **nothing, **scores}
                ledger.add(row)
                shown = row["failure"] or f"held-out {row['held_out']:.2f}, transfer {row['transfer']:.3f}"
                print(f"{name} without {batch}, seed {seed}, {method}: {shown}", flush=True)


COLUMNS = {"held_out": ("held-out log-lik.", 2), "transfer": ("label transfer", 3), "seconds": ("seconds", 1)}


def set_table(rows: pd.DataFrame) -> str:
    """Means over left-out batches, and their spread over seeds."""
    lines = []
    for method in METHODS:
        of_method = rows[(rows["method"] == method) & rows["held_out"].notna()]
        if len(of_method):
            by_seed = of_method.groupby("seed")[list(COLUMNS)].mean()
            lines.append([method, *(mean_sd(by_seed[c], d) for c, (_, d) in COLUMNS.items()), len(of_method)])
    return markdown(["method", *(text for text, _ in COLUMNS.values()), "runs"], lines)


def bars(rows: pd.DataFrame) -> str:
    """Aims that were set before the runs: a new batch against the same method when it has seen the batch."""
    lines = []
    for name, of_set in rows.groupby("set", sort=False):
        for column, aim in (("held_out", "log-likelihood within 2%"), ("transfer", "label transfer within 0.02")):
            pivot = of_set.pivot(index=["left_out", "seed"], columns="method", values=column)
            for method, seen in ((NEW, SEEN), (KNOWN, SEEN), (SURGERY, SCVI_SEEN)):
                pairs = pivot[[method, seen]].dropna() if {method, seen} <= set(pivot) else []
                if len(pairs) == 0:
                    lines.append([name, aim, method, "–", "not run"])
                    continue
                loss = (pairs[seen] - pairs[method]).mean()
                if column == "held_out":
                    loss /= abs(pairs[seen].mean())
                shown = f"{100 * loss:.2f}%" if column == "held_out" else f"{loss:.3f}"
                met = "met" if loss <= 0.02 else "missed"
                lines.append([name, aim, method, shown, met])
    return markdown(["set", "aim", "method", "lost against all batches", ""], lines)


def report(rows: pd.DataFrame, tier_name: str, tier: Tier) -> str:
    failures = rows[rows["failure"].notna()]
    text = [
        f"Tier `{tier_name}`: at most {tier.max_cells or 'all'} cells and {tier.max_genes:,} genes of a set; {tier.seeds} "
        f"seed{'s' if tier.seeds > 1 else ''}; scVI with {tier.scvi_epochs} epochs and {tier.surgery_epochs} of surgery.",
        "\n## Aims\n\nDecided before the runs, for SCDGD with a new batch; others for comparison.\n",
        bars(rows),
    ]
    for name in (name for name in tier.sets if name in set(rows["set"])):
        of_set = rows[rows["set"] == name]
        left_out = ", ".join(of_set["left_out"].astype(str).unique())
        text += [f"\n## {name}\n\nMeans over left-out batches ({left_out}), ± standard deviation over seeds.\n"]
        text.append(set_table(of_set))
    if len(failures):
        text += ["\n## Failures\n", *(f"- {m}: {f}" for (m, f), _ in failures.groupby(["method", "failure"]))]
    return "\n".join(text) + "\n"


def main() -> None:
    parser = tier_parser(__doc__, TIERS)
    parser.add_argument("--jobs", type=int, default=2, help="processes, one thread each")
    args, ledger = tier_and_ledger(parser, TIERS, "new_batches")
    tier = TIERS[args.tier]
    run_jobs(run, [(*job, args.data, tier, ledger.path) for job in jobs_of(tier, args.data)], args.jobs)
    rows = ledger.read().drop_duplicates(["set", "left_out", "seed", "method"], keep="last")
    text = report(rows, args.tier, tier)
    write_page(args.out, "New batches", "new_batches", __doc__, args.tier, text)


if __name__ == "__main__":
    main()
