"""Population Monte Carlo: proposals of cells whose importance weights have a heavy tail learn from their own draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch

from ._importance import ImportanceSamples
from ._seeding import independent_generator
from ._student_t import StudentT

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._laplace import LaplacePosterior

#: Above this shape of the tail of its importance weights, moments of a cell are not to be trusted.
MAX_PARETO_K = 0.7
#: Most rounds of :func:`mended`, the one that only learns among them.
N_ROUNDS = 5
#: Draws of a round from which a cell's results may come, as a multiple of the first ones.
_MORE_DRAWS = 2
_MIN_DOF, _WIDER = 8, 1.2
#: Effective draws that moments are learned from: for each dimension, and at least.
_PER_DIMENSION, _AT_LEAST = 2, 20
_N_BISECTIONS = 20


class Density(Protocol):
    """Joint densities of ``b`` cells; indexing gives those of some of them."""

    def __getitem__(self, cells: torch.Tensor) -> Density: ...

    def log_joint(self, z: torch.Tensor) -> torch.Tensor:
        """Log joint densities at ``(s, b, d)``, shape ``(s, b)``, in nats."""


class MendedSamples(NamedTuple):
    """Importance samples of ``b`` cells, some of which have later and better ones."""

    first: ImportanceSamples
    """Samples of all cells."""
    later: tuple[tuple[torch.Tensor, ImportanceSamples], ...] = ()
    """Cells ``(m,)`` and the samples that replace their first ones, no cell twice."""

    def read(self, what: Callable[[ImportanceSamples], torch.Tensor]) -> torch.Tensor:
        """`what` of the samples that each cell has in the end, shape ``(b, ...)``."""
        values = what(self.first)
        for cells, samples in self.later:
            values = values.index_copy(0, cells, what(samples).to(values.dtype))
        return values


def mended(samples: ImportanceSamples, density: Density, n_rounds: int = N_ROUNDS) -> MendedSamples:
    r"""Draw anew where weights have a heavy tail, from proposals that are moved towards the posterior round by round.

    .. math::
        a_t = \max\{a \le 1 : \mathrm{ESS}(w_{t-1}^a) \ge 2d\}, \qquad
        m_t = \sum_s \bar w_s z_s, \qquad
        \Sigma_t = \sum_s \bar w_s (z_s - m_t)(z_s - m_t)^\top, \qquad \bar w \propto w_{t-1}^{a_t},

    .. math::
        z_s \sim t_\nu(m_t,\, 1.2\, \Sigma_t), \qquad
        w_s = \frac{p(x, z_s)}{t_\nu(z_s;\, m_t,\, 1.2\, \Sigma_t)}, \qquad \nu = \max(8, d)

    population Monte Carlo (Cappé et al. 2004), with tempered weights so that moments never rest on a few draws (Koblents &
    Míguez 2015), covariances shrunk as in :meth:`ImportanceSamples.shrunk_covariance`, and the tails of a t distribution.
    The first round makes as many draws as there were and only teaches. Later ones make twice as many, and a cell leaves
    with the draws of the first round whose weights have a shape of at most 0.7, or of the last round. Cells with good
    weights are left as they are and cost nothing, and torch's generator goes on as if nothing had been drawn.

    Results come from the draws of one round, whose proposal was fixed before: the evidence is unbiased given the proposal.
    Mixtures over all rounds (AMIS, Cornuet et al. 2012) reuse every draw, but a proposal that was fitted to draws has more
    density there than elsewhere, which lowers their weights, and the evidence with them.

    Parameters
    ----------
    samples
        Importance samples of ``b`` cells. Fewer than 25 draws say nothing of the tail, and are left as they are.
    density
        Joint density of these cells.
    n_rounds
        Most rounds; none if zero.

    Returns
    -------
    The samples, with those that replace them.
    """
    k = samples.pareto_k()
    cells = ((k > MAX_PARETO_K) & torch.isfinite(k)).nonzero().ravel()
    generator = independent_generator(samples.z.device)
    current, later = samples.of(cells), []
    for number in range(n_rounds):
        if len(cells) == 0:
            break
        n = len(samples.z) * (1 if number == 0 else _MORE_DRAWS)
        current = next_population(current, density[cells].log_joint, n, generator)
        good = (current.pareto_k() <= MAX_PARETO_K) if number > 0 else torch.zeros_like(cells, dtype=torch.bool)
        leaving = good | (number == n_rounds - 1)
        later.append((cells[leaving], current.of(leaving)))
        cells, current = cells[~leaving], current.of(~leaving)
    return MendedSamples(samples, tuple((cells, samples) for cells, samples in later if len(cells)))


def next_population(
    samples: ImportanceSamples,
    log_joint: Callable[[torch.Tensor], torch.Tensor],
    n_samples: int,
    generator: torch.Generator | None = None,
) -> ImportanceSamples:
    """Draws of a t distribution with the tempered moments of `samples`, and their weights; see :func:`mended`."""
    gaussian = moved(samples)
    law = StudentT(gaussian.widened(_WIDER), max(_MIN_DOF, samples.z.shape[-1]))
    z = law.sample(n_samples, generator)
    return ImportanceSamples(z, log_joint(z) - law.log_prob(z), gaussian, law)


def moved(samples: ImportanceSamples) -> LaplacePosterior:
    """The proposals with the mean and covariance of tempered weights; as they were where those are of no use."""
    n, d = len(samples.z), samples.z.shape[-1]
    wanted = min(max(_PER_DIMENSION * d, _AT_LEAST), n / 3)
    samples = samples._replace(log_weights=tempered_weights(samples.log_weights, wanted))
    proposal, mean = samples.proposal, samples.mean
    covariance, failed = torch.linalg.cholesky_ex(samples.shrunk_covariance().double())
    cholesky, failed_inverse = torch.linalg.cholesky_ex(torch.cholesky_inverse(covariance))
    cholesky = cholesky.to(proposal.cholesky.dtype)
    usable = (
        (failed == 0) & (failed_inverse == 0) & torch.isfinite(mean).all(-1) & torch.isfinite(cholesky).all((-1, -2))
    )
    return proposal._replace(
        mode=torch.where(usable[:, None], mean, proposal.mode),
        cholesky=torch.where(usable[:, None, None], cholesky, proposal.cholesky),
    )


def tempered_weights(log_weights: torch.Tensor, n_effective: float) -> torch.Tensor:
    r""":math:`a \log w` with the largest :math:`a \le 1` that leaves `n_effective` effective draws, shape ``(s, b)``."""
    enough = lambda power: 1 / torch.softmax(power * log_weights, dim=0).square().sum(0) >= n_effective
    high = torch.ones_like(log_weights[0])
    low = enough(high).to(high.dtype)
    for _ in range(_N_BISECTIONS):
        middle = (low + high) / 2
        low, high = torch.where(enough(middle), middle, low), torch.where(enough(middle), high, middle)
    return low * log_weights
