"""Does the mixture learn, or does it keep its start? Objectives, covariance types and schedules, compared.

    python benchmarks/mixture.py --data DIR --standard --out mixture.md

Every (set, seed) is one split of the cells, 80% to train and 20% to score; all variants see the same one and differ in
what the table says, nothing else. Labels give the number of components, for all variants alike; the columns of ARI
against them are printed to look at and choose nothing. What chooses is the held-out log-likelihood of the test cells
(`scdgd.metrics.held_out_log_likelihood`), by its differences to the default on the same set and seed. Batches are columns
of hidden layers and are not balanced.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import scvi
import torch
from _benchmark import Benchmark, Job, every
from _fits import QUIET, built, silent
from _sets import COLUMNS_ONLY, NOT_BALANCED, TRUTH, Split, heading, split_cells
from _tables import markdown, plural, spread_table
from lightning.pytorch.callbacks import Callback
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from scdgd.inference import fisher_information, place_new_cells
from scdgd.metrics import held_out_log_likelihood, n_used_components
from scdgd.model import SCDGD, SCVAD
from scdgd.posterior import Point
from scdgd.train import LaplacePlan, RepresentationPlan

if TYPE_CHECKING:
    from collections.abc import Iterator

N_LATENT = 20
LAPLACE_EVERY = 3
#: Part of the cells that keep the number of their component where a mixture was kept; a new one numbers anew.
KEPT = 0.9


class Tier(NamedTuple):
    sets: tuple[str, ...]
    seeds: int
    epochs: int | None
    max_cells: int
    max_genes: int


TIERS = {
    "quick": Tier(("pbmc68k",), 1, 5, 300, 500),
    "standard": Tier((*TRUTH, "kang_ifnb2800", "paul15", "pbmc3k"), 2, None, 1_500, 1_000),
    "full": Tier((*TRUTH, "kang_ifnb2800", "paul15", "pbmc3k"), 5, None, 5_000, 2_000),
}


class Variant(NamedTuple):
    cls: type[SCDGD] = SCDGD
    prior_kwargs: dict = {}
    model: dict = {}
    train: dict = {}
    plan: dict = {}
    another_seed: bool = False
    plan_cls: type[RepresentationPlan] = RepresentationPlan


class LaplacePoint(Point):
    """Point estimates in the loss; the steps of the mixture see Laplace covariances, :attr:`spread`, ``(n, d, d)``."""

    spread: torch.Tensor | None = None

    def moments(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | float]:
        is_table = self.spread is not None and len(rows) == len(self.spread)
        return rows, self.spread if is_table else 0.0


class LaplaceSCDGD(SCDGD):
    _posterior_of_scale = staticmethod(lambda scale: LaplacePoint())


DEFAULT = "noise 0.6, tied_diag (default)"
CONTROL = "the same, another seed"
SOFTBALL = {"prior": "softball", "noise_scale": 0.0}
VARIANTS = {
    DEFAULT: Variant(),
    CONTROL: Variant(another_seed=True),
    **{
        f"noise 0.6, {kind}": Variant(prior_kwargs={"covariance_type": kind})
        for kind in ("diag", "spherical", "full", "tied")
    },
    "noise 0.6, tied_diag, placed once": Variant(plan={"placement_interval": None}),
    "noise 0.6, tied_diag, early": Variant(train={"mixture_start": 0}),
    "noise 0.6, tied_diag, gradient": Variant(plan={"prior_update": "gradient"}),
    "noise 0.9, tied_diag": Variant(model={"noise_scale": 0.9}),
    "SCVAD, tied_diag": Variant(SCVAD),
    **{f"SCVAD, {kind}": Variant(SCVAD, {"covariance_type": kind}) for kind in ("diag", "full", "tied")},
    "SCVAD, tied_diag, early": Variant(SCVAD, train={"mixture_start": 0}),
    "SCVAD, tied_diag, initial sd 1": Variant(SCVAD, model={"initial_scale": 1.0}),
    "SCVAD, tied_diag, gradient": Variant(SCVAD, plan={"prior_update": "gradient"}),
    "MAP, softball, k-means start": Variant(
        prior_kwargs={"initial_means": "kmeans"}, model=SOFTBALL, plan={"placement_interval": None}
    ),
    "MAP, softball, random start": Variant(model=SOFTBALL),
    "MAP, plain mixture": Variant(model={"noise_scale": 0.0}),
    "MAP, Laplace in the M-step": Variant(LaplaceSCDGD, model={"noise_scale": 0.0}),
    "MAP, Laplace term": Variant(model={"noise_scale": 0.0}, plan_cls=LaplacePlan),
}


class LaplaceSpread(Callback):
    """Gives the module its cells' Laplace covariances every few epochs, from the placement of the mixture on."""

    def __init__(self, model: LaplaceSCDGD) -> None:
        self.model = model

    def on_train_epoch_start(self, trainer, plan) -> None:
        since_start = trainer.current_epoch - plan.mixture_start
        if since_start >= 0 and since_start % LAPLACE_EVERY == 0:
            self.model.module.posterior.spread = laplace_covariances(self.model)


@torch.no_grad()
def laplace_covariances(model: SCDGD) -> torch.Tensor:
    """Inverse Fisher information, the prior's precision included, at every row of the table, ``(n, d, d)``."""
    module = model.module
    table, blocks = module.posterior.moments(module.representations.table)[0], []
    for tensors in model._make_data_loader(model.adata, batch_size=256):
        rows = tensors[scvi.REGISTRY_KEYS.INDICES_KEY].ravel().long()
        blocks.append(fisher_information(module, tensors, table[rows]).double().inverse().float())
    return torch.cat(blocks)


class Snapshot(NamedTuple):
    clusters: np.ndarray
    width: float
    posterior_sd: float
    spread: float


@torch.no_grad()
def snapshot(plan: RepresentationPlan) -> Snapshot:
    """Components of the cells, and standard deviations of components, posteriors and representations, means over d."""
    mean, var = plan.posteriors()
    prior, var = plan.module.prior, torch.as_tensor(var)
    var = var.diagonal(dim1=-2, dim2=-1) if var.ndim == 3 else var
    return Snapshot(
        prior.component_log_prob(mean).argmax(1).numpy(),
        float(prior.weights @ prior.variances.sqrt().mean(1)),
        float(var.sqrt().mean()),
        float(mean.std(0).mean()),
    )


class Recorder(Callback):
    """The mixture as it was first placed and as it ended, and how many later placements replaced it."""

    def __init__(self) -> None:
        self.start, self.before, self.end, self.n_replaced = None, None, None, 0

    def on_train_epoch_start(self, trainer, plan) -> None:
        self.before = snapshot(plan) if self.start is not None else None

    def on_train_batch_start(self, trainer, plan, batch, batch_idx) -> None:
        if batch_idx > 0 or not bool(plan.module.prior.placed):
            return
        now = snapshot(plan)
        if self.start is None:
            self.start = now
        elif np.mean(now.clusters == self.before.clusters) < KEPT:
            self.n_replaced += 1

    def on_train_end(self, trainer, plan) -> None:
        self.end, self.n_epochs = snapshot(plan), trainer.current_epoch


def build(variant: Variant, train) -> SCDGD:
    options = {"n_components": "labels", "n_latent": N_LATENT, "prior_kwargs": variant.prior_kwargs}
    model = built(variant.cls, train, setup={"labels_key": "cell_type"}, **options, **COLUMNS_ONLY | variant.model)
    model._training_plan_cls = silent(variant.plan_cls)
    return model


def run(split: Split, job: Job, tier: Tier) -> Iterator[dict]:
    variant, train, test = VARIANTS[job.method], split.train.copy(), split.test
    scvi.settings.seed = job.seed + 1_000 * variant.another_seed
    model, recorder = build(variant, train), Recorder()
    callbacks = [LaplaceSpread(model)] if variant.cls is LaplaceSCDGD else []
    quiet = {**QUIET, "callbacks": [*callbacks, recorder]}
    start, cpu_start = time.perf_counter(), time.process_time()
    model.train(tier.epochs, plan_kwargs=variant.plan, **quiet, **NOT_BALANCED | variant.train)
    seconds, cpu_seconds = time.perf_counter() - start, time.process_time() - cpu_start
    first, last = recorder.start, recorder.end
    z = model.module.posterior.moments(model.module.representations.table)[0].numpy()
    truth, k = train.obs["cell_type"], model.module.prior.n_components
    of_kmeans = KMeans(k, n_init=10, random_state=job.seed).fit_predict(z)
    yield {
        **split.sizes,
        "agreement": adjusted_rand_score(first.clusters, last.clusters),
        "n_replaced": recorder.n_replaced,
        "width": last.width,
        "width_ratio": last.width / first.width,
        "spread_ratio": last.spread / first.spread,
        "posterior_sd_start": first.posterior_sd,
        "posterior_sd": last.posterior_sd,
        "used": n_used_components(last.clusters),
        "held_out": held_out_log_likelihood(model, test).log_likelihood,
        "held_out_mode": score_at_mode(model, test),
        "ari_start": adjusted_rand_score(truth, first.clusters),
        "ari": adjusted_rand_score(truth, last.clusters),
        "ari_kmeans": adjusted_rand_score(truth, of_kmeans),
        "seconds": seconds,
        "cpu_seconds_per_epoch": cpu_seconds / recorder.n_epochs,
    }


def score_at_mode(model: SCDGD, test) -> float | None:
    """Held-out log-likelihood of SCVAD with the mode plugged in, which is what other models plug in."""
    if not isinstance(model, SCVAD):
        return None

    def place(tensors: dict) -> torch.Tensor:
        mode = place_new_cells(model.module, tensors, model.cells.new_cells)
        return torch.cat([mode, torch.zeros_like(mode)], dim=1)

    model.cells._place_minibatch = place
    model.cells.forget_placed()
    return held_out_log_likelihood(model, test).log_likelihood


COLUMNS = {
    "agreement": ("start–end agreement", 3),
    "n_replaced": ("replaced", 1),
    "width": ("width", 3),
    "width_ratio": ("width, end/start", 3),
    "spread_ratio": ("spread of z, end/start", 3),
    "posterior_sd": ("posterior sd", 3),
    "used": ("used", 1),
    "held_out": ("held-out log-lik.", 2),
    "ari_start": ("ARI at start", 3),
    "ari": ("ARI", 3),
    "ari_kmeans": ("ARI, k-means on z", 3),
    "cpu_seconds_per_epoch": ("CPU seconds per epoch", 3),
}


def table_of(rows: pd.DataFrame) -> str:
    """Mean ± standard deviation over seeds, of the mean over the sets."""
    by_seed = rows.groupby(["method", "seed"])[list(COLUMNS)].mean().reset_index()
    return spread_table(by_seed, COLUMNS, VARIANTS, head="variant", seeds=False)


def differences(rows: pd.DataFrame, column: str, reference: str) -> pd.DataFrame:
    """`column` of every variant less that of the `reference`, on the same set and seed: one column for each variant."""
    pivot = rows.pivot(index=["set", "seed"], columns="method", values=column)
    return (
        pivot.sub(pivot[reference], axis=0)
        .drop(columns=reference)
        .reindex(columns=list(VARIANTS))
        .dropna(how="all", axis=1)
    )


def paired_table(rows: pd.DataFrame, column: str, reference: str, sets: list[str]) -> str:
    """Mean difference, its standard errors over pairs and over sets, pairs won, and the mean difference of each set."""
    lines = []
    for method, pairs in differences(rows, column, reference).items():
        pairs = pairs.dropna()
        of_sets = pairs.groupby("set").mean()
        errors = [s.std() / np.sqrt(len(s)) if len(s) > 1 else float("nan") for s in (pairs, of_sets)]
        lines.append(
            [method, f"{pairs.mean():+.2f}", *(f"{e:.2f}" for e in errors), f"{(pairs > 0).sum()} of {len(pairs)}"]
            + [f"{of_sets[name]:+.2f}" if name in of_sets else "–" for name in sets]
        )
    return markdown(["variant", "difference", "SE, pairs", "SE, sets", "wins", *sets], lines)


def report(rows: pd.DataFrame, tier: Tier) -> str:
    sets, n_seeds = list(rows["set"].unique()), rows["seed"].nunique()
    at_mode = rows[rows["held_out_mode"].notna() | (rows["method"] == DEFAULT)]
    at_mode = at_mode.assign(held_out=at_mode["held_out_mode"].fillna(at_mode["held_out"]))
    text = [
        f"{plural(n_seeds, 'seed')}; each seed is a split of the cells and a "
        "start. *Start* is the moment right after the mixture is first placed (k-means and 20 steps of EM where it is "
        "fitted by EM). *Agreement* is the ARI between the components of the training cells then and at the end; "
        "*replaced* counts later placements that were likelier. *Width* is the mean standard deviation of a component, "
        "*posterior sd* that which training assumes around a representation. "
        f"`{CONTROL}` repeats the default on the same split: differences of its size are chance.",
        "\n**Mean over sets** (± standard deviation over seeds)\n",
        table_of(rows),
        "\n**Held-out log-likelihood less that of the default**, nats per cell, paired by set and seed. One standard "
        "error takes all pairs for independent, the other the sets only.\n",
        paired_table(rows, "held_out", DEFAULT, sets),
        "\n**The same for SCVAD with the mode plugged in**, as for the others; above it is the posterior mean.\n",
        paired_table(at_mode, "held_out", DEFAULT, sets),
    ]
    for family, reference in (("SCVAD", "SCVAD, tied_diag"), ("MAP", "MAP, plain mixture")):
        of_family = rows[rows["method"].str.startswith(family)]
        if reference in set(of_family["method"]) and of_family["method"].nunique() > 1:
            text += [
                f"\n**Among {family}: less that of {reference}**\n",
                paired_table(of_family, "held_out", reference, sets),
            ]
    for name, of_set in rows.groupby("set", sort=False):
        text += [f"\n{heading(of_set, name)}\n", table_of(of_set)]
    return "\n".join(text)


BENCHMARK = Benchmark("mixture", "The mixture", __doc__, TIERS, every(VARIANTS), run, report, split_cells, n_jobs=2)

if __name__ == "__main__":
    BENCHMARK.main()
