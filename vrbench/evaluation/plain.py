"""Requests to a `HFModel`: each prompt on its own, through the family's own processor, in left-padded batches."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from vrbench.evaluation.requests import GenerationRequest, LogLikelihoodRequest, Request, Unanswered
from vrbench.evaluation.truncation import too_long
from vrbench.models.decoding import StopCriteria
from vrbench.models.processors import ImagesRefused

if TYPE_CHECKING:
    from vrbench.models.hf_model import HFModel


@dataclass(frozen=True)
class Question:
    """One request to be computed.

    Attributes:
        key: its key.
        request: the request.
        tokens: of a prompt without pictures; none where there are some, since the processor expands the prompt.
        length: tokens of the whole prompt, pictures included.
    """

    key: str
    request: Request
    tokens: tuple[int, ...]
    length: int

    def __len__(self) -> int:
        return self.length


class PaddedBatches:
    """Requests of one kind, and the answers to some of them; see `answering.Way`.

    Attributes:
        not_asked: requests with images that the family's image processor refuses, or longer than the context.
    """

    def __init__(self, vlm: HFModel, requests: Mapping[str, Request]) -> None:
        self._vlm = vlm
        self.not_asked: dict[str, Unanswered] = {}
        self._questions: list[Question] = []
        for key, request in requests.items():
            try:
                question = self._question(key, request)
            except ImagesRefused as error:
                self.not_asked[key] = Unanswered(str(error))
                continue
            reason = too_long(vlm, request, question.length)
            if reason is not None:
                self.not_asked[key] = reason
            else:
                self._questions.append(question)

    def groups(self) -> Iterator[list[Question]]:
        """Questions that may come into one batch, one list after the other, each with its longest first."""
        ordered = sorted(self._questions, key=self._group, reverse=True)
        for _, group in itertools.groupby(ordered, key=lambda question: self._group(question)[0]):
            together = list(group)
            fitting = [one for one in together if len(one) + _answer(one) <= self._vlm.max_batch_length]
            if fitting:
                yield fitting
            if len(fitting) < len(together):
                yield from ([one] for one in together if len(one) + _answer(one) > self._vlm.max_batch_length)

    def tokens_held(self, question: Question, longest: int) -> int:
        """Tokens that a padded prompt takes, and on a card those of its answer."""
        return longest if self._vlm.device.type == "cpu" else longest + _answer(question)

    def answers(self, questions: Sequence[Question]) -> dict[str, Any]:
        """Answers by key."""
        keys = [question.key for question in questions]
        likely = [q.request for q in questions if isinstance(q.request, LogLikelihoodRequest)]
        if likely:
            said = self._vlm.loglikelihood([q.tokens for q in questions], [r.continuation for r in likely])
            return dict(zip(keys, said, strict=True))
        asked = [q.request for q in questions if isinstance(q.request, GenerationRequest)]
        limits = [StopCriteria(request.max_new_tokens, request.until) for request in asked]
        if asked[0].pictures:
            pictures = [[picture.load() for picture in request.pictures] for request in asked]
            inputs = self._vlm.encode_with_images([request.prompt for request in asked], pictures)
        else:
            inputs = self._vlm.pad_token_ids([question.tokens for question in questions])
        return dict(zip(keys, self._vlm.generate(inputs, limits), strict=True))

    def _question(self, key: str, request: Request) -> Question:
        if isinstance(request, LogLikelihoodRequest):
            tokens = (request.context + request.continuation)[:-1]
            return Question(key, request, tokens, len(tokens))
        if request.pictures:
            length = self._vlm.length(request.prompt, [picture.load() for picture in request.pictures])
            return Question(key, request, (), length)
        return Question(key, request, request.tokens, len(request.tokens))

    def _group(self, question: Question) -> tuple[int, int]:
        """(what a batch has to agree in, length).

        Log-likelihoods agree in the length, so that there is no padding; prompts in the number of pictures, since
        Mllama's answers change with pictures that are padding.
        """
        request = question.request
        agreed = question.length if isinstance(request, LogLikelihoodRequest) else len(request.pictures)
        return agreed, question.length


def _answer(question: Question) -> int:
    """Tokens of the answer at most."""
    return question.request.max_new_tokens if isinstance(question.request, GenerationRequest) else 0
