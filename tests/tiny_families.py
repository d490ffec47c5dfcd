"""Tiny models of today's families with random weights, as folders in the layout of the hub."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch

from tests.tiny import scratch

DEPTH = 4
CHAT = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}<|bot|>{% else %}<|user|>{{ m['role'] }}: {% endif %}"
    "{% if m['content'] is string %}{{ m['content'] }}{% else %}"
    "{% for p in m['content'] %}{% if p['type'] == 'image' %}MARK{% else %}{{ p['text'] }}{% endif %}{% endfor %}"
    "{% endif %}<|end|>{% endfor %}{% if add_generation_prompt %}<|bot|>{% endif %}"
)
CLIP = {
    "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2, "image_size": 32,
    "patch_size": 8, "projection_dim": 32, "initializer_range": 0.2,
}  # fmt: skip
SIGLIP = {k: v for k, v in CLIP.items() if k != "projection_dim"} | {"vision_use_head": False}
PINPOINTS = [[32, 64], [64, 32], [64, 64]]


def save(family: str, folder: Path, seed: int = 0) -> Path:
    """Write a tiny model of a family with tokenizer, image processor and settings; returns the folder."""
    return Path(shutil.copytree(_saved(family, seed), folder, dirs_exist_ok=True))


@cache
def _saved(family: str, seed: int) -> Path:
    folder = scratch() / f"{family} {seed}"
    torch.manual_seed(seed)
    MAKERS[family](folder)
    return folder


def tokenizer(*special: str, mark: str, bos: bool = True, chat: bool = True, **named: str) -> Any:
    """One token a byte, and the special tokens after them.

    Args:
        special: tokens of the family.
        mark: what stands for a picture in the chat template.
        bos: whether a beginning of text is put in front.
        chat: whether there is a chat template.
        named: attribute -> token that a processor looks for under that name.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(["<s>", "</s>", "<pad>", "<|user|>", "<|bot|>", "<|end|>", *special, *named.values()])
    if bos:
        first = [("<s>", inner.token_to_id("<s>"))]
        inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=first)
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>", model_max_length=4096,
        extra_special_tokens=named,
    )  # fmt: skip
    made.chat_template = CHAT.replace("MARK", mark) if chat else None
    return made


def text(words: Any, **more: Any) -> dict[str, Any]:
    """Settings of a tiny decoder."""
    return {
        "vocab_size": len(words), "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": DEPTH,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 4096,
        "bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "pad_token_id": words.pad_token_id,
        "initializer_range": 0.2, "tie_word_embeddings": False, **more,
    }  # fmt: skip


def write(folder: Path, config: Any, words: Any, image_processor: Any, **settings: Any) -> None:
    """A model with random weights, its tokenizer and image processor, and the processor's own settings."""
    from transformers import AutoModelForImageTextToText

    model = AutoModelForImageTextToText.from_config(config).eval()
    model.generation_config.pad_token_id = words.pad_token_id
    for name, parameter in model.named_parameters():
        if name.endswith("gate"):
            torch.nn.init.ones_(parameter)  # it is made as 0, and then no picture reaches Mllama's decoder
        if name.endswith(("image_newline", "mm_input_projection_weight")):
            torch.nn.init.normal_(parameter)  # it is made without a value, or as 0
    model.save_pretrained(folder)
    words.save_pretrained(folder)
    image_processor.save_pretrained(folder)
    (folder / "processor_config.json").write_text(json.dumps(settings))


def _llava_next(folder: Path) -> None:
    from transformers import LlavaNextConfig, LlavaNextImageProcessorPil

    words = tokenizer(mark="<image>\n", image_token="<image>")
    config = LlavaNextConfig(
        vision_config={"model_type": "clip_vision_model", **CLIP}, text_config={"model_type": "llama", **text(words)},
        image_token_index=words.image_token_id, image_grid_pinpoints=PINPOINTS, image_seq_length=16,
    )  # fmt: skip
    pixels = LlavaNextImageProcessorPil(
        size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}, image_grid_pinpoints=PINPOINTS
    )
    write(folder, config, words, pixels, patch_size=8, vision_feature_select_strategy="default",
          num_additional_image_tokens=1)  # fmt: skip


def _llava_onevision(folder: Path) -> None:
    from transformers import LlavaOnevisionConfig, LlavaOnevisionImageProcessorPil

    words = tokenizer(mark="<image>\n", bos=False, image_token="<image>", video_token="<video>")
    config = LlavaOnevisionConfig(
        vision_config={"model_type": "siglip_vision_model", **SIGLIP},
        text_config={"model_type": "qwen2", **text(words)},
        image_token_index=words.image_token_id, video_token_index=words.video_token_id, image_grid_pinpoints=PINPOINTS,
    )  # fmt: skip
    pixels = LlavaOnevisionImageProcessorPil(size={"height": 32, "width": 32}, image_grid_pinpoints=PINPOINTS)
    write(folder, config, words, pixels, num_image_tokens=16, vision_feature_select_strategy="full")


def _qwen(folder: Path, config_class: Any, vision: dict[str, Any], patch: int) -> None:
    from transformers import Qwen2VLImageProcessorPil

    marks = {"image": "<|image_pad|>", "video": "<|video_pad|>", "start": "<|vision_start|>", "end": "<|vision_end|>"}
    words = tokenizer(*marks.values(), mark="<|vision_start|><|image_pad|><|vision_end|>", bos=False)
    rope = {"rope_type": "default", "mrope_section": [2, 3, 3], "rope_theta": 10000.0}
    ids = {name: words.convert_tokens_to_ids(mark) for name, mark in marks.items()}
    config = config_class(
        vision_config={"hidden_size": 32, "intermediate_size": 64, "num_heads": 2, "depth": 3, "out_hidden_size": 32,
                       "patch_size": patch, "initializer_range": 0.2, **vision},
        text_config=text(words, rope_parameters=rope),
        image_token_id=ids["image"], video_token_id=ids["video"],
        vision_start_token_id=ids["start"], vision_end_token_id=ids["end"],
    )  # fmt: skip
    write(folder, config, words, Qwen2VLImageProcessorPil(patch_size=patch))


def _qwen2_5_vl(folder: Path) -> None:
    from transformers import Qwen2_5_VLConfig

    _qwen(folder, Qwen2_5_VLConfig, {"fullatt_block_indexes": [1]}, patch=14)


def _qwen3_vl(folder: Path) -> None:
    from transformers import Qwen3VLConfig

    _qwen(folder, Qwen3VLConfig, {"num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]}, patch=16)


def _idefics(folder: Path, kind: str) -> None:
    from transformers import AutoConfig
    from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
    from transformers.models.smolvlm.image_processing_pil_smolvlm import SmolVLMImageProcessorPil

    places = [f"<row_{i + 1}_col_{j + 1}>" for i in range(6) for j in range(6)]
    named = {"image_token": "<image>", "fake_image_token": "<fake_token_around_image>",
             "global_image_token": "<global-img>", "end_of_utterance_token": "<end_of_utterance>"}  # fmt: skip
    words = tokenizer(*places, mark="<image>", bos=False, **named)
    config = AutoConfig.for_model(
        kind, vision_config={k: v for k, v in SIGLIP.items() if k != "vision_use_head"},
        text_config={"model_type": "llama", **text(words)}, image_token_id=words.image_token_id, scale_factor=2,
        pad_token_id=words.pad_token_id,
    )  # fmt: skip
    image_processor = SmolVLMImageProcessorPil if kind == "smolvlm" else Idefics3ImageProcessorPil
    pixels = image_processor(size={"longest_edge": 64}, max_image_size={"longest_edge": 32})
    write(folder, config, words, pixels, image_seq_len=4)


def _internvl(folder: Path) -> None:
    from transformers import GotOcr2ImageProcessorPil, InternVLConfig

    named = {"start_image_token": "<img>", "end_image_token": "</img>", "context_image_token": "<IMG_CONTEXT>",
             "video_token": "<video>"}  # fmt: skip
    words = tokenizer(mark="<IMG_CONTEXT>\n", bos=False, **named)
    vision = {k: v for k, v in CLIP.items() if k != "projection_dim"}
    config = InternVLConfig(
        vision_config=vision | {"image_size": [32, 32], "patch_size": [8, 8]},
        text_config={"model_type": "qwen2", **text(words)}, image_token_id=words.context_image_token_id,
        image_seq_length=4,
    )  # fmt: skip
    pixels = GotOcr2ImageProcessorPil(size={"height": 32, "width": 32}, crop_to_patches=True)
    write(folder, config, words, pixels, image_seq_length=4)


def _gemma3(folder: Path) -> None:
    from transformers import Gemma3Config, Gemma3ImageProcessorPil

    named = {"boi_token": "<start_of_image>", "eoi_token": "<end_of_image>", "image_token": "<image_soft_token>"}
    words = tokenizer(mark="<start_of_image>", **named)
    words.chat_template = "<s>" + words.chat_template  # as Gemma's own has it
    kinds = ["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"]
    config = Gemma3Config(
        vision_config=SIGLIP,
        text_config=text(words, sliding_window=12, layer_types=kinds, query_pre_attn_scalar=16,
                         tie_word_embeddings=True),
        mm_tokens_per_image=4, boi_token_index=words.boi_token_id, eoi_token_index=words.eoi_token_id,
        image_token_index=words.image_token_id,
    )  # fmt: skip
    write(folder, config, words, Gemma3ImageProcessorPil(size={"height": 32, "width": 32}), image_seq_length=4)


def _paligemma(folder: Path) -> None:
    from transformers import PaliGemmaConfig, SiglipImageProcessorPil

    words = tokenizer(mark="", chat=False, image_token="<image>")
    config = PaliGemmaConfig(
        vision_config={"model_type": "siglip_vision_model", **SIGLIP, "projection_dim": 32},
        text_config={"model_type": "gemma", **text(words, tie_word_embeddings=True)},
        image_token_index=words.image_token_id, projection_dim=32, hidden_size=32, vocab_size=len(words),
    )  # fmt: skip
    pixels = SiglipImageProcessorPil(size={"height": 32, "width": 32})
    pixels.image_seq_length = 16
    write(folder, config, words, pixels)


def _mistral3(folder: Path) -> None:
    from transformers import Mistral3Config
    from transformers.models.pixtral.image_processing_pil_pixtral import PixtralImageProcessorPil

    words = tokenizer("[IMG]", "[IMG_BREAK]", "[IMG_END]", "[INST]", "[/INST]", mark="[IMG]")
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2,
              "head_dim": 16, "image_size": 64, "patch_size": 8, "initializer_range": 0.2}  # fmt: skip
    config = Mistral3Config(
        vision_config={"model_type": "pixtral", **vision}, tie_word_embeddings=False,
        text_config={"model_type": "mistral", **text(words, sliding_window=16)},
        image_token_index=words.convert_tokens_to_ids("[IMG]"), spatial_merge_size=2,
    )  # fmt: skip
    pixels = PixtralImageProcessorPil(size={"longest_edge": 64}, patch_size={"height": 8, "width": 8})
    write(folder, config, words, pixels, patch_size=8, spatial_merge_size=2)


def _mllama(folder: Path) -> None:
    from transformers import MllamaConfig, MllamaImageProcessorPil

    words = tokenizer("<|python_tag|>", mark="<|image|>", image_token="<|image|>")
    words.chat_template = "<s>" + words.chat_template
    ratios = [[1, 1], [1, 2], [2, 1]]
    vision = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_global_layers": 1,
              "attention_heads": 2, "image_size": 32, "patch_size": 8, "max_num_tiles": 2, "vision_output_dim": 64,
              "intermediate_layers_indices": [1], "supported_aspect_ratios": ratios,
              "initializer_range": 0.2}  # fmt: skip
    settings = text(words, cross_attention_layers=[1, 3], vocab_size=words.image_token_id)
    config = MllamaConfig(vision_config=vision, text_config=settings, image_token_index=words.image_token_id)
    write(folder, config, words, MllamaImageProcessorPil(size={"height": 32, "width": 32}, max_image_tiles=2))


MAKERS: dict[str, Callable[[Path], None]] = {
    "llava_next": _llava_next,
    "llava_onevision": _llava_onevision,
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "smolvlm": lambda folder: _idefics(folder, "smolvlm"),
    "idefics3": lambda folder: _idefics(folder, "idefics3"),
    "internvl": _internvl,
    "gemma3": _gemma3,
    "paligemma": _paligemma,
    "mistral3": _mistral3,
    "mllama": _mllama,
}
