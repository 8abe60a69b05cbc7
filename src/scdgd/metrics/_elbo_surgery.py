"""The evidence lower bound, taken apart."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import torch
from scvi import REGISTRY_KEYS, settings

from scdgd._compat import ADATA_MINIFY_TYPE
from scdgd._constants import MEASURED_KEY
from scdgd._options import SEED, Integer, Optional, checked
from scdgd.inference import latent_module
from scdgd.inference._stock_module import knows_prior
from scdgd.likelihood._cells import log_prob_of_cells

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData
    from scvi.model.base import BaseModelClass
    from torch.distributions import Distribution

    from scdgd.module import LatentModule

#: Entries ``(m, b, d)`` of densities of all posteriors at some representations, in memory at once.
_MAX_ELEMENTS = 2**22


class ELBOSurgery(NamedTuple):
    """Terms of the bound, means over cells in nats."""

    evidence: float
    """Importance-sampled :math:`\\log p(x)`."""
    elbo: float
    """:math:`\\mathbb E_q \\log p(x \\mid z)` less the rate."""
    log_likelihood: float
    """:math:`\\mathbb E_q \\log p(x \\mid z)`, the negative distortion."""
    rate: float
    """:math:`\\mathrm{KL}(q(z \\mid x) \\,\\|\\, p(z))`."""
    marginal_kl: float
    """:math:`\\mathrm{KL}(\\bar q(z) \\,\\|\\, p(z))` of the aggregated posterior."""
    mutual_information: float
    """:math:`I_q[z; n]` between representations and the number of the cell, at most :math:`\\log n`."""
    posterior_predictive: float
    """:math:`\\log \\mathbb E_q p(x \\mid z)`: a cell scored with its own posterior, which flatters."""
    n_cells: int
    """Number ``n`` of cells that the aggregated posterior is of."""
    per_cell: pd.DataFrame
    """Evidence, log likelihood, rate and posterior predictive of each cell, by its name."""


@checked(n_samples=Integer(1), n_marginal_samples=Integer(1), batch_size=Optional(Integer(1)), seed=SEED)
@torch.inference_mode(False)
@torch.no_grad()
def elbo_surgery(
    model: BaseModelClass,
    adata: AnnData | None = None,
    *,
    indices: Sequence[int] | None = None,
    n_samples: int = 100,
    n_marginal_samples: int = 10,
    batch_size: int | None = None,
    seed: int | None = None,
) -> ELBOSurgery:
    r"""Take the evidence lower bound of some cells apart (Hoffman & Johnson 2016; Stirn & Knowles 2024).

    .. math::
        \mathrm{ELBO} = \mathbb E_q \log p(x \mid z) - \mathrm{KL}(q(z \mid x) \,\|\, p(z)), \qquad
        \frac1n \sum_i \mathrm{KL}(q_i \,\|\, p) = \mathrm{KL}(\bar q \,\|\, p) + I_q[z; n], \qquad
        \bar q = \frac1n \sum_i q_i

    with the model's own prior. The first half of the divergence is what a better prior could take away; the second is what
    representations tell of cells, and at most :math:`\log n`: near it, posteriors do not overlap. All terms are Monte Carlo
    estimates from the same draws, so the identities hold exactly for them.

    Parameters
    ----------
    model
        Trained model with posteriors that a bound was raised with: one with an encoder, ours or :class:`scvi.model.SCVI`, or
        :class:`~scdgd.model.SCVAD`.
    adata, indices
        Cells, best ones that are held out; those of the model if not given.
    n_samples
        Draws of each cell's posterior.
    n_marginal_samples
        How many of them the aggregated posterior is evaluated at, ``n^2`` densities each. Those of a flow
        (:class:`~scdgd.model.SCIAF`) need its inverse and take long: pass a few hundred cells.
    batch_size
        Cells that are read together.
    seed
        Seed of the draws; ``scvi.settings.seed`` if not given.

    Returns
    -------
    The terms.

    Raises
    ------
    NotImplementedError
        If there is no such posterior or prior, or sizes of cells are latent.
    ValueError
        If data are minified without counts.

    Examples
    --------
    >>> terms = scdgd.metrics.elbo_surgery(model, test_adata)
    >>> terms.rate == terms.marginal_kl + terms.mutual_information
    """
    model._check_if_trained(warn=False)
    module = _checked_module(model)
    adata = model._validate_anndata(adata)
    generator = torch.random.fork_rng([model.device] if model.device.type == "cuda" else [])
    with generator:
        loader = model._make_data_loader(adata, indices=indices, batch_size=batch_size)
        torch.manual_seed((settings.seed or 0) if seed is None else seed)  # placing new cells draws, too
        posteriors, draws, parts = [], [], []
        for tensors in loader:
            tensors = {key: value.to(model.device) for key, value in tensors.items()}
            qz = module.variational_posterior(tensors)
            z = qz.sample((n_samples,))
            posteriors.append(qz)
            draws.append(z[:n_marginal_samples])
            parts.append(_terms_of_draws(module, tensors, qz, z))
    log_likelihood, log_prior, log_q = (
        torch.cat(term, dim=1) for term in zip(*parts, strict=True)
    )  # (s, n), in double
    own = log_q[:n_marginal_samples]
    information = float((own - _log_aggregated(posteriors, draws)).mean())
    of_cells = {
        "evidence": _log_mean_exp(log_likelihood + log_prior - log_q),
        "log_likelihood": log_likelihood.mean(0),
        "rate": (log_q - log_prior).mean(0),
        "posterior_predictive": _log_mean_exp(log_likelihood),
    }
    names = adata.obs_names if indices is None else adata.obs_names[np.asarray(indices)]
    per_cell = pd.DataFrame({name: values.cpu().numpy() for name, values in of_cells.items()}, index=names)
    means = per_cell.mean()
    return ELBOSurgery(
        evidence=float(means["evidence"]),
        elbo=float(means["log_likelihood"] - means["rate"]),
        log_likelihood=float(means["log_likelihood"]),
        rate=float(means["rate"]),
        marginal_kl=float(means["rate"]) - information,
        mutual_information=information,
        posterior_predictive=float(means["posterior_predictive"]),
        n_cells=len(per_cell),
        per_cell=per_cell,
    )


def _checked_module(model: BaseModelClass) -> LatentModule:
    """The module with the interface of ours; NotImplementedError if it has no bound to take apart."""
    module = latent_module(model.module)
    if not (knows_prior(model.module) and hasattr(module, "variational_posterior")):
        msg = (
            f"{type(model).__name__} has no posterior and prior of representations whose densities are known here, so there is no "
            "bound to take apart. Score it by `get_marginal_ll` if it has one."
        )
        raise NotImplementedError(msg)
    if getattr(module, "minified_data_type", None) == ADATA_MINIFY_TYPE.LATENT_POSTERIOR:
        msg = "The bound is of counts, and these data are minified without them. Attach cells with counts."
        raise ValueError(msg)
    if not getattr(module, "use_observed_lib_size", True):
        msg = "Sizes of cells are latent in this model (`use_observed_lib_size=False`), with a divergence of their own, which is not here."
        raise NotImplementedError(msg)
    return module


def _terms_of_draws(
    module: LatentModule, tensors: dict[str, torch.Tensor], qz: Distribution, z: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Log densities of counts, prior and posterior at draws ``(s, b, d)``, each ``(s, b)``, in double."""
    x, measured = tensors[REGISTRY_KEYS.X_KEY], tensors.get(MEASURED_KEY)
    log_size, prior = module.log_size(tensors), module.given_prior()
    decode = lambda one: log_prob_of_cells(module.decode(module.transformed(one), log_size, tensors), x, measured)
    log_likelihood = torch.stack([decode(one).double() for one in z])
    return log_likelihood, prior.log_prob(z).double(), qz.log_prob(z).sum(-1).double()


def _log_aggregated(posteriors: list[Distribution], draws: list[torch.Tensor]) -> torch.Tensor:
    r""":math:`\log \bar q` at draws ``(s, b, d)`` of each minibatch, shape ``(s, n)``."""
    z, sizes = torch.cat(draws, dim=1), [len(qz.loc) for qz in posteriors]
    rows, total = z.flatten(0, 1), []
    together = max(1, _MAX_ELEMENTS // (max(sizes) * z.shape[-1]))
    for some in rows.split(together):
        pairs = [some.unsqueeze(1).expand(-1, n, -1) for n in sizes]
        each = [qz.log_prob(at).sum(-1).double() for qz, at in zip(posteriors, pairs, strict=True)]
        total.append(torch.logsumexp(torch.cat(each, dim=1), dim=1) - math.log(sum(sizes)))
    return torch.cat(total).view(z.shape[:2])


def _log_mean_exp(values: torch.Tensor) -> torch.Tensor:
    """Log of the mean of exponentials over draws ``(s, n)``, shape ``(n,)``."""
    return torch.logsumexp(values, dim=0) - math.log(len(values))
