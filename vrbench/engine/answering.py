"""Requests -> answers: each once, from the store where it is there, else computed in batches and stored at once."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vrbench.engine.features import FeatureCache
from vrbench.engine.requests import Generation, LogLikelihood, Picture, Request
from vrbench.engine.store import AnswerStore
from vrbench.errors import VrbenchError
from vrbench.models.decoding import Limit, greedy
from vrbench.models.packing import Row, apart, pack

if TYPE_CHECKING:
    from vrbench.models.vlm import VLM

CPU_TOKENS = 1024
"""Padded tokens in one pass on a CPU; more gain nothing there and make what a kill loses bigger."""

SHARE_OF_MEMORY = 0.5
"""Share of a card's free memory that a batch is planned to take; it is halved whenever that was too much."""


InRows = Callable[[Sequence[Sequence[int]]], Iterator[list[Row]]]
"""Token sequences -> rows that may come into one batch, one list after the other."""


@dataclass(frozen=True)
class Prepared:
    """One request to be computed: its key, its tokens, and the slots of its pictures."""

    key: str
    request: Request
    tokens: tuple[int, ...]


class Answerer:
    """Answers requests for one loaded checkpoint.

    Attributes:
        asked: requests computed so far; the others were in the store, or asked twice.
    """

    def __init__(
        self,
        vlm: VLM,
        store: AnswerStore,
        batch_size: int | str = "auto",
        features: FeatureCache | None = None,
        show_progress: bool = True,
    ) -> None:
        """Make it.

        Args:
            batch_size: rows in one pass (a row is a prompt with all continuations, or a picture with all questions,
                that share it), or "auto" for as many as fit.
            features: to be shared by the checkpoints of a run.
        """
        self.vlm = vlm
        self.store = store
        self.asked = 0
        self._batch_size = batch_size
        self._tokens = _token_budget(vlm)
        self._features = FeatureCache() if features is None else features
        self._show_progress = show_progress
        self._settings = {"dtype": str(vlm.dtype), "image_processor": vlm.image_processor_name}

    def answer(self, requests: Sequence[Request], items: Sequence[object] = (), title: str = "") -> list[Any]:
        """Answers in the order of the requests: (log-likelihood, is greedy) or a text.

        Args:
            items: the item that each request belongs to, for progress in items; each request is one if left out.
            title: what the progress bar says.
        """
        from tqdm import tqdm

        keys = [request.key(self._settings) for request in requests]
        known = self.store.get(keys)
        progress = _Progress(items or range(len(keys)), keys, known)
        missing = {key: request for key, request in zip(keys, requests, strict=True) if key not in known}
        self.asked += len(missing)
        settings = {"desc": title, "unit": " items", "disable": not self._show_progress, "mininterval": 0.5}
        with tqdm(total=progress.total, initial=progress.done, **settings) as bar:
            exactly = unpadded if str(self.vlm.dtype) == "torch.float32" else shared
            for kind, in_rows in ((LogLikelihood, exactly), (Generation, shared)):
                part = {key: request for key, request in missing.items() if isinstance(request, kind)}
                for answers in self._compute(part, in_rows):
                    self.store.put(answers)
                    known.update(answers)
                    bar.update(progress.answered(answers))
        return [_as_answer(known[key]) for key in keys]

    def _compute(self, requests: dict[str, Request], in_rows: InRows) -> Iterator[dict[str, Any]]:
        """Answers batch by batch, longest rows first, so that memory runs out at the start or not at all."""
        slots: dict[str, int] = {}
        pictures: list[Picture] = []
        prepared = [self._prepare(key, request, slots, pictures) for key, request in requests.items()]
        for rows in in_rows([one.tokens for one in prepared]):
            yield from self._in_batches(rows, prepared, pictures)

    def _in_batches(
        self, rows: list[Row], prepared: list[Prepared], pictures: list[Picture]
    ) -> Iterator[dict[str, Any]]:
        while rows:
            batch = rows[: self._fitting(rows, prepared)]
            try:
                answers = self._batch(batch, prepared, pictures)
            except (MemoryError, RuntimeError) as error:
                if not _is_out_of_memory(error) or len(batch) == 1:
                    raise
                self._halve(batch, prepared)
                continue
            rows = rows[len(batch) :]
            yield answers

    def _prepare(self, key: str, request: Request, slots: dict[str, int], pictures: list[Picture]) -> Prepared:
        if isinstance(request, LogLikelihood):
            return Prepared(key, request, (request.context + request.continuation)[:-1])
        for picture in request.pictures:
            if slots.setdefault(picture.digest, len(slots)) == len(pictures):
                pictures.append(picture)
        tokens = self.vlm.encode(request.prompt, [slots[picture.digest] for picture in request.pictures])
        if not request.pictures:  # as lm-eval does it: what does not fit is cut off in front
            room = self.vlm.context_length - request.max_new_tokens
            if room < 1:
                raise VrbenchError(
                    f"{request.max_new_tokens} tokens for an answer leave no room for a prompt in a context of "
                    f"{self.vlm.context_length}"
                )
            tokens = tokens[-room:]
        return Prepared(key, request, tuple(tokens))

    def _fitting(self, rows: Sequence[Row], prepared: Sequence[Prepared]) -> int:
        """How many of the rows, sorted by length, make the next batch."""
        if isinstance(self._batch_size, int):
            return self._batch_size
        held = itertools.accumulate(self._tokens_held(row, len(rows[0]), prepared) for row in rows)
        return max(1, sum(1 for _ in itertools.takewhile(lambda tokens: tokens <= self._tokens, held)))

    def _tokens_held(self, row: Row, longest: int, prepared: Sequence[Prepared]) -> int:
        """Tokens that a padded row takes; on a card, keys and values of each answer and its own prompt count too."""
        if self.vlm.device.type == "cpu":
            return longest
        asked = [prepared[number].request for number in row.paths]
        says = [request.max_new_tokens for request in asked if isinstance(request, Generation)]
        return longest * (1 + len(says)) + sum(says)

    def _halve(self, batch: Sequence[Row], prepared: Sequence[Prepared]) -> None:
        if isinstance(self._batch_size, int):
            self._batch_size = len(batch) // 2
        self._tokens = sum(self._tokens_held(row, len(batch[0]), prepared) for row in batch) // 2
        if self.vlm.device.type == "cuda":
            import torch

            torch.cuda.empty_cache()

    def _batch(self, rows: list[Row], prepared: list[Prepared], pictures: list[Picture]) -> dict[str, Any]:
        """Answers of all sequences in some rows, by key; all are of one kind."""
        numbers = [number for row in rows for number in row.paths]
        requests = {number: prepared[number].request for number in numbers}
        shown = self._projected({_slot(t, self.vlm) for row in rows for t in row.tokens if t < 0}, pictures)
        found: dict[int, Any]
        if isinstance(requests[numbers[0]], LogLikelihood):
            targets = {n: r.continuation for n, r in requests.items() if isinstance(r, LogLikelihood)}
            found = dict(self.vlm.loglikelihood(rows, targets, shown))
        else:
            limits = {n: Limit(r.max_new_tokens, r.until) for n, r in requests.items() if isinstance(r, Generation)}
            found = dict(greedy(self.vlm, rows, limits, shown))
        return {prepared[number].key: answer for number, answer in found.items()}

    def _projected(self, slots: set[int], pictures: list[Picture]) -> dict[int, Any]:
        """Slot -> what the decoder reads of its picture, [tokens, hidden]."""
        import torch

        if not slots:
            return {}
        order = sorted(slots)
        features = self._features.features(self.vlm, [pictures[slot] for slot in order])
        projected = self.vlm.project(torch.stack([features[pictures[slot].digest] for slot in order]))
        return dict(zip(order, projected, strict=True))


def shared(sequences: Sequence[Sequence[int]]) -> Iterator[list[Row]]:
    """Rows that hold shared beginnings once, the longest first; all may come into one batch."""
    yield sorted(pack(sequences), key=len, reverse=True)


def unpadded(sequences: Sequence[Sequence[int]]) -> Iterator[list[Row]]:
    """Rows of one sequence each, those of one length together, the longest first: a batch has no padding.

    Attention then adds in the order in which it does for a prompt alone, so that float32 log-likelihoods are those of
    lm-eval's HFLM to 5e-5 nats. What shares its beginnings is faster (benchmarks/engine.py), and up to 3e-4 off.
    """
    for _, rows in itertools.groupby(sorted(apart(sequences), key=len, reverse=True), key=len):
        yield list(rows)


def _slot(token: int, vlm: VLM) -> int:
    return (-1 - token) // vlm.image_tokens


def _as_answer(stored: Any) -> Any:
    """JSON has no tuples; a log-likelihood answer is one, fresh or stored."""
    return tuple(stored) if isinstance(stored, list) else stored


class _Progress:
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


def _token_budget(vlm: VLM) -> int:
    """Padded tokens in one pass that should fit: weights are in place, what grows is activations, keys and values."""
    if vlm.device.type != "cuda":
        return CPU_TOKENS
    import torch

    config = vlm.model.config.text_config
    free, _ = torch.cuda.mem_get_info(vlm.device)
    width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    kept = 2 * config.num_hidden_layers * heads * width  # keys and values
    passing = 8 * config.hidden_size + 4 * config.intermediate_size
    attention = 1024  # the mask, once for all heads, for each token of a long row
    per_token = (kept + passing + attention) * vlm.dtype.itemsize
    return max(CPU_TOKENS, int(SHARE_OF_MEMORY * free) // per_token)


def _is_out_of_memory(error: BaseException) -> bool:
    text = str(error)
    return isinstance(error, MemoryError) or "out of memory" in text or "can't allocate memory" in text
