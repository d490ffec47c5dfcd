"""One figure from several seeds: the mean over seeds, with a 95 % interval over items and seeds (numpy, scipy).

Every seed's candidate and baseline answer the same items: the crossed design, items x seeds, of generalizability
theory (Brennan 2001, "Generalizability Theory"). The figures of S seeds then vary by three parts: the items that there
are, a^2, which all seeds share; the seeds, b^2; and the answers of one seed to one item, c^2.

- *Items*: a cluster bootstrap of the mean over seeds, with the same draw for all seeds and both runs, spreads by
  a^2 + c^2/S. Its ends, with the wider tails of `vrbench.stats`, are the interval of a single seed.
- *Seeds*: the variance s^2 of the seeds' own figures estimates b^2 + c^2. The bootstrap of each seed by itself spreads
  by a^2 + c^2, so that what it spreads more than that of the mean gives c^2, which is taken off; less than nothing is
  nothing. b^2/S has S - 1 degrees of freedom.

Half the interval's width is, on either side, sqrt(items^2 + (t(S - 1) b)^2 / S): the squares of both half widths added,
each with its own t. That is exact where one of both parts is nothing. (One t for the sum, Satterthwaite's, was tried:
where seeds matter most it covers 88 % with two seeds and 93 % with three. c^2 not taken off, as in the pigeonhole
bootstrap of Owen 2007, Annals of Applied Statistics 1:2, it covers 99 % and is up to twice as wide.)

With two seeds that t is 12.7: two seeds say little about how seeds differ, and the interval shows it. With one seed
nothing is known of the seeds' part; the interval is the items' alone and is shown with `ONE_SEED`.
`benchmarks/seeds.py` tells by simulation how often these intervals hold the truth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vrbench import stats

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

ONE_SEED = "one seed: the seed's part is unknown"
"""What stands beside an interval over items alone."""

MOST_SEEDS = 100
"""More seeds than this are not called reachable."""


@dataclass(frozen=True)
class Estimate:
    """One figure, such as a retention in percent, over items and seeds.

    Attributes:
        value: mean over seeds.
        items: the 95 % interval over items alone, of the mean over just these seeds; None where there is none.
        scatter: standard deviation between seeds, b above; None with one seed.
        each: seed -> its own figure.
        n: items that each seed answered.
        freedom: degrees of freedom of the items' part.
    """

    value: float
    items: tuple[float, float] | None
    scatter: float | None
    each: Mapping[int, float]
    n: int = 0
    freedom: float = 0.0

    @property
    def ends(self) -> tuple[float, float] | None:
        """The 95 % interval over items and seeds; with one seed over items alone; None where there is none."""
        if self.items is None:
            return None
        seeds = self.seeds(len(self.each))
        below, above = ((end - self.value) ** 2 for end in self.items)
        return self.value - (below + seeds**2) ** 0.5, self.value + (above + seeds**2) ** 0.5

    def seeds(self, count: int, level: float = 0.05) -> float:
        """Half the width that the seeds alone would give the interval with so many of them; 0 if it is unknown."""
        from scipy.special import stdtrit

        if not self.scatter or count < 2:
            return 0.0
        return float(stdtrit(count - 1, 1 - level / 2)) * self.scatter / count**0.5

    @property
    def p(self) -> float | None:
        """Two-sided p of zero, for a difference: the level at which the interval's end meets zero."""
        from scipy.optimize import brentq
        from scipy.special import stdtrit

        if self.items is None:
            return None
        end = self.items[0] if self.value > 0 else self.items[1]
        error = abs(end - self.value) / float(stdtrit(self.freedom, 0.975))

        def beyond(level: float) -> float:
            items = float(stdtrit(self.freedom, 1 - level / 2)) * error
            return (items**2 + self.seeds(len(self.each), level) ** 2) ** 0.5 - abs(self.value)

        if self.value == 0:
            return 1.0
        return LEAST_P if beyond(LEAST_P) <= 0 else float(brentq(beyond, LEAST_P, 1.0))

    def seeds_needed(self, threshold: float) -> int | None:
        """About how many seeds would move the interval off the threshold, if mean and scatter hold.

        None when that takes more than `MOST_SEEDS`, when the items' part alone is too wide, or with one seed.
        """
        if self.items is None or self.scatter is None:
            return None
        end = self.items[0] if self.value > threshold else self.items[1]
        for count in range(len(self.each) + 1, MOST_SEEDS + 1):
            if ((end - self.value) ** 2 + self.seeds(count) ** 2) ** 0.5 < abs(self.value - threshold):
                return count
        return None

    @property
    def note(self) -> str:
        """What a reader must be told beside the interval."""
        return ONE_SEED if len(self.each) == 1 else ""


LEAST_P = 1e-9
"""Smaller p values are not told apart."""


def estimate(
    each: Mapping[int, float], drawn: Array, variances: Sequence[float], clusters: Sequence[int], n: int = 0
) -> Estimate:
    """The mean over seeds with its interval.

    Args:
        each: seed -> figure.
        drawn: each seed's figure on each bootstrap draw of the items, [seeds, draws].
        variances: share of the items' variance that each task has, in any unit.
        clusters: clusters of each task.
        n: items.
    """
    import numpy as np

    values = list(each.values())
    value = float(np.mean(values))
    mean = drawn.mean(0)
    scatter = None
    if len(values) > 1:
        answers = max(0.0, float(drawn.var(1).mean() - mean.var())) * len(values) / (len(values) - 1)
        scatter = max(0.0, float(np.var(values, ddof=1)) - answers) ** 0.5
    if min(clusters) < 2:
        return Estimate(value, None, scatter, dict(each), n)
    share = stats.tail(variances, clusters)
    low, high = (float(np.quantile(mean, q)) for q in (share, 1.0 - share))
    freedom = stats.spread(variances, clusters)[1]
    return Estimate(value, (min(low, value), max(high, value)), scatter, dict(each), n, freedom)
