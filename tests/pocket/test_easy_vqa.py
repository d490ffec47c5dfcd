"""Somebody else's data: all of the test split, and nothing of it in training."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

import jinja2
import pytest
from PIL import Image

from vrbench.core.errors import VrbenchError
from vrbench.pocket import easy_vqa
from vrbench.tasks import registry


@pytest.fixture(scope="module")
def items() -> list[easy_vqa.EasyVqaImage]:
    return list(easy_vqa.training_images())


def digests(rows: list[dict[str, Any]]) -> set[str]:
    pictures = {row["image_id"]: row["image"] for row in rows}
    return {easy_vqa.pixel_digest(picture) for picture in pictures.values()}


def test_no_training_picture_is_pixel_for_pixel_a_test_or_dev_picture(items: list[easy_vqa.EasyVqaImage]) -> None:
    trained = {easy_vqa.pixel_digest(item.image) for item in items}
    assert len(items) > 1000
    assert not trained & digests(easy_vqa.rows("test"))
    assert not trained & digests(easy_vqa.rows("dev"))


def test_a_picture_that_the_test_split_has_too_is_left_out(
    items: list[easy_vqa.EasyVqaImage], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The package has none such today; here one of the test split's is swapped for one of the train split's."""
    real, twin = easy_vqa._image, items[7].image
    monkeypatch.setattr(easy_vqa, "_image", lambda split, n: twin if (split, n) == ("test", 5) else real(split, n))
    left = [easy_vqa.pixel_digest(item.image) for item in easy_vqa.training_images()]
    gone = {easy_vqa.pixel_digest(item.image) for item in items} - set(left)
    assert gone == {easy_vqa.pixel_digest(twin)}


def test_a_picture_s_digest_is_that_of_its_pixels() -> None:
    grey = Image.new("RGB", (4, 2), (9, 9, 9))
    other = Image.new("RGB", (4, 2), (9, 9, 8))
    assert easy_vqa.pixel_digest(grey) == easy_vqa.pixel_digest(Image.new("L", (4, 2), 9))
    assert easy_vqa.pixel_digest(grey) != easy_vqa.pixel_digest(other)
    assert easy_vqa.pixel_digest(grey) != easy_vqa.pixel_digest(grey.resize((2, 4)))


def test_the_task_is_the_whole_test_split() -> None:
    rows = easy_vqa.rows("test")
    assert len(rows) == registry.load()["easy_vqa"].n == 9673
    assert len({row["id"] for row in rows}) == len(rows)
    types = Counter(row["question_type"] for row in rows)
    assert set(types) == {"shape", "color", "yes/no shape", "yes/no color"}
    assert all(n > 500 for n in types.values())


@pytest.mark.parametrize(
    ("question", "answer", "expected"),
    [
        ("what shape is in the image?", "circle", "shape"),
        ("what color is the shape?", "teal", "color"),
        ("is there a rectangle?", "no", "yes/no shape"),
        ("is a triangle present?", "yes", "yes/no shape"),
        ("is there a brown shape in the image?", "yes", "yes/no color"),
        ("does the image not contain a red shape?", "no", "yes/no color"),
        ("is it not coloured?", "no", "yes/no shape"),  # "red" is in it, but as no word
    ],
)
def test_types_of_questions(question: str, answer: str, expected: str) -> None:
    assert easy_vqa.question_type(question, answer) == expected


def test_training_asks_what_the_task_asks(items: list[easy_vqa.EasyVqaImage]) -> None:
    prompt = jinja2.Template(registry.load()["easy_vqa"].prompt or "", keep_trailing_newline=True)
    asked = {row["question"] for row in easy_vqa.rows("test")}
    prompts = {prompt.render(question=question) for question in asked}
    trained = {turn.prompt for item in items for turn in item.turns}
    assert trained <= prompts


def test_answers_agree_with_what_the_item_says_it_shows(items: list[easy_vqa.EasyVqaImage]) -> None:
    for item in random.Random(0).sample(items, 200):
        answers = {turn.answer for turn in item.turns}
        assert answers & set(easy_vqa.SHAPES) == {item.shape}
        assert answers & set(easy_vqa.COLOURS) == {item.colour}


def test_the_missing_package_is_told_with_what_mends_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(VrbenchError, match=r"install it with `pip install --no-deps easy-vqa==1[.]0`"):
        easy_vqa.rows()
