"""Intervals and tests on paired per-cluster counts (numpy at once, scipy and statsmodels when a test is asked for)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from vrbench.metrics import Metric

    Array = NDArray[np.float64]

DRAWS = 4000
"""Bootstrap draws: the tails at 2.5 % are then known to about 0.25 %."""


def resample(table: Array, draws: int, seed: int) -> Array:
    """Sums over clusters drawn with replacement: [clusters, ...] -> [draws, ...].

    Equal rows are drawn together (a multinomial over distinct rows), which is the same distribution and costs little
    where scores are 0 or 1.
    """
    import numpy as np

    flat = table.reshape(len(table), -1)
    rows, counts = np.unique(flat, axis=0, return_counts=True)
    rng = np.random.default_rng(seed)
    weights = rng.multinomial(len(table), counts / len(table), size=draws)
    return np.asarray((weights @ rows).reshape(draws, *table.shape[1:]))


def interval_of_one(metric: Metric, table: Array, n: int, seed: int = 0) -> tuple[float, float]:
    """95 % interval of one run's figure."""
    import numpy as np

    low, high = np.quantile(metric.value(resample(table, DRAWS, seed)), [0.025, 0.975])
    return float(low), float(high)
