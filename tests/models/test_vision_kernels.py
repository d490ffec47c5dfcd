"""Windows and images of one length are attended to together, with the features of transformers' loop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from tests import tiny_families
from vrbench.models import vision_kernels
from vrbench.models.hf_model import HFModel
from vrbench.models.load import load_vlm
from vrbench.models.resolve import resolve_checkpoint

SIZES = [(40, 24), (200, 150), (40, 24), (90, 300)]


@pytest.mark.parametrize("family", ["qwen2_5_vl", "qwen3_vl"])
def test_parts_of_one_length_are_a_batch(family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    vlm = load_vlm(resolve_checkpoint(str(tiny_families.save(family, tmp_path / family))))
    assert isinstance(vlm, HFModel)
    torch.manual_seed(0)
    noise = [Image.fromarray((torch.rand(h, w, 3) * 255).to(torch.uint8).numpy()) for w, h in SIZES]
    inputs = vlm.encode_with_images([vlm.prompt("?", 1)] * len(SIZES), [[image] for image in noise])

    def features() -> torch.Tensor:
        with torch.inference_mode():
            return vlm.vision_tower(inputs["pixel_values"], inputs["image_grid_thw"]).pooler_output

    calls: list[Any] = []
    attend = vision_kernels.scaled_dot_product_attention
    monkeypatch.setattr(
        vision_kernels, "scaled_dot_product_attention", lambda *a, **k: calls.append(a[0].shape) or attend(*a, **k)
    )
    expected = features()
    assert not calls
    monkeypatch.setattr(torch.nn.Conv3d, "forward", None)  # replaced by a matrix product from here on
    vision_kernels.compute_patches_together(vlm.model)
    assert torch.allclose(features(), expected, atol=1e-4) and expected.std() > 0.01
    assert sum(shape[0] * shape[2] for shape in calls) == 3 * len(inputs["pixel_values"])
    assert len(calls) <= 3 * 6  # in each layer, lengths that occur


def test_convolutions_stay_those_of_cudnn_without_tf32() -> None:
    before = torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32
    with vision_kernels.full_float32():
        assert (torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32) == (before[0], False)
    assert (torch.backends.cudnn.enabled, torch.backends.cudnn.allow_tf32) == before
