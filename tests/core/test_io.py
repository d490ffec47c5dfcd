"""Text, JSON and YAML that users write: byte order marks are accepted, other encodings and doubled keys refused."""

from __future__ import annotations

import codecs
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

import vrbench
from vrbench.cli import config_file
from vrbench.core import layers
from vrbench.core.errors import VrbenchError
from vrbench.core.io import load_yaml, read_text
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
    "options": ("o.yaml", "tasks: é", lambda file: config_file.read_config(file, ["tasks"])),
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
        config_file.read_config(file, ["limit", "seed"])
    with pytest.raises(VrbenchError, match="given twice: limit"):
        recipe_files.load(str(file))
