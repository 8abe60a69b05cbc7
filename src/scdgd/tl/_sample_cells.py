"""Synthetic cells as AnnData."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from anndata import AnnData

from scdgd import inference
from scdgd._options import SEED, Choice, Either, Flag, Integer, Number, Optional, Text, checked
from scdgd.data import counts_of, in_memory
from scdgd.inference import CellSampler
from scdgd.inference._registered_sampler import of_component

if TYPE_CHECKING:
    from scvi.model import SCVI, LinearSCVI
    from scvi.model.base import BaseModelClass

    from scdgd.inference import Library
    from scdgd.model import SCDBM, SCDGD, FlexSCVI


@checked(
    n_cells=Integer(1),
    mode=Choice("prior", "posterior"),
    component=Optional(Integer(0)),
    library=Either(
        Choice("empirical", "lognormal"), Number(above=0), words="'empirical', 'lognormal' or a positive total"
    ),
    seed=SEED,
    batch_size=Optional(Integer(1)),
)
def sample_cells(
    model: SCDGD | FlexSCVI | SCDBM | SCVI | LinearSCVI,
    n_cells: int,
    *,
    mode: Literal["prior", "posterior"] = "prior",
    component: int | None = None,
    batch: str | None = None,
    library: Library = "empirical",
    seed: int | None = None,
    batch_size: int | None = None,
) -> AnnData:
    r"""Draw synthetic cells from a trained model.

    * ``mode="prior"``: :math:`z \sim p(z)`, new cells that no real one is the model of
    * ``mode="posterior"``: :math:`z \sim q(z \mid x_i)`, replicates of the cells attached to the model (Treppner et al.
      2021), each as often as the others

    and then :math:`x \sim p(x \mid z)`, with batch and covariates of a real cell: a random one, or the replicated one.

    A deep Boltzmann machine has hidden layers :math:`h` in place of :math:`z`. ``"prior"`` runs Gibbs chains, one a cell (see
    :meth:`scdgd.model.SCDBM.prior_predictive_sample` for their length and diagnostics); ``"posterior"`` draws
    :math:`h^1 \sim q(h^1 \mid v_i)` and then :math:`v \sim p(v \mid h^1)`. Without size factors it draws sizes with the rest of a
    cell, so `library` must be ``"empirical"``, and batches of new cells have the shares of the training cells.

    Parameters
    ----------
    model
        Any model of this package, or :class:`scvi.model.SCVI` or :class:`scvi.model.LinearSCVI`, with its data.
    n_cells
        Number of cells ``n``.
    mode
        ``"prior"`` or ``"posterior"``.
    component
        Draw from this mixture component, or replicate the cells that are assigned to it. For a deep Boltzmann machine, a
        pattern of the topmost layer.
    batch
        Take cells of this batch only.
    library
        Size of cells. ``"empirical"``: that of the real cell; ``"lognormal"``: drawn from a log-normal that is fitted
        to the sizes in each batch; a number: the expected total count of every cell.
    seed
        Seed of all draws; ``None`` continues torch's generator and starts a fresh one of NumPy.
    batch_size
        Cells decoded together.

    Returns
    -------
    AnnData of ``n`` cells and the model's genes: counts as CSR; ``obs["component"]`` (drawn, or that of the replicated
    cell), the batch column if there is more than one batch, and ``obs["source_cell"]`` of replicates; the representations
    in ``obsm`` under the model's key. Memory beyond the result is that of a minibatch.

    Raises
    ------
    ValueError
        If an option is not possible, or no data are attached to the model.
    RuntimeError
        If the model is not trained.
    TypeError
        If the model is of another kind.

    Examples
    --------
    >>> synthetic = scdgd.tl.sample_cells(model, 10_000, seed=0)
    >>> replicates = scdgd.tl.sample_cells(model, adata.n_obs, mode="posterior", library=5_000, seed=0)
    """
    _check_model(model)
    if hasattr(model, "_synthetic_cells"):  # of a model without a continuous latent space
        options = {"component": component, "batch": batch, "library": library, "seed": seed}
        return model._synthetic_cells(n_cells, mode, batch_size, **options)
    model._validate_anndata(None)
    sampler = CellSampler(model.module, model.adata_manager, batch_size=batch_size)
    donors, latent_key = sampler.donors_of(batch), _latent_key(model)
    if mode == "prior":
        cells = sampler.sample_prior(n_cells, donors, component=component, library=library, seed=seed)
        return sampler.to_anndata(cells, latent_key)
    assigned = _assignments(model, donors, sampler.n_components, batch_size)
    if component is not None:
        donors, assigned = of_component(donors, assigned, component, sampler.n_components)
    if sampler.module.keeps_rows:
        model.get_latent_representation(indices=donors, batch_size=batch_size)  # finds their rows, or places them
    cells = sampler.sample_posterior(n_cells, donors, library=library, seed=seed)
    components = pd.Series(assigned, index=donors).loc[cells.donors].to_numpy()
    return sampler.to_anndata(cells._replace(components=components), latent_key, with_sources=True)


@checked(n_cells=Optional(Integer(1)), layer=Optional(Text("the name of one layer")), replicate=Flag(), seed=SEED)
def noise_baseline(
    adata: AnnData,
    n_cells: int | None = None,
    *,
    layer: str | None = None,
    replicate: bool = False,
    seed: int | None = None,
) -> AnnData:
    """Cells with so much noise added that any generator should do better (Treppner et al. 2021).

    Parameters
    ----------
    adata
        Pilot cells with raw counts.
    n_cells
        Number of cells ``n``; as many as the pilot has if not given.
    layer
        Layer of the counts; ``None`` for ``X``.
    replicate
        Add noise to each pilot cell once, and replicate the noisy cells, as published. With ``False``, each copy has
        noise of its own.
    seed
        Seed of all draws.

    Returns
    -------
    AnnData of ``n`` cells, with ``obs["source_cell"]``; see :func:`scdgd.inference.noise_baseline`.

    Raises
    ------
    ValueError
        If `n_cells` is not a positive integer, or counts are negative or not finite.
    KeyError
        If there is no such layer.
    """
    counts = in_memory(counts_of(adata, layer))
    counts, donors = inference.noise_baseline(counts, n_cells, replicate=replicate, seed=seed)
    obs = pd.DataFrame(
        {"source_cell": pd.Categorical(adata.obs_names[donors])}, index=[f"sample_{i}" for i in range(len(donors))]
    )
    return AnnData(counts, obs=obs, var=pd.DataFrame(index=adata.var_names))


def _check_model(model: BaseModelClass) -> None:
    name = type(model).__name__
    if not hasattr(model, "is_trained_"):
        msg = f"`sample_cells` draws from a trained model, but the first argument is a {name}."
        raise TypeError(msg)
    if not model.is_trained_:
        msg = f"`sample_cells` draws from a trained model, but this {name} is not. Call `model.train()` first."
        raise RuntimeError(msg)
    if model.adata is None:
        msg = (
            f"Synthetic cells borrow size, batch and covariates of real ones, but this {name} was loaded without data. "
            "Attach some: `model.adata = adata`."
        )
        raise ValueError(msg)


def _latent_key(model: BaseModelClass) -> str:
    return getattr(model, "_latent_key", f"X_{type(model).__name__.lower()}")


def _assignments(model: BaseModelClass, donors: np.ndarray, n_components: int, batch_size: int | None) -> np.ndarray:
    """Component of each donor, shape ``(m,)``; zero where the prior has one."""
    if n_components == 1:
        return np.zeros(len(donors), np.int64)
    return model.get_cluster_assignments(indices=donors, batch_size=batch_size, merged=False)
