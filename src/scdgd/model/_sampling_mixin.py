"""Synthetic cells drawn from the model."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse
from scvi import REGISTRY_KEYS, settings

from scdgd._compat import MODULE_KEYS, get_state_registry
from scdgd.module import log_size_factor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from scdgd.prior import Prior


class PriorSamplingMixin:
    """Draws from the prior, decoded."""

    @torch.inference_mode()
    def prior_predictive_sample(
        self,
        n_cells: int,
        *,
        component: int | None = None,
        batch: str | None = None,
        library_size: float | None = None,
        seed: int | None = None,
        batch_size: int | None = None,
    ) -> AnnData:
        r"""Draw synthetic cells: :math:`z \sim p(z)`, decode, :math:`x \sim p(x \mid z)`.

        Each synthetic cell borrows size factor, batch and covariates from a random cell of the attached AnnData, never
        its counts or its representation.

        Parameters
        ----------
        n_cells
            Number of cells.
        component
            Draw from this mixture component only.
        batch
            Borrow from the cells of this batch only.
        library_size
            Expected total count of every cell, in place of the borrowed size factor.
        seed
            Seed of all draws; ``None`` continues torch's and a fresh NumPy generator.
        batch_size
            Cells decoded together.

        Returns
        -------
        AnnData with counts as CSR, ``obs["component"]``, the batch column if there is one, and ``obsm["X_scdgd"]`` (the
        drawn representations, under the model's own key).

        Raises
        ------
        ValueError
            If `n_cells`, `component`, `batch` or `library_size` is not possible, or no data are attached.
        """
        self._check_if_trained(warn=False)
        if n_cells < 1 or (library_size is not None and library_size <= 0):
            msg = f"`n_cells` and `library_size` must be positive, got {n_cells} and {library_size}."
            raise ValueError(msg)
        adata = self._validate_anndata(None)
        donors = np.random.default_rng(seed).choice(self._donor_pool(batch), n_cells)
        # past the look-up of representations, which are not wanted here
        loader = super()._make_data_loader(adata, indices=donors, batch_size=batch_size or settings.batch_size)
        prior = self._sampled_prior()
        counts, components, representations, batches = [], [], [], []
        with _seeded(seed):
            for tensors in loader:
                tensors = {key: value.to(self.module.device) for key, value in tensors.items()}
                z, component_of_cell = prior.sample(len(tensors[REGISTRY_KEYS.X_KEY]), component)
                px = self._decode_borrowed(z, tensors, library_size)
                counts.append(sparse.csr_matrix(px.sample().cpu().numpy()))
                components.append(component_of_cell.cpu().numpy())
                representations.append(z.cpu().numpy())
                batches.append(tensors[REGISTRY_KEYS.BATCH_KEY].ravel().cpu().numpy().astype(int))
        return self._as_anndata(counts, components, representations, batches)

    def _sampled_prior(self) -> Prior:
        return self.module.prior

    def _donor_pool(self, batch: str | None) -> np.ndarray:
        codes = np.asarray(self.adata_manager.get_from_registry(REGISTRY_KEYS.BATCH_KEY)).ravel()
        if batch is None:
            return np.arange(len(codes))
        categories = list(get_state_registry(self.registry_, REGISTRY_KEYS.BATCH_KEY)["categorical_mapping"])
        if batch not in categories:
            msg = f"There is no batch {batch!r}; the model knows {categories}."
            raise ValueError(msg)
        return np.flatnonzero(codes == categories.index(batch))

    def _decode_borrowed(self, z: torch.Tensor, tensors: dict[str, torch.Tensor], library_size: float | None):
        module = self.module
        x, registered = tensors[REGISTRY_KEYS.X_KEY], tensors.get(REGISTRY_KEYS.SIZE_FACTOR_KEY)
        library = log_size_factor(x, module.size_factor, registered)
        covariates = module.covariates(tensors)
        px = module.generative(z, library, **covariates)[MODULE_KEYS.PX_KEY]
        if library_size is None:
            return px
        library = library + np.log(library_size) - px.mean.sum(-1, keepdim=True).log()
        return module.generative(z, library, **covariates)[MODULE_KEYS.PX_KEY]

    def _as_anndata(self, counts, components, representations, batches) -> AnnData:
        components, batches = np.concatenate(components), np.concatenate(batches)
        n_components = self.module.prior.n_components
        obs = pd.DataFrame(
            {"component": pd.Categorical(components.astype(str), categories=[str(c) for c in range(n_components)])},
            index=[f"sample_{i}" for i in range(len(components))],
        )
        state = get_state_registry(self.registry_, REGISTRY_KEYS.BATCH_KEY)
        if len(state["categorical_mapping"]) > 1:
            obs[state["original_key"]] = pd.Categorical.from_codes(batches, state["categorical_mapping"])
        genes = get_state_registry(self.registry_, REGISTRY_KEYS.X_KEY)["column_names"]
        samples = AnnData(sparse.vstack(counts, format="csr"), obs=obs, var=pd.DataFrame(index=np.asarray(genes, str)))
        samples.obsm[self._latent_key] = np.concatenate(representations)
        return samples


@contextlib.contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """Seed torch inside the block only."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield
