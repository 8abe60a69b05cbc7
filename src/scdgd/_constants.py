"""Names of what the package stores, and numbers that several parts share."""

#: Where a registry says that rows of the table of representations stand; they are in no column, but in the registration.
ROW_KEY = "_scdgd_row"

#: Which genes were measured in each cell of a minibatch, bool ``(b, g)``; there only if some were not.
MEASURED_KEY = "genes_measured"

#: Version of the layout of saved models; raised when a stored model needs porting.
CHECKPOINT_FORMAT = 4

#: Total to which counts are normalised before they are encoded, and at which a size factor is one.
NORMALIZED_TOTAL = 1e4
