"""Where samples come from, which are used under a limit."""

from __future__ import annotations

import io
import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.task_data import load_task
from vrbench import pocket
from vrbench.core.errors import VrbenchError
from vrbench.data import sampling
from vrbench.data.locate import is_cached, locate
from vrbench.tasks import registry
from vrbench.tasks.item_keys import identify
from vrbench.tasks.spec import DataSource, TaskSpec

SUBTASKS = ("existence", "OCR", "color")


def png(colour: int) -> bytes:
    stream = io.BytesIO()
    Image.new("RGB", (5, 4), (colour, 0, 0)).save(stream, format="PNG")
    return stream.getvalue()


def mme_rows(images: int = 6) -> list[dict[str, Any]]:
    """MME's columns: two questions a picture."""
    return [
        {
            "question_id": f"{subtask}/{number}.png",
            "image": {"bytes": png(number), "path": f"{number}.png"},
            "question": f"Is there {thing} in this image? Please answer yes or no.",
            "answer": answer,
            "category": subtask,
        }
        for subtask in SUBTASKS
        for number in range(images)
        for thing, answer in (("a train", "Yes"), ("a bed", "No"))
    ]


def put(root: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    file = root / f"{name}.parquet"
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), file)
    return file


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory, specs: dict[str, TaskSpec]) -> Path:
    """Small data of the same columns as the real sets."""
    folder = tmp_path_factory.mktemp("hub")
    put(folder, "lmms-lab-encoder/MME/default/test", mme_rows())
    for number, subject in enumerate(specs["mmlu"].data.config):
        row = {"question": "Q?", "subject": subject, "choices": ["a", "b", "c", "d"], "answer": 2}
        put(
            folder, f"cais/mmlu/{subject}/test", [{**row, "question": f"{subject} {k}?"} for k in range(3 + number % 2)]
        )
        put(folder, f"cais/mmlu/{subject}/dev", [row] * 5)
    put(folder, "baber/piqa/default/validation", [{"goal": "g", "sol1": "x", "sol2": "y", "label": 1}] * 9)
    choices = {"text": ["gray", "soft", "warm"], "label": ["A", "B", "C"]}
    arc = [{"id": f"ARC-{k}", "question": "Q?", "choices": choices, "answerKey": "B"} for k in range(7)]
    put(folder, "allenai/ai2_arc/ARC-Easy/test", arc)
    return folder


def own(folder: Path, name: str, **more: Any) -> TaskSpec:
    """A user's task over a local file."""
    text = {
        "id": "mine",
        "suites": ["own"],
        "title": "mine",
        "harness": "lmms-eval",
        "scorer": "exact_match",
        "prompt": "{{question}}",
        "target": "answer",
        "data": {"kind": "file", "name": name, **more},
        "metric": "mean",
        "chance": None,
        "n": 2,
        "version": "1",
    }
    (folder / "mine.yaml").write_text(json.dumps(text), encoding="utf-8")
    return registry.load(folder)["mine"]


def test_a_data_root_gives_all_configs_and_splits(specs: dict[str, TaskSpec], root: Path) -> None:
    mmlu = load_task(specs["mmlu"], root)
    assert tuple(mmlu) == specs["mmlu"].data.config
    assert set(mmlu["anatomy"]) == {"test", "dev"}
    assert mmlu["anatomy"]["test"][0]["choices"] == ["a", "b", "c", "d"]
    assert load_task(specs["arc_easy"], root)["ARC-Easy"]["test"][0]["choices"]["label"] == ["A", "B", "C"]
    mme = load_task(specs["mme"], root)["default"]["test"]
    assert mme[2]["image"].size == (5, 4) and mme[2]["image"].getpixel((0, 0)) == (1, 0, 0)
    assert locate(specs["piqa"], root).origin == "baber/piqa validation, from the data root"


def test_all_missing_files_of_a_set_are_told_at_once(specs: dict[str, TaskSpec], root: Path, tmp_path: Path) -> None:
    for file in (root / "cais").rglob("*.parquet"):
        part = file.relative_to(root)
        if part.parts[2] not in ("anatomy", "virology") and part.parts[2:] != ("marketing", "dev.parquet"):
            (tmp_path / part).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / part).symlink_to(file)
    with pytest.raises(VrbenchError) as caught:
        locate(specs["mmlu"], tmp_path)
    for said in ("'mmlu'", "cais/mmlu", str(tmp_path), "--data-root", "CONFIG/SPLIT.parquet"):
        assert said in str(caught.value)
    for lost in ("anatomy/test", "anatomy/dev", "virology/test", "virology/dev", "marketing/dev"):
        assert f"cais/mmlu/{lost}.parquet" in str(caught.value)
    assert "marketing/test" not in str(caught.value)


def test_a_set_that_is_not_there_is_told_with_where_it_was_looked_for(
    specs: dict[str, TaskSpec], tmp_path: Path
) -> None:
    with pytest.raises(VrbenchError, match=f"{tmp_path}/lmms-lab-encoder/MME is not a folder"):
        locate(specs["mme"], tmp_path)
    with pytest.raises(VrbenchError, match=r"'.*/nowhere' is not a folder"):
        load_task(specs["mme"], tmp_path / "nowhere")


def test_offline_only_the_hubs_cache_is_used(
    specs: dict[str, TaskSpec], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_HUB_CACHE", "HF_DATASETS_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(VrbenchError, match=r"lmms-lab-encoder/MME is not whole in the hub's cache.*HF_HUB_OFFLINE"):
        load_task(specs["mme"])
    commit = specs["mme"].data.revision
    (tmp_path / "datasets/lmms-lab-encoder___mme/default/0.0.0" / commit).mkdir(parents=True)
    assert locate(specs["mme"]).kind == "cache"
    with pytest.raises(VrbenchError, match=r"cannot be loaded from the hub.*--data-root DIR"):
        load_task(specs["mme"])  # the folder is empty, and nothing may be fetched
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert locate(specs["mme"]).kind == "hub"


def test_a_local_file_may_call_its_columns_and_pictures_as_it_likes(tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    lines = []
    for number in range(2):
        (tmp_path / "pictures" / f"{number}.png").write_bytes(png(number))
        row = {"frage": f"which {number}?", "answer": str(number), "bild": f"pictures/{number}.png"}
        lines.append(json.dumps(row))
    (tmp_path / "mine.jsonl").write_text("\n\n".join(lines), encoding="utf-8")
    spec = own(tmp_path, "mine.jsonl", columns={"question": "frage", "image": "bild"}, images=["bild"])
    rows = load_task(spec)["default"]["test"]
    assert [row["question"] for row in rows] == ["which 0?", "which 1?"]
    assert [row["image"].getpixel((0, 0)) for row in rows] == [(0, 0, 0), (1, 0, 0)]
    assert locate(spec).origin == "mine.jsonl, a local file"


def test_a_local_file_that_will_not_do_is_told(tmp_path: Path) -> None:
    with pytest.raises(VrbenchError, match=r"there is no file .*mine\.jsonl\); data\.name is relative"):
        locate(own(tmp_path, "mine.jsonl"))
    with pytest.raises(VrbenchError, match=r"neither \.parquet nor \.jsonl"):
        locate(own(tmp_path, "mine.csv"))
    (tmp_path / "mine.jsonl").write_text('{"question": "?", "text": "x"}', encoding="utf-8")
    with pytest.raises(VrbenchError, match=r"mine\.jsonl has no column answer; it has question, text"):
        load_task(own(tmp_path, "mine.jsonl"))
    with pytest.raises(VrbenchError, match="no column frage, answer"):
        load_task(own(tmp_path, "mine.jsonl", columns={"question": "frage"}))


def test_lines_of_json_are_parted_at_line_feeds_alone_and_their_faults_told(tmp_path: Path) -> None:
    file = tmp_path / "mine.jsonl"
    file.write_text('{"question": "one\u2028two", "answer": "\x85"}\n', encoding="utf-8")
    (row,) = load_task(own(tmp_path, "mine.jsonl"))["default"]["test"]
    assert row == {"question": "one\u2028two", "answer": "\x85"}
    file.write_text('{"question": "?", "answer": "a"}\n{"question": ["?"], "answer": "a"}', encoding="utf-8")
    with pytest.raises(VrbenchError, match=r"mine\.jsonl: its values do not make columns of one type"):
        load_task(own(tmp_path, "mine.jsonl"))
    file.write_text('{"question": "\\ud800", "answer": "a"}', encoding="utf-8")
    with pytest.raises(VrbenchError, match=r"mine\.jsonl: its values do not make columns"):
        load_task(own(tmp_path, "mine.jsonl"))
    file.write_bytes(b'{"question": "\xe9", "answer": "a"}')
    with pytest.raises(VrbenchError, match=r"mine\.jsonl is not UTF-8"):
        load_task(own(tmp_path, "mine.jsonl"))


def test_a_limit_keeps_pairs_whole_and_spreads_them_over_subtasks(specs: dict[str, TaskSpec], root: Path) -> None:
    mme, rows = specs["mme"], mme_rows()
    loaded = load_task(mme, root)
    chosen = sampling.select(loaded, mme, limit=14)["default"]
    assert chosen == sorted(set(chosen)) and len(chosen) == 14
    assert set(Counter(rows[p]["question_id"] for p in chosen).values()) == {2}
    assert sorted(Counter(rows[p]["category"] for p in chosen).values()) == [4, 4, 6]
    assert len(sampling.select(loaded, mme, limit=15)["default"]) == 14, "an odd limit must not break a pair"
    assert len(sampling.select(loaded, mme, limit=1)["default"]) == 2, "one unit at least"
    assert sampling.select(loaded, mme, limit=1000) == sampling.select(loaded, mme) == {"default": list(range(36))}


def test_the_digest_tells_every_difference_but_where_a_picture_was_kept() -> None:
    rows = mme_rows(2)
    first = sampling.digest(rows)
    assert sampling.digest(mme_rows(2)) == first
    rows[3]["image"]["path"] = "elsewhere.png"
    assert sampling.digest(rows) == first
    assert sampling.digest(rows[::-1]) != first
    assert sampling.digest(rows[:-1]) != first
    rows[3]["image"]["bytes"] = png(77)
    assert sampling.digest(rows) != first
    assert sampling.digest([{"a": float("nan"), "b": None}]) != sampling.digest([{"a": 1.0, "b": None}])


def test_the_digest_is_that_of_the_stored_bytes(specs: dict[str, TaskSpec], root: Path) -> None:
    loaded = load_task(specs["mme"], root)["default"]["test"]
    assert sampling.digest(loaded) == sampling.digest(mme_rows())
    assert sampling.digest(loaded.select([4, 7])) == sampling.digest([mme_rows()[4], mme_rows()[7]])


@pytest.mark.parametrize("name", [s.id for s in registry.load().values() if s.data.kind == "generated"])
def test_generated_tasks_have_the_items_that_their_file_says(
    specs: dict[str, TaskSpec], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = np.zeros((4, 4, 3), dtype=np.uint8)  # what is drawn is seen by the pocket tasks' own tests
    monkeypatch.setattr("vrbench.pocket.visual.draw", lambda _: nothing)
    spec = specs[name]
    rows = pocket.generate(spec.data.name, spec.data.split)
    assert len(rows) == spec.n >= 500
    found = [identify(spec, row, "default", p) for p, row in enumerate(rows)]
    assert len({item.id for item in found}) == spec.n
    assert not spec.missing_groups(item.group for item in found)
    if spec.metric in ("mme", "circular"):
        size = {"mme": 2, "circular": 4}[spec.metric]
        assert set(Counter(item.unit for item in found).values()) == {size}
    if "image" in rows[0]:
        first = rows[0]["image"]
        assert (first[0] if isinstance(first, list) else first).mode == "RGB"


@pytest.mark.parametrize(
    "name", ["o/MME", "o/ScienceQA", "o/ai2_arc", "Owner/OCR-VQA", "o/MMBench", "o/POPE2d", "squad"]
)
def test_prepared_sets_are_looked_for_where_datasets_puts_them(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datasets.naming import camelcase_to_snakecase

    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    owner, _, own_name = name.rpartition("/")
    folder = tmp_path / "___".join(filter(None, [owner, camelcase_to_snakecase(own_name)]))
    (folder / "one" / "0.0.0" / ("a" * 40)).mkdir(parents=True)
    kept = DataSource(kind="hub", name=name)
    assert is_cached(kept) and is_cached(kept.model_copy(update={"config": ("one",)}))
    assert is_cached(kept.model_copy(update={"revision": "a" * 40}))
    assert not is_cached(kept.model_copy(update={"config": ("one", "two")}))
    assert not is_cached(kept.model_copy(update={"revision": "b" * 40}))
