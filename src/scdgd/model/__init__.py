"""Models, as users call them."""

from ._scdgd import SCDGD
from ._scvad import SCVAD

__all__ = ["SCDGD", "SCVAD"]
