"""Folders of a whole model in the Hugging Face layout, of any family that transformers' auto classes know."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vrbench.checkpoints.parameter_names import Shape, canonical, difference_faults, shapes_of, twin_faults
from vrbench.checkpoints.remote_code import LOCAL
from vrbench.checkpoints.safetensors_index import read_headers
from vrbench.core.errors import VrbenchError
from vrbench.core.io import read_json
from vrbench.models import components
from vrbench.models.processor_validation import load_tokenizer_and_processor, validate_processor

Idle = Callable[[str], bool]
"""Whether a tensor of a canonical name decides no answer."""

HEAD = "lm_head.weight"

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
"""Settings of a decoder whose layers have experts."""


def is_buffer(name: str) -> bool:
    """Rotary frequencies and positions: buffers that older files carry, computed anew by the model."""
    return name.endswith(("rotary_emb.inv_freq", "position_ids"))


def validate(folder: Path, idle: Idle = is_buffer, load_processor: Callable[[], Any] | None = None) -> list[str]:
    """Why a folder cannot be loaded as the model that its config.json describes; no weight is loaded.

    Args:
        folder: Hugging Face layout.
        idle: which weights may be missing.
        load_processor: what reads images there, if not the whole processor that transformers has for the family.
    """
    from transformers import AutoConfig

    from vrbench.models.processors import load_processor as load_whole

    found = validate_weights(folder, idle)
    if found:
        return found
    config = AutoConfig.from_pretrained(folder, **LOCAL)
    rows = next(s[0] for n, s in shapes_of(read_headers(folder)).items() if n.endswith("embed_tokens.weight"))
    return validate_processor(folder, load_processor or (lambda: load_whole(folder, config.model_type)), config, rows)


def validate_weights(folder: Path, idle: Idle = is_buffer) -> list[str]:
    """Why the weights in a folder are not those of the model that its config.json describes; no weight is loaded."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, **LOCAL)
        refused = unsupported_reason(config)
        model = None if refused else _empty(config)
    except Exception as error:  # transformers' strict configs raise classes of their own
        reason = " ".join(str(error).split())
        texts = "".join(f"; {key} is the text {value!r}, write a number" for key, value in _texts(folder))
        return [f"{folder / 'config.json'} describes no model that can be built: {reason}{texts}"]
    if model is None:
        return [f"{folder / 'config.json'}: {refused}"]
    tensors, expected = read_headers(folder), _shapes(model, idle)
    found = {n: s for n, s in shapes_of(tensors).items() if not idle(n)}
    for pair in model.all_tied_weights_keys.items():  # one parameter under two names: either may be the one stored
        first, second = map(canonical, pair)
        for name, other in ((first, second), (second, first)):
            if name in found:
                found.setdefault(other, found[name])
    head = _head_faults(folder, model, found)
    if head:
        del expected[HEAD]
    return twin_faults(folder, tensors) + head + difference_faults(folder, found, expected)


def _texts(folder: Path) -> Iterator[tuple[str, str]]:
    """Settings of config.json that are a number written as text."""

    def look(where: str, part: Any) -> Iterator[tuple[str, str]]:
        for key, value in part.items() if isinstance(part, dict) else ():
            if isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d*)?(e[-+]?\d+)?", value, re.IGNORECASE):
                yield where + key, value
            yield from look(f"{where}{key}.", value)

    return look("", read_json(folder / "config.json"))


def _head_faults(folder: Path, model: Any, found: dict[str, Shape]) -> list[str]:
    """A head that is not stored, of a model that does not take its embedding for one."""
    if HEAD in found:
        return []
    file, kind = folder / "config.json", model.config.model_type
    if not model._tied_weights_keys:
        return [f"{folder} lacks {HEAD!r}, and a model of type {kind!r} has a head of its own; fetch the weights again"]
    inner = getattr(model.config.get_text_config(), "tie_word_embeddings", False)
    where = " at the top level, where alone it counts for this family (text_config says true)" if inner else ""
    return [
        f"{folder} lacks {HEAD!r}, and {file} has tie_word_embeddings false{where}; if the embedding is the head, set "
        "tie_word_embeddings to true at the top level, else fetch the weights again"
    ]


def unsupported_reason(config: Any) -> str:
    """Why a model of a known family cannot be tuned and pruned layer by layer; empty when it can."""
    text = config.get_text_config()
    if any(getattr(text, name, None) for name in EXPERTS):
        return "its layers choose among experts (MoE), so that a layer is not one thing to tune or remove"
    if getattr(text, "num_kv_shared_layers", None):
        return "its decoder layers share keys and values, so that none can be removed without others"
    return ""


def expected_shapes(config: Any, idle: Idle = is_buffer) -> dict[str, Shape]:
    """Canonical name -> shape of every weight that decides an answer, from an empty model built after its config."""
    return _shapes(_empty(config), idle)


def _empty(config: Any) -> Any:
    """The model that a config describes, without weights."""
    import torch
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    components.decoder(model)  # which says so where a model has no list of layers
    return model


def _shapes(model: Any, idle: Idle) -> dict[str, Shape]:
    state = {canonical(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    return {name: shape for name, shape in state.items() if not idle(name)}


def load(folder: Path, dtype: Any) -> tuple[Any, Any, Any]:
    """The model, tokenizer and processor of a folder, on the CPU; arguments and errors are those of `load_model`.

    The tokenizer is not the processor's: some processors change theirs.

    Raises:
        VrbenchError: as `load_model`, or the settings of tokenizer or processor cannot be read.
    """
    tokenizer, processor = load_tokenizer(folder)
    return load_model(folder, dtype), tokenizer, processor


def load_tokenizer(folder: Path) -> tuple[Any, Any]:
    """The tokenizer and the processor of a folder; no weights.

    Raises:
        VrbenchError: the settings of one cannot be read.
    """
    from transformers import AutoConfig

    from vrbench.models.processors import load_processor

    family = AutoConfig.from_pretrained(folder, **LOCAL).model_type
    return load_tokenizer_and_processor(folder, lambda: load_processor(folder, family))


def load_model(folder: Path, dtype: Any, idle: Idle = is_buffer) -> Any:
    """The model of a folder, on the CPU.

    Args:
        folder: Hugging Face layout.
        dtype: a torch.dtype; every weight is converted to it, whatever the files hold.
        idle: which weights may be missing.

    Raises:
        VrbenchError: a weight of the model is not in the files, or has another shape there.
    """
    from transformers import AutoModelForImageTextToText

    model, info = AutoModelForImageTextToText.from_pretrained(folder, dtype=dtype, output_loading_info=True, **LOCAL)
    wrong = [n for n in (*info["missing_keys"], *info["mismatched_keys"]) if not idle(canonical(str(n)))]
    if wrong:
        raise VrbenchError(f"{folder} gave no weights for {wrong[0]!r} ({len(wrong)} in all)")
    return model
