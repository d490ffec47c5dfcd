"""LLaVA: a vision tower, a two-layer projector and a decoder, as transformers' LlavaForConditionalGeneration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vrbench.checkpoints.parameter_names import Shape
from vrbench.checkpoints.prompts import default_template
from vrbench.checkpoints.remote_code import LOCAL
from vrbench.core.io import read_json
from vrbench.models import hf_folder
from vrbench.models.processor_validation import load_tokenizer_and_processor


def validate(folder: Path) -> list[str]:
    """Why a folder cannot be loaded as the model that its config.json describes; no weight is loaded."""
    from vrbench.models.processors import load_image_processor

    found = _tower_faults(folder) or hf_folder.validate(folder, _idle, lambda: load_image_processor(folder, "llava"))
    return found or _feature_faults(folder)


def _tower_faults(folder: Path) -> list[str]:
    """Whether all images have one number of tokens, as packed rows need it; Pixtral's tower keeps their shapes."""
    vision = read_json(folder / "config.json").get("vision_config")
    kind = vision.get("model_type") if isinstance(vision, dict) else None
    if kind != "pixtral":
        return []
    return [
        f"{folder / 'config.json'} has model_type 'llava' and a vision tower of type {kind!r}, which gives each image "
        "its own number of tokens; such a tower is run in models of type 'mistral3' alone, and a LLaVA with one that "
        "gives all images the same (CLIP, SigLIP)"
    ]


def _feature_faults(folder: Path) -> list[str]:
    """Whether the vision tower has the states that the projector reads."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, **LOCAL)
    chosen, depth = config.vision_feature_layer, config.vision_config.num_hidden_layers
    beyond = [n for n in ([chosen] if isinstance(chosen, int) else chosen) if not -depth - 1 <= n <= depth]
    if not beyond:
        return []
    said = f"{folder / 'config.json'} has vision_feature_layer {chosen}"
    return [f"{said}; a vision tower of {depth} layers has states {-depth - 1} to {depth}"]


def load(folder: Path, dtype: Any) -> tuple[Any, Any, Any]:
    """The model, tokenizer and image processor of a LLaVA folder, on the CPU.

    Args:
        folder: Hugging Face layout.
        dtype: a torch.dtype; every weight is converted to it, whatever the files hold.

    Raises:
        VrbenchError: the settings of tokenizer or image processor cannot be read, a weight of the model is not in the
            files, or has another shape there.
    """
    tokenizer, image_processor = load_tokenizer(folder)
    return hf_folder.load_model(folder, dtype, _idle), tokenizer, image_processor


def load_tokenizer(folder: Path) -> tuple[Any, Any]:
    """The tokenizer of a LLaVA folder, with the chat template that is used, and its image processor; no weights.

    Raises:
        VrbenchError: the settings of one cannot be read.
    """
    from vrbench.models.processors import load_image_processor, processor_template

    def read() -> tuple[Any, Any]:
        return load_image_processor(folder, "llava"), processor_template(folder)

    tokenizer, (image_processor, template) = load_tokenizer_and_processor(folder, read)
    tokenizer.chat_template = default_template(tokenizer.chat_template or template)
    return tokenizer, image_processor


def expected_shapes(config: Any) -> dict[str, Shape]:
    """Canonical name -> shape of every weight that decides an answer, from an empty model built after its config."""
    return hf_folder.expected_shapes(config, _idle)


def _idle(name: str) -> bool:
    """Beside buffers, what older files carry of later LLaVAs, and a pooling head that a LLaVA never calls."""
    return hf_folder.is_buffer(name) or name.endswith("image_newline") or name.startswith("vision_tower.head.")
