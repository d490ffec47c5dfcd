"""Folders of a whole model in the Hugging Face layout, of any family that transformers' auto classes know."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from vrbench.errors import VrbenchError
from vrbench.headers import read_headers
from vrbench.own_code import LOCAL
from vrbench.structure import Shape, canonical, difference_faults, shapes_of, twin_faults

Idle = Callable[[str], bool]
"""Whether a tensor of a canonical name decides no answer."""

EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
"""Settings of a decoder whose layers have experts."""


def buffers(name: str) -> bool:
    """Rotary frequencies and positions: buffers that older files carry, computed anew by the model."""
    return name.endswith(("rotary_emb.inv_freq", "position_ids"))


def faults(folder: Path, idle: Idle = buffers) -> list[str]:
    """Why the weights in a folder are not those of the model that its config.json describes; no weight is loaded."""
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, **LOCAL)
        refused = refusal(config)
        expected = {} if refused else expected_shapes(config, idle)
    except Exception as error:  # transformers' strict configs raise classes of their own
        return [f"{folder / 'config.json'} describes no model that can be built: {' '.join(str(error).split())}"]
    if refused:
        return [f"{folder / 'config.json'}: {refused}"]
    tensors = read_headers(folder)
    found = {n: s for n, s in shapes_of(tensors).items() if not idle(n)}
    if any(getattr(part, "tie_word_embeddings", False) for part in (config, config.get_text_config())):
        found.setdefault("lm_head.weight", expected["lm_head.weight"])  # it is the embedding, stored once
    return twin_faults(folder, tensors) + difference_faults(folder, found, expected)


def refusal(config: Any) -> str:
    """Why a model of a known family cannot be tuned and pruned layer by layer; empty when it can."""
    text = config.get_text_config()
    if any(getattr(text, name, None) for name in EXPERTS):
        return "its layers choose among experts (MoE), so that a layer is not one thing to tune or remove"
    if getattr(text, "num_kv_shared_layers", None):
        return "its decoder layers share keys and values, so that none can be removed without others"
    return ""


def expected_shapes(config: Any, idle: Idle = buffers) -> dict[str, Shape]:
    """Canonical name -> shape of every weight that decides an answer, from an empty model built after its config."""
    import torch
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    state = {canonical(name): tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    return {name: shape for name, shape in state.items() if not idle(name)}


def load(folder: Path, dtype: Any) -> tuple[Any, Any, Any]:
    """The model, tokenizer and processor of a folder, on the CPU; arguments and errors are those of `load_model`.

    The tokenizer is not the processor's: some processors change theirs.

    Raises:
        VrbenchError: as `load_model`, or the settings of tokenizer or processor cannot be read.
    """
    from transformers import AutoConfig

    from vrbench.models.processors import load_processor

    family = AutoConfig.from_pretrained(folder, **LOCAL).model_type
    tokenizer, processor = load_readers(folder, lambda: load_processor(folder, family))
    return load_model(folder, dtype), tokenizer, processor


def load_readers(folder: Path, load_processor: Callable[[], Any]) -> tuple[Any, Any]:
    """The tokenizer of a folder and what else reads prompts there; before the weights, which take long.

    Raises:
        VrbenchError: their settings cannot be read.
    """
    from transformers import AutoTokenizer

    try:
        tokenizer, processor = AutoTokenizer.from_pretrained(folder, **LOCAL), load_processor()
    except Exception as error:  # whatever the many readers behind it raise
        reason = " ".join(str(error).split())
        raise VrbenchError(f"{folder} has no tokenizer and processor that can be read: {reason}") from error
    if tokenizer.eos_token_id is None:
        raise VrbenchError(
            f"the tokenizer of {folder} has no eos_token, which ends an answer; tokenizer_config.json names it"
        )
    return tokenizer, processor


def load_model(folder: Path, dtype: Any, idle: Idle = buffers) -> Any:
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
