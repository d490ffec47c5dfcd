"""The parts of every family are found, and are the modules themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from tests import tiny, tiny_families
from vrbench.core.errors import VrbenchError
from vrbench.models import components

# Under `model.model`: the decoder, the tower, the projector's parts.
PARTS = {
    "llava_next": ("language_model", "vision_tower", ["multi_modal_projector"]),
    "llava_onevision": ("language_model", "vision_tower", ["multi_modal_projector"]),
    "qwen2_5_vl": ("language_model", "visual", ["visual.merger"]),
    "qwen3_vl": ("language_model", "visual", ["visual.merger", "visual.deepstack_merger_list"]),
    "smolvlm": ("text_model", "vision_model", ["connector"]),
    "idefics3": ("text_model", "vision_model", ["connector"]),
    "internvl": ("language_model", "vision_tower", ["multi_modal_projector"]),
    "gemma3": ("language_model", "vision_tower", ["multi_modal_projector"]),
    "paligemma": ("language_model", "vision_tower", ["multi_modal_projector"]),
    "mistral3": ("language_model", "vision_tower", ["multi_modal_projector"]),
    "mllama": ("language_model", "vision_model", ["multi_modal_projector"]),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tmp_path_factory.mktemp("anatomy")


@pytest.mark.parametrize("family", list(tiny_families.MAKERS))
def test_parts_are_found(family: str, folders: Any) -> None:
    config = AutoConfig.from_pretrained(tiny_families.save(family, folders / family))
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    decoder, tower, projector = PARTS[family]
    inner = model.model
    assert components.decoder(model) is inner.get_submodule(decoder)
    assert components.decoder_layers(model) is inner.get_submodule(decoder).layers
    assert len(components.decoder_layers(model)) == tiny_families.DEPTH
    assert components.vision_tower(model) is inner.get_submodule(tower)
    found = components.projector(model)
    assert [id(part) for part in found] == [id(inner.get_submodule(name)) for name in projector]


def test_parts_of_a_llava() -> None:
    model = tiny.llava()
    assert components.decoder(model) is model.model.language_model
    assert components.vision_tower(model) is model.model.vision_tower
    assert components.projector(model) == [model.model.multi_modal_projector]


def test_a_model_without_a_part_is_told() -> None:
    model = tiny.llava()
    del model.model.multi_modal_projector
    with pytest.raises(VrbenchError, match="LlavaForConditionalGeneration has no projector"):
        components.projector(model)
    del model.model.vision_tower
    with pytest.raises(VrbenchError, match="has no vision tower"):
        components.vision_tower(model)
    del model.model.language_model.layers
    with pytest.raises(VrbenchError, match="no decoder with a list of layers"):
        components.decoder(model)
