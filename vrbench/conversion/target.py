"""The target's settings: transformers' config for the source's parts, with room for the image token."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vrbench.conversion.source import SourceCheckpoint
from vrbench.core.errors import VrbenchError

if TYPE_CHECKING:
    from transformers import LlavaConfig

ROWS_TOGETHER = 64
"""A vocabulary that has to grow does so to a multiple of this, as that of LLaVA on the hub did: kernels like it."""

OLD_KEYS = ("rope_theta", "rope_scaling", "partial_rotary_factor", "head_dim")
"""Keys of older config.json files that transformers still understands."""


def target_config(original: SourceCheckpoint) -> LlavaConfig:
    """The config of the target, with the vocabulary as long as the source's.

    Raises:
        VrbenchError: the source's config.json is not one of its language model.
    """
    from transformers import CLIPVisionConfig, LlavaConfig, SiglipVisionConfig

    tower = original.tower
    shape = {key: value for key, value in tower.config.items() if key not in ("model_type", "vision_use_head")}
    vision = CLIPVisionConfig(**shape) if tower.is_clip else SiglipVisionConfig(**shape, vision_use_head=False)
    text = _text_config(original)
    config = LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=original.words.image_id,
        projector_hidden_act="gelu", vision_feature_layer=tower.layer, vision_feature_select_strategy=tower.strategy,
        image_seq_length=tower.tokens, tie_word_embeddings=text.tie_word_embeddings,
    )  # fmt: skip
    config.architectures = ["LlavaForConditionalGeneration"]
    config.dtype = original.settings.get("torch_dtype") or original.settings.get("dtype") or "float16"
    return config


def _text_config(original: SourceCheckpoint) -> Any:
    from transformers import LlamaConfig, Phi3Config

    made = LlamaConfig if original.kind.text == "llama" else Phi3Config
    known = set(made(**({"pad_token_id": None} if made is Phi3Config else {})).to_dict()) | set(OLD_KEYS)
    left_out = {"architectures", "model_type", "dtype", "transformers_version", "rope_parameters"}
    left_out -= {"rope_parameters"} if original.settings.get("rope_parameters") else set()
    stated = {key: value for key, value in original.settings.items() if key in known - left_out}
    stated |= _ids(original)
    try:
        config = made(**stated)
    except Exception as error:  # transformers' strict configs raise classes of their own
        reason = " ".join(str(error).split())
        path = original.folder / "config.json"
        raise VrbenchError(f"{path} describes no {original.kind.text} language model: {reason}") from error
    if getattr(config, "sliding_window", None):
        # Phi 3 sees this far back. Bunny gives it 2,048 tokens at most, and so the window is the longest text of the
        # converted model: within it, attention is full.
        config.max_position_embeddings = min(config.max_position_embeddings, config.sliding_window)
    return config


def _ids(original: SourceCheckpoint) -> dict[str, Any]:
    tokenizer = original.words.tokenizer
    return {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }


def rows_needed(rows: int, image_id: int) -> int:
    """Rows of the embedding, such that the image token has one."""
    if image_id < rows:
        return rows
    return -(-(image_id + 1) // ROWS_TOGETHER) * ROWS_TOGETHER
