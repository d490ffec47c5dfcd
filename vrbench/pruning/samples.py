"""Questions as a model reads them, a few at a time: what is held does not grow with their number."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, islice
from typing import Any, Literal, TypeVar

import torch

from vrbench.core.errors import VrbenchError
from vrbench.models.llava_model import LlavaModel
from vrbench.models.packing import PackedSequence, pack
from vrbench.models.processors import ImagesRefused
from vrbench.pruning.questions import Question

Tokens = Literal["all", "text", "image", "after", "last"]
"""Which tokens of a sample count: all, those of its text, those of its picture, its text after the picture's first
token, or its last token."""

PICTURES_AT_ONCE = 32
ROWS_AT_ONCE = 8


@dataclass(frozen=True)
class Pass:
    """Some samples that go through a model together.

    Attributes:
        paths: row and indices in that row of the tokens of each sample, in their order.
        images: [rows, longest] whether a token is a picture's.
        run: the forward pass, without gradients.
    """

    paths: list[tuple[int, torch.Tensor]]
    images: torch.Tensor
    run: Callable[[], object]

    def shares(self, tokens: Tokens) -> torch.Tensor:
        """[rows, longest] what each token counts in a mean over samples of a mean over some of a sample's tokens.

        A token that several samples share counts for each of them. A sample that has none of these tokens counts for
        nothing.
        """
        found = torch.zeros(self.images.shape, dtype=torch.float64)
        for row, path in self.paths:
            is_image = self.images[row, path]
            chosen = {
                "all": path, "text": path[~is_image], "image": path[is_image], "last": path[-1:],
                "after": path[~is_image & (is_image.cumsum(0) > 0)],
            }[tokens]  # fmt: skip
            found[row, chosen] += 1 / max(1, len(chosen))
        return found


class Samples:
    """Questions and their answers, read by a model as often as is wanted.

    Attributes:
        vlm: the model.
        samples: how many there were in the last reading.
    """

    def __init__(self, vlm: Any, questions: Iterable[list[Question]]) -> None:
        self.vlm = vlm
        self.questions = questions
        self.samples = 0

    def looks(self) -> Iterator[Pass]:
        """Pass after pass; packed where the family's prompts can be."""
        self.samples = 0
        made = self._packed() if isinstance(self.vlm, LlavaModel) else self._whole()
        for each in made:
            self.samples += len(each.paths)
            yield each

    def counting(self, *tokens: Tokens) -> Counted:
        """The same samples with what each token counts, for one or more choices of tokens."""
        return Counted(self, tokens)

    def _packed(self) -> Iterator[Pass]:
        vlm: LlavaModel = self.vlm
        for some in groups(self.questions, PICTURES_AT_ONCE):
            projected = vlm.project(vlm.encode_images([of[0].picture for of in some]))
            pictures = dict(enumerate(projected))
            sequences = [
                sequence_of(vlm, question, slot)[0][: -1 if question.answer else None]
                for slot, of in enumerate(some) for question in of
            ]  # fmt: skip
            rows = pack(sequences)
            for start in range(0, len(rows), ROWS_AT_ONCE):
                yield _packed_pass(vlm, rows[start : start + ROWS_AT_ONCE], pictures)

    def _whole(self) -> Iterator[Pass]:
        for some in groups(chain.from_iterable(self.questions), ROWS_AT_ONCE):
            inputs, _ = whole_inputs(self.vlm, some)
            mask = inputs["attention_mask"].bool().cpu()
            paths = [(row, seen.nonzero()[:, 0]) for row, seen in enumerate(mask)]
            images = (inputs["input_ids"] == image_token(self.vlm.model)).cpu()
            yield Pass(paths, images & mask, partial(_forward, self.vlm.model, inputs))


@dataclass(frozen=True)
class Counted:
    """Samples with what each token counts, as `vrbench.pruning.hidden_states.layer_means` reads it."""

    of: Samples
    tokens: Sequence[Tokens]

    @property
    def vlm(self) -> Any:
        """The model."""
        return self.of.vlm

    @property
    def samples(self) -> int:
        """How many there were in the last reading."""
        return self.of.samples

    def passes(self) -> Iterator[tuple[list[torch.Tensor], Callable[[], object]]]:
        """What each token of each row counts, [tokens, choices of tokens] a row; and the pass."""
        for each in self.of.looks():
            yield list(torch.stack([each.shares(tokens) for tokens in self.tokens], -1)), each.run


T = TypeVar("T")


def groups(things: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of so many things; the last one may be shorter."""
    rest = iter(things)
    while some := list(islice(rest, size)):
        yield some


def _packed_pass(vlm: LlavaModel, rows: list[PackedSequence], pictures: dict[int, torch.Tensor]) -> Pass:
    longest = max(len(row) for row in rows)
    images = torch.tensor([[token < 0 for token in row.tokens] + [False] * (longest - len(row)) for row in rows])
    paths = [(i, torch.tensor(path)) for i, row in enumerate(rows) for path in row.paths.values()]
    return Pass(paths, images, partial(vlm.hidden_states, rows, pictures))


def sequence_of(vlm: LlavaModel, question: Question, slot: int) -> tuple[list[int], int]:
    """Token ids of a question with its answer and the end, tokens of its picture below 0; and how many are answer."""
    asked = vlm.encode(vlm.prompt(question.text, 1), [slot])
    if not question.answer:
        return asked, 0
    said = [*vlm.tokenizer(question.answer, add_special_tokens=False)["input_ids"], vlm.eos_token_id]
    return [*asked, *said], len(said)


def whole_inputs(vlm: Any, questions: Sequence[Question]) -> tuple[dict[str, Any], list[int]]:
    """A model's inputs for questions with their answers, padded on the left; and the tokens of each answer.

    Args:
        vlm: of any family; a `LlavaModel` gets its answers' ends too, as `loss_evaluator.DevLoss` has them.
        questions: the samples, one a row.
    """
    if isinstance(vlm, LlavaModel):
        return _llava_inputs(vlm, questions)
    prompts = [vlm.prompt(question.text, 1) for question in questions]
    texts = [prompt + question.answer for prompt, question in zip(prompts, questions, strict=True)]
    lengths = [[len(vlm.tokenizer(text)["input_ids"]) for text in pair] for pair in zip(prompts, texts, strict=True)]
    try:
        inputs = vlm.encode_with_images(texts, [[question.picture] for question in questions])
    except ImagesRefused as error:
        sized = (q.file for q in questions if f" {q.picture.width} x {q.picture.height}:" in str(error))
        raise ImagesRefused(f"{next(sized, '')}: {error}; leave it out") from error
    return inputs, [whole - asked for asked, whole in lengths]


def _llava_inputs(vlm: LlavaModel, questions: Sequence[Question]) -> tuple[dict[str, Any], list[int]]:
    sequences, said = zip(*[sequence_of(vlm, question, 0) for question in questions], strict=True)
    longest = max(len(sequence) for sequence in sequences)
    mark = image_token(vlm.model)
    ids = [[0] * (longest - len(s)) + [mark if token < 0 else token for token in s] for s in sequences]
    mask = [[0] * (longest - len(s)) + [1] * len(s) for s in sequences]
    pictures = [question.picture.convert("RGB") for question in questions]
    pixels = vlm.image_processor(images=pictures, return_tensors="pt")["pixel_values"]
    inputs = {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}
    placed = {name: value.to(vlm.device) for name, value in inputs.items()}
    return {**placed, "pixel_values": pixels.to(vlm.device, vlm.dtype)}, list(said)


def image_token(model: Any) -> int:
    """Id of the token in whose places a picture's features are put.

    Raises:
        VrbenchError: the model shows pictures otherwise.
    """
    names = ("image_token_id", "image_token_index")
    for name in names:
        found = getattr(model.config, name, None)
        if found is not None:
            return int(found)
    raise VrbenchError(f"the config of {type(model).__name__} has none of {', '.join(names)}")


@torch.inference_mode()
def _forward(model: Any, inputs: dict[str, Any]) -> None:
    model(**inputs, use_cache=False, logits_to_keep=1)
