"""Requests -> answers: each once, from the store where it is there, else computed in batches and stored at once."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from vrbench.core.device import device_name, is_out_of_memory
from vrbench.core.provenance import answer_packages, own_commit
from vrbench.core.schemas import AnswerProvenance
from vrbench.core.version import __version__
from vrbench.evaluation.answer_store import AnswerStore
from vrbench.evaluation.backends import PrefixSharedBatches
from vrbench.evaluation.conditions import conditions_of
from vrbench.evaluation.features import VisionFeatureCache
from vrbench.evaluation.plain import PaddedBatches
from vrbench.evaluation.requests import GenerationRequest, LogLikelihoodRequest, Request, Unanswered
from vrbench.evaluation.truncation import truncated

if TYPE_CHECKING:
    from vrbench.models.base_vlm import BaseVLM

CPU_TOKENS = 1024
"""Padded tokens in one pass on a CPU; more gain nothing there and make what a kill loses bigger."""

SHARE_OF_MEMORY = 0.5
"""Share of a card's free memory that a batch is planned to take; it is halved whenever that was too much."""


class Backend(Protocol):
    """Requests of one kind, made ready for one kind of model: `PrefixSharedBatches` or `PaddedBatches`."""

    @property
    def not_asked(self) -> Mapping[str, Unanswered]:
        """Key -> `Unanswered` of each request that cannot be put to the model; `groups` leaves them out."""

    def groups(self) -> Iterator[list[Any]]:
        """What may come into one batch, one list after the other, each with its longest first; each has a length."""

    def tokens_held(self, one: Any, longest: int, /) -> int:
        """Tokens that one takes in memory in a batch padded to the longest."""

    def answers(self, batch: Sequence[Any], /) -> dict[str, Any]:
        """Answers by key: (log-likelihood, is greedy) or a text."""


class InferenceEngine:
    """Answers requests for one loaded checkpoint.

    Attributes:
        asked: requests computed so far; the others were in the store, or asked twice.
        reused: requests of each call whose answers were stored before this answerer was made.
        cut: item -> its requests so far whose text was longer than the context and lost its front.
    """

    def __init__(
        self,
        vlm: BaseVLM,
        store: AnswerStore,
        batch_size: int | str = "auto",
        features: VisionFeatureCache | None = None,
        show_progress: bool = True,
    ) -> None:
        """Make it.

        Args:
            batch_size: rows in one pass (in the packed way a row is a prompt with all continuations, or a picture with
                all questions, that share it; in the plain way it is one prompt), or "auto" for as many as fit.
            features: to be shared by the checkpoints of a run.
        """
        self.vlm = vlm
        self.store = store
        self.asked = self.reused = 0
        self.cut: Counter[object] = Counter()
        self._batch_size = batch_size
        self._tokens = _token_budget(vlm)
        self._features = VisionFeatureCache() if features is None else features
        self._show_progress = show_progress
        self._conditions = conditions_of(vlm)
        commit, dirty = own_commit()
        self._environment = {
            "vrbench": __version__,
            "commit": commit,
            "dirty": dirty,
            "packages": answer_packages(vlm.has_adapter),
            "device": device_name(vlm.device),
        }
        self._computed: set[str] = set()
        self._stored: set[str] = set()

    def answer(self, requests: Sequence[Request], items: Sequence[object] = (), title: str = "") -> list[Any]:
        """Answers in the order of the requests: (log-likelihood, is greedy), a text, or `Unanswered`.

        What is not asked is not stored: another version of the libraries may take it.

        Args:
            items: the item that each request belongs to, for progress in items; each request is one if left out.
            title: what the progress bar says.
        """
        from tqdm import tqdm

        from vrbench.models.logits_processing import refuse_nan

        items = items or range(len(requests))
        requests = [self._fitted(request, item) for request, item in zip(requests, items, strict=True)]
        keys = [request.key(self._conditions) for request in requests]
        known = self.store.get(keys)
        before = known.keys() - self._computed
        self._stored |= before
        self.reused += len(before)
        progress = _ItemProgress(items, keys, known)
        missing = {key: request for key, request in zip(keys, requests, strict=True) if key not in known}
        settings = {"desc": title, "unit": " items", "disable": not self._show_progress, "mininterval": 0.5}
        with tqdm(total=progress.total, initial=progress.done, **settings) as bar:
            for kind in (LogLikelihoodRequest, GenerationRequest):
                way = self._way({key: request for key, request in missing.items() if isinstance(request, kind)})
                known.update(way.not_asked)
                bar.update(progress.answered(way.not_asked))
                for answers in self._compute(way):
                    refuse_nan(any(isinstance(a, tuple) and not math.isfinite(a[0]) for a in answers.values()))
                    self.asked += len(answers)
                    self.store.put(answers, self._environment)
                    self._computed.update(answers)
                    known.update(answers)
                    bar.update(progress.answered(answers))
        return [_as_answer(known[key]) for key in keys]

    @property
    def answered(self) -> list[AnswerProvenance]:
        """When and with what all answers so far were computed: first those that were stored before, then the others."""
        return [
            AnswerProvenance(
                requests=origin.answers, reused=reused, first=origin.first, last=origin.last, **origin.environment
            )
            for reused, keys in ((True, self._stored), (False, self._computed))
            for origin in self.store.origins(keys)
        ]

    def _fitted(self, request: Request, item: object) -> Request:
        """A request as it is put to the model; that its text lost its front is noted, stored or not."""
        fit, is_cut = truncated(self.vlm, request)
        self.cut.update([item] * is_cut)
        return fit

    def _compute(self, way: Backend) -> Iterator[dict[str, Any]]:
        """Answers batch by batch, longest first, so that memory runs out at the start or not at all."""
        for group in way.groups():
            while group:
                batch = group[: self._fitting(way, group)]
                try:
                    answers = way.answers(batch)
                except (MemoryError, RuntimeError) as error:
                    if not is_out_of_memory(error) or len(batch) == 1:
                        raise
                    self._halve(way, batch)
                    continue
                group = group[len(batch) :]
                yield answers

    def _way(self, requests: Mapping[str, Request]) -> Backend:
        from vrbench.models.hf_model import HFModel
        from vrbench.models.llava_model import LlavaModel

        if isinstance(self.vlm, HFModel):
            return PaddedBatches(self.vlm, requests)
        assert isinstance(self.vlm, LlavaModel)  # there are no others
        return PrefixSharedBatches(self.vlm, self._features, requests)

    def _fitting(self, way: Backend, group: Sequence[Any]) -> int:
        """How many of a group, sorted by length, make the next batch."""
        if isinstance(self._batch_size, int):
            return self._batch_size
        held = itertools.accumulate(way.tokens_held(one, len(group[0])) for one in group)
        return max(1, sum(1 for _ in itertools.takewhile(lambda tokens: tokens <= self._tokens, held)))

    def _halve(self, way: Backend, batch: Sequence[Any]) -> None:
        if isinstance(self._batch_size, int):
            self._batch_size = len(batch) // 2
        self._tokens = sum(way.tokens_held(one, len(batch[0])) for one in batch) // 2
        if self.vlm.device.type == "cuda":
            import torch

            torch.cuda.empty_cache()


def _as_answer(stored: Any) -> Any:
    """JSON has no tuples; a log-likelihood answer is one, fresh or stored."""
    return tuple(stored) if isinstance(stored, list) else stored


class _ItemProgress:
    """Which items wait for which answers, so that progress is told in items though one may need several requests."""

    def __init__(self, items: Iterable[object], keys: Sequence[str], known: Collection[str]) -> None:
        self._askers: dict[str, set[object]] = {}
        self._left: dict[object, int] = {}
        for item, key in zip(items, keys, strict=True):
            self._left.setdefault(item, 0)
            askers = self._askers.setdefault(key, set())
            if key not in known and item not in askers:
                askers.add(item)
                self._left[item] += 1
        self.total = len(self._left)
        self.done = sum(left == 0 for left in self._left.values())

    def answered(self, keys: Iterable[str]) -> int:
        """Number of items that wait for nothing more."""
        done = 0
        for item in (item for key in keys for item in self._askers[key]):
            self._left[item] -= 1
            done += self._left[item] == 0
        return done


def _token_budget(vlm: BaseVLM) -> int:
    """Padded tokens in one pass that should fit: weights are in place, what grows is activations, keys and values."""
    if vlm.device.type != "cuda":
        return CPU_TOKENS
    import torch

    config = vlm.text_config
    free, _ = torch.cuda.mem_get_info(vlm.device)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    kept = 2 * config.num_hidden_layers * heads * width  # keys and values
    passing = 8 * config.hidden_size + 4 * config.intermediate_size
    attention = 1024  # the mask, once for all heads, for each token of a long row
    per_token = (kept + passing + attention) * vlm.dtype.itemsize
    return max(CPU_TOKENS, int(SHARE_OF_MEMORY * free) // per_token)
