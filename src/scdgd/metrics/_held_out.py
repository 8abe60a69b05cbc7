"""Held-out log-likelihood by count splitting: the one score by which all models are compared."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import torch
from scipy import sparse

from scdgd._options import Choice, Integer, Number, checked
from scdgd.data import SparseCounts, counts_of
from scdgd.inference import MAX_PARETO_K, pareto_shape
from scdgd.likelihood import LIKELIHOODS, family_of

from ._count_splitting import split_counts
from ._inferred_half import InferredHalf

if TYPE_CHECKING:
    from collections.abc import Callable

    from anndata import AnnData
    from scvi.model.base import BaseModelClass

    from scdgd.likelihood import CountLikelihood


class HeldOutScore(NamedTuple):
    """Scores of the held-out halves of test cells."""

    log_likelihood: float
    """Mean over cells of the log-likelihood summed over the genes that were measured, in nats."""
    standard_error: float
    """Standard error of that mean over cells."""
    rmse: float
    """Root mean squared error of the expected counts, over all cells and the genes that were measured in them."""
    per_cell: np.ndarray
    """Log-likelihood of each cell, shape ``(n,)``, in nats."""
    effective_sample_size: float = math.nan
    """Median over cells of :math:`(\\sum w)^2 / \\sum w^2`, of the posterior's draws; NaN for plug-in scores."""
    scored_effective_sample_size: float = math.nan
    """The same for the terms :math:`w_s\\, p(x^{\\mathrm{te}} \\mid z_s, x^{\\mathrm{tr}})` that the score is the sum of."""
    share_distrusted: float = math.nan
    """Share of cells whose weights have a heavy tail, Pareto k above 0.7; NaN for plug-in scores."""
    of_modalities: np.ndarray | None = None
    """Log-likelihood of each modality in each cell alone, shape ``(n, M)``, zero where a cell lacks it; ``None`` for one modality.
    In the predictive form they do not add up to that of all: halves of several modalities are of one representation."""


class _CellScores(NamedTuple):
    """Scores of ``b`` cells, each of shape ``(b,)``."""

    log_likelihood: torch.Tensor
    squared_error: torch.Tensor
    n_genes: torch.Tensor
    effective_sample_size: torch.Tensor
    scored_effective_sample_size: torch.Tensor
    pareto_k: torch.Tensor
    of_modalities: torch.Tensor
    """Of each modality, ``(b, M)``."""


@checked(
    epsilon=Number(above=0, below=1),
    seed=Integer(0),
    batch_size=Integer(1),
    form=Choice("plug_in", "predictive"),
    n_samples=Integer(1),
)
@torch.inference_mode(False)
@torch.no_grad()
def held_out_log_likelihood(
    model: BaseModelClass,
    adata: AnnData,
    *,
    epsilon: float = 0.5,
    seed: int = 0,
    batch_size: int = 256,
    form: Literal["plug_in", "predictive"] = "plug_in",
    n_samples: int = 200,
) -> HeldOutScore:
    r"""Log-likelihood of counts that neither training nor inference of the representation has seen.

    Each count of a test cell is split binomially (:func:`split_counts`). The representation is inferred from one half,
    its size factor too, and the other half is scored given the first (:func:`conditional_of_other_half`). An encoder-less
    model that was scored on the counts it has fitted its representation to would have seen the answer.

    The plug-in form takes the representation to be known. The predictive form integrates it,

    .. math::
        \log p(x^{\mathrm{te}} \mid x^{\mathrm{tr}}) \approx \log \sum_s w_s\, p(x^{\mathrm{te}} \mid z_s, x^{\mathrm{tr}}),
        \qquad w_s \propto \frac{p(x^{\mathrm{tr}} \mid z_s)\, p(z_s)}{q(z_s \mid x^{\mathrm{tr}})},
        \qquad \sum_s w_s = 1

    with the model's own prior, so models are compared by what they say of the cell, not by how good a point they plug in.
    Draws come from a Gaussian that is fitted to each cell's posterior, in the same way for models with and without an
    encoder (:func:`scdgd.inference.posterior_samples`, :func:`scdgd.inference.encoder_samples`). Few effective samples bias
    the score downwards: it rises with the number of samples, more so for models whose posteriors are hard to sample from,
    so compare after looking at ``effective_sample_size``.

    Parameters
    ----------
    model
        Trained :class:`~scdgd.model.SCDGD`, :class:`~scdgd.model.SCVAD`, :class:`~scdgd.model.FlexSCVI` or one of its
        kind, or :class:`scvi.model.SCVI`, with negative binomial, zero-inflated negative binomial or Poisson counts. Size factors are those of the inferred half: totals
        or maxima are taken from it, registered ones are multiplied by `epsilon`. A maximum of thinned counts exceeds
        `epsilon` times the maximum, which costs models with ``size_factor="max"`` a little.
    adata
        Test cells, none of which has trained the model, with the genes of the model.
    epsilon
        Share of the counts that the representation is inferred from.
    seed
        Seed of the split and of the draws; the same for all models that are compared.
    batch_size
        Cells scored together.
    form
        ``"plug_in"`` for the score at the posterior mean, as published tables have it; ``"predictive"`` for the mean over
        the posterior.
    n_samples
        Draws of each cell's posterior in the predictive form, rounded up to an even number.

    Returns
    -------
    The scores.

    Raises
    ------
    ValueError
        If an argument is not one of its choices, or the model's likelihood is not one of counts, its size factors are
        latent or its dispersions depend on labels (for the predictive form, on representations).
    TypeError
        If the predictive form does not know the posterior of such a model.
    """
    model._check_if_trained(warn=False)
    _check(model.module, form)
    inferred, counts = _halves(model, adata, epsilon, seed)
    parts, first = [], 0
    with torch.random.fork_rng([model.device] if model.device.type == "cuda" else []):
        loader = model._make_data_loader(inferred, batch_size=batch_size)
        torch.manual_seed(seed)  # not before: placing new cells draws, finding remembered ones does not
        for tensors in loader:
            half = InferredHalf(model.module, tensors, epsilon)
            x = SparseCounts.from_scipy(counts[first : first + len(half)]).to(model.device)
            parts.append(_plug_in(half, x) if form == "plug_in" else _predictive(half, x, n_samples))
            first += len(half)
    return _summary(_CellScores(*(torch.cat(field).cpu() for field in zip(*parts, strict=True))))


def _check(module: torch.nn.Module, form: str) -> None:
    """Refuse what would give a score that cannot be compared."""
    dispersion = getattr(module, "dispersion", "gene")
    msg = None
    if hasattr(module, "observations"):
        families = [observation.family for observation in module.observations.values()]
    else:
        families = [getattr(module, "likelihood", None) or family_of(module.gene_likelihood)]  # of scvi-tools: names
    if not all(family.can_be_split for family in families):
        known = tuple(name for name, family in LIKELIHOODS.items() if family.can_be_split)
        msg = f"Counts can be split under `gene_likelihood` {known}, but this model has {module.gene_likelihood!r}."
    elif not getattr(module, "use_observed_lib_size", True):
        msg = "Models are compared with the same size factors, but those of this one are latent (`use_observed_lib_size`)."
    elif dispersion == "gene-label":
        msg = "Labels take no part in scores, but the dispersions of this model depend on them (`dispersion`)."
    elif form == "predictive" and dispersion == "gene-cell":
        msg = "The predictive form is for dispersions that do not depend on the representation; use `form='plug_in'`."
    if msg is not None:
        raise ValueError(msg)


def _halves(model: BaseModelClass, adata: AnnData, epsilon: float, seed: int) -> tuple[AnnData, sparse.csr_matrix]:
    """The half that representations are inferred from, registered, and the counts ``(n, g)`` that are scored."""
    setup = model.registry_["setup_args"]
    layer, size_factor_key = setup.get("layer"), setup.get("size_factor_key")
    inferred, scored = split_counts(adata, epsilon=epsilon, seed=seed, layer=layer)
    if size_factor_key is not None:
        inferred.obs[size_factor_key] = inferred.obs[size_factor_key] * epsilon
    model._validate_anndata(inferred)
    counts, panel = counts_of(scored, layer), getattr(model.get_anndata_manager(inferred), "panel", None)
    return inferred, sparse.csr_matrix(counts) if panel is None else panel.counts_of(counts)


def _plug_in(half: InferredHalf, x: SparseCounts) -> _CellScores:
    """Scores at the posterior mean, of counts ``(b, g)``."""
    px = half.decode_other(half.posterior_mean())
    of_modalities = _of_modalities(px, x, lambda part, block: part.log_prob(block))
    log_likelihood = of_modalities.sum(1)
    nothing = torch.full_like(log_likelihood, math.nan)
    squares = _squared_error(x, px.mean, half.measured)
    return _CellScores(log_likelihood, *squares, nothing, nothing, nothing, of_modalities)


def _predictive(half: InferredHalf, x: SparseCounts, n_samples: int) -> _CellScores:
    """Scores averaged over the posterior, of counts ``(b, g)``, one draw at a time."""
    draws, log_weights = half.weighted_draws(n_samples)
    log_weights = torch.log_softmax(log_weights.double(), dim=0)  # (s, b)
    terms, of_modalities, expected = [], [], 0.0
    for z, log_weight in zip(draws, log_weights, strict=True):
        px = half.decode_other(z)
        of_each = _of_modalities(px, x, lambda part, block: part.log_kernel(block))
        terms.append(log_weight + of_each.sum(1))
        of_modalities.append(log_weight.unsqueeze(1) + of_each)
        expected = expected + log_weight.exp().unsqueeze(1) * px.mean
    # as dispersions, those of every draw
    constants = _of_modalities(px, x, lambda part, block: part.log_constant(block))
    terms = torch.stack(terms) + constants.sum(1)
    return _CellScores(
        torch.logsumexp(terms, dim=0),
        *_squared_error(x, expected, half.measured),
        _effective_sample_size(log_weights),
        _effective_sample_size(terms),
        pareto_shape(log_weights),
        torch.logsumexp(torch.stack(of_modalities), dim=0) + constants,
    )


def _of_modalities(
    px: CountLikelihood, x: SparseCounts, function: Callable[[CountLikelihood, SparseCounts], torch.Tensor]
) -> torch.Tensor:
    """What a function gives of the counts of each modality, ``(b, M)``."""
    return torch.stack(px.of_parts(function, x), dim=1)


def _squared_error(
    x: SparseCounts, mean: torch.Tensor, measured: torch.Tensor | None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Squared errors summed over genes that were measured, and how many these are, both ``(b,)``."""
    squares = (x.to_dense() - mean).square()
    if measured is None:
        return squares.sum(1, dtype=torch.float64), torch.full((len(x),), x.n_genes, device=squares.device)
    return squares.masked_fill(~measured, 0).sum(1, dtype=torch.float64), measured.sum(1)


def _effective_sample_size(log_weights: torch.Tensor) -> torch.Tensor:
    r""":math:`(\sum w)^2 / \sum w^2` of weights ``(s, b)``, shape ``(b,)``."""
    return 1 / torch.softmax(log_weights, dim=0).square().sum(0)


def _summary(cells: _CellScores) -> HeldOutScore:
    n, per_cell = len(cells.log_likelihood), cells.log_likelihood.numpy()
    sampled = not cells.pareto_k.isnan().all()
    return HeldOutScore(
        log_likelihood=float(per_cell.mean()),
        standard_error=float(per_cell.std(ddof=1) / np.sqrt(n)) if n > 1 else math.nan,
        rmse=math.sqrt(float(cells.squared_error.sum()) / int(cells.n_genes.sum())),
        per_cell=per_cell,
        effective_sample_size=float(cells.effective_sample_size.median()),
        scored_effective_sample_size=float(cells.scored_effective_sample_size.median()),
        of_modalities=cells.of_modalities.numpy() if cells.of_modalities.shape[1] > 1 else None,
        share_distrusted=float((cells.pareto_k > MAX_PARETO_K).double().mean()) if sampled else math.nan,
    )
