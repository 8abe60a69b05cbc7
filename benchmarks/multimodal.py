"""Several modalities in one representation: MULTIDGD against MULTIVI, TOTALVI and SCDGD on genes alone.

    python benchmarks/multimodal.py --data DIR --standard --out docs/benchmarks_multimodal.md

Every (set, seed) hides the second modality of a random fifth of the cells; models train on all cells, with what they have. TOTALVI
knows cells without proteins by a batch of their own. No method sees labels.
*Joint* is the accuracy of the label of most of the 15 nearest cells among the paired cells, leave one out; *mapped* that of cells with
genes alone among the paired ones. *ARI* is of a model's own clusters, or of k-means with as many clusters as there are types. *Bio* is
the mean of three of scIB's scores of the paired cells (Luecken et al. 2022): NMI and ARI of k-means with as many clusters as there are
types, and the silhouette of labels from 0 to 1. *Mixing* is `scdgd.metrics.batch_mixing` of the paired cells. *Hidden* is the prediction
of what was hidden: of chromatin the area under the ROC curve of accessible regions within cells, averaged over cells; of proteins
Pearson's correlation of log1p counts over cells, averaged over proteins. *Genes*, *second* and *both* are log likelihoods in nats per
cell of the other half of the counts (`scdgd.metrics.held_out_log_likelihood`, predictive) of a fourth of the paired cells, of genes, of
the second modality, and of all together, after training on the other paired cells; models of scvi-tools do not give them, and zeros and
ones cannot be split. They choose the defaults of likelihoods and weights. Seconds are of training, one thread; those of held-out
counts not included.
scvi-tools' models have 20 latent dimensions and stop by their own rule, or after the epochs that are said below the tables, which are a
fourth or fifth of their own default in the standard tier: they may gain by more. Weighted nearest neighbours (WNN) are not here: no
package that this project installs has them.
The chromatin of bmmc_multiome500 is counted by ends of fragments; its counts are halved. snare_cortex has its 5,000 most frequent regions,
a random 2,000 cells and two seeds in the standard tier.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import anndata as ad
import numpy as np
import pandas as pd
import scanpy as sc
import scvi
from _benchmark import Benchmark, Job
from _fits import built, fit_model
from _tables import markdown, mean_sd, spread_table
from mudata import MuData
from scipy import sparse
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score, roc_auc_score, silhouette_score
from sklearn.neighbors import NearestNeighbors

from scdgd.data import joined_modalities
from scdgd.datasets import simulate_modalities
from scdgd.metrics import batch_mixing, held_out_log_likelihood
from scdgd.model import MULTIDGD, SCDGD

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anndata import AnnData

N_LATENT, N_NEIGHBORS, HIDDEN = 20, 15, 0.2


class Tier(NamedTuple):
    sets: tuple[str, ...]
    seeds: int
    max_cells: int | None
    max_regions: int | None
    epochs: int | None
    """Of ours; `None` for their defaults."""
    scvi_epochs: int
    seeds_of: dict[str, int] = {}
    """Of sets that have fewer."""


SETS = ("bmmc_cite600", "bmmc_multiome500", "snare_cortex")
TIERS = {
    "quick": Tier(("simulated",), 1, 200, 60, 8, 3),
    "standard": Tier(SETS, 3, 2_000, 5_000, None, 100, {"snare_cortex": 2}),
    "full": Tier(SETS, 3, None, None, None, 400),
}


#: Sets of chromatin that count the ends of fragments, two each; their counts are halved.
ENDS_COUNTED = ("bmmc_multiome500",)
OF_PROTEINS = ("bmmc_cite600",)


class Cells(NamedTuple):
    """Cells of two modalities, the second of which some lack."""

    genes: AnnData
    second: sparse.csr_matrix
    """What was measured, hidden cells included."""
    kind: str
    hidden: np.ndarray
    """Cells whose second modality is hidden, bool."""

    @property
    def seen(self) -> sparse.csr_matrix:
        return sparse.csr_matrix(sparse.diags_array((~self.hidden).astype(np.float32)) @ self.second)

    @property
    def mudata(self) -> MuData:
        second = ad.AnnData(self.second, obs=self.genes.obs[[]], var=pd.DataFrame(index=self.names))[
            ~self.hidden
        ].copy()
        mdata = MuData({"rna": self.genes.copy(), self.kind: second})
        for column in ("batch", "cell_type"):
            mdata.obs[column] = self.genes.obs[column].reindex(mdata.obs_names)
        return mdata

    @property
    def names(self) -> list[str]:
        return [f"{self.kind}_{j}" for j in range(self.second.shape[1])]

    @property
    def types(self) -> np.ndarray:
        return self.genes.obs["cell_type"].to_numpy(str)


def load(name: str, seed: int, tier: Tier, data: Path | None) -> Cells:
    rng = np.random.default_rng(seed)
    if name == "simulated":
        mdata = simulate_modalities(tier.max_cells, n_genes=50, n_regions=tier.max_regions, n_batches=2, seed=seed)
        genes, second, kind = mdata["rna"].copy(), mdata["atac"].X, "atac"
        genes.obs = mdata.obs.loc[genes.obs_names, ["batch", "cell_type"]]
    else:
        genes = sc.read_h5ad(data / f"{name}.h5ad")
        kind = "protein" if "ADT" in genes.obsm else "atac"
        second = sparse.csr_matrix(genes.obsm["ADT" if kind == "protein" else "ATAC"], dtype=np.float32)
        if name in ENDS_COUNTED:
            second.data = np.ceil(second.data / 2)
        if tier.max_cells is not None and genes.n_obs > tier.max_cells:
            some = np.sort(rng.choice(genes.n_obs, tier.max_cells, replace=False))
            genes, second = genes[some].copy(), second[some]
    if kind == "atac" and tier.max_regions is not None and second.shape[1] > tier.max_regions:
        second = second[:, np.sort(np.argsort(-second.getnnz(0), kind="stable")[: tier.max_regions])]
    has_counts = (np.asarray(genes.X.sum(1)).ravel() > 1) & (np.asarray(second.sum(1)).ravel() > 1)
    genes, second = genes[has_counts].copy(), second[has_counts]
    genes = ad.AnnData(
        sparse.csr_matrix(genes.X, dtype=np.float32), obs=genes.obs[["batch", "cell_type"]], var=genes.var[[]]
    )
    genes.obs["batch"] = genes.obs["batch"].astype(str)
    hidden = np.zeros(genes.n_obs, bool)
    hidden[rng.choice(genes.n_obs, int(HIDDEN * genes.n_obs), replace=False)] = True
    expressed, covered = genes.X.getnnz(0) > 0, second[~hidden].getnnz(0) > 0
    return Cells(genes[:, expressed].copy(), second[:, covered], kind, hidden)


class Found(NamedTuple):
    z: np.ndarray
    clusters: np.ndarray | None
    expected: np.ndarray | None
    """Of the second modality of the hidden cells."""
    seconds: float


class Variant(NamedTuple):
    """A MULTIDGD that differs from the default one."""

    likelihood: str | None = None
    """Of the second modality."""
    weights: str = "likelihood"
    """Of modalities."""

    def build(self, mdata: MuData, kinds: list[str]) -> MULTIDGD:
        """On the modalities of these kinds."""
        MULTIDGD.setup_mudata(mdata, {kind: kind for kind in kinds}, batch_key="batch")
        likelihoods = {kinds[-1]: self.likelihood} if self.likelihood else None
        return MULTIDGD(mdata, n_latent=N_LATENT, likelihoods=likelihoods, modality_weights=self.weights)


DEFAULT = Variant()


def multidgd(cells: Cells, tier: Tier, variant: Variant = DEFAULT, *, alone: bool = False) -> Found:
    kinds = [cells.kind] if alone else ["rna", cells.kind]
    mdata = cells.mudata
    if variant.likelihood == "bernoulli":
        mdata[cells.kind].X = (mdata[cells.kind].X > 0).astype(np.float32)
    if alone:
        part = MuData({cells.kind: mdata[cells.kind].copy()})
        part.obs["batch"] = mdata.obs["batch"].reindex(part.obs_names)
        mdata = part
    model = variant.build(mdata, kinds)
    seconds = fit_model(model, tier.epochs)
    z = pd.DataFrame(model.get_latent_representation(coordinates="information"), index=model.adata.obs_names)
    clusters = pd.Series(model.get_cluster_assignments(), index=model.adata.obs_names)
    order, hidden = cells.genes.obs_names, cells.genes.obs_names[cells.hidden]
    expected = None
    if not alone:
        positions = model.adata.obs_names.get_indexer(hidden)
        read = model.get_accessibility_estimates if cells.kind == "atac" else model.get_normalized_protein
        expected = read(indices=positions, n_samples=25).to_numpy()
    z = z.reindex(order).to_numpy()
    return Found(z, clusters.reindex(order).to_numpy(), expected, seconds)


def scdgd(cells: Cells, tier: Tier) -> Found:
    adata = cells.genes.copy()
    model = built(SCDGD, adata, n_latent=N_LATENT)
    seconds = fit_model(model, tier.epochs)
    z = model.get_latent_representation(coordinates="information")
    return Found(z, model.get_cluster_assignments(), None, seconds)


def multivi(cells: Cells, tier: Tier) -> Found:
    regions = ad.AnnData(cells.seen, obs=cells.genes.obs[[]], var=pd.DataFrame(index=cells.names))
    mdata = MuData({"rna": cells.genes.copy(), "atac": regions})
    mdata.obs["batch"] = cells.genes.obs["batch"]
    scvi.model.MULTIVI.setup_mudata(mdata, batch_key="batch", modalities={"rna_layer": "rna", "atac_layer": "atac"})
    model = scvi.model.MULTIVI(mdata, n_genes=cells.genes.n_vars, n_regions=regions.n_vars, n_latent=N_LATENT)
    seconds = fit_model(model, tier.scvi_epochs)
    expected = np.asarray(model.get_normalized_accessibility(indices=np.flatnonzero(cells.hidden)))
    return Found(np.asarray(model.get_latent_representation()), None, expected, seconds)


def totalvi(cells: Cells, tier: Tier) -> Found:
    adata = cells.genes.copy()
    adata.obsm["proteins"] = pd.DataFrame(cells.seen.toarray(), index=adata.obs_names, columns=cells.names)
    adata.obs["batch"] = np.where(cells.hidden, "lacking", adata.obs["batch"])
    scvi.model.TOTALVI.setup_anndata(adata, protein_expression_obsm_key="proteins", batch_key="batch")
    model = scvi.model.TOTALVI(adata, n_latent=N_LATENT)
    seconds = fit_model(model, tier.scvi_epochs)
    known = sorted(set(adata.obs["batch"]) - {"lacking"})
    _, expected = model.get_normalized_expression(
        indices=np.flatnonzero(cells.hidden),
        transform_batch=known,
        n_samples=25,
        return_mean=True,
        include_protein_background=True,
    )
    return Found(model.get_latent_representation(), None, np.asarray(expected), seconds)


def held_out(cells: Cells, tier: Tier, variant: Variant, kinds: list[str]) -> dict[str, float]:
    """Log likelihoods of the other half of the counts of a fourth of the paired cells, in nats per cell."""
    paired = np.flatnonzero(~cells.hidden)
    test = np.zeros(len(paired), bool)
    test[np.random.default_rng(0).choice(len(paired), len(paired) // 4, replace=False)] = True
    matrices = {"rna": cells.genes.X[paired], cells.kind: cells.second[paired]}
    parts = []
    for some in (~test, test):
        found = {}
        for kind in kinds:
            known = matrices[kind][~test].getnnz(0) > 0
            x = sparse.csr_matrix(matrices[kind][some][:, known])
            found[kind] = ad.AnnData(x, obs=pd.DataFrame(index=cells.genes.obs_names[paired[some]]))
        parts.append(MuData(found))
        parts[-1].obs["batch"] = cells.genes.obs["batch"].reindex(parts[-1].obs_names)
    model = variant.build(parts[0], kinds)
    fit_model(model, tier.epochs)
    new = joined_modalities(parts[1], {kind: kind for kind in kinds})
    new = new[np.asarray(new.X.sum(1)).ravel() > 0].copy()
    score = held_out_log_likelihood(model, new, form="predictive", n_samples=100)
    if score.of_modalities is None:
        return {"genes" if kinds == ["rna"] else "second": score.log_likelihood}
    genes, second = score.of_modalities.mean(0)
    return {"genes": genes, "second": second, "both": score.log_likelihood}


OURS, GENES, SECOND = "MULTIDGD", "SCDGD, genes", "MULTIDGD, second modality"
VARIANTS = {
    OURS: DEFAULT,
    "MULTIDGD, chromatin nb": Variant("nb"),
    "MULTIDGD, chromatin bernoulli": Variant("bernoulli"),
    "MULTIDGD, proteins over background": Variant("nb_background"),
    "MULTIDGD, balanced by information": Variant(weights="information"),
}
METHODS = {
    **{name: lambda cells, tier, variant=variant: multidgd(cells, tier, variant) for name, variant in VARIANTS.items()},
    GENES: scdgd,
    SECOND: lambda cells, tier: multidgd(cells, tier, alone=True),
    "MULTIVI": multivi,
    "TOTALVI": totalvi,
}
BALANCED = "MULTIDGD, balanced by information"
ONLY = {
    "atac": (OURS, "MULTIDGD, chromatin nb", "MULTIDGD, chromatin bernoulli", BALANCED, GENES, SECOND, "MULTIVI"),
    "protein": (OURS, "MULTIDGD, proteins over background", BALANCED, GENES, SECOND, "TOTALVI"),
}


def held_out_of(method: str, cells: Cells, tier: Tier) -> dict[str, float]:
    """Of those methods that give them; others have none."""
    nothing = dict.fromkeys(("genes", "second", "both"), np.nan)
    kinds = {GENES: ["rna"], SECOND: [cells.kind]}.get(method, ["rna", cells.kind])
    variant = DEFAULT if method in (GENES, SECOND) else VARIANTS.get(method)
    if variant is None or variant.likelihood == "bernoulli":
        return nothing
    return nothing | held_out(cells, tier, variant, kinds)


COLUMNS = {
    column: (column, digits)
    for column, digits in {
        **{"joint": 3, "mapped": 3, "ari": 2, "bio": 3, "mixing": 2, "hidden": 3},
        **{"genes": 1, "second": 1, "both": 1, "seconds": 0},
    }.items()
}


def accuracy(z: np.ndarray, types: np.ndarray, asked: np.ndarray, among: np.ndarray) -> float:
    """Share of the cells asked whose type is that of most of their neighbours among others."""
    nearest = NearestNeighbors(n_neighbors=N_NEIGHBORS + 1).fit(z[among])
    order = nearest.kneighbors(z[asked], return_distance=False)
    own, positions = np.flatnonzero(asked), np.flatnonzero(among)
    found = []
    for cell, row in zip(own, positions[order], strict=True):
        names, counts = np.unique(types[row[row != cell][:N_NEIGHBORS]], return_counts=True)
        found.append(names[counts.argmax()] == types[cell])
    return float(np.mean(found))


def of_hidden(cells: Cells, expected: np.ndarray | None) -> float:
    if expected is None:
        return np.nan
    truth = cells.second[cells.hidden].toarray()
    if cells.kind == "atac":
        scores = [roc_auc_score(x > 0, p) for x, p in zip(truth, expected, strict=True) if 0 < (x > 0).mean() < 1]
        return float(np.mean(scores))
    pairs = zip(np.log1p(truth).T, np.log1p(expected).T, strict=True)
    return float(np.nanmean([np.corrcoef(x, p)[0, 1] for x, p in pairs if x.std() > 0]))


def bio(z: np.ndarray, types: np.ndarray) -> float:
    """Mean of NMI and ARI of k-means and of the silhouette of labels, from 0 to 1."""
    clusters = KMeans(len(np.unique(types)), n_init=5, random_state=0).fit_predict(z)
    silhouette = (1 + silhouette_score(z, types)) / 2
    return float(
        np.mean([normalized_mutual_info_score(types, clusters), adjusted_rand_score(types, clusters), silhouette])
    )


def scores_of(cells: Cells, found: Found) -> dict[str, float]:
    paired, types, placed = ~cells.hidden, cells.types, np.isfinite(found.z).all(1)
    clusters = found.clusters
    if clusters is None:
        k = len(np.unique(types))
        clusters = KMeans(k, n_init=5, random_state=0).fit_predict(found.z)
    batch = cells.genes.obs["batch"].to_numpy(str)
    is_mapped = placed[cells.hidden].all()
    return {
        "joint": accuracy(found.z, types, paired, paired),
        "mapped": accuracy(found.z, types, cells.hidden, paired) if is_mapped else np.nan,
        "ari": adjusted_rand_score(types[paired], np.asarray(clusters)[paired]),
        "bio": bio(found.z[paired], types[paired]),
        "mixing": batch_mixing(found.z[paired], batch[paired], types[paired]).score,
        "hidden": of_hidden(cells, found.expected),
        "seconds": found.seconds,
    }


def grid(tier: Tier) -> list[Job]:
    """Methods of the kinds of cells of each set; fewer seeds of some."""
    splits = [(name, i) for i in range(tier.seeds) for name in tier.sets if i < tier.seeds_of.get(name, tier.seeds)]
    kinds = dict.fromkeys(tier.sets, "atac") | dict.fromkeys(OF_PROTEINS, "protein")
    return [Job(name, seed, method) for name, seed in splits for method in ONLY[kinds[name]]]


def run(cells: Cells, job: Job, tier: Tier) -> Iterator[dict]:
    found = METHODS[job.method](cells, tier)
    yield scores_of(cells, found) | held_out_of(job.method, cells, tier)


def aim(rows: pd.DataFrame) -> str:
    """Whether accuracy by both modalities is at least that by the better one, means over seeds."""
    lines = []
    for name, of_set in rows.groupby("set", sort=False):
        joint = of_set.groupby("method")["joint"].mean()
        both, alone = joint[OURS], joint[[GENES, SECOND]].max()
        lines.append([name, f"{both:.3f}", f"{alone:.3f}", "met" if both >= alone else "missed"])
    return markdown(["set", OURS, "better single modality", "aim"], lines)


def defaults(rows: pd.DataFrame) -> str:
    """Differences in what is held out, of each variant from the default, seed by seed."""
    lines = []
    for name, of_set in rows.groupby("set", sort=False):
        both = of_set.pivot(index="seed", columns="method", values="both")
        lines += [
            [name, method, mean_sd(both[method] - both[OURS], 2)]
            for method in VARIANTS
            if method != OURS and method in both and both[method].notna().any()
        ]
    return markdown(["set", "variant", "both, less the default's"], lines)


def report(rows: pd.DataFrame, tier: Tier) -> str:
    parts = [
        f"## {name}\n\n{spread_table(of_set, COLUMNS, METHODS, seeds=False)}"
        for name, of_set in rows.groupby("set", sort=False)
    ]
    parts.append(f"## Aim\n\nJoint, no worse than the better single modality.\n\n{aim(rows)}")
    parts.append(
        "## Defaults\n\nWhat is held out of both modalities, less that of the default, in nats per cell: mean and deviation over seeds.\n\n"
        + defaults(rows)
    )
    seeds = ", ".join(f"{name} {of_set['seed'].nunique()}" for name, of_set in rows.groupby("set", sort=False))
    parts.append(f"Seeds: {seeds}. Models of scvi-tools have at most {tier.scvi_epochs} epochs.")
    return "\n\n".join(parts)


BENCHMARK = Benchmark("multimodal", "Several modalities", __doc__, TIERS, grid, run, report, load)

if __name__ == "__main__":
    BENCHMARK.main()
