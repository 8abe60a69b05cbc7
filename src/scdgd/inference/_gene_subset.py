"""Genes that stand for all genes where a sum over them is estimated."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch

from ._panels import distinct_panels

if TYPE_CHECKING:
    from scdgd.module import DGDModule, Observation
    from scdgd.prior import Prior

#: Share of the sampling probability that is spread evenly, so that no weight is large.
_EVEN_SHARE = 0.1
#: Mean count per gene of the cell for which genes are chosen.
_REFERENCE_COUNT = 0.5
#: Panels of a minibatch that have genes of their own, at most.
_MOST_PANELS = 8


class GeneSubset(NamedTuple):
    """Some genes, and how many each counts for."""

    genes: torch.Tensor
    """Shape ``(m,)``."""
    weights: torch.Tensor
    r"""Inverse inclusion probabilities :math:`1 / \pi_j`, shape ``(m,)``, or ``(b, m)`` if panels of cells differ."""

    def __getitem__(self, cells: torch.Tensor | slice) -> GeneSubset:
        """Those of some of the cells."""
        return self if self.weights.ndim == 1 else GeneSubset(self.genes, self.weights[cells])

    def measured_in(self, measured: torch.Tensor | None) -> GeneSubset:
        """Weights of zero where a gene was not measured in a cell, of all genes ``(b, g)``."""
        return self if measured is None else GeneSubset(self.genes, self.weights * measured[:, self.genes])


def choose_genes(
    module: DGDModule,
    n_genes: int | None,
    seed: int = 0,
    measured: torch.Tensor | None = None,
    observation: Observation | None = None,
) -> GeneSubset:
    r"""Choose genes for the curvature: the same for all cells with the same panel, whatever the minibatch.

    Gene :math:`j` is drawn with probability :math:`\pi_j \propto \bar w_j \lVert W_j - \bar W \rVert^2`, at most 1, where
    :math:`W` are the output weights of the decoder, or its slopes at component means (centred for a softmax only), and :math:`\bar w` the Fisher weights
    of the mean profile at a depth of half a count per gene, or of the mean output where there are no counts. Systematic sampling in random order draws exactly `n_genes`;
    the most informative, with :math:`\pi_j = 1`, are always among them. Where genes were not measured, each panel has its own
    `n_genes`; of more than eight panels in a minibatch, all cells share those of the genes that any of them has.

    Parameters
    ----------
    module
        The module.
    n_genes
        Number of genes ``m``; ``None``, or as many as there are, for all with weight one.
    seed
        Seed of the draw.
    measured
        Genes that were measured in the cells of a minibatch, ``(b, g)``, bool; ``None`` for all.
    observation
        Which of several modalities of the module; the one that it has if not given.
    """
    given = _Observed(observation or module.observed, module.prior)
    like, n = next(given.observation.decoder.parameters()), given.observation.decoder.n_genes
    if measured is not None:
        return _of_panels(given, n_genes, seed, measured)
    every = torch.arange(n, device=like.device)
    if n_genes is None or n_genes >= n:
        return GeneSubset(every, like.new_ones(n))
    return _drawn(given, n_genes, seed, every)


class _Observed(NamedTuple):
    """One modality, and where its representations are."""

    observation: Observation
    prior: Prior


def _of_panels(given: _Observed, n_genes: int | None, seed: int, measured: torch.Tensor) -> GeneSubset:
    """Genes of each panel, together, with weights ``(b, m)`` that are zero for those of other panels."""
    panel = distinct_panels(measured)
    if int(panel.max()) >= _MOST_PANELS:
        panel = torch.zeros_like(panel)
    weights = next(given.observation.decoder.parameters()).new_zeros(measured.shape)
    for i in range(int(panel.max()) + 1):
        cells = panel == i
        genes = measured[cells].any(0).nonzero().ravel()
        chosen = _drawn(given, n_genes, seed, genes) if n_genes is not None and n_genes < len(genes) else None
        of_genes = torch.zeros_like(weights[0])
        of_genes[genes if chosen is None else chosen.genes] = 1 if chosen is None else chosen.weights
        weights[cells] = of_genes
    weights = weights * measured
    genes = weights.any(0).nonzero().ravel()
    return GeneSubset(genes, weights[:, genes])


def _drawn(given: _Observed, n_genes: int, seed: int, of: torch.Tensor) -> GeneSubset:
    """Systematic sample of `n_genes` of the genes ``(p,)``, of which there are more."""
    inclusion = _inclusion_probabilities(_informativeness(given, of), n_genes)
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(inclusion))
    steps = np.floor(np.cumsum(np.concatenate([[rng.uniform()], inclusion[order]])))
    chosen, like = np.sort(order[np.diff(steps) > 0]), next(given.observation.decoder.parameters())
    return GeneSubset(
        of[torch.as_tensor(chosen, device=like.device)],
        torch.as_tensor(1 / inclusion[chosen], dtype=like.dtype, device=like.device),
    )


@torch.no_grad()
def _informativeness(given: _Observed, genes: torch.Tensor) -> np.ndarray:
    """Roughly what each gene adds to the trace of the Fisher information, and a little for all: shape ``(p,)``."""
    observation = given.observation
    output = observation.decoder.directions(given.prior.component_means).double()[genes]
    if not observation.link.is_of_counts:
        eta = _mean_profile(given).double()[genes]
        weight = observation.family(eta, *(p[genes] for p in observation.family_parameters.of_genes())).information()
    else:
        profile = _mean_profile(given).double()[genes]
        mean = profile * (_REFERENCE_COUNT / profile.mean())
        log_theta = observation.log_theta.double()
        theta = (log_theta if log_theta.ndim == 1 else log_theta.mean(0))[genes].exp()
        weight = mean / (1 + mean / theta)
        if observation.link.is_share:
            output = output - (profile / profile.sum()) @ output
    information = weight * torch.linalg.vector_norm(output, dim=1).square()
    return (information + _EVEN_SHARE * information.mean().clamp(min=1e-30)).cpu().numpy()


def _mean_profile(given: _Observed) -> torch.Tensor:
    """Profile (or output) at the component means, averaged over them; covariates at zero, categories in equal shares."""
    observation, prior = given
    outputs = observation.decoder.balanced(prior.component_means)
    return prior.weights @ (outputs.exp() if observation.link.is_of_counts else outputs)


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
