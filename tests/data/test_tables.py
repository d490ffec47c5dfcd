"""Rows in memory: pictures in all the forms in which they come."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tests.data.test_loading import png
from vrbench.core.errors import VrbenchError
from vrbench.data import sampling, tables


def test_drawn_pictures_keep_their_pixels_also_in_lists() -> None:
    red, blue = Image.new("RGB", (3, 2), (255, 0, 0)), Image.new("RGB", (2, 3), (0, 0, 255))
    rows = tables.from_rows([{"image": red, "more": [blue, red], "n": 1}, {"image": blue, "more": [], "n": 2}])
    assert rows[0]["image"].getpixel((2, 1)) == (255, 0, 0)
    assert [p.size for p in rows[0]["more"]] == [(2, 3), (3, 2)]
    assert rows[0]["more"][0].getpixel((1, 1)) == (0, 0, 255)
    assert rows[1]["more"] == [] and rows["n"][:] == [1, 2]


def test_the_digest_of_drawn_pictures_follows_from_their_pixels_alone() -> None:
    plain, noted = Image.new("RGB", (3, 2), (9, 9, 9)), Image.new("RGB", (3, 2), (9, 9, 9))
    noted.info["software"] = "another version"
    assert sampling.digest(tables.from_rows([{"i": plain}])) == sampling.digest(tables.from_rows([{"i": noted}]))
    noted.putpixel((0, 0), (9, 9, 8))
    assert sampling.digest(tables.from_rows([{"i": plain}])) != sampling.digest(tables.from_rows([{"i": noted}]))


@pytest.mark.parametrize("noted", [True, False])
def test_parquet_pictures_decode_with_and_without_feature_notes(tmp_path: Path, noted: bool) -> None:
    """SEED-Bench's form (a list of pictures) and TextVQA's, as the hub writes them and as a plain writer does."""
    picture = {"bytes": png(7), "path": None}
    table = pa.Table.from_pylist([{"image": [picture, picture], "one": picture, "answers": ["a", "b"]}])
    if noted:
        import datasets

        features = {"image": [datasets.Image()], "one": datasets.Image(), "answers": [datasets.Value("string")]}
        kinds = datasets.Features(features)
        table = datasets.Dataset.from_list(table.to_pylist(), features=kinds).data.table
        assert b"huggingface" in table.schema.metadata
    pq.write_table(table, tmp_path / "x.parquet")
    row = tables.from_file(tmp_path / "x.parquet", ["image"])[0]
    assert [p.getpixel((0, 0)) for p in [*row["image"], row["one"]]] == [(7, 0, 0)] * 3
    assert row["answers"] == ["a", "b"]


def test_a_column_of_bare_bytes_is_a_picture_when_it_is_named(tmp_path: Path) -> None:
    pq.write_table(pa.table({"scan": [png(3)], "raw": [b"abc"]}), tmp_path / "x.parquet")
    row = tables.from_file(tmp_path / "x.parquet", ["image", "scan"])[0]
    assert row["scan"].getpixel((0, 0)) == (3, 0, 0)
    assert row["raw"] == b"abc"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"a": 1}\n{"a": ', "line 2: not JSON"),
        ('{"a": 1}\n\n{"b": 1}', "line 3: each line is an object, all with the same keys"),
        ("[1]", "line 1: each line is an object"),
        ("\n", "is empty"),
        ('{"image": "nope.png"}', "there is no image .*nope.png"),
    ],
)
def test_a_faulty_json_lines_file_is_told(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "x.jsonl"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(VrbenchError, match=said):
        tables.from_file(file, ["image"])


def test_json_lines_keep_texts_that_look_like_dates(tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text('{"answer": "2020-01-01"}\n{"answer": "12:30"}', encoding="utf-8")
    assert tables.from_file(tmp_path / "x.jsonl", [])["answer"][:] == ["2020-01-01", "12:30"]


def test_a_file_that_is_no_parquet_is_told(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"PAR1 and nothing else")
    with pytest.raises(VrbenchError, match=r"x\.parquet cannot be read as parquet"):
        tables.from_file(tmp_path / "x.parquet", [])


def test_rows_get_the_columns_of_the_rows_that_they_name_without_copies() -> None:
    red, blue = Image.new("RGB", (90, 90), (255, 0, 0)), Image.new("RGB", (2, 3), (0, 0, 255))
    others = tables.from_rows([{"id": "b", "image": blue, "n": 2}, {"id": "r", "image": red, "n": 1}])
    rows = tables.from_rows([{"q": i, "of": "rb"[i % 2]} for i in range(1000)])
    joined = tables.join_columns(rows, others, "of", "id")
    assert joined.column_names == ["q", "of", "image", "n"]
    assert [joined[i]["image"].size for i in (0, 1, 2, 999)] == [(90, 90), (2, 3), (90, 90), (2, 3)]
    assert joined["n"][:4] == [1, 2, 1, 2]
    assert joined.select([999, 0])[0]["image"].getpixel((0, 0)) == (0, 0, 255)
    addresses = {chunk.field("bytes").buffers()[2].address for chunk in joined.data.table["image"].chunks}
    assert len(addresses) == 1  # all views of one buffer


def test_rows_that_name_nobody_are_told() -> None:
    rows, others = tables.from_rows([{"of": "x"}, {"of": "y"}]), tables.from_rows([{"id": "x", "n": 1}])
    with pytest.raises(VrbenchError, match="1 of 2 rows name a id that is not there, such as 'y'"):
        tables.join_columns(rows, others, "of", "id")
    with pytest.raises(VrbenchError, match="no column key to join by; they have id, n"):
        tables.join_columns(rows, others, "of", "key")


def test_each_entry_of_lists_is_a_row() -> None:
    red = Image.new("RGB", (3, 2), (255, 0, 0))
    lists = (["a", "b"], ["1", "2"]), ([], []), (["c"], ["3"])
    rows = tables.from_rows([{"q": q, "a": a, "image": red, "n": 7 + i} for i, (q, a) in enumerate(lists)])
    flat = tables.unnest(rows, ["q", "a"], ["image"])
    assert [(row["q"], row["a"], row["n"], row["image"].size) for row in flat] == [
        ("a", "1", 7, (3, 2)),
        ("b", "2", 7, (3, 2)),
        ("c", "3", 9, (3, 2)),
    ]


def test_lists_of_different_lengths_are_told() -> None:
    rows = tables.from_rows([{"q": ["a"], "a": ["1"]}, {"q": ["a", "b"], "a": ["1"]}])
    with pytest.raises(VrbenchError, match="row 1: q and a are lists of different lengths"):
        tables.unnest(rows, ["q", "a"])
    with pytest.raises(VrbenchError, match="no column z; they have q, a"):
        tables.unnest(rows, ["z"])


@pytest.mark.parametrize("shown", [False, True])
def test_rows_are_selected_and_read_as_datasets_does(shown: bool) -> None:
    made: list[dict[str, Any]] = [
        {"n": i, "text": "é" * i or None, "options": ["a", None][: i % 3], "more": {"x": [{"y": i / 2}]}}
        for i in range(200)
    ]
    if shown:
        made = [{**row, "image": Image.new("RGB", (1 + row["n"], 2))} for row in made]
    rows = tables.from_rows(made)
    for positions in (range(200), range(100), [5, 3, 3, 199], [], range(199, -1, -1)):
        ours, theirs = tables.select(rows, positions), rows.select(positions)
        assert list(tables.Documents(ours)) == list(tables.Documents(theirs)) == list(theirs)
        assert sampling.digest(ours) == sampling.digest(theirs)
        assert ours.features == theirs.features and len(tables.Documents(ours)) == len(positions)
        assert list(ours.map(lambda row: {"n": row["n"] + 1})) == list(theirs.map(lambda row: {"n": row["n"] + 1}))
        assert list(sampling.iterate_undecoded(ours, ["n"])) == [{"n": row["n"]} for row in theirs]
    assert tables.Documents(rows)[3] == rows[3] != tables.select(rows, [4])[0]
    assert rows._fingerprint != tables.select(rows, [4])._fingerprint


def test_each_reading_of_documents_gives_new_ones() -> None:
    documents = tables.Documents(tables.from_rows([{"options": ["a"]}]))
    next(iter(documents))["options"].append("b")
    assert list(documents) == [{"options": ["a"]}]


def test_an_image_that_was_changed_is_read_as_it_is_stored() -> None:
    rows = tables.from_rows([{"image": Image.new("RGB", (3, 2), (9, 9, 9))}] * 2)
    rows[0]["image"].putpixel((0, 0), (1, 1, 1))
    for row in rows:
        assert row["image"].getpixel((0, 0)) == (9, 9, 9)
