"""Models, as users call them."""

from scdgd._lazy import names_from

from ._flexscvi import FlexSCVI
from ._multidgd import MULTIDGD
from ._scdgd import SCDGD
from ._scgmvae import SCGMVAE, SCVAE
from ._sciaf import SCIAF
from ._scvad import SCVAD
from ._scvamp import SCVAMP
from ._scvmm import SCVMM

__all__ = ["MULTIDGD", "SCDBM", "SCDGD", "SCGMVAE", "SCVAE", "SCIAF", "SCVAD", "SCVAMP", "SCVMM", "FlexSCVI"]

#: Of the Boltzmann machine, which stands on this package.
__getattr__ = names_from("scdgd.boltzmann", __name__, ("SCDBM",))


def __dir__() -> list[str]:
    """With the names that are taken when they are asked for."""
    return sorted({*globals(), *__all__})
