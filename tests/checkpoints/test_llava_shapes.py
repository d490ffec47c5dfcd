"""Facts that are stated without a model are those of the model, built without weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForImageTextToText, LlavaConfig

from tests import tiny_families
from vrbench.checkpoints import llava_shapes, smollm2
from vrbench.checkpoints.families import FAMILIES, projector_names, projector_prefix
from vrbench.checkpoints.parameter_names import IGNORED_BUFFERS, canonical_name
from vrbench.checkpoints.random_shapes import RANDOM_SHAPES
from vrbench.models.components import projector_parameters
from vrbench.models.components import projector_prefix as prefix_in_model


def empty_model(config: Any) -> Any:
    with torch.device("meta"):
        return AutoModelForImageTextToText.from_config(config)


@pytest.mark.parametrize("name", [*RANDOM_SHAPES, "pocket"])
def test_shapes_are_those_of_the_model(name: str) -> None:
    pocket = smollm2.text_config(), llava_shapes.POCKET_VISION
    text, vision = {**RANDOM_SHAPES, "pocket": pocket}[name]
    model = empty_model(LlavaConfig(text_config=text, vision_config=vision))
    state = {canonical_name(key): tuple(value.shape) for key, value in model.state_dict().items()}
    expected = {
        key: shape for key, shape in state.items()
        if not key.endswith(IGNORED_BUFFERS) and not key.startswith("vision_tower.head.")
    }  # fmt: skip
    assert llava_shapes.llava_shapes(text, vision) == expected


@pytest.mark.parametrize("family", sorted(set(FAMILIES) - {"llava"}))
def test_a_family_s_projector_is_that_of_the_model(family: str, tmp_path: Path) -> None:
    model = empty_model(AutoConfig.from_pretrained(tiny_families.save(family, tmp_path)))
    names = [canonical_name(name) for name in model.state_dict()]
    assert projector_names(family, names) == frozenset(projector_parameters(model))
    assert projector_prefix(family) == prefix_in_model(model)
