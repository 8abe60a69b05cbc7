"""Training plan of the deep generative decoder with its representations integrated out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from scvi.module.base import LossOutput

from scdgd._compat import MODULE_KEYS
from scdgd._options import Integer, Optional, checked
from scdgd.inference import laplace_term

from ._representation_plan import RepresentationPlan, rows_of

if TYPE_CHECKING:
    from scdgd.module import DGDModule


class LaplacePlan(RepresentationPlan):
    r"""Maximise the evidence of the cells by Laplace's approximation, not their joint density.

    .. math::
        \sum_i \Big[ \log p(x_i \mid z_i) + \log p(z_i \mid \phi) + \tfrac d2 \log 2\pi
        - \tfrac12 \log\lvert H_i\rvert \Big] + \sum_t \kappa_t \log p_t(\phi)

    with :math:`H_i` the Fisher information of the counts plus the precision of the prior, see
    :func:`~scdgd.inference.laplace_term`. Representations, decoder, dispersions and, by gradient, the mixture see the
    derivatives of all terms. Steps of the mixture in closed form see :math:`\mathcal N(z_i, H_i^{-1})`, so they end
    where the derivatives vanish, as far as it is certain which component a cell is from. If the latent space shrinks,
    :math:`-\tfrac12 \log\lvert H_i\rvert` loses what :math:`\log p(z_i \mid \phi)` gains, so the objective is bounded
    without noise on representations, with each hyper-prior counted once.

    In the history the term is part of ``kl_local_train`` and ``elbo_train``, the negative log evidence per cell.

    Parameters
    ----------
    module
        The module, with point estimates and without noise (``noise_scale=0``).
    n_laplace_genes
        Number of genes that estimate :math:`H_i`, drawn anew for each minibatch; ``None`` for all.
    **kwargs
        As for :class:`RepresentationPlan`.

    Raises
    ------
    ValueError
        If the module learns variances or adds noise, or `n_laplace_genes` is smaller than 1.

    Examples
    --------
    >>> model = scdgd.model.SCDGD(adata, noise_scale=0.0)
    >>> model.train(plan_cls=scdgd.train.LaplacePlan)
    """

    owns_rows = False

    @checked(n_laplace_genes=Optional(Integer(1)))
    def __init__(self, module: DGDModule, *, n_laplace_genes: int | None = 100, **kwargs: Any) -> None:
        super().__init__(module, **kwargs)
        posterior = module.posterior
        if posterior.is_learned:
            msg = f"{type(posterior).__name__} rows learn variances of their own; LaplacePlan integrates around point estimates."
            raise ValueError(msg)
        if posterior.noise_scale > 0:
            msg = (
                "Noise on representations and Laplace's term would count the width of a posterior twice: set "
                f"`noise_scale=0`, got {posterior.noise_scale}."
            )
            raise ValueError(msg)
        self.n_laplace_genes = n_laplace_genes

    def on_fit_start(self) -> None:
        """Set up the posteriors of the rows, of which the steps of the mixture see what the last visits found."""
        super().on_fit_start()
        table, is_dense = self.module.representations.table, self.module.prior.is_dense
        self._spread = table.new_zeros(*table.shape, table.shape[1]) if is_dense else torch.zeros_like(table)

    def training_state(self) -> dict:
        """As for any plan, and the spread of the posteriors."""
        return {**super().training_state(), "spread": self._spread}

    def load_training_state(self, state: dict) -> None:
        """Put back what :meth:`training_state` gave."""
        super().load_training_state(state)
        self._spread.copy_(state["spread"])

    def forward(self, batch: dict[str, torch.Tensor], *args: Any, **kwargs: Any) -> tuple:
        """Outputs of the module, with the term in its loss."""
        inference_outputs, generative_outputs, output = super().forward(batch, *args, **kwargs)
        return inference_outputs, generative_outputs, self._completed(batch, inference_outputs, output)

    def _completed(self, batch: dict, inference_outputs: dict, output: LossOutput) -> LossOutput:
        z = inference_outputs[MODULE_KEYS.Z_KEY]
        seed = int(torch.randint(2**31, ()))
        log_volume, covariance = laplace_term(self.module, batch, z, self.n_laplace_genes, seed)
        is_diagonal = self._spread.ndim == 2
        self._spread[rows_of(batch)] = covariance.diagonal(dim1=-2, dim2=-1) if is_diagonal else covariance
        return replace(
            output,
            loss=output.loss - self.kl_weight * log_volume.mean(),
            kl_local={**output.kl_local, "neg_log_volume": -log_volume},
        )

    def posteriors(self) -> tuple[torch.Tensor, torch.Tensor | float]:
        """Modes ``(n, d)`` and spreads, variances ``(n, d)`` or covariances ``(n, d, d)``, of the training cells."""
        spread = self._spread if self.train_rows is None else self._spread[self.train_rows.to(self._spread.device)]
        return self._train_table, spread
