"""Mean-field activations of cells, and what is read at them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from scdgd.inference import InformationCoordinates, seeded
from scdgd.model._cell_posterior import CellPosterior

from ._annealed_importance import estimated_log_partition
from ._conditions import Conditions
from ._state_sums import MAX_ENUMERATED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from scdgd.data import SparseCounts
    from scdgd.model._cell_posterior import Decoding


class MeanFieldPosterior(CellPosterior):
    """Hidden units of a cell are taken to be independent; there is no prior of them in closed form."""

    def mean_field(
        self, minibatches: Iterable[dict[str, torch.Tensor]]
    ) -> Iterator[tuple[SparseCounts, Conditions, list[torch.Tensor]]]:
        """Counts, conditions and probabilities, minibatch by minibatch."""
        return map(self.at_mean_field, minibatches)

    def at_mean_field(self, tensors: dict[str, torch.Tensor]) -> tuple[SparseCounts, Conditions, list[torch.Tensor]]:
        """Counts, conditions and probabilities of the cells of a minibatch."""
        module = self.module
        tensors = {key: value.to(module.device) for key, value in tensors.items()}
        v, given = module.cells(tensors)
        return v, given, module.mean_field(v, given)

    def decoded(self, decoding: Decoding) -> np.ndarray:
        """One sample is at the probabilities :math:`q^1`; several, of a cell or overall, are at states drawn from them."""
        return super().decoded(decoding._replace(n_samples=_at_probabilities(decoding.n_samples)))

    def parameters_of_counts(self, tensors: dict[str, torch.Tensor], n_samples: int) -> dict[str, torch.Tensor]:
        """One sample is at the probabilities :math:`q^1`."""
        return super().parameters_of_counts(tensors, _at_probabilities(n_samples))

    @torch.inference_mode()
    def replicates(self, tensors: dict[str, torch.Tensor], n_samples: int, batch: int | None) -> torch.Tensor:
        r"""States of :math:`h^1` are drawn from its mean-field posterior, then counts given :math:`h^1`."""
        v, given, q = self.at_mean_field(tensors)
        if batch is not None:
            given = given._replace(batch=torch.full_like(given.batch, batch))
        draws = [self.module.sample_counts([torch.bernoulli(q[0])], given).cpu() for _ in range(n_samples)]
        return draws[0] if n_samples == 1 else torch.stack(draws, dim=-1)

    def log_likelihood(
        self,
        minibatches: Iterable[dict[str, torch.Tensor]],
        return_mean: bool,
        n_chains: int,
        n_steps: int,
        seed: int | None,
        *,
        is_exact: bool,
    ) -> float | torch.Tensor:
        """Sum over hidden states, exact or bounded, less log Z."""
        module, values, conditions, sums = self.module, [], [], 0.0
        for v, given, q in self.mean_field(minibatches):
            values.append(module.log_unnormalised(v, given) if is_exact else module.lower_bound(v, q, given))
            conditions.append(given)
            sums = sums + torch.cat(q, 1).sum(0)
        given = Conditions.joined(conditions)
        if module.n_odd <= MAX_ENUMERATED:
            log_z = module.log_partition(given)
        else:
            with seeded(seed):
                log_z = estimated_log_partition(module, given, sums / len(given.size), n_chains, n_steps)
        log_likelihood = (torch.cat(values) - log_z).cpu()
        return float(log_likelihood.mean()) if return_mean else log_likelihood

    def sizes(self, minibatches: Iterable[dict[str, torch.Tensor]]) -> torch.Tensor:
        """Total counts over their mean in training, the registered sizes, or ones, shape ``(n, 1)``."""
        return torch.cat([given.size.cpu() for _, given, _ in self.mean_field(minibatches)]).unsqueeze(1)

    def coordinates(self, genes: np.ndarray | None = None) -> InformationCoordinates:
        """Probabilities of hidden units are compared as they are, whatever the genes."""
        return InformationCoordinates.none(self.module.n_hidden[-1])

    def check_coordinates(self) -> None:
        """Raise: counts have no information about representations, which nothing decodes."""
        msg = (
            "Representations of a Boltzmann machine are probabilities of hidden units, which nothing decodes into counts, so "
            "counts have no information about them that could be a distance. Use `coordinates='latent'`, or a model with a "
            "decoder, such as SCDGD."
        )
        raise NotImplementedError(msg)

    def check_importance_weights(self) -> None:
        """Raise: there are no importance weights of hidden states."""
        self.model.get_importance_weights()

    def check_minifiable(self) -> None:
        """Raise: states of hidden units cannot be stored as moments."""
        msg = (
            "Minified data keep the mean and variance of each posterior, and expression of a Boltzmann machine is that of states of "
            "binary hidden units, which these do not describe. Keep the counts."
        )
        raise NotImplementedError(msg)

    def check_density(self, use: str) -> None:
        """Raise: representations have no density."""
        msg = (
            f"Hidden units are binary, so representations have no density, which {use} would compare. Compare "
            "the shares of clusters (`get_cluster_assignments`), or use a model with a prior, such as SCDGD."
        )
        raise NotImplementedError(msg)


def _at_probabilities(n_samples: int) -> int:
    """Zero, by which the module means probabilities in place of states, for a single sample."""
    return 0 if n_samples == 1 else n_samples
