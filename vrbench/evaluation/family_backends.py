"""Requests answered through a family's own processor: in slots, or in padded batches by transformers' `generate`."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from vrbench.evaluation.packed_backend import slot_groups
from vrbench.evaluation.prefetch import Prefetcher
from vrbench.evaluation.requests import (
    GenerationRequest,
    LogLikelihoodRequest,
    Request,
    Response,
    Unanswered,
    too_long_reason,
)
from vrbench.models.decoding import StopCriteria
from vrbench.models.memory_budget import MemoryBudget
from vrbench.models.processors import UnsupportedImageError

if TYPE_CHECKING:
    import torch

    from vrbench.models.hf_model import HFModel
    from vrbench.models.image_prompts import ImagePrompt, Size

PROMPTS_AHEAD = 32
"""Prompts that are prepared before they are read; with large images one may take 150 MB."""

MAX_QUESTIONS = 16
"""Most prompts that read the same images together."""


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
        questions = {number: tokens for part in parts for group in part for number, tokens in group.items()}

        def encode(number: int) -> ImagePrompt:
            request = requests[number]
            images = [image.load() for image in request.images]
            return self._vlm.image_prompt(request.prompt, images, questions[number])

        firsts = [first for part in parts for first, *_ in part]
        with Prefetcher(self._vlm, encode, firsts, PROMPTS_AHEAD) as encoded:
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
            first = next(iter(group), number)
            tokens = lengths[first] + len(group) * len(group.get(first, ()))
            if group and len(group) < most and tokens <= budget.pass_tokens:
                group[number] = question
            else:
                latest[key] = {number: question}
                groups.append(latest[key])
        return groups


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
        ahead = shown if self._vlm.joins_prompts else ()
        with Prefetcher(self._vlm, lambda key: self._encoded(shown[key]), ahead, PROMPTS_AHEAD) as encoded:
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
    """Count the tokens of images of all sizes, in threads where that takes the image processor."""
    if vlm.counts_by_size:
        return
    shown = (request for request in requests if isinstance(request, GenerationRequest) and request.images)
    prompts = {sizes: r.prompt for r in shown if (sizes := _sizes(r)) not in vlm.image_token_counts}

    def count(sizes: tuple[Size, ...]) -> int | None:
        try:
            return vlm.count_image_tokens(prompts[sizes], sizes)
        except UnsupportedImageError:
            return None

    with Prefetcher(vlm, count, prompts) as counted:
        found = {sizes: counted(sizes) for sizes in prompts}
    vlm.image_token_counts |= {sizes: tokens for sizes, tokens in found.items() if tokens is not None}
