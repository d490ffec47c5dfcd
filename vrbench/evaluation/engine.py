"""The inference engine: each request is answered once, from the store or in batches that are then stored."""

from __future__ import annotations

import logging
import math
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vrbench.core.device import is_out_of_memory
from vrbench.core.errors import VrbenchError
from vrbench.core.memory import pause_garbage_collection
from vrbench.core.provenance import answer_packages, own_commit
from vrbench.core.schemas import AnswerProvenance
from vrbench.core.version import __version__
from vrbench.evaluation.answer_store import AnswerStore
from vrbench.evaluation.backends import Backend, backends_of
from vrbench.evaluation.broadcast_store import BroadcastStore
from vrbench.evaluation.ranked_store import RankedStore
from vrbench.evaluation.ranks import SINGLE_PROCESS, Ranks
from vrbench.evaluation.requests import (
    GenerationRequest,
    LogLikelihoodRequest,
    Request,
    Unanswered,
    answer_conditions,
    truncate_request,
)
from vrbench.evaluation.vision_features import VisionFeatureCache
from vrbench.models.memory_budget import GPU_MEMORY, MemoryBudget

if TYPE_CHECKING:
    from vrbench.models.base_vlm import BaseVLM

_log = logging.getLogger(__name__)

POLL_SECONDS = 0.5
"""Between two looks at what other processes have answered."""


class InferenceEngine:
    """Answers requests for one loaded checkpoint.

    Attributes:
        computed: number of requests computed so far; the others were stored, or repeated.
        reused: number of requests whose responses were stored before this engine was made, counted in each call.
        truncated: item -> number of its requests so far whose text was truncated to the context.
    """

    def __init__(
        self,
        vlm: BaseVLM,
        store: AnswerStore | RankedStore | BroadcastStore,
        batch_size: int | str = "auto",
        features: VisionFeatureCache | None = None,
        show_progress: bool = True,
        gpu_memory: float = GPU_MEMORY,
        ranks: Ranks = SINGLE_PROCESS,
        deterministic: bool = False,
    ) -> None:
        """Make an engine.

        Args:
            batch_size: rows in one pass and answers in progress, or "auto" for as many as fit. A row is one prompt, or
                with shared prefixes a prompt with continuations, or an image with questions, that share it.
            features: shared by the checkpoints of a run.
            gpu_memory: share of the GPU's memory that may be used, weights included.
            ranks: which of how many processes this is; with several, the store is a `RankedStore` or `BroadcastStore`.
            deterministic: compute each answer in shapes that depend on its request alone, so that it is the same bit
                for bit whatever else is computed.
        """
        self.vlm = vlm
        self._ranks = ranks
        self.store = store
        self.computed = self.reused = 0
        self.truncated: Counter[Hashable] = Counter()
        self._features = VisionFeatureCache() if features is None else features
        gpu_memory = self._features.plan_memory(vlm.device, gpu_memory)
        self._budget = MemoryBudget.of(
            vlm, batch_size if isinstance(batch_size, int) else None, gpu_memory, deterministic
        )
        self._show_progress = show_progress
        self._conditions = answer_conditions(vlm, deterministic)
        commit, dirty = own_commit()
        self._environment = {
            "vrbench": __version__,
            "commit": commit,
            "dirty": dirty,
            "packages": answer_packages(vlm.has_adapter, vlm.backend),
            "device": vlm.device_name,
        }
        self._computed_keys: set[str] = set()
        self._stored_keys: set[str] = set()

    def answer(self, requests: Sequence[Request], title: str = "") -> list[Any]:
        """Return the responses in the order of the requests: (log-likelihood, is greedy), a text, or `Unanswered`.

        What is unanswered is not stored: another version of the libraries may accept it.

        Args:
            title: label of the progress bar, which counts items.
        """
        from tqdm import tqdm

        with pause_garbage_collection():
            requests = [self._truncate(request) for request in requests]
            keys = [request.key(self._conditions) for request in requests]
            known, missing = self._missing(keys, requests)
            items = [number if request.item is None else request.item for number, request in enumerate(requests)]
            progress = _ItemProgress(items, keys, known)
        settings = {"desc": title, "unit": " items", "disable": not self._show_progress, "mininterval": 0.5}
        with tqdm(total=progress.total, initial=progress.done, **settings) as bar:
            for responses in self._all_responses(self._share(keys, missing), missing):
                known.update(responses)
                bar.update(progress.answered(responses))
        # JSON has no tuples: a stored log-likelihood is a list.
        return [tuple(known[key]) if isinstance(known[key], list) else known[key] for key in keys]

    def answer_share(self, requests: Sequence[Request]) -> None:
        """Compute and store the responses that are this process's share; after an error, rank 0 computes the rest."""
        requests = [self._truncate(request) for request in requests]
        keys = [request.key(self._conditions) for request in requests]
        left = self._share(keys, self._missing(keys, requests)[1])
        try:
            for responses in self._responses(dict(left)):
                _drop(left, responses)
        except Exception:
            if isinstance(self.store, RankedStore):
                self.store.put_failed(left)
            raise

    @property
    def planned_bytes(self) -> int:
        """The most memory besides the weights that passes, with keys and values of answers, were planned to take."""
        return self._budget.planned_bytes

    @property
    def answered(self) -> list[AnswerProvenance]:
        """When and with what all responses so far were computed: first those stored before, then the others."""
        return [
            AnswerProvenance(requests=len(times), reused=reused, first=times[0], last=times[-1], **environment)
            for reused, keys in ((True, self._stored_keys), (False, self._computed_keys))
            for environment, times in self.store.origins(keys)
        ]

    def _truncate(self, request: Request) -> Request:
        """Truncate a request to the model's context, and count it if that shortened it, stored or not."""
        fitting, is_truncated = truncate_request(self.vlm, request)
        self.truncated.update([request.item] * is_truncated)
        return fitting

    def _missing(self, keys: Sequence[str], requests: Sequence[Request]) -> tuple[dict[str, Any], dict[str, Request]]:
        """Return the responses that are stored, and the requests whose responses are not, by key."""
        with self._ranks.fatal_errors():
            known = self.store.get(keys)
        if isinstance(self.store, RankedStore):
            self._count(self.store.of_this_run(known) - self._computed_keys)
        stored = known.keys() - self._computed_keys
        self._stored_keys |= stored
        self.reused += len(stored)
        return known, {key: request for key, request in zip(keys, requests, strict=True) if key not in known}

    def _share(self, keys: Sequence[str], missing: Mapping[str, Request]) -> dict[str, Request]:
        """Return the missing requests that this process answers; which those are does not depend on what is stored."""
        order = list(dict.fromkeys(keys))
        return {key: missing[key] for n, key in enumerate(order) if key in missing and self._ranks.owns(n, len(order))}

    def _responses(self, requests: Mapping[str, Request]) -> Iterator[Mapping[str, Any]]:
        """Compute responses, and store each batch before it is yielded; first come those that cannot be computed."""
        from vrbench.models.decoding import refuse_nan

        with self._ranks.fatal_errors():
            for kind in (LogLikelihoodRequest, GenerationRequest):
                of_kind = {key: request for key, request in requests.items() if isinstance(request, kind)}
                for backend in backends_of(self.vlm, of_kind, self._features):
                    if isinstance(self.store, RankedStore):
                        self.store.put_unanswered(backend.unanswered)
                    yield backend.unanswered
                    for responses in self._compute(backend):
                        refuse_nan(any(isinstance(r, tuple) and not math.isfinite(r[0]) for r in responses.values()))
                        self.store.put(responses, self._environment)
                        self._count(responses)
                        yield responses

    def _all_responses(
        self, share: Mapping[str, Request], missing: Mapping[str, Request]
    ) -> Iterator[Mapping[str, Any]]:
        """Yield the responses of this and of other processes as they come; what others leave undone is computed here.

        Args:
            share: the requests of this process.
            missing: those of all processes.
        """
        left, looked = dict(missing), time.monotonic()
        for responses in self._responses(share):
            yield _drop(left, responses)
            if time.monotonic() - looked > POLL_SECONDS:
                yield self._from_others(left)
                looked = time.monotonic()
        while left and isinstance(self.store, RankedStore):
            are_running = self.store.others_are_running()  # before looking: a process writes before it ends
            yield self._from_others(left)
            undone = self.store.failed(left) if are_running else list(left)
            if undone:
                _log.warning("vrbench: other processes left %d requests, which this one answers", len(undone))
                yield from self._responses({key: left.pop(key) for key in undone})
            elif left:
                time.sleep(POLL_SECONDS)

    def _from_others(self, left: dict[str, Request]) -> Mapping[str, Any]:
        """Return what other processes have answered, and take it out of what is left."""
        if not isinstance(self.store, RankedStore):
            return {}
        found = self.store.from_ranks(left)
        self._count([key for key, response in found.items() if not isinstance(response, Unanswered)])
        return _drop(left, found)

    def _count(self, responses: Collection[str]) -> None:
        self.computed += len(responses)
        self._computed_keys.update(responses)

    def _compute(self, backend: Backend) -> Iterator[Mapping[str, Any]]:
        """Yield responses as they are computed; where memory runs out, go on with half of it."""
        while True:
            try:
                yield from backend.answers(self._budget)
                return
            except (MemoryError, RuntimeError) as error:
                if is_out_of_memory(error) and self._budget.fixed_shapes:
                    raise VrbenchError(
                        "a pass does not fit into the memory, and --deterministic allows no smaller one; use a larger "
                        "GPU, or leave it out"
                    ) from error
                # Processes that share a model must make the same batches, and the others do not know of this.
                if self._ranks.together or not is_out_of_memory(error) or not self._budget.shrink():
                    raise
            if self.vlm.device.type == "cuda":
                import torch

                torch.cuda.empty_cache()


def _drop(left: dict[str, Request], responses: Mapping[str, Any]) -> Mapping[str, Any]:
    """Take requests that have a response out of those that are left, and return the responses."""
    for key in responses:
        left.pop(key, None)
    return responses


class _ItemProgress:
    """Which items wait for which responses, so that progress counts items though one may need several requests."""

    def __init__(self, items: Sequence[Hashable], keys: Sequence[str], known: Collection[str]) -> None:
        self._waiting: defaultdict[str, set[Hashable]] = defaultdict(set)
        for item, key in zip(items, keys, strict=True):
            if key not in known:
                self._waiting[key].add(item)
        self._left = Counter(item for waiting in self._waiting.values() for item in waiting)
        self.total = len(set(items))
        self.done = self.total - len(self._left)

    def answered(self, keys: Iterable[str]) -> int:
        """Return the number of items that now wait for nothing more."""
        done = 0
        for item in (item for key in keys for item in self._waiting[key]):
            self._left[item] -= 1
            done += self._left[item] == 0
        return done
