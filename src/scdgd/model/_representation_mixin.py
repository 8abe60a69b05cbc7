"""Representations by cell name: trained cells from the table, new cells placed once and remembered."""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING

import numpy as np
import torch
from scvi import REGISTRY_KEYS
from scvi.utils import track

from scdgd._compat import get_state_registry
from scdgd.inference import NewCellsConfig, place_new_cells, place_variational, undisturbed

from ._cells import positions_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anndata import AnnData

    from scdgd.data import CellRegistration

logger = logging.getLogger(__name__)

_DECODER_INPUTS = (
    REGISTRY_KEYS.BATCH_KEY,
    REGISTRY_KEYS.CAT_COVS_KEY,
    REGISTRY_KEYS.CONT_COVS_KEY,
    REGISTRY_KEYS.SIZE_FACTOR_KEY,
)
_BLOCK_CELLS = 10_000
_PLACED_TOGETHER = 512


class RepresentationMixin:
    """Latent representations and clusters of models that keep one representation for each cell.

    Every downstream method of scvi-tools asks :meth:`_make_data_loader` for its minibatches. That is the one seam:
    rows are looked up by cell name there, and cells without a row are placed first.
    """

    _new_cells: NewCellsConfig

    def _start_representations(self, new_cells: NewCellsConfig) -> None:
        """Nothing is placed yet; called once the registry stands."""
        self._new_cells = new_cells
        self._placed_rows: dict[bytes, int] = {}

    @property
    def _trained_cells(self) -> dict:
        """Names and fingerprints of the training cells, in the order of the table."""
        return get_state_registry(self.registry_, REGISTRY_KEYS.INDICES_KEY)

    @property
    def placed_cells_(self) -> dict[str, list | torch.Tensor] | None:
        """The cells that a query model has placed, which are saved with it; ``None`` for other models."""
        if not self.is_query_:
            return None
        keys = sorted(self._placed_rows, key=self._placed_rows.get)
        return {"keys": keys, "rows": self.module.representations.placed_later.cpu()}

    @placed_cells_.setter
    def placed_cells_(self, placed: dict[str, list | torch.Tensor] | None) -> None:
        if placed is not None:
            first = len(self.module.representations)
            self.module.representations.append(placed["rows"])
            self._placed_rows = {key: first + i for i, key in enumerate(placed["keys"])}

    def _make_data_loader(self, adata, indices=None, **kwargs):
        self._resolve_rows(adata, indices)
        return super()._make_data_loader(adata, indices=indices, **kwargs)

    def _resolve_rows(
        self, adata, indices: Sequence[int] | None = None, batch_size: int | None = None, *, again: bool = False
    ) -> np.ndarray:
        """Rows of the representations of `indices`, shape ``(n,)``, placing new cells: those without one, or `again`."""
        manager = self.get_anndata_manager(adata, required=True)
        adata, rows = manager.adata, manager.rows.copy()
        positions = positions_of(indices, adata.n_obs)
        wanted = np.unique(positions[rows[positions] < 0])  # sorted, as backed data must be read
        if len(wanted):
            keys = _keys(manager, wanted)
            new = np.array([again or key not in self._placed_rows for key in keys])
            if new.any():
                self._place(
                    adata, wanted[new], [key for key, is_new in zip(keys, new, strict=True) if is_new], batch_size
                )
            rows[wanted] = [self._placed_rows[key] for key in keys]
        manager.set_rows(rows)
        return rows[positions]

    @torch.inference_mode(False)  # what is remembered may be written to later, in any mode
    def _place(self, adata, positions: np.ndarray, keys: list[bytes], batch_size: int | None) -> None:
        """Infer representations of new cells, minibatch by minibatch, and remember them by name and counts."""
        if not self.is_trained_:
            msg = (
                f"{len(positions)} cells are new to the model, but it is not trained, so it cannot place them. "
                "Call `model.train()` first."
            )
            raise RuntimeError(msg)
        z = self._infer(adata, positions, self._new_cells, batch_size)
        representations = self.module.representations
        first = len(representations) + len(representations.placed_later)
        new = [key for key in keys if key not in self._placed_rows]
        self._placed_rows.update(zip(new, range(first, first + len(new)), strict=True))
        rows = torch.tensor([self._placed_rows[key] for key in keys], device=z.device)
        representations.append(z[rows >= first])
        representations.placed_later[rows - len(representations)] = z

    def _infer(self, adata, positions: np.ndarray, config: NewCellsConfig, batch_size: int | None) -> torch.Tensor:
        """Rows of the table for the cells at sorted `positions`, shape ``(m, width)``."""
        with torch.inference_mode(False), undisturbed():
            table, first = self.module.representations.table, 0
            z = table.new_empty(len(positions), table.shape[1])
            loader = super()._make_data_loader(adata, indices=positions, batch_size=batch_size or _PLACED_TOGETHER)
            show = len(positions) > _BLOCK_CELLS
            batches = track(loader, description=f"Placing {len(positions)} new cells", disable=not show)
            for tensors in batches:
                block = self._place_minibatch(tensors, config)
                z[first : first + len(block)] = block
                first += len(block)
            return z

    def _place_minibatch(self, tensors: dict[str, torch.Tensor], config: NewCellsConfig) -> torch.Tensor:
        if self.module.posterior.is_learned:
            return place_variational(self.module, tensors, config.n_steps, config.lr)
        return place_new_cells(self.module, tensors, config)

    def _forget_placed_cells(self) -> None:
        self._placed_rows.clear()
        self.module.representations.forget_placed_later()

    def infer_representations(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        n_steps: int | None = None,
        lr: float | None = None,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """Place new cells with a given effort, and remember the result for all other methods.

        Other methods place new cells by themselves; call this to spend more (or fewer) steps. Decoder, prior and the
        representations of training cells do not change; training cells are returned as they are. New cells are
        remembered by the model at hand; of a query model (:meth:`load_query_data`) they are saved with it, any other one
        places them again after it was loaded, with its own number of steps.

        Parameters
        ----------
        adata
            AnnData with the genes and batches of the model; the model's own if not given.
        indices
            Cells to place; all if not given.
        n_steps, lr
            Most steps, if other than the model's; a rate `lr` asks for Adam in place of Gauss-Newton.
        batch_size
            Cells that are placed together; the result does not depend on it.

        Returns
        -------
        Representations, shape ``(n, d)``.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        ValueError
            If `n_steps` is negative, or genes or batches are not those of the model; they are named.
        """
        self._check_if_trained(warn=False)
        adata = self._validate_anndata(adata)
        defaults = self._new_cells
        self._new_cells = defaults._replace(
            n_steps=defaults.n_steps if n_steps is None else n_steps, lr=defaults.lr if lr is None else lr
        )
        try:
            return self._representations_of(self._resolve_rows(adata, indices, batch_size, again=True))
        finally:
            self._new_cells = defaults

    def get_latent_representation(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        give_mean: bool = True,
        mc_samples: int = 5_000,
        batch_size: int | None = None,
        return_dist: bool = False,
        dataloader=None,
        *,
        full_covariance: bool = False,
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Representations of cells, for ``adata.obsm["X_scdgd"]`` (``"X_scvad"`` of :class:`SCVAD`).

        Training cells are looked up by name. Other cells are placed first: the best component mean by reconstruction
        (Schuster & Krogh 2023), then damped Gauss-Newton steps with everything else frozen. The result is remembered by
        name and counts, so no later call optimises again.

        Parameters
        ----------
        adata
            AnnData with the genes and batches of the model; the model's own if not given.
        indices
            Cells to return; all if not given.
        give_mean
            If false, one draw of each cell's posterior in place of its representation.
        mc_samples
            Of scvi-tools' signature, without effect; :meth:`get_posterior` takes the number of samples.
        batch_size
            Cells that are placed together; the result does not depend on it.
        return_dist
            Return mean and variance of each cell's posterior: those of :meth:`get_posterior`, or, for :class:`SCVAD`,
            the learned ones.
        dataloader
            Not supported: cells are found by name.
        full_covariance
            With `return_dist`, return covariances in place of variances.

        Returns
        -------
        Representations, shape ``(n, d)``; or means ``(n, d)`` and variances ``(n, d)``, or covariances ``(n, d, d)``.

        Raises
        ------
        NotImplementedError
            If a `dataloader` is given.
        RuntimeError
            If the model is not trained.
        """
        self._check_if_trained(warn=False)
        self._refuse_dataloader(dataloader)
        if return_dist:
            return self._posterior_moments(adata, indices, batch_size, full_covariance)
        adata = self._validate_anndata(adata)
        if not give_mean:
            return self._draw_representations(adata, indices, batch_size, 1).squeeze(0).numpy()
        return self._representations_of(self._resolve_rows(adata, indices, batch_size))

    @torch.inference_mode()
    def _representations_of(self, rows: np.ndarray) -> np.ndarray:
        z = np.empty((len(rows), self.module.prior.n_latent), dtype=np.float32)
        for cells, block in self._blocks_of(rows):
            z[cells] = block.cpu().numpy()
        return z

    def _blocks_of(self, rows: np.ndarray) -> Iterator[tuple[slice, torch.Tensor]]:
        """Representations of rows of the table, block by block with its place among them."""
        for first in range(0, len(rows), _BLOCK_CELLS):
            cells = slice(first, first + _BLOCK_CELLS)
            parameters = self.module.representations(torch.as_tensor(rows[cells], device=self.module.device))
            yield cells, self.module.posterior.moments(parameters)[0]

    @torch.inference_mode()
    def get_cluster_assignments(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        soft: bool = False,
        batch_size: int | None = None,
    ) -> np.ndarray:
        r"""Mixture component of each cell, :math:`\arg\max_c [\log w_c + \log \mathcal N_c(z_i)]`.

        Parameters
        ----------
        adata, indices, batch_size
            As for :meth:`get_latent_representation`.
        soft
            Return probabilities of all components.

        Returns
        -------
        Components, shape ``(n,)``, int; or probabilities, shape ``(n, k)``, rows summing to one.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        """
        self._check_if_trained(warn=False)
        rows = self._resolve_rows(self._validate_anndata(adata), indices, batch_size)
        prior = self.module.prior
        result = np.empty((len(rows), prior.n_components), np.float32) if soft else np.empty(len(rows), np.int64)
        for cells, z in self._blocks_of(rows):
            responsibilities = prior.responsibilities(z).cpu().numpy()
            result[cells] = responsibilities if soft else responsibilities.argmax(axis=1)
        return result

    def get_component_means(self) -> np.ndarray:
        """Means of the mixture components in the latent space.

        Returns
        -------
        Means, shape ``(k, d)``.
        """
        return self.module.prior.component_means.detach().cpu().numpy().copy()


def _keys(manager: CellRegistration, positions: np.ndarray) -> list[bytes]:
    """What makes new cells the same, hashed: name, counts, and all that enters the decoder beside the representation."""
    columns = [
        np.asarray(manager.get_from_registry(key), dtype=np.float64)[positions].reshape(len(positions), -1)
        for key in _DECODER_INPUTS
        if key in manager.data_registry
    ]
    inputs = np.ascontiguousarray(np.concatenate(columns, axis=1))
    return [
        hashlib.blake2b(fingerprint.tobytes() + row.tobytes() + name.encode(), digest_size=16).digest()
        for name, fingerprint, row in zip(
            manager.names[positions], manager.fingerprints[positions], inputs, strict=True
        )
    ]
