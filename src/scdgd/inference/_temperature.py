"""A temperature that makes probabilities say how often they are right."""

from __future__ import annotations

import math

import numpy as np

#: Limits of the temperature, and the least probability that is taken for what it says.
_LIMITS, _TINY = (0.1, 10.0), 1e-12


def tempered(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    r"""Probabilities :math:`\tilde p_y \propto p_y^{1/T}`, shape ``(n, c)`` as given; rows add up to what they did.

    Parameters
    ----------
    probabilities
        Shape ``(n, c)``, not negative.
    temperature
        :math:`T > 0`; 1 changes nothing, and above that they become more alike. What is zero stays zero.
    """
    largest = np.maximum(probabilities.max(1, keepdims=True), np.finfo(probabilities.dtype).tiny)
    p = (probabilities / largest) ** (1 / temperature)
    total = np.maximum(p.sum(1, keepdims=True), 1e-30)
    return p / total * probabilities.sum(1, keepdims=True)


def fit_temperature(probabilities: np.ndarray, classes: np.ndarray) -> float:
    r"""Temperature under which known classes are most probable (Guo et al. 2017).

    .. math::
        \hat T = \arg\max_T \sum_i \log \frac{p_{i y_i}^{1/T}}{\sum_y p_{iy}^{1/T}} - \tfrac12 (\log T)^2

    The last term is a prior of the size of one cell or so: from a handful of cells the temperature stays near one.

    Parameters
    ----------
    probabilities
        Of cells whose classes played no part in them, shape ``(n, c)``.
    classes
        Their classes, ``(n,)``, codes of columns.

    Returns
    -------
    Between 0.1 and 10; 1 without cells.
    """
    from scipy.optimize import minimize_scalar

    if len(classes) == 0:
        return 1.0
    log_p = np.log(np.clip(probabilities, _TINY, None))

    def loss(log_temperature: float) -> float:
        """Negative log score at the log of a temperature."""
        scaled = log_p / math.exp(log_temperature)
        largest = scaled.max(1)
        log_total = largest + np.log(np.exp(scaled - largest[:, None]).sum(1))
        return float((log_total - scaled[np.arange(len(classes)), classes]).sum() + 0.5 * log_temperature**2)

    bounds = tuple(map(math.log, _LIMITS))
    return math.exp(minimize_scalar(loss, bounds=bounds, method="bounded").x)
