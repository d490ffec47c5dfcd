"""The permutation test of a sum: the sign of each cluster's effect is flipped at random."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from vrbench.statistics.resampling import Array

SIGN_FLIPS = 9999
"""Random sign flips of a permutation test; with 13 clusters or fewer all flips are tried."""

MANY_CLUSTERS = 5_000
"""Above this many changed clusters a faster algorithm with other random draws is used: a byte gives eight signs."""


def sign_flip(effects: Array, seed: int = 0) -> float:
    """Return the two-sided p of the sum of [clusters] effects under random signs; 1 when no cluster changed.

    It is `scipy.stats.permutation_test` of one sample, up to `MANY_CLUSTERS` changed clusters from the same draws,
    without its arrays of indices, which make it ten times slower.
    """
    changed = effects[effects != 0]
    if len(changed) < 2:
        return 1.0
    is_exact = 2 ** len(changed) <= SIGN_FLIPS
    total = changed.sum()
    if len(changed) > MANY_CLUSTERS:
        sums = total - 2.0 * _random_subset_sums(changed, seed)
    else:
        blocks = _all_sign_flips(len(changed)) if is_exact else _random_sign_flips(seed).blocks(len(changed))
        sums = np.concatenate([total - 2.0 * (flipped @ changed) for flipped in blocks])
    slack = 1e-14 * abs(total)
    ends = (np.count_nonzero(sums <= total + slack), np.count_nonzero(sums >= total - slack))
    seen = 0 if is_exact else 1  # the observed sum counts as one of the random ones
    return min(1.0, 2.0 * (min(ends) + seen) / (len(sums) + seen))


def _random_subset_sums(effects: Array, seed: int) -> Array:
    """Return the sums of `SIGN_FLIPS` random halves of [clusters] effects; eight clusters at a time share a byte."""
    rng, sums = np.random.default_rng(seed), np.zeros(SIGN_FLIPS)
    bits = (np.arange(256)[:, None] >> np.arange(8) & 1).astype(float)
    for of_eight in np.pad(effects, (0, -len(effects) % 8)).reshape(-1, 8):
        halves = rng.bit_generator.random_raw(-(-SIGN_FLIPS // 8)).view(np.uint8)[:SIGN_FLIPS]
        sums += (bits @ of_eight).take(halves.astype(np.intp), mode="clip")
    return sums


def _all_sign_flips(clusters: int) -> Iterator[NDArray[np.bool_]]:
    yield (np.arange(2**clusters)[:, None] >> np.arange(clusters)) % 2 == 1


class _RandomSignFlips:
    """Which clusters change sign in `SIGN_FLIPS` random flips; drawn once for all tests with a seed, 8 in a byte.

    The flips of n clusters are the first n of the drawn signs, then the next n, and so on.
    """

    CHUNK = 1 << 16
    """Signs drawn at a time: their random numbers stay in the processor's cache."""

    def __init__(self, seed: int) -> None:
        self._rng = np.random.RandomState(seed)
        self._drawn: list[NDArray[np.uint8]] = []
        self._lock = threading.Lock()

    def blocks(self, clusters: int) -> Iterator[NDArray[np.bool_]]:
        """Yield the flips in blocks [flips, clusters], which bound memory to some 10 MB."""
        block = max(4, self.CHUNK // clusters)
        for first in range(0, SIGN_FLIPS, block):
            flips = min(block, SIGN_FLIPS - first)
            yield self._signs(first * clusters, (first + flips) * clusters).reshape(flips, clusters)

    def _signs(self, start: int, stop: int) -> NDArray[np.bool_]:
        first, last = start // self.CHUNK, -(-stop // self.CHUNK)
        with self._lock:
            while len(self._drawn) < last:
                keys = self._rng.random_sample((self.CHUNK, 2))
                self._drawn.append(np.packbits(keys[:, 0] > keys[:, 1]))
        signs = np.concatenate([np.unpackbits(chunk) for chunk in self._drawn[first:last]]).view(np.bool_)
        return signs[start - first * self.CHUNK : stop - first * self.CHUNK]


@lru_cache(maxsize=1)
def _random_sign_flips(seed: int) -> _RandomSignFlips:
    return _RandomSignFlips(seed)
