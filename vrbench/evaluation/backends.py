"""Backends, which send requests to a loaded model in batches.

A backend takes requests of one kind, arranges them in groups from which batches may be taken, and answers a batch. The
engine chooses one by what the model's class says of itself (`shares_prefixes`).
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from vrbench.evaluation.requests import (
    GenerationRequest,
    LogLikelihoodRequest,
    Request,
    RequestImage,
    Response,
    Unanswered,
    too_long_reason,
)
from vrbench.models.decoding import StopCriteria, generate_packed
from vrbench.models.packing import PackedSequence, one_row_per_sequence, pack
from vrbench.models.processors import UnsupportedImageError

if TYPE_CHECKING:
    import torch

    from vrbench.models.hf_model import HFModel
    from vrbench.models.llava_model import LlavaModel

FEATURE_BYTES = 2 * 1024**3
IMAGES_PER_PASS = 32
"""Images in one pass of the vision tower."""


class Backend(Protocol):
    """Requests of one kind, ready for one kind of model."""

    @property
    def unanswered(self) -> Mapping[str, Unanswered]:
        """Key -> reason, for each request that the model cannot answer; `groups` leaves them out."""

    def groups(self) -> Iterator[list[Any]]:
        """Yield lists of what may share a batch, each list with its longest first."""

    def tokens_held(self, batch: Sequence[Any], /) -> Iterator[int]:
        """Yield the tokens that each of a batch takes in memory when padded to the first, which is the longest."""

    def answer(self, batch: Sequence[Any], /) -> Mapping[str, Response]:
        """Return the responses to a batch by key."""


def backend_of(vlm: Any, requests: Mapping[str, Request], features: VisionFeatureCache) -> Backend:
    """Return the backend for a model and some requests of one kind, by key."""
    return PrefixSharedBatches(vlm, features, requests) if vlm.shares_prefixes else PaddedBatches(vlm, requests)


class PaddedBatches:
    """Each prompt by itself, through the family's own processor, in batches padded on the left.

    A batch is a list of keys.

    Attributes:
        unanswered: requests with images that the family's image processor refuses, or longer than the context.
    """

    def __init__(self, vlm: HFModel, requests: Mapping[str, Request]) -> None:
        self._vlm = vlm
        self._requests: dict[str, Request] = {}
        self._lengths: dict[str, int] = {}
        self.unanswered: dict[str, Unanswered] = {}
        for key, request in requests.items():
            try:
                length = self._length(request)
            except UnsupportedImageError as error:
                self.unanswered[key] = Unanswered(str(error))
                continue
            if (reason := too_long_reason(vlm, request, length)) is not None:
                self.unanswered[key] = reason
            else:
                self._requests[key], self._lengths[key] = request, length

    def groups(self) -> Iterator[list[str]]:
        """Yield keys that may share a batch, each list with its longest first."""
        ordered = sorted(self._requests, key=self._group, reverse=True)
        for _, group in itertools.groupby(ordered, key=lambda key: self._group(key)[0]):
            together: list[str] = []
            alone: list[str] = []
            for key in group:
                fits = self._lengths[key] + self._answer(key) <= self._vlm.max_batch_length
                (together if fits else alone).append(key)
            if together:
                yield together
            yield from ([key] for key in alone)

    def tokens_held(self, batch: Sequence[str]) -> Iterator[int]:
        """Yield the tokens of each padded prompt, and on a GPU those of its answer."""
        longest, on_cpu = self._lengths[batch[0]], self._vlm.device.type == "cpu"
        return (longest if on_cpu else longest + self._answer(key) for key in batch)

    def answer(self, batch: Sequence[str]) -> dict[str, Response]:
        """Return the responses by key."""
        requests = [self._requests[key] for key in batch]
        likely = [request for request in requests if isinstance(request, LogLikelihoodRequest)]
        if likely:
            sequences = [(*request.context, *request.continuation)[:-1] for request in likely]
            scores = self._vlm.loglikelihood(sequences, [request.continuation for request in likely])
            return dict(zip(batch, scores, strict=True))
        generated = [request for request in requests if isinstance(request, GenerationRequest)]
        limits = [StopCriteria(request.max_new_tokens, request.until) for request in generated]
        if generated[0].images:
            images = [[image.load() for image in request.images] for request in generated]
            inputs = self._vlm.encode_with_images([request.prompt for request in generated], images)
        else:
            inputs = self._vlm.pad_token_ids([request.tokens for request in generated])
        return dict(zip(batch, self._vlm.generate(inputs, limits), strict=True))

    def _length(self, request: Request) -> int:
        """Return the number of tokens of the prompt, including those of images."""
        if isinstance(request, LogLikelihoodRequest):
            return len(request.context) + len(request.continuation) - 1
        if request.images:
            return self._vlm.length(request.prompt, [image.load() for image in request.images])
        return len(request.tokens)

    def _answer(self, key: str) -> int:
        """Return the maximum number of tokens of the answer."""
        request = self._requests[key]
        return request.max_new_tokens if isinstance(request, GenerationRequest) else 0

    def _group(self, key: str) -> tuple[int, int]:
        """Return the sort key of a request: what all requests of a batch share, then the length.

        Log-likelihoods agree in the length, so that there is no padding; prompts in the number of images, since
        Mllama's answers change with images that are padding.
        """
        request, length = self._requests[key], self._lengths[key]
        return length if isinstance(request, LogLikelihoodRequest) else len(request.images), length


class PrefixSharedBatches:
    """Packed rows in which shared prefixes are computed once, and each image goes through the vision tower once.

    A batch is a list of packed rows.

    Attributes:
        unanswered: requests longer than the context; no image is refused here.
    """

    def __init__(self, vlm: LlavaModel, features: VisionFeatureCache, requests: Mapping[str, Request]) -> None:
        self._vlm = vlm
        self._features = features
        self._slots: dict[str, int] = {}
        self._images: list[RequestImage] = []
        self.unanswered: dict[str, Unanswered] = {}
        self._keys: list[str] = []
        self._requests: list[Request] = []
        self._tokens: list[tuple[int, ...]] = []
        for key, request in requests.items():
            tokens = self._encode(request)
            if (reason := too_long_reason(vlm, request, len(tokens))) is not None:
                self.unanswered[key] = reason
                continue
            self._keys.append(key)
            self._requests.append(request)
            self._tokens.append(tokens)

    def groups(self) -> Iterator[list[PackedSequence]]:
        """Yield rows that may share a batch, each list with its longest first."""
        likely = bool(self._requests) and isinstance(self._requests[0], LogLikelihoodRequest)
        exact = likely and str(self._vlm.dtype) == "torch.float32"
        return rows_of_one_length(self._tokens) if exact else prefix_shared_rows(self._tokens)

    def tokens_held(self, batch: Sequence[PackedSequence]) -> Iterator[int]:
        """Yield the tokens of each padded row; on a GPU, with keys and values of each answer and its own prompt."""
        longest, on_cpu = len(batch[0]), self._vlm.device.type == "cpu"
        for row in batch:
            requests = () if on_cpu else [self._requests[number] for number in row.paths]
            answers = [request.max_new_tokens for request in requests if isinstance(request, GenerationRequest)]
            yield longest * (1 + len(answers)) + sum(answers)

    def answer(self, batch: Sequence[PackedSequence]) -> dict[str, Response]:
        """Return the responses to all requests in some rows, by key."""
        requests = {number: self._requests[number] for row in batch for number in row.paths}
        images = self._projected({(-1 - t) // self._vlm.image_tokens for row in batch for t in row.tokens if t < 0})
        found: Mapping[int, Response]
        if isinstance(next(iter(requests.values())), LogLikelihoodRequest):
            targets = {n: r.continuation for n, r in requests.items() if isinstance(r, LogLikelihoodRequest)}
            found = self._vlm.loglikelihood(batch, targets, images)
        else:
            limits = {
                n: StopCriteria(r.max_new_tokens, r.until)
                for n, r in requests.items()
                if isinstance(r, GenerationRequest)
            }
            found = generate_packed(self._vlm, batch, limits, images)
        return {self._keys[number]: response for number, response in found.items()}

    def _encode(self, request: Request) -> tuple[int, ...]:
        if isinstance(request, LogLikelihoodRequest):
            return (request.context + request.continuation)[:-1]
        if not request.images:
            return request.tokens
        for image in request.images:
            if self._slots.setdefault(image.digest, len(self._slots)) == len(self._images):
                self._images.append(image)
        return tuple(self._vlm.encode(request.prompt, [self._slots[image.digest] for image in request.images]))

    def _projected(self, slots: set[int]) -> dict[int, Any]:
        """Return slot -> projected features of its image, [tokens, hidden]."""
        import torch

        if not slots:
            return {}
        order = sorted(slots)
        features = self._features.features(self._vlm, [self._images[slot] for slot in order])
        projected = self._vlm.project(torch.stack([features[self._images[slot].digest] for slot in order]))
        return dict(zip(order, projected, strict=True))


def prefix_shared_rows(sequences: Sequence[Sequence[int]]) -> Iterator[list[PackedSequence]]:
    """Yield all sequences as rows that hold shared prefixes once, the longest row first."""
    yield sorted(pack(sequences), key=len, reverse=True)


def rows_of_one_length(sequences: Sequence[Sequence[int]]) -> Iterator[list[PackedSequence]]:
    """Yield rows of one sequence each, those of one length together, the longest first: a batch has no padding.

    Attention then adds in the same order as for a prompt alone, so that float32 log-likelihoods are those of lm-eval's
    HFLM to 5e-5 nats. Sharing prefixes is faster (benchmarks/engine.py), and up to 3e-4 off.
    """
    for _, rows in itertools.groupby(sorted(one_row_per_sequence(sequences), key=len, reverse=True), key=len):
        yield list(rows)


class VisionFeatureCache:
    """Vision tower outputs by (tower digest, image digest), shared by the checkpoints of a run; the oldest are dropped.

    Attributes:
        budget: bytes kept at most; the features of one call are returned even if they exceed it.
        computed: images that went through a tower.
    """

    def __init__(self, budget: int = FEATURE_BYTES) -> None:
        self.budget = budget
        self.computed = 0
        self._kept: OrderedDict[tuple[str, str], torch.Tensor] = OrderedDict()

    def features(self, vlm: LlavaModel, images: Sequence[RequestImage]) -> dict[str, torch.Tensor]:
        """Return image digest -> features [tokens, width of the tower], on the CPU."""
        tower = vlm.tower_digest
        missing = {image.digest: image for image in images if (tower, image.digest) not in self._kept}
        found = {image.digest: self._kept[tower, image.digest] for image in images if image.digest not in missing}
        for digest in found:
            self._kept.move_to_end((tower, digest))
        todo = list(missing.values())
        for start in range(0, len(todo), IMAGES_PER_PASS):
            part = todo[start : start + IMAGES_PER_PASS]
            for image, features in zip(part, vlm.encode_images([one.load() for one in part]), strict=True):
                found[image.digest] = features
                self._kept[tower, image.digest] = features.clone()
        self.computed += len(todo)
        held = sum(features.nbytes for features in self._kept.values())
        while held > self.budget and self._kept:
            held -= self._kept.popitem(last=False)[1].nbytes
        return found
