"""Whether the bound of a VampPrior mixture should reach the encoder through pseudo-inputs, which the papers leave open.

    python benchmarks/pseudo_input_gradient.py                                          # quick, on the packaged cells
    python benchmarks/pseudo_input_gradient.py --data DIR --standard --out docs/benchmarks_pseudo_input_gradient.md

`SCVMM` trains its prior by empirical Bayes; components stand where the encoder puts pseudo-inputs. In the bound, gradients may
stop there (*stopped*, the default here), or pass on into the encoder (*passed*, `encoder_learns_from_prior=True`; the released code
of Stirn & Knowles 2024, and their eq. 11 read literally). Both forms start as our defaults do, at clusters, or as published, at random
cells with the rates of the preset. Four fifths of at most 1,000 cells with 500 variable genes train, 40 epochs, 20 latent dimensions, two seeds.

- Evidence: mean log p(x) of test cells by importance sampling (100 draws), in nats; held out: the predictive log-likelihood of half of
  the counts of test cells given the other half. Neither needs labels, and by them the forms are to be compared.
- Clusters: components with 1% of the cells; ARI: agreement with types.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import pandas as pd
import scvi
from _ledger import Ledger, markdown, mean_sd
from _sets import load, most_variable, train_test_split
from _tiers import one_quiet_thread, tier_and_ledger, tier_parser, write_page
from sklearn.metrics import adjusted_rand_score

from scdgd.metrics import held_out_log_likelihood, n_used_components
from scdgd.model import SCVMM
from scdgd.presets import STIRN_2024


class Tier(NamedTuple):
    sets: tuple[str, ...]
    seeds: int
    n_cells: int
    n_genes: int
    epochs: int


TIERS = {
    "quick": Tier(("pbmc68k",), 1, 80, 60, 2),
    "standard": Tier(("zheng_facs", "paul15"), 2, 1_000, 500, 40),
}
_OPTIONS = {"n_latent": 20, "gene_likelihood": "nb"}
_PUBLISHED = STIRN_2024["pbmc"]
#: Arguments of the model and of the plan, by start.
STARTS = {
    "at clusters": ({}, {}),
    "as published": (
        {name: _PUBLISHED["model"][name] for name in ("prior_kwargs", "batch_norm_decay")},
        _PUBLISHED["train"]["plan_kwargs"] | {"lr": 1e-3},
    ),
}
GRADIENTS = {"stopped": False, "passed": True}
SCORES = {"evidence": 1, "held_out": 1, "clusters": 1, "ari": 3}


def run(name: str, seed: int, start: str, gradient: str, tier: Tier, data: Path | None) -> dict:
    adata = most_variable(load(name, data, tier.n_cells, seed), tier.n_genes)
    train, test = train_test_split(adata, seed)
    scvi.settings.seed = seed
    SCVMM.setup_anndata(train)
    model_kwargs, plan_kwargs = STARTS[start]
    model = SCVMM(train, n_components=min(100, train.n_obs // 4), **_OPTIONS | model_kwargs)
    plan_kwargs = plan_kwargs | {"encoder_learns_from_prior": GRADIENTS[gradient]}
    quiet = {"accelerator": "cpu", "enable_progress_bar": False}
    model.train(tier.epochs, train_size=1.0, plan_kwargs=plan_kwargs, **quiet)
    clusters = model.get_cluster_assignments()
    return {
        "evidence": model.get_marginal_ll(test, n_mc_samples=100, n_mc_samples_per_pass=10),
        "held_out": held_out_log_likelihood(model, test, form="predictive", n_samples=50).log_likelihood,
        "clusters": n_used_components(clusters),
        "ari": adjusted_rand_score(train.obs["cell_type"], clusters),
    }


def table(rows: pd.DataFrame, sets: tuple[str, ...]) -> str:
    lines = []
    for name in sets:
        for start in STARTS:
            for gradient in GRADIENTS:
                some = rows[(rows["set"] == name) & (rows["method"] == f"{start}, {gradient}")]
                lines.append([name, start, gradient, *(mean_sd(some[key], n) for key, n in SCORES.items())])
            pair = [
                rows[(rows["set"] == name) & (rows["method"] == f"{start}, {g}")].set_index("seed") for g in GRADIENTS
            ]
            gain = pair[1][list(SCORES)] - pair[0][list(SCORES)]
            lines.append([name, start, "passed − stopped", *(mean_sd(gain[key], n) for key, n in SCORES.items())])
    return markdown(["set", "start", "gradient", "evidence", "held out", "clusters", "ARI"], lines)


def fill(ledger: Ledger, tier: Tier, data: Path | None) -> None:
    for seed in range(tier.seeds):
        for name in tier.sets:
            for start in STARTS:
                for gradient in GRADIENTS:
                    key = {"set": name, "seed": seed, "method": f"{start}, {gradient}"}
                    if not ledger.has(**key):
                        ledger.add(key | run(name, seed, start, gradient, tier, data))


def main() -> None:
    args, ledger = tier_and_ledger(tier_parser(__doc__.split("\n\n", 1)[0], TIERS), TIERS, "pseudo_input_gradient")
    one_quiet_thread()
    tier = TIERS[args.tier]
    fill(ledger, tier, args.data)
    text = table(ledger.read(), tier.sets)
    write_page(args.out, "Gradient through pseudo-inputs", "pseudo_input_gradient", __doc__, args.tier, text)


if __name__ == "__main__":
    main()
