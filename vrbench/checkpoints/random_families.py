"""Shapes of Qwen2.5-VL and Qwen3-VL for checkpoints with random weights, and the rest of their folders (no torch)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from vrbench.checkpoints.random_tokenizer import write_tokenizer

Config = dict[str, Any]

TOKENS = {
    "pad_token": "<|endoftext|>", "eos_token": "<|im_end|>", "start": "<|im_start|>", "image_token": "<|image_pad|>",
    "video_token": "<|video_pad|>", "vision_bos_token": "<|vision_start|>", "vision_eos_token": "<|vision_end|>",
}  # fmt: skip
"""Role -> token of Qwen's chat."""

CHAT = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for p in m['content'] %}{% if p['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>{% else %}"
    "{{ p['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


def _qwen2_5(layers: int, hidden: int, heads: int, kv_heads: int, ffn: int, vocabulary: int) -> Config:
    sections = [hidden // heads // 2 * part // 64 for part in (16, 24, 24)]
    return {
        "num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "intermediate_size": ffn, "vocab_size": vocabulary, "hidden_act": "silu",
        "rms_norm_eps": 1e-6, "max_position_embeddings": 128000, "use_sliding_window": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1e6, "mrope_section": sections},
    }  # fmt: skip


def _qwen3(layers: int, hidden: int, heads: int, kv_heads: int, width: int, ffn: int, vocabulary: int) -> Config:
    sections = [width // 2 * part // 64 for part in (24, 20, 20)]
    return {
        "num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": heads, "head_dim": width,
        "num_key_value_heads": kv_heads, "intermediate_size": ffn, "vocab_size": vocabulary, "hidden_act": "silu",
        "rms_norm_eps": 1e-6, "max_position_embeddings": 262144,
        "rope_parameters": {
            "rope_type": "default", "rope_theta": 5e6, "mrope_section": sections, "mrope_interleaved": True,
        },
    }  # fmt: skip


FAMILY_SHAPES: dict[str, tuple[str, Config, Config, Config]] = {
    "qwen2.5-vl-7b": ("qwen2_5_vl", _qwen2_5(28, 3584, 28, 4, 18944, 152064), {
        "depth": 32, "hidden_size": 1280, "intermediate_size": 3420, "num_heads": 16, "out_hidden_size": 3584,
        "patch_size": 14, "window_size": 112, "fullatt_block_indexes": [7, 15, 23, 31], "tokens_per_second": 2,
    }, {"repetition_penalty": 1.05}),
    "qwen3-vl-8b": ("qwen3_vl", _qwen3(36, 4096, 32, 8, 128, 12288, 151936), {
        "depth": 27, "hidden_size": 1152, "intermediate_size": 4304, "num_heads": 16, "out_hidden_size": 4096,
        "patch_size": 16, "num_position_embeddings": 2304, "deepstack_visual_indexes": [8, 16, 24],
    }, {}),
    "tiny-qwen2.5-vl": ("qwen2_5_vl", _qwen2_5(4, 64, 4, 2, 96, 1024), {
        "depth": 3, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64,
        "patch_size": 14, "window_size": 112, "fullatt_block_indexes": [1], "tokens_per_second": 2,
    }, {"repetition_penalty": 1.05}),
    "tiny-qwen3-vl": ("qwen3_vl", _qwen3(4, 64, 4, 2, 32, 96, 1024), {
        "depth": 3, "hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "out_hidden_size": 64,
        "patch_size": 16, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1],
    }, {}),
}  # fmt: skip
"""Name -> model type, shape of the LLM and of the vision tower, and what the generation config asks for besides the
likeliest token, as in Qwen/Qwen2.5-VL-7B-Instruct and Qwen/Qwen3-VL-8B-Instruct; the tiny ones are for tests."""

MEAN_AND_STD = {
    "qwen2_5_vl": ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]),
    "qwen3_vl": ([0.5] * 3, [0.5] * 3),
}
"""Model type -> what pixels are normalized by."""


def write_family(name: str, folder: Path) -> int:
    """Write everything of a model's folder but the weights; return the number of ids of its tokenizer."""
    kind, text, vision, generation = FAMILY_SHAPES[name]
    ids = write_tokenizer(
        folder, text["vocab_size"], text["max_position_embeddings"], special=tuple(TOKENS.values()), chat=CHAT,
        named={role: token for role, token in TOKENS.items() if role != "start"},
    )  # fmt: skip
    of_text = {"eos_token_id": ids[TOKENS["eos_token"]], "pad_token_id": ids[TOKENS["pad_token"]]}
    config = {
        "model_type": kind, "text_config": {"model_type": f"{kind}_text", **text, **of_text, "bos_token_id": None},
        "vision_config": vision,
        "image_token_id": ids[TOKENS["image_token"]], "video_token_id": ids[TOKENS["video_token"]],
        "vision_start_token_id": ids[TOKENS["vision_bos_token"]],
        "vision_end_token_id": ids[TOKENS["vision_eos_token"]], "tie_word_embeddings": False,
    }  # fmt: skip
    mean, std = MEAN_AND_STD[kind]
    pixels = {
        "image_processor_type": "Qwen2VLImageProcessor", "patch_size": vision["patch_size"], "temporal_patch_size": 2,
        "merge_size": 2, "size": {"shortest_edge": 3136, "longest_edge": 12845056},
        "image_mean": mean, "image_std": std,
    }  # fmt: skip
    files = {
        "config.json": config, "generation_config.json": of_text | generation, "preprocessor_config.json": pixels,
        "processor_config.json": {},
    }  # fmt: skip
    for file, value in files.items():
        (folder / file).write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    return len(ids)
