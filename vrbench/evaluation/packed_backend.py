"""Requests answered in packed rows, which hold what prompts share once."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from vrbench.core.memory import pause_garbage_collection
from vrbench.evaluation.requests import (
    GenerationRequest,
    LogLikelihoodRequest,
    Request,
    RequestImage,
    Response,
    Unanswered,
    too_long_reason,
)
from vrbench.evaluation.vision_features import IMAGES_PER_PASS, VisionFeatureCache
from vrbench.models.decoding import StopCriteria
from vrbench.models.fixed_shapes import key_count
from vrbench.models.memory_budget import MemoryBudget
from vrbench.models.packed_inference import LogLikelihoods, copies_no_prefix
from vrbench.models.packing import PackedSequence, one_row_per_sequence, pack_with_prefixes

if TYPE_CHECKING:
    import torch

    from vrbench.models.base_vlm import BaseVLM


class PackedBackend:
    """Packed rows in which shared prefixes are computed once, and each image goes through the vision tower once.

    Attributes:
        unanswered: requests longer than the context; no image is refused here.
    """

    @pause_garbage_collection()
    def __init__(self, vlm: BaseVLM, requests: Mapping[str, Request], features: VisionFeatureCache) -> None:
        self._vlm, self._features = vlm, features
        self._slots: dict[str, int] = {}
        self._images: list[RequestImage] = []
        self.unanswered: dict[str, Unanswered] = {}
        self._left: dict[str, tuple[Request, tuple[int, ...]]] = {}
        for key, request in requests.items():
            tokens = self._encode(request)
            if (reason := too_long_reason(vlm, request, len(tokens))) is not None:
                self.unanswered[key] = reason
            else:
                self._left[key] = request, tokens

    def answers(self, budget: MemoryBudget) -> Iterator[dict[str, Response]]:
        """Yield responses by key; the longest rows come first, so that memory runs out at the start or not at all."""
        keys, tokens = list(self._left), [tokens for _, tokens in self._left.values()]
        if not keys:
            return
        likely = {n: r for n, key in enumerate(keys) if isinstance(r := self._left[key][0], LogLikelihoodRequest)}
        if likely:
            computed = self._loglikelihoods({n: r.continuation for n, r in likely.items()}, tokens, budget)
        else:
            stops = {
                n: StopCriteria(r.max_new_tokens, r.until)
                for n, key in enumerate(keys)
                if isinstance(r := self._left[key][0], GenerationRequest)
            }
            computed = self._generated(stops, tokens, budget)
        for found in computed:
            for number in found:
                del self._left[keys[number]]
            yield {keys[number]: response for number, response in found.items()}

    def _loglikelihoods(
        self, targets: Mapping[int, Sequence[int]], tokens: Sequence[Sequence[int]], budget: MemoryBudget
    ) -> Iterator[Mapping[int, Response]]:
        answers = [len(targets[n]) for n in range(len(tokens))]
        with pause_garbage_collection():
            if budget.fixed_shapes:
                rows = [_ordered(one_row_per_sequence(tokens, answers))]
            elif str(self._vlm.dtype) == "torch.float32":
                rows = list(rows_of_one_length(tokens))
            else:
                rows = [_ordered(pack_with_prefixes(tokens, answers))]
        ahead = 1 if self._vlm.device.type == "cuda" else 0  # passes that are started before a result is read
        started: deque[LogLikelihoods] = deque()
        for group in rows:
            while group:
                batch = group[: budget.take_rows(group, copies_no_prefix(self._vlm))]
                group = group[len(batch) :]
                here = {n: targets[n] for row in batch for n in row.paths}
                started.append(LogLikelihoods(self._vlm, batch, here))
                while len(started) > ahead:
                    yield started.popleft().result()
        for computed in started:
            yield computed.result()

    def _generated(
        self, stops: Mapping[int, StopCriteria], tokens: Sequence[Sequence[int]], budget: MemoryBudget
    ) -> Iterator[Mapping[int, Response]]:
        from vrbench.models.generation import AnswerGenerator
        from vrbench.models.prompt_reading import PackedPrompts

        if budget.fixed_shapes:
            alone = {next(iter(row.paths)): row for row in _ordered(one_row_per_sequence(tokens, range(len(tokens))))}
            lengths = {number: len(row) for number, row in alone.items()}
            groups = [[alone[number] for number in group] for group in slot_groups(lengths, stops, budget)]
        else:
            rows = _ordered(pack_with_prefixes(tokens, [1] * len(tokens)))
            groups = [rows if budget.rows is None else [part for row in rows for part in row.split(budget.rows)]]
        order = [list(dict.fromkeys(self._slots_of(row))) for rows in groups for row in rows]
        images = [self._images[slot] for slot in dict.fromkeys(slot for of_row in order for slot in of_row)]
        projected = partial(self._projected, images_per_pass=1 if budget.fixed_shapes else None)
        with self._features.loading(self._vlm, images):
            for rows in groups:
                yield from AnswerGenerator(self._vlm, PackedPrompts(self._vlm, rows, projected), stops, budget)

    def _encode(self, request: Request) -> tuple[int, ...]:
        if isinstance(request, LogLikelihoodRequest):
            # options of one token share this: it is the context
            return request.context + request.continuation[:-1] if len(request.continuation) > 1 else request.context
        if not request.images:
            return request.tokens
        for image in request.images:
            if self._slots.setdefault(image.digest, len(self._slots)) == len(self._images):
                self._images.append(image)
        vlm: Any = self._vlm
        return tuple(vlm.encode(request.prompt, [self._slots[image.digest] for image in request.images]))

    def _slots_of(self, row: PackedSequence) -> Iterator[int]:
        """Yield the slot of each image token of a row."""
        return ((-1 - token) // self._vlm.image_tokens for token in (*row.prefix, *row.tokens) if token < 0)

    def _projected(self, rows: Sequence[PackedSequence], images_per_pass: int | None) -> dict[int, torch.Tensor]:
        """Return slot -> projected features, [tokens, hidden], of the images in some rows."""
        import torch

        slots = sorted({slot for row in rows for slot in self._slots_of(row)})
        if not slots:
            return {}
        vlm: Any = self._vlm
        found = self._features.features(vlm, [self._images[slot] for slot in slots], images_per_pass or IMAGES_PER_PASS)
        features = [found[self._images[slot].digest] for slot in slots]
        size = images_per_pass or len(slots)
        parts = [torch.stack(features[start : start + size]) for start in range(0, len(slots), size)]
        return dict(zip(slots, (one for part in parts for one in vlm.project(part)), strict=True))


def slot_groups(lengths: Mapping[int, int], stops: Mapping[int, StopCriteria], budget: MemoryBudget) -> list[list[int]]:
    """Return the numbers of prompts whose answers share slots: all of them; with fixed shapes those of one length.

    Args:
        lengths: number of a prompt -> its tokens.
    """
    if not budget.fixed_shapes:
        return [list(lengths)]
    keys = {number: key_count(length + stops[number].max_new_tokens) for number, length in lengths.items()}
    return [[number for number in lengths if keys[number] == n] for n in sorted(set(keys.values()), reverse=True)]


def rows_of_one_length(sequences: Sequence[Sequence[int]]) -> Iterator[list[PackedSequence]]:
    """Yield rows of one sequence each, those of one length together, the longest first: a batch has no padding.

    Attention then adds in the same order as for a prompt alone, so that float32 log-likelihoods are those of lm-eval's
    HFLM to 5e-5 nats. Sharing prefixes is faster, and up to 3e-4 off.
    """
    for _, rows in itertools.groupby(sorted(one_row_per_sequence(sequences), key=len, reverse=True), key=len):
        yield list(rows)


def _ordered(rows: Sequence[PackedSequence]) -> list[PackedSequence]:
    """Return rows with the longest first, and those behind one prefix next to each other."""
    longest: dict[tuple[int, ...], int] = {}
    for row in rows:
        longest[row.prefix] = max(longest.get(row.prefix, 0), row.length if row.prefix else 0)
    return sorted(rows, key=lambda row: (longest[row.prefix] or row.length, row.prefix, len(row)), reverse=True)
