"""What `vrbench tasks T --ckpt C` shows is what the loaded model is given."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import documents
from tests import tiny_families
from vrbench.cli import task_listing
from vrbench.models import hf_folder
from vrbench.models.load import load_vlm
from vrbench.models.prompt_preview import preview_prompt
from vrbench.models.resolve import resolve_checkpoint
from vrbench.tasks import registry

TEXT = "Is there a cup?\nAnswer yes or no."


@pytest.fixture(params=["llava", "qwen3_vl", "mistral3"])
def folder(request: pytest.FixtureRequest, tiny_llava: Path, tmp_path: Path) -> Path:
    if request.param == "llava":
        return tiny_llava
    return Path(tiny_families.save(request.param, tmp_path / request.param))


def test_the_prompt_is_that_of_the_loaded_model_and_no_weight_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint = resolve_checkpoint(str(folder))
    vlm = load_vlm(checkpoint)
    expected = [vlm.prompt(TEXT, n) for n in (0, 1, 2)]
    ids = vlm.tokenizer(expected[1])["input_ids"]
    monkeypatch.setattr(hf_folder, "_load_weights", None)
    assert [preview_prompt(checkpoint, TEXT, n)[0] for n in (0, 1, 2)] == expected
    text, front = preview_prompt(checkpoint, TEXT, None)
    assert text == TEXT and front in ("", vlm.tokenizer.bos_token)
    _, front = preview_prompt(checkpoint, TEXT, 1)
    assert front in ("", *vlm.tokenizer.convert_ids_to_tokens(ids[:1]))


def test_a_task_is_shown_as_a_checkpoint_is_asked(tiny_llava: Path) -> None:
    spec = registry.load()["pocket_mme"]
    bare, told = task_listing.describe_task(spec), task_listing.describe_task(spec, None, str(tiny_llava))
    assert "without a chat template; --ckpt prints that of a checkpoint" in bare and "<image>" not in bare
    assert f"prompt of {tiny_llava.name}:" in told and "<image>" in told
    text = registry.load()["pocket_facts"]
    assert "no chat template is applied to tasks of lm-eval" in task_listing.describe_task(text, None, str(tiny_llava))


def test_a_harness_task_is_shown_in_the_way_of_the_family(tiny_llava: Path, tmp_path: Path) -> None:
    mmmu = registry.load()["mmmu_val"]
    documents.write(mmmu, tmp_path, 2)
    folders = {name: tiny_families.save(name, tmp_path / name) for name in ("qwen3_vl", "internvl")}
    bare, llava, qwen, internvl = (
        task_listing.describe_task(mmmu, tmp_path, None if folder is None else str(folder))
        for folder in (None, tiny_llava, *folders.values())
    )
    assert r"until ['\n\n']" in bare and "stop texts" not in bare
    for told in (llava, qwen, internvl):
        assert "generation: greedy, at most 128 tokens, stop texts: none" in told
    own = "Answer with the option letter only."
    assert own in qwen and own not in bare + llava + internvl
    assert "<image 1>" in bare and "<image 1>" in llava and "<image 1>" not in internvl  # a chat class places images
