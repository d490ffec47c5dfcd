"""Why the whole model in a folder cannot be run or operated on, judged from its JSON files and headers (no torch).

Quantised weights, weights in two formats, a tokenizer without the image token, code of its own: each is told in one
sentence, before a weight is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vrbench.errors import VrbenchError
from vrbench.headers import INDEX, Tensor, read_headers
from vrbench.json_files import Json, object_in, read_json
from vrbench.own_code import code_faults
from vrbench.structure import ADAPTER_CONFIG

READABLE = ("F64", "F32", "F16", "BF16")
"""What a weight may be stored as; anything else was packed."""

PACKED = ("qweight", "qzeros", "weight_packed", "absmax", "quant_map", "weight_scale", "weight_scale_inv", "g_idx")
"""Last parts of the names that GPTQ, AWQ, bitsandbytes, compressed-tensors and FP8 folders have."""

QUANTISED_FILES = ("quantize_config.json", "quant_config.json", "quantization_config.json")
BIN, BIN_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
SETTINGS_FILES = (
    "generation_config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "chat_template.json",
)  # fmt: skip
"""What is read beside config.json, each a JSON object."""

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "tokenizer_config.json")


def faults(folder: Path, trusted: bool = False) -> list[str]:
    """One sentence for each reason; empty when none was found. Broken weight files are `headers.header_faults`'s.

    Args:
        folder: of a whole model.
        trusted: whether code that comes with it may be run.
    """
    config = read_json(folder / "config.json")
    broken = list(_broken_settings(folder))
    return [
        *broken,
        *_quantised(folder, config),
        *_two_formats(folder),
        *_other_weights(folder, config),
        *code_faults(folder, trusted),
        *(_image_token(folder, config) if not broken else ()),
    ]


def _broken_settings(folder: Path) -> Iterator[str]:
    for file in SETTINGS_FILES:
        if (folder / file).is_file() and object_in(folder / file) is None:
            yield f"{folder / file} cannot be read as a JSON object"


def _quantised(folder: Path, config: Json) -> Iterator[str]:
    """Quantised weights: the config says so, a file beside it does, or the weights themselves are packed."""
    for name, part in ((n, p) for n, p in (("", config), *config.items()) if isinstance(p, dict)):
        said = part.get("quantization_config")
        if isinstance(said, dict):
            where = f"{folder / 'config.json'}{f', {name},' if name else ''}"
            yield f"{where} says that the weights are quantised ({_method(said)}); {MEND}"
            return
    for file in QUANTISED_FILES:
        if (folder / file).is_file():
            yield f"{folder / file} says that the weights are quantised ({_method(read_json(folder / file))}); {MEND}"
            return
    packed = {name: tensor for name, tensor in _tensors(folder).items() if _is_packed(name, tensor)}
    if packed:
        name, tensor = next(iter(packed.items()))
        more = f" and {len(packed) - 1} more" if len(packed) > 1 else ""
        yield f"{folder} has quantised weights: {name!r} is stored as {tensor.dtype}{more}; {MEND}"


MEND = "they can be neither run, pruned nor tuned here: give a checkpoint in float32, float16 or bfloat16"


def _method(said: Json) -> str:
    bits = said.get("bits", said.get("w_bit"))
    if bits is None:
        bits = 4 if said.get("load_in_4bit") else 8 if said.get("load_in_8bit") else None
    return f"{said.get('quant_method', 'method not named')}{f', {bits} bits' if bits else ''}"


def _is_packed(name: str, tensor: Tensor) -> bool:
    last = name.rsplit(".", 1)[-1]
    return last in PACKED or (last == "weight" and tensor.dtype not in READABLE)


def _tensors(folder: Path) -> dict[str, Tensor]:
    try:
        return read_headers(folder)
    except VrbenchError:  # told by header_faults
        return {}


def _two_formats(folder: Path) -> Iterator[str]:
    """Both formats whole: nobody can tell which one is meant, and they may differ."""
    ours = "model.safetensors" if (folder / "model.safetensors").is_file() else INDEX
    theirs = BIN if (folder / BIN).is_file() else BIN_INDEX
    if _tensors(folder) and _bin_is_whole(folder):
        yield (
            f"{folder} has whole weights twice, {ours} and {theirs}, which may differ; move the ones away that are not "
            "meant"
        )


def _bin_is_whole(folder: Path) -> bool:
    if (folder / BIN).is_file():
        return True
    files = read_json(folder / BIN_INDEX).get("weight_map")
    return isinstance(files, dict) and bool(files) and all((folder / str(name)).is_file() for name in files.values())


def _other_weights(folder: Path, config: Json) -> Iterator[str]:
    """What transformers would load without being asked, beside or instead of the weights that were judged here."""
    if (folder / ADAPTER_CONFIG).is_file():
        yield (
            f"{folder} holds a whole model and an adapter ({ADAPTER_CONFIG}), which transformers would put on it; move "
            "the adapter to a folder of its own, or away if it is merged already"
        )
    if config.get("transformers_weights"):
        named = config["transformers_weights"]
        yield (
            f"{folder / 'config.json'} has transformers_weights {named!r}: other weights than model.safetensors or "
            f"{INDEX} cannot be loaded; name them so, and remove that key"
        )


def unused_weights(folder: Path) -> list[str]:
    """Pickled weight files that lie beside the safetensors ones and are not read."""
    return sorted(p.name for p in folder.glob("pytorch_model*.bin")) if _tensors(folder) else []


def _image_token(folder: Path, config: Json) -> Iterator[str]:
    """A config that names an image token which the tokenizer has not: its pictures would never reach the model."""
    wanted = next((config[k] for k in ("image_token_index", "image_token_id") if isinstance(config.get(k), int)), None)
    if wanted is None:
        return
    present = [name for name in TOKENIZERS if (folder / name).is_file()]
    if not present:
        yield f"{folder} has no tokenizer; it needs one with token {wanted}, the image token of config.json"
    elif wanted not in _token_ids(folder):
        yield f"{folder / present[0]} has no token {wanted}, which config.json names as the image token"


def _token_ids(folder: Path) -> set[int]:
    """The ids of all tokens that are written in JSON: those of the vocabulary, and those added to it."""
    fast, settings = read_json(folder / "tokenizer.json"), read_json(folder / "tokenizer_config.json")
    model = fast.get("model")
    vocabulary = model.get("vocab", {}) if isinstance(model, dict) else {}
    found = list(vocabulary.values()) if isinstance(vocabulary, dict) else list(range(len(vocabulary or ())))
    found += [token.get("id") for token in fast.get("added_tokens") or () if isinstance(token, dict)]
    found += [int(number) for number in settings.get("added_tokens_decoder") or () if number.isdigit()]
    for file in ("added_tokens.json", "vocab.json"):
        found += read_json(folder / file).values()
    return {number for number in found if isinstance(number, int)}
