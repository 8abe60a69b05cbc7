"""Posteriors that come from an encoder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from scvi import REGISTRY_KEYS

from scdgd._compat import MODULE_KEYS
from scdgd._constants import POSTERIOR_KEY, STORED_KEY
from scdgd.inference import with_found_posteriors
from scdgd.likelihood._base import mean_of

from ._cell_posterior import CellPosterior
from ._proposals import proposals_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anndata import AnnData
    from torch.distributions import Distribution

    from scdgd.likelihood import Likelihood

    from ._cell_posterior import Decoding


class PosteriorOfEncoder(CellPosterior):
    """Every sample is a draw, and draws of a group of cells are weighed by the prior of the module.

    Posteriors of cells that lack genes, of which an encoder knows nothing, are found by gradients.
    """

    _no_clusters = "The prior has one component, so there are no clusters. Choose e.g. `prior='vmm'`."

    def of_minibatch(self, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """With posteriors of cells that lack genes, see :func:`scdgd.inference.with_found_posteriors`."""
        return with_found_posteriors(self.module, tensors)

    def clusters(
        self, adata: AnnData | None, indices: Sequence[int] | None, soft: bool, batch_size: int | None
    ) -> np.ndarray:
        """Components ``(n,)``, or their probabilities ``(n, k)``; ValueError if there is one."""
        if self.module.prior.n_components == 1:
            raise ValueError(self._no_clusters)
        return self._assign(adata, indices, soft, batch_size).cpu().numpy()

    def _assign(
        self, adata: AnnData | None, indices: Sequence[int] | None, soft: bool, batch_size: int | None
    ) -> torch.Tensor:
        """Components, or their probabilities, at the means of posteriors."""
        z = self.model.get_latent_representation(adata, indices, batch_size=batch_size)
        prior = self.module.given_prior()
        parts = torch.as_tensor(z, device=self.module.device).split(10_000)
        log_joint = torch.cat([prior.expected_component_log_prob(part) for part in parts])
        return torch.softmax(log_joint, dim=-1) if soft else log_joint.argmax(dim=-1)

    def check_importance_weights(self) -> None:
        """Raise unless the likelihood is one of counts whose means are free."""
        family = self.module.likelihood
        if not (family.is_of_counts and family.has_free_mean):
            msg = f"Importance weights are for counts, and `gene_likelihood` is {self.module.gene_likelihood!r}. Leave out `weights`."
            raise NotImplementedError(msg)

    @torch.inference_mode()
    def decoded_overall(self, decoding: Decoding, n_overall: int, weights: str | None, weighting: dict) -> np.ndarray:
        """Draws of all cells together, chosen by :meth:`FlexSCVI.get_importance_weights` if they are asked for."""
        decoding, n_cells = decoding.counted()
        if weights != "importance":
            has_flow = self.module.has_flow and decoding.quantity == "scale" and n_cells <= n_overall
            if has_flow:
                return self._decoded_of_flow(decoding, n_overall, n_cells)
            return super().decoded_overall(decoding, n_overall, weights, weighting)
        n_samples = n_overall // n_cells + 1
        parts, zs = [], []
        for tensors in decoding.read(self.model):
            tensors = {key: value.to(self.module.device) for key, value in tensors.items()}
            zs.append(proposals_of(self.encoded(tensors)).draw(n_samples))
            parts.append(self._decoded_at(zs[-1], tensors, decoding.batches[0]))
        px = _joined(self.module.likelihood, parts)
        p = self.model._importance_weights(
            proposals_of, decoding.adata, decoding.positions, px=px, zs=torch.cat(zs, dim=-2), **weighting
        )
        values = px.get_normalized(decoding.quantity)[..., decoding.genes] * decoding.factor
        values = values.reshape(-1, values.shape[-1]).cpu().numpy()
        return values[np.random.choice(len(values), n_overall, p=p, replace=True)]  # noqa: NPY002  as scvi-tools draws

    def _decoded_of_flow(self, decoding: Decoding, n_overall: int, n_cells: int) -> np.ndarray:
        """Shares at draws of all cells together; of the draws, which a flow is slow to make, only those that are taken."""
        pool = np.random.choice((n_overall // n_cells + 1) * n_cells, n_overall, replace=True)  # noqa: NPY002  as scvi-tools
        pool, taken = np.unique(pool, return_inverse=True)
        order = np.argsort(pool % n_cells, kind="stable")  # as cells are read
        cells, first, parts = (pool % n_cells)[order], 0, []
        for tensors in decoding.read(self.model):
            n = len(tensors[REGISTRY_KEYS.X_KEY])
            here = torch.as_tensor(cells[(cells >= first) & (cells < first + n)] - first, device=self.module.device)
            first += n
            tensors = {key: value.to(self.module.device) for key, value in tensors.items()}
            z = self.module.variational_posterior(tensors).of(here).sample()
            tensors = {key: value[here] for key, value in tensors.items()}
            scales = [self._decoded_at(z, tensors, batch).get_normalized("scale") for batch in decoding.batches]
            parts.append(torch.stack(scales).mean(0)[..., decoding.genes].cpu().numpy() * decoding.factor)
        return np.concatenate(parts)[np.argsort(order)][taken]

    def check_minifiable(self) -> None:
        """Sizes of cells are their totals."""
        if not self.module.use_observed_lib_size:
            msg = (
                "Minified data keep the total count of each cell, and `use_observed_lib_size=False` has posteriors of sizes. Keep "
                "the counts, or use `use_observed_lib_size=True`."
            )
            raise ValueError(msg)

    def kept_beside(self, *, has_counts: bool) -> dict[str, np.ndarray]:
        """Rows of the posteriors ``(n, w)``, where moments do not describe them; see ``StoredPosterior``."""
        if self.module.stored_posterior.n_columns == 0:
            return {}
        rows = [self.module.rows_to_store(tensors).cpu() for tensors in self.to_encode()]
        return {POSTERIOR_KEY: torch.cat(rows).numpy()}

    def to_encode(self) -> Iterator[dict[str, torch.Tensor]]:
        """Minibatches of the attached cells, which have counts, without what is kept of their posteriors if data are minified."""
        kept = (REGISTRY_KEYS.LATENT_QZM_KEY, REGISTRY_KEYS.LATENT_QZV_KEY, STORED_KEY)
        for tensors in self.model._make_data_loader(self.model.adata):
            is_minified = REGISTRY_KEYS.LATENT_QZM_KEY in tensors
            encoded = {key: value for key, value in tensors.items() if key not in kept}
            yield self.of_minibatch(encoded) if is_minified else tensors

    def encoded(self, tensors: dict[str, torch.Tensor]) -> Distribution:
        """Posteriors of the cells of a minibatch."""
        inputs = self.module._get_inference_input(tensors, full_forward_pass=True)
        return self.module.inference(**inputs)[MODULE_KEYS.QZ_KEY]

    def _decoded_at(self, z: torch.Tensor, tensors: dict[str, torch.Tensor], batch: int | None) -> Distribution:
        """Law of the counts at draws ``(s, b, d)`` for the cells of a minibatch."""
        library = self.module.log_size(tensors).expand(*z.shape[:-1], 1)
        given = {MODULE_KEYS.Z_KEY: z, MODULE_KEYS.LIBRARY_KEY: library}
        inputs = self.module._get_generative_input(tensors, given)
        return self.module.generative(**inputs, transform_batch=batch)[MODULE_KEYS.PX_KEY]


def _joined(family: type[Likelihood], parts: list[Distribution]) -> Distribution:
    """The count distributions of minibatches as one, cells after each other."""
    mean, scale = (torch.cat(values, dim=-2) for values in zip(*((mean_of(px), px.scale) for px in parts), strict=True))
    arguments = [family.arguments_of(px) for px in parts]
    joined = {name: torch.cat([given[name] for given in arguments], dim=-2) for name in arguments[0]}
    return family.distribution(mean, scale, joined)


def with_mean(
    family: type[Likelihood], px: Distribution, mean: torch.Tensor, n: int, device: torch.device
) -> Distribution:
    """The count distributions of ``n`` samples, with means ``(n, g)``."""
    rows = lambda value: value.reshape(n, *value.shape[px.scale.ndim - 1 :]).to(device)
    given = {name: rows(value) for name, value in family.arguments_of(px).items()}
    return family.unconstrained().distribution(mean, rows(px.scale), given)
