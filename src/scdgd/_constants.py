"""Names of what the package stores, and numbers that several parts share."""

#: Where a registry says that rows of the table of representations stand; they are in no column, but in the registration.
ROW_KEY = "_scdgd_row"

#: Version of the layout of saved models; raised when a stored model needs porting.
CHECKPOINT_FORMAT = 4

#: Total to which counts are normalised before they are encoded, and at which a size factor is one.
NORMALIZED_TOTAL = 1e4
