"""Bounds inside of which all likelihoods are evaluated, and from where on series stand in for differences."""

#: The mean is bounded where its exponential would overflow; no cell has e^60 counts.
MAX_LOG_MEAN = 60.0
#: Inverse dispersions are bounded by e^-60 and e^60, where their reciprocals are finite in single precision.
MAX_LOG_THETA = 60.0
#: Up to this count a ratio of gamma functions is a product of that many factors.
MAX_PRODUCT = 8
#: From this inverse dispersion on Stirling's series of the difference of two log-gammas beats the difference in double.
STIRLING_THETA = 400.0
