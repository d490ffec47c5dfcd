"""Prompts, stop texts and answers are those of lmms-eval's own model classes over the same processor."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests import lmms_classes, tiny_families
from tests.evaluation.made import noise
from tests.lmms_classes import Saying
from vrbench.checkpoints import prompts
from vrbench.checkpoints.prompts import Turn
from vrbench.core.errors import VrbenchError
from vrbench.evaluation.answer_store import AnswerStore
from vrbench.evaluation.engine import InferenceEngine
from vrbench.evaluation.requests import OWN_SETTINGS
from vrbench.models.hf_model import HFModel
from vrbench.models.load import load_vlm
from vrbench.models.resolve import resolve_checkpoint

QUESTION = "Is it red?\nAnswer yes or no."
FOLLOWING = [family for family in tiny_families.MAKERS if family != "paligemma"]
"""All that are asked the plain way but PaliGemma, which no class of lmms-eval can ask."""

PARAGRAPHS = "Yes.\n\nIt is red."
SAID: list[tuple[str, dict[str, Any]]] = [
    (PARAGRAPHS, {"until": ["\n\n"]}),
    (PARAGRAPHS, {"until": "\n\n", "max_new_tokens": 9}),
    ("\n\nYes", {"until": ["\n\n", "s"]}),
    (" yes ", {}),
    ("A ASSISTANT: B\n\nC", {"until": ["ASSISTANT:"]}),
    ("<think>x\n\ny</think>\n\\boxed{B}", {"until": ["\n\n"]}),
]
"""What a model says, and the generation settings of the task that it is asked for."""


@pytest.fixture(scope="module", params=FOLLOWING)
def vlm(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> HFModel:
    folder = tiny_families.save(request.param, tmp_path_factory.mktemp("prompts") / request.param)
    found = load_vlm(resolve_checkpoint(str(folder)))
    assert isinstance(found, HFModel)
    return found


@pytest.mark.parametrize("pictures", [1, 2])
def test_the_model_is_given_what_lmms_eval_gives_it(vlm: HFModel, pictures: int) -> None:
    shown, model = [noise(f"{i}") for i in range(pictures)], Saying()
    lmms_classes.answered(vlm, vlm.processor, model, QUESTION, shown, {"max_new_tokens": 4})
    ours, theirs = vlm.encode_with_images([vlm.prompt(QUESTION, pictures)], [shown]), model.given
    assert ours["input_ids"].tolist() == [theirs["input_ids"][theirs["attention_mask"] == 1].tolist()]
    assert ours["pixel_values"].shape == theirs["pixel_values"].shape
    assert torch.equal(ours["pixel_values"].to(theirs["pixel_values"].dtype), theirs["pixel_values"])


def ours(vlm: Any, file: Path, settings: dict[str, Any]) -> str:
    """What a task of lmms-eval is answered here."""
    from lmms_eval.api.instance import Instance

    from benchmarks.harness_models import LmmsEvalModel

    where = {"task": "t", "doc_id": 0, "repeats": 1}
    arguments = (QUESTION, settings, lambda _: [noise("0")], 0, "t", "s")
    with AnswerStore(file, "c") as store:
        model = LmmsEvalModel(InferenceEngine(vlm, store, show_progress=False))
        model.task_dict = {"t": {"s": [{}]}}
        return model.generate_until([Instance("generate_until", arguments, 0, where)])[0]


def test_answers_end_where_the_class_ends_them(vlm: HFModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HFModel, "generates_in_slots", False)  # which does not call `generate`
    for number, (said, settings) in enumerate(SAID):
        model = Saying([*vlm.tokenizer.encode(said, add_special_tokens=False), vlm.eos_token_id])
        monkeypatch.setattr(vlm.model, "generate", model.generate)
        expected = lmms_classes.answered(vlm, vlm.processor, model, QUESTION, [noise("0")], settings)
        assert model.given["max_new_tokens"] == settings.get("max_new_tokens", vlm.prompt_format.max_new_tokens)
        assert ours(vlm, tmp_path / f"{number}.sqlite", settings) == expected, (said, settings)


def test_a_task_file_s_own_stop_texts_hold_for_every_family(
    vlm: HFModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HFModel, "generates_in_slots", False)
    model = Saying([*vlm.tokenizer.encode(PARAGRAPHS, add_special_tokens=False), vlm.eos_token_id])
    monkeypatch.setattr(vlm.model, "generate", model.generate)
    assert ours(vlm, tmp_path / "a.sqlite", {"until": ["\n\n"], "max_new_tokens": 16, OWN_SETTINGS: True}) == "Yes."


def test_texts_without_pictures_have_no_marks(vlm: HFModel) -> None:
    ids = vlm.encode(vlm.prompt(QUESTION))
    assert QUESTION in vlm.tokenizer.decode(ids)
    assert vlm.processor.tokenizer.convert_tokens_to_ids(vlm.processor.image_token) not in ids
    assert ids.count(vlm.tokenizer.bos_token_id) <= 1


class Template:
    """A processor that shows what its chat template would get."""

    chat_template = "shown"
    image_token = "[IMG]"
    tokenizer = SimpleNamespace(chat_template=None)

    def apply_chat_template(self, messages: list[dict[str, Any]], **_: Any) -> str:
        return "".join(self._shown(message["content"]) for message in messages)

    def _shown(self, content: Any) -> str:
        return content if isinstance(content, str) else "".join(p.get("text", "[]") for p in content)


def test_pictures_stand_where_the_text_has_their_marks() -> None:
    asked = "Compare <image> with <image>."
    assert prompts.chat(Template(), [Turn(asked, n_images=2)]) == "Compare [] with []."
    assert prompts.llava(Template(), [Turn(asked, n_images=2)]) == "Compare [] with []."
    assert prompts.chat(Template(), [Turn("What?", n_images=2)]) == "[][]What?"
    assert prompts.chat(Template(), [Turn("What is <image>?", n_images=0)]) == "What is <image>?"


def test_marks_are_taken_out_where_pictures_stand_in_front() -> None:
    asked = "Compare <image> with <image 2>."
    assert (
        prompts.qwen(Template(), [Turn(asked, n_images=2)])
        == "You are a helpful assistant.[][]Compare  with <image 2>."
    )
    assert prompts.gemma(Template(), [Turn(asked, n_images=2)]) == "You are a helpful assistant.[][]Compare  with ."
    assert prompts.paligemma(None, [Turn("Is <image> red?", n_images=1)]) == "<image>Is  red?"
    assert prompts.paligemma(None, [Turn("Is it?", n_images=0)]) == "Is it?\n"


def test_another_number_of_marks_than_of_pictures_is_told() -> None:
    with pytest.raises(VrbenchError, match=r"2 image placeholders \(<image>\) for 3 images"):
        prompts.chat(Template(), [Turn("<image> or <image>?", n_images=3)])


def test_without_a_template_llava_gets_vicuna_s_prompt_and_the_others_a_fault() -> None:
    bare = SimpleNamespace(chat_template=None, tokenizer=SimpleNamespace(chat_template=None), image_token="[IMG]")
    told = prompts.llava(bare, [Turn("Is it red?", n_images=2)])
    assert told.endswith("answers to the user's questions. USER: <image> <image>\nIs it red? ASSISTANT:")
    assert prompts.mistral(bare, [Turn("Is it red?", n_images=0)]) == "<s>[INST]Is it red?[/INST]"
    for prompt in (prompts.chat, prompts.qwen, prompts.gemma, prompts.mllama):
        with pytest.raises(VrbenchError, match="no chat template"):
            prompt(bare, [Turn("Is it red?", n_images=1)])
