"""The noise baseline: pilot cells with added noise, which any generator should beat."""

from __future__ import annotations

import numpy as np
from scipy import sparse

from scdgd._options import Integer

from ._growing_csr import GrowingCSR
from ._registered_sampler import spread_evenly

_MAX_SHAPE, _MAX_SCALE = 10.0, 5.0
_MAX_ELEMENTS = 2**22


def noise_baseline(
    counts: np.ndarray | sparse.spmatrix,
    n_cells: int | None = None,
    *,
    replicate: bool = False,
    seed: int | None = None,
) -> tuple[sparse.csr_matrix, np.ndarray]:
    r"""Add noise to pilot cells, the upper bound of errors of Treppner et al. 2021.

    .. math::
        \tilde x_{ij} = x_{ij} + \epsilon_{ij}, \qquad \epsilon_{ij} \sim \mathrm{Poisson}(\lambda_{ij}), \qquad
        \lambda_{ij} \sim \mathrm{Gamma}(\text{shape } a_i, \text{scale } b_i), \qquad
        a_i \sim U(0, 10), \quad b_i \sim U(0, 5)

    The paper does not say whether rates are drawn for each cell or each entry: here shape and scale are a cell's and
    rates an entry's. Pilot cells are replicated as by :meth:`CellSampler.sample_posterior`: here before noise is added, so
    that no two cells are the same, in the paper after it.

    Parameters
    ----------
    counts
        Counts of the pilot, shape ``(m, g)``.
    n_cells
        Number of cells ``n``; as many as the pilot has if not given.
    replicate
        Add noise to each pilot cell once, and replicate the noisy cells, as published. With ``False``, each copy has
        noise of its own.
    seed
        Seed of all draws.

    Returns
    -------
    Counts, shape ``(n, g)``, CSR (though few are zero), and the pilot cell of each, shape ``(n,)``.

    Raises
    ------
    ValueError
        If `n_cells` is not a positive integer, there are no pilot cells, or their counts are negative or not finite.
    """
    counts = sparse.csr_matrix(counts)
    n_pilot, n_genes = counts.shape
    if n_pilot < 1 or not (np.isfinite(counts.data).all() and (counts.data >= 0).all()):
        msg = f"Noise is added to counts, finite and not negative, of at least one cell; got {n_pilot} cells."
        raise ValueError(msg)
    n_cells = n_pilot if n_cells is None else Integer(1)("n_cells", n_cells)
    rng = np.random.default_rng(seed)
    donors = np.repeat(*spread_evenly(n_cells, np.arange(n_pilot), rng))
    noised = np.arange(n_pilot) if replicate else donors
    noisy, rows = GrowingCSR(len(noised), n_genes), max(1, _MAX_ELEMENTS // n_genes)
    for some in np.split(noised, range(rows, len(noised), rows)):
        shape, scale = (rng.uniform(0, high, (len(some), 1)) for high in (_MAX_SHAPE, _MAX_SCALE))
        rates = rng.gamma(shape, scale, (len(some), n_genes))
        noisy.append(counts[some].toarray() + rng.poisson(rates))
    matrix = noisy.to_matrix()
    return matrix[donors] if replicate else matrix, donors
