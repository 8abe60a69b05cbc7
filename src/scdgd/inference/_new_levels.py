"""Offset vectors of batches that a model was not trained on, found together with the representations of their cells."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

import torch

from scdgd._compat import MODULE_KEYS
from scdgd._constants import MEASURED_KEY

from ._fisher import of_genes
from ._gauss_newton import GaussNewtonConfig, climb
from ._gene_subset import choose_genes
from ._joint_density import JointDensity, frozen, owned
from ._starts import component_starts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from scdgd.likelihood import Link
    from scdgd.module import DGDModule, Linearised

_N_PRODUCTS, _CG_TOLERANCE = 20, 0.1
_N_HALVINGS = 4
#: An offset moves by so much at most in a round, and means of counts fall to no less than this share.
_LARGEST_STEP, _LEAST_FACTOR = 3.0, 0.1
#: Standard deviations of the offsets of a level are taken to be between these.
_LEAST_SCALE, _LARGEST_SCALE = 0.05, 2.0


class NewLevelsConfig(NamedTuple):
    """How vectors of new levels are found by :func:`fit_levels`."""

    max_rounds: int = 12
    """Most rounds: a step of the vectors, and some of the representations."""
    tolerance: float = 0.1
    """Stop when a round gains less than this, in nats per cell."""
    max_steps: int = 3
    """Most Gauss-Newton steps of a representation in a round."""


def fit_levels(
    module: DGDModule,
    minibatches: Iterable[dict[str, torch.Tensor]],
    n_known: Sequence[int],
    config: NewLevelsConfig | None = None,
) -> float:
    r"""MAP vectors of new levels, with the representations of their cells, everything else frozen.

    .. math::
        \min_{e, z_1, \dots, z_n}\; \sum_i J_i(z_i, e) + \sum_\ell \frac{\lVert e_\ell \rVert^2}{2 \sigma_\ell^2}, \qquad
        J_i(z, e) = -\log p(x_i \mid z, e) - \log p(z \mid \phi)

    Representations climb for given vectors as those of all new cells do (:func:`gauss_newton`). Vectors then take a step of
    Fisher scoring down what is left when representations follow: information adds up over cells, and each :math:`z_i` is
    eliminated by a Schur complement,

    .. math::
        \Big[\sigma^{-2} I + \sum_i F_{ee,i} - F_{ez,i} (F_{zz,i} + \Lambda_i)^{-1} F_{ze,i}\Big]\, \Delta e = -\nabla_e,
        \qquad \Delta z_i = -(F_{zz,i} + \Lambda_i)^{-1} F_{ze,i}\, \Delta e

    where :math:`\Lambda_i` is the precision of the representations' prior. The matrix, as large as genes are many, is never
    formed: conjugate gradients ask for products with it. A step is halved until the joint density rises.

    The spread of a level's offsets is estimated: :math:`\sigma_\ell^2` starts at what squared gradients of genes at the mean
    level have beyond their information :math:`D_j`, a moment estimate (DerSimonian & Laird 1986), and in later rounds is
    :math:`\sum_j e_j^2 / \sum_j D_j / (D_j + \sigma^{-2})` (MacKay 1992). A few cells, or cells like those of other levels,
    give a small one, which keeps the vector at the mean level.

    Parameters
    ----------
    module
        The module. Only the vectors that were added to its :class:`~scdgd.module.LevelEmbedding` last are written.
    minibatches
        All cells that vectors are fitted to.
    n_known
        For each variable, the number of its added vectors that stay as they are.
    config
        Effort; defaults if not given.

    Returns
    -------
    How much likelier the cells are than at the mean levels, in nats per cell.
    """
    with frozen(module):
        return _Fit(module, minibatches, n_known, config or NewLevelsConfig()).run()


class _Linear(NamedTuple):
    """One modality of the cells of a minibatch around where they are."""

    linear: Linearised
    weights: torch.Tensor
    """Fisher information of the counts about their linear predictors, shape ``(b, m)``."""

    @classmethod
    def at(cls, density: JointDensity, z: torch.Tensor) -> _Linear:
        """Of a density of one modality at ``(b, d)``."""
        observation, every = density.observation, choose_genes(density.module, None, 0, None, density.observation)
        linear = observation.linearise(z, *every, **density.covariates)
        weights = of_genes(observation, linear.eta, density.library, density.covariates, every.genes).information()
        if density.measured is not None:  # others have no share, and no part in what there is to know
            linear = linear._replace(eta=linear.eta.masked_fill(~density.measured, -torch.inf))
            weights = weights * density.measured
        weights = density.weight * weights
        return cls(linear, weights if density.present is None else weights.where(density.present.unsqueeze(1), 0.0))


class _Quadratic(NamedTuple):
    """Quadratic model of the cells of a minibatch around where they are."""

    parts: list[_Linear]
    """Their modalities."""
    factor: torch.Tensor
    """Cholesky factors of the curvature in representations, shape ``(b, d, d)``."""

    def response(self, offsets: torch.Tensor) -> torch.Tensor:
        """Steps of the representations ``(b, d)`` that answer steps of the outputs ``(b, g)``."""
        return self._response([weights * change for weights, change in self._changes(offsets)])

    def image(self, offsets: torch.Tensor) -> torch.Tensor:
        """Product of the information about outputs, less what representations take up, with offsets ``(b, g)``."""
        changes = self._changes(offsets)
        response = self._response([weights * change for weights, change in changes])
        each = zip(self.parts, changes, strict=True)
        images = [p.linear.to_outputs((change + p.linear.along(response)) * weights) for p, (weights, change) in each]
        return torch.cat(images, dim=1)

    def diagonal(self) -> torch.Tensor:
        """Diagonal of the information about outputs, ``(b, g)``."""
        return torch.cat([part.linear.diagonal_in_outputs(part.weights) for part in self.parts], dim=1)

    def _changes(self, offsets: torch.Tensor) -> list[tuple[torch.Tensor, torch.Tensor]]:
        """Weights, and changes of the linear predictors with the outputs, of each modality ``(b, m)``."""
        blocks = offsets.split([part.weights.shape[1] for part in self.parts], dim=1)
        return [(part.weights, part.linear.of_outputs(block)) for part, block in zip(self.parts, blocks, strict=True)]

    def _response(self, weighted: list[torch.Tensor]) -> torch.Tensor:
        pulls = [part.linear.back(change) for part, change in zip(self.parts, weighted, strict=True)]
        pull = functools.reduce(torch.add, pulls)
        return -torch.cholesky_solve(pull.unsqueeze(-1), self.factor).squeeze(-1)


class _Fit:
    """A fit on its way. Vectors of all variables are the rows of one matrix ``(l, g)``."""

    def __init__(
        self,
        module: DGDModule,
        minibatches: Iterable[dict[str, torch.Tensor]],
        n_known: Sequence[int],
        config: NewLevelsConfig,
    ) -> None:
        self.module, self.config, self.n_known = module, config, n_known
        self.levels = module.levels
        self.n_new = [len(level.added) - n for level, n in zip(self.levels, n_known, strict=True)]
        kinks = module.decoder.has_kinks
        self.climbing = GaussNewtonConfig(tolerance=0.1 if kinks else 0.5)
        n_genes = self.climbing.n_genes
        self.densities = [JointDensity(module, owned(module, tensors)).with_genes(n_genes) for tensors in minibatches]
        self.rows = [self._rows(density) for density in self.densities]
        self.n_cells = sum(map(len, self.densities))
        self.precision = self.vectors.new_full((sum(self.n_new), 1), self.levels[0].scale ** -2)

    def run(self) -> float:
        """Rounds until they gain little."""
        z = [component_starts(self.module, density, 1)[0] for density in self.densities]
        z, value = self._climb(z, self.climbing.max_steps)
        at_mean = value
        for i in range(self.config.max_rounds):
            quadratics, gradient, information = self._quadratics(z)
            self.precision = self._precision(gradient, information, is_first=i == 0)
            step = self._step(quadratics, gradient, information)
            z, value, gain = self._try(z, value, step, quadratics)
            if gain < self.config.tolerance * self.n_cells:
                break
        return (at_mean - value) / self.n_cells

    def _rows(self, density: JointDensity) -> list[torch.Tensor]:
        """For each variable, the row of each cell's vector, ``(b,)``; that behind the last where a level is known."""
        names = (MODULE_KEYS.BATCH_INDEX_KEY, MODULE_KEYS.CAT_COVS_KEY)
        columns = torch.cat([density.covariates[name] for name in names if density.covariates[name] is not None], dim=1)
        found, first, last = [], 0, sum(self.n_new)
        for codes, level, known, n in zip(columns.long().unbind(1), self.levels, self.n_known, self.n_new, strict=True):
            position = codes - len(level) - known
            found.append(torch.where(position >= 0, first + position, last))
            first += n
        return found

    @property
    def vectors(self) -> torch.Tensor:
        """The new vectors, shape ``(l, g)``."""
        return torch.cat([level.added[known:] for level, known in zip(self.levels, self.n_known, strict=True)])

    @vectors.setter
    def vectors(self, vectors: torch.Tensor) -> None:
        for level, known, part in zip(self.levels, self.n_known, vectors.split(self.n_new), strict=True):
            level.added = torch.cat([level.added[:known], part])

    def _penalty(self) -> float:
        return 0.5 * float((self.precision * self.vectors.square()).double().sum())

    def _climb(self, z: list[torch.Tensor], max_steps: int) -> tuple[list[torch.Tensor], float]:
        """Representations for the vectors at hand, and their joint density."""
        config = self.climbing._replace(max_steps=max_steps)
        found = [climb(density, start, config) for density, start in zip(self.densities, z, strict=True)]
        return [of_block.z for of_block in found], sum(float(of_block.neg_log_joint.sum()) for of_block in found)

    def _try(
        self, z: list[torch.Tensor], value: float, step: torch.Tensor, quadratics: list[_Quadratic]
    ) -> tuple[list[torch.Tensor], float, float]:
        """Take a step of the vectors with the representations, or part of it; nothing if none leads up. The last is the gain."""
        start, before = self.vectors, value + self._penalty()
        responses = [
            model.response(self._of_cells(step, rows)) for model, rows in zip(quadratics, self.rows, strict=True)
        ]
        for share in (0.5**i for i in range(_N_HALVINGS)):
            self.vectors = start + share * step
            moved = [each + share * response for each, response in zip(z, responses, strict=True)]
            moved, lower = self._climb(moved, self.config.max_steps)
            if (gain := before - lower - self._penalty()) > 0:
                return moved, lower, gain
        self.vectors = start
        return z, value, 0.0

    def _quadratics(self, z: list[torch.Tensor]) -> tuple[list[_Quadratic], torch.Tensor, torch.Tensor]:
        """Quadratic model of each minibatch; gradient of the vectors, without their prior, and the diagonal of their information."""
        quadratics, (gradient, information) = [], (torch.zeros_like(self.vectors) for _ in range(2))
        for density, rows, each in zip(self.densities, self.rows, z, strict=True):
            parts = [_Linear.at(part, each) for part in density.parts]
            curvature = density.with_genes(None).curvature(each)
            quadratics.append(_Quadratic(parts, torch.linalg.cholesky(curvature)))
            self._add_up(gradient, rows, _gradient_in_outputs(density, each))
            self._add_up(information, rows, quadratics[-1].diagonal())
        return quadratics, gradient, information

    def _precision(self, gradient: torch.Tensor, information: torch.Tensor, *, is_first: bool) -> torch.Tensor:
        r"""Estimate :math:`\sigma_\ell^{-2}`, shape ``(l, 1)``."""
        squares, information = gradient.double().square(), information.double()
        if is_first:
            variance = (squares - information).sum(1) / information.square().sum(1).clamp(min=1e-12)
        else:
            determined = (information / (information + self.precision)).sum(1)
            variance = self.vectors.double().square().sum(1) / determined.clamp(min=1e-12)
        scale = variance.clamp(min=0).sqrt().clamp(_LEAST_SCALE, _LARGEST_SCALE)
        return scale.pow(-2).unsqueeze(1).to(self.precision)

    def _step(self, quadratics: list[_Quadratic], gradient: torch.Tensor, information: torch.Tensor) -> torch.Tensor:
        """Step of the vectors, ``(l, g)``."""

        def product(vectors: torch.Tensor) -> torch.Tensor:
            """Product of the precision of the vectors, representations eliminated, with ``(l, g)``."""
            total = self.precision * vectors
            for model, rows in zip(quadratics, self.rows, strict=True):
                self._add_up(total, rows, model.image(self._of_cells(vectors, rows)))
            return total

        step = _conjugate_gradients(
            product, -gradient - self.precision * self.vectors, information.clamp(min=0) + self.precision
        )
        observations = self.module.observations.values()
        blocks = step.split([each.decoder.n_genes for each in observations], dim=1)
        step = torch.cat([_tempered(block, each.link) for block, each in zip(blocks, observations, strict=True)], dim=1)
        return step.clamp(-_LARGEST_STEP, _LARGEST_STEP)

    def _of_cells(self, vectors: torch.Tensor, rows: list[torch.Tensor]) -> torch.Tensor:
        """Vectors ``(l, g)`` of the levels of cells, added up over variables: ``(b, g)``."""
        vectors = torch.cat([vectors, vectors.new_zeros(1, vectors.shape[1])])
        return sum(vectors[of_variable] for of_variable in rows)

    def _add_up(self, total: torch.Tensor, rows: list[torch.Tensor], of_cells: torch.Tensor) -> None:
        """Add what belongs to cells ``(b, g)`` to that of their levels, ``(l, g)``."""
        for of_variable in rows:
            is_new = of_variable < len(total)
            total.index_add_(0, of_variable[is_new], of_cells[is_new])


def _tempered(step: torch.Tensor, link: Link) -> torch.Tensor:
    """Steps of outputs ``(l, m)``, by which means of counts do not fall too far."""
    return torch.log1p(step.clamp(min=_LEAST_FACTOR - 1)) if link.is_of_counts else step


def _gradient_in_outputs(density: JointDensity, z: torch.Tensor) -> torch.Tensor:
    """Gradient of the negative log likelihood in the decoder's outputs, shape ``(b, g)``."""
    observation, covariates = density.observation, dict(density.covariates)
    measured = covariates.pop(MEASURED_KEY)
    output = observation.output(z, **covariates)
    with torch.enable_grad():
        output = output.detach().requires_grad_()
        px = observation.likelihood_of(output, density.library, covariates[MODULE_KEYS.BATCH_INDEX_KEY], measured)
        (gradient,) = torch.autograd.grad(-px.log_kernel(density.x).sum(), output)
    return gradient


def _conjugate_gradients(
    product: Callable[[torch.Tensor], torch.Tensor], target: torch.Tensor, diagonal: torch.Tensor
) -> torch.Tensor:
    """Solve a positive definite system roughly, by products with it; its diagonal is the preconditioner."""
    solution, residual = torch.zeros_like(target), target.clone()
    direction = scaled = residual / diagonal
    size = first = (residual * scaled).sum()
    for _ in range(_N_PRODUCTS):
        image = product(direction)
        curvature = (direction * image).sum()
        if not curvature > 0:
            break
        solution = solution + size / curvature * direction
        residual = residual - size / curvature * image
        scaled = residual / diagonal
        before, size = size, (residual * scaled).sum()
        if size < _CG_TOLERANCE**2 * first:
            break
        direction = scaled + size / before * direction
    return solution
