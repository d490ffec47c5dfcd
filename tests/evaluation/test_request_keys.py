"""The key of a stored answer: what decides an answer is in it, and what does not is not."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch

from vrbench.checkpoints.code_versions import COMPONENTS
from vrbench.checkpoints.families import all_but_blank_lines
from vrbench.core import provenance
from vrbench.core.errors import VrbenchError
from vrbench.core.io import digest_of
from vrbench.evaluation.requests import (
    OWN_SETTINGS,
    GenerationRequest,
    LogLikelihoodRequest,
    RequestImage,
    answer_conditions,
    stop_criteria,
)  # fmt: skip
from vrbench.models.llava_model import LlavaModel

KINDS = ("loglikelihood", "text", "images")


def changed(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {kind for kind in KINDS if before[kind] != after[kind]}


@pytest.mark.parametrize(
    ("package", "kinds"),
    [
        ("torch", {*KINDS}),
        ("transformers", {*KINDS}),
        ("tokenizers", {"text", "images"}),
        ("pillow", {"images"}),
        ("numpy", {"images"}),
        ("peft", set()),
        ("datasets", set()),
    ],
)
def test_libraries_count_for_the_answers_that_they_touch(
    vlm: LlavaModel, monkeypatch: pytest.MonkeyPatch, package: str, kinds: set[str]
) -> None:
    before, installed = answer_conditions(vlm), provenance.package_version
    monkeypatch.setattr(provenance, "package_version", lambda name: "999" if name == package else installed(name))
    assert changed(before, answer_conditions(vlm)) == kinds
    if package == "peft":
        vlm = with_(vlm, has_adapter=True)
        adapted = answer_conditions(vlm)
        monkeypatch.undo()
        assert changed(adapted, answer_conditions(vlm)) == {*KINDS}


@pytest.mark.parametrize(
    ("component", "kinds"),
    [
        ("loglikelihood", {"loglikelihood"}),
        ("decoding", {"text", "images"}),
        ("context", {"text", "images"}),
        ("images", {"images"}),
        ("requests", set()),  # what they are is in the key
        ("metrics", set()),
    ],
)
def test_our_code_counts_for_the_answers_that_it_makes(
    vlm: LlavaModel, monkeypatch: pytest.MonkeyPatch, component: str, kinds: set[str]
) -> None:
    before = answer_conditions(vlm)
    monkeypatch.setitem(COMPONENTS, component, COMPONENTS[component] + 1)
    assert changed(before, answer_conditions(vlm)) == kinds


@pytest.mark.parametrize(
    ("change", "kinds"),
    [
        (lambda vlm: with_(vlm, device=torch.device("cuda")), {*KINDS}),
        (lambda vlm: with_(vlm, dtype=torch.bfloat16), {*KINDS}),
        (lambda vlm: with_(vlm, code={"family": 2}), {*KINDS}),
        (lambda vlm: with_(vlm, code={"family": 1, "layering": 2}), {*KINDS}),
        (lambda vlm: with_pixels(vlm, size={"height": 31, "width": 32}), {"images"}),
        (lambda vlm: with_pixels(vlm, image_mean=[0.4, 0.5, 0.5]), {"images"}),
        (lambda vlm: with_pixels(vlm, do_rescale=False), {"images"}),
    ],
)
def test_device_type_and_image_settings_count(
    vlm: LlavaModel, change: Callable[[LlavaModel], Any], kinds: set[str]
) -> None:
    base = with_(vlm, code={"family": 1})
    assert changed(answer_conditions(base), answer_conditions(change(base))) == kinds


def with_(vlm: LlavaModel, **attributes: Any) -> LlavaModel:
    other = copy.copy(vlm)
    vars(other).update(attributes)
    return other


def with_pixels(vlm: LlavaModel, **settings: Any) -> LlavaModel:
    processor = copy.copy(vlm.image_processor)
    for name, value in settings.items():
        assert getattr(processor, name) != value
        setattr(processor, name, value)
    return with_(vlm, image_processor=processor)


def test_a_key_is_the_digest_of_the_whole_content() -> None:
    for context, continuation in [((1, 2), (3,)), ((1,), (2, 3)), ((1, 2), (4, 5)), ((7,) * 300, (0,)), ((1, 2), (3,))]:
        for conditions in ("a", 'é "b"'):
            content = {"kind": "loglikelihood", "context": context, "continuation": continuation}
            found = LogLikelihoodRequest(context, continuation).key({"loglikelihood": conditions})
            assert found == digest_of({**content, "conditions": conditions})


def test_keys_of_stored_answers_and_digests_of_prompts_stay() -> None:
    """Another key of the same request would ask every stored answer again."""
    conditions = {"loglikelihood": "a", "text": "b", "images": "c"}
    image = RequestImage("d" * 64, lambda: pytest.fail("pixels are not needed"))
    option = LogLikelihoodRequest((1, 2), (3,), item=5)
    text = GenerationRequest("Who?", (), 8, ("\n",), tokens=(7,), item=5)
    shown = GenerationRequest("Who?", (image,), 8, ("\n",))
    found = [one.key(conditions)[:12] for one in (option, text, shown)]
    assert found == ["84796a8bbfc5", "e0d64dbd6c01", "d53736bc9586"]
    assert [one.prompt_digest[:12] for one in (text, shown)] == ["c002142363d7", "3b274bd0e2ff"]


@pytest.mark.parametrize(
    ("settings", "length", "until"),
    [
        ({}, 32, ()),
        ({"until": "\n\n"}, 32, ()),
        ({"until": ["a", "\n\n"], "max_gen_toks": 7, "max_new_tokens": 9}, 7, ("a",)),
        ({"until": ["a", "\n\n"], "max_new_tokens": 9, "max_tokens": 4, OWN_SETTINGS: True}, 9, ("a", "\n\n")),
        ({"max_gen_toks": None, "max_tokens": 5, "temperature": 0.0, "num_beams": 1}, 5, ()),
    ],
)
def test_a_harness_s_settings_say_where_an_answer_ends(
    settings: dict[str, Any], length: int, until: tuple[str, ...]
) -> None:
    found = stop_criteria(settings, 32, all_but_blank_lines)
    assert (found.max_new_tokens, found.until) == (length, until)


@pytest.mark.parametrize("settings", [{"do_sample": True}, {"temperature": 0.5}, {"num_beams": 2}])
def test_sampling_and_beams_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(VrbenchError, match="greedy"):
        stop_criteria(settings, 32)
