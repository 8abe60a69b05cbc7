"""Quantiles of the dip of uniform samples, as `scdgd.clusters._dip_test` holds them.

    python benchmarks/dip_quantiles.py --standard

Prints, for each size of sample, the values of sqrt(n) dip that are exceeded with the probabilities of the table.
"""

from __future__ import annotations

import argparse

import numpy as np

from scdgd.clusters._dip_kernel import dip
from scdgd.clusters._dip_test import PROBABILITIES, SIZES

N_DRAWS = {"quick": 1_000, "standard": 200_000}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    tier = parser.add_mutually_exclusive_group()
    for name in N_DRAWS:
        tier.add_argument(f"--{name}", action="store_const", const=name, dest="tier", default="quick")
    n_draws = N_DRAWS[parser.parse_args().tier]
    for n in SIZES:
        rng = np.random.default_rng(n)
        dips = [dip(np.sort(rng.random(n))) for _ in range(n_draws)]
        quantiles = np.quantile(np.sqrt(n) * np.array(dips), 1 - np.array(PROBABILITIES))
        print(f"    {n}: ({', '.join(f'{value:.4f}' for value in quantiles)}),")


if __name__ == "__main__":
    main()
