"""Conversations as what a model is trained on: its family's own inputs, and labels on what it has to say alone.

A conversation is written as its family is asked when it is measured (`vrbench.checkpoints.prompts`), so that a question
is put in training as it is put in a task. Labels are found by writing and tokenizing the conversation up to each
answer's beginning and end; where what is longer does not begin with what is shorter, that is told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from vrbench.checkpoints.families import FAMILIES
from vrbench.checkpoints.prompts import IMAGE, Turn, llava_text, starts_with_bos
from vrbench.core.errors import VrbenchError
from vrbench.models.processors import encode_with_images
from vrbench.training.batches import IGNORED, joined
from vrbench.training.conversations import Conversation, Picture

if TYPE_CHECKING:
    from PIL.Image import Image

    from vrbench.models.base_vlm import BaseVLM

BY_TOKEN = ("input_ids", "attention_mask", "token_type_ids", "mm_token_type_ids", "cross_attention_mask", "labels")
"""Inputs whose second dimension is the tokens."""

TYPED = ("gemma3", "paligemma")
"""Families that are told of each token what it is, without pictures too."""


MARK = 64
"""Bytes that are more than the mark of a picture takes, and than the frame of a question without a template."""


@dataclass(frozen=True)
class Script:
    """A conversation as text, with what the model has to say.

    Attributes:
        text: image marks are the family's, one a picture.
        spans: (begin, end) of each answer with its end of turn, in characters.
    """

    text: str
    spans: tuple[tuple[int, int], ...]


class Supervised:
    """Makes a family's inputs and labels of conversations; it holds no weights and can be sent to other processes.

    Attributes:
        family: a key of `vrbench.checkpoints.families.FAMILIES`.
        length: most tokens of a sample.
        pad_square: whether pictures are padded to a square with the mean colour, as LLaVA-1.5 and Bunny do.
    """

    def __init__(self, vlm: BaseVLM, length: int = 2048, pad_square: bool = False) -> None:
        """
        Args:
            vlm: the model to be trained; its tokenizer and processor are kept, its weights are not.
            length: most tokens of a sample.
            pad_square: whether pictures are padded.

        Raises:
            VrbenchError: the chat template leaves out what is said, or an answered conversation does not begin as the
                one that asks for the answer.
        """
        self.family, self.length, self.pad_square = vlm.family, length, pad_square
        self.tokenizer, self.image_processor = vlm.tokenizer, vlm.image_processor
        self.prompt_format = None if FAMILIES[vlm.family].prefix_sharing else vlm.prompt_format
        self.processor = getattr(vlm, "processor", None)
        self.image_tokens = int(getattr(vlm, "image_tokens", 0))
        self.image_id = int(vlm.model.config.image_token_id)
        self.one_question = self.prompt_format is not None and self.prompt_format.prefix_lm
        self._added = tuple(str(token) for token in vlm.tokenizer.added_tokens_decoder.values())
        self._for_sizes: dict[tuple[tuple[int, int], ...], int] = {}
        self._frame = MARK
        self._try_template()

    def rows(self, sample: Conversation) -> list[Conversation]:
        """What is encoded of a sample: itself, or its turns one by one where a family knows one question at a time.

        Each of them then comes with all pictures that were shown until then.
        """
        if not self.one_question:
            return [sample]
        found, shown = [], 0
        for turn in sample.turns:
            shown += turn.n_images
            alone = Turn(turn.question, turn.answer, shown)
            found.append(Conversation(sample.id, (alone,), sample.pictures[:shown], sample.place))
        return found

    def encode(self, sample: Conversation) -> dict[str, Tensor] | None:
        """The model's inputs for one sample, and its labels; none when no token of an answer fits into the length.

        What is too long is cut behind `length` tokens. If that would cut through a picture or leave one out, the turn
        that brings it and all that follow are left out.

        Returns:
            input_ids, attention_mask and labels [1, tokens], and what the family needs for pictures. A label is the
            token's own id if it belongs to an answer or ends one, else IGNORED.

        Raises:
            VrbenchError: a picture cannot be opened, or the sample's tokens break off elsewhere when an answer is
                taken away.
        """
        turns, pictures = sample.turns, [self._squared(picture) for picture in sample.opened()]
        while turns:
            inputs = self._encoded(turns, pictures, sample.place)
            there = (inputs["input_ids"][0] == self.image_id).nonzero()
            if not len(there) or int(there[-1]) < self.length:
                cut = {name: t[:, : self.length] if name in BY_TOKEN else t for name, t in inputs.items()}
                return cut if bool((cut["labels"] != IGNORED).any()) else None
            last = max(number for number, turn in enumerate(turns) if turn.n_images)
            turns = turns[:last]
            pictures = pictures[: sum(turn.n_images for turn in turns)]
        return None

    def fits(self, sample: Conversation) -> bool:
        """Whether the beginning of its first answer lies within the length; pictures count by their sizes alone.

        Raises:
            VrbenchError: a picture cannot be opened.
        """
        first = sample.turns[0]
        shown = sample.pictures[: first.n_images]
        if self.prompt_format is None or not shown:  # no text has more tokens than bytes, and the frame was measured
            if self._frame + len(first.question.encode()) + len(shown) * (self.image_tokens + MARK) < self.length:
                return True
        if self.one_question:
            text = self._written([first], answered=False)
        else:
            script = self.script([first])
            text = script.text[: script.spans[0][0]]
        words = len(self.tokenizer(text, add_special_tokens=self._special(text, bool(shown)))["input_ids"])
        return words + self._more_for(text, shown) < self.length

    def _more_for(self, text: str, pictures: Sequence[Picture]) -> int:
        """Tokens of pictures beyond one mark each, as their sizes decide them; remembered."""
        if not pictures:
            return 0
        if self.prompt_format is None:
            return len(pictures) * (self.image_tokens - 1)
        sizes = tuple((max(size),) * 2 if self.pad_square else size for size in (p.size() for p in pictures))
        if sizes not in self._for_sizes:
            from PIL import Image as pil

            blank = [pil.new("RGB", size) for size in sizes]
            words = len(self.tokenizer(text, add_special_tokens=self._special(text, True))["input_ids"])
            self._for_sizes[sizes] = self._inputs(text, blank)["input_ids"].shape[1] - words
        return self._for_sizes[sizes]

    def collate(self, rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
        """One batch of encoded samples, padded on the right; samples with and without pictures may be mixed."""
        return joined(rows, BY_TOKEN)

    def script(self, turns: Sequence[Turn]) -> Script:
        """A conversation as its family writes it, every answer closed by a token that ends it.

        Where the template closes an answer with no token of its own, as that of llava-hf does, it is closed by the
        tokenizer's end of text.

        Raises:
            VrbenchError: see `__init__`.
        """
        text, spans, before = "", [], ""
        for number, turn in enumerate(turns):
            asked = self._written(turns[: number + 1], answered=False)
            closed = self._written(turns[: number + 1], answered=True)
            said = closed[len(asked) :].lstrip()
            if not (asked.startswith(before) and closed.startswith(asked) and said.startswith(turn.answer)):
                raise VrbenchError(
                    f"the chat template of this {self.family} model cannot be trained with: a conversation with the "
                    f"answer {turn.answer[:40]!r} does not begin as the one that asks for it, or leaves it out"
                )
            text += asked[len(before) :]
            begin, tail = len(text), said[len(turn.answer) :]
            end = self._end(tail)
            text += closed[len(asked) : len(closed) - len(tail)] + (end or str(self.tokenizer.eos_token))
            spans.append((begin, len(text)))
            text += tail[len(end) :] if end else ""
            before = closed
        return Script(text, tuple(spans))

    def _try_template(self) -> None:
        """Write and tokenize a small conversation, since what is wrong with a template is wrong in every sample."""
        turns = [Turn("What is it?", "A red dog."), Turn("Is it old?", "Yes.")]
        if self.one_question:
            return
        text = self.script(turns).text
        self._frame = len(text.encode())
        if any(said not in text for turn in turns for said in (turn.question, turn.answer)):
            raise VrbenchError(f"the chat template of this {self.family} model leaves out what is said: {text[:200]!r}")
        self._encoded(turns, [], "a conversation to try the chat template with")

    def _end(self, tail: str) -> str:
        """What closes an answer: white space and a token of its own, such as "<|im_end|>"; empty if there is none."""
        bare = tail.lstrip()
        found = next((token for token in self._added if token and bare.startswith(token)), "")
        return tail[: len(tail) - len(bare)] + found if found else ""

    def _written(self, turns: Sequence[Turn], answered: bool) -> str:
        last, answer = turns[-1], turns[-1].answer if answered else None
        if self.prompt_format is None:
            return llava_text(self.tokenizer, last.question, last.n_images, turns[:-1], answer)
        return self.prompt_format.build(self.processor, last.question, last.n_images, turns[:-1], answer)

    def _encoded(self, turns: Sequence[Turn], pictures: Sequence[Image], place: str) -> dict[str, Tensor]:
        """Inputs and labels, however many tokens they are."""
        if self.one_question:
            return self._one_question(turns[0], pictures)
        script = self.script(turns)
        inputs = self._inputs(script.text, pictures)
        borders = self._borders(script, turns, pictures, inputs["input_ids"][0].tolist(), place)
        labels = torch.full_like(inputs["input_ids"], IGNORED)
        for begin, end in zip(borders[::2], borders[1::2], strict=True):
            labels[0, begin:end] = inputs["input_ids"][0, begin:end]
        return {**inputs, "labels": labels}

    def _borders(
        self, script: Script, turns: Sequence[Turn], pictures: Sequence[Image], ids: list[int], place: str
    ) -> list[int]:
        """Tokens in front of each answer's beginning and end.

        Behind the last picture they are counted from the end, where pictures are one mark each; in front of it the
        conversation until there is encoded by itself.
        """
        shown, total = 0, len(pictures)
        special = self._special(script.text, bool(total))
        texts = [script.text[:border] for span in script.spans for border in span]
        whole, *parts = self.tokenizer([script.text, *texts], add_special_tokens=special)["input_ids"]
        found = []
        for number, (text, part) in enumerate(zip(texts, parts, strict=True)):
            shown += turns[number // 2].n_images if number % 2 == 0 else 0
            if shown == total:
                fits, border = part == whole[: len(part)], len(ids) - (len(whole) - len(part))
            else:
                begun_with = self._inputs(text, pictures[:shown], special)["input_ids"][0].tolist()
                fits, border = begun_with == ids[: len(begun_with)], len(begun_with)
            if not fits:
                raise VrbenchError(f"{place}: its tokens until ...{text[-40:]!r} are others when more text follows")
            found.append(border)
        return found

    def _special(self, text: str, has_pictures: bool) -> bool:
        """Whether the tokenizer adds its own tokens to a text, as it does when the family is asked."""
        if self.prompt_format is None:
            return True
        if has_pictures and self.prompt_format.add_special_tokens is not None:
            return self.prompt_format.add_special_tokens
        return not starts_with_bos(self.tokenizer, text)

    def _inputs(self, text: str, pictures: Sequence[Image], special: bool | None = None) -> dict[str, Tensor]:
        """The family's inputs for a text with one mark a picture."""
        if pictures and self.prompt_format is not None:
            return encode_with_images(self.processor, self.prompt_format, [text], [pictures], self.family)
        if special is None:
            special = self._special(text, bool(pictures))
        text = text.replace(IMAGE, IMAGE * self.image_tokens) if pictures else text
        ids = torch.tensor([self.tokenizer(text, add_special_tokens=special)["input_ids"]])
        inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if self.family in TYPED:
            inputs["token_type_ids"] = torch.zeros_like(ids)
        if pictures:
            inputs["pixel_values"] = self.image_processor(images=list(pictures), return_tensors="pt")["pixel_values"]
        return inputs

    def _one_question(self, turn: Turn, pictures: Sequence[Image]) -> dict[str, Tensor]:
        """A question that is read both ways, and behind it the answer, whose tokens are of another type."""
        asked = self._inputs(self._written([turn], answered=False), pictures)
        said = torch.tensor(
            [self.tokenizer(turn.answer + self.tokenizer.eos_token, add_special_tokens=False).input_ids]
        )
        behind = {
            "input_ids": said,
            "attention_mask": torch.ones_like(said),
            "token_type_ids": torch.ones_like(said),
            "labels": said,
        }
        asked["labels"] = torch.full_like(asked["input_ids"], IGNORED)
        return asked | {name: torch.cat([asked[name], more], dim=1) for name, more in behind.items()}

    def _squared(self, picture: Image) -> Image:
        return padded(picture, self.image_processor.image_mean) if self.pad_square else picture


def padded(picture: Image, mean: Sequence[float]) -> Image:
    """A picture in the middle of a square of the mean colour, as LLaVA-1.5's code pads it.

    Args:
        picture: in RGB.
        mean: of the image processor, 0 to 1 for each channel.
    """
    from PIL import Image as pil

    side = max(picture.size)
    square = pil.new("RGB", (side, side), tuple(int(255 * share) for share in mean))
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square
