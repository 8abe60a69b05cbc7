"""What models with one representation a cell know of their uncertainty."""

from __future__ import annotations

import contextlib
import logging
import warnings
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from scvi import REGISTRY_KEYS, settings
from scvi.utils import track

from scdgd._options import Choice, Either, Integer
from scdgd.inference import (
    laplace_posterior,
    log_prob_of_pairs,
    posterior_draws,
    posterior_samples,
)

from ._aggregated_posterior import AggregatedPosteriorMixin, anchor_cells, importance_weights
from ._arguments import reading
from ._cells import positions_of
from ._reading_mixin import ReadingMixin

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anndata import AnnData

    from ._reading_mixin import Decoding

logger = logging.getLogger(__name__)

#: Above this shape of the tail of its importance weights, moments of a cell are not to be trusted.
_MAX_PARETO_K = 0.7
_SHOW_CELLS = 2_000


class PosteriorMoments(NamedTuple):
    """Posterior moments of the representations of ``n`` cells."""

    mean: np.ndarray
    """Shape ``(n, d)``."""
    covariance: np.ndarray
    """Variances ``(n, d)``, or covariances ``(n, d, d)``."""
    log_evidence: np.ndarray
    """Log marginal likelihood of each cell in nats, shape ``(n,)``."""
    effective_sample_size: np.ndarray
    """Of the importance samples, shape ``(n,)``; infinite without them."""
    pareto_k: np.ndarray
    """Shape of the tail of the importance weights, shape ``(n,)``; above 0.7 distrust a cell; NaN without them."""


class PosteriorMixin(AggregatedPosteriorMixin, ReadingMixin):
    r"""Posteriors of representations: Laplace's approximation around the mode, corrected by importance sampling.

    Draws enter wherever scvi-tools asks for samples of the posterior: every method with ``n_samples > 1``, differential
    expression and posterior predictive samples. Importance weights use the model's own prior.
    """

    def _start_posterior(self) -> None:
        self.module.posterior_sampler = posterior_draws

    @contextlib.contextmanager
    def _sampling_posterior(self) -> Iterator[None]:
        """Single samples are draws, too, not the representation itself."""
        before = self.module.samples_posterior
        self.module.samples_posterior = True
        try:
            yield
        finally:
            self.module.samples_posterior = before

    @reading(n_samples=Either(Choice(0), Integer(2)))
    def get_posterior(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        *,
        n_samples: int = 200,
        full_covariance: bool = False,
        batch_size: int | None = None,
    ) -> PosteriorMoments:
        r"""Posterior mean, covariance and evidence of each cell.

        .. math::
            q(z \mid x) \approx \mathcal N(z^*, H^{-1}), \qquad
            w_s \propto \frac{p(x \mid z_s)\, p(z_s)}{q(z_s)}, \qquad
            \hat{\mathbb E}[z \mid x] = \sum_s w_s z_s

        The Laplace approximation at the mode, moved towards the posterior's mean (:func:`scdgd.inference.refined`), is the
        proposal; weights make moments of its draws those of the posterior. Covariances of few draws in many dimensions
        are noisy, so they are shrunk to a multiple of the proposal's, see
        :meth:`scdgd.inference.ImportanceSamples.shrunk_covariance`.

        Parameters
        ----------
        adata, indices, batch_size
            As for :meth:`get_latent_representation`.
        n_samples
            Draws of each cell; 0 for the Laplace approximation as it is.
        full_covariance
            Return covariances in place of variances.

        Returns
        -------
        The moments and how far to trust them.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        ValueError
            If `n_samples` is negative, or one.
        """
        self._warn_of_kinks()
        parts = []
        for tensors, rows in self._minibatches(adata, indices, batch_size, "Posteriors"):
            parts.append(self._moments(tensors, rows, n_samples, full_covariance))
        moments = PosteriorMoments(*(torch.cat(field).cpu().numpy() for field in zip(*parts, strict=True)))
        distrusted = (moments.pareto_k > _MAX_PARETO_K).sum()
        if distrusted:
            logger.info(
                "%s of %s cells have importance weights with heavy tails (Pareto k above %s): their posteriors are only "
                "roughly known. More samples may help (`n_samples`).",
                distrusted,
                len(moments.mean),
                _MAX_PARETO_K,
            )
        return moments

    def _posterior_moments(
        self, adata, indices, batch_size: int | None, full_covariance: bool
    ) -> tuple[np.ndarray, np.ndarray]:
        """Means ``(n, d)`` and variances ``(n, d)`` or covariances ``(n, d, d)``: learned, or those of :meth:`get_posterior`."""
        posterior = self.module.posterior
        if posterior.is_learned:
            rows = self._resolve_rows(self._validate_anndata(adata), indices, batch_size)
            rows = self.module.representations(torch.as_tensor(rows, device=self.module.device))
            mean, var = (moment.cpu().numpy() for moment in posterior.moments(rows))
            return mean, var[..., None] * np.eye(var.shape[1], dtype=var.dtype) if full_covariance else var
        moments = self.get_posterior(adata, indices, full_covariance=full_covariance, batch_size=batch_size)
        return moments.mean, moments.covariance

    def _moments(self, tensors, rows, n_samples: int, full_covariance: bool) -> tuple[torch.Tensor, ...]:
        if n_samples == 0:
            posterior = laplace_posterior(self.module, tensors, self.module.posterior.moments(rows)[0])
            covariance = posterior.covariance if full_covariance else posterior.variance
            nothing = torch.full_like(posterior.neg_log_joint, torch.nan)
            infinite = torch.full_like(nothing, torch.inf)
            return posterior.mode, covariance, posterior.log_evidence(), infinite, nothing
        samples = posterior_samples(self.module, tensors, rows, n_samples)
        covariance = samples.shrunk_covariance()
        if not full_covariance:
            covariance = covariance.diagonal(dim1=-2, dim2=-1)
        return samples.mean, covariance, samples.log_evidence(), samples.effective_sample_size(), samples.pareto_k()

    def _minibatches(self, adata, indices, batch_size: int | None, what: str):
        """Minibatches, with the rows of the table of their cells."""
        self._check_if_trained(warn=False)
        adata = self._validate_anndata(adata)
        loader = self._make_data_loader(adata, indices=indices, batch_size=batch_size)
        n_cells = len(loader.indices)
        for tensors in track(loader, description=f"{what} of {n_cells} cells", disable=n_cells < _SHOW_CELLS):
            tensors = {key: value.to(self.module.device) for key, value in tensors.items()}
            yield tensors, self.module.representations(tensors[REGISTRY_KEYS.INDICES_KEY].ravel())

    def _warn_of_kinks(self) -> None:
        if self.module.decoder.has_kinks:
            msg = (
                "The decoder has ReLU activations. Their kinks give posteriors many modes and no informative curvature, "
                "so variances can cover far too little. Train with `activation='silu'` for uncertainty."
            )
            warnings.warn(msg, UserWarning, stacklevel=settings.warnings_stacklevel)

    def _draw_representations(self, adata, indices, batch_size: int | None, n_samples: int) -> torch.Tensor:
        """Draws of the posteriors, shape ``(s, n, d)``, on the CPU."""
        draws = [
            posterior_draws(self.module, tensors, rows, n_samples).cpu()
            for tensors, rows in self._minibatches(adata, indices, batch_size, "Draws")
        ]
        return torch.cat(draws, dim=1)

    def _draw_proposals(self, adata, indices, batch_size: int | None, n_samples: int) -> torch.Tensor:
        """Draws of the proposals of importance sampling, not corrected, shape ``(s, n, d)``, on the CPU."""
        draws = []
        for tensors, rows in self._minibatches(adata, indices, batch_size, "Draws"):
            z = posterior_samples(self.module, tensors, rows, n_samples).z
            draws.append(z[torch.randperm(len(z))[:n_samples]].cpu())
        return torch.cat(draws, dim=1)

    def get_marginal_ll(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        n_mc_samples: int = 1_000,
        batch_size: int | None = None,
        return_mean: bool = True,
        dataloader=None,
        **kwargs,
    ) -> torch.Tensor | float:
        r"""Log marginal likelihood :math:`\log p(x) = \log \int p(x \mid z)\, p(z \mid \phi)\, dz` of cells.

        By importance sampling around the Laplace approximation, with the model's own prior: a lower bound in expectation
        that rises with the number of samples. It integrates the representation; decoder and prior are fixed. Cells that
        trained the decoder are not held out: see :func:`scdgd.metrics.held_out_log_likelihood`.

        Parameters
        ----------
        adata, indices, batch_size
            As for :meth:`get_latent_representation`.
        n_mc_samples
            Samples of each cell.
        return_mean
            Whether to return the mean over cells.
        dataloader
            Not supported: cells are found by name.
        **kwargs
            Of scvi-tools' signature, without effect.

        Returns
        -------
        The mean in nats per cell, or a tensor of shape ``(n,)``.

        Raises
        ------
        NotImplementedError
            If a `dataloader` is given.
        RuntimeError
            If the model is not trained.
        ValueError
            If `n_mc_samples` is not positive.
        """
        self._refuse_dataloader(dataloader)
        log_evidence = [
            posterior_samples(self.module, tensors, rows, n_mc_samples).log_evidence()
            for tensors, rows in self._minibatches(adata, indices, batch_size, "Evidence")
        ]
        log_evidence = torch.cat(log_evidence).cpu()
        return float(log_evidence.mean()) if return_mean else log_evidence

    def get_importance_weights(
        self,
        adata: AnnData | None = None,
        indices: Sequence[int] | None = None,
        qz=None,
        px=None,
        zs: torch.Tensor | None = None,
        max_cells: int = 1_024,
        truncation: bool = False,
        n_mc_samples: int = 200,
        n_mc_samples_per_pass: int | None = None,
        batch_size: int | None = None,
    ) -> np.ndarray:
        r"""Weights of representations by how well they explain the cells of a group, as in scVI but with our prior.

        .. math::
            w(z) \propto \frac1{|A|} \sum_{a \in A}
            \frac{p(x_a \mid z)\, p(z \mid \phi)}{\hat p(x_a)\, \frac{1}{|A|} \sum_{a'} q(z \mid x_{a'})}

        with the proposals of :func:`scdgd.inference.importance_samples` for ``q``.

        Parameters
        ----------
        adata, indices
            The cells of the group.
        qz, px
            Of scvi-tools' signature; not used, posteriors are computed here.
        zs
            Representations ``(s, n, d)``, drawn from the proposals; one draw for each cell if not given.
        max_cells
            Most anchor cells ``A``; a random subset of larger groups.
        truncation
            Whether to raise small weights to the mean (Ionides 2008), as scvi-tools does.
        n_mc_samples
            Samples of the evidence of each anchor cell.
        n_mc_samples_per_pass
            Of scvi-tools' signature, without effect.
        batch_size
            Cells taken together.

        Returns
        -------
        Weights that sum to one, shape ``(s * n,)``.

        Raises
        ------
        RuntimeError
            If the model is not trained.
        ValueError
            If `n_mc_samples` is not positive.
        """
        self._check_if_trained(warn=False)
        adata = self._validate_anndata(adata)
        indices = positions_of(indices, adata.n_obs)
        zs = self._draw_proposals(adata, indices, batch_size, 1) if zs is None else zs
        z = zs.reshape(-1, zs.shape[-1]).to(self.module.device)  # (m, d)
        log_ratio, log_q = [], []
        for tensors, rows in self._minibatches(
            adata, anchor_cells(indices, max_cells), batch_size, "Importance weights"
        ):
            samples = posterior_samples(self.module, tensors, rows, n_mc_samples)
            log_ratio.append(log_prob_of_pairs(self.module, tensors, z) - samples.log_evidence())  # (m, a)
            log_q.append(torch.cat([samples.log_proposal_density(part.unsqueeze(1)) for part in z.split(256)]))
        with torch.no_grad():
            log_prior = torch.cat([self.module.prior.log_prob(part) for part in z.split(10_000)])
        return importance_weights(log_ratio, log_prior, log_q, truncation=truncation)

    def _decoded_overall(self, decoding: Decoding, n_overall: int, weights: str | None, weighting: dict) -> np.ndarray:
        """Draws of all cells together are draws of posteriors, single ones too; see :class:`ReadingMixin`."""
        if weights == "importance":
            return self._decoded_by_weights(decoding, n_overall, weighting)
        with self._sampling_posterior():
            return super()._decoded_overall(decoding, n_overall, weights, weighting)

    def _decoded_by_weights(self, decoding: Decoding, n_overall: int, weighting: dict) -> np.ndarray:
        """Expression at draws of the group's cells, drawn again by their importance weights."""
        adata, indices = decoding.adata, decoding.positions
        zs = self._draw_proposals(adata, indices, decoding.loading["batch_size"], n_overall // len(indices) + 1)
        p = self.get_importance_weights(adata, indices, zs=zs, **weighting)
        chosen = torch.multinomial(torch.as_tensor(p), n_overall, replacement=True).numpy()
        order = np.argsort(indices[chosen % len(indices)], kind="stable")  # as data on disk must be read
        chosen, drawn = chosen[order], np.argsort(order)
        cells, z = chosen % len(indices), zs.reshape(-1, zs.shape[-1])[chosen]
        with self._given_draws(z):
            expression = decoding._replace(positions=indices[cells]).run(self)
        return expression[drawn]  # differential expression pairs the rows of two groups as they come

    @contextlib.contextmanager
    def _given_draws(self, z: torch.Tensor) -> Iterator[None]:
        """The next minibatches take their representations from `z` ``(m, d)``, in order."""
        position = 0

        def next_draws(module, tensors, rows, n_samples):
            """Representations ``(1, b, d)`` of the next ``b`` cells."""
            nonlocal position
            position += len(rows)
            return z[position - len(rows) : position].to(rows).unsqueeze(0)

        self.module.posterior_sampler = next_draws
        try:
            with self._sampling_posterior():
                yield
        finally:
            self._start_posterior()

    def _check_importance_weights(self) -> None:
        """Every likelihood has some."""

    def _replicates(self, tensors: dict[str, torch.Tensor], n_samples: int, batch: int | None) -> torch.Tensor:
        """A single sample is at a draw of the posterior, too."""
        with self._sampling_posterior():
            return super()._replicates(tensors, n_samples, batch)

    def _refuse_dataloader(self, dataloader) -> None:
        if dataloader is not None:
            msg = "Representations are found by cell name, which a `dataloader` does not carry; pass `adata` and `indices`."
            raise NotImplementedError(msg)
