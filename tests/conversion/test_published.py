"""The paper's four models at their true shapes: every published name is known, and nothing is missing.

The files have headers and no content (holes), so that nothing big is read or written.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.conversion.tokenizers import save_tokenizer
from vrbench.conversion.convert import target_config
from vrbench.conversion.source import read_source
from vrbench.conversion.tensor_plan import plan_copies

LLAMA = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj", "mlp.gate_proj", "mlp.up_proj",
         "mlp.down_proj", "input_layernorm", "post_attention_layernorm")  # fmt: skip
SETTINGS = ("model_type", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
            "intermediate_size", "vocab_size")  # fmt: skip
MODELS: dict[str, tuple[dict[str, Any], int]] = {
    name: (dict(zip(SETTINGS, settings, strict=True)), parameters)
    for name, parameters, *settings in (
        ("llava-1.5-7b", 6_738_415_616, "llava", 4096, 32, 32, 32, 11008, 32000),
        ("llava-1.5-13b", 13_015_864_320, "llava", 5120, 40, 40, 40, 13824, 32000),
        ("bunny-llama-3-8b", 8_030_261_248, "bunny-llama", 4096, 32, 32, 8, 14336, 128256),
        ("bunny-phi3-mini", 3_821_079_552, "bunny-phi3", 3072, 32, 32, 32, 8192, 32064),
    )
}
"""Settings of each, and the published number of its language model's parameters."""

CLIP_PARAMETERS, SIGLIP_PARAMETERS = 303_507_456, 428_225_600 - 15_238_352
"""Of the towers; SigLIP's without its pooling head."""


def llm_shapes(config: dict[str, Any]) -> dict[str, list[int]]:
    wide, inner = config["hidden_size"], config["intermediate_size"]
    narrow = wide * config["num_key_value_heads"] // config["num_attention_heads"]
    of = {
        "self_attn.q_proj": [wide, wide], "self_attn.k_proj": [narrow, wide], "self_attn.v_proj": [narrow, wide],
        "self_attn.o_proj": [wide, wide], "self_attn.qkv_proj": [3 * wide, wide], "mlp.gate_proj": [inner, wide],
        "mlp.up_proj": [inner, wide], "mlp.gate_up_proj": [2 * inner, wide], "mlp.down_proj": [wide, inner],
        "input_layernorm": [wide], "post_attention_layernorm": [wide],
    }  # fmt: skip
    phi3 = ("self_attn.qkv_proj", "self_attn.o_proj", "mlp.gate_up_proj", "mlp.down_proj", *LLAMA[-2:])
    kinds = phi3 if config["model_type"] == "bunny-phi3" else LLAMA
    shapes = {f"model.layers.{i}.{k}.weight": of[k] for i in range(config["num_hidden_layers"]) for k in kinds}
    ends = {"model.embed_tokens.weight": [config["vocab_size"], wide], "lm_head.weight": [config["vocab_size"], wide]}
    return shapes | ends | {"model.norm.weight": [wide]}


def tower_shapes(clip: bool) -> dict[str, list[int]]:
    wide, inner, depth, places = (1024, 4096, 24, 577) if clip else (1152, 4304, 27, 729)
    linears = {f"self_attn.{name}_proj": [wide, wide] for name in ("q", "k", "v", "out")}
    linears |= {"mlp.fc1": [inner, wide], "mlp.fc2": [wide, inner], "layer_norm1": [wide], "layer_norm2": [wide]}
    found = {
        "embeddings.patch_embedding.weight": [wide, 3, 14, 14],
        "embeddings.position_embedding.weight": [places, wide],
    }
    found |= {"embeddings.class_embedding": [wide]} if clip else {"embeddings.patch_embedding.bias": [wide]}
    for name in (["pre_layrnorm"] if clip else []) + ["post_layernorm"]:
        found |= {f"{name}.weight": [wide], f"{name}.bias": [wide]}
    for name, shape in linears.items():
        for i in range(depth):
            found |= {f"encoder.layers.{i}.{name}.weight": shape, f"encoder.layers.{i}.{name}.bias": shape[:1]}
    return {f"model.vision_tower.vision_tower.vision_model.{name}": shape for name, shape in found.items()}


def write_hole(file: Path, shapes: dict[str, list[int]]) -> None:
    """A safetensors file of float16 tensors whose content is a hole."""
    header, position = {}, 0
    for name, shape in shapes.items():
        end = position + 2 * math.prod(shape)
        header[name] = {"dtype": "F16", "shape": shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text)
    with file.open("r+b") as stream:
        stream.truncate(8 + len(text) + position)


@pytest.mark.parametrize("name", MODELS)
def test_every_published_weight_has_its_place(name: str, tmp_path: Path) -> None:
    settings, parameters = MODELS[name]
    clip = settings["model_type"] == "llava"
    tower = "openai/clip-vit-large-patch14-336" if clip else "google/siglip-so400m-patch14-384"
    settings = settings | {
        "mm_vision_tower": tower, "mm_projector_type": "mlp2x_gelu", "image_aspect_ratio": "pad", "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False, "torch_dtype": "float16", "max_position_embeddings": 4096,
    }  # fmt: skip
    (tmp_path / "config.json").write_text(json.dumps(settings))
    save_tokenizer(settings["model_type"], tmp_path)
    wide, from_tower = settings["hidden_size"], 1024 if clip else 1152
    projector = {"0.weight": [wide, from_tower], "0.bias": [wide], "2.weight": [wide, wide], "2.bias": [wide]}
    llm, tower_of = llm_shapes(settings), tower_shapes(clip)
    write_hole(
        tmp_path / "model.safetensors",
        llm | tower_of | {f"model.mm_projector.{end}": shape for end, shape in projector.items()},
    )
    original = read_source(str(tmp_path), None, None)
    config = target_config(original)
    moves = plan_copies(original, config)
    counts = {part: 0 for part in ("language_model", "vision_tower", "multi_modal_projector")}
    for move in moves:
        counts[move.target.split(".")[0]] += move.size // 2
    assert counts["language_model"] == parameters
    assert counts["vision_tower"] == (CLIP_PARAMETERS if clip else SIGLIP_PARAMETERS)
    assert len(moves) == len(llm) + len(tower_of) + 4
    assert config.image_seq_length == original.tower.tokens == (576 if clip else 729)
    size = original.tower.image_settings["size"]
    assert size == ({"shortest_edge": 336} if clip else {"height": 384, "width": 384})
