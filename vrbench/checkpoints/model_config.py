"""What a whole model's config.json says of family and depth (no torch)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vrbench.checkpoints.parameter_names import canonical, layer_of
from vrbench.checkpoints.remote_code import LOCAL
from vrbench.checkpoints.safetensors_index import read_headers
from vrbench.core.errors import VrbenchError
from vrbench.core.io import read_json, read_text


def read_config(folder: Path) -> tuple[str, int, dict[str, Any]]:
    """The family (model_type), the depth, and the decoder's settings that config.json states."""
    path = folder / "config.json"
    try:
        config = json.loads(read_text(path))
        decoder = config.get("text_config", config)
        depth = decoder.get("num_hidden_layers")
        family = config["model_type"]
    except FileNotFoundError as error:
        raise VrbenchError(f"{path} is missing") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise VrbenchError(f"{path} cannot be read: it is not JSON with a model_type") from error
    if depth is not None and (type(depth) is not int or depth < 1):
        raise VrbenchError(f"{path} has num_hidden_layers {depth!r}; it has to be a whole number above 0")
    return str(family), depth or _usual_depth(folder), decoder


def is_original(folder: Path) -> bool:
    """Whether a config.json is that of LLaVA's or Bunny's own code, which names the parts beside the decoder's keys."""
    config = read_json(folder / "config.json")
    return "text_config" not in config and not {"mm_projector_type", "mm_vision_tower"}.isdisjoint(config)


def stored_depth(folder: Path) -> int:
    """The depth that the names of a folder's tensors show; 0 where they show none."""
    layers = [layer_of(canonical(name)) for name in read_headers(folder)]
    return max((layer + 1 for layer in layers if layer is not None), default=0)


def _usual_depth(folder: Path) -> int:
    """The depth of a config.json that leaves it out, as that of LLaVA-1.5 does, because it is the usual one."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, **LOCAL).get_text_config()
        return int(config.num_hidden_layers)
    except Exception:  # transformers' strict configs raise classes of their own
        return 0  # what is wrong with it is told by its family
