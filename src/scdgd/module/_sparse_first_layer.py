"""First layer of an encoder on sparse counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.autograd.function import once_differentiable
from torch.func import functional_call

from scdgd.data import SparseCounts

from ._filled_counts import FilledCounts

if TYPE_CHECKING:
    from scvi.nn import FCLayers


def forward_sparse(
    layers: FCLayers,
    x: SparseCounts | FilledCounts,
    *categories: torch.Tensor,
    continuous: torch.Tensor | None = None,
    log1p: bool = True,
) -> torch.Tensor:
    r"""Evaluate layers on ``[log1p(x), continuous]`` without a dense copy of the counts.

    .. math::
        W [\log(1 + x), c] + b = \sum_{j:\, x_j > 0} W_{\cdot j} \log(1 + x_j) + W_c\, c + b

    The sum is a sparse product with the gene columns of the first linear map; the rest is the layers' own forward pass.
    Of cells that lack genes, the dense rows of what is expected of these are multiplied with the gene columns, too.
    Gradients reach all parameters and the covariates, not the counts. With ``m`` rows of covariates a cell, the product
    is taken once and the layers see ``m b`` rows.

    Parameters
    ----------
    layers
        Layers whose inputs are the genes and then the continuous covariates, as in scVI's encoder.
    x
        Counts above -1 in any unit, shape ``(b, g)``; or filled ones, where genes were not measured.
    *categories
        Codes ``(b, 1)`` or one-hot weights ``(b, n_cat)`` of each categorical covariate, as the layers take them.
    continuous
        Continuous covariates, shape ``(b, n_cont)``; or ``(m b, n_cont)``, the rows of all cells after each other ``m``
        times, and so for `categories`.
    log1p
        Whether layers see ``log1p(x)`` or `x`.

    Returns
    -------
    Outputs of the last layer, shape ``(b, h)`` or ``(m b, h)``.

    Raises
    ------
    ValueError
        If the layers take another number of genes and continuous covariates, or of categorical covariates.
    """
    linear = layers.fc_layers[0][0]
    filled = x if isinstance(x, FilledCounts) else None
    x = x if filled is None else filled.counts
    covariates = linear.weight.new_empty(len(x), 0) if continuous is None else continuous
    n_given, n_wanted = x.n_genes + covariates.shape[1], linear.in_features - layers.n_cov
    if n_given != n_wanted:
        msg = (
            f"The first layer takes {n_wanted} inputs beside categorical covariates, but was given {x.n_genes} genes "
            f"and {covariates.shape[1]} continuous covariates. Pass the genes and covariates that it was built for."
        )
        raise ValueError(msg)
    if log1p:
        x = SparseCounts(x.indptr, x.indices, x.values.log1p(), x.n_genes)
    product, of_covariates = _SparseProduct.apply(x, linear.weight)
    if filled is not None:
        expected = filled.expected.log1p() if log1p else filled.expected
        product = product.index_add(0, filled.lacking, expected @ linear.weight[:, : x.n_genes].T)
    if len(covariates) > len(x):
        product = product.repeat(len(covariates) // len(x), 1)
    handle = linear.register_forward_hook(lambda module, inputs, output: output + product)
    try:
        return functional_call(layers, {"fc_layers.Layer 0.0.weight": of_covariates}, (covariates, *categories))
    finally:
        handle.remove()


class _SparseProduct(torch.autograd.Function):
    r"""Product :math:`x W_g^\top`, shape ``(b, h)``, and :math:`W_c`, of sparse ``(b, g)`` and :math:`W = [W_g, W_c]`.

    The gradient in :math:`W_g` is the sparse product of :math:`x^\top` and the gradient in the result, transposed. Both
    parts of :math:`W` in one function, because its gradient is then written once.
    """

    @staticmethod
    def forward(ctx: Any, x: SparseCounts, weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Product ``(b, h)`` and :math:`W_c` ``(h, n_cont)``, of counts ``(b, g)`` and weights ``(h, g + n_cont)``."""
        ctx.x, ctx.n_inputs = x, weight.shape[1]
        return x @ weight[:, : x.n_genes].T.contiguous(), weight[:, x.n_genes :].clone()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_product: torch.Tensor, d_rest: torch.Tensor) -> tuple[None, torch.Tensor]:
        """Gradient in the weights ``(h, g + n_cont)``; none in the counts."""
        d_weight = _columns(ctx.x, ctx.n_inputs) @ d_product.contiguous()
        d_weight[ctx.x.n_genes :] = d_rest.T
        return None, d_weight.T.contiguous()


def _columns(x: SparseCounts, n_columns: int) -> SparseCounts:
    """Transpose, shape ``(n_columns, b)``: the genes and, so that there is room for covariates, empty rows."""
    dtype = torch.int16 if x.n_genes <= torch.iinfo(torch.int16).max else torch.int32  # narrow integers sort faster
    order = torch.argsort(x.indices.to(dtype), stable=True)
    indptr = torch.zeros(n_columns + 1, dtype=torch.int64, device=x.device)
    indptr[1:].index_add_(0, x.indices, torch.ones_like(x.indices))  # bincount asks a GPU for the largest index
    indptr.cumsum_(0)
    return SparseCounts(indptr, x.cells[order], x.values[order], len(x))
