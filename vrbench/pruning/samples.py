"""Questions as model inputs, a few at a time: memory does not grow with their number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Any, Literal, NamedTuple, TypeVar

import torch

from vrbench.models import components
from vrbench.models.llava_model import LlavaModel
from vrbench.models.packing import PackedSequence, pack
from vrbench.models.processors import UnsupportedImageError
from vrbench.pruning.questions import ImageQuestion

TokenSubset = Literal["all", "text", "image", "after_image", "last"]
"""Tokens of a sample: all, those of its text, those of its image, its text after the image's first token, the last."""

IMAGES_PER_PASS = 32
ROWS_PER_PASS = 8

T = TypeVar("T")


@dataclass(frozen=True)
class ForwardPass:
    """Samples that go through a model together.

    Attributes:
        paths: row and indices in that row of the tokens of each sample, in their order.
        is_image: [rows, longest] whether a token is an image's.
        run: the forward pass, without gradients.
    """

    paths: list[tuple[int, torch.Tensor]]
    is_image: torch.Tensor
    run: Callable[[], object]

    def weights(self, subset: TokenSubset) -> torch.Tensor:
        """Return [rows, longest] each token's weight in a sum over samples of the mean over a subset of their tokens.

        A token that several samples share counts for each of them. A sample without such tokens counts for nothing.
        """
        found = torch.zeros(self.is_image.shape, dtype=torch.float64)
        for row, path in self.paths:
            is_image = self.is_image[row, path]
            chosen = {
                "all": path, "text": path[~is_image], "image": path[is_image], "last": path[-1:],
                "after_image": path[~is_image & (is_image.cumsum(0) > 0)],
            }[subset]  # fmt: skip
            found[row, chosen] += 1 / max(1, len(chosen))
        return found


class Samples:
    """Questions with their answers, read by a model as often as needed.

    Attributes:
        vlm: the model.
        depth: its decoder layers.
        count: number of samples in the last reading.
    """

    def __init__(self, vlm: Any, questions: Iterable[list[ImageQuestion]]) -> None:
        self.vlm = vlm
        self.questions = questions
        self.depth = len(components.decoder_layers(vlm.model))
        self.count = 0

    def passes(self) -> Iterator[ForwardPass]:
        """Yield one forward pass after the other; packed where the family's prompts can be."""
        self.count = 0
        for each in self._packed() if isinstance(self.vlm, LlavaModel) else self._whole():
            self.count += len(each.paths)
            yield each

    def _packed(self) -> Iterator[ForwardPass]:
        for batch in packed_batches(self.vlm, self.questions):
            for part in batch.split(ROWS_PER_PASS):
                longest = max(len(row) for row in part.rows)
                is_image = [[t < 0 for t in row.tokens] + [False] * (longest - len(row)) for row in part.rows]
                paths = [(i, torch.tensor(path)) for i, row in enumerate(part.rows) for path in row.paths.values()]
                yield ForwardPass(
                    paths, torch.tensor(is_image), partial(self.vlm.hidden_states, part.rows, part.features)
                )

    def _whole(self) -> Iterator[ForwardPass]:
        for some in batched(chain.from_iterable(self.questions), ROWS_PER_PASS):
            inputs, _ = padded_inputs(self.vlm, some)
            mask = inputs["attention_mask"].bool().cpu()
            paths = [(row, used.nonzero()[:, 0]) for row, used in enumerate(mask)]
            is_image = (inputs["input_ids"] == self.vlm.model.config.image_token_id).cpu()
            yield ForwardPass(paths, is_image & mask, partial(_forward, self.vlm.model, inputs))


class PackedQuestions(NamedTuple):
    """Samples as packed rows, with what a `LlavaModel` needs to read them.

    Attributes:
        rows: packed sequences, whose paths are numbered as the samples are.
        answers: sample -> token ids of its answer, end included; the last of them is in no row.
        features: slot -> the image's projected features, [tokens, hidden].
    """

    rows: list[PackedSequence]
    answers: dict[int, list[int]]
    features: dict[int, torch.Tensor]

    def split(self, size: int) -> Iterator[PackedQuestions]:
        """Yield batches of at most `size` rows."""
        for start in range(0, len(self.rows), size):
            rows = self.rows[start : start + size]
            yield PackedQuestions(rows, {i: self.answers[i] for row in rows for i in row.paths}, self.features)


def packed_batches(vlm: LlavaModel, questions: Iterable[list[ImageQuestion]]) -> Iterator[PackedQuestions]:
    """Yield packed batches of `IMAGES_PER_PASS` images; samples are numbered through all of them."""
    count = 0
    for group in batched(questions, IMAGES_PER_PASS):
        images = [on_image[0].image for on_image in group]
        projected = vlm.project(vlm.encode_images(images)).clone()  # so that it has grads
        sequences: list[list[int]] = []
        answers: dict[int, list[int]] = {}
        for slot, on_image in enumerate(group):
            for question in on_image:
                tokens, length = sequence_of(vlm, question, slot)
                answers[count + len(sequences)] = tokens[len(tokens) - length :]
                sequences.append(tokens[:-1] if length else tokens)
        rows = pack(sequences)
        for row in rows:
            row.paths = {count + number: path for number, path in row.paths.items()}
        yield PackedQuestions(rows, answers, dict(enumerate(projected)))
        count += len(sequences)


def batched(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of `size` items; the last may be shorter."""
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some


def sequence_of(vlm: LlavaModel, question: ImageQuestion, slot: int) -> tuple[list[int], int]:
    """Return token ids of a question, its answer and the end token, image tokens below 0; and the answer's length."""
    prompt = vlm.encode(vlm.prompt(question.prompt, 1), [slot])
    if not question.answer:
        return prompt, 0
    answer = [*vlm.tokenizer(question.answer, add_special_tokens=False)["input_ids"], vlm.eos_token_id]
    return [*prompt, *answer], len(answer)


def padded_inputs(vlm: Any, questions: Sequence[ImageQuestion]) -> tuple[dict[str, Any], list[int]]:
    """Return a model's inputs for questions with their answers, padded on the left; and each answer's length in tokens.

    Args:
        vlm: of any family; a `LlavaModel` gets the answers' end tokens too, as in packed batches.
        questions: the samples, one a row.

    Raises:
        UnsupportedImageError: the family's processor refuses an image.
    """
    if isinstance(vlm, LlavaModel):
        return _llava_inputs(vlm, questions)
    prompts = [vlm.prompt(question.prompt, 1) for question in questions]
    texts = [prompt + question.answer for prompt, question in zip(prompts, questions, strict=True)]
    lengths = [[len(vlm.tokenizer(text)["input_ids"]) for text in pair] for pair in zip(prompts, texts, strict=True)]
    try:
        inputs = vlm.encode_with_images(texts, [[question.image] for question in questions])
    except UnsupportedImageError as error:
        refused = (q.file for q in questions if f" {q.image.width} x {q.image.height}:" in str(error))
        raise UnsupportedImageError(f"{next(refused, '')}: {error}; leave it out") from error
    return inputs, [whole - prompt for prompt, whole in lengths]


def _llava_inputs(vlm: LlavaModel, questions: Sequence[ImageQuestion]) -> tuple[dict[str, Any], list[int]]:
    sequences, lengths = zip(*[sequence_of(vlm, question, 0) for question in questions], strict=True)
    longest = max(len(sequence) for sequence in sequences)
    image = vlm.model.config.image_token_id
    ids = [[0] * (longest - len(s)) + [image if token < 0 else token for token in s] for s in sequences]
    mask = [[0] * (longest - len(s)) + [1] * len(s) for s in sequences]
    images = [question.image.convert("RGB") for question in questions]
    pixels = vlm.image_processor(images=images, return_tensors="pt")["pixel_values"]
    inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
    placed = {name: value.to(vlm.device) for name, value in inputs.items()}
    return {**placed, "pixel_values": pixels.to(vlm.device, vlm.dtype)}, list(lengths)


@torch.inference_mode()
def _forward(model: Any, inputs: dict[str, Any]) -> None:
    model(**inputs, use_cache=False, logits_to_keep=1)
