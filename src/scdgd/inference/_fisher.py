"""Fisher information of counts about representations, from all genes or from a weighted subset."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from scdgd._compat import MODULE_KEYS
from scdgd._constants import MEASURED_KEY

from ._distinct_rows import distinct_rows
from ._panels import distinct_panels

if TYPE_CHECKING:
    from scdgd.likelihood import CountLikelihood
    from scdgd.module import Observation

    from ._gene_subset import GeneSubset

    Covariates = dict[str, torch.Tensor | None]

#: Entries of the Jacobian of a block of cells: on a CPU it stays in cache, elsewhere it keeps the device busy.
_CPU_ELEMENTS, _GPU_ELEMENTS = 2**19, 2**26
#: So many cells must share a representation in the mean before it pays.
_SHARED_BY = 4


def count_information(
    observation: Observation, z: torch.Tensor, log_size: torch.Tensor, covariates: Covariates, subset: GeneSubset
) -> torch.Tensor:
    r"""Fisher information of the counts, :math:`F_x = J_\eta^\top \operatorname{diag}(w) J_\eta`, shape ``(b, d, d)``.

    The Jacobian of a :class:`~scdgd.module.Linearised` softmax is centred: this is the expansion
    :math:`J_o^\top \mathrm{diag}(w) J_o - (J_o^\top w) \bar p^\top - \dots` without its cancellation. Every sum over genes,
    that of the softmax too, runs over the subset with its weights, zero for genes that were not measured in a cell: no other
    gene is decoded. Log sizes are ``(b, 1)``.
    """
    (genes, gene_weights), (b, d) = subset.measured_in(covariates.get(MEASURED_KEY)), z.shape
    linear = observation.linearise(z, *subset, **covariates)
    weights = gene_weights * of_genes(observation, linear.eta, log_size, covariates, genes).information()  # (b, m)
    scale = weights.clamp(min=torch.finfo(weights.dtype).tiny).sqrt()  # a root has no derivative at zero
    n_together = max(1, (_CPU_ELEMENTS if z.device.type == "cpu" else _GPU_ELEMENTS) // (d * len(genes)))
    information = []
    for cells in (slice(first, first + n_together) for first in range(0, b, n_together)):
        rows = linear.rows(cells)  # (block, d, m)
        rows *= scale[cells].unsqueeze(1)
        information.append(rows @ rows.mT)
    return torch.cat(information)


def shared_count_information(
    observation: Observation, z: torch.Tensor, log_size: torch.Tensor, covariates: Covariates, subset: GeneSubset
) -> torch.Tensor:
    r""":func:`count_information` of cells many of which have the same representation and covariates.

    They share :math:`J_\eta`, and a product of the weights of ``b`` cells ``(b, m)`` with the products of its columns
    ``(m, d^2)`` is all that is left.
    """
    if _SHARED_BY * len(z[:, 0].unique()) > len(z):
        return count_information(observation, z, log_size, covariates, subset)
    given = [value for key, value in covariates.items() if value is not None and key != MEASURED_KEY]
    measured = covariates.get(MEASURED_KEY)
    if measured is not None:
        given.append(distinct_panels(measured).unsqueeze(1))
    group = distinct_rows(torch.cat([z, *given], dim=1))  # (b,)
    first = torch.full_like(group, len(z)).scatter_reduce_(0, group, torch.arange(len(z), device=z.device), "amin")
    first = first[: int(group.max()) + 1]  # a cell of each group
    of_first = {key: None if value is None else value[first] for key, value in covariates.items()}
    linear = observation.linearise(z[first], *subset[first], **of_first)
    expected = of_genes(observation, linear.eta[group], log_size, covariates, subset.genes)
    weights = subset.measured_in(measured).weights * expected.information()  # (b, m)
    information = z.new_empty(len(z), z.shape[1], z.shape[1])
    for i in range(len(first)):
        cells, (rows,) = (group == i).nonzero().ravel(), linear.rows(slice(i, i + 1))  # (n,), (d, m)
        products = (rows.unsqueeze(0) * rows.unsqueeze(1)).flatten(0, 1)  # (d^2, m)
        information[cells] = (weights[cells] @ products.T).unflatten(1, (len(rows), len(rows)))
    return information


def of_genes(
    observation: Observation, eta: torch.Tensor, log_size: torch.Tensor, covariates: Covariates, genes: torch.Tensor
) -> CountLikelihood:
    """Distribution of the counts of some genes, given their linear predictors ``(b, m)`` at size one, and log sizes ``(b, 1)``."""
    parameters = observation.family_parameters.of_cells(covariates[MODULE_KEYS.BATCH_INDEX_KEY], genes)
    return observation.family(log_size + eta, *observation.family.at_size(parameters, log_size))
