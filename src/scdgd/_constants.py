"""Names of what the package stores, in one place."""

from typing import NamedTuple


class _ObsKeys(NamedTuple):
    """Columns that registration writes into ``adata.obs``."""

    ROW: str = "_scdgd_row"
    FINGERPRINT: str = "_scdgd_fingerprint"


OBS_KEYS = _ObsKeys()

#: Version of the layout of saved models; raised when a stored model needs porting.
CHECKPOINT_FORMAT = 1
