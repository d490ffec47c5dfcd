"""`vrbench inspect` on today's families: parts by name are the parts by structure, layers are the LLM's."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import load_file, save_file

from tests import tiny_families
from vrbench.models import components
from vrbench.models.resolve import inspect_checkpoint


@pytest.mark.parametrize("family", tiny_families.MAKERS)
def test_parts_and_layers(family: str, tmp_path: Path) -> None:
    from transformers import AutoModelForImageTextToText

    base = tiny_families.save(family, tmp_path / "base")
    model = AutoModelForImageTextToText.from_pretrained(base)
    projector = {id(p): p.numel() for module in components.projector(model) for p in module.parameters()}
    tower = {id(p): p.numel() for p in components.vision_tower(model).parameters() if id(p) not in projector}
    newline = {id(p): p.numel() for name, p in model.named_parameters() if name.endswith("image_newline")}
    found = inspect_checkpoint(str(base))
    assert found.depth == len(components.decoder_layers(model))
    assert found.parameters["vision tower"] == sum(tower.values())
    assert found.parameters["projector"] == sum((projector | newline).values())
    assert found.parameters["total"] == sum(p.numel() for p in model.parameters())

    shutil.copytree(base, tmp_path / "tuned")
    tensors = load_file(base / "model.safetensors")
    of_tower = ("vision_tower", "vision_model", "visual")
    layer = next(n for n in tensors if "layers.2." in n and not any(word in n for word in of_tower))
    tensors[layer].view(-1)[-1] += 1
    block = next(n for n in tensors if any(w in n for w in of_tower) and ".0." in n and "merger" not in n)
    tensors[block].view(-1)[-1] += 1
    save_file(tensors, tmp_path / "tuned" / "model.safetensors", {"format": "pt"})
    against = inspect_checkpoint(str(tmp_path / "tuned"), str(base)).against
    assert against is not None and (against.tuned, against.others) == ("2", ("vision tower",))
