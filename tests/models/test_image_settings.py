"""Whose settings of the image processor hold, and what is told of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil

from tests import tiny, tiny_families
from tests.evaluation.made import noise
from vrbench.checkpoints import image_settings
from vrbench.checkpoints.checkpoint import Checkpoint
from vrbench.core.errors import VrbenchError
from vrbench.core.io import digest_of
from vrbench.core.schemas import RunSettings
from vrbench.evaluation.inputs_digest import inputs_digest
from vrbench.evaluation.run_config import RunConfig
from vrbench.evaluation.run_plan import plan
from vrbench.models.load import load_vlm
from vrbench.models.processors import padding_image_processor
from vrbench.models.resolve import resolve_checkpoint

CROPS = {"do_center_crop": True, "size": {"shortest_edge": 336}, "crop_size": {"height": 336, "width": 336}}


def made(folder: Path, family: str, settings: Mapping[str, Any], nested: bool = False) -> Checkpoint:
    """A checkpoint of which nothing is there but its image processor's settings."""
    name, content = "preprocessor_config.json", settings
    if nested:
        name, content = "processor_config.json", {"image_processor": settings}
    (folder / name).write_text(json.dumps(content))
    return Checkpoint("mine", folder, "", "d", family, 4)


@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize(
    "limits",
    [
        {"size": {"shortest_edge": 3136, "longest_edge": 9}}, {"min_pixels": 3136, "max_pixels": 9},
        {"size": {"shortest_edge": 3136, "longest_edge": 9}, "min_pixels": None, "max_pixels": None},
    ],
)  # fmt: skip
def test_limits_that_the_harness_replaces_are_told(limits: dict[str, Any], nested: bool, tmp_path: Path) -> None:
    found = made(tmp_path, "qwen3_vl", limits, nested)
    (said,) = image_settings.notes_with_options(found)
    assert said == (
        "images are processed with min_pixels 200,704, max_pixels 1,605,632, as in lmms-eval's qwen3_vl; the "
        "checkpoint has min_pixels 3,136, max_pixels 9 (--image-settings checkpoint)"
    )
    (kept,) = image_settings.image_notes(found, "checkpoint")
    assert kept.startswith("images are processed with the checkpoint's min_pixels 3,136, max_pixels 9; lmms-eval's")
    same = made(tmp_path, "qwen3_vl", {"size": {"shortest_edge": 200704, "longest_edge": 1605632}}, nested)
    assert not list(image_settings.image_notes(same))


def test_tiles_are_limits_too(tmp_path: Path) -> None:
    found = made(tmp_path, "internvl", {"max_patches": 6, "min_patches": 1})
    assert image_settings.overridden_settings(found) == {"max_patches": (6, 12)}


@pytest.mark.parametrize(
    ("settings", "share"),
    [
        (CROPS, 0.5),
        (CROPS | {"size": 336, "crop_size": 336}, 0.5),
        (CROPS | {"crop_size": {"height": 224, "width": 224}}, 1 - 224 * 224 / (336 * 672)),
        (CROPS | {"do_pad": True}, 0),
        (CROPS | {"size": {"height": 336, "width": 336}}, 0),
        ({"size": {"shortest_edge": 336}}, 0),
        ({}, 0),
    ],
)
def test_what_a_crop_cuts_off(settings: dict[str, Any], share: float) -> None:
    assert image_settings.cropped_share(settings) == pytest.approx(share)


def test_a_llava_that_crops_is_told_and_may_be_padded(tmp_path: Path) -> None:
    found = made(tmp_path, "llava", CROPS)
    (said,) = image_settings.notes_with_options(found)
    assert said.endswith("50 % of one twice as wide as high is lost (--image-settings pad)")
    assert not list(image_settings.validate_choice(found, "pad"))
    (padded,) = image_settings.notes_with_options(found, "pad")
    assert "images are padded to a square with the mean colour" in padded


@pytest.mark.parametrize(
    ("family", "why"), [("llava", "crops nothing"), ("llava_next", "not how this family reads images")]
)
def test_padding_is_refused_where_it_makes_no_sense(family: str, why: str, tmp_path: Path) -> None:
    found = made(tmp_path, family, CROPS if family == "llava_next" else {})
    (told,) = image_settings.validate_choice(found, "pad")
    assert why in told and "leave out --image-settings pad" in told


@pytest.mark.parametrize("size", [(60, 30), (21, 43), (32, 32)])
def test_padding_is_that_of_llava(size: tuple[int, int]) -> None:
    own = CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32})
    image, side = noise("a", *size), max(size)
    square = Image.new("RGB", (side, side), tuple(int(255 * part) for part in own.image_mean))
    square.paste(image, ((side - size[0]) // 2, (side - size[1]) // 2))
    expected = own(images=[square], return_tensors="pt")["pixel_values"]
    assert torch.equal(padding_image_processor(own)(images=[image], return_tensors="pt")["pixel_values"], expected)


def test_with_the_checkpoint_s_settings_a_model_is_shown_what_transformers_shows(tmp_path: Path) -> None:
    folder = tiny_families.save("qwen2_5_vl", tmp_path / "qwen")
    limits = {"shortest_edge": 4 * 28 * 28, "longest_edge": 16 * 28 * 28}
    tiny.edit_json(folder / "preprocessor_config.json", size=limits)
    found, image = resolve_checkpoint(str(folder)), noise("a", 400, 300)
    own, harness = (load_vlm(found, images=choice) for choice in ("checkpoint", "harness"))
    assert own.image_settings != harness.image_settings
    theirs = own.image_processor(images=[image], return_tensors="pt")["image_grid_thw"]
    shown = [
        vlm.encode_with_images([vlm.prompt("?", 1)], [[image]])["image_grid_thw"].tolist() for vlm in (own, harness)
    ]
    assert shown[0] == theirs.tolist() != shown[1]


def test_the_choice_enters_the_digest_and_the_default_does_not() -> None:
    digests = [
        inputs_digest("c", {}, RunSettings(tasks=("t",), image_settings=choice)) for choice in image_settings.CHOICES
    ]
    assert len(set(digests)) == 3
    older = {"checkpoint": "c", "tasks": {}, "limit": None, "seed": 0, "dtype": "float32", "schema": 1}
    assert digests[0] == digest_of(older)


def test_a_plan_tells_and_records_the_choice(tiny_llava: Path, tmp_path: Path) -> None:
    options = RunConfig(limit=1, out=tmp_path, image_settings="pad")
    with pytest.raises(VrbenchError, match="its image processor crops nothing"):
        plan([str(tiny_llava)], "pocket_mme", options)
    with pytest.raises(VrbenchError, match="image settings 'mine' are unknown; there are harness, checkpoint, pad"):
        plan([str(tiny_llava)], "pocket_mme", RunConfig(out=tmp_path, image_settings="mine"))
    made_plan = plan([str(tiny_llava)], "pocket_mme", RunConfig(limit=1, out=tmp_path))
    assert made_plan.settings(made_plan.checkpoints[0]).image_settings == "harness"
