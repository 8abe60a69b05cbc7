"""Held-out log-likelihood by count splitting: the one score by which all models are compared."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from anndata import AnnData
from scipy import sparse
from scvi import REGISTRY_KEYS

from scdgd._compat import MODULE_KEYS
from scdgd.data import SparseCounts
from scdgd.likelihood import NegativeBinomial

if TYPE_CHECKING:
    from scvi.model.base import BaseModelClass


class HeldOutScore(NamedTuple):
    """Scores of the held-out halves of test cells."""

    log_likelihood: float
    """Mean over cells of the log-likelihood summed over genes, in nats."""
    standard_error: float
    """Standard error of that mean over cells."""
    rmse: float
    """Root mean squared error of the expected counts, over all cells and genes."""
    per_cell: np.ndarray
    """Log-likelihood of each cell, shape ``(n,)``, in nats."""


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
        If `epsilon` is not between 0 and 1.
    """
    if not 0 < epsilon < 1:
        msg = f"`epsilon` must lie between 0 and 1, got {epsilon}."
        raise ValueError(msg)
    if not isinstance(adata, AnnData):
        msg = f"Counts are split in an AnnData, not in a {type(adata).__name__}; pass the modality with the counts."
        raise TypeError(msg)
    adata = adata.to_memory() if adata.isbacked else adata
    counts = sparse.csr_matrix(adata.X if layer is None else adata.layers[layer])
    counts.sum_duplicates()
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


@torch.inference_mode()
def held_out_log_likelihood(
    model: BaseModelClass,
    adata: AnnData,
    *,
    epsilon: float = 0.5,
    seed: int = 0,
    batch_size: int = 256,
) -> HeldOutScore:
    """Plug-in log-likelihood of counts that neither training nor inference of the representation has seen.

    Each count of a test cell is split binomially (:func:`split_counts`). The representation is inferred from one half,
    its size factor too, and the other half is scored given the first (:func:`conditional_of_other_half`). An encoder-less model that was scored on the counts it has fitted its representation to would have seen the answer.

    Parameters
    ----------
    model
        Trained :class:`~scdgd.model.SCDGD` or :class:`scvi.model.SCVI` with negative binomial counts; its posterior
        mean is plugged in. Size factors are those of the inferred half: totals or maxima are taken from it, registered
        ones are multiplied by `epsilon`. A maximum of thinned counts exceeds `epsilon` times the maximum, which costs
        models with ``size_factor="max"`` a little.
    adata
        Test cells, none of which has trained the model, with the genes of the model.
    epsilon
        Share of the counts that the representation is inferred from.
    seed
        Seed of the split; the same for all models that are compared.
    batch_size
        Cells scored together.

    Returns
    -------
    The scores.

    Raises
    ------
    ValueError
        If the model's likelihood is not negative binomial.
    """
    model._check_if_trained(warn=False)
    if model.module.gene_likelihood != "nb":
        msg = f"The split of counts is defined for negative binomial models, not for {model.module.gene_likelihood!r}."
        raise ValueError(msg)
    layer = model.registry_["setup_args"].get("layer")
    inferred, scored = split_counts(adata, epsilon=epsilon, seed=seed, layer=layer)
    size_factor_key = model.registry_["setup_args"].get("size_factor_key")
    if size_factor_key is not None:
        inferred.obs[size_factor_key] = inferred.obs[size_factor_key] * epsilon
    model._validate_anndata(inferred)
    counts = sparse.csr_matrix(scored.X if layer is None else scored.layers[layer])
    log_likelihoods, squared_error, first = [], 0.0, 0
    for tensors in model._make_data_loader(inferred, batch_size=batch_size):
        x_inferred = tensors[REGISTRY_KEYS.X_KEY].to(model.device)
        if isinstance(x_inferred, SparseCounts):
            x_inferred = x_inferred.to_dense()
        x_scored = torch.as_tensor(counts[first : first + len(x_inferred)].toarray(), device=model.device)
        first += len(x_inferred)
        mean, theta = _plug_in_parameters(model, tensors)  # of the inferred half: mean = epsilon * mu
        px = conditional_of_other_half(mean, theta, x_inferred, epsilon)
        log_likelihoods.append(px.log_prob(x_scored).cpu())
        squared_error += float((x_scored - px.mean).square().sum(dtype=torch.float64))
    per_cell = torch.cat(log_likelihoods).numpy()
    return HeldOutScore(
        log_likelihood=float(per_cell.mean()),
        standard_error=float(per_cell.std(ddof=1) / np.sqrt(len(per_cell))) if len(per_cell) > 1 else float("nan"),
        rmse=float(np.sqrt(squared_error / (len(per_cell) * counts.shape[1]))),
        per_cell=per_cell,
    )


def conditional_of_other_half(
    mean: torch.Tensor, theta: torch.Tensor, x_inferred: torch.Tensor, epsilon: float
) -> NegativeBinomial:
    r"""Law of the second part of a binomially split negative binomial count, given the first.

    .. math::
        x^{\mathrm{te}} \mid x^{\mathrm{tr}} \sim \mathrm{NB}\Big(
        (1-\epsilon)\,\mu\,\frac{\theta + x^{\mathrm{tr}}}{\theta + \epsilon\mu},\; \theta + x^{\mathrm{tr}}\Big)

    The parts are dependent, because they share the gamma distributed rate of the count.

    Parameters
    ----------
    mean
        Mean :math:`\epsilon\mu` of the first part, shape ``(b, g)``.
    theta
        Inverse dispersion, broadcastable to `mean`.
    x_inferred
        The first part, shape ``(b, g)``.
    epsilon
        Share of the first part.
    """
    posterior_theta = theta + x_inferred
    expected = mean * (1 - epsilon) / epsilon * posterior_theta / (theta + mean)
    return NegativeBinomial(expected.log(), posterior_theta.log())


def _plug_in_parameters(model: BaseModelClass, tensors: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and inverse dispersion at the posterior mean of z, each ``(b, g)``."""
    module = model.module
    tensors = {key: value.to(model.device) for key, value in tensors.items()}
    outputs = module.inference(**module._get_inference_input(tensors))
    if MODULE_KEYS.QZ_KEY in outputs:
        outputs[MODULE_KEYS.Z_KEY] = outputs[MODULE_KEYS.QZ_KEY].loc
    px = module.generative(**module._get_generative_input(tensors, outputs))[MODULE_KEYS.PX_KEY]
    return px.mean, px.theta
