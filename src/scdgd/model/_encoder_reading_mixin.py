"""What models with an encoder say of cells: clusters, loadings, importance weights, parameters of the likelihood."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from scvi import REGISTRY_KEYS
from scvi.utils import track

from scdgd._compat import MODULE_KEYS
from scdgd.data import SparseCounts
from scdgd.likelihood._base import mean_of

from ._aggregated_posterior import AggregatedPosteriorMixin, anchor_cells, importance_weights
from ._cells import positions_of
from ._reading_mixin import ReadingMixin

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from anndata import AnnData
    from torch.distributions import Distribution

    from scdgd.likelihood import Likelihood

    from ._reading_mixin import Decoding


class EncoderReadingMixin(AggregatedPosteriorMixin, ReadingMixin):
    """Downstream methods where posteriors come from an encoder and the prior is one of :mod:`scdgd.prior`."""

    _no_clusters = "The prior has one component, so there are no clusters. Choose e.g. `prior='vmm'`."

    @torch.inference_mode()
    def get_cluster_assignments(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        soft: bool = False,
        batch_size: int | None = None,
    ) -> np.ndarray:
        r"""Component of each cell at the mean of its posterior, :math:`\arg\max_c\, p(c \mid \nu_i)`.

        For a VampPrior mixture probabilities are those of its E-step (Stirn & Knowles 2024). :class:`SCGMVAE` has an
        encoder of components, :math:`\arg\max_c\, q(c \mid x)`.

        Parameters
        ----------
        adata, indices
            Cells; those that the model was set up with if not given.
        soft
            Whether to return probabilities.
        batch_size
            Cells per minibatch.

        Returns
        -------
        Components, shape ``(n,)``, int; or probabilities, shape ``(n, k)``.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        ValueError
            If the prior has one component.
        """
        self._check_if_trained(warn=False)
        if self.module.prior.n_components == 1:
            raise ValueError(self._no_clusters)
        return self._assign(adata, indices, soft, batch_size).cpu().numpy()

    def _assign(self, adata, indices, soft: bool, batch_size: int | None) -> torch.Tensor:
        """Components, or their probabilities, of cells."""
        z = self.get_latent_representation(adata, indices, batch_size=batch_size)
        prior = self.module.given_prior()
        parts = torch.as_tensor(z, device=self.module.device).split(10_000)
        log_joint = torch.cat([prior.expected_component_log_prob(part) for part in parts])
        return torch.softmax(log_joint, dim=-1) if soft else log_joint.argmax(dim=-1)

    def get_latent_library_size(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        give_mean: bool = True,
        batch_size: int | None = None,
        dataloader: Iterable[dict] | None = None,
        **data_loader_kwargs,
    ) -> np.ndarray:
        """Size of each cell, as in scvi-tools; where it is observed, `give_mean` makes no difference.

        Parameters
        ----------
        adata, indices
            Cells; those that the model was set up with if not given.
        give_mean
            Mean of the posterior of the size, or a sample from it.
        batch_size
            Cells per minibatch.
        dataloader, **data_loader_kwargs
            As in scvi-tools.

        Returns
        -------
        Sizes, shape ``(n, 1)``.
        """
        give_mean = give_mean and not self.module.use_observed_lib_size
        return super().get_latent_library_size(adata, indices, give_mean, batch_size, dataloader, **data_loader_kwargs)

    def get_batch_representation(
        self, adata: AnnData | None = None, indices: Sequence[int] | None = None, batch_size: int | None = None
    ) -> np.ndarray:
        """Embeddings of the batches of cells, as in scvi-tools.

        Parameters
        ----------
        adata, indices
            Cells; those that the model was set up with if not given.
        batch_size
            Cells per minibatch.

        Returns
        -------
        Shape ``(n, dimensions of the embedding)``.

        Raises
        ------
        ValueError
            If batches are not embedded.
        """
        if self.module.batch_representation != "embedding":
            msg = "Batches of this model are one-hot, so they have no representation: build it with `batch_representation='embedding'`."
            raise ValueError(msg)
        return super().get_batch_representation(adata, indices, batch_size)

    @torch.inference_mode()
    def get_loadings(self) -> pd.DataFrame:
        r"""Loadings of genes in a linear decoder, as of :class:`scvi.model.LinearSCVI`.

        A unit of :math:`z_l` multiplies the ratio of the mean counts of genes :math:`j` and :math:`j'` by
        :math:`e^{W_{jl} - W_{j'l}}`.

        Returns
        -------
        Data frame of shape ``(g, d)``: genes, and dimensions ``"Z_0"``, ``"Z_1"``, ...

        Raises
        ------
        ValueError
            If the decoder is not linear.
        """
        self._check_if_trained(warn=False)
        decoder = self.module.decoder
        if not self.module.has_linear_decoder:
            msg = "Loadings are those of a linear decoder, and this one has hidden layers. Choose `decoder='linear'`."
            raise ValueError(msg)
        columns = [f"Z_{i}" for i in range(decoder.n_latent)]
        return pd.DataFrame(decoder.loadings.cpu().numpy(), index=self.get_var_names(), columns=columns)

    @torch.inference_mode()
    def get_component_means(self) -> np.ndarray:
        """Means of the prior's components in the latent space.

        Returns
        -------
        Means, shape ``(k, d)``.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        """
        self._check_if_trained(warn=False)
        return self.module.given_prior().component_means.cpu().numpy()

    @torch.inference_mode()
    def get_importance_weights(
        self,
        adata: AnnData | None,
        indices: Sequence[int],
        qz: torch.distributions.Distribution,
        px: torch.distributions.Distribution,
        zs: torch.Tensor,
        max_cells: int = 1_024,
        truncation: bool = False,
        n_mc_samples: int = 500,
        n_mc_samples_per_pass: int = 250,
        **data_loader_kwargs,
    ) -> np.ndarray:
        r"""Weights of representations by how well they explain the cells of a group, as in scVI but with our prior.

        .. math::
            w(z) \propto \sum_{a \in A} \frac{p(x_a \mid z)\, p(z)}{\hat p(x_a)\, \sum_{a'} q(z \mid x_{a'})}

        Parameters
        ----------
        adata, indices
            The cells of the group.
        qz
            Of scvi-tools' signature; posteriors of anchor cells are computed here.
        px
            Distribution of counts of each sample and cell, shape ``(s, n, g)``.
        zs
            Samples ``(s, n, d)``.
        max_cells
            Most anchor cells ``A``; a random subset of larger groups.
        truncation
            Whether to raise small weights to the mean (Ionides 2008), as scvi-tools does.
        n_mc_samples, n_mc_samples_per_pass
            Samples of the evidence of each anchor cell, and how many are decoded together.
        **data_loader_kwargs
            Of the data loader.

        Returns
        -------
        Weights that sum to one, shape ``(s * n,)``.

        Raises
        ------
        NotImplementedError
            If the likelihood is not one of counts.
        """
        self._check_importance_weights()
        module, indices = self.module, positions_of(indices, self._validate_anndata(adata).n_obs)
        anchors = anchor_cells(indices, max_cells)
        z = zs.reshape(-1, zs.shape[-1]).to(module.device)  # (m, d)
        scale = px.scale.reshape(len(z), -1).to(module.device)  # (m, g)
        loader = self._make_data_loader(adata=adata, indices=anchors, batch_size=1, **data_loader_kwargs)
        log_ratio, log_q = [], []
        for tensors in track(loader, description="Importance weights", total=len(anchors)):
            tensors = {key: value.to(module.device) for key, value in tensors.items()}
            q_of_anchor = module.inference(**module._get_inference_input(tensors, full_forward_pass=True))
            log_q.append(q_of_anchor[MODULE_KEYS.QZ_KEY].log_prob(z.unsqueeze(1)).sum(-1))  # (m, 1)
            evidence = module.marginal_ll(tensors, n_mc_samples, n_mc_samples_per_pass=n_mc_samples_per_pass)
            x = tensors[REGISTRY_KEYS.X_KEY]  # (1, g)
            x = x.to_dense() if isinstance(x, SparseCounts) else x
            px_of_anchor = _with_mean(module.likelihood, px, scale * x.sum(-1), len(z), module.device)
            log_ratio.append(px_of_anchor.log_prob(x).sum(-1, keepdim=True) - evidence.to(module.device))
        return importance_weights(log_ratio, module.given_prior().log_prob(z), log_q, truncation=truncation)

    def _check_importance_weights(self) -> None:
        family = self.module.likelihood
        if not (family.is_of_counts and family.has_free_mean):
            msg = f"Importance weights are for counts, and `gene_likelihood` is {self.module.gene_likelihood!r}. Leave out `weights`."
            raise NotImplementedError(msg)

    @torch.inference_mode()
    def _decoded_overall(self, decoding: Decoding, n_overall: int, weights: str | None, weighting: dict) -> np.ndarray:
        """Draws of all cells together, chosen by :meth:`get_importance_weights` if they are asked for."""
        if weights != "importance":
            return super()._decoded_overall(decoding, n_overall, weights, weighting)
        if len(decoding.batches) > 1:
            msg = "Importance weights are those of one way to decode, not of means over batches: name one `transform_batch`."
            raise NotImplementedError(msg)
        n_samples = n_overall // len(decoding.positions) + 1
        parts, zs = [], []
        for tensors in self._make_data_loader(decoding.adata, decoding.positions, **decoding.loading):
            inferred, outputs = self.module.forward(
                tensors=tensors,
                inference_kwargs={"n_samples": n_samples},
                generative_kwargs={"transform_batch": decoding.batches[0]},
                compute_loss=False,
            )
            parts.append(outputs[MODULE_KEYS.PX_KEY])
            zs.append(inferred[MODULE_KEYS.Z_KEY].cpu())
        px = _joined(self.module.likelihood, parts)
        p = self.get_importance_weights(
            decoding.adata, decoding.positions, qz=None, px=px, zs=torch.cat(zs, dim=-2), **weighting
        )
        values = px.get_normalized(decoding.quantity)[..., decoding.genes] * decoding.factor
        values = values.reshape(-1, values.shape[-1]).cpu().numpy()
        return values[np.random.choice(len(values), n_overall, p=p, replace=True)]  # noqa: NPY002  as scvi-tools draws

    def get_marginal_ll(
        self, *args, return_mean: bool = True, n_mc_samples: int = 1_000, **kwargs
    ) -> float | torch.Tensor:
        """As in scvi-tools; the mean is over cells, not over minibatches of which the last one is smaller.

        Parameters
        ----------
        *args, **kwargs
            As in scvi-tools.
        return_mean
            Whether to return the mean over cells.
        n_mc_samples
            Samples of each cell.

        Returns
        -------
        The mean in nats per cell, or a tensor of shape ``(n,)``.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        """
        self._check_if_trained(warn=False)
        log_evidence = super().get_marginal_ll(*args, return_mean=False, n_mc_samples=n_mc_samples, **kwargs)
        return float(log_evidence.mean()) if return_mean else log_evidence


def _joined(family: type[Likelihood], parts: list[Distribution]) -> Distribution:
    """The count distributions of minibatches as one, cells after each other."""
    mean, scale = (torch.cat(values, dim=-2) for values in zip(*((mean_of(px), px.scale) for px in parts), strict=True))
    arguments = [family.arguments_of(px) for px in parts]
    joined = {name: torch.cat([given[name] for given in arguments], dim=-2) for name in arguments[0]}
    return family.distribution(mean, scale, joined)


def _with_mean(
    family: type[Likelihood], px: Distribution, mean: torch.Tensor, n: int, device: torch.device
) -> Distribution:
    """The count distributions of ``n`` samples, with means ``(n, g)``."""
    rows = lambda value: value.reshape(n, *value.shape[px.scale.ndim - 1 :]).to(device)
    given = {name: rows(value) for name, value in family.arguments_of(px).items()}
    return family.unconstrained().distribution(mean, rows(px.scale), given)
