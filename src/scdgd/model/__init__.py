"""Models, as users call them."""

from ._scdgd import SCDGD

__all__ = ["SCDGD"]
