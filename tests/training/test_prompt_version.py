"""The two templates of Bunny-Llama-3: training with either, and the template that the result is evaluated with."""

from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from tests import tiny
from tests.conversion import sources
from tests.training.test_families_tuned import conversations
from vrbench.checkpoints.checkpoint import TEMPLATE
from vrbench.checkpoints.prompts import LLAVA_SYSTEM, vicuna_separator, vicuna_template
from vrbench.conversion.convert import convert
from vrbench.core.errors import VrbenchError
from vrbench.models.load import load_vlm, load_without_weights
from vrbench.models.prompt_preview import preview_prompt
from vrbench.models.resolve import resolve_checkpoint
from vrbench.models.whole_folder import whole_folder
from vrbench.training import load
from vrbench.training.run import train

END = "<|end_of_text|>"
SPACED, BARE = (f"{LLAVA_SYSTEM}{gap}USER: <image>\nWhat?{gap}ASSISTANT:" for gap in (" ", ""))


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A tiny Bunny-Llama-3 as `vrbench convert` makes it."""
    made = sources.make("bunny-llama")
    source, tower = sources.save_merged(made, tmp_path / "source"), sources.save_tower(made, tmp_path / "tower")
    return convert(str(source), tmp_path / "base", vision_tower=str(tower))


def trained(tmp_path: Path, base: Path, name: str, **more: str) -> Path:
    (tmp_path / f"data of {name}").mkdir()
    file, images = conversations(tmp_path / f"data of {name}")
    given = {
        "base": str(base), "data.conversations": str(file), "data.images": str(images), "tune.layers": "1",
        "tune.steps": "1", "tune.batch": "2", "tune.accumulate": "1", "tune.micro_batch": "2",
        "data.most_left_out": "0.5", "tune.rank": "2",
    }  # fmt: skip
    return train("bunny-llama-3-8b-region", tmp_path / name, given | more, device="cpu")


def test_a_checkpoint_is_evaluated_with_the_template_that_it_was_trained_with(tmp_path: Path, base: Path) -> None:
    same = resolve_checkpoint(str(trained(tmp_path, base, "same", **{"prompt.version": "bunny"})))
    other = resolve_checkpoint(str(trained(tmp_path, base, "other", **{"prompt.version": "visual-region"})))
    assert same.template is None and not same.has(TEMPLATE)
    assert other.template == vicuna_template(END, "")
    vlm, plain = load_vlm(other), load_vlm(same)
    assert (vlm.prompt("What?", 1), plain.prompt("What?", 1)) == (BARE, SPACED)
    assert vlm.prompts_digest != plain.prompts_digest == load_vlm(resolve_checkpoint(str(base))).prompts_digest
    assert load_without_weights(other).prompt("What?", 1) == preview_prompt(other, "What?", 1)[0] == BARE
    whole = whole_folder(other, vlm.dtype)
    assert vicuna_separator(AutoTokenizer.from_pretrained(whole)) == ""
    assert load_vlm(resolve_checkpoint(str(whole))).prompt("What?", 1) == BARE
    again = trained(tmp_path, tmp_path / "other", "again")
    assert not (again / TEMPLATE).exists() and load_vlm(resolve_checkpoint(str(again))).prompt("What?", 1) == BARE


def test_a_copy_of_a_template_beside_an_adapter_of_others_changes_nothing(tmp_path: Path) -> None:
    plain = tiny.save_llava(tmp_path / "plain")
    adapter = tiny.save_adapter(tmp_path / "adapter", plain)
    before = load_vlm(resolve_checkpoint(str(adapter))).prompt("What?", 1)
    (adapter / "vrbench.json").unlink(missing_ok=True)
    (adapter / TEMPLATE).write_text(vicuna_template("</s>"))
    assert resolve_checkpoint(str(adapter)).template is None
    assert load_vlm(resolve_checkpoint(str(adapter))).prompt("What?", 1) == before


def test_it_is_of_bunny_llama_3_alone(tmp_path: Path) -> None:
    plain = tiny.save_llava(tmp_path / "plain")
    (plain / TEMPLATE).write_text(vicuna_template("</s>"))
    more = {"data.pad_square": "false", "prompt.version": "visual-region"}
    with pytest.raises(VrbenchError, match=r"prompt\.version is 'visual-region'.*plain is not one"):
        trained(tmp_path, plain, "out", **more)
    with pytest.raises(VrbenchError, match=r"no key 'prompt\.versoin'; .*version"):
        load("bunny-llama-3-8b-full", {"prompt.versoin": "bunny"})
    with pytest.raises(VrbenchError, match="goes with conversations"):
        load("pocket-region", {"prompt.version": "bunny"})


def test_digests_of_recipes_without_it_stay() -> None:
    recipe = load("bunny-llama-3-8b-full")
    assert "prompt" not in recipe.digest_content() and "prompt" not in recipe.text()
    both = {load("bunny-llama-3-8b-full", {"prompt.version": version}).digest for version in ("bunny", "visual-region")}
    assert len(both | {recipe.digest}) == 3
