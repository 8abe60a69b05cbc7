"""What tests of several families share."""

from __future__ import annotations

import numpy as np
import torch
from scipy import sparse

from scdgd.data import SparseCounts
from scdgd.likelihood import LIKELIHOODS, CountLikelihood

ZI_LOGITS = (-60.0, -5.0, -1e-3, 0.0, 2.0, 60.0)

#: A cell without counts, a gene without, a large count.
COUNTS = torch.tensor([[0, 1, 7, 200], [0, 0, 0, 0], [0, 3, 0, 50]], dtype=torch.float64)


def inflate(log_prob: np.ndarray, counts: np.ndarray, log_zero: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """Log probabilities of the zero-inflated counts from those of the base."""
    zero = np.logaddexp(logits, log_zero)
    return np.where(counts == 0, zero, log_prob) - np.logaddexp(0, logits)


def assert_close(log_prob: torch.Tensor, expected: np.ndarray) -> None:
    """To 1e-9 in double and 1e-5 in single precision, relative to values beyond one."""
    tolerance = 1e-9 if log_prob.dtype == torch.float64 else 1e-5
    error = np.abs(log_prob.detach().double().numpy() - expected)
    assert (error <= tolerance * np.maximum(1, np.abs(expected))).all()


def random_parameters(family: type[CountLikelihood], b: int, g: int, seed: int = 0, dtype=torch.float64):
    """Log thetas ``(g,)`` and logits ``(b, g)``, as many as the family has."""
    generator = torch.Generator().manual_seed(seed)
    shapes = {"log_theta": (g,), "zi_logits": (b, g)}
    return [
        (2 * torch.randn(shapes[name], generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()
        for name in family.parameter_names
    ]


def values_and_gradients(likelihood: CountLikelihood, counts, inputs) -> list[torch.Tensor]:
    log_prob = likelihood.log_prob(counts)
    return [log_prob.detach(), *torch.autograd.grad(log_prob.sum(), inputs)]


def squared_score(family: type[CountLikelihood], log_mean: float, parameters: list[float], n: int) -> torch.Tensor:
    """Expected square of the derivative in the log mean, summed over counts below `n`."""
    counts = torch.arange(n, dtype=torch.float64).unsqueeze(1)
    eta = torch.full((n, 1), log_mean, dtype=torch.float64, requires_grad=True)
    log_prob = family(eta, *(torch.full((n, 1), p, dtype=torch.float64) for p in parameters)).log_prob(counts)
    (score,) = torch.autograd.grad(log_prob.sum(), eta)
    return (log_prob.detach().exp() * score.squeeze(1).square()).sum()


def wide_cell(g: int = 30_000, n_counts: int = 600) -> tuple[torch.Tensor, SparseCounts]:
    """Log means and counts of a cell with 98% zeros, on which the means sum to 25,000, some of them 400."""
    rng = np.random.default_rng(0)
    zeros = np.sort(rng.permutation(g)[n_counts:])
    mean = rng.exponential(size=g)
    mean[zeros[:20]] = 400
    mean[zeros[20:]] *= (25_000 - 20 * 400) / mean[zeros[20:]].sum()
    counts = rng.poisson(mean) + 1
    counts[zeros] = 0
    counts = SparseCounts.from_scipy(sparse.csr_matrix(counts[None].astype(np.float32)))
    return torch.as_tensor(np.log(mean), dtype=torch.float32)[None], counts


def losses_of_adam(name: str, density: float, n_steps: int = 1_000) -> list[float]:
    """Losses of free outputs and parameters on very sparse counts."""
    family, (b, g) = LIKELIHOODS[name], (16, 600)
    matrix = sparse.random(b, g, density=density, format="csr", random_state=0)
    matrix.data = np.ceil(np.exp(6 * matrix.data**4))
    counts = SparseCounts.from_scipy(matrix)
    output = torch.randn(b, g, generator=torch.Generator().manual_seed(0)).requires_grad_()
    inputs = [output, *random_parameters(family, b, g, dtype=torch.float32)]
    optimizer = torch.optim.Adam(inputs, lr=0.1)
    log_size = counts.totals().log().unsqueeze(1)
    losses = []
    for _ in range(n_steps):
        optimizer.zero_grad()
        loss = -family.from_softmax(output, log_size, *inputs[1:]).log_prob(counts).sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert all(torch.isfinite(t).all() for t in inputs)
    return losses
