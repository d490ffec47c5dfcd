"""The parts of every family are found, and are the modules themselves."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText

from tests import tiny, tiny_families
from vrbench.checkpoints.families import FAMILIES, projector_names, projector_prefix
from vrbench.checkpoints.parameter_names import canonical_name
from vrbench.core.errors import VrbenchError
from vrbench.models import components


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    return tmp_path_factory.mktemp("anatomy")


@pytest.mark.parametrize("family", list(tiny_families.MAKERS))
def test_parts_are_found(family: str, folders: Any) -> None:
    config = AutoConfig.from_pretrained(tiny_families.save(family, folders / family))
    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    names = {id(module): name for name, module in model.model.named_modules()}
    assert names[id(components.decoder(model))] in ("language_model", "text_model")
    assert len(components.decoder_layers(model)) == tiny_families.DEPTH
    assert names[id(components.vision_tower(model))] in ("vision_tower", "visual", "vision_model")
    assert tuple(names[id(part)] for part in components.projector(model)) == FAMILIES[family].projector
    assert components.projector_prefix(model) == projector_prefix(family)
    parameters = [canonical_name(name) for name, _ in model.named_parameters()]
    assert components.projector_parameters(model).keys() == projector_names(family, parameters)


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
    with pytest.raises(VrbenchError, match="not a decoder with a list of layers"):
        components.decoder(model)
