"""Where a checkpoint's chat template may lie, and which one is used."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests import tiny, tiny_families
from vrbench.checkpoints import prompts
from vrbench.checkpoints.digest import folder_digest
from vrbench.checkpoints.prompts import Turn
from vrbench.core.errors import VrbenchError
from vrbench.models import hf_folder
from vrbench.models.processors import load_processor

PARTS_ALONE = (
    "{% for m in messages %}{{ m['role'] | upper }}: "
    "{% for c in m['content'] | selectattr('type', 'equalto', 'image') %}<image>\n{% endfor %}"
    "{% for c in m['content'] | selectattr('type', 'equalto', 'text') %}{{ c['text'] }}{% endfor %}"
    "{% endfor %}{% if add_generation_prompt %} ASSISTANT:{% endif %}"
)
"""Reads messages in parts alone, as the template of llava-hf/llava-1.5-7b-hf does."""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A LLaVA's tokenizer and image processor, without a template and without weights."""
    from transformers import SiglipImageProcessorPil

    tiny.tokenizer().save_pretrained(tmp_path)
    SiglipImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").unlink()
    tiny.llava().config.save_pretrained(tmp_path)
    return tmp_path


def prompt(folder: Path) -> str:
    tokenizer, _ = hf_folder.load_tokenizer(folder)
    return prompts.llava_text(tokenizer, [Turn("Is it a dog?", n_images=1)])


def test_llava_s_template_is_used_wherever_it_lies(folder: Path) -> None:
    expected = "<|user|><image>\nIs it a dog?</s><|bot|>"
    assert prompt(folder).startswith("A chat between")  # Vicuna's, where there is none
    for name in ("chat_template.json", "processor_config.json"):
        (folder / name).write_text(json.dumps({"chat_template": tiny.CHAT}))
        assert prompt(folder) == expected
        (folder / name).unlink()
    (folder / "chat_template.jinja").write_text(tiny.CHAT)
    assert prompt(folder) == expected


def test_of_several_templates_the_default_is_used_and_the_digest_covers_all(folder: Path) -> None:
    more = folder / "additional_chat_templates"
    more.mkdir()
    (more / "tool_use.jinja").write_text("tools")
    with pytest.raises(VrbenchError, match="has chat templates tool_use and none called default"):
        prompt(folder)
    before = folder_digest(folder, [])
    (folder / "chat_template.jinja").write_text(tiny.CHAT)
    assert prompt(folder) == "<|user|><image>\nIs it a dog?</s><|bot|>"
    digests = {before, folder_digest(folder, [])}
    (more / "tool_use.jinja").write_text("other tools")
    assert len(digests | {folder_digest(folder, [])}) == 3


def test_the_other_families_use_the_default_one_too(tmp_path: Path) -> None:
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    words = tiny_families.tokenizer(mark="<image>", image_token="<image>", fake_image_token="<f>",
                                    global_image_token="<g>", end_of_utterance_token="<e>")  # fmt: skip
    words.save_pretrained(tmp_path)
    SmolVLMImageProcessorPil().save_pretrained(tmp_path)
    (tmp_path / "processor_config.json").write_text("{}")
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("tools")
    told = prompts.chat(load_processor(tmp_path, "smolvlm"), [Turn("What?", n_images=1)])
    assert told.startswith("<|user|>user: <image>What?")


def test_a_template_for_messages_in_parts_gets_them_in_parts() -> None:
    words = tiny.tokenizer()
    words.chat_template = PARTS_ALONE
    assert (
        prompts.llava_text(words, [Turn("Is it red?", n_images=2)]) == "USER: <image>\n<image>\nIs it red? ASSISTANT:"
    )
    said = prompts.llava_text(words, [Turn("What?", "A dog.", 1), Turn("Is it red?", "Yes.")], answered=True)
    assert said == "USER: <image>\nWhat?ASSISTANT: A dog.USER: Is it red?ASSISTANT: Yes."


def test_a_template_that_cannot_write_a_question_is_an_error() -> None:
    def broken(*_: object, **__: object) -> str:
        raise TypeError("no list here")

    words = SimpleNamespace(chat_template="x", apply_chat_template=broken)
    with pytest.raises(VrbenchError, match=r"cannot render a question \(TypeError: no list here\)"):
        prompts.llava_text(words, [Turn("Is it red?", n_images=1)])
