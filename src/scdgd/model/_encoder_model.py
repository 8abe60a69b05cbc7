"""What models with an encoder say of cells: clusters, loadings, importance weights, parameters of the likelihood."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from scvi import REGISTRY_KEYS
from scvi.model.base import RNASeqMixin

from scdgd._constants import MEASURED_KEY
from scdgd.data import SparseCounts

from ._aggregated_posterior import anchor_cells, importance_weights
from ._cells import positions_of
from ._found_minibatches import FoundMinibatches
from ._latent_model import Coordinates, LatentModel
from ._posterior_of_encoder import PosteriorOfEncoder, with_mean
from ._proposals import EncodedProposals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from anndata import AnnData

#: Entries of decoded draws that are held together.
_MAX_ELEMENTS = 2**24


class EncoderModel(LatentModel):
    """Downstream methods where posteriors come from an encoder and the prior is one of :mod:`scdgd.prior`."""

    _posterior_cls = PosteriorOfEncoder

    def _make_data_loader(self, *args: Any, **kwargs: Any) -> FoundMinibatches:
        """Of all methods that read cells; training has loaders of its own, and learns the encoder's posteriors."""
        return FoundMinibatches(super()._make_data_loader(*args, **kwargs), self.posterior)

    def get_latent_representation(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        give_mean: bool = True,
        mc_samples: int = 5_000,
        batch_size: int | None = None,
        return_dist: bool = False,
        dataloader: Iterable[dict] | None = None,
        *,
        coordinates: Coordinates = "latent",
        **data_loader_kwargs: Any,
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        """Representations of cells, as in scvi-tools.

        Parameters
        ----------
        adata, indices, batch_size
            As for :meth:`get_normalized_expression`.
        give_mean
            Mean of each cell's posterior, or a draw from it.
        mc_samples
            Draws of which the mean is taken where it has no closed form (``latent_distribution="ln"``).
        return_dist
            Return mean and variance of each cell's posterior.
        dataloader, **data_loader_kwargs
            As in scvi-tools.
        coordinates
            ``"latent"``, in which the prior lives, or ``"information"``, those of :meth:`get_information`, in which distances
            between cells are information of their counts; variances are then those of these coordinates.

        Returns
        -------
        Representations, shape ``(n, d)``; or means and variances, each ``(n, d)``.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        NotImplementedError
            For variances in coordinates of information where the posterior is no normal with independent dimensions.
        """
        if return_dist and coordinates == "information":
            self._check_independent()
        given = (adata, indices, give_mean, mc_samples, batch_size, return_dist, dataloader)
        found = super().get_latent_representation(*given, **data_loader_kwargs)
        if not return_dist:
            return self._in(coordinates, found)
        mean, variance = found
        return (mean, variance) if coordinates == "latent" else self._moments_in(mean, variance)

    def _check_independent(self) -> None:
        """Raise NotImplementedError unless posteriors are normals with independent dimensions."""
        made_of = "Variances in coordinates of information are made of"
        if self.module.latent_distribution == "ln":
            msg = f"{made_of} those of representations, and `latent_distribution='ln'` has those of their logarithms. Take them as they are."
            raise NotImplementedError(msg)
        beyond = self.module.stored_posterior.beyond_moments
        if beyond is not None:
            msg = (
                f"{made_of} the mean and variance of each posterior, which do not describe {beyond}. Take draws of it "
                "(`give_mean=False`)."
            )
            raise NotImplementedError(msg)

    def _moments_in(self, mean: np.ndarray, variance: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Moments ``(n, d)`` in coordinates of information."""
        map_to = self.get_information()
        return map_to.to_information(mean), map_to.variances(variance)

    def get_latent_library_size(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        give_mean: bool = True,
        batch_size: int | None = None,
        dataloader: Iterable[dict] | None = None,
        **data_loader_kwargs: Any,
    ) -> np.ndarray:
        """Size of each cell, as in scvi-tools; where it is observed, `give_mean` makes no difference.

        Parameters
        ----------
        adata, indices, batch_size
            As for :meth:`get_normalized_expression`.
        give_mean
            Mean of the posterior of the size, or a sample from it.
        dataloader, **data_loader_kwargs
            As in scvi-tools.

        Returns
        -------
        Sizes, shape ``(n, 1)``.
        """
        give_mean = give_mean and not self.module.use_observed_lib_size
        return RNASeqMixin.get_latent_library_size(
            self, adata, indices, give_mean, batch_size, dataloader, **data_loader_kwargs
        )

    def get_batch_representation(
        self, adata: AnnData | None = None, indices: Sequence[int] | None = None, batch_size: int | None = None
    ) -> np.ndarray:
        """Embeddings of the batches of cells, as in scvi-tools.

        Parameters
        ----------
        adata, indices, batch_size
            As for :meth:`get_normalized_expression`.

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
        return pd.DataFrame(decoder.loadings.cpu().numpy().copy(), index=self.get_var_names(), columns=columns)

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
        **data_loader_kwargs: Any,
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
            Samples ``(s, n, d)`` of the posteriors of these cells. Where these are flows, their densities take a long time.
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
        self.posterior.check_importance_weights()
        given = (px, zs, max_cells, truncation, n_mc_samples, n_mc_samples_per_pass)
        return self._importance_weights(EncodedProposals, adata, indices, *given, **data_loader_kwargs)

    def _importance_weights(
        self,
        proposals: Callable[[torch.distributions.Distribution], EncodedProposals],
        adata: AnnData | None,
        indices: Sequence[int],
        px: torch.distributions.Distribution,
        zs: torch.Tensor,
        max_cells: int = 1_024,
        truncation: bool = False,
        n_mc_samples: int = 500,
        n_mc_samples_per_pass: int = 250,
        **data_loader_kwargs: Any,
    ) -> np.ndarray:
        """Weights of `zs`, which were drawn from the `proposals` that belong to posteriors."""
        module, indices = self.module, positions_of(indices, self._validate_anndata(adata).n_obs)
        z = zs.reshape(-1, zs.shape[-1]).to(module.device)  # (m, d)
        scale = px.scale.reshape(len(z), -1).to(module.device)  # (m, g)
        loader = self._make_data_loader(adata=adata, indices=anchor_cells(indices, max_cells), **data_loader_kwargs)
        log_ratio, log_q = [], []
        for tensors in loader:
            tensors = {key: value.to(module.device) for key, value in tensors.items()}
            of_cells = proposals(self.posterior.encoded(tensors))
            log_q.append(of_cells.log_prob(z))  # (m, b)
            together = max(1, min(n_mc_samples_per_pass, _MAX_ELEMENTS // (len(log_q[-1].T) * scale.shape[1])))
            evidence = of_cells.log_evidence(module, tensors, n_mc_samples, together)
            log_ratio += [
                self._log_likelihoods(px, scale, cell) - one
                for cell, one in zip(_one_by_one(tensors), evidence, strict=True)
            ]
        return importance_weights(log_ratio, module.given_prior().log_prob(z), log_q, truncation=truncation)

    def _log_likelihoods(
        self, px: torch.distributions.Distribution, scale: torch.Tensor, tensors: dict[str, torch.Tensor]
    ) -> torch.Tensor:
        """Log probabilities of the one cell of a minibatch at profiles ``(m, g)`` of `px`, shape ``(m, 1)``."""
        x, measured = tensors[REGISTRY_KEYS.X_KEY], tensors.get(MEASURED_KEY)  # (1, g)
        x = x.to_dense() if isinstance(x, SparseCounts) else x
        of_measured = 1.0 if measured is None else (scale * measured).sum(-1, keepdim=True)  # (m, 1)
        mean = scale * (x.sum(-1) / of_measured)
        px_of_cell = with_mean(self.module.likelihood, px, mean, len(scale), self.module.device)
        return self.module.log_likelihood(px_of_cell, tensors).unsqueeze(-1)

    def get_marginal_ll(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        n_mc_samples: int = 1_000,
        batch_size: int | None = None,
        return_mean: bool = True,
        dataloader: Iterable[dict] | None = None,
        data_loader_kwargs: dict | None = None,
        n_mc_samples_per_pass: int = 1,
    ) -> float | torch.Tensor:
        """As in scvi-tools; the mean is over cells, not over minibatches of which the last one is smaller.

        Parameters
        ----------
        adata, indices, batch_size
            As for :meth:`get_normalized_expression`.
        n_mc_samples, n_mc_samples_per_pass
            Samples of each cell, and how many are decoded together.
        return_mean
            Whether to return the mean over cells.
        dataloader, data_loader_kwargs
            As in scvi-tools.

        Returns
        -------
        The mean in nats per cell, or a tensor of shape ``(n,)``.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        """
        self._check_if_trained(warn=False)
        given = (adata, indices, n_mc_samples, batch_size, False, dataloader, data_loader_kwargs)
        log_evidence = super().get_marginal_ll(*given, n_mc_samples_per_pass=n_mc_samples_per_pass)
        return np.float64(log_evidence.mean()) if return_mean else log_evidence


def _one_by_one(tensors: dict[str, torch.Tensor]) -> Iterator[dict[str, torch.Tensor]]:
    """Minibatches of one cell each."""
    for cell in torch.arange(len(tensors[REGISTRY_KEYS.X_KEY])).split(1):
        yield {key: value[cell] for key, value in tensors.items()}
