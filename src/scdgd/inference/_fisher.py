"""Fisher information of counts about representations, from all genes or from a weighted subset."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from scdgd._compat import MODULE_KEYS

from ._gene_subset import GeneSubset, choose_genes
from ._joint_density import JointDensity, distinct_rows, frozen, owned

if TYPE_CHECKING:
    from scdgd.likelihood import CountLikelihood
    from scdgd.module import Decoder, DGDModule

#: Entries of the Jacobian of a block of cells: on a CPU it stays in cache, elsewhere it keeps the device busy.
_CPU_ELEMENTS, _GPU_ELEMENTS = 2**19, 2**26
#: So many cells must share a representation in the mean before it pays.
_SHARED_BY = 4


def fisher_information(
    module: DGDModule, tensors: dict[str, torch.Tensor], z: torch.Tensor, n_genes: int | None = None
) -> torch.Tensor:
    r"""Fisher information of the counts about the representation, plus the precision of the prior.

    .. math::
        F = J_\eta^\top \operatorname{diag}(w)\, J_\eta + \sum_c r_c \Lambda_c, \qquad
        w = \frac{\mu^2}{\mathrm{Var}\,x} = \frac{\mu}{1 + \mu/\theta}, \qquad
        J_\eta = \frac{\partial \log \mu}{\partial z}

    where the weights :math:`w` are those of the negative binomial. :math:`F` is positive definite: the expected Hessian
    of :math:`-\log p(x \mid z)` plus the curvature of EM's bound on :math:`-\log p(z \mid \phi)`.

    Parameters
    ----------
    module
        The module, left as it is.
    tensors
        Minibatch as the data loader gives it, ``b`` cells.
    z
        Representations, shape ``(b, d)``.
    n_genes
        Number of genes that estimate the sum over genes, see :func:`choose_genes`; all if not given.

    Returns
    -------
    Shape ``(b, d, d)``.
    """
    with frozen(module):
        density = JointDensity(module, owned(module, tensors))
        return curvature(density, z.detach().to(module.device).clone(), choose_genes(module, n_genes))


def curvature(density: JointDensity, z: torch.Tensor, subset: GeneSubset) -> torch.Tensor:
    """Fisher information, estimated from a subset of the genes, plus the precision of the prior: ``(b, d, d)``."""
    return count_information(density, z, subset) + density.module.prior.precision(z)


def count_information(density: JointDensity, z: torch.Tensor, subset: GeneSubset) -> torch.Tensor:
    r"""Fisher information of the counts, :math:`F_x = J_\eta^\top \operatorname{diag}(w) J_\eta`, shape ``(b, d, d)``.

    With the Jacobian :math:`J_h` of the last hidden layer and the output weights :math:`W`,

    * softmax: :math:`J_\eta = (W - \mathbf 1 \bar W^\top) J_h`, where :math:`\bar W = \sum_j p_j W_j`
    * identity: :math:`J_\eta = W J_h`
    * otherwise: :math:`J_\eta = \operatorname{diag}(a'(o) / a(o))\, W J_h`

    This is the expansion :math:`J_o^\top \mathrm{diag}(w) J_o - (J_o^\top w) \bar p^\top - \dots` of the softmax without
    its cancellation. Every sum over genes, that of the softmax too, runs over the subset with its weights: no other gene
    is decoded.
    """
    (genes, gene_weights), (b, d) = subset, z.shape
    slopes = _Slopes.at(density.module.decoder, z, density.covariates, subset)
    weights = gene_weights * _of_genes(density, slopes.log_profile, genes).information()  # (b, m)
    scale = weights.clamp(min=torch.finfo(weights.dtype).tiny).sqrt()  # a root has no derivative at zero
    n_together = max(1, (_CPU_ELEMENTS if z.device.type == "cpu" else _GPU_ELEMENTS) // (d * len(genes)))
    information = []
    for cells in (slice(first, first + n_together) for first in range(0, b, n_together)):
        rows = slopes.rows(cells)  # (block, d, m)
        rows *= scale[cells].unsqueeze(1)
        information.append(rows @ rows.mT)
    return torch.cat(information)


def shared_count_information(density: JointDensity, z: torch.Tensor, subset: GeneSubset) -> torch.Tensor:
    r""":func:`count_information` of cells many of which have the same representation and covariates.

    They share :math:`J_\eta`, and a product of the weights of ``b`` cells ``(b, m)`` with the products of its columns
    ``(m, d^2)`` is all that is left.
    """
    if _SHARED_BY * len(z[:, 0].unique()) > len(z):
        return count_information(density, z, subset)
    covariates = {key: value for key, value in density.covariates.items() if value is not None}
    group = distinct_rows(torch.cat([z, *covariates.values()], dim=1))  # (b,)
    first = torch.full_like(group, len(z)).scatter_reduce_(0, group, torch.arange(len(z), device=z.device), "amin")
    first = first[: int(group.max()) + 1]  # a cell of each group
    of_first = {key: None if value is None else value[first] for key, value in density.covariates.items()}
    slopes = _Slopes.at(density.module.decoder, z[first], of_first, subset)
    weights = subset.weights * _of_genes(density, slopes.log_profile[group], subset.genes).information()  # (b, m)
    information = z.new_empty(len(z), z.shape[1], z.shape[1])
    for i in range(len(first)):
        cells, (rows,) = (group == i).nonzero().ravel(), slopes.rows(slice(i, i + 1))  # (n,), (d, m)
        products = (rows.unsqueeze(0) * rows.unsqueeze(1)).flatten(0, 1)  # (d^2, m)
        information[cells] = (weights[cells] @ products.T).unflatten(1, (len(rows), len(rows)))
    return information


class _Slopes(NamedTuple):
    r"""What :math:`J_\eta` of some genes is made of, for ``b`` representations."""

    log_profile: torch.Tensor
    """Log of the softmax or of the other output activation, shape ``(b, m)``."""
    jacobian: torch.Tensor
    """Of the last hidden layer, transposed, shape ``(b, d, h)``."""
    output: torch.Tensor
    """Weights of the output layer, shape ``(m, h)``."""
    centre: torch.Tensor | None
    r""":math:`J_h^\top \bar W` of a softmax, shape ``(b, d, 1)``."""
    log_slope: torch.Tensor | None
    """Of sigmoid and softplus, shape ``(b, m)``."""

    @classmethod
    def at(
        cls, decoder: Decoder, z: torch.Tensor, covariates: dict[str, torch.Tensor | None], subset: GeneSubset
    ) -> _Slopes:
        """See :func:`count_information`."""
        genes, gene_weights = subset
        hidden, jacobian = hidden_jacobian(decoder, z, covariates)  # (b, h), (b, d, h)
        output = decoder.output.weight[genes]  # (m, h)
        o = torch.addmm(decoder.output.bias[genes], hidden, output.T)  # (b, m)
        if not decoder.link.is_share:
            log_profile = decoder.link.log_profile(o)
            return cls(log_profile, jacobian, output, None, decoder.link.log_slope(log_profile))
        log_profile = o - torch.logsumexp(o + gene_weights.log(), dim=1, keepdim=True)
        mean_output = (gene_weights * log_profile.exp()) @ output  # (b, h)
        return cls(log_profile, jacobian, output, jacobian @ mean_output.unsqueeze(-1), None)

    def rows(self, cells: slice) -> torch.Tensor:
        r""":math:`J_\eta^\top` of some cells, shape ``(block, d, m)``."""
        rows = (self.jacobian[cells].flatten(0, 1) @ self.output.T).unflatten(0, (-1, self.jacobian.shape[1]))
        if self.centre is not None:
            return rows.sub_(self.centre[cells])
        return rows if self.log_slope is None else rows.mul_(self.log_slope[cells].unsqueeze(1))


def hidden_jacobian(
    decoder: Decoder, z: torch.Tensor, covariates: dict[str, torch.Tensor | None]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Last hidden layer ``(b, h)`` and, by forward mode, its Jacobian, transposed: ``(b, d, h)``."""
    batch, categorical, continuous = (
        covariates[key] for key in (MODULE_KEYS.BATCH_INDEX_KEY, MODULE_KEYS.CAT_COVS_KEY, MODULE_KEYS.CONT_COVS_KEY)
    )
    categories = [batch] if categorical is None else [batch, *torch.split(categorical, 1, dim=1)]
    # as the decoder does before its first layer
    hidden = lambda z: decoder.hidden(z if continuous is None else torch.cat([z, continuous], dim=1), *categories)
    basis = torch.eye(z.shape[1], dtype=z.dtype, device=z.device).unsqueeze(1).expand(-1, *z.shape)  # (d, b, d)
    along = lambda direction: torch.func.jvp(hidden, (z,), (direction,))
    return torch.func.vmap(along, out_dims=(None, 1))(basis)


def _of_genes(density: JointDensity, log_profile: torch.Tensor, genes: torch.Tensor) -> CountLikelihood:
    """Distribution of the counts of some genes, given their log profiles ``(b, m)``."""
    module = density.module
    parameters = module.family_parameters.of_cells(density.covariates[MODULE_KEYS.BATCH_INDEX_KEY], genes)
    return module.likelihood(density.library + log_profile, *parameters)
