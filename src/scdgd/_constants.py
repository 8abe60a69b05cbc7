"""Names of what the package stores, in one place."""

#: Where a registry says that rows of the table of representations stand; they are in no column, but in the registration.
ROW_KEY = "_scdgd_row"

#: Version of the layout of saved models; raised when a stored model needs porting.
CHECKPOINT_FORMAT = 2
