"""Synthetic cells: draws from the prior or from the posteriors of cells, decoded."""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scvi import REGISTRY_KEYS, settings
from scvi.module import LDVAE, VAE
from scvi.utils import track

from scdgd._compat import MODULE_KEYS, get_state_registry
from scdgd.data import SparseCounts, SparseCountsLoader
from scdgd.module import DGDModule, FlexVAE
from scdgd.prior import Prior, StandardNormal

from ._growing_csr import GrowingCSR
from ._library import LogNormalLibrary, log_size_of
from ._posterior import posterior_draws
from ._seeding import seeded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scipy import sparse
    from scvi.data import AnnDataManager
    from torch.distributions import Distribution

    from scdgd.likelihood import CountLikelihood

Library = Literal["empirical", "lognormal"] | float
Tensors = dict[str, torch.Tensor]

#: Modules of scvi-tools with a standard normal prior.
_STOCK = (VAE, LDVAE)
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


class CellSampler:
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
        self, module: DGDModule | VAE, adata_manager: AnnDataManager, *, batch_size: int | None = None
    ) -> None:
        if not isinstance(module, DGDModule | FlexVAE) and type(module) not in _STOCK:
            msg = (
                f"Cells are drawn from models of scdgd, `scvi.model.SCVI` and `scvi.model.LinearSCVI`, not from a model "
                f"with the module {type(module).__name__}, whose prior is another one. Use the model's own "
                "`posterior_predictive_sample`, if it has one."
            )
            raise TypeError(msg)
        self.module, self.manager = module, adata_manager
        self.batch_size = settings.batch_size if batch_size is None else positive_integer("batch_size", batch_size)

    @property
    def prior(self) -> Prior:
        """Prior of representations."""
        if isinstance(self.module, FlexVAE):
            return self.module.given_prior()
        if isinstance(self.module, DGDModule):
            return self.module.prior
        return StandardNormal(self.module.n_latent).to(self.module.device)

    def donors_of(self, batch: str | None = None) -> np.ndarray:
        """Positions of the cells of a batch, shape ``(m,)``; all if it is not given.

        Raises
        ------
        ValueError
            If the model does not know the batch, or has no cells of it.
        """
        codes = np.asarray(self.manager.get_from_registry(REGISTRY_KEYS.BATCH_KEY)).ravel()
        if batch is None:
            return np.arange(len(codes))
        categories = list(self._state(REGISTRY_KEYS.BATCH_KEY)["categorical_mapping"])
        if batch not in categories:
            msg = f"There is no batch {batch!r}; the model knows {categories}."
            raise ValueError(msg)
        donors = np.flatnonzero(codes == categories.index(batch))
        if len(donors) == 0:
            msg = f"None of the attached cells is of batch {batch!r}, so there is none to borrow a library size from."
            raise ValueError(msg)
        return donors

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
        n_cells = positive_integer("n_cells", n_cells)
        self._check_library(library)
        chosen = np.random.default_rng(seed).choice(donors, n_cells)
        prior = self.prior
        rows = _Rows(n_cells, self.n_genes, prior.n_latent)
        with seeded(seed):
            sizes = self._fitted_sizes(donors) if library == "lognormal" else None
            for tensors in self._shown(chosen, n_cells):
                z, components = prior.sample(len(tensors[REGISTRY_KEYS.X_KEY]), component)
                if isinstance(self.module, VAE):  # identity, or softmax for the logistic normal
                    z = self.module.z_encoder.z_transformation(z)
                log_size = self._log_size(sizes, tensors, log_size_of(self.module, tensors))
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
        n_cells = positive_integer("n_cells", n_cells)
        self._check_library(library)
        sources, copies = spread_evenly(n_cells, donors, np.random.default_rng(seed))
        prior, order = self.prior, []
        rows = _Rows(n_cells, self.n_genes, prior.n_latent)
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
        k = self.n_components
        obs = pd.DataFrame(
            {"component": pd.Categorical(cells.components.astype(str), categories=[str(c) for c in range(k)])},
            index=[f"sample_{i}" for i in range(len(cells.components))],
        )
        state = self._state(REGISTRY_KEYS.BATCH_KEY)
        if len(state["categorical_mapping"]) > 1:
            codes = np.asarray(self.manager.get_from_registry(REGISTRY_KEYS.BATCH_KEY)).ravel()[cells.donors]
            obs[state["original_key"]] = pd.Categorical.from_codes(codes.astype(int), state["categorical_mapping"])
        if with_sources:
            obs["source_cell"] = pd.Categorical(np.asarray(self.manager.adata.obs_names, dtype=object)[cells.donors])
        samples = AnnData(cells.counts, obs=obs, var=pd.DataFrame(index=self._genes))
        samples.obsm[latent_key] = cells.z
        return samples

    @property
    def n_components(self) -> int:
        """Number of components of the prior, one for stock models."""
        return 1 if type(self.module) in _STOCK else self.module.prior.n_components

    @property
    def n_genes(self) -> int:
        """Number of genes ``g``."""
        return len(self._genes)

    @property
    def _genes(self) -> np.ndarray:
        return np.asarray(self._state(REGISTRY_KEYS.X_KEY)["column_names"], str)

    def _state(self, key: str) -> dict:
        return get_state_registry(self.manager.registry, key)

    def _check_library(self, library: Library) -> None:
        is_size = isinstance(library, Real) and not isinstance(library, bool) and 0 < library < np.inf
        if not is_size and library not in ("empirical", "lognormal"):
            msg = f"`library` must be 'empirical', 'lognormal' or a positive total count, got {library!r}."
            raise ValueError(msg)
        without_size = getattr(self.module, "mean_activation", None) in ("rate", "identity")
        without_size |= getattr(self.module, "size_factor", None) == "none"
        if library != "empirical" and without_size:
            msg = (
                f"`library={library!r}` has no effect: this model decodes values whatever the size of a cell "
                "(`mean_activation` is 'rate' or 'identity', or `size_factor='none'`). Use `library='empirical'`."
            )
            raise ValueError(msg)

    def _minibatches(self, positions: np.ndarray) -> Iterator[Tensors]:
        for tensors in SparseCountsLoader(self.manager, positions, self.batch_size):
            yield {key: value.to(self.module.device) for key, value in tensors.items()}

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
        for first in range(0, int(copies.max()), _DRAWS_TOGETHER):
            n = min(_DRAWS_TOGETHER, int(copies.max()) - first)
            z, log_size = self._draw_posterior(tensors, n)  # (n, b, d), (n, b, 1)
            wanted = first + torch.arange(n, device=copies.device).unsqueeze(1) < copies  # (n, b)
            cells = torch.arange(len(copies), device=copies.device).expand_as(wanted)[wanted]
            parts = (part.split(self.batch_size) for part in (z[wanted], log_size.expand(n, -1, -1)[wanted], cells))
            yield from zip(*parts, strict=True)

    def _draw_posterior(self, tensors: Tensors, n: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Draws ``(n, b, d)`` of the posteriors of a minibatch, and log sizes, ``(n, b, 1)`` or ``(b, 1)``."""
        module = self.module
        if isinstance(module, DGDModule):
            rows = module.representations(tensors[REGISTRY_KEYS.INDICES_KEY].ravel())
            return posterior_draws(module, tensors, rows, n), log_size_of(module, tensors)
        given = tensors if isinstance(module, FlexVAE) else _dense(tensors)
        outputs = module.inference(**module._get_inference_input(given), n_samples=n)
        z = outputs[MODULE_KEYS.Z_KEY]
        if module.use_observed_lib_size:
            return z.reshape(n, -1, z.shape[-1]), log_size_of(module, tensors)
        return z.reshape(n, -1, z.shape[-1]), outputs[MODULE_KEYS.LIBRARY_KEY].reshape(n, -1, 1)

    def _log_size(self, sizes: LogNormalLibrary | None, tensors: Tensors, empirical: torch.Tensor) -> torch.Tensor:
        return empirical if sizes is None else sizes.sample(tensors[REGISTRY_KEYS.BATCH_KEY])

    def _draw_counts(self, z: torch.Tensor, log_size: torch.Tensor, tensors: Tensors, library: Library) -> np.ndarray:
        """Counts ``(b, g)`` at representations ``(b, d)``, with the covariates of `tensors`."""
        px = self._decode(z, log_size, tensors)
        if isinstance(library, Real):
            px = self._decode(z, log_size + np.log(library) - px.mean.sum(-1, keepdim=True).log(), tensors)
        return px.sample().cpu().numpy()

    def _decode(self, z: torch.Tensor, log_size: torch.Tensor, tensors: Tensors) -> Distribution | CountLikelihood:
        module = self.module
        if isinstance(module, DGDModule):
            return module.generative(z, log_size, **module.covariates(tensors))[MODULE_KEYS.PX_KEY]
        inputs = module._get_generative_input(tensors, {MODULE_KEYS.Z_KEY: z, MODULE_KEYS.LIBRARY_KEY: log_size})
        if inputs[MODULE_KEYS.SIZE_FACTOR_KEY] is not None:
            inputs[MODULE_KEYS.SIZE_FACTOR_KEY] = log_size
        return module.generative(**inputs)[MODULE_KEYS.PX_KEY]


def spread_evenly(n_cells: int, donors: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    r"""Spread ``n`` copies over ``m`` donors: :math:`\lfloor n/m \rfloor` each, and one more for a random rest.

    Returns
    -------
    Donors that are copied, in their order, and the number of their copies.
    """
    copies = np.full(len(donors), n_cells // len(donors))
    copies[rng.choice(len(donors), n_cells % len(donors), replace=False)] += 1
    return donors[copies > 0], copies[copies > 0]


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


def _dense(tensors: Tensors) -> Tensors:
    """Dense counts, which stock modules want."""
    x = tensors[REGISTRY_KEYS.X_KEY]
    return tensors | {REGISTRY_KEYS.X_KEY: x.to_dense() if isinstance(x, SparseCounts) else x}


def positive_integer(name: str, value: int) -> int:
    """The value as an integer; ValueError if it is not a positive one."""
    if not isinstance(value, Real) or isinstance(value, bool) or not value >= 1 or int(value) != value:
        msg = f"`{name}` must be a positive integer, got {value!r}."
        raise ValueError(msg)
    return int(value)
