"""Shapes of a LLaVA's weights, from its config alone (no torch)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from vrbench.checkpoints.parameter_names import PROJECTOR_PREFIX, TOWER_PREFIX, Shape
from vrbench.core.errors import VrbenchError
from vrbench.core.io import read_json

Config = Mapping[str, Any]

POCKET_VISION: dict[str, Any] = {
    "model_type": "siglip_vision_model", "image_size": 128, "patch_size": 16, "hidden_size": 256,
    "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 4, "vision_use_head": False,
}  # fmt: skip
"""The pocket family's vision tower, as transformers' `SiglipVisionConfig` names its settings (4.9 M parameters)."""


def folder_shapes(folder: Path) -> dict[str, Shape]:
    """Return `llava_shapes` of the config.json in a folder.

    Raises:
        VrbenchError: it is of another family.
    """
    config = read_json(folder / "config.json")
    if config["model_type"] != "llava":
        raise VrbenchError(
            f"{folder} is a {config['model_type']} whose weights are made when it is loaded; without them only the "
            "shapes of a LLaVA are known: `vrbench run` takes it, `vrbench inspect` and overlays on it do not"
        )
    return llava_shapes(config["text_config"], config["vision_config"])


def llava_shapes(text: Config, vision: Config) -> dict[str, Shape]:
    """Return canonical name -> shape of every weight that affects an answer.

    Args:
        text: decoder of type "llama" or "phi3", as transformers' configs name its settings.
        vision: tower of type "clip_vision_model" or "siglip_vision_model".
    """
    hidden, width = text["hidden_size"], vision["hidden_size"]
    shapes: dict[str, Shape] = {
        "embed_tokens.weight": (text["vocab_size"], hidden),
        "norm.weight": (hidden,),
        "lm_head.weight": (text["vocab_size"], hidden),
        **dict(_linear(f"{PROJECTOR_PREFIX}linear_1", hidden, width)),
        **dict(_linear(f"{PROJECTOR_PREFIX}linear_2", hidden, hidden)),
    }
    for layer in range(text["num_hidden_layers"]):
        shapes |= {f"layers.{layer}.{name}.weight": shape for name, shape in decoder_linears(text).items()}
        shapes |= {
            f"layers.{layer}.{name}.weight": (hidden,) for name in ("input_layernorm", "post_attention_layernorm")
        }
    return shapes | {TOWER_PREFIX + name: shape for name, shape in _tower(vision)}


def decoder_linears(text: Config) -> dict[str, Shape]:
    """Return linear of a decoder layer -> (outputs, inputs)."""
    hidden, ffn = text["hidden_size"], text["intermediate_size"]
    keys = hidden * text["num_key_value_heads"] // text["num_attention_heads"]
    if text["model_type"] == "phi3":
        joined = {"self_attn.qkv_proj": (hidden + 2 * keys, hidden), "mlp.gate_up_proj": (2 * ffn, hidden)}
    else:
        joined = {f"self_attn.{k}_proj": (hidden if k == "q" else keys, hidden) for k in "qkv"}
        joined |= {f"mlp.{k}_proj": (ffn, hidden) for k in ("gate", "up")}
    return {**joined, "self_attn.o_proj": (hidden, hidden), "mlp.down_proj": (hidden, ffn)}


def _tower(vision: Config) -> Iterator[tuple[str, Shape]]:
    width, ffn, patch = vision["hidden_size"], vision["intermediate_size"], vision["patch_size"]
    is_clip = vision["model_type"] == "clip_vision_model"
    patches = (vision["image_size"] // patch) ** 2
    yield "embeddings.patch_embedding.weight", (width, 3, patch, patch)
    yield "embeddings.position_embedding.weight", (patches + is_clip, width)
    if is_clip:
        yield "embeddings.class_embedding", (width,)
    else:
        yield "embeddings.patch_embedding.bias", (width,)
    norms = ["post_layernorm", *(["pre_layrnorm"] if is_clip else [])]
    for layer in range(vision["num_hidden_layers"]):
        place = f"encoder.layers.{layer}"
        norms += [f"{place}.layer_norm1", f"{place}.layer_norm2"]
        for name in ("q_proj", "k_proj", "v_proj", "out_proj"):
            yield from _linear(f"{place}.self_attn.{name}", width, width)
        yield from _linear(f"{place}.mlp.fc1", ffn, width)
        yield from _linear(f"{place}.mlp.fc2", width, ffn)
    for name in norms:
        yield f"{name}.weight", (width,)
        yield f"{name}.bias", (width,)


def _linear(name: str, outputs: int, inputs: int) -> Iterator[tuple[str, Shape]]:
    yield f"{name}.weight", (outputs, inputs)
    yield f"{name}.bias", (outputs,)
