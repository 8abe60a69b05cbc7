"""Synthetic cells: draws from the prior or from the posteriors of cells, decoded."""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch
from scvi import REGISTRY_KEYS, settings
from scvi.utils import track

from scdgd._options import Integer

from ._found_posteriors import with_found_posteriors
from ._growing_csr import GrowingCSR
from ._library import LogNormalLibrary
from ._registered_sampler import RegisteredSampler, check_library, spread_evenly
from ._seeding import seeded
from ._stock_module import knows_prior, latent_module

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData
    from scipy import sparse
    from scvi.data import AnnDataManager
    from scvi.module.base import BaseModuleClass

    from ._registered_sampler import Library

    Tensors = dict[str, torch.Tensor]

#: Draws of a posterior that are made at once, so that finding it is paid for once.
_DRAWS_TOGETHER = 25
_SHOW_CELLS = 10_000


class SyntheticCells(NamedTuple):
    """Draws of ``n`` cells."""

    counts: sparse.csr_matrix
    """Shape ``(n, g)``."""
    z: np.ndarray
    """Representations that counts were drawn at, shape ``(n, d)``."""
    components: np.ndarray
    """Mixture components of the representations, shape ``(n,)``: drawn, or the most probable ones at posterior draws."""
    donors: np.ndarray
    """Positions of the cells that batch, covariates, size or representation come from, shape ``(n,)``."""


class CellSampler(RegisteredSampler):
    r"""Synthetic cells of a model with a decoder.

    .. math::
        z \sim p(z) \text{ or } z \sim q(z \mid x_i), \qquad s \sim p(s), \qquad x \sim p(x \mid z, s, b_i)

    All models of this package and :class:`scvi.model.SCVI` and :class:`scvi.model.LinearSCVI`, whose prior is
    :math:`\mathcal N(0, I)`, are sampled alike. Batch and covariates :math:`b_i` are those of a real cell, the donor.

    Parameters
    ----------
    module
        Module of a trained model, in evaluation mode.
    adata_manager
        Manager of its cells. Where the model keeps representations by cell, their rows must have been looked up.
    batch_size
        Cells decoded together; ``None`` for scvi-tools' setting.

    Raises
    ------
    TypeError
        If the module is of another kind.
    ValueError
        If `batch_size` is not a positive integer.
    """

    def __init__(
        self, module: BaseModuleClass, adata_manager: AnnDataManager, *, batch_size: int | None = None
    ) -> None:
        if not knows_prior(module):
            msg = (
                f"Cells are drawn from models of scdgd, `scvi.model.SCVI` and `scvi.model.LinearSCVI`, not from a model "
                f"with the module {type(module).__name__}, whose prior is another one. Use the model's own "
                "`posterior_predictive_sample`, if it has one."
            )
            raise TypeError(msg)
        super().__init__(
            latent_module(module),
            adata_manager.registry,
            adata_manager,
            settings.batch_size if batch_size is None else batch_size,
        )

    @property
    def n_components(self) -> int:
        """Number of components of the prior, one for stock models."""
        return self.module.prior.n_components

    @torch.inference_mode()
    def sample_prior(
        self,
        n_cells: int,
        donors: np.ndarray,
        *,
        component: int | None = None,
        library: Library = "empirical",
        seed: int | None = None,
    ) -> SyntheticCells:
        """Draw from the prior. Each cell borrows size, batch and covariates from a random donor.

        Parameters
        ----------
        n_cells
            Number of cells ``n``.
        donors
            Positions of possible donors, shape ``(m,)``.
        component
            Draw from this mixture component only.
        library
            ``"empirical"``: sizes of the donors; ``"lognormal"``: drawn from a log-normal fitted to the sizes of the
            donors of each batch; a number: expected total count of every cell.
        seed
            Seed of all draws; ``None`` continues torch's generator and starts a fresh one of NumPy.

        Raises
        ------
        ValueError
            If `n_cells`, `component` or `library` is not possible.
        """
        n_cells = Integer(1)("n_cells", n_cells)
        self._check_library(library)
        chosen = np.random.default_rng(seed).choice(donors, n_cells)
        prior = self.module.given_prior()
        rows = _Rows(n_cells, len(self.genes), prior.n_latent)
        with seeded(seed):
            sizes = self._fitted_sizes(donors) if library == "lognormal" else None
            for tensors in self._shown(chosen, n_cells):
                z, components = prior.sample(len(tensors[REGISTRY_KEYS.X_KEY]), component)
                z = self.module.transformed(z)
                log_size = self._log_size(sizes, tensors, self.module.log_size(tensors))
                rows.append(self._draw_counts(z, log_size, tensors, library), z, components)
        return SyntheticCells(*rows.finish(), chosen)

    @torch.inference_mode()
    def sample_posterior(
        self, n_cells: int, donors: np.ndarray, *, library: Library = "empirical", seed: int | None = None
    ) -> SyntheticCells:
        r"""Draw replicates of cells, :math:`z \sim q(z \mid x_i)`.

        Each of the ``m`` donors is copied :math:`\lfloor n/m \rfloor` times, and a random :math:`n \bmod m` of them once
        more. Treppner et al. 2021 take the first ones, which in a sorted file would be of one kind. Copies of the donors
        of a minibatch follow each other.

        Parameters
        ----------
        n_cells
            Number of cells ``n``.
        donors
            Positions of the cells to replicate, shape ``(m,)``.
        library, seed
            As for :meth:`sample_prior`. Where the model infers sizes, empirical ones are draws of their posteriors.
        """
        n_cells = Integer(1)("n_cells", n_cells)
        self._check_library(library)
        sources, copies = spread_evenly(n_cells, donors, np.random.default_rng(seed))
        prior, order = self.module.given_prior(), []
        rows = _Rows(n_cells, len(self.genes), prior.n_latent)
        first = 0
        with seeded(seed):
            sizes = self._fitted_sizes(donors) if library == "lognormal" else None
            for tensors in self._shown(sources, n_cells):
                last = first + len(tensors[REGISTRY_KEYS.X_KEY])
                for z, log_size, cells in self._replicates(tensors, copies[first:last]):
                    given = _rows_of(tensors, cells)
                    log_size = self._log_size(sizes, given, log_size)
                    components = prior.responsibilities(z).argmax(-1)
                    rows.append(self._draw_counts(z, log_size, given, library), z, components)
                    order.append(sources[first:last][cells.cpu().numpy()])
                first = last
        return SyntheticCells(*rows.finish(), np.concatenate(order))

    def to_anndata(self, cells: SyntheticCells, latent_key: str, *, with_sources: bool = False) -> AnnData:
        """AnnData of synthetic cells.

        Parameters
        ----------
        cells
            Of ``n`` cells.
        latent_key
            Key of the representations in ``obsm``.
        with_sources
            Whether ``obs["source_cell"]`` names the donors.

        Returns
        -------
        Counts as CSR, ``obs["component"]``, the batch column if there is more than one batch, and representations.
        """
        names = [str(c) for c in range(self.n_components)]
        components = pd.Categorical(cells.components.astype(str), categories=names)
        samples = self._named(cells.counts, cells.z, latent_key, components, self._batch_codes[cells.donors])
        if with_sources:
            samples.obs["source_cell"] = self._names_of(cells.donors)
        return samples

    def _check_library(self, library: Library) -> None:
        check_library(library)
        if library != "empirical" and not self.module.has_size:
            msg = (
                f"`library={library!r}` has no effect: this model decodes values whatever the size of a cell "
                "(`mean_activation` is 'rate' or 'identity', or `size_factor='none'`). Use `library='empirical'`."
            )
            raise ValueError(msg)
        family = getattr(self.module, "likelihood", None)
        if isinstance(library, Real) and family is not None and not family.has_free_mean:
            msg = f"`library={library!r}` scales means, which those of `k_max` are not free for. Use `library='empirical'`."
            raise ValueError(msg)

    def _fitted_sizes(self, donors: np.ndarray) -> LogNormalLibrary:
        return LogNormalLibrary.fit(self.module, self._minibatches(donors))

    def _shown(self, positions: np.ndarray, n_cells: int) -> Iterator[Tensors]:
        n_minibatches = -(-len(positions) // self.batch_size)
        return track(
            self._minibatches(positions),
            description=f"Drawing {n_cells} cells",
            disable=n_cells < _SHOW_CELLS,
            total=n_minibatches,
        )

    def _replicates(self, tensors: Tensors, copies: np.ndarray) -> Iterator[tuple[torch.Tensor, ...]]:
        """Draws ``(m, d)`` of the posteriors of a minibatch, log sizes ``(m, 1)`` and cells ``(m,)``, part by part."""
        copies = torch.as_tensor(copies, device=self.module.device)
        tensors = tensors if self.module.keeps_rows else with_found_posteriors(self.module, tensors)
        for first in range(0, int(copies.max()), _DRAWS_TOGETHER):
            n = min(_DRAWS_TOGETHER, int(copies.max()) - first)
            z, log_size = self.module.draw_posterior(tensors, n)  # (n, b, d), (n, b, 1)
            wanted = first + torch.arange(n, device=copies.device).unsqueeze(1) < copies  # (n, b)
            cells = torch.arange(len(copies), device=copies.device).expand_as(wanted)[wanted]
            parts = (part.split(self.batch_size) for part in (z[wanted], log_size.expand(n, -1, -1)[wanted], cells))
            yield from zip(*parts, strict=True)

    def _log_size(self, sizes: LogNormalLibrary | None, tensors: Tensors, empirical: torch.Tensor) -> torch.Tensor:
        return empirical if sizes is None else sizes.sample(tensors[REGISTRY_KEYS.BATCH_KEY])

    def _draw_counts(self, z: torch.Tensor, log_size: torch.Tensor, tensors: Tensors, library: Library) -> np.ndarray:
        """Counts ``(b, g)`` at representations ``(b, d)``, with the covariates of `tensors`."""
        px = self.module.decode(z, log_size, tensors)
        if isinstance(library, Real):
            px = self.module.decode(z, log_size + np.log(library) - px.mean.sum(-1, keepdim=True).log(), tensors)
        return px.sample().cpu().numpy()


class _Rows:
    """Collected counts, representations and components of ``n`` cells."""

    def __init__(self, n_cells: int, n_genes: int, n_latent: int) -> None:
        self.counts, self.n = GrowingCSR(n_cells, n_genes), 0
        self.z, self.components = np.empty((n_cells, n_latent), np.float32), np.empty(n_cells, np.int32)

    def append(self, counts: np.ndarray, z: torch.Tensor, components: torch.Tensor) -> None:
        """Add a block of cells: counts ``(b, g)``, representations ``(b, d)`` and components ``(b,)``."""
        self.counts.append(counts)
        cells = slice(self.n, self.n + len(z))
        self.z[cells], self.components[cells] = z.cpu().numpy(), components.cpu().numpy()
        self.n += len(z)

    def finish(self) -> tuple[sparse.csr_matrix, np.ndarray, np.ndarray]:
        """Counts ``(n, g)``, representations ``(n, d)`` and components ``(n,)`` of all blocks."""
        return self.counts.to_matrix(), self.z, self.components


def _rows_of(tensors: Tensors, cells: torch.Tensor) -> Tensors:
    """What the decoder reads of the given cells: all but their counts."""
    return {key: value[cells] for key, value in tensors.items() if key != REGISTRY_KEYS.X_KEY}
