"""The joint density of the cells of a minibatch, as a function of their representations alone."""

from __future__ import annotations

import functools
from contextlib import contextmanager
from copy import copy
from typing import TYPE_CHECKING

import torch
from scvi import REGISTRY_KEYS

from scdgd import _devices
from scdgd._compat import MODULE_KEYS
from scdgd._constants import MEASURED_KEY
from scdgd.data import SparseCounts, as_sparse_counts

from ._distinct_rows import distinct_rows
from ._fisher import count_information, shared_count_information
from ._gene_subset import GeneSubset, choose_genes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from scdgd.likelihood import CountLikelihood
    from scdgd.module import DGDModule
    from scdgd.module._latent_size import Law
    from scdgd.module._observation import Part


#: Inputs of a decoder beside the representation.
_OF_OUTPUT = (MODULE_KEYS.BATCH_INDEX_KEY, MODULE_KEYS.CAT_COVS_KEY, MODULE_KEYS.CONT_COVS_KEY)


class JointDensity:
    r"""Negative log joint density of each cell of a minibatch,

    .. math::
        J_i(z) = -\log p(x_i \mid z, \vartheta) - \log p(z \mid \phi)

    with decoder and prior fixed. Indexing with rows, or a slice of them, gives the density of those cells.

    Of several modalities, log probabilities, gradients and informations add up. Latent sizes follow representations: with them
    it is :math:`\min_\ell J_i(z, \ell)`, where :math:`\log p(\ell)` counts, too, and the gradient is exact; informations, and
    densities of draws, are those at the sizes found last, see :meth:`at`.

    Parameters
    ----------
    module
        The module.
    tensors
        Minibatch as the data loader gives it, ``b`` cells, on the device of the module.
    """

    #: Cells that have what is observed, ``(b,)``, bool; ``None`` for all.
    present: torch.Tensor | None = None
    #: Weight of what is observed in the objective.
    weight: torch.Tensor | float = 1.0
    #: Log volumes of latent sizes at :meth:`at`, ``(b,)``.
    log_volume: torch.Tensor | None = None

    def __init__(self, module: DGDModule, tensors: dict[str, torch.Tensor]) -> None:
        self.module, self.observation = module, module.observed
        #: Genes that the Fisher information is estimated from; ``None`` for all.
        self.subset: GeneSubset | None = None
        self.x = as_sparse_counts(tensors[REGISTRY_KEYS.X_KEY])
        self.library = module.log_size(tensors)
        self.covariates = module.covariates(tensors)
        self.measured = self.covariates[MEASURED_KEY]
        self.classes = module.classes_of(tensors)
        self.log_constant: torch.Tensor | None = None
        parts = self.observation.parts(self.x, self.library, self.measured)
        #: Densities of each of several modalities, without the prior; none if there is one alone.
        self._parts = [self._of(part) for part in parts] if len(parts) > 1 else []

    def _of(self, part: Part) -> JointDensity:
        """The density of one modality."""
        density = copy(self)
        density.observation, density.x, density.library, density.measured, density.present, density.weight = part
        density.covariates, density._parts = self.covariates | {MEASURED_KEY: part.measured}, []
        return density

    @property
    def parts(self) -> list[JointDensity]:
        """Densities of single modalities."""
        return self._parts or [self]

    def __len__(self) -> int:
        return len(self.library)

    def __getitem__(self, rows: torch.Tensor | slice) -> JointDensity:
        part = object.__new__(type(self))
        if isinstance(rows, slice):
            part.x = slice_of(self.x, rows)
        else:
            rows = rows.nonzero().ravel() if rows.dtype == torch.bool else rows
            part.x = self.x[rows]
        part.module, part.observation, part.library = self.module, self.observation, self.library[rows]
        part.subset = None if self.subset is None else self.subset[rows]
        part.classes = None if self.classes is None else self.classes[rows]
        part.log_constant = None if self.log_constant is None else self.log_constant[rows]
        part.covariates = {key: None if value is None else value[rows] for key, value in self.covariates.items()}
        part.measured = part.covariates[MEASURED_KEY]
        part.present = None if self.present is None else self.present[rows]
        part.weight = self.weight
        part.log_volume = None if self.log_volume is None else self.log_volume[rows]
        part._parts = [each[rows] for each in self._parts]
        return part

    def at(self, z: torch.Tensor) -> JointDensity:
        """The same density with latent sizes as they are at representations ``(b, d)``, integrated by Laplace's approximation."""
        if self.module.latent_size is None:
            return self
        other = copy(self)
        of_cells = other._follow(z), other.x, other.library, other.covariates[MODULE_KEYS.BATCH_INDEX_KEY]
        other.log_volume = self.module.latent_size.log_volume(*of_cells)
        return other

    @torch.no_grad()
    def _follow(self, z: torch.Tensor) -> Law:
        """Find latent sizes at ``(b, d)``."""
        law, batch = self.observation.law_of_sizes(z, **self.covariates), self.covariates[MODULE_KEYS.BATCH_INDEX_KEY]
        self.library = self.module.latent_size.fitted(law, self.x, self.library, batch)
        return law

    def _of_sizes(self) -> torch.Tensor | float:
        """Log prior density of latent sizes, with their volumes, ``(b,)``."""
        if self.module.latent_size is None:
            return 0.0
        log_prob = self.module.latent_size.log_prob(self.library, self.covariates[MODULE_KEYS.BATCH_INDEX_KEY])
        return log_prob if self.log_volume is None else log_prob + self.log_volume

    def without_constant(self) -> JointDensity:
        """The same density but for what no representation changes, which costs as much to evaluate as the rest."""
        other = copy(self)
        other.log_constant = torch.zeros(len(self), dtype=torch.double, device=self.library.device)
        return other

    def with_genes(self, n_genes: int | None, seed: int = 0) -> JointDensity:
        """The same density, whose Fisher information is estimated from so many genes, see :func:`choose_genes`."""
        other = copy(self)
        other._parts = [part.with_genes(n_genes, seed) for part in self._parts]
        if not other._parts:
            other.subset = choose_genes(self.module, n_genes, seed, self.measured, self.observation)
        return other

    def likelihood(self, z: torch.Tensor) -> CountLikelihood:
        """Distribution of the counts given representations ``(b, d)``."""
        return self.observation.likelihood(z, self.library, **self.covariates)

    def value_and_gradient(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Compute :math:`J`, shape ``(b,)``, in double, and its exact gradient, shape ``(b, d)``, in blocks of cells."""
        n_together = self._n_together if z.device.type == "cpu" else len(self)
        if len(self) <= n_together:
            return self._value_and_gradient(z)
        blocks = [slice(first, first + n_together) for first in range(0, len(self), n_together)]
        parts = [self[cells] for cells in blocks]
        values, gradients = zip(
            *(part._value_and_gradient(z[cells]) for part, cells in zip(parts, blocks, strict=True)), strict=True
        )
        self.log_constant = torch.cat([part.log_constant for part in parts])
        if self.module.latent_size is not None:
            self.library = torch.cat([part.library for part in parts])
        return torch.cat(values), torch.cat(gradients)

    def _value_and_gradient(self, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.module.latent_size is not None:
            self._follow(z)
        with torch.enable_grad():
            leaf = z.detach().requires_grad_()
            px = self.likelihood(leaf)
            value = -(px.log_kernel(self.x) + self.module.prior.log_prob(leaf, self.classes))
            (gradient,) = torch.autograd.grad(value.sum(), leaf)
        if self.log_constant is None:  # does not depend on z, and costs as much as the rest
            with torch.no_grad():
                self.log_constant = px.log_constant(self.x)
        return value.detach() - self.log_constant - self._of_sizes(), gradient

    def information(self, z: torch.Tensor) -> torch.Tensor:
        """Fisher information of the counts at ``(b, d)``, shape ``(b, d, d)``."""
        return self._sum(count_information, z)

    def _sum(self, information: Callable[..., torch.Tensor], z: torch.Tensor) -> torch.Tensor:
        """Sum over modalities of an information of those cells that have them, shape ``(b, d, d)``."""
        total = None
        for part in self.parts:
            of_part = part.weight * information(part.observation, z, part.library, part.covariates, part._genes)
            of_part = of_part if part.present is None else of_part.where(part.present[:, None, None], 0.0)
            total = of_part if total is None else total + of_part
        return total

    def curvature(self, z: torch.Tensor) -> torch.Tensor:
        """Fisher information of the counts plus the precision of the prior, shape ``(b, d, d)``."""
        return self.information(z) + self._prior_precision(z)

    def first_curvature(self, z: torch.Tensor) -> torch.Tensor:
        """:meth:`curvature` where many cells may have the same representation."""
        return self.shared_information(z) + self._prior_precision(z)

    def _prior_precision(self, z: torch.Tensor) -> torch.Tensor:
        prior = self.module.prior
        return prior.precision(z) if self.classes is None else prior.precision(z, self.classes)

    def shared_information(self, z: torch.Tensor) -> torch.Tensor:
        """:meth:`information` where many cells may have the same representation."""
        return self._sum(shared_count_information, z)

    def log_joint(self, z: torch.Tensor) -> torch.Tensor:
        """Log joint density of counts and representations ``(s, b, d)``, shape ``(s, b)``, a few samples at a time."""
        prior, classes, of_sizes = self.module.prior, self.classes, self._of_sizes()
        parts = self._in_parts(z)
        return torch.cat([self._log_likelihood(part) + prior.log_prob(part, classes) + of_sizes for part in parts])

    def log_likelihood(self, z: torch.Tensor) -> torch.Tensor:
        """Log probability of the counts at representations ``(s, b, d)``, shape ``(s, b)``, a few samples at a time."""
        return torch.cat([self._log_likelihood(part) for part in self._in_parts(z)])

    def alike(self) -> list[torch.Tensor]:
        """Numbers of the cells that have the same batch and covariates, for each such group."""
        given = [value for key, value in self.covariates.items() if value is not None and key != MEASURED_KEY]
        group = distinct_rows(torch.cat([value.double() for value in given], dim=1))
        return [(group == i).nonzero().ravel() for i in range(int(group.max()) + 1)]

    def log_likelihood_of_pairs(self, z: torch.Tensor) -> torch.Tensor:
        """Log probability of each cell at each of ``(m, d)``, shape ``(m, b)``, of cells that are :meth:`alike`."""
        if self.measured is None and all(part.observation.link.takes_size for part in self.parts):
            return functools.reduce(torch.add, (part.weight * part._pairs_of_one(z) for part in self.parts))
        parts = []
        for part in self._in_parts(z):
            batch, library = self.covariates[MODULE_KEYS.BATCH_INDEX_KEY], self.library.expand(len(part), -1, -1)
            output = self._outputs_alike(part).unsqueeze(1).expand(-1, len(self), -1)
            px = self.observation.likelihood_of(output, library, batch, self.measured)
            parts.append(self._log_prob(px).to(z.dtype))
        return torch.cat(parts)

    def _pairs_of_one(self, z: torch.Tensor) -> torch.Tensor:
        """Of one modality, which all cells have."""
        batch, parts = self.covariates[MODULE_KEYS.BATCH_INDEX_KEY][:1], z.split(self._n_together)
        pairs = self.observation.log_prob_of_pairs
        return torch.cat([pairs(self._outputs_alike(part), self.library, batch, self.x) for part in parts])

    def _outputs_alike(self, z: torch.Tensor) -> torch.Tensor:
        """Outputs of the decoder at ``(m, d)`` with the covariates that all cells have, shape ``(m, g)``."""
        given = (self.covariates[key] for key in _OF_OUTPUT)
        return self.observation.output(z, *(None if v is None else v[:1].expand(len(z), -1) for v in given))

    def _in_parts(self, z: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return z.split(max(1, self._n_together // len(self)))

    @property
    def _n_together(self) -> int:
        """Rows of the decoder's output that are evaluated at once."""
        return max(1, _devices.entries_together(self.library.device) // self.x.n_genes)

    def _log_likelihood(self, z: torch.Tensor) -> torch.Tensor:
        return self._log_prob(
            self.observation.likelihood(z, self.library.expand(len(z), -1, -1), **self.covariates)
        ).to(z.dtype)

    def _log_prob(self, px: CountLikelihood) -> torch.Tensor:
        """Log probability of the counts, in double; what does not depend on representations is evaluated once."""
        if self.log_constant is None:
            self.log_constant = px.log_constant(self.x)
        return px.log_kernel(self.x) + self.log_constant

    @property
    def _genes(self) -> GeneSubset:
        if self.subset is not None:
            return self.subset
        return choose_genes(self.module, None, 0, self.measured, self.observation)


def information_of_modalities(module: DGDModule, minibatches: Iterable[dict[str, torch.Tensor]]) -> torch.Tensor:
    """Mean trace of the Fisher information of each modality about representations, over cells that have it, shape ``(M,)``.

    Parameters
    ----------
    module
        The module, whose table has the cells.
    minibatches
        The cells, as the data loader gives them. Weights of modalities play no part.
    """
    totals, n_cells = 0.0, 0.0
    with frozen(module):
        for tensors in minibatches:
            density = JointDensity(module, owned(module, tensors))
            rows = module.representations(tensors[REGISTRY_KEYS.INDICES_KEY].ravel().to(module.device))
            z, of_parts, present = module.posterior.moments(rows)[0], [], []
            for part in density.parts:
                of_part = count_information(part.observation, z, part.library, part.covariates, part._genes)
                is_there = (
                    torch.ones(len(z), dtype=torch.bool, device=z.device) if part.present is None else part.present
                )
                of_parts.append(of_part.diagonal(dim1=-2, dim2=-1).sum(-1)[is_there].sum())
                present.append(is_there.sum())
            totals, n_cells = totals + torch.stack(of_parts), n_cells + torch.stack(present)
    return totals / n_cells.clamp(min=1)


def slice_of(x: SparseCounts, cells: slice) -> SparseCounts:
    """Cells that follow each other, without copies of their entries."""
    indptr = x.indptr[cells.start : cells.stop + 1]
    entries = slice(int(indptr[0]), int(indptr[-1]))
    return SparseCounts(indptr - indptr[0], x.indices[entries], x.values[entries], x.n_genes)


def neg_log_kernel(module: DGDModule, tensors: dict[str, torch.Tensor], z: torch.Tensor) -> torch.Tensor:
    """:math:`J` without what no representation changes, shape ``(b,)``, as a function of ``(b, d)`` that autograd knows."""
    density = JointDensity(module, tensors)
    return -(density.likelihood(z).log_kernel(density.x) + module.prior.log_prob(z))


@contextmanager
def frozen(module: DGDModule) -> Iterator[None]:
    """Evaluation mode, without gradients of any parameter; all is as before afterwards."""
    modes = {child: child.training for child in module.modules()}
    trainable = [parameter for parameter in module.parameters() if parameter.requires_grad]
    module.eval()
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        with torch.inference_mode(False), torch.no_grad():
            yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)
        for child, mode in modes.items():
            child.training = mode


def owned(module: DGDModule, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Copies on the device of the module that autograd can use, even if `tensors` were made in inference mode."""
    return {key: value.to(module.device).clone() for key, value in tensors.items()}


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
        z = z.detach().to(module.device).clone()
        return JointDensity(module, owned(module, tensors)).with_genes(n_genes).at(z).curvature(z)
