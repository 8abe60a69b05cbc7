"""One measured modality: where its values stand, and how they depend on representations."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch
from scvi import REGISTRY_KEYS
from torch import nn

from scdgd._compat import MODULE_KEYS
from scdgd._constants import LOG_SIZE_KEY, MEASURED_KEY
from scdgd.likelihood import family_of, name_of

from ._family_parameters import FamilyParameters
from ._observation_rules import check_size_and_link
from ._size_factor import SIZES, SizeFactor

if TYPE_CHECKING:
    from scdgd.data import SparseCounts
    from scdgd.likelihood import CountLikelihood, GeneLikelihood, Likelihood, Link, ValueLikelihood
    from scdgd.likelihood._outputs import Output

    from ._decoder import Decoder
    from ._latent_size import LatentSize, Law
    from ._level_embedding import LevelEmbedding
    from ._linearised import Linearised


class Observation(nn.Module):
    r"""Values :math:`x_i` of one modality, given representations.

    .. math::
        \log p(x_i \mid z_i) = \sum_j \log p(x_{ij} \mid \eta_{ij}, \psi_j), \qquad
        \eta_i = \mathrm{link}(f_\vartheta(z_i), s_i)

    with decoder :math:`f_\vartheta`, size :math:`s_i` and parameters :math:`\psi` of the family. Of several modalities of
    the same cells, log probabilities add, and so do gradients and Fisher informations.

    Parameters
    ----------
    decoder
        Decoder, with its link.
    gene_likelihood
        Family, by its name or its class.
    size_factor
        How sizes are found, see :func:`log_size_factor`.
    n_batch
        Number of batches if each has parameters of the family of its own; ``None`` for the same in all.
    dispersion_floor
        Least inverse dispersion, 0 or 1.
    key
        Under which the values stand in a minibatch.
    size_key
        Under which registered sizes stand, if there are any.
    latent_size
        The law of sizes, if they are parameters of cells.

    Raises
    ------
    ValueError
        If family, link and size do not go together.
    """

    def __init__(
        self,
        decoder: Decoder,
        gene_likelihood: GeneLikelihood | type[Likelihood],
        size_factor: SizeFactor = "observed",
        *,
        n_batch: int | None = None,
        dispersion_floor: int = 0,
        key: str = REGISTRY_KEYS.X_KEY,
        size_key: str = REGISTRY_KEYS.SIZE_FACTOR_KEY,
        latent_size: LatentSize | None = None,
    ) -> None:
        super().__init__()
        self.family, self.size = family_of(gene_likelihood), SIZES[size_factor]
        self.key, self.size_key, self.latent_size = key, size_key, latent_size
        self.decoder = decoder
        check_size_and_link(name_of(gene_likelihood), self.family, self.size, self.link)
        self.family_parameters = FamilyParameters(self.family, decoder.n_genes, n_batch, dispersion_floor)

    @property
    def levels(self) -> list[LevelEmbedding]:
        """Vectors of the levels of each variable, if levels have vectors."""
        return list(self.decoder.levels)

    @property
    def link(self) -> Link:
        """From outputs of the decoder to the linear predictor of the likelihood."""
        return self.decoder.link

    def values(self, tensors: dict[str, torch.Tensor]) -> SparseCounts | torch.Tensor:
        """What was measured in the cells of a minibatch, shape ``(b, g)``."""
        return tensors[self.key]

    def log_size(self, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        r"""Log size factor :math:`\log s` of the cells of a minibatch, shape ``(b, 1)``; minified data keep it.

        Where it is latent, it starts there.
        """
        if LOG_SIZE_KEY in tensors:
            return tensors[LOG_SIZE_KEY]
        return self.log_size_of(tensors[self.key], tensors.get(self.size_key), self.measured(tensors))

    def log_size_of(
        self,
        values: SparseCounts | torch.Tensor,
        registered: torch.Tensor | None = None,
        measured: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Log size factor of cells, ``(b, 1)``, from values ``(b, g)``, or the registered ones."""
        return self.size.log(values, registered, measured)

    def has_sizes(self, tensors: dict[str, torch.Tensor]) -> torch.Tensor:
        """Whether anything was measured in the cells of a minibatch, shape ``(b, 1)``, bool."""
        measured, of_cells = self.measured(tensors), tensors[REGISTRY_KEYS.BATCH_KEY]
        return torch.ones_like(of_cells, dtype=torch.bool) if measured is None else measured.any(1, keepdim=True)

    @property
    def log_theta(self) -> torch.Tensor:
        r"""Log inverse dispersion :math:`\log\theta`, shape ``(g,)`` or ``(n_batch, g)``; infinite for Poisson counts."""
        if "log_theta" in self.family.parameter_names:
            return self.family_parameters["log_theta"]
        return next(self.decoder.parameters()).new_full((self.decoder.n_genes,), torch.inf)

    def measured(self, tensors: dict[str, torch.Tensor]) -> torch.Tensor | None:
        """What of the values was measured, ``(b, g)``, bool, or ``None`` for all: masks are of the counts of genes."""
        return tensors.get(MEASURED_KEY) if self.key == REGISTRY_KEYS.X_KEY else None

    def parts(self, values: SparseCounts, log_size: torch.Tensor, measured: torch.Tensor | None) -> list[Part]:
        """The modalities of a minibatch, see :meth:`JointObservation.parts`: this one."""
        return [Part(self, values, log_size, measured, None, 1.0)]

    def likelihood(
        self,
        z: torch.Tensor,
        log_size: torch.Tensor,
        batch_index: torch.Tensor,
        cat_covs: torch.Tensor | None = None,
        cont_covs: torch.Tensor | None = None,
        genes_measured: torch.Tensor | None = None,
    ) -> CountLikelihood | ValueLikelihood:
        """Distribution of the values ``(..., b, g)`` at representations ``(..., b, d)``, sizes and covariates.

        Log probabilities are those of the genes that were measured, ``(b, g)``, see :meth:`Likelihood.measuring`.
        """
        output = self.decoder.outputs(z, _categories(batch_index, cat_covs), cont_covs)
        return self.likelihood_of(output, log_size, batch_index, genes_measured)

    def output(
        self,
        z: torch.Tensor,
        batch_index: torch.Tensor,
        cat_covs: torch.Tensor | None = None,
        cont_covs: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Outputs of the decoder before its activation, ``(..., b, g)``."""
        return self.decoder.pre_activation(z, _categories(batch_index, cat_covs), cont_covs)

    def likelihood_of(
        self,
        output: torch.Tensor | Output,
        log_size: torch.Tensor,
        batch_index: torch.Tensor,
        genes_measured: torch.Tensor | None = None,
    ) -> CountLikelihood | ValueLikelihood:
        """:meth:`likelihood` at outputs ``(..., b, g)`` of the decoder."""
        parameters = self.family_parameters.of_cells(batch_index)
        return self.link.likelihood(self.family, output, log_size, parameters, genes_measured)

    def law_of_sizes(
        self,
        z: torch.Tensor,
        batch_index: torch.Tensor,
        cat_covs: torch.Tensor | None = None,
        cont_covs: torch.Tensor | None = None,
        genes_measured: torch.Tensor | None = None,
    ) -> Law:
        """:meth:`likelihood` as a function of log sizes ``(b, 1)``, with what is decoded as it is."""
        log_profile = self.link.log_profile(self.output(z, batch_index, cat_covs, cont_covs), genes_measured)
        parameters = self.family_parameters.of_cells(batch_index)
        return lambda log_size: self.family(log_profile + log_size, *parameters).measuring(genes_measured)

    def log_prob_of_pairs(
        self, output: torch.Tensor, log_size: torch.Tensor, batch_index: torch.Tensor, counts: SparseCounts
    ) -> torch.Tensor:
        """Log probability of every cell at every output ``(m, g)`` of the decoder, shape ``(m, b)``; cells of one batch ``(1, 1)``."""
        parameters = [p if p.ndim == 1 else p[0] for p in self.family_parameters.of_cells(batch_index)]
        return self.family.log_prob_of_pairs(self.link.log_profile(output), parameters, counts, log_size)

    def linearise(
        self,
        z: torch.Tensor,
        genes: torch.Tensor,
        gene_weights: torch.Tensor,
        batch_index: torch.Tensor,
        cat_covs: torch.Tensor | None = None,
        cont_covs: torch.Tensor | None = None,
        genes_measured: torch.Tensor | None = None,
    ) -> Linearised:
        """:meth:`Decoder.linearise` with covariates as :meth:`likelihood` takes them; genes count where they were measured."""
        categories = _categories(batch_index, cat_covs)
        if genes_measured is not None:
            gene_weights = gene_weights * genes_measured[:, genes]
        return self.decoder.linearise(z, categories, cont_covs, genes=genes, gene_weights=gene_weights)

    def log_prob(self, tensors: dict[str, torch.Tensor], z: torch.Tensor) -> torch.Tensor:
        """Log probability of a minibatch at representations ``(..., b, d)``, shape ``(..., b)``, in nats."""
        covariates = covariates_of(tensors) | {MEASURED_KEY: self.measured(tensors)}
        return self.likelihood(z, self.log_size(tensors), **covariates).log_prob(self.values(tensors))

    @torch.no_grad()
    def start_at(self, profile: torch.Tensor, variance: torch.Tensor | None = None) -> None:
        """Start every cell at one mean profile ``(g,)``, and dispersions at what a variance ``(g,)`` says of them."""
        self.decoder.start_at_profile(profile)
        self.family_parameters.start_at(variance, profile)


class Part(NamedTuple):
    """Values of one modality in the cells of a minibatch."""

    observation: Observation
    values: SparseCounts
    """Shape ``(b, m)``."""
    log_size: torch.Tensor
    """Shape ``(b, 1)``."""
    measured: torch.Tensor | None
    """Features that were measured, ``(b, m)``, bool; ``None`` for all."""
    present: torch.Tensor | None
    """Cells that have the modality, ``(b,)``, bool; ``None`` for all."""
    weight: torch.Tensor | float
    """Of the modality in the objective."""


def _categories(batch_index: torch.Tensor, cat_covs: torch.Tensor | None) -> list[torch.Tensor]:
    return [batch_index] if cat_covs is None else [batch_index, *torch.split(cat_covs, 1, dim=1)]


def covariates_of(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor | None]:
    """Batch, covariates and measured genes of a minibatch, as :meth:`Observation.likelihood` takes them."""
    return {
        MODULE_KEYS.BATCH_INDEX_KEY: tensors[REGISTRY_KEYS.BATCH_KEY],
        MODULE_KEYS.CAT_COVS_KEY: tensors.get(REGISTRY_KEYS.CAT_COVS_KEY),
        MODULE_KEYS.CONT_COVS_KEY: tensors.get(REGISTRY_KEYS.CONT_COVS_KEY),
        MEASURED_KEY: tensors.get(MEASURED_KEY),
    }
