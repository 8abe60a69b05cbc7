"""Time of differential expression and of markers, as a multiple of stock scVI's.

    python benchmarks/differential_expression.py --standard --out docs/benchmarks_differential_expression.md

Every model compares each group of simulated cells with the rest, and stock scVI takes its turn before each of them, in one run.
Seconds are those of the processor. *First* is a model that has not been asked before: SCDGD finds posteriors, which it keeps;
*again* is the same call once more. Importance weights are taken on few cells, for every pair of them counts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import scanpy as sc
import scvi
from _ledger import markdown
from _tiers import cpu_seconds, one_quiet_thread, page_parser, write_page

import scdgd

if TYPE_CHECKING:
    from anndata import AnnData

OURS = {
    "SCDGD": (scdgd.model.SCDGD, {"n_components": 10}),
    "SCVAD": (scdgd.model.SCVAD, {"n_components": 10}),
    "FlexSCVI": (scdgd.model.FlexSCVI, {"n_components": 10}),
    "SCIAF": (scdgd.model.SCIAF, {}),
    "SCGMVAE": (scdgd.model.SCGMVAE, {}),
    "SCDBM": (scdgd.model.SCDBM, {}),
}
MODES = {
    "vanilla": {"mode": "vanilla"},
    "change": {"mode": "change"},
    "change, batches": {"mode": "change", "batch_correction": True},
}
IMPORTANCE = {"importance": {"mode": "change", "weights": "importance"}}
WITHOUT_WEIGHTS = ("SCDBM",)
# so that few cells still make groups that stock scVI can compare
THREE_TYPES = dict.fromkeys(("CD19+ B", "CD34+", "CD56+ NK"), 1.0)


class Tier(NamedTuple):
    cells: int
    genes: int
    weighted: tuple[int, int]
    """Cells and genes for importance weights."""
    epochs: int
    types: dict[str, float] | None = None
    """Their proportions; ``None``: ten types of blood cells."""
    left_out: tuple[str, ...] = ()
    """Models that are not compared."""


TIERS = {
    "quick": Tier(120, 60, (60, 20), 3, THREE_TYPES, ("SCVAD", "SCIAF", "SCGMVAE")),
    "standard": Tier(1_200, 2_000, (100, 20), 10),
}


def trained(model_class: type, adata: AnnData, options: dict, epochs: int) -> scvi.model.base.BaseModelClass:
    adata = adata.copy()
    model_class.setup_anndata(adata)
    scvi.settings.seed = 0
    model = model_class(adata, **options)
    model.train(epochs, accelerator="cpu", enable_progress_bar=False)
    return model


def seconds_of_comparison(model: scvi.model.base.BaseModelClass, how: dict) -> float:
    """Seconds that every group against the rest takes."""
    return cpu_seconds(lambda: model.differential_expression(groupby="cell_type", silent=True, **how))


def table(adata: AnnData, epochs: int, modes: dict[str, dict], left_out: tuple[str, ...] = ()) -> str:
    """Ratios to stock scVI's seconds, for each model and mode."""
    stock, lines = trained(scvi.model.SCVI, adata, {"gene_likelihood": "nb"}, epochs), []
    for name, (model_class, options) in OURS.items():
        if name in left_out:
            continue
        for mode, how in modes.items():
            model = trained(model_class, adata, options, epochs)
            of_stock, first, again = (seconds_of_comparison(asked, how) for asked in (stock, model, model))
            lines.append([name, mode, f"{of_stock:.1f}", *(f"{s:.1f} ({s / of_stock:.2f})" for s in (first, again))])
            print(*lines[-1], flush=True)
    return markdown(["model", "mode", "stock scVI, s", "first, s (ratio)", "again, s (ratio)"], lines)


def markers(adata: AnnData, epochs: int) -> str:
    """Seconds of ten clusters against the rest, stock scVI's, and genes among the best 20 that Wilcoxon's test has, too."""
    model = trained(scdgd.model.SCDGD, adata, {"n_components": 10}, epochs)
    stock, logs, ours = trained(scvi.model.SCVI, adata, {"gene_likelihood": "nb"}, epochs), adata.copy(), model.adata
    times = [cpu_seconds(lambda: scdgd.tl.rank_component_genes(model)) for _ in range(2)]
    stock.adata.obs["cell_type"] = ours.obs["scdgd_cluster"].to_numpy()
    lines = []
    for mode in ("vanilla", "change"):
        of_stock = seconds_of_comparison(stock, {"mode": mode})
        lines.append([mode, f"{of_stock:.1f}", *(f"{s:.2f} ({s / of_stock:.2f})" for s in times)])
    sc.pp.normalize_total(logs)
    sc.pp.log1p(logs)
    scdgd.tl.rank_component_genes(model, groupby="cell_type")
    sc.tl.rank_genes_groups(logs, "cell_type", method="wilcoxon")
    best = [
        {group: set(sc.get.rank_genes_groups_df(one, group)["names"][:20]) for group in one.obs["cell_type"].unique()}
        for one in (ours, logs)
    ]
    shared = [len(best[0][group] & best[1][group]) / 20 for group in best[0]]
    text = markdown(["stock scVI's mode", "stock scVI, s", "markers, first, s (ratio)", "again, s (ratio)"], lines)
    return f"{text}\n\nBest 20 shared with Wilcoxon: {sum(shared) / len(shared):.2f} in the mean, {min(shared):.2f} at least."


def main() -> None:
    args = page_parser(__doc__, TIERS).parse_args()
    one_quiet_thread()
    tier = TIERS[args.tier]
    cells = scdgd.datasets.simulate(tier.cells, tier.genes, type_proportions=tier.types, seed=0)
    few_cells = scdgd.datasets.simulate(*tier.weighted, type_proportions=THREE_TYPES, seed=0)
    without_weights = (*tier.left_out, *WITHOUT_WEIGHTS)
    text = [table(cells, tier.epochs, MODES, tier.left_out), table(few_cells, tier.epochs, IMPORTANCE, without_weights)]
    text.append(markers(cells, tier.epochs))
    page = "differential_expression"
    write_page(args.out, "Differential expression", page, __doc__, args.tier, "\n\n".join(text))


if __name__ == "__main__":
    main()
