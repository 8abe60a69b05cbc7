"""Minified data: posteriors, and sizes of cells, in place of counts."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
from anndata import AnnData
from scipy import sparse

from scdgd._compat import ADATA_MINIFY_TYPE, layer_names, mark_minified
from scdgd.data import registered_cells

if TYPE_CHECKING:
    from scvi.model.base import BaseModelClass


def minified(model: BaseModelClass, kind: str, *keys: str) -> AnnData:
    """The data of a model with what it keeps of posteriors, and no counts unless the `kind` says so; they stay as they are.

    Parameters
    ----------
    model
        A model that can do without counts.
    kind
        One of :data:`ADATA_MINIFY_TYPE`.
    *keys
        Of means and variances ``(n, d)`` in ``obsm``, which are taken if they are there.

    Raises
    ------
    NotImplementedError
        If the data are a MuData.
    ValueError
        If only one of the moments is there, or they are of other dimensions, or counts are gone already.
    """
    adata, manager, posterior = model.adata, model.adata_manager, model.posterior
    if not isinstance(adata, AnnData):
        msg = "Minified data are an AnnData, and the model stands on a MuData. Set up the AnnData of the modality by `setup_anndata`."
        raise NotImplementedError(msg)
    manager.require_counts("Minification")
    moments = _given_moments(adata, keys, model.module.given_prior().n_latent) or posterior.moments_to_keep()
    genes = adata.var_names.isin(model.get_var_names())
    keeps_counts = kind == ADATA_MINIFY_TYPE.LATENT_POSTERIOR_WITH_COUNTS
    made = adata[:, genes].to_memory(copy=True) if keeps_counts else _without_counts(adata, genes)
    totals = [np.asarray(block.sum(1)).ravel() for _, block in registered_cells(manager).blocks()]
    mark_minified(model, made, kind, moments, np.concatenate(totals))
    made.obsm.update(posterior.kept_beside(has_counts=keeps_counts))
    return made


def _given_moments(adata: AnnData, keys: tuple[str, ...], n_latent: int) -> tuple[np.ndarray, ...] | None:
    """Moments ``(n, d)`` that the user has put into ``obsm``; ``None`` if there are none."""
    missing = [key for key in keys if key not in adata.obsm]
    if len(missing) == 1:
        msg = (
            f"adata.obsm has no {missing[0]!r}, but the other moment of the posteriors. Both are what "
            "`get_latent_representation(return_dist=True)` returns; leave out both keys to have them computed."
        )
        raise ValueError(msg)
    if missing:
        return None
    given = tuple(np.array(adata.obsm[key]) for key in keys)
    for key, moment in zip(keys, given, strict=True):
        if moment.shape != (adata.n_obs, n_latent):
            msg = (
                f"adata.obsm[{key!r}] has shape {moment.shape}, and posteriors have {n_latent} dimensions. Leave out both keys to "
                "have moments computed."
            )
            raise ValueError(msg)
    return given


def _without_counts(adata: AnnData, genes: np.ndarray) -> AnnData:
    """A copy with some `genes` ``(g,)``, bool, and matrices without entries; counts are not read."""
    shape = (adata.n_obs, int(genes.sum()))
    nothing = lambda: sparse.csr_matrix(shape, dtype=np.float32)
    return AnnData(
        nothing(),
        obs=adata.obs.copy(),
        var=adata.var[genes].copy(),
        uns=copy.deepcopy(dict(adata.uns)),
        obsm=copy.deepcopy(dict(adata.obsm)),
        varm={key: value[genes].copy() for key, value in adata.varm.items()},
        obsp={key: value.copy() for key, value in adata.obsp.items()},
        varp={key: value[genes][:, genes] for key, value in adata.varp.items()},
        layers={key: nothing() for key in layer_names(adata)},
    )
