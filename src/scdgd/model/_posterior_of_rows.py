"""Posteriors of cells in models with one representation a cell and no encoder."""

from __future__ import annotations

import contextlib
import logging
from itertools import chain
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import torch
from scvi import REGISTRY_KEYS, settings
from scvi.utils import track

from scdgd._constants import FINGERPRINT_KEY, LOG_SIZE_KEY
from scdgd.inference import (
    MAX_PARETO_K,
    N_ROUNDS,
    ImportanceSamples,
    importance_samples,
    laplace_posterior,
    mended_samples,
    posterior_samples,
    refined,
    seeded,
)

from ._cell_posterior import CellPosterior
from ._cell_rows import PLACED_TOGETHER
from ._kept_posteriors import N_DRAWS, KeptPosteriors
from ._query_genes import minibatches_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from anndata import AnnData

    from scdgd.module._dgd import PosteriorSampler

    from ._cell_posterior import Decoding

logger = logging.getLogger(__name__)

_SHOW_CELLS = 2_000
#: Draws by which moments of a posterior are found.
N_SAMPLES = 200
#: Draws of a cell that those kept stand for; of so few cells that more are asked for, they are made anew.
_MOST_OF_KEPT = 8 * N_DRAWS


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


class PosteriorOfRows(CellPosterior):
    """Laplace's approximation around the mode, corrected by importance sampling.

    Draws enter wherever scvi-tools asks for samples of the posterior: every method with ``n_samples > 1``, differential
    expression and posterior predictive samples. Importance weights use the model's own prior.
    """

    def clusters(
        self, adata: AnnData | None, indices: Sequence[int] | None, soft: bool, batch_size: int | None
    ) -> np.ndarray:
        """Components ``(n,)``, or their probabilities ``(n, k)``."""
        rows = self.model._rows_of(self.model._validate_anndata(adata), indices, batch_size)
        prior = self.module.prior
        result = np.empty((len(rows), prior.n_components), np.float32) if soft else np.empty(len(rows), np.int64)
        for cells, z in self.model.cells.blocks_of(rows):
            responsibilities = prior.responsibilities(z).cpu().numpy()
            result[cells] = responsibilities if soft else responsibilities.argmax(axis=1)
        return result

    def known_cells(self) -> np.ndarray:
        """Those that have a row in the table."""
        rows = self.model.adata_manager.rows
        return np.flatnonzero((rows >= 0) & (rows < len(self.module.representations)))

    def found_anew(
        self, adata: AnnData, positions: np.ndarray, batch_size: int | None, genes: np.ndarray | None = None
    ) -> torch.Tensor:
        """Those of new cells as they are; training cells are placed, and all cells as if only `genes` had been measured."""
        if genes is not None:
            minibatches = minibatches_of(self.model, adata, positions, batch_size or PLACED_TOGETHER, genes)
            rows = self.model.cells.infer_each(minibatches, len(positions))
            return self.module.posterior.moments(rows)[0].cpu()
        rows = self.model._rows_of(adata, positions, batch_size)
        z = torch.as_tensor(self.model.cells.representations_of(rows))
        trained = np.flatnonzero(rows < len(self.module.representations))
        if len(trained):
            manager = self.model.get_anndata_manager(adata, required=True)
            distinct, where = np.unique(positions[trained], return_inverse=True)
            placed = self.model.cells.infer(manager, distinct, batch_size)
            z[torch.as_tensor(trained)] = self.module.posterior.moments(placed)[0].cpu()[torch.as_tensor(where)]
        return z

    def minibatches(
        self,
        adata: AnnData | None,
        indices: Sequence[int] | None,
        batch_size: int | None,
        what: str,
        dataloader: Iterable[dict] | None = None,
        **loading: Any,
    ) -> Iterator[tuple[dict[str, torch.Tensor], torch.Tensor]]:
        """Minibatches, with the rows of the table of their cells; `loading` are further arguments of the loader."""
        self.model._check_if_trained(warn=False)
        adata, _ = self.model._cells_to_read(adata, indices, dataloader)
        if dataloader is not None:
            yield from map(self._with_rows, _some_of(dataloader))
            return
        loader = self.model._make_data_loader(adata, indices=indices, batch_size=batch_size, **loading)
        n_cells = len(loader.indices)
        for tensors in track(loader, description=f"{what} of {n_cells} cells", disable=n_cells < _SHOW_CELLS):
            yield self._with_rows(tensors)

    def _with_rows(self, tensors: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """A minibatch on the device of the model, and the rows of its cells ``(b, w)``; NotImplementedError if it does not say which."""
        if REGISTRY_KEYS.INDICES_KEY not in tensors:
            msg = (
                "Representations are found by cell name, which minibatches of this `dataloader` do not carry; pass `adata` and "
                "`indices`, or minibatches of a loader that this model made."
            )
            raise NotImplementedError(msg)
        tensors = {key: value.to(self.module.device) for key, value in tensors.items()}
        return tensors, self.module.representations(tensors[REGISTRY_KEYS.INDICES_KEY].ravel())

    def of_minibatches(
        self, dataloader: Iterable[dict], kind: Literal["mean", "draw", "variances", "covariances"]
    ) -> tuple[np.ndarray, ...]:
        """What minibatches say of the cells that have their rows: means or draws ``(n, d)``; or means, with spread as asked for."""
        parts = [self._of_minibatch(*given, kind) for given in self.minibatches(None, None, None, "", dataloader)]
        return tuple(torch.cat(part).cpu().numpy() for part in zip(*parts, strict=True))

    def _of_minibatch(
        self, tensors: dict[str, torch.Tensor], rows: torch.Tensor, kind: str
    ) -> tuple[torch.Tensor, ...]:
        module, whole = self.module, kind == "covariances"
        if kind == "mean":
            return (module.posterior.moments(rows)[0],)
        if kind == "draw":
            return (module.draws(tensors, rows, 1).squeeze(0),)
        qz = module.known_posterior(tensors, rows)
        if qz is None:
            return moments_of(module, tensors, rows, N_SAMPLES, N_ROUNDS, whole)[:2]
        return qz.loc, torch.diag_embed(qz.variance) if whole else qz.variance

    def draws(
        self, adata: AnnData | None, indices: Sequence[int] | None, batch_size: int | None, n_samples: int
    ) -> torch.Tensor:
        """Draws of the posteriors, shape ``(s, n, d)``, on the CPU."""
        draws = [
            self.module.draws(tensors, rows, n_samples).cpu()
            for tensors, rows in self.minibatches(adata, indices, batch_size, "Draws")
        ]
        return torch.cat(draws, dim=1)

    def draw_proposals(
        self, adata: AnnData, indices: np.ndarray, batch_size: int | None, n_samples: int
    ) -> torch.Tensor:
        """Draws of the proposals of importance sampling, not corrected, shape ``(s, n, d)``, on the CPU."""
        draws, kept = [], self.kept(adata, indices)
        for tensors, rows in self.minibatches(adata, indices, batch_size, "Draws"):
            z = self.weighted(kept, tensors, rows, n_samples).z
            draws.append(z[torch.randperm(len(z))[:n_samples]].cpu())
        return torch.cat(draws, dim=1)

    def decoded_overall(self, decoding: Decoding, n_overall: int, weights: str | None, weighting: dict) -> np.ndarray:
        """Draws of all cells together are draws of posteriors, single ones too; see :class:`CellPosterior`."""
        if weights == "importance":
            return self._decoded_by_weights(decoding, n_overall, weighting)
        return super().decoded_overall(decoding, n_overall, weights, weighting)

    def drawn(self, decoding: Decoding) -> np.ndarray:
        """At draws of the posteriors that were learned, or that are kept, if there are few enough of each cell."""
        kept = (
            None
            if decoding.positions is None
            else self._kept_for(decoding.adata, decoding.positions, decoding.n_samples)
        )
        with self._sampling(None if kept is None else _sampler_of(kept)):
            return decoding.run(self.model)

    def latent_draws(self, adata: AnnData, positions: np.ndarray, n_samples: int) -> torch.Tensor:
        """Draws of posteriors that were learned, or that are kept, shape ``(s, n, d)``, on the CPU."""
        kept = self._kept_for(adata, positions, n_samples)
        if kept is None:
            return self.draws(adata, positions, None, n_samples)
        return kept.draws(self.model._rows_of(adata, positions), n_samples)

    def _kept_for(self, adata: AnnData, positions: np.ndarray, n_samples: int) -> KeptPosteriors | None:
        """Posteriors that are kept, where so many draws of each cell are taken of them."""
        is_learned = self.module.posterior.is_learned
        return None if is_learned or n_samples > _MOST_OF_KEPT else self.kept(adata, positions)

    def kept(self, adata: AnnData, positions: np.ndarray) -> KeptPosteriors | None:
        """Posteriors of cells, found once; ``None`` where cells are too many to keep, or minified data keep theirs.

        Draws are resampled from importance samples, as those of all methods are.
        """
        model, module = self.model, self.module
        n_latent, manager = module.prior.n_latent, model.get_anndata_manager(adata, required=True)
        if not (manager.has_counts and KeptPosteriors.fit(adata.n_obs, n_latent)):
            return None
        data, rows = manager.id, model._rows_of(adata, positions)
        kept = model.cells.kept_posteriors
        if kept is None or kept.data != data:
            kept = KeptPosteriors(data, rows, n_latent)
        model.cells.kept_posteriors = kept = kept.with_places(rows)
        missing = np.unique(positions[kept.are_missing(rows)])
        if not len(missing):
            return kept
        seed = (settings.seed or 0) + kept.n_found
        generator = torch.Generator(module.device).manual_seed(seed)
        with seeded(seed):  # later draws are the same whether posteriors were found before
            for tensors, representations in self.minibatches(adata, missing, PLACED_TOGETHER, "Posteriors"):
                laplace = laplace_posterior(module, tensors, module.posterior.moments(representations)[0])
                proposal = refined(module, tensors, laplace)
                samples = importance_samples(module, tensors, proposal, 2 * N_DRAWS, generator)
                kept.keep(_rows_in_table(tensors), proposal, samples.resample(N_DRAWS, generator))
        return kept

    def weighted(
        self, kept: KeptPosteriors | None, tensors: dict[str, torch.Tensor], rows: torch.Tensor, n_samples: int
    ) -> ImportanceSamples:
        """Weighted draws of the cells of a minibatch, around the Gaussians that are kept, or such as are found for it."""
        if kept is None:
            return posterior_samples(self.module, tensors, rows, n_samples)
        return importance_samples(self.module, tensors, kept.proposal(_rows_in_table(tensors), rows.device), n_samples)

    def _decoded_by_weights(self, decoding: Decoding, n_overall: int, weighting: dict) -> np.ndarray:
        """Expression at draws of the group's cells, drawn again by their importance weights."""
        adata, indices = decoding.adata, decoding.positions
        zs = self.draw_proposals(adata, indices, decoding.loading["batch_size"], n_overall // len(indices) + 1)
        p = self.model.get_importance_weights(adata, indices, zs=zs, **weighting)
        chosen = torch.multinomial(torch.as_tensor(p), n_overall, replacement=True).numpy()
        order = np.argsort(indices[chosen % len(indices)], kind="stable")  # as data on disk must be read
        chosen, drawn = chosen[order], np.argsort(order)
        cells, z = chosen % len(indices), zs.reshape(-1, zs.shape[-1])[chosen]
        with self._given_draws(z):
            expression = decoding._replace(positions=indices[cells]).run(self.model)
        return expression[drawn]  # differential expression pairs the rows of two groups as they come

    @contextlib.contextmanager
    def _given_draws(self, z: torch.Tensor) -> Iterator[None]:
        """The next minibatches take their representations from `z` ``(m, d)``, in order."""
        position = 0

        def next_draws(module: torch.nn.Module, tensors: dict, rows: torch.Tensor, n_samples: int) -> torch.Tensor:
            """Representations ``(1, b, d)`` of the next ``b`` cells."""
            nonlocal position
            position += len(rows)
            return z[position - len(rows) : position].to(rows).unsqueeze(0)

        with self._sampling(next_draws):
            yield

    def moments_to_keep(self) -> tuple[np.ndarray, np.ndarray]:
        """Representations as rows have them, and variances of the posteriors around them, each ``(n, d)``."""
        return self.model.get_latent_representation(), self.model.get_latent_representation(return_dist=True)[1]

    def kept_beside(self, *, has_counts: bool) -> dict[str, np.ndarray]:
        """Log sizes ``(n, M)``, NaN of modalities that a cell lacks, and hashes of counts ``(n, 1)``, by which cells are known."""
        if has_counts:
            return {}
        module, sizes = self.module, []
        for tensors in self.model._make_data_loader(self.model.adata):
            log_size, is_there = module.log_size(tensors), module.has_sizes(tensors)
            sizes.append(log_size if log_size.shape[1] == 1 else log_size.where(is_there, torch.nan))
        fingerprints = self.model.adata_manager.fingerprints.reshape(-1, 1)
        return {LOG_SIZE_KEY: torch.cat(sizes).cpu().numpy(), FINGERPRINT_KEY: fingerprints}

    def replicates(self, tensors: dict[str, torch.Tensor], n_samples: int, batch: int | None) -> torch.Tensor:
        """A single sample is at a draw of the posterior, too."""
        with self._sampling():
            return super().replicates(tensors, n_samples, batch)

    @contextlib.contextmanager
    def _sampling(self, sampler: PosteriorSampler | None = None) -> Iterator[None]:
        """Single samples are draws, too, not the representation itself; of another `sampler`, if there is one."""
        module = self.module
        before = module.samples_posterior, module.posterior_sampler
        module.samples_posterior, module.posterior_sampler = True, sampler or module.posterior_sampler
        try:
            yield
        finally:
            module.samples_posterior, module.posterior_sampler = before


def _some_of(dataloader: Iterable[dict]) -> Iterator[dict]:
    """The minibatches; ValueError if there are none."""
    minibatches = iter(dataloader)
    first = next(minibatches, None)
    if first is None:
        msg = "There are no cells to read: the `dataloader` gives none."
        raise ValueError(msg)
    return chain([first], minibatches)


def _sampler_of(kept: KeptPosteriors) -> PosteriorSampler:
    """Draws of a minibatch from posteriors that are kept."""

    def draws(module: torch.nn.Module, tensors: dict, rows: torch.Tensor, n_samples: int) -> torch.Tensor:
        """Representations ``(s, b, d)``."""
        return kept.draws(_rows_in_table(tensors), n_samples).to(rows)

    return draws


def _rows_in_table(tensors: dict[str, torch.Tensor]) -> np.ndarray:
    return tensors[REGISTRY_KEYS.INDICES_KEY].ravel().cpu().numpy()


def moments_of(
    module: torch.nn.Module,
    tensors: dict[str, torch.Tensor],
    rows: torch.Tensor,
    n_samples: int,
    n_rounds: int,
    full_covariance: bool,
) -> tuple[torch.Tensor, ...]:
    """Fields of :class:`PosteriorMoments` for the cells of a minibatch."""
    if n_samples == 0:
        posterior = laplace_posterior(module, tensors, module.posterior.moments(rows)[0])
        covariance = posterior.covariance if full_covariance else posterior.variance
        nothing = torch.full_like(posterior.neg_log_joint, torch.nan)
        infinite = torch.full_like(nothing, torch.inf)
        return posterior.mode, covariance, posterior.log_evidence(), infinite, nothing
    samples = mended_samples(module, tensors, rows, n_samples, n_rounds)
    covariance = samples.read(ImportanceSamples.shrunk_covariance)
    if not full_covariance:
        covariance = covariance.diagonal(dim1=-2, dim2=-1)
    return (
        samples.read(lambda given: given.mean),
        covariance,
        samples.read(ImportanceSamples.log_evidence),
        samples.read(ImportanceSamples.effective_sample_size),
        samples.read(ImportanceSamples.pareto_k),
    )


def say_rough(pareto_k: np.ndarray, result: str, argument: str, n_samples: int) -> None:
    """Say once how many cells keep weights with a heavy tail, what it means and what to do; nothing if there are none."""
    n_rough = int(((pareto_k > MAX_PARETO_K) & np.isfinite(pareto_k)).sum())  # infinite: too few draws to tell
    if n_rough:
        logger.warning(
            "%s of %s cells have importance weights with a heavy tail (Pareto k above %s), so their %s are rough: pass "
            "`%s=%s`, or leave these cells out.",
            n_rough,
            len(pareto_k),
            MAX_PARETO_K,
            result,
            argument,
            4 * n_samples,
        )
