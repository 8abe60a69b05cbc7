"""Which regions go with a gene: slopes of the decoders of two modalities along one direction."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from scipy import stats
from scvi import REGISTRY_KEYS
from scvi.utils import track

from scdgd._compat import MODULE_KEYS
from scdgd._options import Choice, Flag, Names, checked
from scdgd.data import registered_cells
from scdgd.inference import seeded, undisturbed
from scdgd.inference._joint_density import frozen, owned
from scdgd.model._cells import positions_of

from ._of_models import check_trained, some_of
from ._shift_cells import CELLS, N_CELLS, N_SAMPLES, SEED
from ._shift_genes import root_of_cells

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from anndata import AnnData
    from mudata import MuData
    from scipy import sparse

    from scdgd.model import MULTIDGD

#: Cells decoded together, cells whose covariance is taken, and cells whose counts are tested, at most.
_TOGETHER, _MOST_CELLS, _MOST_TESTED = 128, 2_000, 5_000
_TINY = 1e-12


@checked(
    genes=Names("a list of genes", may_be_empty=False),
    modality=Choice("atac", "protein"),
    indices=CELLS,
    n_cells=N_CELLS,
    n_samples=N_SAMPLES,
    seed=SEED,
    show_progress=Flag(),
)
def gene_to_peak(
    model: MULTIDGD,
    genes: Sequence[str],
    *,
    modality: str = "atac",
    adata: AnnData | MuData | None = None,
    indices: Sequence[int] | None = None,
    n_cells: int = 500,
    n_samples: int = 10,
    seed: int = 0,
    show_progress: bool = False,
) -> pd.DataFrame:
    r"""Association of regions with genes: how the log mean of a region changes along the direction that changes a gene.

    .. math::
        a_{jp} = \frac1n \sum_i \mathbb E_{q_i}\Big[\frac{\partial \log\mu_p}{\partial z}^{\!\top} \delta_j\Big], \qquad
        \delta_j = \frac{C g_j}{g_j^\top C g_j}, \qquad g_j = \frac{\partial \log\rho_j}{\partial z}

    After gene2peak of multiDGD (Schuster et al. 2024), which steps along the gradient :math:`g_j` of a gene. Here :math:`\delta_j` is
    the likeliest of the moves that change the log share of the gene by one, with the covariance :math:`C` of the representations of
    the cells that are named, as of :func:`shift_genes`: the gradient depends on how the axes of z are scaled, this does not. So
    :math:`a` is the log fold change of a region when a gene doubles, base 2.

    A decoder has slopes of noise, too. Whether the counts themselves go with a gene is asked without it: :math:`t_{ij}` is the log share
    of the gene that is expected in a cell placed by its genes alone, and :math:`x_{ip}` the counts of a region, of totals :math:`s_i`
    over all regions. If they have nothing to do with each other, a region has a share :math:`\hat\rho_p` in each batch, and

    .. math::
        z_{jp} = \frac{\sum_i (x_{ip} - s_i \hat\rho_p)\, \tau_{ij}}{\sqrt{\sum_i (x_{ip} - s_i \hat\rho_p)^2\, \tau_{ij}^2}}, \qquad
        \tau_{ij} = t_{ij} - \frac{\sum_i s_i t_{ij}}{\sum_i s_i}

    is standard normal whatever the dispersion of the counts: a score test with the variance of White (1980). Genes and regions go
    together for many reasons, most of all because types of cells differ: name cells of one type to ask within it.

    Parameters
    ----------
    model
        Trained :class:`~scdgd.model.MULTIDGD` with genes and the other modality.
    genes
        Names of genes, with or without ``"rna:"``.
    modality
        Whose features are associated: ``"atac"``, or ``"protein"``.
    adata, indices
        Cells, by position or mask; all of the model's if not given. At least two.
    n_cells
        Most cells that slopes are averaged over, a random subset of more; counts are tested in at most 5,000.
    n_samples
        Draws of the posterior of each cell.
    seed
        Seed of draws, and of subsets.
    show_progress
        Whether to show how far it is.

    Returns
    -------
    A row for each gene and region, by p-value within genes: ``"gene"``, ``"feature"``, ``"log_fold_change"`` :math:`a`, its standard
    deviations ``"sd_cells"``, between cells, and ``"sd_posterior"``, between draws of the posterior of a cell, the score ``"z_score"``,
    ``"p_value"``, and ``"q_value"``, by Benjamini & Hochberg over the regions of each gene. Scores of regions without counts are zero.

    Raises
    ------
    TypeError
        If it is no MULTIDGD.
    RuntimeError
        If the model is not trained.
    ValueError
        If it lacks genes or the modality, a gene is unknown, less than two cells have both, or the representations of cells do not differ.
    NotImplementedError
        If values of the modality are no counts.

    Examples
    --------
    >>> table = scdgd.tl.gene_to_peak(model, ["CD8A"])
    >>> table[table["q_value"] < 0.05]
    """
    _check(model, modality)
    wanted, names = model._features_of("rna", list(dict.fromkeys(genes)), "genes")
    columns = torch.as_tensor(
        pd.Index(model._features_of("rna", None, "genes")[0]).get_indexer(wanted), device=model.device
    )
    adata = model._validate_anndata(adata)
    positions, rng = np.unique(positions_of(indices, adata.n_obs) % adata.n_obs), np.random.default_rng(seed)
    with undisturbed():
        root = root_of_cells(model, adata, some_of(rng, positions, _MOST_CELLS)).to(model.device)
        some, tested = some_of(rng, positions, n_cells), some_of(rng, positions, _MOST_TESTED)
        scores = _scores(model, adata, tested, columns, modality)
        with seeded(seed):
            draws = model.posterior.latent_draws(adata, some, n_samples).clone()
        parts, first = [], 0
        with frozen(model.module):
            loader = model._make_data_loader(adata, indices=some, batch_size=_TOGETHER)
            for tensors in track(loader, description=f"Slopes of {len(some)} cells", disable=not show_progress):
                z = draws[:, first : first + _TOGETHER].to(model.device)
                decode = _decoder_of(model, owned(model.module, tensors))
                parts.append(_slopes(partial(decode, modality), partial(decode, "rna"), z, columns, root))
                first += z.shape[1]
    mean, square, within = (torch.stack(sums).sum(0).cpu().numpy() / len(some) for sums in zip(*parts, strict=True))
    spread = {"sd_cells": np.sqrt(np.maximum(square - mean**2, 0)), "sd_posterior": np.sqrt(within)}
    return _table(names, model._features_of(modality, None, "modality")[1], {"log_fold_change": mean, **spread}, scores)


def _check(model: MULTIDGD, modality: str) -> None:
    """Raise unless the model has counts of genes and of a modality."""
    check_trained(model, "gene_to_peak")
    if not hasattr(model, "modalities"):
        msg = f"`gene_to_peak` asks the decoders of several modalities, and a {type(model).__name__} has one. Train a MULTIDGD."
        raise TypeError(msg)
    model._features_of(modality, None, "modality")
    if not model._observation_of(modality).family.is_of_counts:
        msg = f"Fold changes are those of counts, and the likelihood of {modality!r} is of other values. Train with counts of fragments."
        raise NotImplementedError(msg)


def _table(genes: np.ndarray, features: np.ndarray, values: dict[str, np.ndarray], scores: np.ndarray) -> pd.DataFrame:
    """Rows of genes and features, from columns ``(G, m)``, by p-value within genes."""
    values = values | {"z_score": scores, "p_value": 2 * stats.norm.sf(np.abs(scores))}
    tables = []
    for i, gene in enumerate(genes):
        of_gene = pd.DataFrame({"gene": gene, "feature": features} | {name: value[i] for name, value in values.items()})
        of_gene["q_value"] = stats.false_discovery_control(of_gene["p_value"])
        tables.append(of_gene.sort_values("p_value", kind="stable"))
    return pd.concat(tables, ignore_index=True)


def _decoder_of(model: MULTIDGD, tensors: dict[str, torch.Tensor]) -> Callable[[str, torch.Tensor], torch.Tensor]:
    """Log shares ``(b, m)`` of the features of a modality in the cells of a minibatch, at representations ``(b, d)``."""
    covariates = model.module.covariates(tensors)
    given = [
        covariates[key] for key in (MODULE_KEYS.BATCH_INDEX_KEY, MODULE_KEYS.CAT_COVS_KEY, MODULE_KEYS.CONT_COVS_KEY)
    ]

    def log_share(modality: str, z: torch.Tensor) -> torch.Tensor:
        """Of representations ``(b, d)``, shape ``(b, m)``."""
        observation = model._observation_of(modality)
        return observation.link.log_profile(observation.output(z, *given))

    return log_share


def _slopes(
    expected: Callable, of_genes: Callable, draws: torch.Tensor, genes: torch.Tensor, root: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Sums over cells of slopes at draws ``(s, b, d)``, of their squares, and of their variances over draws, each ``(G, m)``."""
    sums = []
    for gene in genes:
        found = []
        for z in draws:
            with torch.enable_grad():
                leaf = z.detach().requires_grad_()
                (gradient,) = torch.autograd.grad(of_genes(leaf)[:, gene].sum(), leaf)
            along = gradient @ root
            delta = along @ root.T / along.square().sum(1, keepdim=True).clamp(min=_TINY)
            found.append(torch.func.jvp(expected, (z,), (delta,))[1].double())
        slopes = torch.stack(found)  # (s, b, m)
        of_cells = slopes.mean(0)
        sums.append([of_cells.sum(0), of_cells.square().sum(0), slopes.var(0).sum(0)])
    return tuple(torch.stack(of_all) for of_all in zip(*sums, strict=True))


def _scores(model: MULTIDGD, adata: AnnData, positions: np.ndarray, genes: torch.Tensor, modality: str) -> np.ndarray:
    """Scores of the counts of each feature along the log share of each gene, shape ``(G, m)``; ValueError without cells that have both."""
    manager = model.get_anndata_manager(adata, required=True)
    counts = registered_cells(manager).rows(positions)
    column = {name: model._genes_in(name) for name in ("rna", modality)}
    has_both = np.all([counts[:, here].getnnz(1) > 0 for here in column.values()], axis=0)
    if has_both.sum() < 2:
        msg = (
            f"{has_both.sum()} of {len(positions)} cells have both genes and {modality!r}, and counts are compared in cells that have. "
            "Name others in `indices`."
        )
        raise ValueError(msg)
    positions, x = positions[has_both], counts[has_both][:, column[modality]].astype(np.float64)
    z = model.posterior.found_anew(adata, positions, None, column["rna"]).to(model.device)
    found, first = [], 0
    with frozen(model.module):
        for tensors in model._make_data_loader(adata, indices=positions, batch_size=_TOGETHER):
            decode = _decoder_of(model, owned(model.module, tensors))
            found.append(decode("rna", z[first : first + _TOGETHER])[:, genes])
            first += _TOGETHER
    t = torch.cat(found).double().cpu().numpy()  # (n, G)
    batch = np.asarray(manager.get_from_registry(REGISTRY_KEYS.BATCH_KEY)).ravel()[positions]
    measured = None if manager.measured is None else manager.measured.codes[positions]
    strata = (
        batch
        if measured is None
        else np.unique(np.column_stack([batch, measured]), axis=0, return_inverse=True)[1].ravel()
    )
    score, variance = np.zeros((2, t.shape[1], x.shape[1]))
    for stratum in np.unique(strata):
        cells = strata == stratum
        of_stratum = _moments(x[cells], t[cells])
        score, variance = score + of_stratum[0], variance + of_stratum[1]
    return np.divide(score, np.sqrt(variance), out=np.zeros_like(score), where=variance > 0)


def _moments(x: sparse.csr_matrix, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Score and its variance of counts ``(n, m)`` along log shares ``(n, G)`` in one batch, each ``(G, m)``; no dense counts."""
    size = np.asarray(x.sum(1)).ravel()
    share = np.asarray(x.sum(0)).ravel() / size.sum()
    tau = t - size @ t / size.sum()
    square, of_square = tau**2, x.multiply(x).tocsr()
    variance = (of_square.T @ square - 2 * share[:, None] * (x.T @ (size[:, None] * square))).T
    variance = variance + np.outer((size**2) @ square, share**2)
    return (x.T @ tau).T, np.maximum(variance, 0)
