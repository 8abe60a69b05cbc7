"""Quantiles of the dip of uniform samples, as `scdgd.clusters._dip_test` holds them.

    python benchmarks/dip_quantiles.py --standard

For each size of sample, the values of sqrt(n) dip that are exceeded with the probabilities of the table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from _benchmark import Benchmark, Job

from scdgd.clusters._dip_kernel import dip
from scdgd.clusters._dip_test import PROBABILITIES, SIZES

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pandas as pd

#: Samples of each size.
TIERS = {"quick": 1_000, "standard": 200_000}


def run(cells: None, job: Job, n_draws: int) -> Iterator[dict]:
    n = int(job.set)
    rng = np.random.default_rng(n)
    dips = [dip(np.sort(rng.random(n))) for _ in range(n_draws)]
    quantiles = np.quantile(np.sqrt(n) * np.array(dips), 1 - np.array(PROBABILITIES))
    yield dict(zip(map(str, PROBABILITIES), quantiles, strict=True))


def report(rows: pd.DataFrame, n_draws: int) -> str:
    """Lines of the table in the source."""
    values = rows.set_index("set")[list(map(str, PROBABILITIES))]
    return "\n".join(f"    {n}: ({', '.join(f'{x:.4f}' for x in line)})," for n, line in values.iterrows())


BENCHMARK = Benchmark(
    "dip_quantiles",
    "Quantiles of the dip",
    __doc__,
    TIERS,
    lambda n_draws: [Job(str(n), 0, "dip") for n in SIZES],
    run,
    report,
)

if __name__ == "__main__":
    BENCHMARK.main()
