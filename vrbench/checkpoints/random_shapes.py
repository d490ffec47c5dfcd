"""Checkpoints of true shape with random weights: `random/llava-1.5-7b` and others, for speed and memory (no torch).

    random/NAME[?seed=0][&adapter=8][&removed=4]

`adapter=N` tunes N layers, spread evenly, with a random LoRA of rank 128; `removed=N` removes the last N layers
outside of that region; both are options of LLaVAs alone. Both are folders in the cache like any other checkpoint's, on
`random/NAME`; the weights of that one are not stored but made when it is loaded (`vrbench.models.random_weights`).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from vrbench.checkpoints.llava_shapes import decoder_linears
from vrbench.checkpoints.new_folder import write_lineage
from vrbench.checkpoints.random_families import FAMILY_SHAPES, write_family
from vrbench.checkpoints.random_tokenizer import write_tokenizer
from vrbench.core.cache import cached_folder
from vrbench.core.errors import VrbenchError
from vrbench.core.io import digest_of
from vrbench.core.layers import LayerSet, sparse_uniform
from vrbench.core.schemas import BaseRef, Lineage, LineageStep

RANDOM_PREFIX = "random/"
RANDOM_WEIGHTS = "random.json"
"""The file in a folder instead of weights."""

VERSION = 2  # of the weights and of what is written here; raise it when either changes
STD = 0.02
RANK, ALPHA = 128, 256  # of the adapter; Visual-Region's
OPTIONS = ("seed", "adapter", "removed")

Config = dict[str, Any]


def _llm(kind: str, layers: int, hidden: int, heads: int, kv_heads: int, ffn: int, vocab: int, **more: Any) -> Config:
    return {
        "model_type": kind, "num_hidden_layers": layers, "hidden_size": hidden, "num_attention_heads": heads,
        "num_key_value_heads": kv_heads, "intermediate_size": ffn, "vocab_size": vocab, "hidden_act": "silu",
        "rms_norm_eps": 1e-5, "max_position_embeddings": 4096, "rope_theta": 10000.0, "tie_word_embeddings": False,
        "initializer_range": STD, **more,
    }  # fmt: skip


def _clip(hidden: int, layers: int, heads: int, ffn: int, side: int) -> Config:
    return {
        "model_type": "clip_vision_model", "hidden_size": hidden, "num_hidden_layers": layers,
        "num_attention_heads": heads, "intermediate_size": ffn, "image_size": side, "patch_size": 14,
        "projection_dim": hidden * 3 // 4, "hidden_act": "quick_gelu",
    }  # fmt: skip


CLIP_MEAN, CLIP_STD = [0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]
CLIP_LARGE = _clip(1024, 24, 16, 4096, 336)
"""openai/clip-vit-large-patch14-336: 576 tokens, taken at the last layer but one without the class token."""

SIGLIP_SO400M: Config = {
    "model_type": "siglip_vision_model", "hidden_size": 1152, "num_hidden_layers": 27, "num_attention_heads": 16,
    "intermediate_size": 4304, "image_size": 384, "patch_size": 14, "hidden_act": "gelu_pytorch_tanh",
    "vision_use_head": False,
}  # fmt: skip
"""google/siglip-so400m-patch14-384: 729 tokens, taken at the last layer but one."""

RANDOM_SHAPES: dict[str, tuple[Config, Config]] = {
    # LLaVA-1.5 in the Hugging Face layout: Vicuna's 32,000 tokens, the image token and padding to a multiple of 64.
    "llava-1.5-7b": (_llm("llama", 32, 4096, 32, 32, 11008, 32064), CLIP_LARGE),
    "llava-1.5-13b": (_llm("llama", 40, 5120, 40, 40, 13824, 32064), CLIP_LARGE),
    "bunny-llama-3-8b": (
        _llm("llama", 32, 4096, 32, 8, 14336, 128256, max_position_embeddings=8192, rope_theta=500000.0),
        SIGLIP_SO400M,
    ),
    # Its attention window of 2,047 tokens is left out: what is computed for shorter prompts is the same.
    "bunny-phi3-mini": (_llm("phi3", 32, 3072, 32, 32, 8192, 32064, sliding_window=None), SIGLIP_SO400M),
    "tiny": (_llm("llama", 4, 64, 4, 2, 96, 1024), _clip(32, 3, 2, 64, 28)),
}
"""Name -> shape of the LLM and of the vision tower, as transformers' configs name them (arXiv:2412.12785, table 1)."""


@dataclass(frozen=True)
class RandomModel:
    """The model that a name requests.

    Attributes:
        name: key of `RANDOM_SHAPES` or `FAMILY_SHAPES`.
        seed: of every weight.
        adapter: number of layers with a LoRA adapter.
        removed: number of removed layers.
    """

    name: str
    seed: int = 0
    adapter: int = 0
    removed: int = 0

    def __str__(self) -> str:
        """Return the shortest text that `parse_random_name` reads back."""
        given = [f"{o}={getattr(self, o)}" for o in OPTIONS if getattr(self, o)]
        return RANDOM_PREFIX + self.name + (f"?{'&'.join(given)}" if given else "")

    @property
    def depth(self) -> int:
        """Decoder layers before any is removed."""
        text = RANDOM_SHAPES[self.name][0] if self.name in RANDOM_SHAPES else FAMILY_SHAPES[self.name][1]
        return int(text["num_hidden_layers"])

    @property
    def region(self) -> LayerSet:
        """The layers that the adapter tunes."""
        return sparse_uniform(self.adapter, self.depth) if self.adapter else LayerSet.none(self.depth)

    @property
    def removed_layers(self) -> LayerSet:
        """The layers that are removed."""
        outside = self.region.complement().indices
        return LayerSet.of(outside[len(outside) - self.removed :], self.depth)


def random_names() -> list[str]:
    """Return the names of the checkpoints, without options."""
    return [RANDOM_PREFIX + name for name in (*RANDOM_SHAPES, *FAMILY_SHAPES)]


def parse_random_name(text: str) -> RandomModel:
    """Parse a name such as "random/llava-1.5-7b?removed=4".

    Raises:
        VrbenchError: another shape, another option, or more layers than there are.
    """
    name, _, options = text.removeprefix(RANDOM_PREFIX).partition("?")
    if name not in (*RANDOM_SHAPES, *FAMILY_SHAPES):
        raise VrbenchError(f"no checkpoint {text!r}: of random weights there are {', '.join(random_names())}")
    given: dict[str, int] = {}
    for option in options.split("&") if options else []:
        found = re.fullmatch(r"(\w+)=(\d+)", option)
        if not found or found[1] not in OPTIONS:
            raise VrbenchError(f"{text!r}: {option!r} cannot be read; options are {', '.join(OPTIONS)}, such as seed=1")
        given[found[1]] = int(found[2])
    if name in FAMILY_SHAPES and given.keys() - {"seed"}:
        llavas = ", ".join(RANDOM_PREFIX + llava for llava in RANDOM_SHAPES)
        raise VrbenchError(
            f"{text!r}: adapter and removed are options of {llavas} alone; leave them out, or use one of those"
        )
    model = RandomModel(name, **given)
    if model.adapter > model.depth:
        raise VrbenchError(f"{text!r}: an adapter on {model.adapter} of {model.depth} layers cannot be")
    most = min(model.depth - model.adapter, model.depth - 1)
    if model.removed > most:
        raise VrbenchError(f"{text!r}: of {model.depth} layers only {most} outside of the region can be removed")
    return model


def random_folder(text: str) -> Path:
    """Return the checkpoint folder of a name, made in the cache on first use.

    Raises:
        VrbenchError: the name cannot be read.
    """
    model = parse_random_name(text)
    if model.name in FAMILY_SHAPES:
        write, content = _write_family, [VERSION, str(model), *FAMILY_SHAPES[model.name]]
    else:
        write = _write_pruned if model.removed else _write_adapter if model.adapter else _write_base
        content = [VERSION, str(model), *RANDOM_SHAPES[model.name]]
    return cached_folder(f"random-{model.name}-{digest_of(content)[:16]}", lambda folder: write(model, folder))


def _write_base(model: RandomModel, folder: Path) -> None:
    """Write everything of the model's folder but the weights."""
    text, vision = RANDOM_SHAPES[model.name]
    ids = write_tokenizer(folder, vocabulary=text["vocab_size"], longest=text["max_position_embeddings"])
    special = {"bos_token_id": ids["<s>"], "eos_token_id": ids["</s>"], "pad_token_id": ids["</s>"]}
    is_clip = vision["model_type"] == "clip_vision_model"
    patches = (vision["image_size"] // vision["patch_size"]) ** 2
    config = {
        "architectures": ["LlavaForConditionalGeneration"], "model_type": "llava", "text_config": text | special,
        "vision_config": vision, "image_token_index": ids["<image>"], "image_seq_length": patches,
        "vision_feature_layer": -2, "vision_feature_select_strategy": "default" if is_clip else "full",
        "projector_hidden_act": "gelu", "tie_word_embeddings": False,
    }  # fmt: skip
    _write(folder / "config.json", config)
    _write(folder / "generation_config.json", special)
    _write(folder / "preprocessor_config.json", _processor(vision["image_size"], is_clip))
    _write_recipe(model, folder, len(ids))


def _write_family(model: RandomModel, folder: Path) -> None:
    _write_recipe(model, folder, write_family(model.name, folder))


def _write_recipe(model: RandomModel, folder: Path, ids: int) -> None:
    note = (
        f"random weights (normal, standard deviation {STD}; norms 1, biases 0) made when loaded; the tokenizer is one "
        f"of frequent English words with {ids:,} ids, not the model's own"
    )
    about = {"name": model.name, "seed": model.seed, "version": VERSION, "std": STD, "note": note}
    _write(folder / RANDOM_WEIGHTS, about)


def _processor(side: int, is_clip: bool) -> Config:
    common = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True, "resample": 3}
    if not is_clip:
        about = {"image_processor_type": "SiglipImageProcessor", "size": {"height": side, "width": side}}
        return {**about, **common, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    crop = {"do_center_crop": True, "crop_size": {"height": side, "width": side}, "do_convert_rgb": True}
    about = {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": side}}
    return {**about, **common, **crop, "image_mean": CLIP_MEAN, "image_std": CLIP_STD}


def _write_adapter(model: RandomModel, folder: Path) -> None:
    """Write a PEFT folder: LoRA on every linear of the region, both matrices random."""
    from safetensors.numpy import save_file

    draw = np.random.default_rng(model.seed + 1)
    tensors = {}
    linears = decoder_linears(RANDOM_SHAPES[model.name][0])
    for layer in model.region:
        for module, (rows, columns) in linears.items():
            place = f"base_model.model.model.language_model.layers.{layer}.{module}"
            for end, shape, std in (("lora_A", (RANK, columns), STD), ("lora_B", (rows, RANK), STD / 16)):
                values = draw.standard_normal(shape, np.float32) * np.float32(std)
                tensors[f"{place}.{end}.weight"] = values.astype(np.float16)
    save_file(tensors, folder / "adapter_model.safetensors", {"format": "pt"})
    base = replace(model, adapter=0)
    config = {
        "peft_type": "LORA", "task_type": None, "base_model_name_or_path": str(base), "r": RANK, "lora_alpha": ALPHA,
        "lora_dropout": 0.0, "bias": "none", "target_modules": sorted({m.split(".")[-1] for m in linears}),
        "layers_to_transform": list(model.region), "inference_mode": True,
    }  # fmt: skip
    _write(folder / "adapter_config.json", config)
    _write_lineage(model, base, folder, "trained", model.region, "lora")


def _write_pruned(model: RandomModel, folder: Path) -> None:
    base, method = replace(model, removed=0), "the last outside of the region"
    _write_lineage(model, base, folder, "pruned", model.removed_layers, method)


def _write_lineage(
    model: RandomModel, base: RandomModel, folder: Path, kind: Literal["trained", "pruned"], layers: LayerSet,
    method: str,
) -> None:  # fmt: skip
    step = LineageStep(kind=kind, layers=str(layers), depth=model.depth, method=method)
    depth = model.depth - model.removed
    base_ref = BaseRef(id=str(base), digest="")
    write_lineage(folder, Lineage(id=str(model), family="llava", depth=depth, base=base_ref, steps=(step,)))


def _write(path: Path, value: Config) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
