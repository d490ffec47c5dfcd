"""Conversations as a family's model inputs, with labels on the answers alone.

A conversation is written as evaluation asks the family (`vrbench.checkpoints.prompts`), so that questions look the same
in both. Labels are found by tokenizing the conversation up to the beginning and the end of each answer; a tokenizer
for which a longer text does not begin with the tokens of a shorter one is refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vrbench.checkpoints.families import FAMILIES
from vrbench.checkpoints.prompts import IMAGE, Turn, llava_text, starts_with_bos
from vrbench.core.errors import VrbenchError
from vrbench.models.processors import encode_with_images
from vrbench.training.conversations import Conversation, TrainingImage
from vrbench.training.original_format import IMAGE_PLACE, OriginalFormat
from vrbench.training.recipe import Style
from vrbench.training.trainer import IGNORED

if TYPE_CHECKING:
    from PIL.Image import Image

    from vrbench.models.base_vlm import BaseVLM

PER_TOKEN = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "cross_attention_mask", "labels")
"""Inputs whose second dimension is the tokens."""

TOKEN_TYPE_FAMILIES = ("gemma3", "paligemma")
"""Families that need token_type_ids without images too."""

MARK_BYTES = 64
"""Upper bound on the bytes of an image placeholder, and of the frame of a question without a template."""


class ConversationEncoder:
    """Makes a family's inputs and labels; it holds no weights and can be sent to other processes."""

    def __init__(
        self, vlm: BaseVLM, max_tokens: int = 2048, pad_square: bool = False, style: Style = "vrbench",
        label_newline: bool = False,
    ) -> None:  # fmt: skip
        """Keep a model's tokenizer and processor; `pad_square` pads images as LLaVA-1.5 and Bunny do.

        Args:
            style: that in which the conversations were read.
            label_newline: label the white space behind an answer's end token too.

        Raises:
            VrbenchError: the chat template drops parts of a conversation, or writes an answered question differently
                from one that waits for its answer, or is not the one of the style.
        """
        self.family, self.max_tokens, self.pad_square = vlm.family, max_tokens, pad_square
        self.label_newline = label_newline
        self.tokenizer, self.image_processor = vlm.tokenizer, vlm.image_processor
        self.format = None if FAMILIES[vlm.family].prefix_sharing else vlm.prompt_format
        self.processor = getattr(vlm, "processor", None)
        self.image_tokens = int(getattr(vlm, "image_tokens", 0))
        self.image_id = int(vlm.model.config.image_token_id)
        self.single_turn = self.format is not None and self.format.prefix_lm
        self.original = None if style == "vrbench" else OriginalFormat(vlm.tokenizer, max_tokens)
        self._added_tokens = tuple(str(token) for token in vlm.tokenizer.added_tokens_decoder.values())
        self._extra_tokens: dict[tuple[tuple[int, int], ...], int] = {}
        self._frame_bytes = MARK_BYTES
        if not self.single_turn:
            self._check_template()
        elif label_newline:
            raise VrbenchError(f"data.label_newline is true, but an answer of {self.family} ends with its end token")

    def split(self, sample: Conversation) -> list[Conversation]:
        """Return the sample; for a family without multi-turn conversations, each turn with all images shown so far."""
        if not self.single_turn:
            return [sample]
        found, shown = [], 0
        for turn in sample.turns:
            shown += turn.n_images
            alone = Turn(turn.question, turn.answer, shown)
            found.append(Conversation(sample.id, (alone,), sample.images[:shown], sample.location))
        return found

    def encode(self, sample: Conversation) -> dict[str, Tensor] | None:
        """Return a sample's input_ids, attention_mask and labels [1, tokens], and what the family needs for images.

        A label is the token's own id where it belongs to an answer or ends one, else IGNORED. A long sample is
        truncated; a turn whose image would be cut through is left out with all later ones. None if no label remains.

        Raises:
            VrbenchError: an image cannot be opened, or a part of the sample is tokenized differently from the whole.
        """
        turns, images = sample.turns, sample.open_images()
        if self.pad_square:
            images = [pad_to_square(image, self.image_processor.image_mean) for image in images]
        if self.original is not None and sample.messages is not None:
            return self._encode_original(self.original, sample.messages, images)
        while turns:
            inputs = self._encode(turns, images, sample.location)
            image_places = (inputs["input_ids"][0] == self.image_id).nonzero()
            if not len(image_places) or int(image_places[-1]) < self.max_tokens:
                cut = {name: t[:, : self.max_tokens] if name in PER_TOKEN else t for name, t in inputs.items()}
                return cut if bool((cut["labels"] != IGNORED).any()) else None
            last = max(number for number, turn in enumerate(turns) if turn.n_images)
            turns = turns[:last]
            images = images[: sum(turn.n_images for turn in turns)]
        return None

    def _encode_original(
        self, original: OriginalFormat, messages: Sequence[str], images: Sequence[Image]
    ) -> dict[str, Tensor]:
        """Return what `encode` does, in the format of the original code; there may be no label.

        The image is shown at each placeholder. One that would be cut through ends the sample.
        """
        ids, labels = original.encode(messages, bool(images))
        found: list[tuple[int, int]] = []
        shown = 0
        for token, label in zip(ids, labels, strict=True):
            is_image = token == IMAGE_PLACE
            if len(found) + (self.image_tokens if is_image else 1) > self.max_tokens:
                break
            found += [(self.image_id, IGNORED)] * self.image_tokens if is_image else [(token, label)]
            shown += is_image
        both = torch.tensor(found)
        inputs = {"input_ids": both[None, :, 0], "labels": both[None, :, 1]}
        if shown:
            pixels = self.image_processor(images=list(images), return_tensors="pt")["pixel_values"]
            inputs["pixel_values"] = pixels.expand(shown, *pixels.shape[1:])
        return {**inputs, "attention_mask": torch.ones_like(inputs["input_ids"])}

    def fits(self, sample: Conversation) -> bool:
        """Return whether a token of the first answer is within the maximum, from the sizes of the images alone.

        In a style other than vrbench's all samples are used.

        Raises:
            VrbenchError: an image cannot be opened.
        """
        if self.original is not None:
            return True
        first = sample.turns[0]
        images = sample.images[: first.n_images]
        if self.format is None or not images:  # a text has no more tokens than bytes
            longest = len(first.question.encode()) + len(images) * (self.image_tokens + MARK_BYTES)
            if self._frame_bytes + longest < self.max_tokens:
                return True
        text = self._prompt([first], answered=False)
        return self._count_words(text, bool(images)) + self._count_extra(text, images) < self.max_tokens

    def _count_words(self, text: str, has_images: bool) -> int:
        special = self._adds_special_tokens(text, has_images)
        return len(self.tokenizer(text, add_special_tokens=special)["input_ids"])

    def _count_extra(self, text: str, images: Sequence[TrainingImage]) -> int:
        """Return the tokens of images beyond one mark each; images of the same sizes have the same number."""
        if not images:
            return 0
        if self.format is None:
            return len(images) * (self.image_tokens - 1)
        sizes = tuple((max(size),) * 2 if self.pad_square else size for size in (image.size() for image in images))
        if sizes not in self._extra_tokens:
            from PIL import Image as pil

            inputs = self._inputs(text, [pil.new("RGB", size) for size in sizes])
            self._extra_tokens[sizes] = inputs["input_ids"].shape[1] - self._count_words(text, has_images=True)
        return self._extra_tokens[sizes]

    def render(self, turns: Sequence[Turn]) -> tuple[str, list[int]]:
        """Return a conversation as its family writes it, and the characters before each answer's beginning and end.

        An answer ends with its end token, and with `label_newline` with the white space behind that; for a template
        without one, such as llava-hf's, it is the tokenizer's end of text. Raises as `__init__`.
        """
        text, bounds, before = "", [], ""
        for number, turn in enumerate(turns):
            prompt = self._prompt(turns[: number + 1], answered=False)
            answered = self._prompt(turns[: number + 1], answered=True)
            tail = answered[len(prompt) :].lstrip()
            if not (prompt.startswith(before) and answered.startswith(prompt) and tail.startswith(turn.answer)):
                raise VrbenchError(
                    f"the chat template of this {self.family} model cannot be used for training: a conversation with "
                    f"the answer {turn.answer[:40]!r} does not begin with the prompt that asks for it, or drops it"
                )
            text += prompt[len(before) :]
            begin, tail = len(text), tail[len(turn.answer) :]
            end = self._end_token(tail)
            text += answered[len(prompt) : len(answered) - len(tail)] + (end or str(self.tokenizer.eos_token))
            rest = tail[len(end) :] if end else ""
            bounds += [begin, len(text) + (len(rest) - len(rest.lstrip()) if self.label_newline else 0)]
            text += rest
            before = answered
        return text, bounds

    def _check_template(self) -> None:
        """Render and tokenize a small conversation: what is wrong with a template is wrong for every sample."""
        turns = [Turn("What is it?", "A red dog."), Turn("Is it old?", "Yes.")]
        text, bounds = self.render(turns)
        if self.label_newline and not any(text[end - 1].isspace() for end in bounds[1::2]):
            raise VrbenchError(
                f"data.label_newline is true, but the chat template of this {self.family} model has no line break "
                "behind an answer's end token; leave it out"
            )
        self._frame_bytes = len(text.encode())
        if any(part not in text for turn in turns for part in (turn.question, turn.answer)):
            raise VrbenchError(f"the chat template of this {self.family} model drops messages: {text[:200]!r}")
        self._encode(turns, [], "a conversation to check the chat template with")

    def _end_token(self, tail: str) -> str:
        """Return the white space and end token, such as "<|im_end|>", that follow an answer; empty if there is none."""
        bare = tail.lstrip()
        token = next((token for token in self._added_tokens if token and bare.startswith(token)), "")
        return tail[: len(tail) - len(bare)] + token if token else ""

    def _prompt(self, turns: Sequence[Turn], answered: bool) -> str:
        if self.format is None:
            return llava_text(self.tokenizer, turns, answered)
        return self.format.build(self.processor, turns, answered)

    def _encode(self, turns: Sequence[Turn], images: Sequence[Image], location: str) -> dict[str, Tensor]:
        if self.single_turn:
            return self._encode_single_turn(turns[0], images)
        text, ends = self.render(turns)
        inputs = self._inputs(text, images)
        ids = inputs["input_ids"][0].tolist()
        bounds = self._count_tokens(text, ends, [turn.n_images for turn in turns], images, ids, location)
        labels = torch.full_like(inputs["input_ids"], IGNORED)
        for begin, end in zip(bounds[::2], bounds[1::2], strict=True):
            labels[0, begin:end] = inputs["input_ids"][0, begin:end]
        return {**inputs, "labels": labels}

    def _count_tokens(
        self, text: str, ends: list[int], shown: list[int], images: Sequence[Image], ids: list[int], location: str
    ) -> list[int]:
        """Return the number of tokens before each answer's beginning and end.

        After the last image they are counted from the end, on the text; before it the beginning is encoded by itself.
        """
        special = self._adds_special_tokens(text, bool(images))
        beginnings = [text[:end] for end in ends]
        whole, *parts = self.tokenizer([text, *beginnings], add_special_tokens=special)["input_ids"]
        bounds = []
        for number, (beginning, part) in enumerate(zip(beginnings, parts, strict=True)):
            so_far = sum(shown[: number // 2 + 1])
            if so_far == len(images):
                fits, bound = part == whole[: len(part)], len(ids) - (len(whole) - len(part))
            else:
                found = self._inputs(beginning, images[:so_far], special)["input_ids"][0].tolist()
                fits, bound = found == ids[: len(found)], len(found)
            if not fits:
                raise VrbenchError(f"{location}: its tokens up to ...{beginning[-40:]!r} change when more text follows")
            bounds.append(bound)
        return bounds

    def _adds_special_tokens(self, text: str, has_images: bool) -> bool:
        """Return whether the tokenizer adds its special tokens to a text, as in evaluation."""
        if self.format is None:
            return True
        if has_images and self.format.add_special_tokens is not None:
            return self.format.add_special_tokens
        return not starts_with_bos(self.tokenizer, text)

    def _inputs(self, text: str, images: Sequence[Image], special: bool | None = None) -> dict[str, Tensor]:
        if images and self.format is not None:
            return encode_with_images(self.processor, self.format, [text], [images], self.family)
        if special is None:
            special = self._adds_special_tokens(text, bool(images))
        text = text.replace(IMAGE, IMAGE * self.image_tokens) if images else text
        ids = torch.tensor([self.tokenizer(text, add_special_tokens=special)["input_ids"]])
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if self.family in TOKEN_TYPE_FAMILIES:
            inputs["token_type_ids"] = torch.zeros_like(ids)
        if images:
            inputs["pixel_values"] = self.image_processor(images=list(images), return_tensors="pt")["pixel_values"]
        return inputs

    def _encode_single_turn(self, turn: Turn, images: Sequence[Image]) -> dict[str, Tensor]:
        """Return a question with bidirectional attention and its answer, whose tokens are of another type."""
        inputs = self._inputs(self._prompt([turn], answered=False), images)
        ids = self.tokenizer(turn.answer + self.tokenizer.eos_token, add_special_tokens=False).input_ids
        answer = torch.tensor([ids])
        ones = torch.ones_like(answer)
        parts = {"input_ids": answer, "attention_mask": ones, "token_type_ids": ones, "labels": answer}
        inputs["labels"] = torch.full_like(inputs["input_ids"], IGNORED)
        return inputs | {name: torch.cat([inputs[name], part], dim=1) for name, part in parts.items()}


def pad_to_square(image: Image, mean: Sequence[float]) -> Image:
    """Return an RGB image in the middle of a square of the mean colour (0 to 1), as LLaVA-1.5's code pads it."""
    from PIL import Image as pil

    side = max(image.size)
    square = pil.new("RGB", (side, side), tuple(int(255 * share) for share in mean))
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square
