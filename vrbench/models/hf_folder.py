"""Whole models in Hugging Face folders of any family: whether they can be loaded, and loading them.

A LLaVA differs from the other families in what it needs: its image processor alone, and fewer weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vrbench.checkpoints.parameter_names import (
    HEAD,
    Shape,
    canonical_name,
    compare_shapes,
    shapes_of,
    validate_unique_names,
)
from vrbench.checkpoints.prompts import default_template
from vrbench.checkpoints.remote_code import LOCAL_ONLY
from vrbench.checkpoints.safetensors_index import read_headers
from vrbench.core.errors import VrbenchError
from vrbench.core.io import read_json
from vrbench.models import components
from vrbench.models.processor_validation import load_tokenizer_and_processor, validate_processor
from vrbench.models.processors import load_image_processor, load_processor, processor_template

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
"""Config keys of decoders whose layers have experts."""


def is_buffer(name: str) -> bool:
    """Return whether a canonical name is of rotary frequencies or positions, which the model computes itself."""
    return name.endswith(("rotary_emb.inv_freq", "position_ids"))


def _is_optional(name: str, model_type: str) -> bool:
    """Return whether a tensor affects no answer, so that it may be missing or left over."""
    # In LLaVAs: what older files carry of later LLaVAs, and a pooling head that a LLaVA never calls.
    unused_in_llava = name.endswith("image_newline") or name.startswith("vision_tower.head.")
    return is_buffer(name) or (model_type == "llava" and unused_in_llava)


def validate(folder: Path) -> list[str]:
    """Return why a folder cannot be loaded as the model that its config.json describes; no weight is loaded."""
    errors = _validate_vision_tower(folder)
    if errors:
        return errors
    config, errors = _validate_model(folder)
    if errors:
        return errors
    rows = next(s[0] for n, s in shapes_of(read_headers(folder)).items() if n.endswith("embed_tokens.weight"))
    if config.model_type != "llava":
        return validate_processor(folder, lambda: load_processor(folder, config.model_type, config), config, rows)
    errors = validate_processor(folder, lambda: load_image_processor(folder, "llava"), config, rows)
    return errors or _validate_feature_layer(folder, config)


def _validate_vision_tower(folder: Path) -> list[str]:
    """Return an error unless a LLaVA's images all have the same number of tokens; Pixtral's tower keeps shapes."""
    config = read_json(folder / "config.json")
    vision = config.get("vision_config")
    kind = vision.get("model_type") if isinstance(vision, dict) else None
    if config.get("model_type") != "llava" or kind != "pixtral":
        return []
    return [
        f"{folder / 'config.json'} has model_type 'llava' and a vision tower of type {kind!r}, which gives each image "
        "its own number of tokens; such a tower is supported in models of type 'mistral3' only, and a LLaVA with one "
        "that gives all images the same (CLIP, SigLIP)"
    ]


def _validate_feature_layer(folder: Path, config: Any) -> list[str]:
    """Return an error unless a LLaVA's vision tower has the hidden states that the projector reads."""
    chosen, depth = config.vision_feature_layer, config.vision_config.num_hidden_layers
    if all(-depth - 1 <= n <= depth for n in ([chosen] if isinstance(chosen, int) else chosen)):
        return []
    has = f"{folder / 'config.json'} has vision_feature_layer {chosen}"
    return [f"{has}; a vision tower of {depth} layers has states {-depth - 1} to {depth}"]


def validate_weights(folder: Path) -> list[str]:
    """Return why the weights in a folder are not those of the model that its config.json describes."""
    return _validate_model(folder)[1]


def _validate_model(folder: Path) -> tuple[Any, list[str]]:
    """Return the config of a folder, None where it describes no model, and the errors of the weights."""
    from transformers import AutoConfig

    file = folder / "config.json"
    try:
        config = AutoConfig.from_pretrained(folder, **LOCAL_ONLY)
        reason = unsupported_reason(config)
        model = None if reason else empty_model(config)
    except Exception as error:  # transformers' strict configs raise classes of their own
        reason = " ".join(str(error).split())
        texts = "".join(f"; {key} is the text {value!r}, write a number" for key, value in _numeric_texts(folder))
        return None, [f"{file} describes no model that can be built: {reason}{texts}"]
    if model is None:
        return config, [f"{file}: {reason}"]
    tensors, expected = read_headers(folder), expected_shapes(model)
    found = {n: s for n, s in shapes_of(tensors).items() if not _is_optional(n, config.model_type)}
    for pair in model.all_tied_weights_keys.items():  # one parameter under two names: either may be the one stored
        first, second = map(canonical_name, pair)
        for name, other in ((first, second), (second, first)):
            if name in found:
                found.setdefault(other, found[name])
    head = _validate_head(folder, model, found)
    if head:
        del expected[HEAD]
    return config, validate_unique_names(folder, tensors) + head + compare_shapes(folder, found, expected)


def _numeric_texts(folder: Path) -> Iterator[tuple[str, str]]:
    """Return the settings of config.json that are numbers written as text."""

    def search(prefix: str, part: Any) -> Iterator[tuple[str, str]]:
        for key, value in part.items() if isinstance(part, dict) else ():
            if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?(e[-+]?\d+)?", value, re.IGNORECASE):
                yield prefix + key, value
            yield from search(f"{prefix}{key}.", value)

    return search("", read_json(folder / "config.json"))


def _validate_head(folder: Path, model: Any, found: dict[str, Shape]) -> list[str]:
    """Return an error if the head is not stored and the model does not tie it to its embedding."""
    if HEAD in found:
        return []
    file, kind = folder / "config.json", model.config.model_type
    if not model._tied_weights_keys:
        return [
            f"{folder} lacks {HEAD!r}, and a model of type {kind!r} has a head of its own; download the weights again"
        ]
    inner = getattr(model.config.get_text_config(), "tie_word_embeddings", False)
    where = " at the top level, where alone it counts for this family (text_config says true)" if inner else ""
    return [
        f"{folder} lacks {HEAD!r}, and {file} has tie_word_embeddings false{where}; if the embedding is the head, set "
        "tie_word_embeddings to true at the top level, else download the weights again"
    ]


def unsupported_reason(config: Any) -> str:
    """Return why a model of a known family cannot be tuned and pruned layer by layer; empty when it can."""
    text = config.get_text_config()
    if any(getattr(text, name, None) for name in EXPERTS):
        return "its layers choose among experts (MoE), so that a layer is not one thing to tune or remove"
    if getattr(text, "num_kv_shared_layers", None):
        return "its decoder layers share keys and values, so that none can be removed without others"
    return ""


def empty_model(config: Any) -> Any:
    """Build the model that a config describes, without weights.

    Raises:
        VrbenchError: its decoder has no list of layers.
    """
    import torch
    from transformers import AutoModelForImageTextToText
    from transformers.initialization import no_init_weights

    with torch.device("meta"), no_init_weights():
        model = AutoModelForImageTextToText.from_config(config)
    components.decoder(model)
    return model


def expected_shapes(model: Any) -> dict[str, Shape]:
    """Return canonical name -> shape of every weight of a model that affects an answer."""
    state = {canonical_name(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    return {name: shape for name, shape in state.items() if not _is_optional(name, model.config.model_type)}


def load(folder: Path, dtype: Any) -> tuple[Any, Any, Any]:
    """Load the model, tokenizer and processor (of a LLaVA the image processor) of a folder, on the CPU.

    Raises:
        VrbenchError: tokenizer or processor cannot be read; a weight is not in the files, or has another shape there.
    """
    tokenizer, processor = load_tokenizer(folder)
    return _load_weights(folder, dtype), tokenizer, processor


def load_tokenizer(folder: Path) -> tuple[Any, Any]:
    """Load the tokenizer and the processor (of a LLaVA the image processor) of a folder; no weights.

    The tokenizer is not the processor's, since some processors change theirs. A LLaVA's has the chat template that is
    used.

    Raises:
        VrbenchError: the settings of one cannot be read.
    """
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(folder, **LOCAL_ONLY)
    family = config.model_type
    if family != "llava":
        return load_tokenizer_and_processor(folder, config, lambda: load_processor(folder, family, config))

    def load_parts() -> tuple[Any, Any]:
        return load_image_processor(folder, "llava"), processor_template(folder)

    tokenizer, (image_processor, template) = load_tokenizer_and_processor(folder, config, load_parts)
    tokenizer.chat_template = default_template(tokenizer.chat_template or template)
    return tokenizer, image_processor


def _load_weights(folder: Path, dtype: Any) -> Any:
    from transformers import AutoModelForImageTextToText

    model, info = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=dtype, output_loading_info=True, **LOCAL_ONLY
    )
    unfilled = [str(name) for name in (*info["missing_keys"], *info["mismatched_keys"])]
    wrong = [name for name in unfilled if not _is_optional(canonical_name(name), model.config.model_type)]
    if wrong:
        raise VrbenchError(f"{folder} has no weights for {wrong[0]!r} ({len(wrong)} in all)")
    return model
