"""A checkpoint's digest: every file that decides answers is part of it, and no other file is."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from vrbench.checkpoints.digest import folder_digest
from vrbench.core.io import digest_of

DECIDE = (
    "model.safetensors", "config.json", "generation_config.json", "adapter_config.json", "preprocessor_config.json",
    "processor_config.json", "tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json",
    "added_tokens.json", "vocab.json", "merges.txt", "chat_template.jinja", "chat_template.json",
    "additional_chat_templates/other.jinja",
)  # fmt: skip


def digest(folder: Path) -> str:
    return folder_digest(folder, ["model.safetensors"])


@pytest.mark.parametrize("name", DECIDE)
def test_a_file_that_decides_answers_is_part_of_the_digest(name: str, tmp_path: Path) -> None:
    for other in DECIDE:
        (tmp_path / other).parent.mkdir(exist_ok=True)
        (tmp_path / other).write_text(other)
    before = digest(tmp_path)
    (tmp_path / name).write_text("changed")
    assert (changed := digest(tmp_path)) != before
    (tmp_path / name).unlink()
    assert digest(tmp_path) not in (before, changed)


def test_other_files_and_the_folder_s_name_are_not(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    before = digest(tmp_path / "a")
    for other in ("README.md", "vrbench.json", "recipe.yaml"):
        (tmp_path / "a" / other).write_text(other)
    assert digest(tmp_path / "a") == before == digest(tmp_path / "b")
    assert folder_digest(tmp_path / "a", [], {"code": "1"}) != before


def test_the_digest_is_that_of_the_files_digests(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{}")
    expected = {"files": {"config.json": hashlib.sha256(b"{}").hexdigest()}, "code": "1"}
    assert folder_digest(tmp_path, ["model.safetensors"], {"code": "1"}) == digest_of(expected)
