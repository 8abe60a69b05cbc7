"""Empirical Bayes: what the true effects of many genes may be, given noisy ones."""

from __future__ import annotations

import numpy as np
from scipy.special import logsumexp

_MAX_STEPS = 500
_TOLERANCE = 1e-5
_GENES_PER_STRATUM, _MAX_STRATA = 300, 20


class EffectPrior:
    r"""Mixture of normals around zero, fitted to the effects of many genes.

    .. math::
        \delta_j \sim \pi_0 \, 1_0 + \sum_{k} \pi_k \, \mathcal N(0, \sigma_k^2), \qquad
        \hat\delta_j \mid \delta_j \sim \mathcal N(\delta_j, s_j^2)

    on a grid of :math:`\sigma_k` with :math:`\pi` of highest likelihood, by EM (the adaptive shrinkage of Stephens 2017,
    without its penalty). The largest observed effects are the luckiest ones; their posterior means are smaller.
    Estimated `effects` :math:`\hat\delta` and their standard `errors` ``s`` have shape ``(g,)``.
    """

    def __init__(self, effects: np.ndarray, errors: np.ndarray) -> None:
        largest = 2 * np.sqrt(np.maximum((effects**2 - errors**2).max(), errors.min() ** 2))
        smallest = min(errors.min() / 10, largest / 2)
        n = int(np.ceil(np.log2(largest / smallest))) + 1
        self.scales = np.concatenate([[0.0], np.geomspace(smallest, largest, n)])
        self.weights = np.full(n + 1, 1 / (n + 1))
        log_densities = self._log_densities(effects, errors)
        likelihood = np.exp(log_densities - log_densities.max(1, keepdims=True))  # (g, k)
        for _ in range(_MAX_STEPS):
            weights = self.weights * (likelihood.T @ (1 / (likelihood @ self.weights))) / len(effects)
            change, self.weights = np.abs(weights - self.weights).max(), weights
            if change < _TOLERANCE:
                break

    def _log_densities(self, effects: np.ndarray, errors: np.ndarray) -> np.ndarray:
        """Up to a constant, shape ``(g, k)``."""
        var = self.scales**2 + errors[:, None] ** 2
        return -0.5 * (np.log(var) + effects[:, None] ** 2 / var)

    def sample_posterior(
        self, effects: np.ndarray, errors: np.ndarray, n_draws: int, rng: np.random.Generator
    ) -> np.ndarray:
        r"""Draws of the true effects :math:`\delta_j \mid \hat\delta_j`, shape ``(s, g)``."""
        with np.errstate(divide="ignore"):
            joint = np.log(self.weights) + self._log_densities(effects, errors)
        cumulative = np.exp(joint - logsumexp(joint, axis=1, keepdims=True)).cumsum(1)  # (g, k)
        uniform = rng.random((n_draws, len(effects), 1))
        chosen = np.minimum((uniform > cumulative).sum(-1), len(self.scales) - 1)  # (s, g)
        shrink = self.scales[chosen] ** 2 / (self.scales[chosen] ** 2 + errors**2)
        return shrink * effects + np.sqrt(shrink) * errors * rng.normal(size=shrink.shape)


class StratifiedPrior:
    """One :class:`EffectPrior` for each stratum of genes: those that vary little can differ little.

    Genes are sorted by `level` ``(g,)`` into strata of about 300 genes each, at most 20 of them.
    """

    def __init__(self, effects: np.ndarray, errors: np.ndarray, level: np.ndarray) -> None:
        n_strata = int(np.clip(len(effects) // _GENES_PER_STRATUM, 1, _MAX_STRATA))
        self.strata = np.array_split(np.argsort(level, kind="stable"), n_strata)
        self.priors = [EffectPrior(effects[genes], errors[genes]) for genes in self.strata]

    def sample_posterior(
        self, effects: np.ndarray, errors: np.ndarray, n_draws: int, rng: np.random.Generator
    ) -> np.ndarray:
        """Draws of the true effects, shape ``(s, g)``."""
        draws = np.empty((n_draws, len(effects)))
        for genes, prior in zip(self.strata, self.priors, strict=True):
            draws[:, genes] = prior.sample_posterior(effects[genes], errors[genes], n_draws, rng)
        return draws
