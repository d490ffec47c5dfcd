"""Questions about images on which layers are measured: generated dev images with answers, or a user's folder."""

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
"""The prompt that Visual-Region's code uses for each image when it measures block influence."""

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff")


@dataclass(frozen=True)
class ImageQuestion:
    """One question about an image, with its right answer and the image's file where there are any."""

    image: Image
    prompt: str
    answer: str = ""
    file: str = ""


@dataclass(frozen=True)
class DevQuestions:
    """Questions on dev images of the pocket world, which are in no training set and no test set.

    Attributes:
        num_images: number of images.
        turns: questions on each.
        first: number of the first image.
    """

    num_images: int
    turns: int
    first: int = 0

    def validate(self) -> list[str]:
        """Return why nothing can be asked, one message each."""
        counts = {"num_images": self.num_images, "turns": self.turns}
        return [f"{name} is {value}; it must be at least 1" for name, value in counts.items() if value < 1]

    def __iter__(self) -> Iterator[list[ImageQuestion]]:
        """Yield the questions of one image after the other."""
        from PIL import Image

        from vrbench.pocket.drawing import draw
        from vrbench.pocket.turns import turns
        from vrbench.pocket.world import scene

        for index in range(self.first, self.first + self.num_images):
            world = scene("dev", index)
            image = Image.fromarray(draw(world))
            yield [ImageQuestion(image, turn.prompt, turn.answer) for turn in turns(world, self.turns)]

    def __str__(self) -> str:
        return f"{self.num_images} dev images with {self.turns} questions each"


@dataclass(frozen=True)
class FolderQuestions:
    """One prompt about each image of a folder, without answers, as Visual-Region's code uses Flickr30k.

    Attributes:
        folder: with images, in subfolders of any depth.
        num_images: maximum number of images; which ones is drawn by the seed.
        prompt: the prompt for each.
        seed: of the draw.
    """

    folder: Path
    num_images: int
    prompt: str = DESCRIBE
    seed: int = 0

    @cached_property
    def files(self) -> list[Path]:
        """The images used, sorted by name."""
        if len(self._found) <= self.num_images:
            return self._found
        return sorted(random.Random(self.seed).sample(self._found, self.num_images))

    @cached_property
    def _found(self) -> list[Path]:
        return sorted(path for path in self.folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())

    def validate(self) -> list[str]:
        """Return why nothing can be asked, one message each."""
        if self.num_images < 1:
            return [f"num_images is {self.num_images}; it must be at least 1"]
        if not self.folder.is_dir():
            return [f"images {str(self.folder)!r} is not a folder"]
        if not self.files:
            return [f"images {str(self.folder)!r} contains no image ({', '.join(SUFFIXES)})"]
        checked = ((file, inspect_image(file)[0]) for file in self.files)
        return [f"{file} cannot be read as an image: {error}" for file, error in checked if error]

    def __iter__(self) -> Iterator[list[ImageQuestion]]:
        """Yield the one question of each image.

        Raises:
            VrbenchError: a file is not an image.
        """
        for file in self.files:
            try:
                image = open_image(file).convert("RGB")
            except ImageError as error:
                raise VrbenchError(f"{file} cannot be read as an image: {error}") from error
            yield [ImageQuestion(image, self.prompt, file=str(file))]

    def __str__(self) -> str:
        drawn = f", drawn with seed {self.seed}" if len(self.files) < len(self._found) else ""
        return f"{len(self.files)} images of {self.folder}{drawn}, prompt {self.prompt!r}"


Questions = DevQuestions | FolderQuestions
