"""Validation of a folder's tokenizer and processor against its model; no weights are loaded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vrbench.checkpoints.prompts import IMAGE
from vrbench.checkpoints.remote_code import LOCAL_ONLY
from vrbench.core import os_errors
from vrbench.core.errors import VrbenchError, error_messages
from vrbench.core.io import read_json

IMAGE_PROCESSOR_FILE, PROCESSOR_FILE = "preprocessor_config.json", "processor_config.json"

REQUIRED = ("patch_size", "vision_feature_select_strategy", "num_image_tokens")
"""Settings of LLaVA-NeXT's and LLaVA-OneVision's processors without which no prompt with an image can be made."""


def load_tokenizer_and_processor(folder: Path, config: Any, load_processor: Callable[[], Any]) -> tuple[Any, Any]:
    """Load the tokenizer of a folder and, by `load_processor`, what else prepares prompts there.

    Args:
        config: the model's, as transformers reads it.

    Raises:
        VrbenchError: their settings cannot be read.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, config=config, **LOCAL_ONLY)
    except Exception as error:  # transformers' readers raise anything
        os_errors.reraise_os_error(error)
        raise VrbenchError(f"{folder} has no readable tokenizer: {' '.join(str(error).split())}") from error
    if not ((folder / IMAGE_PROCESSOR_FILE).is_file() or read_json(folder / PROCESSOR_FILE).get("image_processor")):
        raise VrbenchError(
            f"{folder} has no {IMAGE_PROCESSOR_FILE}, which says how images are resized; copy it from the model that "
            "this one was made from"
        )
    try:
        processor = load_processor()
    except Exception as error:
        os_errors.reraise_os_error(error)
        raise VrbenchError(f"{folder} has no readable processor: {' '.join(str(error).split())}") from error
    if tokenizer.eos_token_id is None:
        raise VrbenchError(
            f"the tokenizer of {folder} has no eos_token, which ends an answer; tokenizer_config.json names it"
        )
    return tokenizer, processor


def validate_processor(folder: Path, load_processor: Callable[[], Any], config: Any, vocabulary: int) -> list[str]:
    """Return why the tokenizer and the processor of a folder do not match its model; empty when they do.

    Args:
        load_processor: loads the family's processor, or the image processor where only that is used.
        config: the model's, as transformers reads it.
        vocabulary: rows of the embedding.
    """
    try:
        tokenizer, processor = load_tokenizer_and_processor(folder, config, load_processor)
    except VrbenchError as error:
        return error_messages(error)
    return [
        *_validate_added_tokens(folder, tokenizer, config, vocabulary),
        *_validate_image_token(folder, tokenizer, processor, config),
        *_validate_settings(folder, processor, config),
    ]


def _image_token_id(config: Any) -> int | None:
    found = getattr(config, "image_token_id", getattr(config, "image_token_index", None))
    return found if isinstance(found, int) else None


def _validate_added_tokens(folder: Path, tokenizer: Any, config: Any, vocabulary: int) -> Iterator[str]:
    """Yield an error for tokens added on loading, since settings name them, that have no embedding."""
    unused = _image_token_id(config)  # Gemma 3 and PaliGemma replace it where the embedding has no row for it
    beyond = sorted((i, token) for token, i in tokenizer.get_vocab().items() if i >= vocabulary and i != unused)
    if beyond:
        number, token = beyond[0]
        more = f" and {len(beyond) - 1} more" if len(beyond) > 1 else ""
        yield (
            f"{folder}: its tokenizer gives {token!r} the id {number}{more}, and the embedding has {vocabulary} rows "
            f"(ids 0 to {vocabulary - 1}); take the token out of the tokenizer's files, or resize the embedding"
        )


def _validate_image_token(folder: Path, tokenizer: Any, processor: Any, config: Any) -> Iterator[str]:
    """Yield an error unless the processor writes an image as the token that the model replaces by features."""
    wanted = _image_token_id(config)
    mark = IMAGE
    if hasattr(processor, "tokenizer"):
        mark = str(getattr(processor.tokenizer, "image_token", None) or getattr(processor, "image_token", IMAGE))
        number = processor.tokenizer.convert_tokens_to_ids(mark)
    else:
        number = tokenizer.get_vocab().get(mark)
    if wanted is not None and number != wanted:
        has = f"is token {number} of its tokenizer" if number is not None else "is no token of its tokenizer"
        yield (
            f"{folder}: an image is written as {mark!r}, which {has}; config.json names token {wanted} as the image "
            "token, so that no image would reach the model: make the two agree"
        )


def _validate_settings(folder: Path, processor: Any, config: Any) -> Iterator[str]:
    """Yield an error for missing or contradictory settings that determine how many tokens an image has."""
    settings = list(_image_token_settings(config))
    file = IMAGE_PROCESSOR_FILE if config.model_type == "paligemma" else PROCESSOR_FILE
    missing = [name for name in REQUIRED if hasattr(processor, name) and getattr(processor, name) is None]
    if missing:
        wanted = ", ".join(f"{name} {value!r}" for name, _, value in settings if hasattr(processor, name))
        yield (
            f"{folder / PROCESSOR_FILE} lacks {', '.join(missing)}, without which no prompt with an image can be made; "
            f"according to config.json it needs {wanted}"
        )
    for name, model_name, value in settings:
        own = getattr(processor, name, None)
        if own is not None and own != value and not missing:
            yield (
                f"{folder}: its processor has {name} {own!r} (from its files, or the family's default), the model "
                f"that config.json describes has {model_name} {value!r}; an image would have another number of tokens "
                f"than features: write {name} {value!r} into {file}, or copy the processor's files from the model that "
                "this one was made from"
            )


def _image_token_settings(config: Any) -> Iterator[tuple[str, str, int | str]]:
    """Yield each setting of image tokens: the processor's name, the model config's name, the model's value."""
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
