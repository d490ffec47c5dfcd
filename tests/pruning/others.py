"""Tiny models of other families, and what is done to each: inputs with a picture, and logits."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch

from tests import tiny

DEPTH = 4


def qwen(seed: int = 0, depth: int = DEPTH, hidden: int = 48) -> Any:
    """A `Qwen2_5_VLForConditionalGeneration` with random weights: its projector lies inside of the vision tower."""
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    words = tiny.tokenizer()
    text = {
        "vocab_size": len(words), "hidden_size": hidden, "intermediate_size": 96, "num_hidden_layers": depth,
        "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 512, "max_window_layers": 3,
        "rope_parameters": {"rope_type": "default", "mrope_section": [2, 2, hidden // 8 - 4], "rope_theta": 1e4},
        "initializer_range": 0.2, "tie_word_embeddings": False, "bos_token_id": 0, "pad_token_id": 0,
        "eos_token_id": words.eos_token_id,
    }  # fmt: skip
    vision = {
        "depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2, "out_hidden_size": hidden,
        "fullatt_block_indexes": [1], "initializer_range": 0.2,
    }  # fmt: skip
    image = words.convert_tokens_to_ids("<image>")
    config = Qwen2_5_VLConfig(
        text_config=text, vision_config=vision, image_token_id=image, video_token_id=1, vision_start_token_id=2,
        vision_end_token_id=3, tie_word_embeddings=False,
    )  # fmt: skip
    torch.manual_seed(seed)
    return Qwen2_5_VLForConditionalGeneration(config).eval()


def save(model: Any, folder: Path) -> Path:
    """Write a model with the tokenizer and an image processor; returns the folder."""
    from transformers import SiglipImageProcessorPil

    model.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    SiglipImageProcessorPil(size={"height": tiny.SIDE, "width": tiny.SIDE}).save_pretrained(folder)
    return folder


def inputs(model: Any) -> dict[str, torch.Tensor]:
    """Token ids with one picture among them, and its pixels."""
    torch.manual_seed(3)
    image = tiny.tokenizer().convert_tokens_to_ids("<image>")
    if model.config.model_type == "qwen2_5_vl":
        ids = torch.tensor([[5, 60, 2, image, 3, 71, 33, 90]])
        kinds = (ids == image).int()
        pixels = {"pixel_values": torch.randn(4, 1176), "image_grid_thw": torch.tensor([[1, 2, 2]])}
        return {"input_ids": ids, "mm_token_type_ids": kinds, **pixels}
    ids = torch.tensor([[5, 60, *[image] * 4, 71, 33, 90]])
    return {"input_ids": ids, "pixel_values": torch.randn(1, 3, tiny.SIDE, tiny.SIDE)}


@torch.inference_mode()
def logits(model: Any) -> torch.Tensor:
    """[1, tokens, vocabulary] of `inputs`; of a copy, since how a mapped file is aligned decides the last bits."""
    return copy.deepcopy(model)(**inputs(model)).logits


def gemma(depth: int = 6) -> Any:
    """A `Gemma3ForConditionalGeneration` whose layers attend by turns to a window of 8 tokens and to everything."""
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = {
        "vocab_size": 300, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": depth,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 12, "sliding_window": 8, "pad_token_id": 0,
        "layer_types": ["sliding_attention", "sliding_attention", "full_attention"] * (depth // 3),
        "initializer_range": 0.2,
    }  # fmt: skip
    vision = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2,
        "image_size": tiny.SIDE, "patch_size": tiny.SIDE // 4,
    }  # fmt: skip
    torch.manual_seed(0)
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4, image_token_index=299)
    return Gemma3ForConditionalGeneration(config).eval()


def mllama() -> Any:
    """A `MllamaForConditionalGeneration` that sees in layers 1 and 4 of 6."""
    from transformers import MllamaConfig, MllamaForConditionalGeneration

    text = {
        "vocab_size": 300, "hidden_size": 48, "intermediate_size": 64, "num_hidden_layers": 6,
        "num_attention_heads": 4, "num_key_value_heads": 2, "cross_attention_layers": [1, 4], "pad_token_id": 0,
        "initializer_range": 0.2,
    }  # fmt: skip
    vision = {
        "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_global_layers": 1,
        "attention_heads": 2, "image_size": tiny.SIDE, "patch_size": tiny.SIDE // 2, "vision_output_dim": 64,
        "intermediate_layers_indices": [0], "max_num_tiles": 1, "supported_aspect_ratios": [[1, 1]],
    }  # fmt: skip
    torch.manual_seed(0)
    model = MllamaForConditionalGeneration(MllamaConfig(text_config=text, vision_config=vision)).eval()
    for name, parameter in model.named_parameters():
        if "gate" in name and parameter.numel() == 1:
            parameter.data.fill_(1)  # a new model's gates are shut
    return model
