"""Conversations about images, parsed from the layout of LLaVA-665K and Bunny-695K (no torch).

A record of theirs is `{"id": ..., "image": "coco/train2017/1.jpg", "conversations": [{"from": "human", "value":
"<image>\\nWhat is it?"}, {"from": "gpt", "value": "A dog."}, ...]}`; a text-only one has no `image`. OpenAI's names
(`messages`, `role`, `content`; user, assistant) are read as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vrbench.checkpoints.prompts import IMAGE, Turn
from vrbench.core.errors import VrbenchError
from vrbench.data.image_columns import decode_inline, is_file
from vrbench.data.images import ImageError, image_size, inspect_image, open_image
from vrbench.training.recipe import Style

if TYPE_CHECKING:
    from PIL.Image import Image

SPEAKERS = {"human": "human", "gpt": "gpt", "user": "human", "assistant": "gpt"}
"""Accepted speaker names -> LLaVA's."""

LEADING_MARKS, TRAILING_MARKS = re.compile(rf"^(?:{IMAGE}\s*)+"), re.compile(rf"(?:\s*{IMAGE})+$")


class InvalidSample(Exception):
    """A sample that cannot be trained on, and why; samples are counted by category."""

    def __init__(self, category: str, reason: str) -> None:
        super().__init__(reason)
        self.category = category


@dataclass(frozen=True)
class TrainingImage:
    """An image of a sample: its name in the data set, and its file, the bytes of one, or a function that reads them."""

    name: str
    source: Path | bytes | Callable[[], bytes]

    def open(self) -> Image:
        """Return the image in RGB as evaluation shows it, upright, 8 bits a channel; raises `ImageError`."""
        return open_image(self._content()).convert("RGB")

    def size(self) -> tuple[int, int]:
        """Return width and height of what `open` returns, from the file's header where possible; raises as that."""
        return image_size(self._content())

    def check(self) -> bool:
        """Return whether the image has 16 bits a channel.

        Raises:
            InvalidSample: it does not exist or cannot be decoded.
        """
        if isinstance(self.source, Path) and not is_file(self.source):
            raise InvalidSample("image missing", f"there is no file {self.source}")
        try:
            reason, has_16_bits = inspect_image(self._content())
        except ImageError as error:
            raise InvalidSample("image missing", f"image {self.name}: {error}") from error
        if reason:
            raise InvalidSample("image broken", f"image {self.name} cannot be opened: {reason}")
        return has_16_bits

    def _content(self) -> Path | bytes:
        return self.source() if callable(self.source) else self.source


@dataclass(frozen=True)
class Conversation:
    """One sample.

    Attributes:
        id: as the data set has it.
        turns: questions with their answers, at least one, with placeholders for images.
        images: in the order in which the turns show them.
        location: file and number of the sample, for messages.
        messages: in a style other than vrbench's, the messages as that code has them, a question first; "" is an
            empty one. The turns are then these in pairs, images are in answers too, and may be fewer or more than the
            placeholders.
    """

    id: str
    turns: tuple[Turn, ...]
    images: tuple[TrainingImage, ...] = ()
    location: str = ""
    messages: tuple[str, ...] | None = None

    @property
    def source(self) -> str:
        """The first folder of its first image's name, or "text"; a stratified share is drawn from each source."""
        return self.images[0].name.replace("\\", "/").partition("/")[0] if self.images else "text"

    @property
    def words(self) -> int:
        """Number of words, as a measure of its length."""
        return sum(len(turn.question.split()) + len(turn.answer.split()) for turn in self.turns)

    @property
    def shows_images(self) -> bool:
        """Whether a turn has an image."""
        return any(turn.n_images for turn in self.turns)

    def open_images(self) -> list[Image]:
        """Return its images in RGB; raises `VrbenchError` if one cannot be opened."""
        opened = []
        for image in self.images:
            try:
                opened.append(image.open())
            except ImageError as error:
                raise VrbenchError(f"{self.location}: image {image.name} cannot be opened: {error}") from error
        return opened


def parse_record(record: Any, folder: Path | None, location: str, style: Style = "vrbench") -> Conversation:
    """Return the conversation of a record, parsed from JSON, with images in a folder, in a style.

    Raises:
        InvalidSample: it cannot be trained on.
    """
    if not isinstance(record, Mapping):
        raise InvalidSample("not a conversation", "it is not a JSON object")
    messages = record.get("conversations", record.get("messages"))
    named = record.get("image", record.get("images"))
    names = [named] if isinstance(named, str) else [] if named is None else named
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise InvalidSample("not a conversation", f"its 'image' is {named!r}, neither a name nor a list of names")
    if not isinstance(messages, list) or not messages:
        raise InvalidSample("not a conversation", "it has no list 'conversations'")
    images = tuple(_image(name, folder) for name in names)
    return make_conversation(str(record.get("id", "")), messages, images, location, style)


def make_conversation(
    id_: str, messages: Sequence[Any], images: tuple[TrainingImage, ...], location: str, style: Style
) -> Conversation:
    """Return the conversation of a list of messages about some images; see `parse_turns` and `original_messages`.

    Raises:
        InvalidSample: it cannot be trained on.
    """
    if style == "vrbench":
        return Conversation(id_, parse_turns(messages, len(images)), images, location)
    found = original_messages(messages, len(images), style)
    pairs = zip_longest(found[::2], found[1::2], fillvalue="")
    turns = tuple(Turn(q, a, (q + a).count(IMAGE) if images else 0) for q, a in pairs)
    return Conversation(id_, turns, images, location, found)


def original_messages(messages: Sequence[Any], images: int, style: Style) -> tuple[str, ...]:
    """Return the texts of a list of messages as the code of LLaVA or Visual-Region prepares them, a question first.

    A first message of gpt is left out. In a sample with an image, "llava" (haotian-liu/LLaVA, llava/train/train.py,
    and BAAI-DCAI/Bunny, bunny/util/data_utils.py) replaces all placeholders of a message by one in front of it, on a
    line of its own; "visual-region" (SiyuanWangw/Visual-Region, bunny/util/data_utils.py) does so only where a message
    has one placeholder and does not begin with it. All else stays, also leading and trailing white space and empty
    messages. In a sample without an image, a placeholder is text.

    Raises:
        InvalidSample: where that code would stop: messages out of order, several images in a sample.
    """
    if images > 1:
        raise InvalidSample("several images", f"it has {images} images; style {style} takes one, as its code does")
    parts = [_message(message) for message in messages]
    if parts[0][0] == "gpt":
        del parts[0]
    for number in range(len(parts)):
        _check_speaker(parts, number)
    return tuple(_image_first(text, style) if images else text for _, text in parts)


def _image_first(text: str, style: Style) -> str:
    marks = text.count(IMAGE)
    if not marks or (style == "visual-region" and (marks > 1 or text.startswith(IMAGE))):
        return text
    return f"{IMAGE}\n{text.replace(IMAGE, '').strip()}".strip()


def _check_speaker(parts: Sequence[tuple[str, str]], number: int) -> None:
    if parts[number][0] != ("human", "gpt")[number % 2]:
        order = ", ".join(who for who, _ in parts[:6])
        raise InvalidSample("turns out of order", f"human and gpt do not alternate: {order}")


def _image(name: str, folder: Path | None) -> TrainingImage:
    try:
        content = decode_inline(name)
    except ImageError as error:
        raise InvalidSample("image missing", f"its 'image' cannot be read: {error}") from error
    if content is not None:
        return TrainingImage("base64", content)
    if folder is None:
        raise InvalidSample("image missing", f"it has an image, {name}, and no image folder was given")
    return TrainingImage(name, folder / name)


def parse_turns(messages: Sequence[Any], images: int) -> tuple[Turn, ...]:
    """Return the turns of a list of messages that alternate between human and gpt.

    White space around a message is removed, and so are image placeholders at the beginning or end of a question: the
    family's template then determines the position of the image.

    Raises:
        InvalidSample: messages out of order, an empty one, or another number of image placeholders than of images.
    """
    parts = [(speaker, text.strip()) for speaker, text in map(_message, messages)]
    for number, (speaker, text) in enumerate(parts):
        _check_speaker(parts, number)
        role = "question" if speaker == "human" else "answer"
        if not text:
            raise InvalidSample(f"empty {role}", f"message {number + 1} of {len(parts)} is an empty {role}")
        if speaker == "gpt" and IMAGE in text:
            raise InvalidSample("image placeholders", f"an answer contains an image placeholder, {IMAGE}")
    if len(parts) % 2:
        raise InvalidSample("turns out of order", f"the last of {len(parts)} messages is a question without an answer")
    questions = [_without_outer_marks(text) for _, text in parts[::2]]
    marks = sum(number for _, number in questions)
    if marks not in (0, images):
        raise InvalidSample("image placeholders", f"{marks} image placeholders ({IMAGE}) for {images} images")
    if not marks:
        questions[0] = (questions[0][0], images)
    answers = [text for _, text in parts[1::2]]
    return tuple(Turn(text, answer, number) for (text, number), answer in zip(questions, answers, strict=True))


def _without_outer_marks(text: str) -> tuple[str, int]:
    """Return a question without its image placeholders if all are leading or all trailing, and the number of marks."""
    number = text.count(IMAGE)
    for bare in (LEADING_MARKS.sub("", text), TRAILING_MARKS.sub("", text)):
        if IMAGE not in bare:
            return bare, number
    return text, number


def _message(message: Any) -> tuple[str, str]:
    if not isinstance(message, Mapping):
        raise InvalidSample("not a conversation", "a message is not a JSON object")
    speaker, text = message.get("from", message.get("role")), message.get("value", message.get("content"))
    if speaker not in SPEAKERS:
        raise InvalidSample("turns out of order", f"unknown speaker {speaker!r}; there are {', '.join(SPEAKERS)}")
    if isinstance(text, list):  # OpenAI's parts: texts and images in their order
        text = "".join(_part(part) for part in text)
    if not isinstance(text, str):
        raise InvalidSample("not a conversation", f"a message of {speaker} is not text")
    return SPEAKERS[speaker], text


def _part(part: Any) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind in ("image", "image_url"):
        return IMAGE
    if kind != "text" or not isinstance(part.get("text"), str):
        raise InvalidSample("not a conversation", f"a message has a part of type {kind!r}; known are text and image")
    return str(part["text"])
