"""Genes that stand for all genes where a sum over them is estimated."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

if TYPE_CHECKING:
    from scdgd.module import DGDModule

#: Share of the sampling probability that is spread evenly, so that no weight is large.
_EVEN_SHARE = 0.1
#: Mean count per gene of the cell for which genes are chosen.
_REFERENCE_COUNT = 0.5


class GeneSubset(NamedTuple):
    """Some genes, and how many each counts for."""

    genes: torch.Tensor
    """Shape ``(m,)``."""
    weights: torch.Tensor
    r"""Inverse inclusion probabilities :math:`1 / \pi_j`, shape ``(m,)``."""


def choose_genes(module: DGDModule, n_genes: int | None, seed: int = 0) -> GeneSubset:
    r"""Choose genes for the curvature: the same for all cells, whatever the minibatch.

    Gene :math:`j` is drawn with probability :math:`\pi_j \propto \bar w_j \lVert W_j - \bar W \rVert^2`, at most 1, where
    :math:`W` are the output weights of the decoder (centred for a softmax only) and :math:`\bar w` the Fisher weights
    of the mean profile at a depth of half a count per gene, or of the mean output where there are no counts. Systematic sampling in random order draws exactly `n_genes`;
    the most informative, with :math:`\pi_j = 1`, are always among them.

    Parameters
    ----------
    module
        The module.
    n_genes
        Number of genes ``m``; ``None``, or as many as there are, for all with weight one.
    seed
        Seed of the draw.
    """
    weight = module.decoder.output.weight
    if n_genes is None or n_genes >= len(weight):
        return GeneSubset(torch.arange(len(weight), device=weight.device), weight.new_ones(len(weight)))
    inclusion = _inclusion_probabilities(_informativeness(module), n_genes)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(inclusion))
    steps = np.floor(np.cumsum(np.concatenate([[rng.uniform()], inclusion[order]])))
    chosen = np.sort(order[np.diff(steps) > 0])
    return GeneSubset(
        torch.as_tensor(chosen, device=weight.device),
        torch.as_tensor(1 / inclusion[chosen], dtype=weight.dtype, device=weight.device),
    )


@torch.no_grad()
def _informativeness(module: DGDModule) -> np.ndarray:
    """Roughly what each gene adds to the trace of the Fisher information, and a little for all: shape ``(g,)``."""
    output = module.decoder.output.weight.double()
    if not module.link.is_of_counts:
        eta = _mean_profile(module).double()
        weight = module.likelihood(eta, *module.family_parameters.of_genes()).information()
    else:
        profile = _mean_profile(module).double()
        mean = profile * (_REFERENCE_COUNT / profile.mean())
        log_theta = module.log_theta.double()
        theta = (log_theta if log_theta.ndim == 1 else log_theta.mean(0)).exp()
        weight = mean / (1 + mean / theta)
        if module.link.is_share:
            output = output - (profile / profile.sum()) @ output
    information = weight * torch.linalg.vector_norm(output, dim=1).square()
    return (information + _EVEN_SHARE * information.mean().clamp(min=1e-30)).cpu().numpy()


def _mean_profile(module: DGDModule) -> torch.Tensor:
    """Profile (or output) at the component means, averaged over them; covariates at zero, categories in equal shares."""
    outputs = module.decoder.balanced(module.prior.component_means)
    return module.prior.weights @ (outputs.exp() if module.link.is_of_counts else outputs)


def _inclusion_probabilities(informativeness: np.ndarray, n: int) -> np.ndarray:
    """Probabilities proportional to `informativeness`, at most 1, that sum to `n`."""
    inclusion, certain = np.ones(len(informativeness)), np.zeros(len(informativeness), dtype=bool)
    while True:
        rest = informativeness[~certain]
        inclusion[~certain] = (n - certain.sum()) * rest / rest.sum()
        if not (inclusion > 1).any():
            return inclusion
        certain |= inclusion >= 1
        inclusion[certain] = 1.0
