"""Backends, which send requests to a loaded model in batches.

A backend takes requests of one kind and yields responses as they are computed. There are two: `PackedBackend` computes
what requests share once, and refills its batches as answers end; `PaddedBackend` gives whole prompts to the family's
own processor and to transformers' `generate`, for prompts whose positions or masks are the family's own.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol

from vrbench.core.processors import usable_cores
from vrbench.evaluation.requests import (
    GenerationRequest,
    LogLikelihoodRequest,
    Request,
    RequestImage,
    Response,
    Unanswered,
    too_long_reason,
)
from vrbench.models.decoding import StopCriteria
from vrbench.models.memory_budget import MemoryBudget
from vrbench.models.packed_inference import LogLikelihoods
from vrbench.models.packing import PackedSequence, one_row_per_sequence, pack_with_prefixes
from vrbench.models.processors import UnsupportedImageError

if TYPE_CHECKING:
    import torch

    from vrbench.models.base_vlm import BaseVLM
    from vrbench.models.hf_model import HFModel
    from vrbench.models.llava_model import LlavaModel

FEATURE_BYTES = 2 * 1024**3
IMAGES_PER_PASS = 32
"""Images in one pass of the vision tower."""

IMAGE_WORKERS = 8
"""Most processes that load and preprocess images while the GPU computes."""

IMAGES_AHEAD = 128
"""Images that are preprocessed before they are needed."""

MIN_IMAGES_AHEAD = 64
"""Fewer images are loaded without starting processes for them."""


class Backend(Protocol):
    """Requests of one kind, ready for one kind of model."""

    @property
    def unanswered(self) -> Mapping[str, Unanswered]:
        """Key -> reason, for each request that the model cannot answer; `answers` leaves them out."""

    def answers(self, budget: MemoryBudget, /) -> Iterator[Mapping[str, Response]]:
        """Yield responses by key as they are computed; another call goes on with the requests that are left."""


def backends_of(vlm: BaseVLM, requests: Mapping[str, Request], features: VisionFeatureCache) -> list[Backend]:
    """Return the backends that answer some requests of one kind, by key."""
    from vrbench.models.hf_model import HFModel

    packed: dict[str, Request] = {}
    padded: dict[str, Request] = {}
    for key, request in requests.items():
        has_images = isinstance(request, GenerationRequest) and bool(request.images)
        (packed if vlm.shares_prefixes and not (has_images and isinstance(vlm, HFModel)) else padded)[key] = request
    backends: list[Backend] = []
    if packed:
        backends.append(PackedBackend(vlm, packed, features))
    if padded and isinstance(vlm, HFModel):
        backends.append(PaddedBackend(vlm, padded))
    return backends


class PackedBackend:
    """Packed rows in which shared prefixes are computed once, and each image goes through the vision tower once.

    Attributes:
        unanswered: requests longer than the context; no image is refused here.
    """

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
        rows: Iterator[list[PackedSequence]]
        if str(self._vlm.dtype) == "torch.float32":
            rows = rows_of_one_length(tokens)
        else:
            rows = iter([_ordered(pack_with_prefixes(tokens, [len(targets[n]) for n in range(len(tokens))]))])
        ahead = 1 if self._vlm.device.type == "cuda" else 0  # passes that are started before a result is read
        started: deque[LogLikelihoods] = deque()
        for group in rows:
            while group:
                batch = group[: budget.take([row.length for row in group])]
                group = group[len(batch) :]
                here = {n: targets[n] for row in batch for n in row.paths}
                started.append(LogLikelihoods(self._vlm, batch, here, {}))
                while len(started) > ahead:
                    yield started.popleft().result()
        for computed in started:
            yield computed.result()

    def _generated(
        self, stops: Mapping[int, StopCriteria], tokens: Sequence[Sequence[int]], budget: MemoryBudget
    ) -> Iterator[Mapping[int, Response]]:
        from vrbench.models.generation import AnswerGenerator

        rows = _ordered(pack_with_prefixes(tokens, [1] * len(tokens)))
        if budget.rows is not None:
            rows = [part for row in rows for part in row.split(budget.rows)]
        order = [list(dict.fromkeys(self._slots_of(row))) for row in rows]
        images = [self._images[slot] for slot in dict.fromkeys(slot for of_row in order for slot in of_row)]
        with self._features.loading(self._vlm, images):
            yield from AnswerGenerator(self._vlm, rows, stops, budget, self._projected)

    def _encode(self, request: Request) -> tuple[int, ...]:
        if isinstance(request, LogLikelihoodRequest):
            return (request.context + request.continuation)[:-1]
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

    def _projected(self, rows: Sequence[PackedSequence]) -> dict[int, torch.Tensor]:
        """Return slot -> projected features, [tokens, hidden], of the images in some rows."""
        import torch

        slots = sorted({slot for row in rows for slot in self._slots_of(row)})
        if not slots:
            return {}
        vlm: Any = self._vlm
        features = self._features.features(vlm, [self._images[slot] for slot in slots])
        projected = vlm.project(torch.stack([features[self._images[slot].digest] for slot in slots]))
        return dict(zip(slots, projected, strict=True))


class PaddedBackend:
    """Each prompt by itself, through the family's own processor, in batches padded on the left.

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

    def answers(self, budget: MemoryBudget) -> Iterator[dict[str, Response]]:
        """Yield responses by key, the longest first."""
        for group in self._groups():
            while group:
                lengths = [self._lengths[group[0]] + self._answer(key) for key in group]
                batch = group[: budget.take([max(lengths), *lengths[1:]])]
                group = group[len(batch) :]
                found = self._batch(batch)
                for key in batch:
                    del self._requests[key]
                yield found

    def _groups(self) -> Iterator[list[str]]:
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

    def _batch(self, batch: Sequence[str]) -> dict[str, Response]:
        """Return the responses to some requests by key."""
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


class VisionFeatureCache:
    """Vision tower outputs by (tower digest, image digest), shared by the checkpoints of a run; the oldest are dropped.

    Attributes:
        budget: bytes kept at most; the features of one call are returned even if they exceed it.
        shared: whether several checkpoints may have the same tower; else its weights need no digest.
        computed: images that went through a tower.
    """

    def __init__(self, budget: int = FEATURE_BYTES, shared: bool = True) -> None:
        self.budget, self.shared = budget, shared
        self.computed = 0
        self._kept: OrderedDict[tuple[str, str], torch.Tensor] = OrderedDict()
        self._ahead: _PixelLoader | None = None

    def features(self, vlm: LlavaModel, images: Sequence[RequestImage]) -> dict[str, torch.Tensor]:
        """Return image digest -> features [tokens, width of the tower], on the model's device."""
        tower = self._tower(vlm)
        missing = {image.digest: image for image in images if (tower, image.digest) not in self._kept}
        found = {image.digest: self._kept[tower, image.digest] for image in images if image.digest not in missing}
        for digest in found:
            self._kept.move_to_end((tower, digest))
        todo = list(missing.values())
        for start in range(0, len(todo), IMAGES_PER_PASS):
            part = todo[start : start + IMAGES_PER_PASS]
            pixels = [self._pixels(vlm, image) for image in part]
            for image, features in zip(part, vlm.encode_pixels(pixels), strict=True):
                found[image.digest] = features
                self._kept[tower, image.digest] = features
        self.computed += len(todo)
        held = sum(features.nbytes for features in self._kept.values())
        while held > self.budget and self._kept:
            held -= self._kept.popitem(last=False)[1].nbytes
        return found

    @contextmanager
    def loading(self, vlm: Any, images: Sequence[RequestImage]) -> Iterator[None]:
        """Load and preprocess images in other processes within the block, in the order in which they will be needed."""
        tower = self._tower(vlm) if images else ""
        todo = [image for image in images if (tower, image.digest) not in self._kept]
        if vlm.device.type == "cuda" and len(todo) >= MIN_IMAGES_AHEAD:
            self._ahead = _PixelLoader(vlm, todo)
        try:
            yield
        finally:
            self._ahead = None

    def _pixels(self, vlm: LlavaModel, image: RequestImage) -> torch.Tensor:
        return self._ahead.pixels(image) if self._ahead else vlm.pixels(image.load())

    def _tower(self, vlm: LlavaModel) -> str:
        return vlm.tower_digest if self.shared else str(id(vlm))


class _PixelLoader:
    """Pixels of images, which worker processes prepare ahead of what is read."""

    def __init__(self, vlm: LlavaModel, images: Sequence[RequestImage]) -> None:
        from torch.utils.data import DataLoader

        self._vlm = vlm
        self._images = list(images)
        self._ready: dict[str, torch.Tensor] = {}
        workers = max(1, min(IMAGE_WORKERS, usable_cores() - 1))
        loader: Any = DataLoader(
            self, batch_size=None, num_workers=workers, prefetch_factor=IMAGES_AHEAD // workers,  # type: ignore[arg-type]
            multiprocessing_context="fork",  # what images are loaded with cannot be pickled
        )  # fmt: skip
        self._prepared = iter(loader)

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, index: int) -> tuple[str, torch.Tensor]:
        image = self._images[index]
        return image.digest, self._vlm.pixels(image.load())

    def pixels(self, image: RequestImage) -> torch.Tensor:
        """Return an image's pixels, which are kept until they are asked for once."""
        while image.digest not in self._ready:
            digest, pixels = next(self._prepared, (image.digest, None))
            self._ready[digest] = self._vlm.pixels(image.load()) if pixels is None else pixels
        return self._ready.pop(image.digest)
