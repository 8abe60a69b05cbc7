"""Mapping onto a reference: panels of genes, labels for some cells, and types that the reference lacks.

    python benchmarks/mapping.py --data DIR --standard --out docs/benchmarks_mapping.md

*Panels.* A reference trains on 80% of the cells and all genes; the other cells are mapped with all genes, with genes drawn
at random, or with the most variable ones. *Transfer* is the share of queries whose label most of the 15 nearest reference
cells have. *Imputed* is the correlation over cells of the expected shares of genes that the query lacks with the counts of
these genes that were held back, log-normalised by the total of the whole cell, mean over genes with counts in at least 2% of
the queries. scVI gets zeros for genes that are not there, as scvi-tools' `prepare_query_anndata` pads them; SCDGD and FlexSCVI
leave them out of the likelihood. scVI and FlexSCVI train for the same number of epochs. Seconds are of one core, to embed the
queries.

*Labels.* A share of the cells, one of each type at least, has its label; all cells train; scores are of the others.
*Components* is SCDGD with `supervision="components"`, `n_components="labels"` and `predict`; *nearest cells* are the 15 nearest
labelled ones, fewer if there are fewer, weighted by inverse distance, in the space of a model without labels, of which
*transfer_labels* is `scdgd.tl.transfer_labels`. scANVI starts from scVI and trains for scvi-tools' default number of
epochs. *F1* is the mean over types. *ECE* is the expected calibration error of the probability of the predicted label, ten bins.

*Unknown.* One type (each seed another one) is hidden. *From the labels*: its cells are in the reference, and none of them has a
label; 20% of the others have. *From the reference*: no cell of it trains; scores are of the 20% of cells that are held out, among
which it is. AUROC is that of "unknown", for cells of the type against the others without label. Scores of SCDGD are the p-value of
`scdgd.tl.transfer_labels`, and the score of `get_novelty`; of scANVI the entropy of its probabilities. *False alarms* are the
share of the other cells that `get_novelty` calls novel at a rate of 5%, *found* that of the hidden type; with 15% of the training cells
held out, it compares with these where they are 100.

*Posteriors.* Share of the queries with all genes whose importance weights have heavy tails, with the proposals at the modes, and
with those that learn from their draws (`get_posterior`).

Labels never choose, stop or train a model but where it is said. Aims were set before the runs. The terms of the score of `get_novelty`
were chosen on hidden types of these sets, and the fit of temperatures on labels of zheng_facs, with the truth in sight.
SCDGD has 20 components, each a cluster.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd
import scvi
from _benchmark import Benchmark, Job, cpu_seconds, timed
from _fits import fit_model, trained, transfer_accuracy
from _sets import N_GENES, NOT_MERGED, Split, load, most_variable, train_test_split
from _tables import markdown, mean_sd, plural
from sklearn.metrics import f1_score, roc_auc_score
from sklearn.neighbors import KNeighborsClassifier

import scdgd
from scdgd.model import SCDGD, FlexSCVI

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from anndata import AnnData

N_LATENT, N_NEIGHBORS = 20, 15
NO_LABEL = "no label"


class Tier(NamedTuple):
    sets: tuple[str, ...]
    seeds: int
    max_cells: int | None
    max_genes: int
    panels: tuple[tuple[str, int], ...]
    shares: tuple[float, ...]
    epochs: int | None
    """Of SCDGD; ``None`` for its default."""
    encoder_epochs: int
    """Of scVI and FlexSCVI."""
    scanvi_epochs: int | None
    """Of scANVI after scVI; ``None`` for scvi-tools' default."""


SETS = ("zheng_facs", "kang_ifnb2800", "pbmc_3tech")
RANDOM, VARIABLE = "random", "most variable"
ALL_GENES = ("all", 0)
TIERS = {
    "quick": Tier(("simulated",), 1, 300, 200, ((RANDOM, 60),), (0.2,), 4, 2, 2),
    "standard": Tier(
        SETS, 3, 1_200, 1_000, ((RANDOM, 500), (RANDOM, 100), (VARIABLE, 50)), (0.01, 0.05, 0.2), None, 200, None
    ),
    "full": Tier(
        SETS, 3, None, 2_000, ((RANDOM, 500), (RANDOM, 100), (VARIABLE, 50)), (0.01, 0.05, 0.2), None, 400, None
    ),
}


# ---------------------------------------------------------------- panels


def batch_size(cells: AnnData) -> int:
    """scvi-tools' default, or one less where a minibatch of one cell would be left, which batch norms refuse."""
    return 127 if cells.n_obs % 128 == 1 else 128


def fitted(cls: type, cells: AnnData, epochs: int | None, **options) -> Any:
    training = {} if cls is SCDGD else {"train_size": 1.0, "batch_size": batch_size(cells)}
    return trained(cls, cells, epochs, training, n_latent=N_LATENT, **(NOT_MERGED if cls is SCDGD else {}), **options)


class Mapped(NamedTuple):
    z: np.ndarray
    shares: np.ndarray
    """Expected share of every gene of the reference, ``(n, g)``."""
    seconds: float


def map_panel(model: Any, query: AnnData) -> Mapped:
    z, seconds = timed(lambda: model.get_latent_representation(query))
    return Mapped(z, model.get_normalized_expression(query, return_numpy=True), seconds)


def map_padded(model: scvi.model.SCVI, query: AnnData) -> Mapped:
    query = query.copy()
    padding = cpu_seconds(lambda: scvi.model.SCVI.prepare_query_anndata(query, model))
    mapped = map_panel(model, query)
    return mapped._replace(seconds=padding + mapped.seconds)


class PanelMethod(NamedTuple):
    train: Callable[[AnnData, Tier], Any]
    map: Callable[[Any, AnnData], Mapped]


PANEL_METHODS = {
    "SCDGD": PanelMethod(lambda cells, tier: fitted(SCDGD, cells, tier.epochs), map_panel),
    "FlexSCVI": PanelMethod(lambda cells, tier: fitted(FlexSCVI, cells, tier.encoder_epochs), map_panel),
    "scVI, padded": PanelMethod(
        lambda cells, tier: fitted(scvi.model.SCVI, cells, tier.encoder_epochs, gene_likelihood="nb"), map_padded
    ),
}


def genes_of(panel: tuple[str, int], train: AnnData, seed: int) -> np.ndarray:
    """Positions of the genes of a panel."""
    kind, n = panel
    if panel == ALL_GENES:
        return np.arange(train.n_vars)
    if kind == RANDOM:
        return np.sort(np.random.default_rng(seed).choice(train.n_vars, min(n, train.n_vars), replace=False))
    return np.flatnonzero(np.isin(train.var_names, most_variable(bare(train), n).var_names))


def bare(adata: AnnData) -> AnnData:
    """A copy without columns of genes, such as their ranks among others."""
    adata = adata.copy()
    adata.var = adata.var[[]]
    return adata


def imputed(shares: np.ndarray, query: AnnData, absent: np.ndarray) -> float:
    """Mean correlation over cells of expected shares of absent genes with their held-back counts."""
    counts = np.asarray(query.X.todense(), dtype=float)
    absent = absent[(counts[:, absent] > 0).mean(axis=0) >= 0.02]
    observed = np.log1p(1e4 * counts[:, absent] / counts.sum(axis=1, keepdims=True))
    expected = np.log1p(1e4 * shares[:, absent])
    observed, expected = observed - observed.mean(0), expected - expected.mean(0)
    norm = np.sqrt((observed**2).sum(0) * (expected**2).sum(0))
    return float(((observed * expected).sum(0) / np.maximum(norm, 1e-12)).mean())


def run_panels(method: str, cells: Cells, seed: int, tier: Tier) -> Iterator[dict]:
    train, query = cells.split
    labels, truth = train.obs["cell_type"].to_numpy(), query.obs["cell_type"].to_numpy()
    fit, mapped = PANEL_METHODS[method]
    model = fit(train.copy(), tier)
    z = model.get_latent_representation()
    for panel in (ALL_GENES, *tier.panels):
        genes = genes_of(panel, train, seed)
        part = query[:, genes].copy()
        enough = np.asarray(part.X.sum(axis=1)).ravel() > 0  # a cell without a count cannot be mapped
        found = mapped(model, part[enough].copy())
        absent = np.setdiff1d(np.arange(train.n_vars), genes)
        yield {
            "task": " ".join(map(str, panel)) if panel != ALL_GENES else "all",
            "score": transfer_accuracy(z, labels, found.z, truth[enough]) * enough.mean(),
            "second": imputed(found.shares, query[enough].copy(), absent) if len(absent) else None,
            "seconds": found.seconds,
        }
    if isinstance(model, SCDGD):
        yield from posteriors(model, query)


def posteriors(model: SCDGD, query: AnnData) -> Iterator[dict]:
    """Shares of cells with heavy-tailed weights, from one proposal and from proposals that learn."""
    model.get_latent_representation(query)  # placed before time is taken
    for rounds, method in ((0, "one proposal"), (5, "proposals that learn")):
        found, seconds = timed(lambda rounds=rounds: model.get_posterior(query, adaptive_rounds=rounds))
        score = float((found.pareto_k > 0.7).mean())
        yield {"part": "posteriors", "method": method, "task": "posterior", "score": score, "seconds": seconds}


# ---------------------------------------------------------------- labels


def hide(labels: pd.Series, share: float, seed: int, hidden: str | None = None) -> pd.Series:
    """Labels of a share of the cells, of one of each type at least, and none of a hidden type."""
    rng, kept = np.random.default_rng([seed, round(1e4 * share)]), []
    for label in labels.cat.categories:
        cells = np.flatnonzero(labels == label)
        if label != hidden and len(cells):
            kept.append(rng.choice(cells, max(1, round(share * len(cells))), replace=False))
    shown = np.full(len(labels), NO_LABEL, dtype=object)
    kept = np.concatenate(kept)
    shown[kept] = labels.to_numpy()[kept]
    return pd.Series(pd.Categorical(shown), index=labels.index)


class Predicted(NamedTuple):
    probabilities: pd.DataFrame
    """Of the classes, of all cells."""
    unknown: np.ndarray | None = None
    """How unlike all classes a cell is."""


def supervised(cells: AnnData, tier: Tier) -> SCDGD:
    setup = {"labels_key": "shown", "unlabeled_category": NO_LABEL}
    options = {"n_latent": N_LATENT, "n_components": "labels", "supervision": "components"}
    return trained(SCDGD, cells, tier.epochs, setup=setup, **options)


def scanvi(cells: AnnData, tier: Tier, base: scvi.model.SCVI | None = None) -> scvi.model.SCANVI:
    """On top of scVI, which has not seen labels."""
    base = fitted(scvi.model.SCVI, cells, tier.encoder_epochs, gene_likelihood="nb") if base is None else base
    options = {"labels_key": "shown", "unlabeled_category": NO_LABEL}
    model = scvi.model.SCANVI.from_scvi_model(base, adata=cells, **options)
    fit_model(model, tier.scanvi_epochs, train_size=1.0, batch_size=batch_size(cells))
    return model


def entropy(probabilities: np.ndarray) -> np.ndarray:
    return -(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum(axis=1)


def of_supervised(cells: AnnData, tier: Tier) -> Predicted:
    probabilities = supervised(cells, tier).predict(soft=True).drop(columns="unassigned", errors="ignore")
    return Predicted(probabilities)


def of_neighbors(model: SCDGD, cells: AnnData) -> Predicted:
    """`transfer_labels`, to cells of the model itself; `shown` is registered with no model."""
    of_cells = {"labels": cells.obs["shown"].to_numpy(), "unlabeled_category": NO_LABEL}
    found = scdgd.tl.transfer_labels(model, cells, **of_cells)
    return Predicted(scdgd.tl.transfer_labels(model, cells, soft=True, **of_cells), -found["p_value"].to_numpy())


def of_scanvi(cells: AnnData, tier: Tier, base: scvi.model.SCVI) -> Predicted:
    probabilities = scanvi(cells, tier, base).predict(soft=True).drop(columns=NO_LABEL, errors="ignore")
    return Predicted(probabilities, entropy(probabilities.to_numpy()))


def of_nearest(z: np.ndarray, shown: pd.Series) -> Predicted:
    has_label = (shown != NO_LABEL).to_numpy()
    classifier = KNeighborsClassifier(min(N_NEIGHBORS, int(has_label.sum())), weights="distance")
    classifier.fit(z[has_label], shown[has_label].astype(str))
    probabilities = pd.DataFrame(classifier.predict_proba(z), shown.index, classifier.classes_)
    return Predicted(probabilities, entropy(probabilities.to_numpy()))


COMPONENTS, NEAREST, TRANSFER = "SCDGD, components", "SCDGD, nearest cells", "SCDGD, transfer_labels"
SCANVI, NEAREST_SCVI = "scANVI", "scVI, nearest cells"


def calibration_error(probabilities: pd.DataFrame, truth: np.ndarray, n_bins: int = 10) -> float:
    """Expected calibration error: mean distance of confidence and accuracy in bins of confidence."""
    confidence = probabilities.max(axis=1).to_numpy()
    is_right = probabilities.columns.to_numpy()[probabilities.to_numpy().argmax(axis=1)] == truth
    bins = np.minimum((confidence * n_bins).astype(int), n_bins - 1)
    return float(sum(abs((is_right - confidence)[bins == b].sum()) for b in range(n_bins)) / len(truth))


class Unsupervised:
    """Models of all cells that have seen no label, each trained once."""

    def __init__(self, adata: AnnData, tier: Tier, seed: int) -> None:
        self.adata, self.tier, self.seed = adata, tier, seed

    def _trained(self, cls: type, epochs: int | None, **options) -> Any:
        scvi.settings.seed = self.seed
        return fitted(cls, self.adata.copy(), epochs, **options)

    @functools.cached_property
    def scdgd(self) -> SCDGD:
        return self._trained(SCDGD, self.tier.epochs)

    @functools.cached_property
    def scvi(self) -> scvi.model.SCVI:
        return self._trained(scvi.model.SCVI, self.tier.encoder_epochs, gene_likelihood="nb")


class Labels(NamedTuple):
    """How labels are predicted from those that are shown, and how unlike all classes cells without one are."""

    predict: Callable[[AnnData, Unsupervised, Tier], Predicted]
    is_asked_for_unknown: bool = False


LABEL_METHODS = {
    COMPONENTS: Labels(lambda cells, models, tier: of_supervised(cells, tier)),
    TRANSFER: Labels(lambda cells, models, tier: of_neighbors(models.scdgd, cells), True),
    NEAREST: Labels(
        lambda cells, models, tier: of_nearest(models.scdgd.get_latent_representation(), cells.obs["shown"])
    ),
    SCANVI: Labels(lambda cells, models, tier: of_scanvi(cells, tier, models.scvi), True),
    NEAREST_SCVI: Labels(
        lambda cells, models, tier: of_nearest(models.scvi.get_latent_representation(), cells.obs["shown"])
    ),
}


def run_labels(method: str, shared: Cells, seed: int, tier: Tier) -> Iterator[dict]:
    """With each share of the labels, and with those of a type hidden."""
    adata, models, labels = shared.adata, shared.models, LABEL_METHODS[method]
    truth = adata.obs["cell_type"].to_numpy()
    for share in tier.shares:
        cells = adata.copy()
        cells.obs["shown"] = hide(adata.obs["cell_type"], share, seed)
        without = (cells.obs["shown"] == NO_LABEL).to_numpy()
        scvi.settings.seed = seed
        found, seconds = timed(lambda cells=cells: labels.predict(cells.copy(), models, tier))
        probabilities = found.probabilities[without]
        predicted = probabilities.columns.to_numpy()[probabilities.to_numpy().argmax(axis=1)]
        yield {
            "task": f"{share:.0%}",
            "score": f1_score(truth[without], predicted, average="macro"),
            "second": calibration_error(probabilities, truth[without]),
            "seconds": seconds,
        }
    if labels.is_asked_for_unknown:
        hidden, cells = hidden_type(adata, seed), adata.copy()
        cells.obs["shown"] = hide(adata.obs["cell_type"], 0.2, seed, hidden)
        without = (cells.obs["shown"] == NO_LABEL).to_numpy()
        scvi.settings.seed = seed
        found, seconds = timed(lambda: labels.predict(cells, models, tier).unknown[without])
        score = roc_auc_score((cells.obs["cell_type"] == hidden).to_numpy()[without], found)
        method = {TRANSFER: "SCDGD"}.get(method, method)
        row = {"part": "unknown", "method": method, "task": FROM_LABELS, "score": score, "seconds": seconds}
        yield row | {"hidden": hidden}


# ---------------------------------------------------------------- unknown

FROM_LABELS, FROM_REFERENCE = "from the labels", "from the reference"


def hidden_type(adata: AnnData, seed: int) -> str:
    """A type of at least 5% of the cells, another one each seed."""
    shares = adata.obs["cell_type"].value_counts(normalize=True)
    large = sorted(shares.index[shares >= 0.05])
    return str(np.random.default_rng(7).permutation(large)[seed % len(large)])


class Unlike(NamedTuple):
    score: np.ndarray
    is_novel: np.ndarray | None = None
    """Whether a cell is called so at a false-alarm rate of 5%."""


def unlike_scdgd(train: AnnData, query: AnnData, tier: Tier, held_out: float = 0.0) -> Unlike:
    """With a share of the training cells held out, which the query is then compared with."""
    sizes = {"train_size": 1 - held_out, "validation_size": held_out} if held_out else {}
    model = trained(SCDGD, train, tier.epochs, sizes, n_latent=N_LATENT, **NOT_MERGED)
    novelty = model.get_novelty(query, false_alarm_rate=0.05)
    return Unlike(novelty["score"].to_numpy(), novelty["is_novel"].to_numpy())


def unlike_scanvi(train: AnnData, query: AnnData, tier: Tier) -> Unlike:
    train.obs["shown"] = train.obs["cell_type"].astype(str).astype("category")
    model = scanvi(train, tier)
    query.obs["shown"] = pd.Categorical([NO_LABEL] * query.n_obs)
    return Unlike(entropy(model.predict(query, soft=True).drop(columns=NO_LABEL, errors="ignore").to_numpy()))


UNLIKE = {
    "SCDGD": unlike_scdgd,
    "SCDGD, 15% held out": functools.partial(unlike_scdgd, held_out=0.15),
    SCANVI: unlike_scanvi,
}


def run_unknown(method: str, cells: Cells, seed: int, tier: Tier) -> Iterator[dict]:
    """No cell of a type trains."""
    hidden, (train, query) = hidden_type(cells.adata, seed), cells.split
    train = train[(train.obs["cell_type"] != hidden).to_numpy()].copy()
    seen = np.asarray(train.X.sum(axis=0)).ravel() > 0
    train, query = train[:, seen].copy(), query[:, seen].copy()
    query = query[np.asarray(query.X.sum(axis=1)).ravel() > 0].copy()
    truth = (query.obs["cell_type"] == hidden).to_numpy()
    scvi.settings.seed = seed
    unlike, seconds = timed(lambda: UNLIKE[method](train, query.copy(), tier))
    row = {"task": FROM_REFERENCE, "score": roc_auc_score(truth, unlike.score), "seconds": seconds, "hidden": hidden}
    if unlike.is_novel is not None:
        row |= {"second": float(unlike.is_novel[~truth].mean()), "found": float(unlike.is_novel[truth].mean())}
    yield row


# ---------------------------------------------------------------- runs and page


class Cells(NamedTuple):
    """Cells of a set, a split of them, and models of all of them."""

    adata: AnnData
    split: Split
    models: Unsupervised


class Part(NamedTuple):
    run: Callable[[str, Cells, int, Tier], Iterator[dict]]
    methods: tuple[str, ...]


PARTS = {
    "panels": Part(run_panels, tuple(PANEL_METHODS)),
    "labels": Part(run_labels, tuple(LABEL_METHODS)),
    "unknown": Part(run_unknown, tuple(UNLIKE)),
}


def cells(name: str, seed: int, tier: Tier, data: Path | None) -> Cells:
    if name == "simulated":
        adata = scdgd.datasets.simulate(tier.max_cells, tier.max_genes, seed=400 + seed)
    else:
        adata = most_variable(load(name, data, tier.max_cells, seed), min(tier.max_genes, N_GENES))
    adata.obs["cell_type"] = adata.obs["cell_type"].astype(str).astype("category")
    return Cells(adata, train_test_split(adata, seed), Unsupervised(adata, tier, seed))


def run(cells: Cells, job: Job, tier: Tier) -> Iterator[dict]:
    part, method = job.method.split(": ")
    for row in PARTS[part].run(method, cells, job.seed, tier):
        yield {"part": part, "method": method, "second": None, "hidden": None, "found": None, **row}


def table(rows: pd.DataFrame, columns: dict[str, tuple[str, int]]) -> str:
    lines = []
    for (name, task), of_task in rows.groupby(["set", "task"], sort=False):
        for method, of_method in of_task.groupby("method", sort=False):
            values = [mean_sd(of_method[c], digits) for c, (_, digits) in columns.items()]
            lines.append([name, task, method, *values, len(of_method)])
    return markdown(["set", "task", "method", *(title for title, _ in columns.values()), "seeds"], lines)


def line(what: str, figure: float, least: float, digits: int = 3, at_most: bool = False) -> list[str]:
    met = figure <= least if at_most else figure >= least
    return [
        what,
        f"{figure:.{digits}f}",
        f"{'at most' if at_most else 'at least'} {least:g}",
        "met" if met else "missed",
    ]


def aims(rows: pd.DataFrame) -> str:
    """What was asked for, and whether it is met."""
    lines = []
    panels = rows[rows["part"] == "panels"].pivot_table(
        index=["set", "task"], columns="method", values=["score", "second"], sort=False
    )
    for name, panel in panels.index:
        whole = panels.loc[(name, "all"), ("score", "SCDGD")]
        least = {"random 500": 0.9, "most variable 50": 0.8}.get(panel)
        if least is not None and name in ("zheng_facs", "kang_ifnb2800"):
            share = panels.loc[(name, panel), ("score", "SCDGD")] / whole
            lines.append(line(f"{name}, {panel}: transfer of SCDGD, share of that with all genes", share, least))
        if panel != "all":
            gain = (
                panels.loc[(name, panel), ("second", "SCDGD")] - panels.loc[(name, panel), ("second", "scVI, padded")]
            )
            lines.append(line(f"{name}, {panel}: imputed, SCDGD less padded scVI", gain, 0))
    labels = rows[rows["part"] == "labels"]
    f1 = labels.pivot_table(index=["set", "task", "seed"], columns="method", values="score")
    for share in labels["task"].unique():
        of_share = f1.xs(share, level="task")
        for other in (SCANVI, NEAREST):
            gain = (of_share[COMPONENTS] - of_share[other]).groupby("set").mean()
            lines.append(line(f"{share} of labels: F1 above that of {other}, mean over sets", gain.mean(), 0))
        error = labels[(labels["task"] == share) & (labels["method"] == COMPONENTS)]["second"].mean()
        lines.append(line(f"{share} of labels: ECE, mean over sets", error, 0.05, at_most=True))
    for where in (FROM_LABELS, FROM_REFERENCE):
        of_task = rows[(rows["part"] == "unknown") & (rows["task"] == where) & (rows["method"] != SCANVI)]
        for method, found in of_task.groupby("method")["score"]:
            lines.append(line(f"hidden {where}: AUROC of {method}, mean over sets", found.mean(), 0.9))
    return markdown(["aim", "figure", "asked for", ""], lines)


def report(rows: pd.DataFrame, tier: Tier) -> str:
    of_part = {part: rows[rows["part"] == part] for part in (*PARTS, "posteriors")}
    hidden = of_part["unknown"].groupby(["set", "seed"])["hidden"].first()
    return "\n".join(
        [
            f"At most {tier.max_cells or 'all'} cells and {tier.max_genes:,} genes; mean ± standard deviation "
            f"over {plural(tier.seeds, 'seed')}, each a draw of cells, labels and starts.",
            "\n## Aims\n",
            aims(rows),
            "\n## Panels\n",
            table(of_part["panels"], {"score": ("transfer", 3), "second": ("imputed", 3), "seconds": ("seconds", 1)}),
            "\n## Labels\n",
            table(of_part["labels"], {"score": ("F1", 3), "second": ("ECE", 3)}),
            "\n## Unknown\n\nHidden: "
            + "; ".join(f"{name}, seed {seed}: {t}" for (name, seed), t in hidden.items())
            + ".\n",
            table(of_part["unknown"], {"score": ("AUROC", 3), "second": ("false alarms", 3), "found": ("found", 3)}),
            "\n## Posteriors\n",
            table(of_part["posteriors"], {"score": ("Pareto k above 0.7", 3), "seconds": ("seconds", 1)}),
        ]
    )


RUNS = [f"{part}: {method}" for part, of in PARTS.items() for method in of.methods]
BENCHMARK = Benchmark(
    "mapping",
    "Mapping",
    __doc__,
    TIERS,
    lambda tier: [Job(name, seed, of) for seed in range(tier.seeds) for name in tier.sets for of in RUNS],
    run,
    report,
    cells,
    n_jobs=2,
)

if __name__ == "__main__":
    BENCHMARK.main()
