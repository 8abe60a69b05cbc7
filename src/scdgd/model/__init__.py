"""Models, as users call them."""

from ._flexscvi import FlexSCVI
from ._scdbm import SCDBM
from ._scdgd import SCDGD
from ._scgmvae import SCGMVAE, SCVAE
from ._sciaf import SCIAF
from ._scvad import SCVAD
from ._scvamp import SCVAMP
from ._scvmm import SCVMM

__all__ = ["SCDBM", "SCDGD", "SCGMVAE", "SCVAE", "SCIAF", "SCVAD", "SCVAMP", "SCVMM", "FlexSCVI"]
