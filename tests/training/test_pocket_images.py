"""Training images with what lies in each patch and what is asked."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from vrbench.pocket import easy_vqa
from vrbench.pocket.drawing import draw
from vrbench.pocket.turns import caption, turns
from vrbench.pocket.world import COLOURS, SHAPES, SIZES, scene
from vrbench.training import pocket_images
from vrbench.training.pocket_images import (
    ALPHABET,
    COLOUR_NAMES,
    GRID,
    HEADS,
    SHAPE_NAMES,
    generated_images,
    patch_labels,
)

STEP = 16  # pixels of a patch


def test_they_are_the_split_s_scenes_in_order() -> None:
    made = generated_images("dev", 5, 4, first=3)
    assert len(made) == 5
    for i, index in enumerate(range(3, 8)):
        of = scene("dev", index)
        assert np.array_equal(made.pixels[i], draw(of))
        assert np.array_equal(made.labels[i], patch_labels(of))
        assert made.turns[i] == turns(of, 4)


def test_captions_take_the_place_of_questions() -> None:
    assert generated_images("dev", 2, 1, captions=True).turns == [[caption(scene("dev", i))] for i in range(2)]


def test_many_processes_make_what_one_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = generated_images("train", 6, 2)
    monkeypatch.setattr(pocket_images, "CHUNK", 3)
    monkeypatch.setattr(pocket_images, "usable_cores", lambda: 2)
    parts = generated_images("train", 6, 2)
    assert np.array_equal(parts.pixels, whole.pixels) and np.array_equal(parts.labels, whole.labels)
    assert parts.turns == whole.turns


def test_a_patch_s_label_is_what_its_centre_shows() -> None:
    checked = 0
    for index in range(60):
        of = scene("dev", index)
        labels = patch_labels(of).reshape(GRID, GRID, len(HEADS))
        assert labels.min() >= 0 and all(labels[..., i].max() < n for i, n in enumerate(HEADS.values()))
        for thing in of.objects:
            row, column = int(thing.y // STEP), int(thing.x // STEP)
            named = (SHAPES[labels[row, column, 0] - 1], list(COLOURS)[labels[row, column, 1] - 1],
                     SIZES[labels[row, column, 2] - 1])  # fmt: skip
            near = [t for t in of.objects if abs(t.x // STEP - column) + abs(t.y // STEP - row) == 0]
            assert named in [(t.shape, t.colour, t.size) for t in near]
            checked += 1
    assert checked > 200


def test_an_empty_place_is_labelled_as_empty() -> None:
    of = scene("dev", 4)
    labels = patch_labels(of).reshape(GRID, GRID, len(HEADS))
    for row, column in itertools.product(range(GRID), range(GRID)):
        x, y = (column + 0.5) * STEP, (row + 0.5) * STEP
        far = all(max(abs(t.x - x), abs(t.y - y)) > t.radius + STEP / 2 for t in of.objects)
        if far:
            assert not labels[row, column, :3].any()


def test_the_letters_of_a_word_are_labelled_where_they_stand() -> None:
    """A patch is 16 pixels wide and a letter 8 to 11: it has a left and a right one at most."""
    found = written = 0
    for index in range(40):
        of = scene("dev", index)
        labels = patch_labels(of).reshape(GRID, GRID, len(HEADS))
        for word in of.words:
            for letter, (x, y) in zip(word.text, word.letter_centres(), strict=True):
                row, column, half = int(y // STEP), int(x // STEP), 3 if x % STEP < STEP / 2 else 4
                written += 1
                found += ALPHABET[labels[row, column, half] - 1] == letter
                assert labels[row, column, 5] > 0
    assert written > 100 and found / written > 0.9


def test_easy_vqa_s_shape_is_labelled_where_it_is_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    items = list(itertools.islice(easy_vqa.training_images(), 12))
    monkeypatch.setattr(easy_vqa, "training_images", lambda: iter(items))
    made = pocket_images.easy_vqa_images(2)
    assert made.pixels.shape == (12, 128, 128, 3)
    for item, pixels, labels, asked in zip(items, made.pixels, made.labels, made.turns, strict=True):
        shown = labels[labels[:, 0] > 0]
        assert 0 < len(shown) < GRID * GRID / 2
        assert {SHAPE_NAMES[v - 1] for v in shown[:, 0]} == {item.shape}
        assert {COLOUR_NAMES[v - 1] for v in shown[:, 1]} == {item.colour}
        differs = np.abs(pixels.astype(int) - pixels[0, 0].astype(int)).max(-1) > 24
        for patch in np.flatnonzero(labels[:, 0]):
            y, x = STEP * (patch // GRID), STEP * (patch % GRID)
            assert differs[y : y + STEP, x : x + STEP].mean() > 0.25
        assert [(t.prompt, t.answer) for t in asked] == [(t.prompt, t.answer) for t in item.turns[:2]]
