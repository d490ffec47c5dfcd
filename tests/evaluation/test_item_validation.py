"""Faults of items are told by file and row, whatever the harness, and sound items pass."""

from __future__ import annotations

import io
import json
import random
from pathlib import Path
from typing import Any

import pytest

from benchmarks import documents
from tests.evaluation import made
from tests.fakehub import parquet
from tests.task_data import load_task
from vrbench.core.errors import VrbenchError
from vrbench.data.locate import locate
from vrbench.evaluation import item_validation
from vrbench.evaluation.built_task import select_items
from vrbench.tasks import registry
from vrbench.tasks.scorers import SCORERS
from vrbench.tasks.spec import TaskSpec

SPECS = registry.load()
FILES = {
    "piqa": "baber/piqa/default/validation.parquet",
    "arc_easy": "allenai/ai2_arc/ARC-Easy/test.parquet",
    "mme": "lmms-lab-encoder/MME/default/test.parquet",
    "seedbench": "lmms-lab-encoder/SEED-Bench/default/test.parquet",
}


def told(spec: TaskSpec, root: Path | None, limit: int | None = None) -> list[str]:
    parts = select_items(spec, load_task(spec, root), limit, 0)
    return list(item_validation.validate_items(spec, parts, locate(spec, root)))


def faults(root: Path, task: str, rows: list[dict[str, Any]], limit: int | None = None) -> list[str]:
    """What is said of rows in place of a task's file."""
    file = root / FILES[task]
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(parquet(rows))
    return [fault.removeprefix(f"task {task!r}: {file}, ") for fault in told(SPECS[task], root, limit)]


def own(folder: Path, rows: list[dict[str, Any]], **keys: Any) -> TaskSpec:
    """A task of a user's own, over JSON lines."""
    text = {
        "id": "mine", "suites": ["mine"], "title": "made", "harness": "lm-eval", "scorer": "multiple_choice",
        "prompt": "{{q}}", "choices": "options", "target": "right", "metric": "mean", "chance": None, "n": 3,
        "version": "1", "data": {"kind": "file", "name": "mine.jsonl"}, **keys,
    }  # fmt: skip
    (folder / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "mine.yaml").write_text(json.dumps(text))
    return registry.load(folder)["mine"]


def test_sound_items_pass(tmp_path: Path) -> None:
    rows = {"piqa": made.piqa(), "arc_easy": made.arc(), "mme": made.mme()}
    assert {task: faults(tmp_path, task, items) for task, items in rows.items()} == {task: [] for task in rows}


def test_a_label_that_is_no_option_is_told_with_its_row(tmp_path: Path) -> None:
    rows = made.piqa()
    rows[3]["label"], rows[7]["label"], rows[9]["label"] = 2, 2, -1
    assert faults(tmp_path, "piqa", rows) == [
        "rows 3, 7: the right answer, 2, is none of the 2 options",
        "row 9: the right answer, -1, is none of the 2 options",
    ]
    arc = made.arc()
    arc[5]["answerKey"] = "Z"
    (fault,) = faults(tmp_path, "arc_easy", arc)
    assert fault.startswith("row 5: no answer can be made of it")


def test_a_row_without_an_answer_is_told(tmp_path: Path) -> None:
    rows = made.piqa()
    rows[2]["label"] = None
    assert faults(tmp_path, "piqa", rows) == ["row 2: it has no answer (empty: label)"]
    mme = made.mme()
    mme[4]["answer"], mme[6]["answer"], mme[8]["answer"] = "", None, "Maybe"
    assert faults(tmp_path, "mme", mme) == [
        "rows 4, 6: it has no answer (empty: answer)",
        "row 8: the right answer, 'Maybe', is neither yes nor no",
    ]


def wrong(readable: int, **change: Any) -> list[dict[str, Any]]:
    """Rows that are wrong but for one; that one can be read, so that the harness makes a task of them."""
    return [row if i == readable else {**row, **change} for i, row in enumerate(made.piqa())]


def test_rows_are_those_of_the_file_also_under_a_limit(tmp_path: Path) -> None:
    assert faults(tmp_path, "piqa", made.piqa(), limit=4) == []
    (part,) = select_items(SPECS["piqa"], load_task(SPECS["piqa"], tmp_path), 4, 0)
    first, *others = part.positions
    rows = wrong(others[1], label=5)
    others.remove(others[1])
    assert faults(tmp_path, "piqa", rows, limit=4) == [
        f"rows {first}, {others[0]}, {others[1]}: the right answer, 5, is none of the 2 options"
    ]


def test_many_rows_are_counted_and_not_listed(tmp_path: Path) -> None:
    assert faults(tmp_path, "piqa", wrong(2, label=5)) == [
        "rows 0, 1, 3, 4, 5 and 7 more: the right answer, 5, is none of the 2 options"
    ]
    rows = [{**row, "label": 5 + i if i != 2 else 0} for i, row in enumerate(made.piqa())]
    told = faults(tmp_path, "piqa", rows)
    assert len(told) == 6 and told[-1] == "rows 6, 7, 8, 9, 10 and 2 more: these have errors too"


def test_columns_that_only_the_harness_asks_for_are_missed(tmp_path: Path) -> None:
    rows = [{"aim": row["goal"], "sol1": "a", "sol2": "b", "label": 0} for row in made.piqa()]
    (fault,) = faults(tmp_path, "piqa", rows)
    assert fault.startswith("row 0: the harness cannot read it") and "'goal' is undefined" in fault
    assert fault.endswith("the columns are aim, sol1, sol2, label")
    mme = [{name: value for name, value in row.items() if name != "question"} for row in made.mme()]
    (fault,) = faults(tmp_path, "mme", mme)
    assert fault.startswith("row 0: the harness cannot read it") and "'question'" in fault
    assert "question_id, answer, category, image" in fault


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def stored(form: str) -> bytes:
    stream = io.BytesIO()
    made.noise("a picture").save(stream, format=form)
    return stream.getvalue()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF"])
def test_a_broken_picture_is_told_in_any_format(form: str, tmp_path: Path) -> None:
    rows = made.mme()[:8]
    rows[2]["image"] = {"bytes": stored(form), "path": None}
    assert faults(tmp_path, "mme", rows) == []
    rows[2]["image"] = {"bytes": cut(stored(form)), "path": None}
    (fault,) = faults(tmp_path, "mme", rows)
    assert fault.startswith("row 2: the image in column image cannot be used: ")


def test_a_broken_pictures_row_is_that_of_the_file_also_under_a_limit(tmp_path: Path) -> None:
    rows = made.mme()
    assert faults(tmp_path, "mme", rows, limit=4) == []
    (part,) = select_items(SPECS["mme"], load_task(SPECS["mme"], tmp_path), 4, 0)
    assert list(part.positions) != list(range(4))
    rows[part.positions[2]]["image"] = {"bytes": b"no picture", "path": None}
    (fault,) = faults(tmp_path, "mme", rows, limit=4)
    assert fault.startswith(f"row {part.positions[2]}: the image")


def test_what_is_no_picture_at_all_is_told(tmp_path: Path) -> None:
    rows = made.mme()[:8]
    rows[0]["image"] = {"bytes": b"no picture", "path": None}
    rows[1]["image"] = {"bytes": b"another", "path": None}
    rows[5]["image"] = {"bytes": b"", "path": None}
    assert faults(tmp_path, "mme", rows) == [
        "rows 0, 1: the image in column image cannot be used: UnidentifiedImageError: cannot identify image file",
        "row 5: the image in column image cannot be used: it has no bytes",
    ]


def test_a_jpeg_with_bytes_behind_its_end_is_sound(tmp_path: Path) -> None:
    rows = made.mme()[:8]
    rows[2]["image"] = {"bytes": stored("JPEG") + b"\0" * 200, "path": None}
    assert faults(tmp_path, "mme", rows) == []


def test_letters_of_the_visual_tasks_must_be_options() -> None:
    mmbench, seed = made.mmbench()[0], made.seed()[0]
    check = {name: SCORERS[name].check_target for name in ("mmbench", "seed")}
    assert check["mmbench"](mmbench["answer"], mmbench) == check["seed"](seed["answer"], seed) == ""
    assert check["mmbench"]("C", mmbench) == "the right answer, 'C', is none of the options A, B"
    assert check["seed"]("E", seed) == "the right answer, 'E', is none of A, B, C, D"


@pytest.mark.parametrize(
    ("target", "sound"),
    [(1, True), (2, False), (-1, False), ("B", True), ("C", False), ("yes", True), ("x", True)],
)
def test_other_answers_are_held_against_a_list_of_options(target: Any, sound: bool) -> None:
    assert (SCORERS["exact_match"].check_target(target, {"choices": ["x", "y"]}) == "") is sound
    assert SCORERS["exact_match"].check_target(target, {"question": "?"}) == ""


def test_a_users_own_file_is_looked_at(tmp_path: Path) -> None:
    rows = [{"q": f"{i}?", "options": ["x", "y"], "right": i} for i in range(3)]
    assert told(own(tmp_path, rows[:2]), None) == []
    assert told(own(tmp_path, rows), None) == [
        f"task 'mine': {tmp_path / 'mine.jsonl'}, row 2: the right answer, 2, is none of the 2 options"
    ]
    named = [{**row, "right": "y"} for row in rows]
    assert told(own(tmp_path, named), None) == []
    named[1]["right"] = "z"
    assert "row 1: the right answer, 'z', is none of the 2 options" in told(own(tmp_path, named), None)[0]


@pytest.mark.parametrize("scorer", ["multiple_choice", "perplexity"])
def test_ids_that_several_items_share_are_told_with_their_rows(scorer: str, tmp_path: Path) -> None:
    names = ["a", "b", "a", "c", "c", "a"]
    rows = [{"name": name, "q": f"Which {i}?", "options": ["x", "y"], "right": 0} for i, name in enumerate(names)]
    texts = {"prompt": "", "target": "q", "metric": "perplexity", "higher_is_better": False}
    keys = {"scorer": scorer, "id_column": "name", **(texts if scorer == "perplexity" else {})}
    shared = "they share the id {!r} (id_column: name); give each its own, or leave id_column out"
    assert [fault.partition(".jsonl, ")[2] for fault in told(own(tmp_path, rows, **keys), None)] == [
        f"rows 0, 2, 5: {shared.format('a')}",
        f"rows 3, 4: {shared.format('c')}",
    ]
    assert told(own(tmp_path, rows, **{**keys, "id_column": "{{name}} {{q}}"}), None) == []


def test_ids_that_rows_of_the_hub_s_layout_share_are_told(tmp_path: Path) -> None:
    rows = [{**row, "data_id": str(i)} for i, row in enumerate(made.seed())]
    rows[5]["question_id"] = rows[1]["question_id"]
    (fault,) = faults(tmp_path, "seedbench", rows)
    assert fault.startswith("rows 1, 5: they share the id ")


def test_a_list_of_images_where_the_harness_task_takes_one_is_told(tmp_path: Path) -> None:
    rows = [{**row, "image": [row["image"]]} for row in made.mme()]
    (fault,) = faults(tmp_path, "mme", rows)
    assert "its harness task takes no list of images, which column image holds (AttributeError" in fault


def test_an_image_column_of_numbers_is_told(tmp_path: Path) -> None:
    rows = [{**row, "image": number} for number, row in enumerate(made.mme())]
    (fault,) = faults(tmp_path, "mme", rows)
    assert fault.startswith("column image holds int64 and no images; an image is given as bytes")


def test_generated_items_are_not_looked_at() -> None:
    spec = SPECS["pocket_facts"]
    parts = select_items(spec, load_task(spec), 4, 0)
    parts[0].rows["test"] = parts[0].rows["test"].map(lambda row: {"question": ""})
    assert list(item_validation.validate_items(spec, parts, locate(spec))) == []
    parts = select_items(spec, load_task(spec), 4, 0)
    parts[0].rows["test"] = parts[0].rows["test"].remove_columns(["choices"])
    (fault,) = item_validation.validate_items(spec, parts, locate(spec))  # its definition is
    assert fault.startswith("task 'pocket_facts': the harness cannot make it (")


NO_PICTURE = "it has no image"
NO_ANSWERS = "it has no answer (empty: answers)"


@pytest.mark.parametrize(
    ("task", "change", "fault"),
    [
        ("mme", {"image": None}, NO_PICTURE),
        ("seedbench", {"image": []}, NO_PICTURE),
        ("seedbench", {"image": [None]}, NO_PICTURE),
        ("tabmwp", {"image": None}, NO_PICTURE),  # its prompt is ours, and would be asked without a picture
        ("mmmu_val", {"image_1": None}, NO_PICTURE),
        ("mme", {"question": None}, "it has no question"),
        ("mmbench_en", {"question": None}, "it has no question"),  # else "None" is asked
        ("tabmwp", {"question": ""}, "it has no question"),
        ("tabmwp", {"choices": ["x", None], "answer": "x"}, "one of its choices is empty"),
        ("textvqa", {"answers": None}, NO_ANSWERS),
        ("vizwiz", {"answers": []}, NO_ANSWERS),
        ("docvqa_val", {"answers": [""]}, NO_ANSWERS),
        ("docvqa_val", {"answers": ["a", None]}, "1 of its answers are empty"),
        ("scienceqa_img", {"answer": -1}, "the right answer, -1, is none of the 5 options"),
        ("ai2d", {"answer": "-1"}, "the right answer, '-1', is none of the 4 options"),
        ("mmmu_val", {"answer": "J"}, "the right answer, 'J', is none of the 5 options"),
        ("mmmu_val", {"question_type": None}, "the question's type, None, is neither multiple-choice nor open"),
        ("pope", {"answer": "maybe"}, "the right answer, 'maybe', is neither yes nor no"),
        ("hallusionbench", {"gt_answer": "01"}, "the right answer, '01', is neither '0' (no) nor '1' (yes)"),
        ("tabmwp", {"answer": "another"}, "the right answer, 'another', is none of the 4 options"),
        ("mmbench_en", {"index": 3_000_077}, "the first rotation of its question, index 77, is missing"),
        ("textvqa_ocr", {"ocr_tokens": None}, "the harness cannot read it (TypeError: can only join an iterable)"),
        ("gqa", {"types": None}, "the harness cannot read it (VrbenchError: key '{{types.structural}}' cannot be comp"),
        ("mmmu_val", {"id": "x"}, "the harness cannot "),
    ],
)
def test_what_would_be_wrong_or_die_later_is_told_of_every_visual_task(
    task: str, change: dict[str, Any], fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make, columns = documents.SETS[task]
    documents.write(SPECS[task], tmp_path, 8)
    assert told(SPECS[task], tmp_path) == []
    rows = lambda draw, n: [{**row, **change} if i == 3 else row for i, row in enumerate(make(draw, n))]  # noqa: E731
    monkeypatch.setitem(documents.SETS, task, (rows, columns))
    documents.write(SPECS[task], tmp_path, 8)
    (found,) = told(SPECS[task], tmp_path)
    assert f".parquet, row 3: {fault}" in found


def test_where_a_row_holds_several_items_these_are_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, columns = documents.SETS["ocrvqa"]
    covers = make(random.Random(0), 9)
    covers[2] |= {"image": None}  # the fourth to sixth question
    monkeypatch.setitem(documents.SETS, "ocrvqa", (lambda draw, n: covers, columns))
    documents.write(SPECS["ocrvqa"], tmp_path, 9)
    (found,) = told(SPECS["ocrvqa"], tmp_path)
    assert found.endswith("test.parquet, items 3, 4, 5: it has no image")
    covers[2] |= {"answers": ["one"]}
    documents.write(SPECS["ocrvqa"], tmp_path, 9)
    with pytest.raises(VrbenchError, match=r"^task 'ocrvqa': .*test\.parquet, row 2: questions and answers are lists"):
        told(SPECS["ocrvqa"], tmp_path)


def test_a_picture_that_the_question_names_must_be_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make, columns = documents.SETS["mmmu_val"]
    rows = lambda draw, n: [{**row, "image_2": None} for row in make(draw, n)]  # noqa: E731
    monkeypatch.setitem(documents.SETS, "mmmu_val", (rows, columns))
    documents.write(SPECS["mmmu_val"], tmp_path, 6)
    (found,) = told(SPECS["mmmu_val"], tmp_path)
    assert "rows 1, 2, 4, 5: an image that belongs to it is missing" in found


def test_a_pair_of_mme_with_one_question_is_told(tmp_path: Path) -> None:
    rows = made.mme()
    named = rows[3]["question_id"], rows[3]["category"]
    assert faults(tmp_path, "mme", rows[:3] + rows[4:]) == [
        f"row 2: MME counts pairs, but image {named[0]!r} of subtask {named[1]} has 1 questions"
    ]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"answer": None}, "it has no answer (empty: answer)"),
        ({"answer": 7}, "the right answer, 7, is none of the 4 options"),
        ({"question": None}, "it has no question"),
        ({"choices": ["w", "x"]}, "the harness cannot read it (UndefinedError: list object has no element 2)"),
        ({"choices": ["w", None, "y", "z"]}, "one of its choices is empty"),
    ],
)
@pytest.mark.parametrize("split", ["dev", "test"])
def test_items_and_examples_of_a_text_task_are_looked_at_alike(
    split: str, change: dict[str, Any], fault: str, tmp_path: Path
) -> None:
    source = SPECS["mmlu"].data.model_copy(update={"config": ("anatomy",)})
    spec = SPECS["mmlu"].model_copy(update={"data": source})
    folder = tmp_path / "cais/mmlu/anatomy"
    folder.mkdir(parents=True)
    for name in ("dev", "test"):
        rows = [{"question": f"{i}?", "subject": "anatomy", "choices": list("wxyz"), "answer": i % 4} for i in range(6)]
        rows[2] |= change if name == split else {}
        (folder / f"{name}.parquet").write_bytes(parquet(rows))
    assert told(spec, tmp_path) == [f"task 'mmlu': {folder / split}.parquet, row 2: {fault}"]
