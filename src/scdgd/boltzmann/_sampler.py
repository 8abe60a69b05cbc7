"""Synthetic cells of a Boltzmann machine as AnnData: from the model, replicates of cells, or given some genes."""

from __future__ import annotations

from numbers import Real
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from scipy import sparse
from scvi import REGISTRY_KEYS

from scdgd._compat import is_registered
from scdgd._options import Integer
from scdgd.data import SparseCounts
from scdgd.inference import GrowingCSR, seeded
from scdgd.inference._registered_sampler import RegisteredSampler, check_library, spread_evenly

from ._conditions import Conditions
from ._gibbs_chains import CHAINS_TOGETHER, draw_exactly, run_chains

if TYPE_CHECKING:
    from collections.abc import Iterator

    from anndata import AnnData
    from scvi.data import AnnDataManager

    from scdgd.inference import Library

    from ._deep_machine import DeepBoltzmannMachine
    from ._gibbs_chains import GibbsCells

LATENT_KEY = "X_scdbm"


class BoltzmannSampler(RegisteredSampler):
    """Synthetic cells of a deep Boltzmann machine.

    Parameters
    ----------
    module
        Module of a trained :class:`~scdgd.model.SCDBM`.
    registry
        Registry of the model: names of genes and batches.
    adata_manager
        Manager of cells, for sizes and replicates; a model without size factors draws new cells without any.
    batch_size
        Chains or cells that are drawn together, 1,024 if not given.
    """

    def __init__(
        self,
        module: DeepBoltzmannMachine,
        registry: dict,
        adata_manager: AnnDataManager | None = None,
        *,
        batch_size: int | None = None,
    ) -> None:
        super().__init__(module, registry, adata_manager, CHAINS_TOGETHER if batch_size is None else batch_size)

    # ------------------------------------------------------------ draws

    def sample_prior(
        self,
        n_cells: int,
        *,
        component: int | None = None,
        batch: str | None = None,
        library: Library = "empirical",
        n_steps: int = 50,
        collapse: bool = True,
        exact: bool = False,
        seed: int | None = None,
    ) -> AnnData:
        """Last states of Gibbs chains, one chain a cell; see :meth:`scdgd.model.SCDBM.prior_predictive_sample`."""
        n_cells, n_steps = Integer(1)("n_cells", n_cells), Integer(1)("n_steps", n_steps)
        if exact and component is not None:
            msg = "`exact=True` draws all layers at once, so it cannot fix a `component`. Leave one of them out."
            raise ValueError(msg)
        top = None if component is None else self._pattern(component).expand(n_cells, -1)
        given = self._conditions(n_cells, batch, library, np.random.default_rng(seed))
        with seeded(seed):
            cells = self._draw(self.module, given, n_steps, collapse=collapse, exact=exact, top=top)
        return _with_diagnostics(self._to_anndata(cells.counts, cells.top, given), cells)

    @torch.inference_mode()
    def sample_posterior(
        self, n_cells: int, donors: np.ndarray, *, library: Library = "empirical", seed: int | None = None
    ) -> AnnData:
        r"""Replicates of cells, :math:`h^1 \sim q(h^1 \mid v_i)` and then :math:`v \sim p(v \mid h^1)`.

        Copies of the cells at positions `donors` ``(m,)`` are spread as in :meth:`CellSampler.sample_posterior`; the rest is as
        for :meth:`sample_prior`.
        """
        n_cells, rng = Integer(1)("n_cells", n_cells), np.random.default_rng(seed)
        self._check_library(library)
        sources, copies = spread_evenly(n_cells, donors, rng)
        counts, tops, conditions, order = GrowingCSR(n_cells, len(self.genes)), [], [], np.repeat(sources, copies)
        fitted = self._fitted_sizes(donors) if library == "lognormal" else None
        first = 0
        with seeded(seed):
            for v, given in self._cells(sources):
                repeats = torch.as_tensor(copies[first : first + len(v)], device=self.module.device)
                first += len(v)
                q = self.module.mean_field(v, given)
                rows = torch.arange(len(v), device=self.module.device).repeat_interleave(repeats)
                for some in rows.split(self.batch_size):
                    hidden = [torch.bernoulli(p[some]) for p in q]
                    sized = self._sized(given.of(some), library, fitted, rng)
                    counts.append(self.module.sample_counts(hidden, sized).cpu().numpy())
                    tops.append(hidden[-1].cpu().numpy())
                    conditions.append(sized)
        samples = self._to_anndata(counts.to_matrix(), np.concatenate(tops), Conditions.joined(conditions))
        samples.obs["source_cell"] = self._names_of(order)
        return samples

    def sample_given(
        self,
        fixed: np.ndarray,
        counts: sparse.csr_matrix,
        given: Conditions,
        names: pd.Index,
        *,
        n_samples: int = 1,
        n_steps: int = 50,
        collapse: bool = True,
        exact: bool = False,
        seed: int | None = None,
    ) -> AnnData:
        """Cells with fixed counts of some genes; see :meth:`scdgd.model.SCDBM.conditional_sample`.

        Counts ``(n, fixed.sum())`` are those of the genes that are `fixed`, a mask ``(g,)``, in the model's order; conditions and
        names are those of the ``n`` cells.
        """
        n_samples, n_steps = Integer(1)("n_samples", n_samples), Integer(1)("n_steps", n_steps)
        rows = torch.arange(counts.shape[0]).repeat_interleave(n_samples)
        v = SparseCounts.from_scipy(counts).to(self.module.weights[0])
        genes = torch.as_tensor(fixed, device=self.module.device)
        free, of_cells = self.module.with_fixed(genes, v, given)
        chains = of_cells.of(rows.to(genes.device))
        with seeded(seed):
            cells = self._draw(free, chains, n_steps, collapse=collapse, exact=exact)
        joined = _interleaved(fixed, counts[rows.numpy()], cells.counts)
        samples = _with_diagnostics(self._to_anndata(joined, cells.top, chains), cells)
        samples.obs["source_cell"] = pd.Categorical(np.asarray(names, dtype=object)[rows.numpy()])
        samples.var["fixed"] = fixed
        return samples

    def _draw(
        self,
        module: DeepBoltzmannMachine,
        given: Conditions,
        n_steps: int,
        *,
        collapse: bool,
        exact: bool,
        top: torch.Tensor | None = None,
    ) -> GibbsCells:
        """One cell for each row of `given`, by chains or without them."""
        if exact:
            return draw_exactly(module, given, batch_size=self.batch_size)
        return run_chains(module, given, n_steps, collapse=collapse, top=top, batch_size=self.batch_size)

    # ------------------------------------------------------------ sizes and batches

    def _conditions(self, n_cells: int, batch: str | None, library: Library, rng: np.random.Generator) -> Conditions:
        """Batches and sizes of ``n`` new cells: those of random cells, or drawn without any."""
        self._check_library(library)
        module = self.module
        if module.uses_size and not isinstance(library, Real):
            if self.manager is None:
                msg = (
                    "Synthetic cells borrow size factors of real ones, but the model was loaded without data. Attach some "
                    "(`model.adata = adata`), or give their total counts (`library_size`)."
                )
                raise ValueError(msg)
            donors = self.donors_of(batch)
            everyone = Conditions.joined([given for _, given in self._cells(donors)])
            chosen = torch.as_tensor(rng.integers(len(donors), size=n_cells), device=module.device)
            fitted = self._fitted_sizes(donors) if library == "lognormal" else None
            return self._sized(everyone.of(chosen), library, fitted, rng)
        shares = module.batch_shares.double().cpu().numpy()
        codes = rng.choice(len(shares), n_cells, p=shares / shares.sum())
        codes = codes if batch is None else np.full(n_cells, self._code_of(batch))
        codes = torch.as_tensor(codes, device=module.device)
        return self._sized(Conditions(codes, torch.ones(n_cells, device=module.device)), library, None, rng)

    def _sized(
        self, given: Conditions, library: Library, fitted: pd.DataFrame | None, rng: np.random.Generator
    ) -> Conditions:
        """Conditions with the size factors that `library` asks for."""
        if isinstance(library, Real):
            return given._replace(size=torch.full_like(given.size, library / float(self.module.mean_total)))
        if library == "lognormal":
            law = fitted.loc[given.batch.cpu().numpy()]
            sizes = rng.lognormal(law["mean"], law["std"].fillna(0.0))
            return given._replace(size=torch.as_tensor(sizes).to(given.size))
        return given

    def _fitted_sizes(self, donors: np.ndarray) -> pd.DataFrame:
        """Mean and standard deviation of the log size factors of each batch."""
        given = Conditions.joined([given for _, given in self._cells(donors)])
        return pd.Series(given.size.log().cpu().numpy()).groupby(given.batch.cpu().numpy()).agg(["mean", "std"])

    def _check_library(self, library: Library) -> None:
        check_library(library)
        if library != "empirical" and not self.module.uses_size:
            msg = (
                f"A library of {library!r} is not possible: this model has no size factors, and draws sizes with the rest "
                "of a cell. Train one with `use_library_size=True`."
            )
            raise ValueError(msg)
        if isinstance(library, Real) and not self.sizes_are_totals:
            msg = (
                f"A library of {library!r} total counts is not possible: sizes of this model are the registered size "
                "factors. Use those of real cells (`library='empirical'`)."
            )
            raise ValueError(msg)

    @property
    def sizes_are_totals(self) -> bool:
        """Whether the size of a cell is its total count, and not a registered size factor."""
        return not is_registered(self.registry, REGISTRY_KEYS.SIZE_FACTOR_KEY)

    # ------------------------------------------------------------ in and out

    def _cells(self, positions: np.ndarray) -> Iterator[tuple[SparseCounts, Conditions]]:
        return map(self.module.cells, self._minibatches(positions))

    def _pattern(self, component: int) -> torch.Tensor:
        """States ``(H_L,)`` of the topmost layer that a component stands for."""
        n = self.module.n_patterns
        if isinstance(component, bool) or component not in range(n):
            msg = f"`component` must be one of 0 ... {n - 1}, the patterns of the topmost layer, got {component!r}."
            raise ValueError(msg)
        digits = torch.arange(self.module.n_hidden[-1], device=self.module.device)
        return ((int(component) >> digits) & 1).to(self.module.weights[0])

    def _to_anndata(self, counts: sparse.csr_matrix, top: np.ndarray, given: Conditions) -> AnnData:
        components = None
        if self.module.has_patterns:
            codes = top.astype(np.int64) @ 2 ** np.arange(top.shape[1])
            components = pd.Categorical(codes.astype(str))
        return self._named(counts, top, LATENT_KEY, components, given.batch.cpu().numpy())


def _with_diagnostics(samples: AnnData, cells: GibbsCells) -> AnnData:
    samples.uns["gibbs_log_joint"], samples.uns["gibbs_total"] = cells.log_joint, cells.total
    samples.uns["gibbs_rhat"] = cells.rhat
    return samples


def _interleaved(fixed: np.ndarray, counts: sparse.csr_matrix, drawn: sparse.csr_matrix) -> sparse.csr_matrix:
    """Counts of all genes from those of the fixed and of the free ones."""
    order = np.argsort(np.concatenate([np.flatnonzero(fixed), np.flatnonzero(~fixed)]))
    return sparse.csr_matrix(sparse.hstack([counts, drawn], format="csr")[:, order])
