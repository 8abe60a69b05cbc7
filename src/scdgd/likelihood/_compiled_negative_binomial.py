r"""Compiled terms of :class:`~scdgd.likelihood.NegativeBinomial`; formulas stand there.

Parameters come as rows :math:`\log\theta`, :math:`\theta`, :math:`1/\theta` of one matrix ``(3, g)``,
and as its columns, ``(g, 3)``, for entries.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from ._bounds import MAX_LOG_THETA, MAX_PRODUCT, STIRLING_THETA
from ._vector_math import exp_of_negative, in_order, log1p, log1p_of_share, log_of_positive

LAST_IS_OF_CELLS, HAS_PARAMETER = False, True
_RECIPROCALS = tuple(1 / (t + 1) for t in range(MAX_PRODUCT))


def prepare(log_theta: torch.Tensor) -> torch.Tensor:
    """Rows of per-gene numbers ``(3, g)``, in double."""
    log_theta = log_theta.double().clamp(-MAX_LOG_THETA, MAX_LOG_THETA)
    return torch.stack([log_theta, log_theta.exp(), (-log_theta).exp()])


@in_order
def zero_terms(mean, parameters, of_cell, value, d_log_mean, d_parameters, d_of_cell):
    """Terms of all genes of one cell, in single precision."""
    theta, inverse = parameters[1], parameters[2]
    for j in range(mean.size):
        ratio = mean[j] * inverse[j]
        value[j] = -theta[j] * log1p(ratio)
        if d_log_mean is not None:
            derivative = -mean[j] / (np.float32(1) + ratio)
            d_log_mean[j] = derivative
            if d_parameters is not None:
                d_parameters[0, j] += value[j] - derivative


@in_order
def nonzero_terms(x, genes, log_mean, parameters, of_cell, constants, value, d_log_mean, d_parameters, d_of_cell):
    """Terms of the entries of one cell, in double; what vectors cannot do stands in loops of its own."""
    n = x.size
    of_entries = np.empty((4, n))
    u, theta, counts, d_log_theta = of_entries[0], of_entries[1], of_entries[2], of_entries[3]
    for i in range(n):
        u[i] = log_mean[i] - parameters[genes[i], 0]
        theta[i] = parameters[genes[i], 1]
        counts[i] = x[i]
    for i in range(n):
        exp_u = exp_of_negative(-abs(u[i]))
        log1p_exp_u, logistic = log1p_of_share(exp_u), 1 / (1 + exp_u)
        softplus_u, rest = max(u[i], 0.0) + log1p_exp_u, exp_u * logistic
        value[i] = -counts[i] * (log1p_exp_u - min(u[i], 0.0)) - theta[i] * softplus_u
        if d_log_mean is not None:
            p = logistic if u[i] > 0 else rest
            x_not_p = counts[i] * (rest if u[i] > 0 else logistic)
            d_log_mean[i] = x_not_p - theta[i] * p
            d_log_theta[i] = theta[i] * (p - softplus_u) - x_not_p
    if constants or d_parameters is not None:
        product = u
        for i in range(n):
            product[i], rest, digammas = _rising_factorial(
                x[i], parameters[genes[i], 0], theta[i], parameters[genes[i], 2]
            )
            value[i] += rest
            if d_parameters is not None:
                d_parameters[0, genes[i]] += d_log_theta[i] + theta[i] * digammas
        for i in range(n):
            value[i] += log_of_positive(product[i])


@in_order
def _rising_factorial(x, log_theta, theta, inverse):
    r"""Where :math:`a + \log b = \log[\Gamma(x + \theta) / (\Gamma(\theta)\, x!)]`: b, a, :math:`\Psi(x + \theta) - \Psi(\theta)`."""
    if x < 1:
        return 1.0, 0.0, 0.0
    if x <= MAX_PRODUCT:
        product, reciprocals = 1.0, inverse
        for t in range(1, int(x)):
            product *= (theta + t) * _RECIPROCALS[t]
            reciprocals += 1 / (theta + t)
        return product, log_theta, reciprocals
    s = theta + x
    log_factorial = math.lgamma(x + 1)
    if theta <= STIRLING_THETA:
        return 1.0, math.lgamma(s) - math.lgamma(theta) - log_factorial, _digamma(s) - _digamma(theta)
    log1p_ratio, a, b = math.log1p(x / theta), 1 / s, 1 / theta
    log_gammas = (theta - 0.5) * log1p_ratio + x * math.log(s) - x + (a - b) / 12 - (a**3 - b**3) / 360
    digammas = log1p_ratio - (a - b) / 2 - (a**2 - b**2) / 12 + (a**4 - b**4) / 120
    return 1.0, log_gammas - log_factorial, digammas


@in_order
def _digamma(x):
    """Asymptotic series, after the recurrence has led to arguments where it holds to all digits."""
    shift = 0.0
    while x < 10:
        shift += 1 / x
        x += 1
    r = 1 / (x * x)
    series = r * (1 / 12 - r * (1 / 120 - r * (1 / 252 - r * (1 / 240 - r * (1 / 132 - r * 691 / 32760)))))
    return math.log(x) - 0.5 / x - series - shift
