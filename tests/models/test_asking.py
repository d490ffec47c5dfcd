"""What `vrbench tasks T --ckpt C` shows is what the loaded model is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests import tiny_families
from vrbench import catalogue, registry
from vrbench.checkpoint import resolve
from vrbench.models import folders
from vrbench.models.asking import asked
from vrbench.models.load import load_vlm

TEXT = "Is there a cup?\nAnswer yes or no."


@pytest.fixture(params=["llava", "qwen3_vl", "mistral3"])
def folder(request: pytest.FixtureRequest, tiny_llava: Path, tmp_path: Path) -> Path:
    if request.param == "llava":
        return tiny_llava
    return Path(tiny_families.save(request.param, tmp_path / request.param))


def test_the_prompt_is_that_of_the_loaded_model_and_no_weight_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = resolve(str(folder))
    vlm = load_vlm(checkpoint)
    expected = [vlm.prompt(TEXT, n) for n in (0, 1, 2)]
    ids = vlm.tokenizer(expected[1])["input_ids"]
    monkeypatch.setattr(folders, "load_model", None)
    assert [asked(checkpoint, TEXT, n).prompt for n in (0, 1, 2)] == expected
    plain = asked(checkpoint, TEXT, None)
    assert plain.prompt == TEXT and plain.front in ("", vlm.tokenizer.bos_token)
    front = asked(checkpoint, TEXT, 1).front
    assert front in ("", *vlm.tokenizer.convert_ids_to_tokens(ids[:1]))


def test_a_task_is_shown_as_a_checkpoint_is_asked(tiny_llava: Path) -> None:
    spec = registry.load()["pocket_mme"]
    bare, told = catalogue.in_full(spec), catalogue.in_full(spec, None, str(tiny_llava))
    assert "no chat template is applied here, --ckpt shows that of a checkpoint" in bare and "<image>" not in bare
    assert f"prompt that {tiny_llava.name} is given:" in told and "<image>" in told
    text = registry.load()["pocket_facts"]
    assert "no chat template is applied to tasks of lm-eval" in catalogue.in_full(text, None, str(tiny_llava))
