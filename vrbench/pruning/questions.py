"""What a model is shown to see its layers at work: dev pictures with right answers, or a user's own (no torch)."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from vrbench.core.errors import VrbenchError
from vrbench.data.images import ImageError, inspect_image, open_image

if TYPE_CHECKING:
    from PIL.Image import Image

DESCRIBE = "Please describe this image in detail."
"""What Visual-Region's code asks of each picture when it measures block influence."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


@dataclass(frozen=True)
class Question:
    """One question about a picture, with its right answer and its file where there are any."""

    picture: Image
    text: str
    answer: str = ""
    file: str = ""


@dataclass(frozen=True)
class DevQuestions:
    """Questions on dev pictures of the pocket world, which no training and no test has.

    Attributes:
        pictures: how many pictures.
        turns: questions on each.
    """

    pictures: int
    turns: int

    def faults(self) -> list[str]:
        """Why nothing can be asked, one sentence each."""
        counts = {"pictures": self.pictures, "turns": self.turns}
        return [f"{name} is {value}; it must be at least 1" for name, value in counts.items() if value < 1]

    def __iter__(self) -> Iterator[list[Question]]:
        """The questions of one picture after the other."""
        from PIL import Image

        from vrbench.pocket.turns import turns
        from vrbench.pocket.world import draw, scene

        for index in range(self.pictures):
            of = scene("dev", index)
            picture = Image.fromarray(draw(of))
            yield [Question(picture, turn.prompt, turn.answer) for turn in turns(of, self.turns)]

    def __str__(self) -> str:
        return f"{self.pictures} dev pictures with {self.turns} questions each"


@dataclass(frozen=True)
class FolderQuestions:
    """One request about each picture of a folder, with no answer, as Visual-Region's code makes them of Flickr30k.

    Attributes:
        folder: with pictures, in folders of any depth.
        pictures: how many at most; which ones is drawn by the seed.
        prompt: what is asked.
        seed: of the draw.
    """

    folder: Path
    pictures: int
    prompt: str = DESCRIBE
    seed: int = 0

    @cached_property
    def files(self) -> list[Path]:
        """The pictures used, in the order of their names."""
        if len(self._found) <= self.pictures:
            return self._found
        return sorted(random.Random(self.seed).sample(self._found, self.pictures))

    @cached_property
    def _found(self) -> list[Path]:
        return sorted(path for path in self.folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())

    def faults(self) -> list[str]:
        """Why nothing can be asked, one sentence each."""
        if self.pictures < 1:
            return [f"pictures is {self.pictures}; it must be at least 1"]
        if not self.folder.is_dir():
            return [f"images {str(self.folder)!r} is no folder"]
        if not self.files:
            return [f"images {str(self.folder)!r} holds no picture ({', '.join(SUFFIXES)})"]
        judged = ((file, inspect_image(file)[0]) for file in self.files)
        return [f"{file} cannot be read as a picture: {fault}" for file, fault in judged if fault]

    def __iter__(self) -> Iterator[list[Question]]:
        """The one question of each picture.

        Raises:
            VrbenchError: a file is no picture.
        """
        for file in self.files:
            try:
                picture = open_image(file).convert("RGB")
            except ImageError as error:
                raise VrbenchError(f"{file} cannot be read as a picture: {error}") from error
            yield [Question(picture, self.prompt, file=str(file))]

    def __str__(self) -> str:
        drawn = f", drawn with seed {self.seed}" if len(self.files) < len(self._found) else ""
        return f"{len(self.files)} pictures of {self.folder}{drawn}, asked {self.prompt!r}"


Questions = DevQuestions | FolderQuestions
