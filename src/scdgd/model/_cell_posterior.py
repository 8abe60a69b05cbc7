"""Posteriors of cells, as downstream methods read them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from scvi import REGISTRY_KEYS, settings
from scvi.utils import track

from scdgd._compat import MODULE_KEYS
from scdgd.inference import latent_module

from ._information import coordinates_of
from ._query_genes import minibatches_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from anndata import AnnData
    from scvi.model.base import BaseModelClass

    from scdgd.inference import InformationCoordinates


class Decoding(NamedTuple):
    """Which cells are decoded, and what is taken of it."""

    adata: AnnData | None
    positions: np.ndarray | None
    """Cells, shape ``(n,)``."""
    batches: list[int | None]
    """Batches to decode as, averaged over; ``None`` for that of each cell."""
    genes: np.ndarray | slice
    """Positions of genes, in the order of the result."""
    quantity: Literal["scale", "mu"]
    """Shares of genes, or expected counts."""
    factor: float
    """What shares are multiplied by."""
    n_samples: int
    """Samples of each cell."""
    minibatches: Iterable[dict] | None
    """In place of cells."""
    loading: dict
    """Arguments of the loader."""
    silent: bool

    def read(self, model: BaseModelClass) -> Iterable[dict]:
        """The minibatches of the cells."""
        if self.minibatches is not None:
            return self.minibatches
        return model._make_data_loader(self.adata, self.positions, **self.loading)

    def counted(self) -> tuple[Decoding, int]:
        """The same, with minibatches that can be read again if they were given, and the number of its cells.

        Raises
        ------
        ValueError
            If there are none.
        """
        if self.minibatches is None:
            given, n_cells = self, len(self.positions)
        else:
            given = self._replace(minibatches=list(self.minibatches))
            n_cells = sum(len(tensors[REGISTRY_KEYS.X_KEY]) for tensors in given.minibatches)
        if n_cells == 0:
            msg = "There are no cells to draw from: the `dataloader`, or `indices`, gives none."
            raise ValueError(msg)
        return given, n_cells

    @torch.inference_mode()
    def run(self, model: BaseModelClass) -> np.ndarray:
        """Decode, minibatch by minibatch, shape ``(n, g)``, or ``(s, n, g)`` for several samples."""
        parts = []
        for tensors in self.read(model):
            of_batches = [self._decode(model, tensors, batch) for batch in track(self.batches, disable=self.silent)]
            parts.append((of_batches[0] if len(of_batches) == 1 else torch.stack(of_batches).mean(0)).numpy())
        return np.concatenate(parts, axis=-2)

    def _decode(self, model: BaseModelClass, tensors: dict[str, torch.Tensor], batch: int | None) -> torch.Tensor:
        _, outputs = model.module.forward(
            tensors=tensors,
            inference_kwargs={"n_samples": self.n_samples},
            generative_kwargs={"transform_batch": batch},
            compute_loss=False,
        )
        value = outputs[MODULE_KEYS.PX_KEY].get_normalized(self.quantity)
        return (value[..., self.genes] * self.factor).cpu()


class CellPosterior:
    """How posteriors of cells are read, which differs between kinds of models: ``model.posterior``, made at each access.

    As it stands it is that of a module that draws representations by itself.

    Parameters
    ----------
    model
        The model.
    """

    def __init__(self, model: BaseModelClass) -> None:
        self.model, self.module = model, model.module

    def of_minibatch(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """A minibatch with what the module is to know of the posteriors of its cells beforehand: as it is, nothing."""
        return tensors

    def decoded(self, decoding: Decoding) -> np.ndarray:
        """Decoded values of cells, shape ``(n, g)``, or ``(s, n, g)`` for several samples."""
        return decoding.run(self.model)

    def decoded_overall(self, decoding: Decoding, n_overall: int, weights: str | None, weighting: dict) -> np.ndarray:
        """Decoded values at draws of all cells together, shape ``(n_overall, g)``; of more cells only those drawn are read."""
        decoding, n_cells = decoding.counted()
        if n_cells > n_overall and decoding.minibatches is None:
            cells, drawn = np.unique(np.random.choice(n_cells, n_overall, replace=True), return_inverse=True)  # noqa: NPY002
            return self.drawn(decoding._replace(positions=decoding.positions[cells], n_samples=1))[drawn]
        values = self.drawn(decoding._replace(n_samples=n_overall // n_cells + 1))
        values = values.reshape(-1, values.shape[-1])
        return values[np.random.choice(len(values), n_overall, replace=True)]  # noqa: NPY002  as scvi-tools draws

    def drawn(self, decoding: Decoding) -> np.ndarray:
        """Decoded values at draws of posteriors, shape ``(n, g)``, or ``(s, n, g)`` for several samples."""
        return decoding.run(self.model)

    def latent_draws(self, adata: AnnData, positions: np.ndarray, n_samples: int) -> torch.Tensor:
        """Draws of the posteriors of validated cells, shape ``(s, n, d)``, on the CPU."""
        module = latent_module(self.module)
        with torch.no_grad():
            minibatches = (
                {k: v.to(module.device) for k, v in t.items()} for t in self.model._make_data_loader(adata, positions)
            )
            return torch.cat([module.draw_posterior(t, n_samples)[0].cpu() for t in minibatches], dim=1)

    def parameters_of_counts(self, tensors: dict[str, torch.Tensor], n_samples: int) -> dict[str, torch.Tensor]:
        """Parameters of the likelihood of a minibatch, shapes ``(b, g)``, or ``(s, b, g)`` for several samples."""
        _, outputs = self.module.forward(tensors, inference_kwargs={"n_samples": n_samples}, compute_loss=False)
        return self.module.likelihood.read(outputs[MODULE_KEYS.PX_KEY])

    def replicates(self, tensors: dict[str, torch.Tensor], n_samples: int, batch: int | None) -> torch.Tensor:
        """Counts drawn anew for the cells of a minibatch, shape ``(b, g)``, or ``(b, g, s)`` for several draws."""
        return self.module.sample(tensors, n_samples=n_samples, generative_kwargs={"transform_batch": batch})

    def sizes(self, minibatches: Iterable[dict[str, torch.Tensor]]) -> torch.Tensor:
        """Size factor of each cell, shape ``(n, 1)``."""
        return torch.cat([self.module.log_size(tensors).exp() for tensors in minibatches])

    def known_cells(self) -> np.ndarray:
        """Positions of the cells of training, held out or not, among those attached to the model, shape ``(m,)``: all of them."""
        return np.arange(self.model.adata.n_obs)

    def held_out_cells(self) -> np.ndarray:
        """Positions of those that no training has seen, shape ``(m,)``."""
        known, held_out = self.known_cells(), self.model.held_out_cells_
        none = np.zeros(0, dtype=np.int64)
        return none if held_out is None else known[np.isin(self.model.adata_manager.names[known].astype(str), held_out)]

    def training_cells(self) -> np.ndarray:
        """Positions of the training cells, shape ``(m,)``."""
        return np.setdiff1d(self.known_cells(), self.held_out_cells())

    def found_anew(
        self, adata: AnnData, positions: np.ndarray, batch_size: int | None, genes: np.ndarray | None = None
    ) -> torch.Tensor:
        """Representations of cells at sorted `positions`, found as those of new cells are, shape ``(n, d)``.

        With `genes` ``(g,)``, bool, as those of new cells of which these were measured.
        """
        if genes is None:
            return torch.as_tensor(self.model.get_latent_representation(adata, positions, batch_size=batch_size))
        minibatches = minibatches_of(self.model, adata, positions, batch_size or settings.batch_size, genes)
        return torch.as_tensor(self.model.get_latent_representation(dataloader=map(self.of_minibatch, minibatches)))

    def coordinates(self, genes: np.ndarray | None = None) -> InformationCoordinates:
        """Coordinates of information, those of the model; with `genes` ``(g,)``, bool, of the counts of these."""
        return (
            self.model.get_information() if genes is None else coordinates_of(self.model, self.training_cells(), genes)
        )

    def found_coordinates(self) -> InformationCoordinates:
        """Coordinates of information, of the training cells that are attached; ValueError if there are none."""
        adata = self.model.adata
        trained = np.zeros(0, dtype=np.int64) if adata is None else self.training_cells()
        if not len(trained):
            attached = (
                "no cells are attached to this model" if adata is None else f"none of its {adata.n_obs} cells is one"
            )
            msg = (
                f"Coordinates of information are found from training cells, but {attached}, and it was saved without them. Call "
                "`get_information()` once on the model with its training data and save it, or attach them: "
                "`model.adata = adata`."
            )
            raise ValueError(msg)
        return coordinates_of(self.model, trained)

    def check_minifiable(self) -> None:
        """Raise where what is kept of posteriors, and sizes of cells, would not do in place of counts."""

    def moments_to_keep(self) -> tuple[np.ndarray, np.ndarray]:
        """Means and variances of the posteriors of the attached cells, each ``(n, d)``, for minified data."""
        return self.model.get_latent_representation(return_dist=True)

    def kept_beside(self, *, has_counts: bool) -> dict[str, np.ndarray]:
        """What else minified data, with or without counts, keep of the attached cells, arrays ``(n, ...)`` by their keys in ``obsm``."""
        return {}

    def check_coordinates(self) -> None:
        """Raise where counts have no information about representations, because nothing decodes these."""

    def check_importance_weights(self) -> None:
        """Raise where draws cannot be weighed by how well they explain cells."""

    def check_density(self, use: str) -> None:
        """Raise where representations have no density, which `use` needs."""
