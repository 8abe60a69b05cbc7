"""What a Boltzmann machine says of cells: representations, clusters, errors, expression."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scdgd.model._reading_mixin import ReadingMixin

from ._state_sums import all_states

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anndata import AnnData

    from scdgd.data import SparseCounts
    from scdgd.model._reading_mixin import Decoding

    from ._conditions import Conditions


class BoltzmannReadingMixin(ReadingMixin):
    """Mean-field activations of cells, and what follows from them."""

    def _mean_field(
        self, adata: AnnData | None, indices: Sequence[int] | None, batch_size: int | None
    ) -> Iterator[tuple[SparseCounts, Conditions, list[torch.Tensor]]]:
        """Counts, conditions and probabilities, minibatch by minibatch."""
        self._check_if_trained(warn=False)
        adata = self._validate_anndata(adata)
        for tensors in self._make_data_loader(adata=adata, indices=indices, batch_size=batch_size):
            yield self._at_mean_field(tensors)

    def _at_mean_field(self, tensors: dict[str, torch.Tensor]) -> tuple[SparseCounts, Conditions, list[torch.Tensor]]:
        """Counts, conditions and probabilities of the cells of a minibatch."""
        module = self.module
        tensors = {key: value.to(module.device) for key, value in tensors.items()}
        v, given = module.cells(tensors)
        return v, given, module.mean_field(v, given)

    @torch.inference_mode()
    def get_latent_representation(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        give_mean: bool = True,
        mc_samples: int = 5_000,
        batch_size: int | None = None,
        return_dist: bool = False,
        *,
        layer: int | None = None,
    ) -> np.ndarray | tuple[np.ndarray, np.ndarray]:
        r"""Mean-field probabilities :math:`q^l` of the units of a hidden layer.

        Parameters
        ----------
        adata, indices
            Cells; those that the model was set up with if not given.
        give_mean
            Whether to return probabilities; else states drawn from them.
        mc_samples
            Of scvi-tools' signature; nothing is sampled for the mean.
        batch_size
            Cells per minibatch.
        return_dist
            Whether to return means and variances.
        layer
            Number of the layer, from 1; the topmost if not given.

        Returns
        -------
        Shape ``(n, H_l)``; or two such arrays.

        Raises
        ------
        ValueError
            If there is no such layer.
        """
        layer = self.module.n_layers if layer is None else layer
        if layer not in range(1, self.module.n_layers + 1):
            msg = f"`layer` must be one of 1 ... {self.module.n_layers}, got {layer!r}."
            raise ValueError(msg)
        q = torch.cat([q[layer - 1] for _, _, q in self._mean_field(adata, indices, batch_size)])
        if return_dist:
            return q.cpu().numpy(), (q * (1 - q)).cpu().numpy()
        return (q if give_mean else torch.bernoulli(q)).cpu().numpy()

    def get_cluster_assignments(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        soft: bool = False,
        batch_size: int | None = None,
    ) -> np.ndarray:
        r"""Most probable pattern of the topmost layer, a state :math:`h^L \in \{0, 1\}^{H_L}`, of each cell.

        Patterns are numbered by :math:`\sum_k 2^k h^L_k`, as in ``obs["component"]`` of synthetic cells. Nothing in training
        makes them clusters; the paper clusters representations by other methods.

        Parameters
        ----------
        adata, indices, batch_size
            As for :meth:`get_latent_representation`.
        soft
            Whether to return probabilities :math:`\prod_k q(h^L_k)` of all patterns.

        Returns
        -------
        Shape ``(n,)``, or ``(n, 2^{H_L})`` for probabilities.

        Raises
        ------
        ValueError
            If the topmost layer has more than 16 units.
        """
        n_patterns = self.module.n_patterns
        q = self.get_latent_representation(adata, indices, batch_size=batch_size)
        if not soft:
            return (q > 0.5).astype(np.int64) @ 2 ** np.arange(q.shape[1])
        states = all_states(q.shape[1], torch.zeros(())).numpy()
        probability = np.ones((len(q), n_patterns), q.dtype)
        for unit, on in enumerate(states.T):
            probability *= np.where(on == 1, q[:, unit : unit + 1], 1 - q[:, unit : unit + 1])
        return probability

    @torch.inference_mode()
    def get_reconstruction_error(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        batch_size: int | None = None,
        return_mean: bool = True,
    ) -> dict[str, float | torch.Tensor]:
        r"""Negative log-likelihood of counts at the mean-field activations, :math:`-\log p(v \mid h^1 = q^1)`.

        Parameters
        ----------
        adata, indices, batch_size
            As for :meth:`get_latent_representation`.
        return_mean
            Whether to return the mean over cells; else values of all cells, shape ``(n,)``.

        Returns
        -------
        ``{"reconstruction_loss": value}`` in nats, as in scvi-tools.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        """
        module, cells = self.module, self._mean_field(adata, indices, batch_size)
        log_prob, shift = module.visible.log_prob, module.shift
        errors = torch.cat([-log_prob(v, shift(q[0]), given.batch, given.size).cpu() for v, given, q in cells])
        return {"reconstruction_loss": float(errors.mean()) if return_mean else errors}

    def _decoded(self, decoding: Decoding) -> np.ndarray:
        """One sample is at the probabilities :math:`q^1`; several, of a cell or overall, are at states drawn from them."""
        return super()._decoded(decoding._replace(n_samples=_at_probabilities(decoding.n_samples)))

    def _parameters_of_counts(self, tensors: dict[str, torch.Tensor], n_samples: int) -> dict[str, torch.Tensor]:
        """One sample is at the probabilities :math:`q^1`."""
        return super()._parameters_of_counts(tensors, _at_probabilities(n_samples))

    @torch.inference_mode()
    def _replicates(self, tensors: dict[str, torch.Tensor], n_samples: int, batch: int | None) -> torch.Tensor:
        r"""States of :math:`h^1` are drawn from its mean-field posterior, then counts given :math:`h^1`."""
        v, given, q = self._at_mean_field(tensors)
        if batch is not None:
            given = given._replace(batch=torch.full_like(given.batch, batch))
        draws = [self.module.sample_counts([torch.bernoulli(q[0])], given).cpu() for _ in range(n_samples)]
        return draws[0] if n_samples == 1 else torch.stack(draws, dim=-1)

    @torch.inference_mode()
    def get_latent_library_size(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        give_mean: bool = True,
        batch_size: int | None = None,
    ) -> np.ndarray:
        """Size factor of each cell: observed, so `give_mean` makes no difference; one where sizes are not modelled.

        Parameters
        ----------
        adata, indices, batch_size
            As for :meth:`get_latent_representation`.
        give_mean
            Of scvi-tools' signature, without effect.

        Returns
        -------
        Size factors, shape ``(n, 1)``: total counts over their mean in training, or the registered ones.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        """
        sizes = [given.size.cpu() for _, given, _ in self._mean_field(adata, indices, batch_size)]
        return torch.cat(sizes).unsqueeze(1).numpy()

    def differential_abundance(self, *args: Any, **kwargs: Any) -> None:
        """Not possible: hidden units are binary, so representations have no density to compare between samples.

        Raises
        ------
        NotImplementedError
            Always.
        """
        msg = (
            "`differential_abundance` compares densities of representations, and binary hidden units have none. Compare "
            "the shares of clusters (`get_cluster_assignments`), or use a model with a prior, such as SCDGD."
        )
        raise NotImplementedError(msg)

    def get_importance_weights(self, *args: Any, **kwargs: Any) -> None:
        """Not possible: :math:`p(h)` of an undirected model is known up to a constant, and has no simple prior.

        Raises
        ------
        ValueError
            Always.
        """
        msg = (
            "Importance weights are for models with a prior of the representation; a Boltzmann machine has none in closed "
            "form. Use `weights='uniform'`."
        )
        raise ValueError(msg)

    def _check_importance_weights(self) -> None:
        self.get_importance_weights()


def _at_probabilities(n_samples: int) -> int:
    """Zero, by which the module means probabilities in place of states, for a single sample."""
    return 0 if n_samples == 1 else n_samples
