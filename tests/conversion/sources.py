"""Tiny checkpoints in the original layouts of LLaVA-1.5 and Bunny."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tests.conversion.tokenizers import pieces, save_tokenizer

State = dict[str, torch.Tensor]
DEPTH, HIDDEN, SIDE, PATCH = 3, 32, 28, 14
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
FAMILIES = ("llava", "bunny-llama", "bunny-phi3")


@dataclass
class Made:
    """A tiny model by its parts.

    Attributes:
        family: model_type of the original config.
        text: settings of the language model.
        llm, tower, projector: weights in float32; the LLM's under their original names, the tower's under the names in
            a tower's module, the projector's as "0.weight", "0.bias", "2.weight", "2.bias".
        settings: all of the original config.json.
    """

    family: str
    text: dict[str, Any]
    llm: State
    tower: State
    projector: State
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def is_clip(self) -> bool:
        return self.family == "llava"

    def own_state(self, tower: bool = True) -> State:
        """All weights under the names that a merged checkpoint has in its files."""
        state = dict(self.llm)
        state |= {f"model.mm_projector.{name}": value for name, value in self.projector.items()}
        if tower:
            state |= {f"model.vision_tower.vision_tower.vision_model.{n}": v for n, v in self.tower.items()}
        return state


def make(family: str, seed: int = 0, dtype: torch.dtype = torch.float32, **text: Any) -> Made:
    """A tiny model with random weights that a dtype can hold."""
    from transformers import LlamaForCausalLM, Phi3ForCausalLM

    settings = text_settings(family) | text
    torch.manual_seed(seed)
    kind = Phi3ForCausalLM if family == "bunny-phi3" else LlamaForCausalLM
    llm = kind(text_config(family, settings)).state_dict()
    tower = vision_tower(family).state_dict()
    projector = {
        "0.weight": torch.randn(HIDDEN, 16) * 0.3, "0.bias": torch.randn(HIDDEN) * 0.3,
        "2.weight": torch.randn(HIDDEN, HIDDEN) * 0.3, "2.bias": torch.randn(HIDDEN) * 0.3,
    }  # fmt: skip
    rounded = [{n: v.to(dtype).float() for n, v in part.items()} for part in (llm, tower, projector)]
    name = "openai/clip-vit-tiny" if family == "llava" else "google/siglip-tiny"
    original = settings | {
        "model_type": family, "mm_vision_tower": name, "mm_projector_type": "mlp2x_gelu", "use_mm_proj": True,
        "mm_hidden_size": 16, "image_aspect_ratio": "pad", "torch_dtype": "float32", "architectures": ["Original"],
    }  # fmt: skip
    if family == "llava":
        original |= {
            "mm_vision_select_layer": -2, "mm_vision_select_feature": "patch", "mm_use_im_start_end": False,
            "mm_use_im_patch_token": False,
        }  # fmt: skip
    return Made(family, settings, *rounded, original)


def text_settings(family: str) -> dict[str, Any]:
    rows = {"llava": len(pieces()), "bunny-llama": 261, "bunny-phi3": len(pieces()) + 9}[family]
    common = {
        "vocab_size": rows, "hidden_size": HIDDEN, "intermediate_size": 48, "num_hidden_layers": DEPTH,
        "num_attention_heads": 4, "max_position_embeddings": 4096, "rms_norm_eps": 1e-5, "hidden_act": "silu",
        "tie_word_embeddings": False, "initializer_range": 0.3, "use_cache": True,
    }  # fmt: skip
    if family == "bunny-llama":
        common |= {"num_key_value_heads": 2, "rope_theta": 500000.0}
    if family == "bunny-phi3":
        common |= {"pad_token_id": 0, "sliding_window": 2047, "original_max_position_embeddings": 4096}
    return common


def text_config(family: str, settings: dict[str, Any]) -> Any:
    from transformers import LlamaConfig, Phi3Config

    return (Phi3Config if family == "bunny-phi3" else LlamaConfig)(**settings)


def vision_shape() -> dict[str, Any]:
    return {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2,
        "image_size": SIDE, "patch_size": PATCH,
    }  # fmt: skip


def vision_tower(family: str) -> Any:
    """A tower module with random weights that matter."""
    from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig, SiglipVisionModel

    if family == "llava":
        tower: Any = CLIPVisionModel(CLIPVisionConfig(**vision_shape()))
    else:
        tower = SiglipVisionModel(SiglipVisionConfig(**vision_shape(), vision_use_head=False))
    for parameter in tower.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return tower.eval()


def save_state(state: State, folder: Path, form: str = "safetensors", shards: int = 2, stem: str = "") -> None:
    """Write a state in shards with their index, or in one file, as safetensors or pickled."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = stem or ("model" if form == "safetensors" else "pytorch_model")
    parts = [dict(list(state.items())[i::shards]) for i in range(shards)]
    weight_map = {}
    for number, part in enumerate(parts, 1):
        name = f"{stem}.{form}" if shards == 1 else f"{stem}-{number:05d}-of-{shards:05d}.{form}"
        save_one({n: v.contiguous().clone() for n, v in part.items()}, folder / name)
        weight_map |= dict.fromkeys(part, name)
    if shards > 1:
        (folder / f"{stem}.{form}.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def save_one(state: State, file: Path) -> None:
    if file.suffix == ".safetensors":
        save_file(state, file, {"format": "pt"})
    else:
        torch.save(state, file)


def save_merged(made: Made, folder: Path, form: str = "safetensors", tower: bool = True, shards: int = 2) -> Path:
    """A merged checkpoint with its tokenizer."""
    save_state(made.own_state(tower), folder, form, shards)
    (folder / "config.json").write_text(json.dumps(made.settings))
    save_tokenizer(made.family, folder)
    return folder


def save_base(made: Made, folder: Path, form: str = "safetensors") -> Path:
    """The language model alone, with its tokenizer."""
    save_state(made.llm, folder, form)
    kind = "phi3" if made.family == "bunny-phi3" else "llama"
    (folder / "config.json").write_text(json.dumps(made.text | {"model_type": kind}))
    save_tokenizer(made.family, folder)
    return folder


def save_tower(made: Made, folder: Path, form: str = "safetensors") -> Path:
    """The tower's own folder, as on the hub: with its text half, and settings of the picture processor."""
    state = {f"vision_model.{name}": value for name, value in made.tower.items()}
    state |= {"text_model.final_layer_norm.weight": torch.ones(4), "logit_scale": torch.tensor(1.0)}
    state["vision_model.embeddings.position_ids"] = torch.arange(5)[None]
    if not made.is_clip:
        state["vision_model.head.probe"] = torch.ones(1, 1, 16)
    save_state(state, folder, form, shards=1)
    kind = "clip" if made.is_clip else "siglip"
    config = {"model_type": kind, "vision_config": vision_shape() | {"model_type": f"{kind}_vision_model"}}
    (folder / "config.json").write_text(json.dumps(config))
    pictures: dict[str, Any] = {"size": SIDE, "crop_size": SIDE, "image_mean": CLIP_MEAN, "image_std": CLIP_STD}
    if not made.is_clip:
        pictures = {"size": {"height": SIDE, "width": SIDE}, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "preprocessor_config.json").write_text(json.dumps(pictures | {"resample": 3}))
    return folder


def save_projector(made: Made, folder: Path) -> Path:
    """A projector alone, as stage 1 leaves it."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save({f"model.mm_projector.{n}": v for n, v in made.projector.items()}, folder / "mm_projector.bin")
    (folder / "config.json").write_text(json.dumps(made.settings))
    return folder


def save_lora(
    made: Made, folder: Path, form: str = "safetensors", layers: tuple[int, ...] = (0, 2), **config: Any
) -> Made:
    """A LoRA folder on chosen layers; returns the model with the same change added by hand."""
    linears = ("self_attn.q_proj", "self_attn.o_proj", "mlp.up_proj", "mlp.down_proj")
    if made.family == "bunny-phi3":
        linears = ("self_attn.qkv_proj", "mlp.gate_up_proj", "mlp.down_proj", "self_attn.o_proj")
    rank, alpha = 4, 10
    settings = {"peft_type": "LORA", "r": rank, "lora_alpha": alpha, "bias": "none", "target_modules": list(linears)}
    settings |= {"base_model_name_or_path": "/somewhere/else", "use_rslora": False} | config
    scale = alpha / (rank**0.5 if settings["use_rslora"] else rank)
    generator = torch.Generator().manual_seed(5)
    adapter, llm = {}, dict(made.llm)
    for module in [f"model.layers.{i}.{linear}" for i in layers for linear in linears]:
        weight = llm[f"{module}.weight"]
        a = torch.randn(rank, weight.shape[1], generator=generator) * 0.2
        b = torch.randn(weight.shape[0], rank, generator=generator) * 0.2
        adapter |= {f"base_model.model.{module}.lora_A.weight": a, f"base_model.model.{module}.lora_B.weight": b}
        llm[f"{module}.weight"] = weight + scale * (b @ a)
    folder.mkdir(parents=True, exist_ok=True)
    save_one(adapter, folder / f"adapter_model.{form}")
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    trained = {f"base_model.model.model.mm_projector.{n}": v for n, v in made.projector.items()}
    torch.save(trained, folder / "non_lora_trainables.bin")
    (folder / "config.json").write_text(json.dumps(made.settings))
    return Made(made.family, made.text, llm, made.tower, made.projector, made.settings)
