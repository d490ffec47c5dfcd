"""Text, JSON and YAML that users write: byte order marks are accepted, other encodings and doubled keys refused."""

from __future__ import annotations

import codecs
import errno
import os
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import vrbench
from vrbench.cli import options
from vrbench.core import layers
from vrbench.core.errors import VrbenchError
from vrbench.core.io import (
    OutputKind,
    gunzip_file,
    gzip_text,
    load_yaml,
    read_json,
    read_json_object,
    read_text,
    validate_output,
)  # fmt: skip
from vrbench.core.run_storage import load_run
from vrbench.data import local_mirror, tables
from vrbench.tasks import registry
from vrbench.training import conversation_sets, profile_results, recipe_files

PACKAGE = Path(vrbench.__file__).parent
SUBMITTED = PACKAGE.parent / "leaderboards/pocket/submissions/vrbench__pocket-base/7c6e5c0ac4f97959"
TASK = """id: sounds
suites: [text]
title: t
harness: lm-eval
scorer: multiple_choice
prompt: "{{question}}"
choices: options
target: answer
data: {kind: file, name: sounds.jsonl}
metric: mean
chance: 25
id_column: id
n: 2
version: "1"
licence: Apache-2.0
citation: c
"""
SAID = '{"id": "a", "conversations": [{"from": "human", "value": "é?"}, {"from": "gpt", "value": "é"}]}'

Reader = Callable[[Path], Any]
READERS: dict[str, tuple[str, str, Reader]] = {
    "options": ("o.yaml", "tasks: é", lambda file: options.read_config(file, ["tasks"])),
    "recipe": (
        "r.yaml",
        read_text(PACKAGE / "training/recipes/pocket-region.yaml"),
        lambda file: recipe_files.load(str(file)),
    ),
    "task": ("sounds.yaml", TASK, registry.read),
    "layer set": ("l.json", '{"depth": 4, "indices": [1]}', lambda file: layers.read_layer_file(file, 4)),
    "rows": ("rows.jsonl", '{"a": "é"}\n{"a": "b"}\n', lambda file: tables.from_file(file, ())["a"][:]),
    "conversations": ("c.json", f"[{SAID}]", lambda file: conversation_sets.from_json(file, None).samples),
    "lines of them": ("c.jsonl", f"{SAID}\n{SAID}", lambda file: len(conversation_sets.from_json(file, None).samples)),
    "data root": (local_mirror.DIGEST_FILE, '{"schema_version": 1}', lambda file: local_mirror.read(file.parent)),
    "profile": ("profile.json", "[]", profile_results.load_profile),
}


@pytest.mark.parametrize("name", READERS)
def test_a_byte_order_mark_is_read_and_another_encoding_is_told(name: str, tmp_path: Path) -> None:
    file_name, text, read = READERS[name]
    file = tmp_path / file_name
    file.write_bytes(text.encode())
    expected = read(file)
    file.write_bytes(codecs.BOM_UTF8 + text.encode())
    assert read(file) == expected
    for content in (text.encode("utf-16"), text.encode("utf-16-be")):
        file.write_bytes(content)
        with pytest.raises(VrbenchError, match=f"{re.escape(file_name)}.* is (UTF-16; save it as UTF-8|not UTF-8)"):
            read(file)


def test_a_run_of_one_s_own(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(SUBMITTED, tmp_path / "run"))
    content = (folder / "run.json").read_bytes()
    (folder / "run.json").write_bytes(codecs.BOM_UTF8 + content)
    assert load_run(folder).record == load_run(SUBMITTED).record


def test_line_ends_are_those_of_unix(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(codecs.BOM_UTF8 + b"a\r\nb\rc\n")
    assert read_text(tmp_path / "a") == "a\nb\nc\n"


def test_a_text_says_what_safe_yaml_says() -> None:
    text = "a: [1, x]\nb: {c: 2}\nd: null\n"
    assert load_yaml(text) == yaml.safe_load(text) == {"a": [1, "x"], "b": {"c": 2}, "d": None}


@pytest.mark.parametrize("text", ["a: 1\nb: 2\na: 3\n", "x: {a: 1, a: 2}", "a: !!python/object/apply:os.getcwd []"])
def test_a_key_given_twice_and_code_are_refused(text: str) -> None:
    with pytest.raises(yaml.YAMLError, match=r"given twice: a|python/object"):
        load_yaml(text)


def test_options_and_recipes_are_read_so(tmp_path: Path) -> None:
    file = tmp_path / "twice.yaml"
    file.write_text("limit: 1\nseed: 2\nlimit: 3\n", encoding="utf-8")
    with pytest.raises(VrbenchError, match="given twice: limit"):
        options.read_config(file, ["limit", "seed"])
    with pytest.raises(VrbenchError, match="given twice: limit"):
        recipe_files.load(str(file))


@pytest.mark.parametrize(
    ("text", "keys"),
    [("{a: 1, b: 2, a: 3, c: 4, c: 5}", "a, c"), ("a: {b: {c: 1, c: 2}}", "c"), ("? [1, 2]\n: 1\nx: 1\nx: 1\n", "x")],
)
def test_the_keys_given_twice_are_named(text: str, keys: str) -> None:
    with pytest.raises(yaml.YAMLError, match=rf"given twice: {keys}\n"):
        load_yaml(text)


def test_a_list_in_a_nested_object_is_whole() -> None:
    assert load_yaml("a: &x [1, {b: [2]}]\nc: {d: *x, <<: {e: [3]}}\n") == {
        "a": [1, {"b": [2]}], "c": {"d": [1, {"b": [2]}], "e": [3]},
    }  # fmt: skip


@pytest.mark.parametrize("content", ["[1]", "1", '"a"', "null", "{", '{"a": 1', "[" * 100_000])
def test_a_file_without_a_json_object_has_none(content: str, tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(content, encoding="utf-8")
    assert read_json_object(tmp_path / "a.json") is None
    assert read_json(tmp_path / "a.json") == {}


def test_a_json_object_is_read_and_a_failing_disk_is_no_missing_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.json").write_text('{"a": 1}', encoding="utf-8")
    assert read_json_object(tmp_path / "a.json") == {"a": 1}
    assert read_json_object(tmp_path / "b.json") is None

    def fail(_: Path) -> bytes:
        raise OSError(errno.EIO, "input/output error")

    monkeypatch.setattr(Path, "read_bytes", fail)
    with pytest.raises(OSError, match="input/output error"):
        read_json_object(tmp_path / "a.json")


def test_the_same_text_gives_the_same_compressed_bytes(tmp_path: Path) -> None:
    packed = gzip_text("é" * 5)
    assert packed[:10] == b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\xff"  # no name and no time
    (tmp_path / "a.gz").write_bytes(packed)
    assert gunzip_file(tmp_path / "a.gz", 10).decode() == "é" * 5
    with pytest.raises(VrbenchError, match="holds more than 9 bytes"):
        gunzip_file(tmp_path / "a.gz", 9)


class TestWhereOutputMayBeWritten:
    @pytest.mark.parametrize("kind", ["folder", "checkpoint", "file"])
    def test_a_new_place_and_one_that_exists(self, kind: OutputKind, tmp_path: Path) -> None:
        taken = tmp_path / "taken"
        taken.touch() if kind == "file" else taken.mkdir()
        for place in (taken, tmp_path / "a" / "b" / "c"):
            assert validate_output(place, kind) == []
        assert [p.name for p in tmp_path.iterdir()] == ["taken"]
        assert not list(taken.iterdir() if taken.is_dir() else ())

    def test_a_folder_is_the_usual_kind(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        (message,) = validate_output(tmp_path / "file")
        assert message.startswith("output folder ") and message.endswith(f": {os.strerror(errno.ENOTDIR)}")
        assert validate_output(tmp_path / "file", "file") == []

    def test_a_folder_is_no_output_file(self, tmp_path: Path) -> None:
        (message,) = validate_output(tmp_path, "file")
        assert message == f"output file {str(tmp_path)!r} cannot be written to: {os.strerror(errno.EISDIR)}"
        assert validate_output(tmp_path, "checkpoint") == []

    @pytest.mark.parametrize("kind", ["folder", "checkpoint", "file"])
    def test_below_a_file_there_is_no_place(self, kind: OutputKind, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        (message,) = validate_output(tmp_path / "file" / "a" / "b", kind)
        assert message.startswith("checkpoint folder " if kind == "checkpoint" else f"output {kind} ")
        assert message.endswith(f": {os.strerror(errno.ENOTDIR)}")

    def test_a_link_to_itself_is_no_place(self, tmp_path: Path) -> None:
        (tmp_path / "a").symlink_to(tmp_path / "a")
        for kind in ("folder", "checkpoint", "file"):
            found = validate_output(tmp_path / "a" / "b", kind)
            assert len(found) == 1 and found[0].endswith(f": {os.strerror(errno.ELOOP)}")
        assert len(validate_output(tmp_path / ("n" * 300))) == 1

    def test_a_checkpoint_is_written_beside_where_its_link_leads(self, tmp_path: Path) -> None:
        (tmp_path / "file").touch()
        (tmp_path / "link").symlink_to(tmp_path / "file" / "out")
        assert len(validate_output(tmp_path / "link", "checkpoint")) == 1
        (tmp_path / "good").symlink_to(tmp_path / "elsewhere" / "out")
        assert validate_output(tmp_path / "good", "checkpoint") == []

    @pytest.mark.parametrize(
        ("error", "why"),
        [
            (OSError(errno.ENOSPC, "full"), os.strerror(errno.ENOSPC)),
            (OSError(errno.ENOENT, "gone"), "no file can be created there"),
            (RuntimeError("a loop"), os.strerror(errno.ELOOP)),
            (OSError("without a number"), os.strerror(errno.ELOOP)),
        ],
    )
    def test_the_reason_is_that_of_the_failure(
        self, error: Exception, why: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked: list[Path] = []

        def fail(dir: Path) -> None:
            asked.append(dir)
            raise error

        monkeypatch.setattr("tempfile.NamedTemporaryFile", fail)
        (message,) = validate_output(tmp_path / "a" / "b")
        assert message.endswith(f" cannot be written to: {why}")
        assert asked == [tmp_path]

    def test_a_place_relative_to_the_working_folder(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        asked: list[Path] = []
        real = tempfile.NamedTemporaryFile
        monkeypatch.setattr("tempfile.NamedTemporaryFile", lambda dir: asked.append(dir) or real(dir=dir))
        assert validate_output("out") == validate_output("a/b") == validate_output("c", "file") == []
        assert asked == [tmp_path] * 3
