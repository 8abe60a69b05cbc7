"""The variational twin of the deep generative decoder."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scdgd.posterior import Gaussian

from ._dgd import DGDModule

if TYPE_CHECKING:
    from scdgd.prior import Prior


class VADModule(DGDModule):
    r"""Variational autodecoder: :class:`DGDModule` with a :class:`~scdgd.posterior.Gaussian` posterior a cell.

    .. math::
        \mathrm{ELBO} = \sum_i \Big[\mathbb E_{q_i} \log p(x_i \mid z) - \mathrm{KL}\big(q_i \,\|\, p(z \mid \phi)\big)\Big]
                        + \sum_t \kappa_t \log p_t(\phi)

    The baseline of Schuster & Krogh 2023. The entropy of :math:`q_i` is exact, and so is all of the divergence from a
    standard normal prior. It keeps the latent space from shrinking, so each hyper-prior counts once.

    Parameters
    ----------
    n_genes, n_cells, prior, **kwargs
        As for :class:`DGDModule`.
    initial_scale
        Standard deviation that all posteriors start from.
    """

    def __init__(self, n_genes: int, n_cells: int, prior: Prior, *, initial_scale: float = 1.0, **kwargs: Any) -> None:
        super().__init__(n_genes, n_cells, prior, posterior=Gaussian(initial_scale), **kwargs)
