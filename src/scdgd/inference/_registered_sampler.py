"""What samplers of cells share: names of genes and batches, and the real cells that synthetic ones borrow from."""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from anndata import AnnData
from scvi import REGISTRY_KEYS

from scdgd._compat import get_state_registry
from scdgd._options import Integer, shown
from scdgd.data import SparseCountsLoader, code_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import torch
    from scipy import sparse
    from scvi.data import AnnDataManager
    from scvi.module.base import BaseModuleClass

Library = Literal["empirical", "lognormal"] | float


class RegisteredSampler:
    """A sampler of the cells of a registered data set.

    Parameters
    ----------
    module
        Module of a trained model.
    registry
        Registry of the model: names of genes and batches.
    adata_manager
        Manager of real cells, the donors of batches, covariates and sizes; ``None`` where no cell is borrowed from.
    batch_size
        Cells that are drawn together.

    Raises
    ------
    ValueError
        If `batch_size` is not a positive integer.
    """

    def __init__(
        self, module: BaseModuleClass, registry: dict, adata_manager: AnnDataManager | None, batch_size: int
    ) -> None:
        self.module, self.registry, self.manager = module, registry, adata_manager
        self.batch_size = Integer(1)("batch_size", batch_size)

    @property
    def genes(self) -> np.ndarray:
        """Names of the genes, shape ``(g,)``."""
        return np.asarray(get_state_registry(self.registry, REGISTRY_KEYS.X_KEY)["column_names"], str)

    @property
    def batches(self) -> list:
        """Names of the batches."""
        return list(get_state_registry(self.registry, REGISTRY_KEYS.BATCH_KEY)["categorical_mapping"])

    def donors_of(self, batch: str | None = None) -> np.ndarray:
        """Positions of the cells of a batch, shape ``(m,)``; all if it is not given.

        Raises
        ------
        ValueError
            If the model does not know the batch, or has no cells of it.
        """
        codes = self._batch_codes
        donors = np.arange(len(codes)) if batch is None else np.flatnonzero(codes == self._code_of(batch))
        if len(donors) == 0:
            msg = f"None of the attached cells is of batch {batch!r}, so there is none to borrow a size from."
            raise ValueError(msg)
        return donors

    @property
    def _batch_codes(self) -> np.ndarray:
        """Batch of each attached cell, shape ``(n,)``."""
        return np.asarray(self.manager.get_from_registry(REGISTRY_KEYS.BATCH_KEY)).ravel().astype(int)

    def _code_of(self, batch: str) -> int:
        code = code_of(batch, self.batches)
        if code < 0:
            msg = f"There is no batch {shown(batch)}; the model knows {list(map(str, self.batches))}."
            raise ValueError(msg)
        return code

    def _minibatches(self, positions: np.ndarray) -> Iterator[dict[str, torch.Tensor]]:
        for tensors in SparseCountsLoader(self.manager, positions, self.batch_size):
            yield {key: value.to(self.module.device) for key, value in tensors.items()}

    def _named(
        self,
        counts: sparse.csr_matrix,
        z: np.ndarray,
        latent_key: str,
        components: pd.Categorical | None,
        batch_codes: np.ndarray,
    ) -> AnnData:
        """Synthetic cells with the model's genes, their components if there are such, and batches if there are several."""
        obs = pd.DataFrame(index=[f"sample_{i}" for i in range(counts.shape[0])])
        if components is not None:
            obs["component"] = components
        if len(self.batches) > 1:
            key = get_state_registry(self.registry, REGISTRY_KEYS.BATCH_KEY)["original_key"]
            obs[key] = pd.Categorical.from_codes(batch_codes, self.batches)
        return AnnData(counts, obs=obs, var=pd.DataFrame(index=self.genes), obsm={latent_key: z})

    def _names_of(self, donors: np.ndarray) -> pd.Categorical:
        """Names of real cells by position, shape ``(n,)``."""
        return pd.Categorical(np.asarray(self.manager.adata.obs_names, dtype=object)[donors])


def check_library(library: Library) -> None:
    """Raise ValueError unless `library` is one of its choices or a positive, finite number."""
    is_total = isinstance(library, Real) and not isinstance(library, bool) and 0 < library < np.inf
    if not is_total and library not in ("empirical", "lognormal"):
        msg = (
            "Sizes of cells (`library`, or `library_size`) must be 'empirical', 'lognormal' or a total count, which must "
            f"be positive, got {library!r}."
        )
        raise ValueError(msg)


def spread_evenly(n_cells: int, donors: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    r"""Spread ``n`` copies over ``m`` donors: :math:`\lfloor n/m \rfloor` each, and one more for a random rest.

    Returns
    -------
    Donors that are copied, in their order, and the number of their copies.
    """
    copies = np.full(len(donors), n_cells // len(donors))
    copies[rng.choice(len(donors), n_cells % len(donors), replace=False)] += 1
    return donors[copies > 0], copies[copies > 0]


def of_component(
    donors: np.ndarray, assigned: np.ndarray, component: int, n_components: int
) -> tuple[np.ndarray, np.ndarray]:
    """Those of the donors that are assigned to a component."""
    if component not in range(n_components):
        msg = f"`component` must be one of 0 ... {n_components - 1}, got {component}."
        raise ValueError(msg)
    members = assigned == component
    if not members.any():
        msg = (
            f"No cell is assigned to component {component}, so there is none to replicate. Use `mode='prior'`, or one of "
            f"the components {np.unique(assigned).tolist()}."
        )
        raise ValueError(msg)
    return donors[members], assigned[members]
