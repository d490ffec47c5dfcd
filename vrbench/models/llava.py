"""LLaVA: a vision tower, a two-layer projector and a decoder, as transformers' LlavaForConditionalGeneration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vrbench.errors import VrbenchError
from vrbench.headers import read_headers
from vrbench.structure import Shape, canonical, difference_faults, shapes_of

# Buffers that older files carry, and a pooling head that a LLaVA never calls: neither decides an answer.
WITHOUT_EFFECT = ("rotary_emb.inv_freq", "position_ids", "image_newline")
UNUSED_PREFIX = "vision_tower.head."


def faults(folder: Path) -> list[str]:
    """Why the weights in a folder are not those of the model that its config.json describes; no weight is loaded."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, local_files_only=True)
        expected = expected_shapes(config)
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        return [f"{folder / 'config.json'} describes no LLaVA: {error}"]
    found = {n: s for n, s in shapes_of(read_headers(folder)).items() if not _without_effect(n)}
    if config.tie_word_embeddings or config.get_text_config().tie_word_embeddings:
        found.setdefault("lm_head.weight", expected["lm_head.weight"])  # it is the embedding, stored once
    return difference_faults(folder, found, expected)


def load(folder: Path, dtype: Any) -> tuple[Any, Any, Any]:
    """The model, tokenizer and image processor of a LLaVA folder, on the CPU.

    Args:
        folder: Hugging Face layout.
        dtype: a torch.dtype; every weight is converted to it, whatever the files hold.

    Raises:
        VrbenchError: a weight of the model is not in the files, or has another shape there.
    """
    from transformers import AutoModelForImageTextToText, AutoTokenizer

    # From its own module: transformers 5.17 withholds the name without torchvision, even for the PIL processors.
    from transformers.models.auto.image_processing_auto import AutoImageProcessor

    model, info = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=dtype, local_files_only=True, output_loading_info=True
    )
    wrong = [n for n in (*info["missing_keys"], *info["mismatched_keys"]) if not _without_effect(canonical(str(n)))]
    if wrong:
        raise VrbenchError(f"{folder} gave no weights for {wrong[0]!r} ({len(wrong)} in all)")
    tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    image_processor = AutoImageProcessor.from_pretrained(folder, local_files_only=True, backend="pil")
    return model, tokenizer, image_processor


def expected_shapes(config: Any) -> dict[str, Shape]:
    """Canonical name -> shape of every weight that decides an answer, from an empty model built after its config."""
    import torch
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    state = {canonical(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    return {name: shape for name, shape in state.items() if not _without_effect(name)}


def _without_effect(name: str) -> bool:
    return name.endswith(WITHOUT_EFFECT) or name.startswith(UNUSED_PREFIX)
