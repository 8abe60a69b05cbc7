"""Images: the deep generative decoder of Schuster & Krogh 2023, and the priors of Stirn & Knowles 2024, on MNIST and Fashion.

    python benchmarks/images.py                                    # quick: drawn bars, a minute, its numbers mean nothing
    python benchmarks/images.py --data DIR --short --out docs/benchmarks_images.md      # about 7 minutes of one core
    python benchmarks/images.py --data DIR --standard --out docs/benchmarks_images.md   # about 40 minutes of two cores
    python benchmarks/images.py --data DIR --full --out ...        # the protocols of the papers: days; goes on where it was stopped

DIR has `mnist70k.npz` (`X`, `y`, `is_train`) and `fashion_sprite900.npz`, of which two thirds train.
All that is learned is learned from training images without labels, but for the row that says supervised; all scores are of held-out
images, whose representations are found with everything else frozen. Networks are convolutions of one form (DGD, VAD, VAE: 20 latent
dimensions, binary cross-entropy), or 500-500-2000 and back (priors: 10 dimensions, Gaussian pixels, posteriors of full rank). Presets are
`SCHUSTER_2023_IMAGES` and `STIRN_2024_IMAGES`; epochs and images are those of the table, and the rates of the priors are ten times
the published ones but in the full tier, since steps are few; convolutions train in minibatches of 32 but in the full tier.

- BCE: binary cross-entropy of a pixel at the posterior mean; RMSE: root mean squared error of a pixel, from 0 to 1.
- ARI, accuracy, NMI: clusters against digits. Clusters are components, or k-means with 10 where there is one component. Accuracy and
  merged NMI give a cluster the digit of its most probable member, which needs labels and does not punish many clusters; *used* are
  clusters with any image.
- Fréchet: distance between drawn and held-out images in the features of a classifier *trained here* on 10,000 training images with their
  labels. It is no FID: it compares rows of this page only. The last row is that of training images.
- W: Shapiro-Wilk statistic of representations of training images, mean over dimensions; 1 is Gaussian.
- Seconds an epoch are of one core.
- The bound is taken apart by `scdgd.metrics.elbo_surgery` on held-out images, in nats an image. Cross-entropies and Gaussian densities do
  not compare.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

import anndata as ad
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import torch
from _benchmark import OUT, Benchmark, Job, cpu_seconds, every
from _tables import plural, spread_table
from scipy import linalg, stats
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score
from torch import nn

from scdgd.inference import latent_module
from scdgd.metrics import elbo_surgery, merged_accuracy, merged_labels
from scdgd.model import SCDGD, SCVAD, FlexSCVI
from scdgd.module import ConvolutionalDecoder, ConvolutionalEncoder
from scdgd.presets import JIANG_2017, SCHUSTER_2023_IMAGES, STIRN_2024_IMAGES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from matplotlib.figure import Figure

QUIET = {"accelerator": "cpu", "enable_progress_bar": False}
N_DIGITS, N_SURGERY = 10, 500


class Tier(NamedTuple):
    """Sizes of a tier."""

    sets: tuple[str, ...]
    n_train: int
    n_test: int
    n_channels: int
    hidden: tuple[int, ...]
    epochs: int
    """Of the convolutional models."""
    epochs_of_priors: int
    batch_size: int
    """Of the convolutional models."""
    faster: float
    """Factor of the learning rates of the priors' models."""
    seeds: int
    n_drawn: int


TIERS = {
    "quick": Tier(("bars",), 60, 30, 2, (8,), 1, 2, 32, 10.0, 1, 30),
    "short": Tier(("mnist70k",), 1_000, 500, 8, (500, 500, 2000), 60, 40, 32, 10.0, 1, 1_000),
    "standard": Tier(("mnist70k", "fashion_sprite900"), 2_000, 1_000, 16, (500, 500, 2000), 60, 60, 32, 10.0, 3, 2_000),
    "full": Tier(
        ("mnist70k", "fashion_sprite900"), 60_000, 10_000, 64, (500, 500, 2000), 500, 500, 256, 1.0, 3, 10_000
    ),
}


class Images(NamedTuple):
    """Pixels from 0 to 1, and what is on them."""

    train: np.ndarray
    test: np.ndarray
    y_train: np.ndarray
    y_test: np.ndarray


def drawn_bars(n: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Images of 16 x 16 pixels with a bar that lies, stands, or both."""
    y, images = rng.integers(3, size=n), np.zeros((n, 16, 16), np.float32)
    for image, kind in zip(images, y, strict=True):
        at = rng.integers(2, 13, size=2)
        if kind != 1:
            image[at[0] : at[0] + 2] = rng.uniform(0.5, 1)
        if kind != 0:
            image[:, at[1] : at[1] + 2] = rng.uniform(0.5, 1)
    return images.reshape(n, -1), y


def read_images(name: str, folder: Path | None, tier: Tier, seed: int) -> Images:
    """Random images of a set for training and for scores."""
    rng = np.random.default_rng(seed)
    if name == "bars":
        x, y = drawn_bars(tier.n_train + tier.n_test, rng)
        is_train = np.arange(len(x)) < tier.n_train
    else:
        file = np.load(folder / f"{name}.npz")
        x, y = file["X"].reshape(len(file["X"]), -1), file["y"]
        is_train = file["is_train"] if "is_train" in file else rng.permutation(len(x)) < 2 * len(x) // 3
    pick = lambda of, n: np.sort(rng.permutation(np.flatnonzero(of))[:n])
    train, test = pick(is_train, tier.n_train), pick(~is_train, tier.n_test)
    grey = lambda rows: x[rows].astype(np.float32) / (255 if x.dtype == np.uint8 else 1)
    return Images(grey(train), grey(test), y[train].astype(int), y[test].astype(int))


def annotated(pixels: np.ndarray, y: np.ndarray, prefix: str) -> ad.AnnData:
    """Images as cells."""
    adata = ad.AnnData(pixels)
    adata.obs_names = [f"{prefix}_{i}" for i in range(len(pixels))]
    adata.obs["digit"] = pd.Categorical(y.astype(str))
    return adata


def convolutional(kind: str, model_class: type, **given) -> Callable:
    """A model of Schuster & Krogh 2023 with their settings, but for `given` ones."""

    def make(adata: ad.AnnData, tier: Tier, seed: int):
        preset = SCHUSTER_2023_IMAGES[kind]
        networks = {"decoder": ConvolutionalDecoder(20, adata.n_vars, tier.n_channels)}
        if model_class is FlexSCVI:
            networks["encoder"] = ConvolutionalEncoder(adata.n_vars, tier.n_channels)
        model = model_class(adata, **preset["model"] | networks | given)
        return model, preset["train"] | {"max_epochs": tier.epochs, "batch_size": tier.batch_size}

    return make


def with_components(k: int, **given) -> Callable:
    """DGD with `k` components, whose scale is 3 / k."""
    prior_kwargs = SCHUSTER_2023_IMAGES["dgd"]["model"]["prior_kwargs"] | {"component_scale": 3 / k}
    return convolutional("dgd", SCDGD, n_components=k, prior_kwargs=prior_kwargs, **given)


def our_defaults(adata: ad.AnnData, tier: Tier, seed: int):
    """SCDGD as it is without a preset."""
    decoder = ConvolutionalDecoder(20, adata.n_vars, tier.n_channels)
    return SCDGD(adata, gene_likelihood="cross_entropy", decoder=decoder), {"max_epochs": min(50, tier.epochs)}


def with_prior(prior: str, **given) -> Callable:
    """A model of Stirn & Knowles 2024."""

    def make(adata: ad.AnnData, tier: Tier, seed: int):
        preset = STIRN_2024_IMAGES["mnist"].get(prior, STIRN_2024_IMAGES["mnist"]["vmm"])
        plan = preset["train"]["plan_kwargs"]
        plan = plan | {"lr": tier.faster * plan["lr"]}
        if prior == "vade":
            of_vade = JIANG_2017["train"]["plan_kwargs"]
            plan = of_vade | {"lr": plan["lr"]}
        elif prior == "gaussian_mixture":
            plan.pop("n_warm_start_epochs")
        options = preset["model"] | {"prior": prior, "n_hidden": tier.hidden} | given
        options["n_components"] = min(options["n_components"], adata.n_obs // 10)
        return FlexSCVI(adata, **options), {"max_epochs": tier.epochs_of_priors, "batch_size": 128, "plan_kwargs": plan}

    return make


class Method(NamedTuple):
    """A row of the tables."""

    make: Callable
    model_class: type
    is_gaussian: bool = False
    has_bound: bool = False


METHODS = {
    "DGD, N(0, I)": Method(convolutional("dgd_normal", SCDGD), SCDGD),
    "DGD, 10 components": Method(with_components(10), SCDGD),
    "DGD, 20 components": Method(with_components(20), SCDGD),
    "DGD, supervised": Method(with_components(10, supervision="components"), SCDGD),
    "SCDGD, our defaults, 50 epochs": Method(our_defaults, SCDGD),
    "VAD, N(0, I)": Method(convolutional("vad", SCVAD), SCVAD, has_bound=True),
    "VAE, N(0, I)": Method(convolutional("vae", FlexSCVI), FlexSCVI, has_bound=True),
    "prior N(0, I)": Method(with_prior("normal"), FlexSCVI, True, True),
    "prior VampPrior": Method(with_prior("vamp"), FlexSCVI, True, True),
    "prior VaDE": Method(with_prior("vade", n_components=10), FlexSCVI, True, True),
    "prior GMM, 10": Method(with_prior("gaussian_mixture", n_components=10), FlexSCVI, True, True),
    "prior DP-GMM": Method(with_prior("dpgmm"), FlexSCVI, True, True),
    "prior VMM": Method(with_prior("vmm"), FlexSCVI, True, True),
}


TRAINING_IMAGES = "training images"
GRID = (*METHODS, TRAINING_IMAGES)


class Classifier(nn.Module):
    """Convolutions whose last hidden layer are the features of the Fréchet distance."""

    def __init__(self, n_pixels: int, n_classes: int) -> None:
        super().__init__()
        self.features, self.last = ConvolutionalEncoder(n_pixels, 16), nn.Linear(100, n_classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.features(x))


@functools.cache
def classifier(name: str, folder: Path | None, tier: Tier) -> Classifier:
    """Trained on up to 10,000 training images with their labels, for scores only."""
    torch.manual_seed(0)
    images = read_images(name, folder, tier._replace(n_train=max(tier.n_train, min(10_000, 5 * tier.n_train))), 0)
    x, y = torch.as_tensor(images.train), torch.as_tensor(images.y_train)
    network = Classifier(x.shape[1], N_DIGITS)
    optimizer = torch.optim.Adam(network.parameters(), lr=2e-3)
    for _ in range(4):
        for rows in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x[rows]), y[rows]).backward()
            optimizer.step()
    return network.eval()


@torch.no_grad()
def frechet(network: Classifier, a: np.ndarray, b: np.ndarray) -> float:
    """Fréchet distance of Gaussians fitted to the features of two sets of images."""
    of_sets = [network.features(torch.as_tensor(np.ascontiguousarray(x, np.float32))).double().numpy() for x in (a, b)]
    (m1, s1), (m2, s2) = ((f.mean(0), np.cov(f.T)) for f in of_sets)
    root = linalg.sqrtm(s1 @ s2)
    return float(((m1 - m2) ** 2).sum() + np.trace(s1 + s2 - 2 * np.real(root)))


@torch.no_grad()
def means_at(model, z: torch.Tensor, *, is_gaussian: bool) -> np.ndarray:
    """Expected pixels, from 0 to 1, at representations ``(n, d)``."""
    module, parts = latent_module(model.module), []
    for some in z.split(200):
        cells = np.arange(len(some)) % model.adata.n_obs
        tensors = next(iter(model._make_data_loader(model.adata, indices=cells, batch_size=len(some))))
        px = module.decode(some, torch.zeros(len(some), 1), tensors)
        parts.append(px.mean.numpy())
    pixels = np.concatenate(parts)
    return ((pixels + 1) / 2 if is_gaussian else pixels).clip(0, 1)


@torch.no_grad()
def draws_of(model, n: int) -> tuple[torch.Tensor, np.ndarray]:
    """Representations drawn from the prior, and their components."""
    z, components = model.module.given_prior().sample(n, generator=torch.Generator().manual_seed(0))
    return z, components.numpy()


def clusters_of(
    model, test: ad.AnnData, z_train: np.ndarray, z_test: np.ndarray
) -> tuple[np.ndarray | None, np.ndarray]:
    """Probabilities of components ``(n, k)``, if there are several, and clusters ``(n,)``."""
    if model.module.prior.n_components > 1:
        soft = model.get_cluster_assignments(test, soft=True)
        return soft, soft.argmax(1)
    return None, KMeans(N_DIGITS, n_init=5, random_state=0).fit(z_train).predict(z_test.astype(z_train.dtype))


class Shared(NamedTuple):
    """Images of a split, and the classifier of the set, which only scores."""

    images: Images
    network: Classifier


def cells(name: str, seed: int, tier: Tier, data: Path | None) -> Shared:
    return Shared(read_images(name, data, tier, seed), classifier(name, data, tier))


def run(shared: Shared, job: Job, tier: Tier) -> Iterator[dict]:
    """Train a method and score it."""
    images, network = shared
    sizes = {"n_train": len(images.train), "n_test": len(images.test)}
    if job.method == TRAINING_IMAGES:  # in the place of drawn ones
        yield {**sizes, "frechet": frechet(network, images.train[: tier.n_drawn], images.test)}
        return
    chosen = METHODS[job.method]
    scale = (lambda x: 2 * x - 1) if chosen.is_gaussian else (lambda x: x)
    train = annotated(scale(images.train), images.y_train, "train")
    test = annotated(scale(images.test), images.y_test, "test")
    of_labels = {"labels_key": "digit"} if job.method == "DGD, supervised" else {}
    chosen.model_class.setup_anndata(train, is_count_data=False, **of_labels)
    model, training = chosen.make(train, tier, job.seed)
    seconds = cpu_seconds(lambda: model.train(**training, **QUIET))
    n_epochs = len(model.history["elbo_train"])
    z_train, z_test = model.get_latent_representation(), model.get_latent_representation(test)
    soft, clusters = clusters_of(model, test, z_train, z_test)
    expected = means_at(model, torch.as_tensor(z_test), is_gaussian=chosen.is_gaussian)
    p = expected.clip(1e-6, 1 - 1e-6)
    bce = -(images.test * np.log(p) + (1 - images.test) * np.log1p(-p)).mean()
    z, components = draws_of(model, tier.n_drawn)
    drawn = means_at(model, z, is_gaussian=chosen.is_gaussian)
    bound = (
        elbo_surgery(model, test, indices=np.arange(min(N_SURGERY, len(z_test))), n_samples=50, seed=0)
        if chosen.has_bound
        else None
    )
    keep_figures(job, model, images, expected, drawn, components, is_gaussian=chosen.is_gaussian)
    y = images.y_test
    of_bound = ("evidence", "log_likelihood", "rate", "marginal_kl", "mutual_information", "posterior_predictive")
    yield {
        **sizes,
        "n_epochs": n_epochs,
        "bce": np.nan if chosen.is_gaussian else bce,
        "rmse": np.sqrt(((images.test - expected) ** 2).mean()),
        "ari": adjusted_rand_score(y, clusters),
        "accuracy": np.nan if soft is None else merged_accuracy(soft, y),
        "nmi_merged": np.nan if soft is None else normalized_mutual_info_score(y, merged_labels(soft, y)),
        "nmi": normalized_mutual_info_score(y, clusters),
        "used": np.nan if soft is None else len(np.unique(clusters)),
        "frechet": frechet(network, drawn, images.test),
        "w": np.mean([stats.shapiro(column).statistic for column in z_train[:5_000].T]),
        "seconds": seconds / n_epochs,
        **{term: np.nan if bound is None else getattr(bound, term) for term in of_bound},
    }


# ------------------------------------------------------------------ figures


def figures_file(job: Job) -> Path:
    return OUT / "images" / f"{job.set}_{''.join(c if c.isalnum() else '_' for c in job.method)}_{job.seed}.npz"


def keep_figures(job: Job, model, images, expected, drawn, components, *, is_gaussian) -> None:
    """Store what figures show: drawn images by component, reconstructions, and a way between two held-out images."""
    weights = model.module.given_prior().weights.detach().numpy()
    counts = np.round(10 * weights / weights.max()).astype(int)
    order = np.argsort(-weights)[:20]
    tiles = np.zeros((10, len(order), drawn.shape[1]), np.float32)
    for column, c in enumerate(order):
        some = drawn[components == c][: counts[c]]
        tiles[: len(some), column] = some
    of_training = model.get_latent_representation()
    z = torch.as_tensor(of_training[[0, len(of_training) // 2]])  # sets may stand in the order of their labels
    steps = torch.linspace(0, 1, 10).unsqueeze(1)
    way = means_at(model, (1 - steps) * z[:1] + steps * z[1:], is_gaussian=is_gaussian)
    path = figures_file(job)
    path.parent.mkdir(parents=True, exist_ok=True)
    some = np.linspace(0, len(images.test) - 1, 10).astype(int)
    np.savez_compressed(path, tiles=tiles, original=images.test[some], reconstructed=expected[some], way=way)


def tiled(images: np.ndarray) -> np.ndarray:
    """Images ``(rows, columns, pixels)`` side by side."""
    rows, columns, n = images.shape
    side = int(n**0.5)
    return images.reshape(rows, columns, side, side).transpose(0, 2, 1, 3).reshape(rows * side, columns * side)


def drawn_images(stored: dict[str, dict]) -> Figure:
    """Columns of drawn images, one for each component."""
    fig, axes = plt.subplots(2, (len(stored) + 1) // 2, figsize=(14, 7.5), squeeze=False)
    for ax in axes.flat:
        ax.axis("off")
    for ax, (method, kept) in zip(axes.T.flat, stored.items(), strict=False):
        ax.imshow(tiled(kept["tiles"]), cmap="gray_r", vmin=0, vmax=1)
        ax.set_title(method, fontsize=9)
    fig.tight_layout()
    return fig


def reconstructed_images(stored: dict[str, dict]) -> Figure:
    """Held-out images and their reconstructions, and the way between two training images."""
    fig, axes = plt.subplots(len(stored) + 1, 2, figsize=(10, 0.55 * (len(stored) + 1)))
    for ax in axes.flat:
        ax.axis("off")
    axes[0, 0].imshow(tiled(next(iter(stored.values()))["original"][None]), cmap="gray_r", vmin=0, vmax=1)
    axes[0, 0].set_title("held-out images, and reconstructions", fontsize=8)
    axes[0, 1].set_title("between two training images", fontsize=8)
    for row, (method, kept) in zip(axes[1:], stored.items(), strict=True):
        for ax, key in zip(row, ("reconstructed", "way"), strict=True):
            ax.imshow(tiled(kept[key][None]), cmap="gray_r", vmin=0, vmax=1)
        row[0].text(-0.02, 0.5, method, transform=row[0].transAxes, ha="right", va="center", fontsize=7)
    return fig


def figures(rows: pd.DataFrame, tier: Tier) -> dict[str, tuple[str, Figure]]:
    """Drawn images of the first seed; reconstructions show images of the set, and stay beside the ledger."""
    found = {}
    for name, of_set in rows[rows["seed"] == 0].groupby("set", sort=False):
        files = {method: figures_file(Job(name, 0, method)) for method in METHODS if method in set(of_set["method"])}
        stored = {method: np.load(file) for method, file in files.items()}
        reconstructed_images(stored).savefig(OUT / "images" / f"{name}_reconstructed.png", dpi=80, bbox_inches="tight")
        caption = f"{name}: expected pixels of drawn images, a column for each of the 20 largest components, of 10 w / max w images"
        several = {method: kept for method, kept in stored.items() if kept["tiles"].shape[1] > 1}
        found[f"benchmarks_images_{name}_drawn"] = caption, drawn_images(several)
    return found


# ------------------------------------------------------------------- tables

COLUMNS = {
    "n_epochs": ("epochs", 0),
    "bce": ("BCE", 4),
    "rmse": ("RMSE", 4),
    "ari": ("ARI", 3),
    "accuracy": ("accuracy", 3),
    "nmi_merged": ("NMI merged", 3),
    "nmi": ("NMI", 3),
    "used": ("used", 1),
    "frechet": ("Fréchet", 2),
    "w": ("W", 4),
    "seconds": ("s an epoch", 1),
}
BOUND = {
    "posterior_predictive": ("posterior predictive", 1),
    "evidence": ("evidence", 1),
    "log_likelihood": ("E log p(x given z)", 1),
    "rate": ("rate", 1),
    "marginal_kl": ("marginal KL", 1),
    "mutual_information": ("information", 2),
}


def report(rows: pd.DataFrame, tier: Tier) -> str:
    text = []
    for name, of_set in rows.groupby("set", sort=False):
        n_train, n_test = of_set[["n_train", "n_test"]].iloc[0]
        seeds = plural(tier.seeds, "seed")
        text += [
            f"## {name}\n\n{n_train:,} training images, {n_test:,} held out, {tier.n_channels} channels, {seeds}.",
            spread_table(of_set, COLUMNS, GRID, head="model", seeds=False),
            "The bound:",
            spread_table(of_set, BOUND, METHODS, head="model", seeds=False),
        ]
    return "\n\n".join(text)


BENCHMARK = Benchmark("images", "Images", __doc__, TIERS, every(GRID), run, report, cells, figures)

if __name__ == "__main__":
    BENCHMARK.main()
