"""The answers of a model whose tensors several processes share: rank 0 reads and writes them, and tells the others."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from vrbench.core.errors import RunAborted
from vrbench.core.io import digest_of
from vrbench.evaluation.answer_store import AnswerStore
from vrbench.evaluation.ranked_store import RankedStore, has_rank_files
from vrbench.evaluation.ranks import Ranks

_log = logging.getLogger(__name__)


def open_store(path: Path, checkpoint: str, ranks: Ranks) -> AnswerStore | RankedStore | BroadcastStore:
    """Open the answers of a checkpoint, for one process or several.

    Args:
        path: the SQLite file.
        checkpoint: digest of the checkpoint whose answers it holds.

    Raises:
        VrbenchError: the store is damaged.
    """
    if ranks.together:
        return BroadcastStore(None if ranks.rank else _open_alone(path, checkpoint, Ranks(started=ranks.started)))
    return _open_alone(path, checkpoint, ranks)


def _open_alone(path: Path, checkpoint: str, ranks: Ranks) -> AnswerStore | RankedStore:
    if ranks.size > 1 or has_rank_files(path):
        return RankedStore(path, checkpoint, ranks)
    return AnswerStore(path, checkpoint)


class BroadcastStore:
    """The answers of one checkpoint while processes compute each of them together; use it as a context manager.

    All processes call `get` with the same keys, in the same order, so that all compute the same requests. It has the
    methods of `AnswerStore` that the engine uses.
    """

    def __init__(self, store: AnswerStore | RankedStore | None) -> None:
        """Share a store.

        Args:
            store: in rank 0 where the answers are, else None.
        """
        self._store = store

    def __enter__(self) -> BroadcastStore:
        if self._store is not None:
            self._store.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the store; wait for all processes if nothing failed, so that none sees a record before its end."""
        if self._store is not None:
            self._store.__exit__(kind, error, trace)
        if error is None:
            self._meet("end")

    def get(self, keys: Iterable[str]) -> dict[str, Any]:
        """Return the responses that are stored, as rank 0 finds them.

        Raises:
            VrbenchError: the file is damaged.
        """
        import torch

        keys = list(keys)
        self._meet(digest_of(keys))
        found = [self._store.get(keys) if self._store is not None else {}]
        torch.distributed.broadcast_object_list(found, src=0)
        return found[0]

    def put(self, answers: Mapping[str, Any], environment: Mapping[str, Any]) -> None:
        """Write responses in rank 0, as `AnswerStore.put` does."""
        if self._store is not None:
            self._store.put(answers, environment)

    def origins(self, keys: Iterable[str]) -> list[tuple[dict[str, Any], list[str]]]:
        """Return what computed the stored responses and when, as `AnswerStore.origins` does; nothing but in rank 0."""
        return self._store.origins(keys) if self._store is not None else []

    def _meet(self, place: str) -> None:
        """Wait for all processes; end this one if an error has led another elsewhere, since both would wait forever."""
        import torch

        places = [""] * torch.distributed.get_world_size()
        torch.distributed.all_gather_object(places, place)
        if len(set(places)) > 1:
            _log.error("vrbench: an error in one of the processes that share a model ends them all")
            raise RunAborted("the processes that share a model are not at the same requests")
