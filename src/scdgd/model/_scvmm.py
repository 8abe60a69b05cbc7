"""SCVMM: scVI with a VampPrior mixture."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scdgd._absent_options import without
from scdgd._options import checked

from ._arguments import BUILDING_ENCODERS
from ._flexscvi import FlexSCVI
from ._host_options import fixed

if TYPE_CHECKING:
    from anndata import AnnData


class SCVMM(FlexSCVI):
    """scVI with a VampPrior mixture: clustering and integration in one model (Stirn & Knowles 2024).

    :class:`FlexSCVI` with ``prior="vmm"`` and an encoder that sees the covariates. The published settings of each data
    set are in ``scdgd.presets.STIRN_2024``.

    Parameters
    ----------
    adata, registry, **kwargs
        As for :class:`FlexSCVI`.
    n_components
        Upper bound of the number of clusters; ``None`` as for :class:`FlexSCVI`.

    Examples
    --------
    >>> adata = scdgd.datasets.pbmc68k()
    >>> scdgd.model.SCVMM.setup_anndata(adata)
    >>> model = scdgd.model.SCVMM(adata)
    >>> model.train()
    >>> adata.obsm["X_scvmm"] = model.get_latent_representation()
    """

    _latent_key = "X_scvmm"

    @without(prior=fixed("vmm", "SCVMM"))
    @checked(adata=BUILDING_ENCODERS["adata"], encode_covariates=BUILDING_ENCODERS["encode_covariates"])
    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict | None = None,
        *,
        n_components: int | None = None,
        encode_covariates: bool = True,
        **kwargs: Any,
    ) -> None:
        n_components = self._usual_components(n_components, adata, registry)
        super().__init__(
            adata, registry, prior="vmm", n_components=n_components, encode_covariates=encode_covariates, **kwargs
        )
        self.init_params_ = self._get_init_params(locals())
