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

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import scvi
from _benchmark import Benchmark, Job, every, timed
from _fits import fit_model, trained, transfer_accuracy
from _sets import NOT_MERGED, load_batches
from _tables import markdown, plural, spread_table

from scdgd.metrics import held_out_log_likelihood, split_counts
from scdgd.model import SCDGD

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pandas as pd
    from anndata import AnnData

N_LATENT = 20
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
    """Cells where a batch is left out."""

    left_out: str
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
        batch,
        adata[outside].copy(),
        adata[np.concatenate([outside, inside[:cut]])].copy(),
        enough(adata[np.sort(inside[cut:])]),
    )


# ---------------------------------------------------------------- SCDGD


def trained_scdgd(cells: AnnData, tier: Tier) -> SCDGD:
    return trained(SCDGD, cells, tier.epochs, n_latent=N_LATENT, **NOT_MERGED)


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
    """`z` begins with the reference."""
    labels, truth = (part.obs["cell_type"].astype(str).to_numpy() for part in (reference, query))
    return transfer_accuracy(z[: reference.n_obs], labels, z_query, truth)


def scores_of(model: Any, query: AnnData, cells: Split) -> dict:
    """Scores of a model that embeds queries by itself."""
    z_query, seconds = timed(lambda: model.get_latent_representation(query))
    return {
        "held_out": held_out_log_likelihood(model, query).log_likelihood,
        "transfer": transfer(model.get_latent_representation(), z_query, cells.reference, query),
        "seconds": seconds,
    }


def of_reference(cells: Split, tier: Tier) -> dict[str, dict]:
    reference = trained_scdgd(cells.reference.copy(), tier)
    return {
        KNOWN: scores_of(reference, as_known_batch(reference, cells.query), cells),
        NEW: scores_of(reference, cells.query.copy(), cells),
    }


# ---------------------------------------------------------------- scVI


def trained_scvi(cells: AnnData, tier: Tier) -> scvi.model.SCVI:
    options = {"n_latent": N_LATENT, "gene_likelihood": "nb", **SCARCHES}
    return trained(scvi.model.SCVI, cells, tier.scvi_epochs, {"train_size": 1.0}, **options)


def surgery(reference: scvi.model.SCVI, query: AnnData, tier: Tier) -> scvi.model.SCVI:
    query = query.copy()
    scvi.model.SCVI.prepare_query_anndata(query, reference)
    model = scvi.model.SCVI.load_query_data(query, reference, accelerator="cpu")
    fit_model(model, tier.surgery_epochs, train_size=1.0, plan_kwargs={"weight_decay": 0.0})
    return model


def of_surgery(cells: Split, tier: Tier) -> dict:
    reference = trained_scvi(cells.reference.copy(), tier)
    z_query, seconds = timed(lambda: surgery(reference, cells.query, tier).get_latent_representation())
    on_half = surgery(reference, split_counts(cells.query)[0], tier)  # the half that the score infers from
    return {
        "held_out": held_out_log_likelihood(on_half, cells.query.copy()).log_likelihood,
        "transfer": transfer(reference.get_latent_representation(), z_query, cells.reference, cells.query),
        "seconds": seconds,
    }


# ---------------------------------------------------------------- runs and page

#: Rows by method, of each run.
RUNS = {
    "SCDGD, reference": of_reference,
    SEEN: lambda cells, tier: {
        SEEN: scores_of(trained_scdgd(cells.everything.copy(), tier), cells.query.copy(), cells)
    },
    SURGERY: lambda cells, tier: {SURGERY: of_surgery(cells, tier)},
    SCVI_SEEN: lambda cells, tier: {
        SCVI_SEEN: scores_of(trained_scvi(cells.everything.copy(), tier), cells.query.copy(), cells)
    },
}


def cells(name: str, seed: int, tier: Tier, data: Path | None) -> list[Split]:
    adata = load_batches(name, data, tier.max_cells, tier.max_genes, seed)
    return [split(adata, batch, seed) for batch in adata.obs["batch"].cat.categories[: tier.max_batches]]


def run(splits: list[Split], job: Job, tier: Tier) -> Iterator[dict]:
    """Without each batch in turn."""
    for cells in splits:
        scvi.settings.seed = job.seed
        sizes = {"cells": cells.reference.n_obs, "queries": cells.query.n_obs, "genes": cells.query.n_vars}
        for method, scores in RUNS[job.method](cells, tier).items():
            yield {"method": method, "left_out": cells.left_out, **sizes, **scores}


COLUMNS = {"held_out": ("held-out log-lik.", 2), "transfer": ("label transfer", 3), "seconds": ("seconds", 1)}


def bars(rows: pd.DataFrame) -> str:
    """Aims that were set before the runs: a new batch against the same method when it has seen the batch."""
    lines = []
    for name, of_set in rows.groupby("set", sort=False):
        for column, aim in (("held_out", "log-likelihood within 2%"), ("transfer", "label transfer within 0.02")):
            pivot = of_set.pivot(index=["left_out", "seed"], columns="method", values=column)
            for method, seen in ((NEW, SEEN), (KNOWN, SEEN), (SURGERY, SCVI_SEEN)):
                pairs = pivot[[method, seen]].dropna()
                loss = (pairs[seen] - pairs[method]).mean()
                if column == "held_out":
                    loss /= abs(pairs[seen].mean())
                shown = f"{100 * loss:.2f}%" if column == "held_out" else f"{loss:.3f}"
                met = "met" if loss <= 0.02 else "missed"
                lines.append([name, aim, method, shown, met])
    return markdown(["set", "aim", "method", "lost against all batches", ""], lines)


def report(rows: pd.DataFrame, tier: Tier) -> str:
    text = [
        f"At most {tier.max_cells or 'all'} cells and {tier.max_genes:,} genes of a set; {plural(tier.seeds, 'seed')}; "
        f"scVI with {tier.scvi_epochs} epochs and {tier.surgery_epochs} of surgery.",
        "\n## Aims\n\nDecided before the runs, for SCDGD with a new batch; others for comparison.\n",
        bars(rows),
    ]
    for name, of_set in rows.groupby("set", sort=False):
        left_out = ", ".join(of_set["left_out"].astype(str).unique())
        by_seed = of_set.groupby(["method", "seed"])[list(COLUMNS)].mean().reset_index()
        text += [f"\n## {name}\n\nMeans over left-out batches ({left_out}), ± standard deviation over seeds.\n"]
        text.append(spread_table(by_seed, COLUMNS, METHODS))
    return "\n".join(text)


BENCHMARK = Benchmark("new_batches", "New batches", __doc__, TIERS, every(RUNS), run, report, cells, n_jobs=2)

if __name__ == "__main__":
    BENCHMARK.main()
