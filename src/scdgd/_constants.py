"""Names of what the package stores, and numbers that several parts share."""

#: Where a registry says that rows of the table of representations stand; they are in no column, but in the registration.
ROW_KEY = "_scdgd_row"

#: What minified data keep of posteriors that two moments do not describe: where it stands in ``obsm``, and in a minibatch.
POSTERIOR_KEY, STORED_KEY = "_scdgd_posterior", "stored_posterior"

#: Which genes were measured in each cell of a minibatch, bool ``(b, g)``; there only if some were not.
MEASURED_KEY = "genes_measured"

#: What minified data keep of a cell beside its moments, in ``obsm``: log sizes ``(n, M)``, NaN of an absent modality, and hashes
#: of its counts ``(n, 1)``. The former is a key of minibatches, too.
LOG_SIZE_KEY, FINGERPRINT_KEY = "_scdgd_log_size", "_scdgd_fingerprint"

#: Column of ``adata.var`` that says of a gene that it was not measured, and is there to have all genes of a reference.
PADDED_KEY = "scdgd_padded"

#: Version of the layout of saved models; raised when a stored model needs porting.
CHECKPOINT_FORMAT = 4

#: Total to which counts are normalised before they are encoded, and at which a size factor is one.
NORMALIZED_TOTAL = 1e4
