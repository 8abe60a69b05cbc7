"""SCVAMP: scVI with a VampPrior."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scdgd._absent_options import without
from scdgd._options import checked

from ._arguments import BUILDING_ENCODERS
from ._flexscvi import FlexSCVI
from ._host_options import fixed

if TYPE_CHECKING:
    from anndata import AnnData


class SCVAMP(FlexSCVI):
    """scVI with a VampPrior, the encoder's own posteriors of trainable pseudo-inputs (Dony et al. 2020).

    :class:`FlexSCVI` with ``prior="vamp"``. It uses nearly all components, so it does not choose the number of clusters;
    the published settings are ``scdgd.presets.DONY_2020``.

    Parameters
    ----------
    adata, registry, **kwargs
        As for :class:`FlexSCVI`.
    n_components
        Number of pseudo-inputs; ``None`` as for :class:`FlexSCVI`.

    Examples
    --------
    >>> adata = scdgd.datasets.pbmc68k()
    >>> scdgd.model.SCVAMP.setup_anndata(adata)
    >>> model = scdgd.model.SCVAMP(adata)
    >>> model.train()
    >>> adata.obsm["X_scvamp"] = model.get_latent_representation()
    """

    _latent_key = "X_scvamp"

    @without(prior=fixed("vamp", "SCVAMP"))
    @checked(adata=BUILDING_ENCODERS["adata"])
    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict | None = None,
        *,
        n_components: int | None = None,
        **kwargs: Any,
    ) -> None:
        n_components = self._usual_components(n_components, adata, registry)
        super().__init__(adata, registry, prior="vamp", n_components=n_components, **kwargs)
        self.init_params_ = self._get_init_params(locals())
