"""What reads prompts in a folder, tokenizer and processor, and whether they go with its model; no weight is loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vrbench.checkpoints.prompts import IMAGE
from vrbench.checkpoints.remote_code import LOCAL
from vrbench.core import os_errors
from vrbench.core.errors import VrbenchError, error_messages
from vrbench.core.io import read_json

PIXELS, SETTINGS = "preprocessor_config.json", "processor_config.json"

NEEDED = ("patch_size", "vision_feature_select_strategy", "num_image_tokens")
"""Settings of LLaVA-NeXT's and LLaVA-OneVision's processors without which no prompt with an image can be made."""


def load_tokenizer_and_processor(folder: Path, load_processor: Callable[[], Any]) -> tuple[Any, Any]:
    """The tokenizer of a folder and what else reads prompts there; before the weights, which take long.

    Raises:
        VrbenchError: their settings cannot be read.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, **LOCAL)
    except Exception as error:  # whatever the many readers behind it raise
        os_errors.reraise_os_error(error)
        raise VrbenchError(f"{folder} has no tokenizer that can be read: {' '.join(str(error).split())}") from error
    if not ((folder / PIXELS).is_file() or read_json(folder / SETTINGS).get("image_processor")):
        raise VrbenchError(
            f"{folder} has no {PIXELS}, which says how images are resized; copy it from the model that "
            "this one was made from"
        )
    try:
        processor = load_processor()
    except Exception as error:
        os_errors.reraise_os_error(error)
        raise VrbenchError(f"{folder} has no processor that can be read: {' '.join(str(error).split())}") from error
    if tokenizer.eos_token_id is None:
        raise VrbenchError(
            f"the tokenizer of {folder} has no eos_token, which ends an answer; tokenizer_config.json names it"
        )
    return tokenizer, processor


def validate_processor(folder: Path, load_processor: Callable[[], Any], config: Any, rows: int) -> list[str]:
    """Why the tokenizer and the processor of a folder cannot serve its model; empty when they can.

    Args:
        folder: Hugging Face layout.
        load_processor: gives the family's processor, or the image processor alone where that is all that is used.
        config: the model's, as transformers reads it.
        rows: of the embedding.
    """
    try:
        tokenizer, processor = load_tokenizer_and_processor(folder, load_processor)
    except VrbenchError as fault:
        return error_messages(fault)
    return [
        *_added_tokens(folder, tokenizer, config, rows),
        *_image_token(folder, tokenizer, processor, config),
        *_settings(folder, processor, config),
    ]


def image_token_of(config: Any) -> int | None:
    """The id of the token that stands for an image in the model's input, under either of transformers' names."""
    found = getattr(config, "image_token_id", getattr(config, "image_token_index", None))
    return found if isinstance(found, int) else None


def _added_tokens(folder: Path, tokenizer: Any, config: Any, rows: int) -> Iterator[str]:
    """Tokens that the tokenizer makes up when it is loaded, since settings name them and no vocabulary has them."""
    unused = image_token_of(config)  # Gemma 3 and PaliGemma replace it where the embedding has no row for it
    beyond = sorted((i, token) for token, i in tokenizer.get_vocab().items() if i >= rows and i != unused)
    if beyond:
        number, token = beyond[0]
        more = f" and {len(beyond) - 1} more" if len(beyond) > 1 else ""
        yield (
            f"{folder}: its tokenizer gives {token!r} the id {number}{more}, and the embedding has {rows} rows (ids 0 "
            f"to {rows - 1}); take the token out of the tokenizer's files, or resize the embedding"
        )


def _image_token(folder: Path, tokenizer: Any, processor: Any, config: Any) -> Iterator[str]:
    """Whether what the processor writes for an image is what the model looks for."""
    wanted = image_token_of(config)
    mark = IMAGE
    if hasattr(processor, "tokenizer"):
        mark = str(getattr(processor.tokenizer, "image_token", None) or getattr(processor, "image_token", IMAGE))
        number = processor.tokenizer.convert_tokens_to_ids(mark)
    else:
        number = tokenizer.get_vocab().get(mark)
    if wanted is not None and number != wanted:
        said = f"is token {number} of its tokenizer" if number is not None else "is no token of its tokenizer"
        yield (
            f"{folder}: an image is written as {mark!r}, which {said}; config.json names token {wanted} as the image "
            "token, so that no image would reach the model: make the two agree"
        )


def _settings(folder: Path, processor: Any, config: Any) -> Iterator[str]:
    """Settings that decide how many tokens an image has, missing or unlike those of the model."""
    of_model, place = list(_agreeing(config)), PIXELS if config.model_type == "paligemma" else SETTINGS
    known = {name: value for name, _, value in of_model}
    missing = [name for name in NEEDED if hasattr(processor, name) and getattr(processor, name) is None]
    if missing:
        wanted = ", ".join(f"{name} {value!r}" for name, value in known.items() if hasattr(processor, name))
        yield (
            f"{folder / SETTINGS} lacks {', '.join(missing)}, without which no prompt with an image can be made; "
            f"after config.json it has to say {wanted}"
        )
    for name, what, theirs in of_model:
        ours = getattr(processor, name, None)
        if ours is not None and ours != theirs and not missing:
            yield (
                f"{folder}: its processor has {name} {ours!r} (from its files, or the family's usual one), the model "
                f"that config.json describes has {what} {theirs!r}; an image would have another number of tokens than "
                f"features: write {name} {theirs!r} into {place}, or copy the processor's files from the model that "
                "this one was made from"
            )


def _agreeing(config: Any) -> Iterator[tuple[str, str, int | str]]:
    """Settings of a processor that decide how many tokens an image has: name, what the model calls it, its value."""
    vision = config.vision_config
    side, patch = (getattr(vision, name, None) for name in ("image_size", "patch_size"))
    if isinstance(patch, int):
        yield "patch_size", "vision_config.patch_size", patch
    for name in ("vision_feature_select_strategy", "spatial_merge_size", "image_seq_length"):
        if isinstance(getattr(config, name, None), int | str):
            yield name, name, getattr(config, name)
    if isinstance(getattr(config, "mm_tokens_per_image", None), int):
        yield "image_seq_length", "mm_tokens_per_image", config.mm_tokens_per_image
    if config.model_type == "llava_next":  # CLIP's class token; transformers before 4.48 added it by itself
        yield "num_additional_image_tokens", "class tokens", int(vision.model_type == "clip_vision_model")
    if not isinstance(side, int) or not isinstance(patch, int):
        return
    patches = (side // patch) ** 2
    if config.model_type in ("idefics3", "smolvlm"):
        yield "image_seq_len", "image tokens", patches // config.scale_factor**2
    elif config.model_type in ("paligemma", "llava_onevision"):
        yield {"paligemma": "image_seq_length"}.get(config.model_type, "num_image_tokens"), "image patches", patches
