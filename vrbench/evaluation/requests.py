"""Requests to a model, their stop criteria, and the keys under which responses are stored.

A text longer than the context is truncated on the left, as in lm-eval's `HFLM` (`lm_eval/models/huggingface.py`): a
log-likelihood keeps the last tokens that fit with its continuation, and a question keeps those that leave room for the
longest answer that its task allows. A prompt with images is never truncated, since its image tokens belong together:
if it does not fit as a whole, it stays unanswered. Its answer may run past the context, as transformers' `generate`
allows.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from vrbench.checkpoints.code_versions import COMPONENTS
from vrbench.checkpoints.families import StopRule
from vrbench.core.device import device_name
from vrbench.core.errors import VrbenchError
from vrbench.core.io import canonical_json, digest_of
from vrbench.core.provenance import ADAPTER_PACKAGES, ANSWER_PACKAGES, BACKEND_PACKAGES, VRBENCH, package_versions

if TYPE_CHECKING:
    from PIL.Image import Image

    from vrbench.models.base_vlm import BaseVLM
    from vrbench.models.decoding import StopCriteria

Response = str | tuple[float, bool] | float
"""A text; (log-likelihood in nats, whether greedy decoding says it) of an option; the log-likelihood of a text."""

OWN_SETTINGS = "of_the_task_file"
"""Generation setting which says that the others are a task file's own `generation`, valid for every family."""

LENGTH_SETTINGS = ("max_gen_toks", "max_new_tokens", "max_tokens")
"""Names of the longest answer; the first one present counts, as in lm-eval."""


@dataclass(frozen=True)
class RequestImage:
    """An image by its content; pixels are loaded when they are needed, so that a large data set fits into memory.

    Attributes:
        digest: sha256 over mode, size and pixels.
        load: returns the image.
        size: width and height, if they are known.
    """

    digest: str
    load: Callable[[], Image] = field(compare=False, repr=False)
    size: tuple[int, int] | None = field(default=None, compare=False, repr=False)


@dataclass(frozen=True)
class LogLikelihoodRequest:
    """A request for the log-likelihood of a continuation of a context; both are token ids, neither is empty.

    The response is (sum of log-probabilities in nats, whether greedy decoding would generate it).

    Attributes:
        item: the item that it belongs to, for progress and truncation counts.
    """

    context: tuple[int, ...]
    continuation: tuple[int, ...]
    item: Hashable = field(default=None, compare=False, repr=False)

    def key(self, conditions: Mapping[str, str]) -> str:
        """Return the sha256 over everything that determines the response, except the checkpoint."""
        hashed = _hashed_context(conditions["loglikelihood"], self.context).copy()
        hashed.update(f'{canonical_json(self.continuation)},"kind":"loglikelihood"}}'.encode())
        return str(hashed.hexdigest())


@lru_cache(maxsize=8)
def _hashed_context(conditions: str, context: tuple[int, ...]) -> Any:
    """Return the sha256 of the canonical JSON of a key's content up to the continuation, which options share."""
    start = f'{{"conditions":{canonical_json(conditions)},"context":{canonical_json(context)},"continuation":'
    return hashlib.sha256(start.encode())


@dataclass(frozen=True)
class GenerationRequest:
    """A request for a greedily decoded answer to a prompt; the response is a text.

    Attributes:
        prompt: the whole prompt, chat template applied, with one image token for each image.
        images: in the order of their tokens.
        max_new_tokens: maximum number of generated tokens.
        until: stop texts.
        tokens: of a prompt without images, if they are known; after `truncate_request` as many of its end as fit into
            the context.
        item: the item that it belongs to, for progress and truncation counts.
    """

    prompt: str
    images: tuple[RequestImage, ...]
    max_new_tokens: int
    until: tuple[str, ...]
    tokens: tuple[int, ...] = field(default=(), compare=False, repr=False)
    item: Hashable = field(default=None, compare=False, repr=False)

    def key(self, conditions: Mapping[str, str]) -> str:
        """Return the sha256 over everything that determines the response, except the checkpoint."""
        content = {
            "kind": "generation",
            "prompt": self.prompt,
            "pictures": [image.digest for image in self.images],
            "max_new_tokens": self.max_new_tokens,
            "until": self.until,
        }
        return digest_of({**content, "conditions": conditions["images" if self.images else "text"]})

    @property
    def prompt_digest(self) -> str:
        """sha256 over prompt and images."""
        return digest_of([self.prompt, *(image.digest for image in self.images)])


Request = LogLikelihoodRequest | GenerationRequest


class Unanswered(str):
    """The empty response to a request that the model cannot answer; its item is unscored.

    Attributes:
        reason: why.
    """

    reason: str

    def __new__(cls, reason: str) -> Unanswered:
        made = super().__new__(cls, "")
        made.reason = reason
        return made


def request_image(image: Image, load: Callable[[], Image]) -> RequestImage:
    """Return an image by its content; its pixels are not kept, and `load` must return the same ones again."""
    header = f"{image.mode} {image.size[0]}x{image.size[1]} ".encode()
    return RequestImage(hashlib.sha256(header + image.tobytes()).hexdigest(), load, image.size)


def stop_criteria(settings: Mapping[str, Any], longest: int, stops: StopRule = tuple) -> StopCriteria:
    """Return the stop criteria that a harness's generation settings mean.

    Args:
        settings: `generation_kwargs` of a task.
        longest: maximum number of tokens where the settings name none.
        stops: which texts of the harness's `until` end an answer; all of them where the settings are a task file's own.

    Raises:
        VrbenchError: the settings ask for sampling or beams; answers here are greedy, so that they can be repeated.
    """
    from vrbench.models.decoding import StopCriteria

    if settings.get("do_sample") or float(settings.get("temperature") or 0) > 0:
        raise VrbenchError("the task asks for sampled answers; only greedy ones are supported")
    if int(settings.get("num_beams") or 1) != 1:
        raise VrbenchError(f"the task asks for {settings['num_beams']} beams; only greedy answers are supported")
    until = settings.get("until") or ()
    until = (until,) if isinstance(until, str) else tuple(until)
    lengths = [settings[name] for name in LENGTH_SETTINGS if settings.get(name) is not None]
    return StopCriteria(int(lengths[0]) if lengths else longest, until if settings.get(OWN_SETTINGS) else stops(until))


def truncate_request(vlm: BaseVLM, request: Request) -> tuple[Request, bool]:
    """Truncate a request on the left to the model's context; return it, and whether it was truncated.

    Raises:
        VrbenchError: the longest answer alone fills the context.
    """
    if isinstance(request, LogLikelihoodRequest):
        room = max(1, vlm.context_length + 1 - len(request.continuation))
        if len(request.context) <= room:
            return request, False
        return replace(request, context=request.context[-room:]), True
    if request.images:
        return request, False
    tokens = request.tokens or tuple(vlm.encode(request.prompt))
    kept = tuple(truncate_left(tokens, request.max_new_tokens, vlm.context_length))
    return (request if kept == request.tokens else replace(request, tokens=kept)), len(kept) < len(tokens)


def truncate_left(tokens: Sequence[int], answer: int, context: int) -> list[int]:
    """Return the end of a prompt, as much of it as leaves room for an answer of that many tokens.

    Raises:
        VrbenchError: the answer alone fills the context.
    """
    room = context - answer
    if room < 1:
        raise VrbenchError(f"{answer} tokens for an answer leave no room for a prompt in a context of {context}")
    return list(tokens[-room:])


def too_long_reason(vlm: BaseVLM, request: Request, length: int) -> Unanswered | None:
    """Return why a request cannot be answered, if it has more tokens than the model's context.

    Args:
        request: as `truncate_request` returns it.
        length: tokens that the model would read, including those of images.
    """
    images = len(request.images) if isinstance(request, GenerationRequest) else 0
    context = vlm.full_context if images else vlm.context_length
    if length <= context:
        return None
    what = "the prompt" if images else "the text to be judged"
    shown = f" with {images} image{'s' * (images > 1)}" * bool(images)
    return Unanswered(f"{what} has {length:,} tokens{shown}, and the model's context is {context:,}")


# Not here, since it is in the request by content: prompt and token ids (so the harnesses, prompt formats, chat
# templates, few-shot examples and truncation of token ids), stop texts and length (so a family's stop rule), and the
# pixels of each image as opened. Not here, since it is in the checkpoint's digest: weights, tokenizer, generation
# config, and the image settings in its folder. Image settings are here nevertheless, since our own code may override
# those of the folder. The family's version is here although prompt and stop texts are in the request: it covers
# everything else that a family's code does, such as how it is loaded.
def answer_conditions(vlm: BaseVLM, deterministic: bool = False) -> dict[str, str]:
    """Return the sha256 over what determines a response besides the request: libraries, device, dtype, our own code.

    Where another backend than vrbench's own answers, its name and its package are part of it.

    Args:
        deterministic: whether its bits depend on nothing else; the model of the GPU or processor then counts.

    Returns:
        "loglikelihood", "text" (generated without an image) and "images" (generated from images) -> sha256.
    """
    others = (*(ADAPTER_PACKAGES if vlm.has_adapter else ()), *BACKEND_PACKAGES[vlm.backend])

    def digest(kind: str, *components: str, **more: Any) -> str:
        versions = {**vlm.code, **{name: COMPONENTS[name] for name in components}}
        packages = package_versions((*ANSWER_PACKAGES[kind], *others))
        if deterministic:
            more["deterministic"] = {"version": COMPONENTS["fixed_shapes"], "device": device_name(vlm.device)}
        if vlm.backend != VRBENCH:
            more["backend"] = vlm.backend
        found = {"dtype": str(vlm.dtype), "device": vlm.device.type, "packages": packages, "code": versions, **more}
        return digest_of(json.loads(json.dumps(found, default=str)))

    return {
        "loglikelihood": digest("loglikelihood", "loglikelihood"),
        "text": digest("text", "decoding", "context"),
        "images": digest("images", "decoding", "context", "images", settings=vlm.image_settings),
    }
