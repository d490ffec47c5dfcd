"""Backends, which send requests to a loaded model in batches.

A backend takes requests of one kind and yields responses as they are computed. `PackedBackend` computes what requests
share once. `WholePromptBackend` takes prompts with images as the family's own processor and forward pass read them.
Both generate in slots that are refilled as answers end. `PaddedBackend` gives whole prompts to transformers'
`generate`, for decoders whose steps need more than the keys and values of a prompt. Where vLLM has the
weights instead, `vllm_backend.VllmBackend` answers.
"""

from __future__ import annotations

import itertools
import logging
import os
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

from vrbench.core.processors import usable_cores
from vrbench.core.provenance import VLLM
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
from vrbench.models.fixed_shapes import key_count
from vrbench.models.memory_budget import MemoryBudget
from vrbench.models.packed_inference import LogLikelihoods, copies_no_prefix
from vrbench.models.packing import PackedSequence, one_row_per_sequence, pack_with_prefixes
from vrbench.models.processors import UnsupportedImageError

if TYPE_CHECKING:
    import torch

    from vrbench.checkpoints.checkpoint import Checkpoint
    from vrbench.evaluation.run_config import RunConfig
    from vrbench.models.base_vlm import BaseVLM
    from vrbench.models.base_weights import BaseCache
    from vrbench.models.hf_model import HFModel
    from vrbench.models.image_prompts import ImagePrompt, Size
    from vrbench.models.llava_model import LlavaModel

_log = logging.getLogger(__name__)

FEATURE_BYTES = 2 * 1024**3
"""Bytes of vision features that are kept on a CPU."""

FEATURE_SHARE = 0.05
"""Share of the GPU's memory in use that they may take there: of 120 GB as much as 5,000 images of LLaVA-1.5 need."""

IMAGES_PER_PASS = 32
"""Images in one pass of the vision tower."""

IMAGE_WORKERS = 8
"""Most processes that load and preprocess images while the GPU computes."""

IMAGES_AHEAD = 128
"""Images that are preprocessed before they are needed."""

AHEAD_TIMEOUT = 60
"""Seconds after which a process that prepares an image is given up; the images are then prepared in this one."""

MIN_AHEAD = 64
"""Fewer images are loaded without starting processes for them."""

MAX_QUESTIONS = 16
"""Most prompts that read the same images together."""

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Backend(Protocol):
    """Requests of one kind, ready for one kind of model."""

    @property
    def unanswered(self) -> Mapping[str, Unanswered]:
        """Key -> reason, for each request that the model cannot answer; `answers` leaves them out."""

    def answers(self, budget: MemoryBudget, /) -> Iterator[Mapping[str, Response]]:
        """Yield responses by key as they are computed; another call goes on with the requests that are left."""


@contextmanager
def loaded_vlm(
    checkpoint: Checkpoint, config: RunConfig, device: str, bases: BaseCache | None = None
) -> Iterator[BaseVLM]:
    """Load a checkpoint's weights, or all but these where vLLM answers, which ends with the block.

    Args:
        config: with a real dtype.
        device: of this process.
        bases: as in `load_vlm`.
    """
    if config.backend == VLLM:
        from vrbench.evaluation.vllm_backend import served_vlm

        rows = config.batch_size if isinstance(config.batch_size, int) else None
        with served_vlm(checkpoint, device, config.dtype, config.image_settings, config.gpu_memory, rows) as vlm:
            yield vlm
    else:
        from vrbench.models.load import load_vlm

        yield load_vlm(
            checkpoint, device, config.dtype, images=config.image_settings, bases=bases,
            device_map=config.device_map, gpu_memory=config.gpu_memory, tp=config.tp,
        )  # fmt: skip


def backends_of(vlm: BaseVLM, requests: Mapping[str, Request], features: VisionFeatureCache) -> list[Backend]:
    """Return the backends that answer some requests of one kind, by key."""
    from vrbench.models.hf_model import HFModel

    if vlm.vllm is not None:
        from vrbench.evaluation.vllm_backend import VllmBackend

        return [VllmBackend(vlm, vlm.vllm, requests)] if requests else []

    packed: dict[str, Request] = {}
    whole: dict[str, Request] = {}
    padded: dict[str, Request] = {}
    for key, request in requests.items():
        has_images = isinstance(request, GenerationRequest) and bool(request.images)
        if has_images and isinstance(vlm, HFModel):
            (whole if vlm.generates_in_slots else padded)[key] = request
        else:
            (packed if vlm.shares_prefixes else padded)[key] = request
    backends: list[Backend] = []
    if packed:
        backends.append(PackedBackend(vlm, packed, features))
    if whole and isinstance(vlm, HFModel):
        backends.append(WholePromptBackend(vlm, whole))
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
        if budget.fixed_shapes:
            answers = [len(targets[n]) for n in range(len(tokens))]
            rows = iter([_ordered(one_row_per_sequence(tokens, answers))])
        elif str(self._vlm.dtype) == "torch.float32":
            rows = rows_of_one_length(tokens)
        else:
            rows = iter([_ordered(pack_with_prefixes(tokens, [len(targets[n]) for n in range(len(tokens))]))])
        ahead = 1 if self._vlm.device.type == "cuda" else 0  # passes that are started before a result is read
        started: deque[LogLikelihoods] = deque()
        for group in rows:
            while group:
                batch = group[: budget.take_rows(group, copies_no_prefix(self._vlm))]
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


class WholePromptBackend:
    """Prompts with images, read by the family's own forward pass; answers in slots that are refilled.

    Attributes:
        unanswered: as in `PaddedBackend`.
    """

    def __init__(self, vlm: HFModel, requests: Mapping[str, Request]) -> None:
        self._vlm = vlm
        self._lengths, self.unanswered = prompt_lengths(vlm, requests)
        self._left = {key: request for key in self._lengths if isinstance(request := requests[key], GenerationRequest)}

    def answers(self, budget: MemoryBudget) -> Iterator[dict[str, Response]]:
        """Yield responses by key; the longest prompts come first."""
        from vrbench.models.generation import AnswerGenerator
        from vrbench.models.prompt_reading import WholePrompts

        keys = sorted(self._left, key=lambda key: self._lengths[key], reverse=True)
        if not keys:
            return
        requests = [self._left[key] for key in keys]
        lengths = {number: self._lengths[key] for number, key in enumerate(keys)}
        stops = {number: StopCriteria(r.max_new_tokens, r.until) for number, r in enumerate(requests)}
        parts = [self._on_same_images(part, requests, lengths, budget) for part in slot_groups(lengths, stops, budget)]
        encoded = Ahead(self._vlm, partial(self._encoded, requests), [first for part in parts for first, *_ in part])
        for part in parts:
            prompts = WholePrompts(self._vlm, part, lengths, encoded)
            for found in AnswerGenerator(self._vlm, prompts, stops, budget):
                for number in found:
                    del self._left[keys[number]]
                yield {keys[number]: answer for number, answer in found.items()}

    def _on_same_images(
        self,
        numbers: Sequence[int],
        requests: Sequence[GenerationRequest],
        lengths: Mapping[int, int],
        budget: MemoryBudget,
    ) -> list[dict[int, list[int]]]:
        """Return groups of prompts that are equal up to the end of their images, no larger than what a pass holds.

        Returns:
            Number -> token ids behind the images.
        """
        most = min(MAX_QUESTIONS, budget.rows_per_pass or MAX_QUESTIONS)
        groups: list[dict[int, list[int]]] = []
        latest: dict[Any, dict[int, list[int]]] = {}
        for number in numbers:
            request = requests[number]
            images = tuple(image.digest for image in request.images)
            key = images, self._vlm.before_question(request.prompt)
            question, group = self._vlm.question(request.prompt), latest.get(key, {})
            tokens = sum(lengths[first] + len(group) * len(group[first]) for first in [*group][:1])
            if group and len(group) < most and tokens <= budget.pass_tokens:
                group[number] = question
            else:
                latest[key] = {number: question}
                groups.append(latest[key])
        return groups

    def _encoded(self, requests: Sequence[GenerationRequest], number: int) -> ImagePrompt:
        request = requests[number]
        return self._vlm.image_prompt(request.prompt, [image.load() for image in request.images])


class PaddedBackend:
    """Each prompt by itself, through the family's own processor, in batches padded on the left.

    Attributes:
        unanswered: requests with images that the family's image processor refuses, or longer than the context.
    """

    def __init__(self, vlm: HFModel, requests: Mapping[str, Request]) -> None:
        self._vlm = vlm
        self._lengths, self.unanswered = prompt_lengths(vlm, requests)
        self._requests = {key: requests[key] for key in self._lengths}

    def answers(self, budget: MemoryBudget) -> Iterator[dict[str, Response]]:
        """Yield responses by key, the longest first."""
        shown = {
            key: request
            for group in self._groups()
            for key in group
            if isinstance(request := self._requests[key], GenerationRequest) and request.images
        }
        encoded = Ahead(self._vlm, lambda key: self._encoded(shown[key]), shown if self._vlm.joins_prompts else ())
        for group in self._groups():
            while group:
                lengths = [self._lengths[group[0]] + self._answer(key) for key in group]
                batch = group[: budget.take([max(lengths), *lengths[1:]])]
                group = group[len(batch) :]
                found = self._batch(batch, encoded)
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

    def _encoded(self, request: GenerationRequest) -> Mapping[str, torch.Tensor]:
        return self._vlm.prompt_inputs(request.prompt, [image.load() for image in request.images])

    def _batch(self, batch: Sequence[str], encoded: Callable[[str], Mapping[str, torch.Tensor]]) -> dict[str, Response]:
        """Return the responses to some requests by key, given the inputs of a prompt with images."""
        requests = [self._requests[key] for key in batch]
        likely = [request for request in requests if isinstance(request, LogLikelihoodRequest)]
        if likely:
            sequences = [(*request.context, *request.continuation)[:-1] for request in likely]
            scores = self._vlm.loglikelihood(sequences, [request.continuation for request in likely])
            return dict(zip(batch, scores, strict=True))
        generated = [request for request in requests if isinstance(request, GenerationRequest)]
        limits = [StopCriteria(request.max_new_tokens, request.until) for request in generated]
        if generated[0].images:
            if self._vlm.joins_prompts:
                inputs = self._vlm.join_prompts([encoded(key) for key in batch])
            else:
                images = [[image.load() for image in request.images] for request in generated]
                inputs = self._vlm.encode_with_images([request.prompt for request in generated], images)
        else:
            inputs = self._vlm.pad_token_ids([request.tokens for request in generated])
        return dict(zip(batch, self._vlm.generate(inputs, limits), strict=True))

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


def prompt_lengths(vlm: HFModel, requests: Mapping[str, Request]) -> tuple[dict[str, int], dict[str, Unanswered]]:
    """Return key -> tokens, those of images included, and key -> reason for requests that cannot be answered."""
    _count_ahead(vlm, requests.values())
    lengths: dict[str, int] = {}
    unanswered: dict[str, Unanswered] = {}
    for key, request in requests.items():
        try:
            length = _length(vlm, request)
        except UnsupportedImageError as error:
            unanswered[key] = Unanswered(str(error))
            continue
        if (reason := too_long_reason(vlm, request, length)) is not None:
            unanswered[key] = reason
        else:
            lengths[key] = length
    return lengths, unanswered


def _length(vlm: HFModel, request: Request) -> int:
    if isinstance(request, LogLikelihoodRequest):
        return len(request.context) + len(request.continuation) - 1
    if request.images:
        return vlm.length(request.prompt, _sizes(request))
    return len(request.tokens)


def _sizes(request: GenerationRequest) -> tuple[Size, ...]:
    return tuple(image.size or image.load().size for image in request.images)


def _count_ahead(vlm: HFModel, requests: Iterable[Request]) -> None:
    """Count the tokens of images of all sizes, in other processes where that takes the image processor."""
    if vlm.counts_by_size:
        return
    shown = (request for request in requests if isinstance(request, GenerationRequest) and request.images)
    prompts = {sizes: r.prompt for r in shown if (sizes := _sizes(r)) not in vlm.image_token_counts}

    def count(sizes: tuple[Size, ...]) -> int | None:
        try:
            return vlm.count_image_tokens(prompts[sizes], sizes)
        except UnsupportedImageError:
            return None

    counted = Ahead(vlm, lambda sizes: (count(sizes),), prompts)
    found = {sizes: counted(sizes)[0] for sizes in prompts}
    vlm.image_token_counts |= {sizes: tokens for sizes, tokens in found.items() if tokens is not None}


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
        self._towers: dict[str, str] = {}  # digest of a base -> of its tower
        self._ahead: Ahead[str, torch.Tensor] | None = None

    def plan_memory(self, device: torch.device, gpu_memory: float) -> float:
        """Set the budget on a GPU to a share of the memory that may be used there; return what is left of that.

        Args:
            gpu_memory: share of the GPU's memory that may be used.
        """
        if device.type != "cuda":
            return gpu_memory
        import torch

        self.budget = int(FEATURE_SHARE * gpu_memory * torch.cuda.mem_get_info(device)[1])
        return (1 - FEATURE_SHARE) * gpu_memory

    def features(
        self, vlm: LlavaModel, images: Sequence[RequestImage], per_pass: int = IMAGES_PER_PASS
    ) -> dict[str, torch.Tensor]:
        """Return image digest -> features [tokens, width of the tower], on the model's device.

        Args:
            per_pass: most images in one pass of the vision tower.
        """
        tower = self._tower(vlm)
        missing = {image.digest: image for image in images if (tower, image.digest) not in self._kept}
        found = {image.digest: self._kept[tower, image.digest] for image in images if image.digest not in missing}
        for digest in found:
            self._kept.move_to_end((tower, digest))
        todo = list(missing.values())
        for start in range(0, len(todo), per_pass):
            part = todo[start : start + per_pass]
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
        todo = {image.digest: image for image in images if (tower, image.digest) not in self._kept}
        self._ahead = Ahead(vlm, lambda digest: vlm.pixels(todo[digest].load()), todo)
        try:
            yield
        finally:
            self._ahead = None

    def _pixels(self, vlm: LlavaModel, image: RequestImage) -> torch.Tensor:
        return self._ahead(image.digest) if self._ahead else vlm.pixels(image.load())

    def _tower(self, vlm: LlavaModel) -> str:
        if not self.shared:
            return str(id(vlm))
        if not vlm.base_digest:
            return vlm.tower_digest
        if vlm.base_digest not in self._towers:  # nothing that is applied to a base changes its tower
            self._towers[vlm.base_digest] = vlm.tower_digest
        return self._towers[vlm.base_digest]


class Ahead(Generic[Key, Value]):
    """Values of keys, which worker processes compute ahead of what is read on a GPU; else each when it is read."""

    def __init__(self, vlm: BaseVLM, compute: Callable[[Key], Value], keys: Iterable[Key]) -> None:
        """Start the processes, if they are worth it.

        Args:
            compute: gives a key's value, without the GPU.
            keys: in the order in which their values will be read, more or less.
        """
        self._compute, self._keys = compute, list(keys)
        self._expected = set(self._keys)
        self._ready: dict[Key, Value] = {}
        self._prepared: Iterator[tuple[Key, Value]] = iter(())
        if vlm.device.type == "cuda" and len(self._keys) >= MIN_AHEAD:
            self.start()

    def start(self) -> None:
        """Start the processes."""
        from torch.utils.data import DataLoader

        workers = max(1, min(IMAGE_WORKERS, usable_cores() - 1))
        loader: Any = DataLoader(
            self, batch_size=None, num_workers=workers, prefetch_factor=IMAGES_AHEAD // workers,  # type: ignore[arg-type]
            multiprocessing_context="fork",  # what images are loaded with cannot be pickled
            worker_init_fn=_start_worker, timeout=AHEAD_TIMEOUT,
        )  # fmt: skip
        self._prepared = iter(loader)

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, index: int) -> tuple[Key, Value]:
        return self._keys[index], self._compute(self._keys[index])

    def __call__(self, key: Key) -> Value:
        """Return a key's value; those of other keys are kept until they are asked for once."""
        while key in self._expected:
            try:
                found, value = next(self._prepared, (key, None))
            except Exception as error:  # of another image too: it comes again when that one is read
                _log.warning("images are prepared in one process from here on: %s", error)
                self._prepared = iter(())
                self._expected.clear()
                break
            self._expected.discard(found)
            self._ready[found] = self._compute(key) if value is None else value
        return self._ready.pop(key) if key in self._ready else self._compute(key)


def _start_worker(number: int) -> None:
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # which tokenizers want to be told after a fork
