"""Images that the pocket family is trained on: scenes drawn by several processes, and easy-VQA's train split."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vrbench.core.cpu_count import usable_cores
from vrbench.pocket import easy_vqa
from vrbench.pocket.drawing import draw
from vrbench.pocket.turns import TrainingTurn, caption, turns
from vrbench.pocket.world import COLOURS, SHAPES, SIDE, SIZES, Scene, scene

CHUNK = 250
GRID = 8  # patches a side, of SIDE / GRID pixels each
ALPHABET = "abcdefghijklmnopqrstuvwxyz"
SHAPE_NAMES = (*SHAPES, *easy_vqa.EXTRA_SHAPES)
COLOUR_NAMES = (*COLOURS, *easy_vqa.EXTRA_COLOURS)
HEADS = {
    "shape": len(SHAPE_NAMES) + 1,
    "colour": len(COLOUR_NAMES) + 1,
    "size": len(SIZES) + 1,
    "left_letter": len(ALPHABET) + 1,
    "right_letter": len(ALPHABET) + 1,
    "ink": len(COLOURS) + 1,
}
"""What the tower is trained to name in each patch: head -> number of classes; class 0 means "nothing"."""


@dataclass(frozen=True)
class LabelledImages:
    """Images with the labels of their patches and the questions on them.

    Attributes:
        pixels: [n, SIDE, SIDE, 3], uint8.
        labels: [n, GRID * GRID, len(HEADS)], int8.
        turns: the questions and answers on each image.
    """

    pixels: NDArray[np.uint8]
    labels: NDArray[np.int8]
    turns: list[list[TrainingTurn]]

    def __len__(self) -> int:
        return len(self.pixels)


def generated_images(split: str, count: int, per_image: int, captions: bool = False, first: int = 0) -> LabelledImages:
    """Return `count` scenes of a split ("train" or "dev") from index `first`, drawn on all processors.

    Each has `per_image` questions, or one caption.
    """
    starts = range(first, first + count, CHUNK)
    jobs = [(split, start, min(CHUNK, first + count - start), per_image, captions) for start in starts]
    processes = min(len(jobs), usable_cores())
    if processes < 2:
        parts = [_draw_chunk(job) for job in jobs]
    else:
        with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
            parts = list(pool.map(_draw_chunk, jobs))
    return LabelledImages(
        np.concatenate([p.pixels for p in parts]),
        np.concatenate([p.labels for p in parts]),
        [t for p in parts for t in p.turns],
    )


def _draw_chunk(job: tuple[str, int, int, int, bool]) -> LabelledImages:
    split, first, count, per_image, captions = job
    scenes = [scene(split, i) for i in range(first, first + count)]
    return LabelledImages(
        np.stack([draw(of) for of in scenes]),
        np.stack([patch_labels(of) for of in scenes]),
        [[caption(of)] if captions else turns(of, per_image) for of in scenes],
    )


def easy_vqa_images(per_image: int) -> LabelledImages:
    """Return easy-VQA's train split without images of its test split, at the size of the tower's input."""
    pixels, labels, turns = [], [], []
    for item in easy_vqa.training_images():
        pixels.append(np.asarray(item.image.resize((SIDE, SIDE), resample=3), dtype=np.uint8))
        labels.append(_easy_vqa_labels(pixels[-1], item.shape, item.colour))
        turns.append(list(item.turns[:per_image]))
    return LabelledImages(np.stack(pixels), np.stack(labels), turns)


def patch_labels(of: Scene) -> NDArray[np.int8]:
    """Return the labels of each patch, row by row: [GRID * GRID, len(HEADS)]; 0 where there is nothing."""
    step = SIDE / GRID
    labels = np.zeros((GRID, GRID, len(HEADS)), dtype=np.int8)
    nearest = np.full((GRID, GRID), np.inf)
    centres = (np.arange(GRID) + 0.5) * step
    for thing in of.objects:
        dx, dy = np.abs(centres[None, :] - thing.x), np.abs(centres[:, None] - thing.y)
        reach = thing.radius * 0.8 + step / 2
        covers = (dx < reach) & (dy < reach) & (dx * dx + dy * dy < nearest)
        nearest[covers] = (dx * dx + dy * dy)[covers]
        labels[covers, :3] = (
            SHAPES.index(thing.shape) + 1, list(COLOURS).index(thing.colour) + 1, SIZES.index(thing.size) + 1,
        )  # fmt: skip
    for word in of.words:
        for letter, (x, y) in zip(word.text, word.letter_centres(), strict=True):
            row, column = min(GRID - 1, max(0, int(y // step))), min(GRID - 1, max(0, int(x // step)))
            half = 3 if x % step < step / 2 else 4
            labels[row, column, half] = ALPHABET.index(letter) + 1
            labels[row, column, 5] = list(COLOURS).index(word.colour) + 1
    return labels.reshape(GRID * GRID, len(HEADS))


def _easy_vqa_labels(pixels: NDArray[np.uint8], shape: str, colour: str) -> NDArray[np.int8]:
    """Return the labels of an image with one shape on a plain background: on patches that are mostly not background."""
    background = np.median(pixels[:4].reshape(-1, 3), axis=0)
    differs = np.abs(pixels.astype(np.int16) - background).max(-1) > 24
    step = SIDE // GRID
    share = differs.reshape(GRID, step, GRID, step).mean((1, 3)).reshape(-1)
    labels = np.zeros((GRID * GRID, len(HEADS)), dtype=np.int8)
    labels[share > 0.3, :2] = SHAPE_NAMES.index(shape) + 1, COLOUR_NAMES.index(colour) + 1
    return labels
