"""Where representations and decoder of an untrained model with one representation a cell start."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scipy import sparse
from scvi import REGISTRY_KEYS

from scdgd.data import CellsOfModality, SparseCounts

from ._gene_means import gene_moments, profile_of_panels, totals_and_size
from ._joint_scores import joint_scores
from ._whitened_pca import whitened_pca

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scdgd.data import CellSource
    from scdgd.module import DGDModule, Observation


@torch.no_grad()
def start_representations(
    module: DGDModule, cells: CellSource, train: np.ndarray, rows: np.ndarray, seed: int = 0
) -> None:
    """Representations from whitened PCA, decoder at the mean profile; both from training cells only.

    Of all `cells` with a row, whose `rows` in the table ``(n,)`` are given, those at positions `train` do train.
    """
    table, n_latent, batch = module.representations.table, module.prior.n_latent, cells.columns[REGISTRY_KEYS.BATCH_KEY]
    modalities = modality_sources(module, cells)
    if len(modalities) > 1:
        of_cells = [of_modality for _, of_modality in modalities]
        are_counts = [observation.family.is_of_counts for observation, _ in modalities]
        codes = np.asarray(batch).ravel().astype(int)
        z = joint_scores(of_cells, n_latent, train=train, batch=codes, seed=seed, are_counts=are_counts)
    else:
        options = {"train_indices": train, "batch": batch, "seed": seed}
        z = whitened_pca(cells, n_latent, **options, log_normalise=module.likelihood.is_of_counts)
    table[torch.as_tensor(rows, device=table.device), :n_latent] = torch.as_tensor(z, device=table.device)
    for observation, of_modality in modalities:
        _start_observation(observation, of_modality, of_modality.among(train) if len(modalities) > 1 else train)


def modality_sources(module: DGDModule, cells: CellSource) -> list[tuple[Observation, CellSource]]:
    """The observations of a module, each with the cells that have it."""
    observations = list(module.observations.values())
    if len(observations) == 1:
        return [(observations[0], cells)]
    ends = np.cumsum([observation.decoder.n_genes for observation in observations])
    starts = [0, *ends[:-1]]
    return [(o, CellsOfModality(cells, a, b)) for o, a, b in zip(observations, starts, ends, strict=True)]


@torch.no_grad()
def note_usual_sizes(module: DGDModule, cells: CellSource, train: np.ndarray) -> None:
    """Store the mean log size of training cells in each modality, or moments of log totals, in a module that keeps them."""
    if module.latent_size is not None:
        batch = torch.as_tensor(np.asarray(cells.columns[REGISTRY_KEYS.BATCH_KEY]).ravel().astype(int))
        found = [(some, np.asarray(block.sum(axis=1)).ravel()) for some, block in _blocks_of(cells, train)]
        some, totals = (np.concatenate(each) for each in zip(*found, strict=True))
        module.latent_size.fit(torch.as_tensor(totals, dtype=torch.float64).clamp(min=1).log(), batch[some])
    modalities = [] if module.usual_log_size is None else modality_sources(module, cells)
    for i, (observation, of_modality) in enumerate(modalities):
        total, n = 0.0, 0
        for some, block in _blocks_of(of_modality, of_modality.among(train) if len(modalities) > 1 else train):
            counts = SparseCounts.from_scipy(sparse.csr_matrix(block))
            measured = None if of_modality.measured is None else of_modality.measured.of(some)
            total, n = total + float(observation.log_size_of(counts, None, measured).double().sum()), n + len(some)
        module.usual_log_size[i] = total / max(n, 1)


def _start_observation(observation: Observation, cells: CellSource, train: np.ndarray) -> None:
    """Decoder of a modality at the mean of the training cells that have it."""
    if cells.measured is not None:
        _start_with_panels(observation, cells, train)
        return
    if observation.family.is_of_counts:
        sizes = cells.columns.get(REGISTRY_KEYS.SIZE_FACTOR_KEY)
        blocks = _blocks_of(cells, train)
        totals, size = totals_and_size(
            (block, observation.size.total(block, None if sizes is None else sizes[some].ravel()))
            for some, block in blocks
        )
        observation.start_at((totals / size).float())
        return
    mean, variance = gene_moments(block for _, block in _blocks_of(cells, train))
    observation.start_at(observation.family.eta_of(mean), variance)


def _start_with_panels(observation: Observation, cells: CellSource, train: np.ndarray) -> None:
    """Decoder at the mean profile, of each gene over the training cells in which it was measured."""
    panels, codes, sizes = cells.measured.panels, cells.measured.codes, cells.columns.get(REGISTRY_KEYS.SIZE_FACTOR_KEY)
    if not observation.family.is_of_counts:
        n_measured = np.bincount(codes[train], minlength=len(panels)) @ panels
        mean, variance = gene_moments((block for _, block in _blocks_of(cells, train)), n_measured)
        observation.start_at(observation.family.eta_of(mean), variance)
        return
    totals, size = np.zeros(panels.shape), np.zeros(len(panels))
    for some, block in _blocks_of(cells, train):
        for k in np.unique(codes[some]):
            of_panel, genes = codes[some] == k, np.flatnonzero(panels[k])
            part = block[of_panel][:, genes]
            totals[k, genes] += np.asarray(part.sum(axis=0, dtype=np.float64)).ravel()
            size[k] += observation.size.total(part, None if sizes is None else sizes[some[of_panel]].ravel())
    observation.start_at(profile_of_panels(totals, size, panels, is_share=observation.link.is_share))


def _blocks_of(cells: CellSource, some: np.ndarray) -> Iterator[tuple[np.ndarray, np.ndarray | sparse.csr_matrix]]:
    """Positions and counts of some cells, in order."""
    is_wanted = np.zeros(len(cells), dtype=bool)
    is_wanted[some] = True
    for first, block in cells.blocks():
        wanted = np.flatnonzero(is_wanted[first : first + block.shape[0]])
        yield first + wanted, block[wanted]
