"""The rows of the generated visual tasks: true, balanced, and about images that nothing else shows."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable
from typing import Any

import pytest

from tests.pocket import truth
from vrbench.pocket import visual
from vrbench.pocket.drawing import draw
from vrbench.pocket.questions import ASKED_ONCE, YES_NO_PAIRS
from vrbench.pocket.visual import LETTERS
from vrbench.pocket.world import Scene, scene

Rows = list[dict[str, Any]]
TRAINING = 500
OFFSET = 1_000_000  # from one task's first scene to the next task's
LETTER_TASKS = ("pocket_mmbench", "pocket_seed")
DEV = {"pocket_mme": 30, "pocket_mmbench": 60, "pocket_seed": 120, "pocket_textvqa": 120}


def pictures(row: dict[str, Any]) -> list[Any]:
    return row["image"] if isinstance(row["image"], list) else [row["image"]]


def digests(rows: Rows) -> set[str]:
    unique = {id(picture): picture for row in rows for picture in pictures(row)}
    return {hashlib.sha256(picture.tobytes()).hexdigest() for picture in unique.values()}


def scene_of(task: str, row: dict[str, Any]) -> Scene:
    """The scene that a row's image shows, found by its number and checked by its pixels."""
    if task == "pocket_mmbench":
        index = OFFSET + row["index"] % OFFSET
    else:
        index = int(str(row["question_id"]).split("-")[-1].removesuffix(".png"))
    return scene("test", index)


def test_the_test_splits() -> None:
    """One test, since to draw all items takes seconds."""
    names = ("pocket_mme", *LETTER_TASKS, "pocket_textvqa")
    rows_of: dict[str, Rows] = {name: getattr(visual, name)("test") for name in names}
    check_every_mme_image_has_one_yes_and_one_no_in_each_category(rows_of)
    check_mmbench_has_every_rotation_with_its_letter(rows_of)
    for task in LETTER_TASKS:
        check_exactly_one_option_is_right(task, rows_of)
    check_letters_and_kinds_are_in_equal_shares(rows_of)
    check_textvqa_asks_for_a_written_word(rows_of)
    check_rows_show_the_scene_that_they_ask_about(rows_of)
    check_there_are_500_items_or_more(rows_of)
    check_no_picture_is_in_two_tasks_or_two_splits(rows_of)


def check_every_mme_image_has_one_yes_and_one_no_in_each_category(rows_of: dict[str, Rows]) -> None:
    asked: dict[tuple[str, str], list[str]] = defaultdict(list)
    for row in rows_of["pocket_mme"]:
        asked[row["question_id"], row["category"]].append(row["answer"])
        question = row["question"].removesuffix(" Please answer yes or no.")
        assert question != row["question"]
        assert truth.answer(question, scene_of("pocket_mme", row)) == row["answer"]
    assert all(sorted(answers) == ["No", "Yes"] for answers in asked.values())
    images = {image for image, _ in asked}
    assert set(asked) == {(image, kind) for image in images for kind in YES_NO_PAIRS}


def check_mmbench_has_every_rotation_with_its_letter(rows_of: dict[str, Rows]) -> None:
    turned: dict[int, Rows] = defaultdict(list)
    for row in rows_of["pocket_mmbench"]:
        turned[row["index"] % OFFSET].append(row)
    for rows in turned.values():
        assert [row["index"] // OFFSET for row in rows] == [0, 1, 2, 3]
        first = [rows[0][letter] for letter in LETTERS]
        orders = [[row[letter] for letter in LETTERS] for row in rows]
        assert orders == [first[k:] + first[:k] for k in range(4)]
        assert {row[row["answer"]] for row in rows} == {rows[0][rows[0]["answer"]]}
        assert {row["answer"] for row in rows} == set(LETTERS)


@pytest.mark.parametrize("task", LETTER_TASKS)
def check_exactly_one_option_is_right(task: str, rows_of: dict[str, Rows]) -> None:
    names = {letter: letter if task == "pocket_mmbench" else f"choice_{letter.lower()}" for letter in LETTERS}
    for row in rows_of[task]:
        right = truth.answer(row["question"], scene_of(task, row))
        assert [letter for letter in LETTERS if row[names[letter]] == right] == [row["answer"]], row
        assert len({row[name] for name in names.values()}) == 4


def check_letters_and_kinds_are_in_equal_shares(rows_of: dict[str, Rows]) -> None:
    rows = rows_of["pocket_seed"]
    kinds = Counter(row["question_type"] for row in rows)
    assert set(kinds) == set(ASKED_ONCE)
    assert max(kinds.values()) - min(kinds.values()) <= 1
    assert len({(row["question_type"], row["question_type_id"]) for row in rows}) == len(kinds)
    assert all(0.18 < n / len(rows) < 0.32 for n in Counter(row["answer"] for row in rows).values())


def check_textvqa_asks_for_a_written_word(rows_of: dict[str, Rows]) -> None:
    for row in rows_of["pocket_textvqa"]:
        of = scene_of("pocket_textvqa", row)
        assert row["answers"] == [truth.answer(row["question"], of)] * 10


def check_rows_show_the_scene_that_they_ask_about(rows_of: dict[str, Rows]) -> None:
    for task, rows in rows_of.items():
        for row in rows[:: len(rows) // 12]:
            (picture,) = pictures(row)
            assert picture.tobytes() == draw(scene_of(task, row)).tobytes()


def check_there_are_500_items_or_more(rows_of: dict[str, Rows]) -> None:
    assert all(len(rows) >= 500 for rows in rows_of.values())


def check_no_picture_is_in_two_tasks_or_two_splits(rows_of: dict[str, Rows]) -> None:
    groups = {f"{task} test": digests(rows) for task, rows in rows_of.items()}
    groups |= {f"{task} dev": digests(getattr(visual, task)("dev", count)) for task, count in DEV.items()}
    groups["train"] = {hashlib.sha256(draw(scene("train", i)).tobytes()).hexdigest() for i in range(TRAINING)}
    assert len(groups["train"]) == TRAINING
    owners = Counter(digest for found in groups.values() for digest in found)
    assert max(owners.values()) == 1


@pytest.mark.parametrize("task", DEV)
def test_the_same_split_is_the_same_rows(task: str) -> None:
    make: Callable[..., Rows] = getattr(visual, task)
    first, again = make("dev", 3), make("dev", 3)
    assert digests(first) == digests(again)
    assert [without_picture(row) for row in first] == [without_picture(row) for row in again]


def without_picture(row: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in row.items() if key != "image"}
