"""SCIAF: scVI with a flow posterior."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scdgd._absent_options import without
from scdgd._options import checked

from ._arguments import BUILDING_ENCODERS
from ._flexscvi import FlexSCVI
from ._host_options import fixed

if TYPE_CHECKING:
    from anndata import AnnData

    from scdgd.prior import Prior, PriorName


class SCIAF(FlexSCVI):
    """scVI with an inverse autoregressive flow as posterior (Dony et al. 2020).

    :class:`FlexSCVI` with ``posterior="iaf"``, and a standard normal prior unless another is named.

    Parameters
    ----------
    adata, registry, **kwargs
        As for :class:`FlexSCVI`.
    prior
        As for :class:`FlexSCVI`.

    Examples
    --------
    >>> adata = scdgd.datasets.pbmc68k()
    >>> scdgd.model.SCIAF.setup_anndata(adata)
    >>> model = scdgd.model.SCIAF(adata)
    >>> model.train()
    >>> adata.obsm["X_sciaf"] = model.get_latent_representation()
    """

    _latent_key = "X_sciaf"

    @without(posterior=fixed("iaf", "SCIAF"))
    @checked(adata=BUILDING_ENCODERS["adata"])
    def __init__(
        self,
        adata: AnnData | None = None,
        registry: dict | None = None,
        *,
        prior: PriorName | type[Prior] | Prior = "normal",
        **kwargs: Any,
    ) -> None:
        super().__init__(adata, registry, prior=prior, posterior="iaf", **kwargs)
        self.init_params_ = self._get_init_params(locals())
