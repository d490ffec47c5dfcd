"""Validation of the complete model in a folder, from its JSON files and headers (no torch).

Quantized weights, weights in two formats, a tokenizer without the image token, code of its own: each is one message,
before any weights are loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vrbench.checkpoints.checkpoint import ADAPTER_CONFIG
from vrbench.checkpoints.families import FAMILIES
from vrbench.checkpoints.parameter_names import canonical_name
from vrbench.checkpoints.remote_code import validate_code
from vrbench.checkpoints.safetensors_index import INDEX, WEIGHTS, TensorInfo, read_headers, weight_files
from vrbench.core.errors import VrbenchError
from vrbench.core.io import Json, detect_encoding, read_json, read_json_object

FLOAT_DTYPES = ("F64", "F32", "F16", "BF16")
"""Dtypes of weights that can be read; others are quantized."""

QUANTIZED_NAMES = (
    "qweight", "qzeros", "weight_packed", "absmax", "quant_map", "weight_scale", "weight_scale_inv", "g_idx",
)  # fmt: skip
"""Last parts of the names in folders of GPTQ, AWQ, bitsandbytes, compressed-tensors and FP8."""

QUANTIZATION_FILES = ("quantize_config.json", "quant_config.json", "quantization_config.json")
USE_FLOATS = "they can be neither run, pruned nor tuned here: give a checkpoint in float32, float16 or bfloat16"
BIN, BIN_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
JSON_FILES = (
    "generation_config.json", "preprocessor_config.json", "processor_config.json", "tokenizer.json",
    "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "vocab.json", "chat_template.json",
)  # fmt: skip
"""Files other than config.json that are read, each a JSON object."""

TEXT_FILES = ("chat_template.jinja", "merges.txt")
VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")
TOKENIZERS = (*VOCABULARIES, "tokenizer_config.json")
TOKEN_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")
REMOVE_ONE = "move away the one that is not meant"


def validate_folder(folder: Path, trusted: bool = False) -> list[str]:
    """Return one message for each reason; broken weight files are left to `validate_weight_files`.

    Args:
        folder: of a complete model.
        trusted: whether code that comes with it may be run.
    """
    config = read_json(folder / "config.json")
    tensors = _tensors(folder)
    broken = list(_settings_errors(folder))
    errors = [
        *broken,
        *_quantization_errors(folder, config, tensors),
        *_duplicate_format_errors(folder, bool(tensors)),
        *_extra_weight_errors(folder, config),
        *validate_code(folder, trusted),
    ]
    if not broken:
        tokens = list(_iterate_tokens(folder))
        errors += [*_image_token_errors(folder, config, tokens), *_token_id_errors(folder, config, tokens, tensors)]
    return errors


def _tensors(folder: Path) -> dict[str, TensorInfo]:
    try:
        return read_headers(folder)
    except VrbenchError:  # reported by validate_weight_files
        return {}


def _settings_errors(folder: Path) -> Iterator[str]:
    for file in (folder / name for name in ("config.json", INDEX, *JSON_FILES, *TEXT_FILES)):
        if not file.is_file():
            continue
        with file.open("rb") as stream:
            encoding = detect_encoding(stream.read(4))
        if encoding:
            what = "begins with a byte order mark" if encoding == "UTF-8" else f"is {encoding}"
            yield f"{file} {what}, which transformers does not read; save it as UTF-8 without a byte order mark"
        elif file.name in JSON_FILES and read_json_object(file) is None:
            yield f"{file} cannot be read as a JSON object"


def _quantization_errors(folder: Path, config: Json, tensors: dict[str, TensorInfo]) -> Iterator[str]:
    """Yield an error for quantized weights, as the config, a file beside it, or the weights themselves show them."""
    for name, part in ((n, p) for n, p in (("", config), *config.items()) if isinstance(p, dict)):
        stated = part.get("quantization_config")
        if isinstance(stated, dict):
            where = f"{folder / 'config.json'}{f', {name},' if name else ''}"
            yield f"{where} says that the weights are quantized ({_describe_method(stated)}); {USE_FLOATS}"
            return
    for file in (folder / name for name in QUANTIZATION_FILES):
        if file.is_file():
            yield f"{file} says that the weights are quantized ({_describe_method(read_json(file))}); {USE_FLOATS}"
            return
    quantized = [(name, tensor) for name, tensor in tensors.items() if _is_quantized(name, tensor)]
    if quantized:
        name, tensor = quantized[0]
        more = f" and {len(quantized) - 1} more" if len(quantized) > 1 else ""
        yield f"{folder} has quantized weights: {name!r} is stored as {tensor.dtype}{more}; {USE_FLOATS}"


def _describe_method(stated: Json) -> str:
    bits = stated.get("bits", stated.get("w_bit"))
    if bits is None:
        bits = 4 if stated.get("load_in_4bit") else 8 if stated.get("load_in_8bit") else None
    return f"{stated.get('quant_method', 'method not named')}{f', {bits} bits' if bits else ''}"


def _is_quantized(name: str, tensor: TensorInfo) -> bool:
    last = name.rsplit(".", 1)[-1]
    return last in QUANTIZED_NAMES or (last == "weight" and tensor.dtype not in FLOAT_DTYPES)


def _duplicate_format_errors(folder: Path, has_tensors: bool) -> Iterator[str]:
    """Yield an error if the folder has complete weights in two formats, which may differ."""
    safetensors = WEIGHTS if (folder / WEIGHTS).is_file() else INDEX
    pickled = BIN if (folder / BIN).is_file() else BIN_INDEX
    if has_tensors and _bin_is_complete(folder):
        yield f"{folder} has complete weights twice, {safetensors} and {pickled}, which may differ; {REMOVE_ONE}"
    if (folder / WEIGHTS).is_file() and (folder / INDEX).is_file():
        named = read_json(folder / INDEX).get("weight_map")
        if set(named.values() if isinstance(named, dict) else ()) - {WEIGHTS}:
            yield f"{folder} has {WEIGHTS} and {INDEX}, which names other files; {REMOVE_ONE}"


def _bin_is_complete(folder: Path) -> bool:
    if (folder / BIN).is_file():
        return True
    files = read_json(folder / BIN_INDEX).get("weight_map")
    return isinstance(files, dict) and bool(files) and all((folder / str(name)).is_file() for name in files.values())


def _extra_weight_errors(folder: Path, config: Json) -> Iterator[str]:
    """Yield an error for weights that transformers would load in addition to, or instead of, those checked here."""
    if (folder / ADAPTER_CONFIG).is_file():
        yield (
            f"{folder} holds a complete model and an adapter ({ADAPTER_CONFIG}), which transformers would apply to it; "
            "move the adapter to a folder of its own, or away if it is merged already"
        )
    if named := config.get("transformers_weights"):
        yield (
            f"{folder / 'config.json'} has transformers_weights {named!r}: other weights than {WEIGHTS} or "
            f"{INDEX} cannot be loaded; name them so, and remove that key"
        )


def unused_weights(folder: Path) -> list[str]:
    """Return weight files that are not read: pickled ones, and shards that no index names."""
    if not _tensors(folder):
        return []
    read = {path.name for path in weight_files(folder)}
    files = (file.name for pattern in ("pytorch_model*.bin", "model*.safetensors") for file in folder.glob(pattern))
    return sorted(name for name in files if name not in read)


def _image_token_id(config: Json) -> int | None:
    return next((config[k] for k in ("image_token_index", "image_token_id") if isinstance(config.get(k), int)), None)


Token = tuple[str, int, str]
"""(token, id, file)."""


def _image_token_errors(folder: Path, config: Json, tokens: list[Token]) -> Iterator[str]:
    """Yield an error if the tokenizer lacks the config's image token: images would never reach the model."""
    wanted = _image_token_id(config)
    if wanted is None:
        return
    present = [name for name in TOKENIZERS if (folder / name).is_file()]
    if not set(present) & set(VOCABULARIES):
        needs = f"it needs {', '.join(VOCABULARIES[:-1])} or {VOCABULARIES[-1]}"
        more = "; tekken.json is not read, copy the tokenizer's and processor's files from a model that has both forms"
        tekken = more if (folder / "tekken.json").is_file() else ""
        yield f"{folder} has no tokenizer; {needs}, with token {wanted}, the image token of config.json{tekken}"
    elif wanted not in {number for _, number, _ in tokens}:
        yield f"{folder / present[0]} has no token {wanted}, which config.json names as the image token"


def _iterate_tokens(folder: Path) -> Iterator[Token]:
    """Yield all tokens that are written in JSON: those of the vocabulary, and those added to it."""
    fast, settings = read_json(folder / "tokenizer.json"), read_json(folder / "tokenizer_config.json")
    model = fast.get("model")
    vocabulary = (model.get("vocab") if isinstance(model, dict) else None) or ()
    listed = vocabulary.items() if isinstance(vocabulary, dict) else ((str(w), i) for i, w in enumerate(vocabulary))
    added = [(t.get("content"), t.get("id")) for t in fast.get("added_tokens") or () if isinstance(t, dict)]
    decoder = settings.get("added_tokens_decoder") or {}
    named = [(t, int(n)) for n, t in decoder.items() if n.isdigit()] if isinstance(decoder, dict) else []
    pairs: dict[str, list[tuple[Any, Any]]] = {"tokenizer.json": [*listed, *added], "tokenizer_config.json": named}
    for file in ("added_tokens.json", "vocab.json"):
        pairs[file] = list(read_json(folder / file).items())
    for file, tokens in pairs.items():
        for token, number in tokens:
            if isinstance(number, int):
                yield str(token.get("content") if isinstance(token, dict) else token), number, file


def _token_id_errors(folder: Path, config: Json, tokens: list[Token], tensors: dict[str, TensorInfo]) -> Iterator[str]:
    """Yield an error for tokens without an embedding; an embedding with more rows than tokens is usual."""
    shapes = (t.shape for n, t in tensors.items() if canonical_name(n) == "embed_tokens.weight" and t.shape)
    rows = next(shapes, (None,))[0]
    if rows is None:
        return
    has = f"the embedding has {rows} rows, for ids 0 to {rows - 1}"
    family = FAMILIES.get(str(config.get("model_type")))
    unused = _image_token_id(config) if family and family.replaces_image_token else None
    found: dict[int, tuple[str, list[str]]] = {}
    for token, number, file in tokens:
        if number >= rows and number != unused:
            files = found.setdefault(number, (token, []))[1]
            files += [file] * (file not in files)
    if found:
        token, files = found[min(found)]
        more = f" (and {len(found) - 1} more, up to {max(found)})" if len(found) > 1 else ""
        yield (
            f"{folder / files[0]}{''.join(f' and {file}' for file in files[1:])} has token {token!r} with id "
            f"{min(found)}{more}; {has}: remove the token, or resize the embedding (resize_token_embeddings)"
        )
    text = config.get("text_config")
    parts = {"config.json": config, "generation_config.json": read_json(folder / "generation_config.json")}
    if isinstance(text, dict):
        parts["config.json, text_config,"] = text
    decoder = "config.json, text_config," if isinstance(text, dict) else "config.json"
    for where, part in parts.items():
        # Padding of a prompt is masked. Only the decoder takes its pad_token_id for a row of the embedding;
        # transformers wrote 128002 beside it for every SmolVLM and Idefics3.
        for key in TOKEN_IDS if where == decoder else TOKEN_IDS[:2]:
            value = part.get(key)
            beyond = [n for n in (value if isinstance(value, list) else [value]) if isinstance(n, int) and n >= rows]
            if beyond:
                yield f"{folder}/{where} has {key} {value!r}; {has}: set it to the id of an existing token"
