"""Models, as users call them."""

from ._flexscvi import FlexSCVI
from ._scdgd import SCDGD
from ._sciaf import SCIAF
from ._scvad import SCVAD
from ._scvamp import SCVAMP
from ._scvmm import SCVMM

__all__ = ["SCDGD", "SCIAF", "SCVAD", "SCVAMP", "SCVMM", "FlexSCVI"]
