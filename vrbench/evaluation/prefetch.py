"""Background threads that load and preprocess images while the GPU computes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from vrbench.core.cpu_count import usable_cores

if TYPE_CHECKING:
    from vrbench.models.base_vlm import BaseVLM

THREADS = 8
"""Most threads; decoding and resizing release the GIL."""

PREFETCH_LIMIT = 128
"""Most values that are computed ahead of the request for them."""

MIN_PREFETCH = 64
"""Fewer images are loaded without starting threads for them."""

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Prefetcher(Generic[Key, Value]):
    """Computes values in background threads before they are requested, on a GPU; else when they are requested.

    Threads and not forked processes, which at times hung when forked from a process that uses a GPU. Use it as a
    context manager, which ends the threads.
    """

    def __init__(
        self, vlm: BaseVLM, compute: Callable[[Key], Value], keys: Iterable[Key], limit: int = PREFETCH_LIMIT
    ) -> None:
        """Start the threads, on a GPU and from `MIN_PREFETCH` keys on.

        Args:
            compute: gives a key's value, without the GPU; its errors are raised when the key is requested.
            keys: in the order in which their values will be requested, more or less.
            limit: most values in memory that were not requested yet.
        """
        self._compute, self._limit = compute, limit
        self._waiting = dict.fromkeys(keys)
        self._started: dict[Key, Future[Value]] = {}
        self._threads: ThreadPoolExecutor | None = None
        if vlm.device.type == "cuda" and len(self._waiting) >= MIN_PREFETCH:
            self.start()

    def start(self) -> None:
        """Start the threads."""
        threads = max(1, min(THREADS, usable_cores() - 1))
        self._threads = ThreadPoolExecutor(threads, "images", initializer=_use_one_core)
        self._submit()

    def __enter__(self) -> Prefetcher[Key, Value]:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._threads is not None:
            self._threads.shutdown(wait=False, cancel_futures=True)

    def __call__(self, key: Key) -> Value:
        """Return a key's value; it is computed ahead once."""
        started = self._started.pop(key, None)
        self._waiting.pop(key, None)
        self._submit()
        return self._compute(key) if started is None else started.result()

    def _submit(self) -> None:
        while self._threads is not None and self._waiting and len(self._started) < self._limit:
            key = next(iter(self._waiting))
            del self._waiting[key]
            self._started[key] = self._threads.submit(self._compute, key)


def _use_one_core() -> None:
    import torch

    torch.set_num_threads(1)  # of this thread and of those that are started later
