"""Counts split in two, and the law of one part given the other."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from anndata import AnnData
from scipy import sparse

from scdgd._options import Integer, Number, Optional, Text, checked
from scdgd.data import counts_of, in_memory
from scdgd.likelihood import NegativeBinomial, Poisson, ZeroInflatedNegativeBinomial, ZeroInflatedPoisson

if TYPE_CHECKING:
    from torch.distributions import Distribution

    from scdgd.likelihood import CountLikelihood

#: Logit of a probability of zero inflation that is zero to single precision.
_NEVER = -50.0


@checked(epsilon=Number(above=0, below=1), seed=Integer(0), layer=Optional(Text("the name of one layer")))
def split_counts(
    adata: AnnData, *, epsilon: float = 0.5, seed: int = 0, layer: str | None = None
) -> tuple[AnnData, AnnData]:
    r"""Split every count binomially, :math:`x^{\mathrm{tr}} \sim \mathrm{Bin}(x, \epsilon)`.

    Parameters
    ----------
    adata
        Cells with raw counts.
    epsilon
        Expected share of the first part.
    seed
        Seed of the draws.
    layer
        Layer of the counts; ``None`` for ``X``.

    Returns
    -------
    Two AnnData with the parts as CSR (in the place the counts came from), with cell names of their own. Cells whose
    first part is empty are left out of both.

    Raises
    ------
    ValueError
        If `epsilon` is not between 0 and 1, or a value is no count.
    TypeError
        If `adata` is no AnnData.
    KeyError
        If there is no such layer.
    """
    if not isinstance(adata, AnnData):
        msg = f"Counts are split in an AnnData, not in a {type(adata).__name__}; pass the modality with the counts."
        raise TypeError(msg)
    adata = adata.to_memory() if adata.isbacked else adata
    counts = sparse.csr_matrix(in_memory(counts_of(adata, layer)))
    counts.sum_duplicates()
    if not (counts.data >= 0).all() or (counts.data != np.rint(counts.data)).any():
        msg = "Counts are split, whole numbers from 0, but there are other values. Pass raw counts, or name their `layer`."
        raise ValueError(msg)
    rng = np.random.default_rng(seed)
    first = counts.copy()
    first.data = rng.binomial(counts.data.astype(np.int64), epsilon).astype(np.float32)
    second = counts.astype(np.float32)
    second.data = second.data - first.data
    keep = np.asarray(first.sum(axis=1)).ravel() > 0
    parts = []
    for name, part in (("inferred", first), ("scored", second)):
        part = part[keep]
        part.eliminate_zeros()
        part_adata = adata[keep].copy()
        if layer is None:
            part_adata.X = part
        else:
            part_adata.layers[layer] = part
        part_adata.obs_names = [f"{cell}_{name}_half" for cell in part_adata.obs_names]
        part_adata.uns = {}
        parts.append(part_adata)
    return parts[0], parts[1]


def conditional_of_other_half(
    px: Distribution | CountLikelihood, x_inferred: torch.Tensor, epsilon: float
) -> CountLikelihood:
    r"""Law of the second part of a binomially split count, given the first.

    For negative binomial counts

    .. math::
        x^{\mathrm{te}} \mid x^{\mathrm{tr}} \sim \mathrm{NB}\Big(
        (1-\epsilon)\,\mu\,\frac{\theta + x^{\mathrm{tr}}}{\theta + \epsilon\mu},\; \theta + x^{\mathrm{tr}}\Big)

    The parts are dependent, because they share the gamma distributed rate of the count; those of a Poisson are not,
    :math:`x^{\mathrm{te}} \sim \mathrm{Poisson}((1-\epsilon)\mu)`. Zero inflation is shared, too: it goes on with
    probability :math:`\pi / (\pi + (1 - \pi) p_0)` after a zero, where :math:`p_0 = (1 + \epsilon\mu/\theta)^{-\theta}`
    or, for a Poisson, :math:`e^{-\epsilon\mu}`, and is excluded by any other count.
    The law `px` of the first part has the mean :math:`\epsilon\mu`, shape ``(b, g)``, as the part itself.
    """
    if hasattr(px, "parts"):  # of several modalities
        blocks = x_inferred.split(px.widths, dim=-1)
        halves = [conditional_of_other_half(part, x, epsilon) for part, x in zip(px.parts, blocks, strict=True)]
        return type(px)(halves, px.present)
    if hasattr(px, "other_half"):
        return px.other_half(x_inferred, epsilon)
    ratio = (1 - epsilon) / epsilon
    if hasattr(px, "theta"):
        theta = px.theta + x_inferred
        mu, parameters = px.mu * ratio * theta / (px.theta + px.mu), [theta.log()]
        log_zero = -px.theta * torch.log1p(px.mu / px.theta)
    else:
        mu, parameters, log_zero = px.rate * ratio, [], -px.rate
    if not hasattr(px, "zi_logits"):
        return (NegativeBinomial if parameters else Poisson)(mu.log(), *parameters)
    zi_logits = torch.where(x_inferred > 0, _NEVER, px.zi_logits - log_zero)
    return (ZeroInflatedNegativeBinomial if parameters else ZeroInflatedPoisson)(mu.log(), *parameters, zi_logits)
