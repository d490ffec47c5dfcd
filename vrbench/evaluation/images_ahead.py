"""Images that threads load and preprocess while the GPU computes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from vrbench.core.processors import usable_cores

if TYPE_CHECKING:
    from vrbench.models.base_vlm import BaseVLM

THREADS = 8
"""Most threads; decoding and resizing leave Python's lock to others."""

IMAGES_AHEAD = 128
"""Images that are preprocessed before they are needed."""

MIN_AHEAD = 64
"""Fewer images are loaded without starting threads for them."""

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Ahead(Generic[Key, Value]):
    """Values of keys, which threads compute ahead of what is read on a GPU; else each when it is read.

    Processes are not used: those that are forked from one with a GPU did at times not answer. Use it as a context
    manager, which ends the threads.
    """

    def __init__(self, vlm: BaseVLM, compute: Callable[[Key], Value], keys: Iterable[Key]) -> None:
        """Start the threads, if they are worth it.

        Args:
            compute: gives a key's value, without the GPU; its errors come when the key is read.
            keys: in the order in which their values will be read, more or less.
        """
        self._compute = compute
        self._waiting = dict.fromkeys(keys)
        self._started: dict[Key, Future[Value]] = {}
        self._threads: ThreadPoolExecutor | None = None
        if vlm.device.type == "cuda" and len(self._waiting) >= MIN_AHEAD:
            self.start()

    def start(self) -> None:
        """Start the threads."""
        threads = max(1, min(THREADS, usable_cores() - 1))
        self._threads = ThreadPoolExecutor(threads, "images", initializer=_use_one_core)
        self._submit()

    def __enter__(self) -> Ahead[Key, Value]:
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
        while self._threads is not None and self._waiting and len(self._started) < IMAGES_AHEAD:
            key = next(iter(self._waiting))
            del self._waiting[key]
            self._started[key] = self._threads.submit(self._compute, key)


def _use_one_core() -> None:
    import torch

    torch.set_num_threads(1)  # of this thread
