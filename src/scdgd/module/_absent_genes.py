"""What an encoder of all genes makes of cells in which some were not measured."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from scvi import REGISTRY_KEYS
from torch.distributions import Normal

from scdgd._compat import MODULE_KEYS
from scdgd._constants import MEASURED_KEY, NORMALIZED_TOTAL, STORED_KEY
from scdgd.data import SparseCounts, as_sparse_counts
from scdgd.likelihood._cells import log_prob_of_cells

from ._filled_counts import FilledCounts, log_share_of

if TYPE_CHECKING:
    from torch.distributions import Distribution

    from scdgd.likelihood import Likelihood

Tensors = dict[str, torch.Tensor]

#: Where a minibatch has posteriors that were found for cells that lack genes, each ``(b, d)``, NaN for the other cells.
FOUND_MEAN_KEY, FOUND_SCALE_KEY = "found_mean", "found_scale"
_N_DRAWS = 500


class AbsentGenesMixin:
    r"""Cells that lack genes, in a module with an encoder.

    Log probabilities are those of the genes that were measured. The encoder, which wants all genes, reads what is expected
    of the others (:class:`FilledCounts`); its posterior is a first guess. Where minibatches have posteriors that were found
    from there (:func:`scdgd.inference.with_found_posteriors`), these take its place; in training, it is what is trained.

    The size of a cell is that of its measured genes where means are shares of an observed total, and that of all genes
    where it is registered or latent, or a scale of means that are no shares.
    """

    #: Mean share of each gene in the counts of a cell, or mean value, ``(g,)``, over the training cells that measured it.
    mean_profile: torch.Tensor | None

    def place_profile(self, profile: torch.Tensor | None) -> None:
        """Store a mean profile ``(g,)`` of training cells, which the model keeps; ``None`` for none."""
        self.mean_profile = None if profile is None else profile.to(self.device, torch.float32)

    @property
    def profile(self) -> torch.Tensor:
        """The mean profile ``(g,)``; of models of earlier versions, that of draws of the prior."""
        if self.mean_profile is None:
            with torch.inference_mode(False), torch.no_grad():
                self.place_profile(self._profile_of_prior())
        return self.mean_profile

    def _profile_of_prior(self) -> torch.Tensor:
        n_categorical = len(self.decoder.px_decoder.n_cat_list) - (self.batch_representation != "embedding")
        generator = torch.Generator(device=self.device).manual_seed(0)
        zeros = lambda n, dtype: torch.zeros(_N_DRAWS, n, dtype=dtype, device=self.device) if n else None
        was_training = self.training
        self.eval()
        z, _ = self.given_prior().sample(_N_DRAWS, generator=generator)
        library = zeros(1, torch.float32)
        px = self.generative(
            self.transformed(z),
            library,
            zeros(1, torch.int64),
            cont_covs=zeros(self.n_continuous_cov, torch.float32),
            cat_covs=zeros(n_categorical, torch.int64),
            size_factor=library,
            y=zeros(1, torch.int64),
        )[MODULE_KEYS.PX_KEY]
        self.train(was_training)
        mean = px.mean.mean(0)
        return mean / mean.sum() if self.link.is_of_counts else mean

    def _filled(self, x: SparseCounts | torch.Tensor, measured: torch.Tensor) -> FilledCounts:
        """Counts ``(b, g)`` as the encoder reads them where genes were not measured, in their own units."""
        return FilledCounts.fill(as_sparse_counts(x), measured, self.profile, at_depth=self.link.is_of_counts)

    @property
    def _has_shares(self) -> bool:
        """Whether means are shares of the observed total of a cell."""
        return self.link.is_share and self.use_observed_lib_size and not self.use_size_factor_key

    def _of_all(self, log_total: torch.Tensor, measured: torch.Tensor | None) -> torch.Tensor:
        """Log total ``(b, 1)`` as means take it: of the measured genes if they are its shares, else estimated for all."""
        if measured is None or self._has_shares or not self.link.is_of_counts:
            return log_total
        return log_total - log_share_of(measured, self.profile).unsqueeze(1).to(log_total)

    def log_size(self, tensors: Tensors) -> torch.Tensor:
        """See :class:`LatentModule`."""
        log_size = super().log_size(tensors)
        return log_size if self.use_size_factor_key else self._of_all(log_size, tensors.get(MEASURED_KEY))

    def size_of_all(self, tensors: Tensors) -> torch.Tensor:
        """Registered size factors of a minibatch, or totals that all genes would have, in units of 10,000: ``(b, 1)``."""
        if self.use_size_factor_key:
            return tensors[REGISTRY_KEYS.SIZE_FACTOR_KEY]
        return (
            self._filled(tensors[REGISTRY_KEYS.X_KEY], tensors[MEASURED_KEY]).totals().unsqueeze(1) / NORMALIZED_TOTAL
        )

    def _size_at_all(self, output: torch.Tensor, log_size: torch.Tensor, measured: torch.Tensor | None) -> torch.Tensor:
        r"""Log size ``(..., b, 1)`` of all genes, those that were not measured included, at outputs ``(..., b, g)``.

        .. math::
            \log s - \log \sum_{m\ \text{measured}} \operatorname{softmax}(o)_m
        """
        if measured is None or not self._has_shares:
            return log_size
        of_measured = self.link.log_profile(output).masked_fill(~measured, -torch.inf)
        return log_size - torch.logsumexp(of_measured, dim=-1, keepdim=True)

    def _get_inference_input(self, tensors: Tensors, full_forward_pass: bool = False) -> dict:
        """As in scvi-tools, with measured genes and found posteriors if there are such; a minibatch says whether it is minified."""
        if REGISTRY_KEYS.LATENT_QZM_KEY in tensors and not full_forward_pass:
            return {
                MODULE_KEYS.QZM_KEY: tensors[REGISTRY_KEYS.LATENT_QZM_KEY],
                MODULE_KEYS.QZV_KEY: tensors[REGISTRY_KEYS.LATENT_QZV_KEY],
                REGISTRY_KEYS.OBSERVED_LIB_SIZE: tensors[REGISTRY_KEYS.OBSERVED_LIB_SIZE],
                **{key: tensors[key] for key in (STORED_KEY, MEASURED_KEY) if key in tensors},
            }
        inputs = super()._get_inference_input(tensors, full_forward_pass=True)
        return inputs | {key: tensors[key] for key in (MEASURED_KEY, FOUND_MEAN_KEY, FOUND_SCALE_KEY) if key in tensors}

    def _get_generative_input(self, tensors: Tensors, inference_outputs: dict) -> dict:
        """As in scvi-tools, with measured genes if some were not."""
        inputs = super()._get_generative_input(tensors, inference_outputs)
        return inputs | {key: tensors[key] for key in (MEASURED_KEY,) if key in tensors}

    def log_likelihood(self, px: Distribution | Likelihood, tensors: Tensors) -> torch.Tensor:
        """Log probability of the measured genes of whole cells, counts ``(b, g)`` to ``(..., b)``, in nats."""
        return log_prob_of_cells(px, tensors[REGISTRY_KEYS.X_KEY], tensors.get(MEASURED_KEY))


def found_of(mean: torch.Tensor | None, scale: torch.Tensor | None) -> Normal | None:
    """Gaussians that were found, from what a minibatch has of them; ``None`` where there are none."""
    return None if mean is None else Normal(mean, scale, validate_args=False)
