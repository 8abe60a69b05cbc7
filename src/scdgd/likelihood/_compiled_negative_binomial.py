r"""Compiled terms of :class:`~scdgd.likelihood.NegativeBinomial`; formulas stand there.

Parameters come as rows :math:`\log\theta`, :math:`\theta`, :math:`1/\theta` of one matrix ``(3, g)``.
"""

from __future__ import annotations

import math

import numpy as np
import torch

from ._bounds import MAX_LOG_THETA, MAX_PRODUCT, STIRLING_THETA
from ._vector_math import in_order, log1p

LAST_IS_OF_CELLS, HAS_PARAMETER = False, True


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
    """Terms of the entries of one cell, in double."""
    for i in range(x.size):
        log_theta, theta = parameters[0, genes[i]], parameters[1, genes[i]]
        u = log_mean[i] - log_theta
        exp_u = math.exp(-abs(u))
        log1p_exp_u, logistic = _log1p_unit(exp_u), 1 / (1 + exp_u)
        softplus_u = max(u, 0.0) + log1p_exp_u
        value[i] = -x[i] * (log1p_exp_u - min(u, 0.0)) - theta * softplus_u
        if constants or d_parameters is not None:
            log_gammas, digammas = _rising_factorial(x[i], log_theta, theta, parameters[2, genes[i]])
            value[i] += log_gammas
        if d_log_mean is not None:
            p = logistic if u > 0 else exp_u * logistic
            x_not_p = x[i] * (exp_u * logistic if u > 0 else logistic)
            d_log_mean[i] = x_not_p - theta * p
            if d_parameters is not None:
                d_parameters[0, genes[i]] += theta * (digammas + p - softplus_u) - x_not_p


@in_order
def _log1p_unit(y):
    """Logarithm of 1 + y for y from zero to one: the logarithm of the rounded sum, and what rounding lost."""
    u = 1 + y
    return math.log(u) + (y - (u - 1)) / u


@in_order
def _rising_factorial(x, log_theta, theta, inverse):
    r""":math:`\log[\Gamma(x + \theta) / (\Gamma(\theta)\, x!)]` and :math:`\Psi(x + \theta) - \Psi(\theta)`."""
    if x < 1:
        return 0.0, 0.0
    if x == 1:
        return log_theta, inverse
    if x <= MAX_PRODUCT:
        product, reciprocals = 1.0, inverse
        for t in range(1, int(x)):
            product *= (theta + t) / (t + 1)
            reciprocals += 1 / (theta + t)
        return log_theta + math.log(product), reciprocals
    s = theta + x
    log_factorial = math.lgamma(x + 1)
    if theta <= STIRLING_THETA:
        return math.lgamma(s) - math.lgamma(theta) - log_factorial, _digamma(s) - _digamma(theta)
    log1p_ratio, a, b = math.log1p(x / theta), 1 / s, 1 / theta
    log_gammas = (theta - 0.5) * log1p_ratio + x * math.log(s) - x + (a - b) / 12 - (a**3 - b**3) / 360
    digammas = log1p_ratio - (a - b) / 2 - (a**2 - b**2) / 12 + (a**4 - b**4) / 120
    return log_gammas - log_factorial, digammas


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
