"""Several modalities of the same cells, seen as one observation."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from scvi import REGISTRY_KEYS

from scdgd._constants import LOG_SIZE_KEY, MEASURED_KEY
from scdgd.data import as_sparse_counts
from scdgd.likelihood import GeneLikelihood, JointLikelihood
from scdgd.likelihood._joint import measured_and_present

from ._joint_level import JointLevel
from ._observation import Part

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from scdgd.data import SparseCounts
    from scdgd.likelihood import Link

    from ._decoder import Decoder, OutputActivation
    from ._observation import Observation
    from ._size_factor import SizeFactor


class Modality(NamedTuple):
    """What is measured of a cell in one way, and how it depends on representations."""

    n_features: int
    """Number of genes, peaks or proteins."""
    likelihood: GeneLikelihood
    size_factor: SizeFactor
    output_activation: OutputActivation


class JointObservation:
    r"""Modalities whose features are the columns of one matrix, block by block.

    .. math::
        \log p(x_i \mid z_i) = \sum_m w_m h_{im} \log p(x_{im} \mid z_i, s_{im})

    Each has a decoder, a link, a family and a size of its own; sizes of a cell are ``(b, M)``. A cell has a modality
    (:math:`h_{im} = 1`) if any of its features was measured in it. What is decoded of others is for a cell of the usual size.

    Parameters
    ----------
    observations
        The modalities, in the order of their columns.
    usual_log_size
        Mean log size of training cells in each of them, shape ``(M,)``.
    weights
        Their weights :math:`w_m` in the objective, shape ``(M,)``.
    """

    family = JointLikelihood

    def __init__(
        self, observations: Mapping[str, Observation], usual_log_size: torch.Tensor, weights: torch.Tensor
    ) -> None:
        self.observations, self.usual_log_size, self.weights = list(observations.values()), usual_log_size, weights
        self.widths = [each.decoder.n_genes for each in self.observations]

    @property
    def decoder(self) -> Decoder:
        """That of the first modality: all are built alike but for their outputs."""
        return self.observations[0].decoder

    @property
    def levels(self) -> list[JointLevel]:
        """Vectors of the levels of each variable, in all modalities."""
        of_modalities = [list(each.decoder.levels) for each in self.observations]
        return [JointLevel(of_variable) for of_variable in zip(*of_modalities, strict=True)]

    @property
    def link(self) -> Link:
        """That of the first modality."""
        return self.observations[0].link

    def values(self, tensors: dict[str, torch.Tensor]) -> SparseCounts | torch.Tensor:
        """What was measured in the cells of a minibatch, shape ``(b, g)``."""
        return tensors[REGISTRY_KEYS.X_KEY]

    def log_size(self, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        r"""Log size factors of the cells of a minibatch, shape ``(b, M)``; minified data keep those of modalities that are there."""
        if LOG_SIZE_KEY in tensors:
            return torch.where(tensors[LOG_SIZE_KEY].isnan(), self.usual_log_size, tensors[LOG_SIZE_KEY])
        return self.log_size_of(self.values(tensors), None, tensors.get(MEASURED_KEY))

    def log_size_of(
        self,
        values: SparseCounts | torch.Tensor,
        registered: torch.Tensor | None = None,
        measured: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Log size factors of cells, ``(b, M)``, from values ``(b, g)``; the usual one where a modality is absent."""
        sizes = []
        blocks = zip(
            self.observations, as_sparse_counts(values).split(self.widths), self.blocks_of(measured), strict=True
        )
        for usual, (observation, block, (of_block, present)) in zip(self.usual_log_size, blocks, strict=True):
            log_size = observation.log_size_of(block, None, of_block)
            sizes.append(log_size if present is None else torch.where(present.unsqueeze(1), log_size, usual))
        return torch.cat(sizes, dim=1)

    def has_sizes(self, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        """Which of the modalities the cells of a minibatch have, shape ``(b, M)``, bool."""
        n_cells = len(tensors[REGISTRY_KEYS.BATCH_KEY])
        given = [present for _, present in self.blocks_of(tensors.get(MEASURED_KEY))]
        everyone = self.usual_log_size.new_ones(n_cells, dtype=torch.bool)
        return torch.stack([everyone if present is None else present for present in given], dim=1)

    def blocks_of(self, measured: torch.Tensor | None) -> Iterator[tuple[torch.Tensor | None, torch.Tensor | None]]:
        """What was measured of each modality, and which cells have it, see :func:`measured_and_present`."""
        if measured is None:
            return ((None, None) for _ in self.widths)
        return map(measured_and_present, measured.split(self.widths, dim=-1))

    def parts(
        self, values: SparseCounts | torch.Tensor, log_size: torch.Tensor, measured: torch.Tensor | None
    ) -> list[Part]:
        """The modalities of the cells of a minibatch with values ``(b, g)`` and log sizes ``(b, M)``, one by one."""
        blocks = as_sparse_counts(values).split(self.widths)
        sizes, given = log_size.split(1, dim=-1), self.blocks_of(measured)
        each = zip(self.observations, blocks, sizes, given, self.weights.unbind(), strict=True)
        return [Part(*of, *measured, weight) for *of, measured, weight in each]

    def likelihood(
        self,
        z: torch.Tensor,
        log_size: torch.Tensor,
        batch_index: torch.Tensor,
        cat_covs: torch.Tensor | None = None,
        cont_covs: torch.Tensor | None = None,
        genes_measured: torch.Tensor | None = None,
    ) -> JointLikelihood:
        """As :meth:`Observation.likelihood`, with log sizes ``(..., b, M)``."""
        given = list(self.blocks_of(genes_measured))
        each = zip(self.observations, log_size.split(1, dim=-1), given, strict=True)
        parts = [o.likelihood(z, size, batch_index, cat_covs, cont_covs, of_block) for o, size, (of_block, _) in each]
        return JointLikelihood(parts, [present for _, present in given], self.weights)

    def output(
        self,
        z: torch.Tensor,
        batch_index: torch.Tensor,
        cat_covs: torch.Tensor | None = None,
        cont_covs: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Outputs of the decoders, one beside the other, ``(..., b, g)``."""
        return torch.cat([each.output(z, batch_index, cat_covs, cont_covs) for each in self.observations], dim=-1)

    def likelihood_of(
        self,
        output: torch.Tensor,
        log_size: torch.Tensor,
        batch_index: torch.Tensor,
        genes_measured: torch.Tensor | None = None,
    ) -> JointLikelihood:
        """:meth:`likelihood` at outputs ``(..., b, g)`` of the decoders."""
        given, outputs = list(self.blocks_of(genes_measured)), output.split(self.widths, dim=-1)
        each = zip(self.observations, outputs, log_size.split(1, dim=-1), given, strict=True)
        parts = [o.likelihood_of(of, size, batch_index, of_block) for o, of, size, (of_block, _) in each]
        return JointLikelihood(parts, [present for _, present in given], self.weights)
