"""vLLM as the backend of a run: the same requests, answered by its engine over a folder of the whole model.

Prompts are our own token ids, with one placeholder for each image. Stop texts are given to vLLM so that it ends early;
an answer's text is decoded from its tokens and cut here, as for every other backend. Options of one token are read from
the log-probabilities of the first token behind the context that they share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vrbench.checkpoints.checkpoint import Checkpoint
from vrbench.checkpoints.image_settings import HARNESS
from vrbench.core.errors import VrbenchError
from vrbench.evaluation.requests import (
    GenerationRequest,
    LogLikelihoodRequest,
    Request,
    Response,
    Unanswered,
    too_long_reason,
)
from vrbench.evaluation.vllm_checks import SEVERAL_TOKENS
from vrbench.models.decoding import StopCriteria, decode_answer, needs_logits_processors
from vrbench.models.hf_model import HFModel
from vrbench.models.load import DTYPES, load_without_weights
from vrbench.models.memory_budget import GPU_MEMORY, MemoryBudget
from vrbench.models.processors import UnsupportedImageError
from vrbench.models.vllm_engine import MAX_TOKEN_IDS, VllmEngine, VllmPrompt
from vrbench.models.whole_folder import whole_folder

if TYPE_CHECKING:
    from vrbench.models.base_vlm import BaseVLM

PROMPTS_PER_CALL = 2048
"""Prompts that vLLM gets at a time: their answers are stored together, so that an interruption loses no more."""

IMAGES_PER_CALL = 512
"""The same for prompts with images, which are in memory as pixels."""


@contextmanager
def served_vlm(
    checkpoint: Checkpoint, device: str, dtype: str, images: str = HARNESS, gpu_memory: float = GPU_MEMORY,
    rows: int | None = None, **arguments: Any,
) -> Iterator[BaseVLM]:  # fmt: skip
    """Load all of a checkpoint but its weights, with vLLM to answer for it, which ends with the block.

    Args:
        checkpoint: of a family that vLLM serves.
        device, dtype, images: as in `load_vlm`.
        gpu_memory: share of the GPU's memory that vLLM takes.
        rows: most answers in progress; None for vLLM's default.
        arguments: of vLLM's `LLM`, besides those that are set here.

    Raises:
        VrbenchError: the checkpoint's generation config asks for more than the likeliest token.
    """
    vlm = load_without_weights(checkpoint, device, dtype, images)
    if needs_logits_processors(vlm):
        raise VrbenchError(f"{checkpoint.id} has a generation config that vLLM does not follow; leave out --backend")
    limit = {} if rows is None else {"max_num_seqs": rows}
    given = {**engine_arguments(vlm, dtype, gpu_memory), **limit, **arguments}
    vlm.vllm = VllmEngine(lambda: whole_folder(checkpoint, DTYPES[dtype], device), **given)
    try:
        yield vlm
    finally:
        vlm.vllm.close()


def engine_arguments(vlm: BaseVLM, dtype: str, gpu_memory: float) -> dict[str, Any]:
    """Return the arguments of vLLM's `LLM`, besides the model, by which its answers are meant to be those of a run."""
    return {
        "dtype": dtype,
        "max_model_len": vlm.full_context,
        "gpu_memory_utilization": gpu_memory,
        "generation_config": "vllm",  # no settings of its own choice
        "limit_mm_per_prompt": {"video": 0},  # no memory is set aside for what is never shown
        "mm_processor_kwargs": {**_processor_arguments(vlm), **vlm.prompt_format.image_settings},
    }


def _processor_arguments(vlm: BaseVLM) -> dict[str, Any]:
    """Return what makes transformers' processor prepare the pixels of our own engine, where there is such an argument.

    vLLM gives it to the processor when that is made, which follows it, and at each call, where transformers warns once
    that it is ignored. Processors of families with videos cannot be made with it (transformers 5.17 to 5.23): theirs
    is torchvision's.
    """
    has_videos = isinstance(vlm, HFModel) and "video_processor" in vlm.processor.get_attributes()
    return {} if has_videos else {"backend": "pil"}


@dataclass(frozen=True)
class _Asked:
    """A prompt for vLLM, and what its output answers."""

    prompt: VllmPrompt
    read: Callable[[Any], dict[str, Response]]
    """vLLM's output -> response by key."""


class VllmBackend:
    """Requests of one kind, answered by vLLM.

    Attributes:
        unanswered: requests that with their answer's first token are longer than the context, or have images that the
            family's image processor refuses.
    """

    def __init__(self, vlm: BaseVLM, engine: VllmEngine, requests: Mapping[str, Request]) -> None:
        """Make the prompts.

        Raises:
            VrbenchError: a request is for an option of several tokens, or a prompt does not fit its images.
        """
        self._vlm, self._engine = vlm, engine
        self.unanswered: dict[str, Unanswered] = {}
        self._left: list[_Asked] = []
        options: dict[tuple[int, ...], dict[str, int]] = {}
        for key, request in requests.items():
            if (reason := self._refusal(request)) is not None:
                self.unanswered[key] = reason
            elif isinstance(request, GenerationRequest):
                self._left.append(self._answer(key, request))
            elif len(request.continuation) == 1:
                options.setdefault(request.context, {})[key] = request.continuation[0]
            else:
                raise VrbenchError(SEVERAL_TOKENS)
        for context, tokens in options.items():
            self._left += self._options(context, tokens)

    def answers(self, budget: MemoryBudget) -> Iterator[dict[str, Response]]:
        """Yield responses by key; vLLM plans its own memory."""
        while self._left:
            part = self._left[: IMAGES_PER_CALL if self._left[0].prompt.images else PROMPTS_PER_CALL]
            outputs = self._engine.generate([asked.prompt for asked in part])
            self._left = self._left[len(part) :]
            found: dict[str, Response] = {}
            for asked, output in zip(part, outputs, strict=True):
                found |= asked.read(output)
            yield found

    def _answer(self, key: str, request: GenerationRequest) -> _Asked:
        vlm, stop = self._vlm, StopCriteria(request.max_new_tokens, request.until)
        until = [text for text in request.until if text]
        parameters = {
            "max_tokens": request.max_new_tokens,
            "stop": until,
            "stop_token_ids": sorted(vlm.stop_token_ids),
            "ignore_eos": True,  # those named above end an answer, and no others
            "detokenize": bool(until),
            "skip_special_tokens": True,
        }
        tokens: Any = request.tokens
        if request.images:
            tokens = vlm.encode_with_placeholders(request.prompt, len(request.images))
        prompt = VllmPrompt(tokens, parameters, [(image.digest, image.load) for image in request.images])
        return _Asked(prompt, lambda output: {key: decode_answer(vlm, list(output.token_ids), stop)})

    def _options(self, context: tuple[int, ...], options: Mapping[str, int]) -> Iterator[_Asked]:
        """Yield the prompt of options that share a context, or several where there are too many."""

        def read(output: Any) -> dict[str, Response]:
            (scores,), best = output.logprobs, output.token_ids[0]
            return {
                key: (float(scores[token].logprob), token == best) for key, token in options.items() if token in scores
            }

        tokens = sorted(set(options.values()))
        for start in range(0, len(tokens), MAX_TOKEN_IDS):
            part = tokens[start : start + MAX_TOKEN_IDS]
            yield _Asked(VllmPrompt(context, {"max_tokens": 1, "logprob_token_ids": part, "detokenize": False}), read)

    def _refusal(self, request: Request) -> Unanswered | None:
        """Return why a request cannot be answered: vLLM's context holds the prompt and at least one token behind it."""
        try:
            return too_long_reason(self._vlm, request, self._length(request) + 1)
        except UnsupportedImageError as error:
            return Unanswered(str(error))

    def _length(self, request: Request) -> int:
        """Return the number of tokens of a prompt, including those of images."""
        if isinstance(request, LogLikelihoodRequest):
            return len(request.context)
        if not request.images:
            return len(request.tokens)
        if isinstance(self._vlm, HFModel):
            return self._vlm.length(request.prompt, [image.size or image.load().size for image in request.images])
        marks = self._vlm.encode_with_placeholders(request.prompt, len(request.images))
        return len(marks) + len(request.images) * (self._vlm.image_tokens - 1)
