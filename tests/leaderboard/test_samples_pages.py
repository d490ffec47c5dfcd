"""The files of the sample browser: whole, the same each time, harmless, and refused where they would not be true."""

from __future__ import annotations

import dataclasses
import io
import json
import random
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, PngImagePlugin

from tests.leaderboard.made import Made, read_back
from vrbench.core.errors import VrbenchError
from vrbench.core.schemas import Sample
from vrbench.evaluation.item_preview import ItemPreview
from vrbench.leaderboard.site import sample_pages
from vrbench.leaderboard.site.content import BoardContent, load_content
from vrbench.leaderboard.site.pages import Frame, samples_page
from vrbench.tasks import registry


@pytest.fixture(scope="module")
def content(published_board: Made) -> tuple[BoardContent, Any]:
    """The board's content, and its tasks."""
    specs = registry.load(published_board.tasks)
    (found,) = load_content(published_board.root, specs)
    return found, specs


@pytest.fixture(scope="module")
def written(content: tuple[BoardContent, Any]) -> dict[str, str | bytes]:
    return dict(sample_pages.files(content[0], Frame(()), content[1]))


def value(text: str | bytes) -> Any:
    """The JSON value that a script assigns."""
    assert isinstance(text, str) and text.isascii() and text.count("\n") == 1
    return json.loads(text.partition("]=")[2].removesuffix(";\n"))


def item(number: int, **changed: Any) -> ItemPreview:
    known: dict[str, Any] = {"id": str(number), "group": "", "prompt": f"Question {number}", "options": ()}
    return ItemPreview(**known | {"images": ()} | changed)


def test_items_and_images_are_written_once_and_answers_once_a_submission(
    content: tuple[BoardContent, Any], written: dict[str, str | bytes]
) -> None:
    board = content[0]
    images = [name for name in written if name.startswith("made/samples/made_mme/images/")]
    assert len(images) == 2  # 16 questions, eight of each image
    assert len([name for name in written if "/made_mme/items-" in name]) == 1
    assert len([name for name in written if "/made_mme/answers/" in name]) == len(board.entries) == 4
    pages = {samples_page("made", entry.row, task.id) for entry in board.entries for task in board.shown_tasks(entry)}
    assert pages == {name for name in written if name.endswith(".html")} and len(pages) == 16


def test_the_same_board_gives_the_same_bytes(
    content: tuple[BoardContent, Any], written: dict[str, str | bytes]
) -> None:
    assert dict(sample_pages.files(content[0], Frame(()), content[1])) == written


def test_answers_and_scores_are_those_that_were_handed_in(
    content: tuple[BoardContent, Any], written: dict[str, str | bytes]
) -> None:
    for entry in content[0].entries:
        _, handed_in, _ = read_back(entry.folder)
        for task, rows in handed_in.items():
            told = value(written[f"made/samples/{task}/{sample_pages.answers_name(entry.row)}.js"])
            assert [told["texts"][i] for i in told["answer"]] == [row.answer for row in rows]
            assert told["score"] == [round(row.score / row.weight, 4) for row in rows]
            assert value(written[f"made/samples/{task}/index.js"])["ids"] == [row.id for row in rows]
            asked = value(written[f"made/samples/{task}/items-0.js"])
            assert [one[2] for one in asked] == [row.target for row in rows]


def test_what_may_not_be_shown_is_not_written(content: tuple[BoardContent, Any]) -> None:
    board = content[0].board
    hidden = board.model_copy(update={"shown": {task: task == "made_facts" for task in board.tasks}})
    kept = dataclasses.replace(content[0], board=hidden)
    names = [name for name, _ in sample_pages.files(kept, Frame(()), content[1])]
    assert any("made_facts" in name for name in names)
    assert not [name for name in names if "made_mme" in name or "made_words" in name or "made_pydoc" in name]
    assert all([task.id for task in kept.shown_tasks(entry)] == ["made_facts"] for entry in kept.entries)


def test_other_data_than_the_board_s_are_refused(content: tuple[BoardContent, Any]) -> None:
    board = content[0].board
    pinned = {task: held.model_copy(update={"data_digest": "0" * 64}) for task, held in board.tasks.items()}
    other = dataclasses.replace(content[0], board=board.model_copy(update={"tasks": pinned}))
    with pytest.raises(VrbenchError, match="the data of made_mme are not those of board made"):
        dict(sample_pages.files(other, Frame(()), content[1]))


def test_a_task_without_its_file_is_named(content: tuple[BoardContent, Any]) -> None:
    with pytest.raises(VrbenchError, match="no task file of it; give --include-path"):
        dict(sample_pages.files(content[0], Frame(()), {}))


@pytest.mark.parametrize("answered", [["0", "1"], ["0", "2", "1"], ["0", "1", "2", "3"]])
def test_answers_to_other_items_are_refused(answered: list[str]) -> None:
    items = [item(number) for number in range(3)]
    with pytest.raises(VrbenchError, match="are not those of the task"):
        list(sample_pages.task_files("made/samples/t", items, [(one, "") for one in answered]))


@pytest.mark.parametrize("n", [1, 199, 200, 201, 400])
def test_items_come_in_scripts_of_a_chunk_each(n: int) -> None:
    ids = [str(number) for number in range(n)]
    found = dict(sample_pages.task_files("t", map(item, range(n)), [(one, one) for one in ids]))
    scripts = [value(found[f"t/items-{number}.js"]) for number in range(-(-n // sample_pages.CHUNK))]
    assert [one[0] for script in scripts for one in script] == [f"Question {number}" for number in range(n)]
    assert all(len(script) == sample_pages.CHUNK for script in scripts[:-1]) and len(found) == len(scripts) + 1


def test_a_picture_is_lossless_bare_and_the_same_each_time(tmp_path: Path) -> None:
    draw = random.Random(0)
    picture = Image.frombytes("RGB", (31, 17), draw.randbytes(31 * 17 * 3))
    noted = PngImagePlugin.PngInfo()
    noted.add_text("Author", "somebody")
    picture.save(tmp_path / "noted.png", pnginfo=noted)
    again = Image.open(tmp_path / "noted.png").convert("RGB")
    assert sample_pages.image_name(picture) == sample_pages.image_name(again)
    content = sample_pages.png(again)
    assert content == sample_pages.png(picture) and b"somebody" not in content
    assert Image.open(io.BytesIO(content)).tobytes() == picture.tobytes()
    assert sample_pages.image_name(picture) != sample_pages.image_name(picture.resize((17, 31)))


def test_a_stranger_s_answer_can_neither_end_the_script_nor_hide(content: tuple[BoardContent, Any]) -> None:
    row = content[0].entries[0].row
    hostile = "</script><b>\u2028\u202e\x00" + "x" * 5_000
    sample = Sample(id="1", cluster="1", score=0, answer=hostile, unscored=hostile)
    name, text = sample_pages.answers_file("t", row, [sample])
    told = value(text)
    assert name == f"t/answers/{row.org}__{row.name}.{row.revision}.js"
    assert told["texts"][0].startswith("</script><b>[U+2028][U+202E][U+0000]xxx") and len(told["texts"][0]) < 2_100
    assert told["score"] == [None] and told["unscored"]["0"].startswith("</script>")
