"""Requests to a `LlavaModel`, in packed rows: shared beginnings once, pictures through the tower once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vrbench.evaluation.features import VisionFeatureCache
from vrbench.evaluation.requests import GenerationRequest, LogLikelihoodRequest, Request, RequestImage, Unanswered
from vrbench.evaluation.truncation import too_long
from vrbench.models.decoding import StopCriteria, generate_packed
from vrbench.models.packing import PackedSequence, one_row_per_sequence, pack

if TYPE_CHECKING:
    from vrbench.models.llava_model import LlavaModel


@dataclass(frozen=True)
class Prepared:
    """One request to be computed: its key, its tokens, and the slots of its pictures."""

    key: str
    request: Request
    tokens: tuple[int, ...]


class PrefixSharedBatches:
    """Requests of one kind as rows, and the answers to some of the rows; see `answering.Way`.

    Attributes:
        not_asked: requests that cannot be put to the model; no image is refused here.
    """

    def __init__(self, vlm: LlavaModel, features: VisionFeatureCache, requests: Mapping[str, Request]) -> None:
        self._vlm = vlm
        self._features = features
        self._slots: dict[str, int] = {}
        self._pictures: list[RequestImage] = []
        self.not_asked: dict[str, Unanswered] = {}
        self._prepared: list[Prepared] = []
        for key, request in requests.items():
            one = self._prepare(key, request)
            reason = too_long(vlm, request, len(one.tokens))
            if reason is not None:
                self.not_asked[key] = reason
            else:
                self._prepared.append(one)

    def groups(self) -> Iterator[list[PackedSequence]]:
        """Rows that may come into one batch, one list after the other, each with its longest first."""
        sequences = [one.tokens for one in self._prepared]
        likely = bool(self._prepared) and isinstance(self._prepared[0].request, LogLikelihoodRequest)
        exactly = likely and str(self._vlm.dtype) == "torch.float32"
        return rows_of_one_length(sequences) if exactly else prefix_shared_rows(sequences)

    def tokens_held(self, row: PackedSequence, longest: int) -> int:
        """Tokens that a padded row takes; on a card, keys and values of each answer and its own prompt count too."""
        if self._vlm.device.type == "cpu":
            return longest
        asked = [self._prepared[number].request for number in row.paths]
        says = [request.max_new_tokens for request in asked if isinstance(request, GenerationRequest)]
        return longest * (1 + len(says)) + sum(says)

    def answers(self, rows: Sequence[PackedSequence]) -> dict[str, Any]:
        """Answers of all sequences in some rows, by key."""
        numbers = [number for row in rows for number in row.paths]
        requests = {number: self._prepared[number].request for number in numbers}
        shown = self._projected({(-1 - t) // self._vlm.image_tokens for row in rows for t in row.tokens if t < 0})
        found: dict[int, Any]
        if isinstance(requests[numbers[0]], LogLikelihoodRequest):
            targets = {n: r.continuation for n, r in requests.items() if isinstance(r, LogLikelihoodRequest)}
            found = dict(self._vlm.loglikelihood(rows, targets, shown))
        else:
            limits = {
                n: StopCriteria(r.max_new_tokens, r.until)
                for n, r in requests.items()
                if isinstance(r, GenerationRequest)
            }
            found = dict(generate_packed(self._vlm, rows, limits, shown))
        return {self._prepared[number].key: answer for number, answer in found.items()}

    def _prepare(self, key: str, request: Request) -> Prepared:
        if isinstance(request, LogLikelihoodRequest):
            return Prepared(key, request, (request.context + request.continuation)[:-1])
        for picture in request.pictures:
            if self._slots.setdefault(picture.digest, len(self._slots)) == len(self._pictures):
                self._pictures.append(picture)
        if not request.pictures:
            return Prepared(key, request, request.tokens)
        tokens = self._vlm.encode(request.prompt, [self._slots[picture.digest] for picture in request.pictures])
        return Prepared(key, request, tuple(tokens))

    def _projected(self, slots: set[int]) -> dict[int, Any]:
        """Slot -> what the decoder reads of its picture, [tokens, hidden]."""
        import torch

        if not slots:
            return {}
        order = sorted(slots)
        features = self._features.features(self._vlm, [self._pictures[slot] for slot in order])
        projected = self._vlm.project(torch.stack([features[self._pictures[slot].digest] for slot in order]))
        return dict(zip(order, projected, strict=True))


def prefix_shared_rows(sequences: Sequence[Sequence[int]]) -> Iterator[list[PackedSequence]]:
    """Rows that hold shared beginnings once, the longest first; all may come into one batch."""
    yield sorted(pack(sequences), key=len, reverse=True)


def rows_of_one_length(sequences: Sequence[Sequence[int]]) -> Iterator[list[PackedSequence]]:
    """Rows of one sequence each, those of one length together, the longest first: a batch has no padding.

    Attention then adds in the order in which it does for a prompt alone, so that float32 log-likelihoods are those of
    lm-eval's HFLM to 5e-5 nats. What shares its beginnings is faster (benchmarks/engine.py), and up to 3e-4 off.
    """
    for _, rows in itertools.groupby(sorted(one_row_per_sequence(sequences), key=len, reverse=True), key=len):
        yield list(rows)
