"""A mean over seeds with a 95 % interval over items and seeds (numpy, scipy); docs/statistics.md gives the reasons.

Every seed's candidate and baseline answer the same items: the crossed design, items x seeds, of generalizability
theory (Brennan 2001, "Generalizability Theory"). Two parts are added: *items*, a cluster bootstrap of the mean over
seeds with the same draw for all seeds and both runs, and *seeds*, s / sqrt(S), with s the standard deviation of the
seeds' own scores. The residual is then counted in both, as in the pigeonhole bootstrap (Owen 2007, Annals of Applied
Statistics 1:2), which errs on the safe side. The interval is the wider one of

- the mean +- t sqrt(items^2 + seeds^2), with Welch and Satterthwaite's degrees of freedom (Satterthwaite 1946,
  Biometrics Bulletin 2:6), right where items matter as much as seeds do;
- the mean +- t(S - 1) seeds, Student's interval of the seeds' scores, right where the items' shared part is small.

With one seed the interval is the items' alone and is shown with `ONE_SEED`. `benchmarks/seeds.py` measures by
simulation how often these intervals cover the truth.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from vrbench.statistics import bootstrap

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

ONE_SEED = "one seed: the seed's part is unknown"
"""Note on an interval over items alone."""

MAX_SEEDS = 100
"""More seeds than this are not suggested."""

MIN_P = 1e-9
"""Smaller p values are not distinguished."""


@dataclass(frozen=True)
class SeedEstimate:
    """A value, such as a retention in percent, over items and seeds.

    Attributes:
        value: mean over seeds.
        items: the 95 % interval over items alone, of the mean over just these seeds; None where there is none.
        sd: standard deviation of the seeds' values; None with one seed.
        each: seed -> its own value.
        n: items that each seed answered.
        freedom: degrees of freedom of the items' part.
    """

    value: float
    items: tuple[float, float] | None
    sd: float | None
    each: Mapping[int, float]
    n: int = 0
    freedom: float = 0.0

    @property
    def ends(self) -> tuple[float, float] | None:
        """The 95 % interval over items and seeds; with one seed over items alone; None where there is none."""
        if self.items is None:
            return None
        low, high = (self._half_width(end, len(self.each)) for end in self.items)
        return self.value - low, self.value + high

    def _half_width(self, end: float, count: int) -> float:
        """Return the interval's half width on the side of an end of the items' interval, with so many seeds."""
        items, seeds = self._errors(end, count)
        total = (items**2 + seeds**2) ** 0.5
        freedom = _degrees_of_freedom(items, self.freedom, seeds, count)
        return max(_t(freedom) * total, _t(count - 1) * seeds if seeds else 0.0)

    def _errors(self, end: float, count: int) -> tuple[float, float]:
        """Return standard errors of both parts; the seeds' is 0 where it is unknown."""
        return abs(end - self.value) / _t(self.freedom), (self.sd or 0.0) / count**0.5

    @property
    def p(self) -> float | None:
        """Two-sided p of zero, for a difference: below 0.05 where the interval excludes zero."""
        from scipy.special import stdtr

        if self.items is None:
            return None
        count = len(self.each)
        items, seeds = self._errors(self.items[0] if self.value > 0 else self.items[1], count)
        total, distance = (items**2 + seeds**2) ** 0.5, abs(self.value)
        if distance == 0 or total == 0:
            return 1.0 if distance == 0 else MIN_P
        both = stdtr(_degrees_of_freedom(items, self.freedom, seeds, count), -distance / total)
        alone = stdtr(count - 1, -distance / seeds) if seeds else 0.0
        return max(MIN_P, 2.0 * float(max(both, alone)))

    def seeds_needed(self, threshold: float) -> int | None:
        """Return about how many seeds would move the interval off the threshold, if mean and deviation hold.

        None when that takes more than `MAX_SEEDS`, when the items' part alone is too wide, or with one seed.
        """
        if self.items is None or self.sd is None:
            return None
        end = self.items[0] if self.value > threshold else self.items[1]
        counts = range(len(self.each) + 1, MAX_SEEDS + 1)
        return next((n for n in counts if self._half_width(end, n) < abs(self.value - threshold)), None)

    @property
    def note(self) -> str:
        """The note that has to accompany the interval."""
        return ONE_SEED if len(self.each) == 1 else ""


def _degrees_of_freedom(items: float, freedom: float, seeds: float, count: int) -> float:
    """Return degrees of freedom of the sum of both parts, after Welch and Satterthwaite."""
    if seeds == 0:
        return freedom
    return (items**2 + seeds**2) ** 2 / (items**4 / freedom + seeds**4 / (count - 1))


def _t(freedom: float) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, 0.975))


def estimate(
    each: Mapping[int, float], drawn: Array, variances: Sequence[float], clusters: Sequence[int], n: int = 0
) -> SeedEstimate:
    """Return the mean over seeds with its interval.

    Args:
        each: seed -> value.
        drawn: the mean over seeds on each bootstrap draw of the items, [draws].
        variances: share of the items' variance that each task has, in any unit.
        clusters: clusters of each task.
        n: items.
    """
    import numpy as np

    values = list(each.values())
    value = float(np.mean(values))
    sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
    if min(clusters) < 2:
        return SeedEstimate(value, None, sd, dict(each), n)
    share = bootstrap.tail_share(variances, clusters)
    low, high = (float(np.quantile(drawn, q)) for q in (share, 1.0 - share))
    freedom = bootstrap.spread_factor(variances, clusters)[1]
    return SeedEstimate(value, (min(low, value), max(high, value)), sd, dict(each), n, freedom)
