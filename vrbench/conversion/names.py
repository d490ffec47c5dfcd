"""Names of weights: what LLaVA and Bunny call them, and what `LlavaForConditionalGeneration` files on the hub do."""

from __future__ import annotations

import re
from collections.abc import Iterable

LLM = "language_model."
PROJECTOR = "multi_modal_projector."
TOWER = "vision_tower."
EMBEDDING, HEAD = "language_model.model.embed_tokens.weight", "language_model.lm_head.weight"

ORIGINAL = (
    (r"(model\.(?:embed_tokens|layers|norm)\..+)", r"language_model.\1"),
    (r"lm_head\.weight", HEAD),
    (r"(?:model\.)?mm_projector\.0\.(weight|bias)", r"multi_modal_projector.linear_1.\1"),
    (r"(?:model\.)?mm_projector\.2\.(weight|bias)", r"multi_modal_projector.linear_2.\1"),
    (r"model\.vision_tower\.(?:vision_tower\.)?(?:vision_model\.)?(.+)", r"vision_tower.vision_model.\1"),
)
"""Of the models' own files: pattern of a whole name -> its name in the target."""

PUBLISHED_TOWER = (
    (r"(?:vision_model\.)?((?:embeddings|encoder|pre_layrnorm|post_layernorm)\..+)", r"vision_tower.vision_model.\1"),
)
"""Of a CLIP or SigLIP folder, with or without its text half."""

HARMLESS = (
    r".*\.rotary_emb\.inv_freq",  # a buffer of old files, computed from the config
    r".*\bembeddings\.position_ids",  # 0, 1, 2, ...
    r".*\bvision_model\.head\..+",  # SigLIP's pooling head; the features are a hidden state before it
)
"""What decides no answer and is left out."""

HARMLESS_IN_TOWER = (r"text_model\..+", r"logit_scale", r"logit_bias", r"text_projection\.weight",
                     r"visual_projection\.weight", r"head\..+")  # fmt: skip
"""The halves of CLIP and SigLIP that read text or compare it with pictures."""


def is_harmless(name: str, *, tower: bool = False) -> bool:
    """Whether a tensor is known to decide no answer."""
    patterns = HARMLESS + HARMLESS_IN_TOWER if tower else HARMLESS
    return any(re.fullmatch(pattern, name) for pattern in patterns)


def target_of(name: str, *, tower: bool = False) -> str | None:
    """The name in the target; none for a name that is not known.

    Args:
        name: as it is in the file, plain.
        tower: whether the file is a published tower's.
    """
    for pattern, to in PUBLISHED_TOWER if tower else ORIGINAL:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, to, name)
    return None


def plain(names: Iterable[str]) -> dict[str, str]:
    """Name as stored -> the same without the wrappers that PEFT leaves in `non_lora_trainables.bin`."""
    short = {name: name.removeprefix("base_model.") for name in names}
    if any(value.startswith("model.model.") for value in short.values()):
        short = {name: value.removeprefix("model.") for name, value in short.items()}
    return short
