"""The vision tower of a source: its shape, its image settings, and which of its states the projector reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vrbench.checkpoints.random_shapes import CLIP_LARGE, CLIP_MEAN, CLIP_STD, SIGLIP_SO400M
from vrbench.core.errors import VrbenchError
from vrbench.core.io import Json, require_json

KNOWN_TOWERS = {"clip-vit-large-patch14-336": CLIP_LARGE, "siglip-so400m-patch14-384": SIGLIP_SO400M}
"""The towers of the paper's models, by the last part of their name; weights alone do not show the number of heads."""

SELECT_STRATEGIES = {"patch": "default", "cls_patch": "full"}
"""LLaVA's mm_vision_select_feature -> transformers' vision_feature_select_strategy."""


@dataclass(frozen=True)
class VisionTower:
    """A tower's settings.

    Attributes:
        config: as transformers' CLIPVisionConfig or SiglipVisionConfig names them, with `model_type`.
        layer: which hidden state is used, counted as in a Python list.
        strategy: "default" drops the class token, "full" keeps every token.
        image_settings: of the image processor.
    """

    config: dict[str, Any]
    layer: int
    strategy: str
    image_settings: dict[str, Any]

    @property
    def is_clip(self) -> bool:
        """Whether its first token is a class token."""
        return bool(self.config["model_type"] == "clip_vision_model")

    @property
    def tokens(self) -> int:
        """Tokens of an image in a prompt."""
        patches = (self.config["image_size"] // self.config["patch_size"]) ** 2
        return int(patches + (self.is_clip and self.strategy == "full"))


def read_tower(settings: dict[str, Any], folder: Path | None) -> VisionTower:
    """Return the tower of a source.

    Args:
        settings: the source's config.json.
        folder: the tower's own folder, if there is one.

    Raises:
        VrbenchError: neither the folder nor the name in config.json states its shape, or a setting is unknown.
    """
    config = _vision_config(folder) if folder else KNOWN_TOWERS.get(Path(str(settings.get("mm_vision_tower"))).name)
    if config is None:
        raise VrbenchError(
            f"the vision tower {settings.get('mm_vision_tower')!r} is not one of {', '.join(KNOWN_TOWERS)}; "
            "name a folder with its config.json by --vision-tower"
        )
    feature = settings.get("mm_vision_select_feature", "patch")
    if feature not in SELECT_STRATEGIES:
        raise VrbenchError(f"mm_vision_select_feature is {feature!r}; known are {', '.join(SELECT_STRATEGIES)}")
    if config["model_type"] == "clip_vision_model":
        layer, strategy = settings.get("mm_vision_select_layer", -2), SELECT_STRATEGIES[feature]
        if type(layer) is not int:
            raise VrbenchError(f"mm_vision_select_layer is {layer!r}; it has to be a whole number, such as -2")
    else:  # both code bases read this state of a SigLIP tower, whatever the config says; it has no class token
        layer, strategy = -2, "full"
    return VisionTower(config, layer, strategy, _image_settings(config, folder, settings.get("image_aspect_ratio")))


def _vision_config(folder: Path) -> dict[str, Any]:
    """Return the settings of a tower's config.json, with the defaults that it leaves out."""
    from transformers import CLIPVisionConfig, SiglipVisionConfig

    path = folder / "config.json"
    raw = require_json(path)
    kind = str(raw.get("model_type")).removesuffix("_vision_model")
    config_class = {"clip": CLIPVisionConfig, "siglip": SiglipVisionConfig}.get(kind)
    if config_class is None:
        raise VrbenchError(f"{path} is of model_type {raw.get('model_type')!r}; supported towers are CLIP and SigLIP")
    try:
        stated = raw.get("vision_config") or raw
        left_out = ("_", "torch_dtype", "dtype", "model_type")
        shape = {key: value for key, value in stated.items() if not key.startswith(left_out)}
        config = config_class(**shape)
        sides = {key: int(getattr(config, key)) for key in ("image_size", "patch_size")}
    except Exception as error:  # transformers' strict configs raise classes of their own
        raise VrbenchError(f"{path} describes no vision tower: {' '.join(str(error).split())}") from error
    return shape | sides | {"model_type": f"{kind}_vision_model"}


def _image_settings(config: dict[str, Any], folder: Path | None, aspect: str | None) -> dict[str, Any]:
    """Return `LlavaImageProcessor` settings as in the tower's training, padding to a square where LLaVA did."""
    side = config["image_size"]
    square = {"height": side, "width": side}
    if config["model_type"] == "clip_vision_model":
        found: dict[str, Any] = {"size": {"shortest_edge": side}, "crop_size": square, "do_center_crop": True,
                                 "image_mean": CLIP_MEAN, "image_std": CLIP_STD}  # fmt: skip
    else:
        found = {"size": square, "do_center_crop": False, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    if folder and (folder / "preprocessor_config.json").is_file():
        found |= _stated_settings(require_json(folder / "preprocessor_config.json"), found)
    return found | {"resample": found.get("resample", 3), "do_pad": aspect == "pad"}


def _stated_settings(raw: Json, defaults: Json) -> Json:
    stated = {key: raw[key] for key in (*defaults, "resample", "rescale_factor") if raw.get(key) is not None}
    for key in ("size", "crop_size"):  # older files have one number
        if isinstance(stated.get(key), int):
            stated[key] = dict.fromkeys(defaults[key], stated[key])
    return stated
