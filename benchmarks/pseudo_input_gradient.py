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

from itertools import product
from typing import TYPE_CHECKING, NamedTuple

from _benchmark import Benchmark, Job, every
from _fits import fit_model
from _sets import Split, load, most_variable, train_test_split
from _tables import markdown, mean_sd
from sklearn.metrics import adjusted_rand_score

from scdgd.metrics import held_out_log_likelihood, n_used_components
from scdgd.model import SCVMM
from scdgd.presets import STIRN_2024

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import pandas as pd


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


METHODS = {f"{start}, {gradient}": (start, gradient) for start, gradient in product(STARTS, GRADIENTS)}


def cells(name: str, seed: int, tier: Tier, data: Path | None) -> Split:
    return train_test_split(most_variable(load(name, data, tier.n_cells, seed), tier.n_genes), seed)


def run(split: Split, job: Job, tier: Tier) -> Iterator[dict]:
    start, gradient = METHODS[job.method]
    train, test = split.train.copy(), split.test
    model_kwargs, plan_kwargs = STARTS[start]
    training = {"train_size": 1.0, "plan_kwargs": plan_kwargs | {"encoder_learns_from_prior": GRADIENTS[gradient]}}
    options = {"n_components": min(100, train.n_obs // 4)} | _OPTIONS | model_kwargs
    SCVMM.setup_anndata(train)
    model = SCVMM(train, **options)
    fit_model(model, tier.epochs, **training)
    clusters = model.get_cluster_assignments()
    yield {
        "evidence": float(model.get_marginal_ll(test, n_mc_samples=100, n_mc_samples_per_pass=10)),
        "held_out": held_out_log_likelihood(model, test, form="predictive", n_samples=50).log_likelihood,
        "clusters": n_used_components(clusters),
        "ari": adjusted_rand_score(train.obs["cell_type"], clusters),
    }


def report(rows: pd.DataFrame, tier: Tier) -> str:
    """Both gradients from each start, and their difference."""
    lines = []
    for name, start in product(tier.sets, STARTS):
        of_set = rows[rows["set"] == name].set_index("seed")
        pair = {g: of_set.loc[of_set["method"] == f"{start}, {g}", list(SCORES)] for g in GRADIENTS}
        pair["passed − stopped"] = pair["passed"] - pair["stopped"]
        for gradient, some in pair.items():
            lines.append([name, start, gradient, *(mean_sd(some[key], n) for key, n in SCORES.items())])
    return markdown(["set", "start", "gradient", "evidence", "held out", "clusters", "ARI"], lines)


BENCHMARK = Benchmark(
    "pseudo_input_gradient", "Gradient through pseudo-inputs", __doc__, TIERS, every(METHODS), run, report, cells
)

if __name__ == "__main__":
    BENCHMARK.main()
