"""Synthetic cells of a Boltzmann machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse
from scvi import REGISTRY_KEYS

from scdgd._compat import get_state_registry
from scdgd._options import Flag, Instance, Integer, Number, Optional, Text
from scdgd.data import counts_of
from scdgd.inference._registered_sampler import of_component
from scdgd.model._arguments import READING, reading

from ._conditions import Conditions
from ._sampler import BoltzmannSampler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scdgd.inference import Library


class BoltzmannSamplingMixin:
    """Cells from the model, replicates of cells, and cells given counts of some genes."""

    def _sampler(self, batch_size: int | None = None) -> BoltzmannSampler:
        """Sampler of synthetic cells, with the attached data if there are any."""
        self._check_if_trained(warn=False)
        manager = None
        if self.adata is not None:
            self._validate_anndata(None)
            manager = self.adata_manager
        return BoltzmannSampler(self.module, self.registry, manager, batch_size=batch_size)

    def _synthetic_cells(
        self,
        n_cells: int,
        mode: str,
        batch_size: int | None,
        *,
        component: int | None,
        batch: str | None,
        library: Library,
        seed: int | None,
    ) -> AnnData:
        """Chains, or replicates of cells, of those that are assigned to a component if it is given."""
        sampler = self._sampler(batch_size)
        if mode == "prior":
            return sampler.sample_prior(n_cells, component=component, batch=batch, library=library, seed=seed)
        donors = sampler.donors_of(batch)
        if component is not None:
            assigned = self.get_cluster_assignments(indices=donors, batch_size=batch_size)
            donors, _ = of_component(donors, assigned, component, self.module.n_patterns)
        return sampler.sample_posterior(n_cells, donors, library=library, seed=seed)

    @reading(library_size=Optional(Number(above=0)), n_steps=Integer(1), collapse=Flag(), exact=Flag())
    def prior_predictive_sample(
        self,
        n_cells: int,
        *,
        component: int | None = None,
        batch: str | None = None,
        library_size: float | None = None,
        seed: int | None = None,
        n_steps: int = 50,
        collapse: bool = True,
        exact: bool = False,
        batch_size: int | None = None,
    ) -> AnnData:
        r"""Draw synthetic cells: the last states of Gibbs chains, one chain a cell.

        Chains start at random states. A model with size factors borrows batch and size factor from a random cell of the
        attached AnnData, never its counts; a model without them needs no data.

        Parameters
        ----------
        n_cells
            Number of cells.
        component
            Keep the topmost layer in this pattern, see :meth:`get_cluster_assignments`.
        batch
            Draw cells of this batch only.
        library_size
            Total count that is the size of every cell, in place of a borrowed size factor. States with low means still have
            lower totals.
        seed
            Seed of all draws; ``None`` continues torch's and a fresh NumPy generator.
        n_steps
            Number of sweeps.
        collapse
            Whether sweeps sum out counts (:meth:`scdgd.boltzmann.DeepBoltzmannMachine.sweep`), which mixes far better than the
            published block sweeps.
        exact
            Whether to draw independent cells by enumeration of hidden states, without chains; for at most 16 units in the
            layers of odd number.
        batch_size
            Chains that run together, 1,024 if not given.

        Returns
        -------
        AnnData with counts as CSR, ``obs["component"]`` (pattern of the topmost layer, if it has at most 16 units), the batch
        column if there is more than one batch, ``obsm["X_scdbm"]`` (states of the topmost layer), and diagnostics of the
        chains:

        * ``uns["gibbs_log_joint"]`` and ``uns["gibbs_total"]``: means over chains of :math:`\log \sum_v e^{-E(v, h)}` and of the
          expected total count after each sweep. Once they are level, chains have burnt in; a warning says if totals still
          move by 5% in the second half of the sweeps.
        * ``uns["gibbs_rhat"]``: split R-hat over the second half of the sweeps of up to 1,024 chains, for the same
          quantities and the worst unit of each layer. Where it is far above 1, chains stay in the mode that they fell
          into, and shares of modes depend on where they started: compare ``exact=True``, or more sweeps.

        Raises
        ------
        ValueError
            If an argument is not possible.
        """
        return self._sampler(batch_size).sample_prior(
            n_cells,
            component=component,
            batch=batch,
            library="empirical" if library_size is None else library_size,
            n_steps=n_steps,
            collapse=collapse,
            exact=exact,
            seed=seed,
        )

    @reading(
        counts=Instance(AnnData, "an AnnData with counts of the genes to fix"),
        genes=READING["gene_list"],
        layer=Optional(Text("the name of a layer")),
        library_size=Optional(Number(above=0)),
        n_steps=Integer(1),
        collapse=Flag(),
        exact=Flag(),
    )
    def conditional_sample(
        self,
        counts: AnnData,
        genes: Sequence[str] | None = None,
        *,
        n_samples: int = 1,
        layer: str | None = None,
        library_size: float | None = None,
        n_steps: int = 50,
        collapse: bool = True,
        exact: bool = False,
        seed: int | None = None,
        batch_size: int | None = None,
    ) -> AnnData:
        r"""Draw cells with fixed counts of some genes, :math:`p(v_F \mid v_C)`.

        Gibbs chains over the hidden layers given the fixed counts; then the other genes. What a panel of genes says of the
        rest, for cells in which only the panel was measured.

        Parameters
        ----------
        counts
            Cells with counts of the fixed genes, and any others, which are not read. With several batches, the batch column
            of the model; with registered size factors, theirs.
        genes
            Names of the genes to fix; all genes of `counts` if not given.
        n_samples
            Number of draws for each cell ``n``.
        layer
            Layer of `counts`; ``None`` for ``X``.
        library_size
            Total count of each cell, over all genes of the model, for a model whose size factors are totals.
        n_steps, collapse, exact, seed, batch_size
            As for :meth:`prior_predictive_sample`.

        Returns
        -------
        AnnData of ``n * n_samples`` cells, draws of a cell after each other, with all genes of the model,
        ``obs["source_cell"]``, ``var["fixed"]``, and what :meth:`prior_predictive_sample` has.

        Raises
        ------
        ValueError
            If genes are unknown, missing or all fixed, counts are not counts, or batch or size of the cells is not known.
        """
        sampler = self._sampler(batch_size)
        fixed = _fixed_genes(sampler.genes, counts.var_names, genes)
        some = counts[:, sampler.genes[fixed]]
        x = sparse.csr_matrix(counts_of(some, layer))
        _check_fixed_counts(x, some)
        given = Conditions(self._batches_of(counts), self._sizes_of(counts, library_size))
        options = {"n_samples": n_samples, "n_steps": n_steps, "collapse": collapse, "exact": exact, "seed": seed}
        return sampler.sample_given(fixed, x, given, counts.obs_names, **options)

    def _batches_of(self, cells: AnnData) -> torch.Tensor:
        """Codes of the batches of cells that need not be registered, shape ``(n,)``."""
        state = get_state_registry(self.registry, REGISTRY_KEYS.BATCH_KEY)
        names, key = list(state["categorical_mapping"]), state["original_key"]
        if len(names) == 1:
            return torch.zeros(cells.n_obs, dtype=torch.int64, device=self.module.device)
        if key not in cells.obs:
            msg = f"The model has the batches {names}, so `counts.obs` needs the column {key!r} that says which is a cell's."
            raise ValueError(msg)
        codes = pd.Index(names).get_indexer(cells.obs[key])
        if (codes < 0).any():
            unknown = list(cells.obs[key][codes < 0].unique()[:5])
            msg = f"The model knows the batches {names}, but not {unknown}, which stand in `counts.obs[{key!r}]`."
            raise ValueError(msg)
        return torch.as_tensor(codes, device=self.module.device)

    def _sizes_of(self, cells: AnnData, library_size: float | None) -> torch.Tensor:
        """Size factors of cells that need not be registered, shape ``(n,)``."""
        module, are_totals = self.module, self._sampler().sizes_are_totals
        if library_size is not None and not (module.uses_size and are_totals and library_size > 0):
            msg = (
                f"`library_size={library_size!r}` is not possible: it must be positive, and needs a model with "
                "`use_library_size=True` and sizes that are total counts, not a registered size factor."
            )
            raise ValueError(msg)
        if not module.uses_size:
            size = np.ones(cells.n_obs)
        elif are_totals:
            if library_size is None:
                msg = "Sizes of this model are total counts of all genes: say how large cells are by `library_size`."
                raise ValueError(msg)
            size = np.full(cells.n_obs, library_size / float(module.mean_total))
        else:
            key = get_state_registry(self.registry, REGISTRY_KEYS.SIZE_FACTOR_KEY)["attr_key"]
            if key not in cells.obs:
                msg = f"The model has registered size factors, so `counts.obs` needs the column {key!r}."
                raise ValueError(msg)
            size = cells.obs[key].to_numpy(float)
        return torch.as_tensor(size, device=module.device).to(module.weights[0])


def _fixed_genes(known: np.ndarray, received: pd.Index, genes: Sequence[str] | None) -> np.ndarray:
    """Whether each gene of the model is fixed, shape ``(g,)``."""
    wanted = pd.Index(received if genes is None else genes)
    for names, where in ((pd.Index(known), "the genes of the model"), (received, "the genes of `counts`")):
        missing = wanted.difference(names)
        if len(missing):
            msg = f"Genes {list(missing[:5])} are not among {where}. Name the genes to fix in `genes`."
            raise ValueError(msg)
    if not wanted.is_unique or not received.is_unique:
        msg = "Names of the genes to fix must differ, and so must those of `counts`: `counts.var_names_make_unique()`."
        raise ValueError(msg)
    fixed = pd.Index(known).isin(wanted)
    if fixed.all() or not fixed.any():
        msg = f"{int(fixed.sum())} of {len(known)} genes are fixed. Fix some and leave some to draw (`genes`)."
        raise ValueError(msg)
    return fixed


def _check_fixed_counts(x: sparse.csr_matrix, cells: AnnData) -> None:
    """As for training, but cells may be without counts of the fixed genes, and genes without counts are no news."""
    bad = ~(np.isfinite(x.data) & (x.data >= 0) & (x.data == np.rint(x.data)))
    if bad.any():
        entries, first = x.tocoo(), int(np.flatnonzero(bad)[0])
        cell, gene = cells.obs_names[entries.row[first]], cells.var_names[entries.col[first]]
        msg = (
            f"Fixed counts must be non-negative integers, but {int(bad.sum())} are not, first cell {cell}, gene {gene}: "
            f"{x.data[first]:g}. Name the layer of raw counts (`layer`)."
        )
        raise ValueError(msg)
