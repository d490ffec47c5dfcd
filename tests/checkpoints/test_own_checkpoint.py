"""docs/checkpoints.md, followed by a user with a tiny LLaVA of the name that the page uses."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests import tiny
from tests.test_docs import ROOT, calls, fenced
from tests.tiny import checkpoint_errors
from vrbench.cli import app

PAGE = (ROOT / "docs" / "checkpoints.md").read_text(encoding="utf-8")
BASE = "llava-1.5-7b-hf"
SAID = {
    f"inspect {BASE}": ("decoder layers:           4",),
    f"inspect llava-sliced --base {BASE}": ("removed layers:         1-2", "tuned layers:           none"),
    f"prune {BASE} --layers 1,2 --export-full -o llava-pruned": ("checkpoint: llava-pruned",),
    "inspect llava-lora": ("rank 8 on layers 2-3: mlp.down_proj", "self_attn.v_proj"),
    f"inspect llava-merged --base {BASE}": ("decoder layers:           4", "none is recorded"),
}
"""Command of the page -> what it prints."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folders that the page makes, by its own code."""
    made = tmp_path_factory.mktemp("own")
    tiny.save_llava(made / BASE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        for code in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
            exec(compile(code, "docs/checkpoints.md", "exec"), {})
    return made


@pytest.mark.parametrize("command", SAID)
def test_a_command_says_what_the_page_promises(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(app, command.split())
    assert done.exit_code == 0, done.output
    for part in SAID[command]:
        assert part in done.output


def test_every_command_of_the_page_was_tried(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    found = [words for line in fenced(PAGE) for words in calls(line)]
    assert {" ".join(words) for words in found if words[0] in ("inspect", "prune")} == set(SAID)
    for words in (words for words in found if words[0] == "run"):
        for name in (words[words.index("--ckpt") + 1], words[words.index("--baseline") + 1]):
            assert checkpoint_errors(name) == []


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj", "v_proj"]},
        {"target_modules": "all-linear"},
        {"target_modules": ["q_proj", "v_proj"], "layers_to_transform": [1]},
    ],
    ids=str,
)
def test_what_the_page_warns_of_tunes_the_tower_and_is_refused(
    settings: dict[str, Any], folder: Path, tmp_path: Path
) -> None:
    adapter(settings, folder, tmp_path)
    (said,) = checkpoint_errors(str(tmp_path))
    assert "LoRA on the LLM's decoder layers is all that is allowed" in said


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj"], "layers_to_transform": [2, 3], "exclude_modules": r".*vision_tower.*"},
        {"target_modules": r".*language_model.*q_proj", "modules_to_save": ["multi_modal_projector"]},
    ],
    ids=str,
)
def test_what_the_page_allows_is_taken(settings: dict[str, Any], folder: Path, tmp_path: Path) -> None:
    adapter(settings, folder, tmp_path)
    assert checkpoint_errors(str(tmp_path)) == []


def test_layers_cannot_be_chosen_beside_a_regular_expression(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="layers_to_transform"):
        adapter({"target_modules": ".*q_proj", "layers_to_transform": [1]}, folder, tmp_path)


def test_an_adapter_left_in_a_merged_folder_is_refused(folder: Path, tmp_path: Path) -> None:
    for file in (*(folder / "llava-merged").iterdir(), folder / "llava-lora" / "adapter_config.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert any("a complete model and an adapter" in fault for fault in checkpoint_errors(str(tmp_path)))


def adapter(settings: dict[str, Any], folder: Path, out: Path) -> None:
    """An adapter of PEFT on the base, as a user's script saves it."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_pretrained(folder / BASE)
    get_peft_model(model, LoraConfig(r=2, **settings)).save_pretrained(out)
