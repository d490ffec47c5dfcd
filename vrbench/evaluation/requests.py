"""What a model is asked, and the key under which the answer is stored."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from vrbench.core.io import digest_of

if TYPE_CHECKING:
    from PIL.Image import Image

    from vrbench.evaluation.conditions import AnswerConditions


@dataclass(frozen=True)
class RequestImage:
    """A picture by its content; the pixels are fetched when they are needed, so that a big set fits into memory.

    Attributes:
        digest: sha256 over mode, size and pixels.
        load: gives the picture.
    """

    digest: str
    load: Callable[[], Image] = field(compare=False, repr=False)


@dataclass(frozen=True)
class LogLikelihoodRequest:
    """How likely is this continuation of this context? Both as token ids, neither empty.

    The answer is (sum of log-probabilities in nats, whether greedy decoding would say it).
    """

    context: tuple[int, ...]
    continuation: tuple[int, ...]

    def key(self, conditions: AnswerConditions) -> str:
        """sha256 over all that decides the answer, the checkpoint aside."""
        content = {"kind": "loglikelihood", "context": self.context, "continuation": self.continuation}
        return digest_of({**content, "conditions": conditions.loglikelihood})


@dataclass(frozen=True)
class GenerationRequest:
    """What does greedy decoding say to this prompt? The answer is a text.

    Attributes:
        prompt: the whole prompt, chat template applied, one image mark for each picture.
        pictures: in the order of their marks.
        max_new_tokens: tokens of the answer, at most.
        until: texts that end the answer.
        tokens: of a prompt without pictures, as much of its end as fits into the context; see `fitting.fitted`.
    """

    prompt: str
    pictures: tuple[RequestImage, ...]
    max_new_tokens: int
    until: tuple[str, ...]
    tokens: tuple[int, ...] = field(default=(), compare=False, repr=False)

    def key(self, conditions: AnswerConditions) -> str:
        """sha256 over all that decides the answer, the checkpoint aside."""
        content = {
            "kind": "generation",
            "prompt": self.prompt,
            "pictures": [picture.digest for picture in self.pictures],
            "max_new_tokens": self.max_new_tokens,
            "until": self.until,
        }
        return digest_of({**content, "conditions": conditions.images if self.pictures else conditions.text})


Request = LogLikelihoodRequest | GenerationRequest


class Unanswered(str):
    """The empty answer to a request that was not put to the model; its item is unscored.

    Attributes:
        reason: why it was not asked.
    """

    reason: str

    def __new__(cls, reason: str) -> Unanswered:
        made = super().__new__(cls, "")
        made.reason = reason
        return made


def request_image(image: Image, load: Callable[[], Image]) -> RequestImage:
    """A picture from its pixels, which are not kept; `load` must give the same ones again."""
    about = f"{image.mode} {image.size[0]}x{image.size[1]} ".encode()
    return RequestImage(hashlib.sha256(about + image.tobytes()).hexdigest(), load)
