"""Conversations about pictures, as LLaVA-665K and Bunny-695K have them, or as question and answer (no torch).

A record of theirs is `{"id": ..., "image": "coco/train2017/1.jpg", "conversations": [{"from": "human", "value":
"<image>\\nWhat is it?"}, {"from": "gpt", "value": "A dog."}, ...]}`; a text-only one has no `image`. The OpenAI names
(`messages`, `role`, `content`; user, assistant) are read as well.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vrbench.checkpoints.prompts import IMAGE, Turn
from vrbench.core.errors import VrbenchError
from vrbench.data.image_columns import image_bytes, inline, is_file
from vrbench.data.images import ImageError, image_size, inspect_image, open_image

if TYPE_CHECKING:
    from PIL.Image import Image

SPEAKERS = {"human": "human", "gpt": "gpt", "user": "human", "assistant": "gpt"}
"""Names of who speaks -> which of the two it is."""

MARKS_IN_FRONT, MARKS_BEHIND = re.compile(rf"^(?:{IMAGE}\s*)+"), re.compile(rf"(?:\s*{IMAGE})+$")


class Unusable(Exception):
    """Why a sample cannot be trained on.

    Attributes:
        kind: what samples with the same fault are counted under.
    """

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


@dataclass(frozen=True)
class Cell:
    """A picture's place in a table of `datasets`, which stays on disk.

    Attributes:
        rows: the table; the column gives files' bytes, not decoded, or what else `image_bytes` reads.
        row, column: where in it.
        number: which of the pictures there, if there are several.
        folder: where paths in the column begin.
    """

    rows: Any
    row: int
    column: str
    number: int
    folder: Path | None = None

    def read(self) -> bytes:
        """The file's bytes."""
        there = self.rows[self.row][self.column]
        return image_bytes((there if isinstance(there, list) else [there])[self.number], self.folder) or b""


@dataclass(frozen=True)
class Picture:
    """A picture in a file, in the bytes of one, or in a table.

    Attributes:
        name: as the data set has it.
        where: its file, its bytes, or its place in a table.
    """

    name: str
    where: Path | bytes | Cell

    def open(self) -> Image:
        """The picture in RGB, as `run` shows it: decoded, upright, 8 bits a channel.

        Raises:
            ImageError: it is not there, or cannot be decoded to its end.
        """
        return open_image(self._content()).convert("RGB")

    def size(self) -> tuple[int, int]:
        """Width and height of what `open` gives, from the file's beginning where they stand there; errors as those."""
        return image_size(self._content())

    def fault(self) -> tuple[str, str, bool]:
        """Why it cannot be used, as kind and reason, empty when it can; and whether it has 16 bits a channel.

        See `inspect_image`.
        """
        if isinstance(self.where, Path) and not is_file(self.where):
            return "picture missing", f"there is no file {self.where}", False
        reason, is_deep = inspect_image(self._content())
        if reason:
            return "picture broken", f"picture {self.name} cannot be opened: {reason}", False
        return "", "", is_deep

    def _content(self) -> Path | bytes:
        return self.where.read() if isinstance(self.where, Cell) else self.where


@dataclass(frozen=True)
class Conversation:
    """One sample.

    Attributes:
        id: as the data set has it.
        turns: questions with their answers, at least one; marks in them stand for pictures.
        pictures: in the order in which the turns bring them.
        place: which sample of which file it is, for what is told of it.
    """

    id: str
    turns: tuple[Turn, ...]
    pictures: tuple[Picture, ...] = ()
    place: str = ""

    @property
    def source(self) -> str:
        """What samples of one origin share: the first folder of their picture, or "text"."""
        return self.pictures[0].name.replace("\\", "/").partition("/")[0] if self.pictures else "text"

    @property
    def words(self) -> int:
        """Words in it, as a measure of its length."""
        return sum(len(turn.question.split()) + len(turn.answer.split()) for turn in self.turns)

    def opened(self) -> list[Image]:
        """Its pictures.

        Raises:
            VrbenchError: one of them cannot be opened.
        """
        return [self._opened(picture) for picture in self.pictures]

    def _opened(self, picture: Picture) -> Image:
        try:
            return picture.open()
        except ImageError as error:
            raise VrbenchError(f"{self.place}: picture {picture.name} cannot be opened: {error}") from error


def from_record(record: Any, images: Path | None, place: str) -> Conversation:
    """The conversation of a record in LLaVA's layout.

    Args:
        record: as JSON has it.
        images: folder of the pictures; none when there is none.
        place: which record of which file it is.

    Raises:
        Unusable: why it cannot be trained on.
    """
    if not isinstance(record, Mapping):
        raise Unusable("not a conversation", "it is no JSON object")
    said = record.get("conversations", record.get("messages"))
    if not isinstance(said, list) or not said:
        raise Unusable("not a conversation", "it has no list 'conversations'")
    id_ = str(record.get("id", ""))
    named = record.get("image", record.get("images"))
    names = [named] if isinstance(named, str) else [] if named is None else named
    if not isinstance(names, list) or not all(isinstance(name, str) and name for name in names):
        raise Unusable("not a conversation", f"its 'image' is {named!r}, neither a name nor a list of names")
    pictures = tuple(_picture(name, images) for name in names)
    return Conversation(id_, turns_of(said, len(pictures)), pictures, f"{place} (id {id_})" if id_ else place)


def _picture(name: str, images: Path | None) -> Picture:
    """The picture of a name in the folder of pictures, or of base64 text or a data URL."""
    try:
        content = inline(name)
    except ImageError as error:
        raise Unusable("picture missing", f"its 'image' cannot be read: {error}") from error
    if content is not None:
        return Picture("base64", content)
    if images is None:
        raise Unusable("picture missing", f"it has a picture, {name}, and no folder of pictures was given")
    return Picture(name, images / name)


def turns_of(said: Sequence[Any], pictures: int) -> tuple[Turn, ...]:
    """The turns of a list of messages, human first and gpt last, one after the other.

    White space around what is said is left out, and so are the marks of pictures that stand at an end of a question:
    where a picture stands then is for the family's template to say.

    Args:
        said: messages, as JSON has them.
        pictures: how many the sample has.

    Raises:
        Unusable: another order, an empty question or answer, or another number of marks than of pictures.
    """
    parts = [_part(message) for message in said]
    for number, (speaker, text) in enumerate(parts):
        if speaker != ("human", "gpt")[number % 2]:
            order = ", ".join(who for who, _ in parts[:6])
            raise Unusable("turns out of order", f"human and gpt do not take turns: {order}")
        what = "question" if speaker == "human" else "answer"
        if not text:
            raise Unusable(f"empty {what}", f"message {number + 1} of {len(parts)} is an empty {what}")
        if speaker == "gpt" and IMAGE in text:
            raise Unusable("picture marks", f"an answer has the mark of a picture, {IMAGE}")
    if len(parts) % 2:
        raise Unusable("turns out of order", f"the last of {len(parts)} messages is a question without an answer")
    questions = [_question(text) for _, text in parts[::2]]
    marks = sum(number for _, number in questions)
    if marks not in (0, pictures):
        raise Unusable("picture marks", f"{marks} marks ({IMAGE}) stand for {pictures} pictures")
    if not marks:
        questions[0] = (questions[0][0], pictures)
    answers = [text for _, text in parts[1::2]]
    return tuple(Turn(text, answer, number) for (text, number), answer in zip(questions, answers, strict=True))


def _question(text: str) -> tuple[str, int]:
    """A question without the marks of pictures if all stand at its beginning or all at its end; and their number."""
    number = text.count(IMAGE)
    for bare in (MARKS_IN_FRONT.sub("", text), MARKS_BEHIND.sub("", text)):
        if IMAGE not in bare:
            return bare, number
    return text, number


def _part(message: Any) -> tuple[str, str]:
    """Who speaks, and what is said."""
    if not isinstance(message, Mapping):
        raise Unusable("not a conversation", "a message is no JSON object")
    speaker, text = message.get("from", message.get("role")), message.get("value", message.get("content"))
    if speaker not in SPEAKERS:
        raise Unusable("turns out of order", f"{speaker!r} speaks; there are {', '.join(SPEAKERS)}")
    if isinstance(text, list):  # OpenAI's parts: texts and pictures in their order
        text = "".join(_text_of(part) for part in text)
    if not isinstance(text, str):
        raise Unusable("not a conversation", f"what {speaker} says is no text")
    return SPEAKERS[speaker], text.strip()


def _text_of(part: Any) -> str:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if kind in ("image", "image_url"):
        return IMAGE
    if kind != "text" or not isinstance(part.get("text"), str):
        raise Unusable("not a conversation", f"a message has a part of type {kind!r}; known are text and image")
    return str(part["text"])
