"""Image columns in the forms in which people have them: read, or named with file, column and rows."""

from __future__ import annotations

import base64
import errno
import json
import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.data.test_loading import png
from vrbench.core.errors import VrbenchError
from vrbench.data import sampling, tables
from vrbench.data.image_columns import ALLOWED
from vrbench.training.conversation_sets import from_json, from_parquet
from vrbench.training.recipe import HubConversations

BINARY, LARGE, STRUCT = pa.binary(), pa.large_binary(), pa.struct({"bytes": pa.binary(), "path": pa.string()})
TEXT = base64.b64encode(png(2)).decode()

FORMS: dict[str, tuple[Any, list[Any]]] = {
    "bytes": (BINARY, [png(1), png(2), None]),
    "large bytes": (LARGE, [png(1), png(2), None]),
    "paths": (pa.string(), ["1.png", "sub/../2.png", None]),
    "large paths": (pa.large_string(), ["1.png", "2.png", None]),
    "categories": (pa.dictionary(pa.int32(), pa.string()), ["1.png", "2.png", None]),
    "base64": (pa.string(), [base64.b64encode(png(1)).decode(), f"data:image/png;base64,{TEXT}", None]),
    "bytes alone": (pa.struct({"bytes": BINARY}), [{"bytes": png(1)}, {"bytes": png(2)}, None]),
    "path alone": (pa.struct({"path": pa.string()}), [{"path": "1.png"}, {"path": "2.png"}, {"path": None}]),
    "bytes or path": (STRUCT, [{"bytes": png(1), "path": "gone.png"}, {"bytes": None, "path": "2.png"}, None]),
    "large struct": (pa.struct({"bytes": LARGE, "path": pa.large_string()}), [{"bytes": png(i)} for i in (1, 2, 2)]),
}  # fmt: skip


def beside(folder: Path) -> None:
    for i in (1, 2):
        (folder / f"{i}.png").write_bytes(png(i))
    (folder / "sub").mkdir()


def red(image: Any) -> int | None:
    return None if image is None else image.convert("RGB").getpixel((0, 0))[0]


@pytest.mark.parametrize("listed", [None, pa.list_, pa.large_list])
@pytest.mark.parametrize("form", FORMS)
def test_a_parquet_column_of_any_form_is_read(form: str, listed: Any, tmp_path: Path) -> None:
    kind, values = FORMS[form]
    if listed and form == "categories":  # of which Arrow makes no lists
        kind = pa.string()
    beside(tmp_path)
    column = pa.array([[value] for value in values] if listed else values, listed(kind) if listed else kind)
    pq.write_table(pa.table({"image": column, "n": [1, 2, 3]}), tmp_path / "x.parquet")
    rows = tables.from_file(tmp_path / "x.parquet", ["image"])
    assert [red(row["image"][0] if listed else row["image"]) for row in rows] == [
        *(1, 2), 2 if form == "large struct" else None
    ]  # fmt: skip
    assert rows["n"][:] == [1, 2, 3]


def test_json_lines_may_mix_the_forms(tmp_path: Path) -> None:
    beside(tmp_path)
    values = ["1.png", {"bytes": TEXT}, {"path": "1.png", "bytes": None}, None, TEXT, str(tmp_path / "1.png")]
    text = "".join(json.dumps({"image": value}) + "\n" for value in values)
    (tmp_path / "x.jsonl").write_text(text)
    assert [red(row["image"]) for row in tables.from_file(tmp_path / "x.jsonl", ["image"])] == [1, 2, 1, None, 2, 1]
    (tmp_path / "x.jsonl").write_text(text + json.dumps({"image": ["2.png", TEXT]}) + "\n")
    mixed = [row["image"] for row in tables.from_file(tmp_path / "x.jsonl", ["image"])]
    assert [found if found is None else [red(one) for one in found] for found in mixed] == [
        [1], [2], [1], None, [2], [1], [2, 2],
    ]  # fmt: skip


BAD = {
    "https://example.org/a.png": "'https://example.org/a.png' is a URL, and nothing is downloaded",
    "gone.png": "there is no image 'gone.png' in ",
    "": "there is no image ''",
    "x" * 5000: "(5,000 characters)",
    "nul\0l.png": "there is no image",
    "../out.png": "leads out of",
    "/etc/hostname": "leads out of",
    "link.png": "leads out of",
    TEXT[:-7] + "!!!": "base64 text that cannot be decoded",
    "data:image/svg+xml,<svg/>": "a data URL that is not base64",
}


@pytest.mark.parametrize("suffix", ["parquet", "jsonl"])
@pytest.mark.parametrize("value", BAD, ids=lambda value: repr(value)[:20])
def test_what_is_no_image_is_named_with_column_and_row(value: str, suffix: str, tmp_path: Path) -> None:
    (tmp_path / "out.png").write_bytes(png(1))
    folder = tmp_path / "in"
    folder.mkdir()
    beside(folder)
    (folder / "link.png").symlink_to(tmp_path / "out.png")
    rows = [{"image": "1.png"}, {"image": value}, {"image": value}]
    file = folder / f"x.{suffix}"
    if suffix == "jsonl":
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        pq.write_table(pa.Table.from_pylist(rows), file)
    with pytest.raises(VrbenchError) as told:
        tables.from_file(file, ["image"])
    assert str(told.value).startswith(f"{file}, rows 1, 2: column image: ")
    assert BAD[value] in str(told.value) and len(str(told.value)) < 700
    assert (ALLOWED in str(told.value)) is ("cannot be decoded" not in str(told.value))


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EACCES])
def test_no_path_is_blamed_for_an_error_of_the_machine(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    beside(tmp_path)
    (tmp_path / "x.jsonl").write_text('{"image": "1.png"}\n')

    def fails(path: Path) -> bool:
        raise OSError(number, os.strerror(number), str(path))

    monkeypatch.setattr(Path, "is_file", fails)
    with pytest.raises(OSError) as told:
        tables.from_file(tmp_path / "x.jsonl", ["image"])
    assert told.value.errno == number


def test_objects_of_other_keys_are_named(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist([{"image": {"url": "a", "height": 3}}]), tmp_path / "x.parquet")
    with pytest.raises(VrbenchError, match=r"row 0: column image: an object with the keys url, height is not an image"):
        tables.from_file(tmp_path / "x.parquet", ["image"])


def test_a_column_that_is_not_named_opens_no_path_of_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "out.png").write_bytes(png(1))
    file = tmp_path / "in" / "x.parquet"
    file.parent.mkdir()
    pq.write_table(pa.table({"second": pa.array([{"bytes": None, "path": str(tmp_path / "out.png")}], STRUCT)}), file)
    with pytest.raises(VrbenchError, match=r"row 0: column second: the path .* leads out of"):
        tables.from_file(file, ["image"])


def test_stored_images_are_not_copied_and_keep_their_digest(tmp_path: Path) -> None:
    table = pa.table({"image": pa.array([{"bytes": png(1), "path": "1.png"}], STRUCT)})
    pq.write_table(table, tmp_path / "x.parquet")
    (tmp_path / "1.png").write_bytes(png(1))
    (tmp_path / "y.jsonl").write_text('{"image": "1.png"}\n')
    here = [tables.from_file(tmp_path / name, ["image"]) for name in ("x.parquet", "y.jsonl")]
    assert sampling.digest(here[0]) == sampling.digest(here[1])
    assert here[0].data.table["image"].to_pylist() == [{"bytes": png(1), "path": "1.png"}]


@pytest.mark.parametrize("form", ["large bytes", "paths", "base64", "bytes alone", "bytes or path"])
def test_a_training_set_s_column_may_be_of_the_same_forms(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VRBENCH_CACHE", str(tmp_path / "cache"))
    kind, values = FORMS[form]
    beside(tmp_path)
    column = pa.array([*values[:2], values[0] if "bytes" in form else "../gone.png"], kind)
    texts = ["What?"] * 3
    pq.write_table(pa.table({"image": column, "question": texts, "answer": texts}), tmp_path / "x.parquet")
    found = from_parquet(tmp_path / "x.parquet", HubConversations(hub="made", most_left_out=0.5), "made")
    assert [red(sample.open_images()[0]) for sample in found.samples][:2] == [1, 2]
    assert found.skipped == ({} if "bytes" in form else {"image missing": 1})


def test_conversations_in_json_may_hold_base64(tmp_path: Path) -> None:
    said = [{"from": "human", "value": "What?"}, {"from": "gpt", "value": "That"}]
    images = [TEXT, f"data:image/png;base64,{TEXT}", "https://example.org/a.png", "x" * 5000]
    (tmp_path / "x.json").write_text(json.dumps([{"image": image, "conversations": said} for image in images]))
    found = from_json(tmp_path / "x.json", tmp_path, max_invalid=0.5)
    assert [red(sample.open_images()[0]) for sample in found.samples] == [2, 2]
    assert found.skipped == {"image missing": 2}
