"""Why the whole model in a folder cannot be run or operated on, judged from its JSON files and headers (no torch).

Quantised weights, weights in two formats, a tokenizer without the image token, code of its own: each is told in one
sentence, before a weight is loaded.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vrbench.checkpoints.parameter_names import ADAPTER_CONFIG, canonical
from vrbench.checkpoints.remote_code import code_faults
from vrbench.checkpoints.safetensors_index import INDEX, Tensor, read_headers, weight_files
from vrbench.core.errors import VrbenchError
from vrbench.core.io import Json, detect_encoding, read_json, read_json_object

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

TEMPLATES = ("chat_template.jinja", "merges.txt")
"""Text that transformers reads beside them."""

VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json")
TOKENIZERS = (*VOCABULARIES, "tokenizer_config.json")
EMBEDDING = "embed_tokens.weight"


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
        *((*_image_token(folder, config), *_beyond_the_embedding(folder, config)) if not broken else ()),
    ]


def _broken_settings(folder: Path) -> Iterator[str]:
    for file in (folder / name for name in ("config.json", INDEX, *SETTINGS_FILES, *TEMPLATES)):
        if not file.is_file():
            continue
        with file.open("rb") as stream:
            other = detect_encoding(stream.read(4))
        if other:
            with_mark = "begins with a byte order mark" if other == "UTF-8" else f"is {other}"
            yield f"{file} {with_mark}, which transformers does not read; save it as UTF-8 without a byte order mark"
        elif file.name in SETTINGS_FILES and read_json_object(file) is None:
            yield f"{file} cannot be read as a JSON object"


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
    """Whole weights twice: nobody can tell which ones are meant, and they may differ."""
    ours = "model.safetensors" if (folder / "model.safetensors").is_file() else INDEX
    theirs = BIN if (folder / BIN).is_file() else BIN_INDEX
    if _tensors(folder) and _bin_is_whole(folder):
        yield (
            f"{folder} has whole weights twice, {ours} and {theirs}, which may differ; move the ones away that are not "
            "meant"
        )

    if (folder / "model.safetensors").is_file() and (folder / INDEX).is_file():
        named = read_json(folder / INDEX).get("weight_map")
        shards = set(named.values()) if isinstance(named, dict) else set()
        if shards - {"model.safetensors"}:
            yield (
                f"{folder} has model.safetensors and {INDEX}, which names other files; which ones are meant cannot be "
                "told, move the ones away that are not meant"
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
    """Weight files of a model that lie beside those that are read: pickled ones, and shards that no index names."""
    if not _tensors(folder):
        return []
    read = {path.name for path in weight_files(folder)}
    return sorted(
        p.name for pattern in ("pytorch_model*.bin", "model*.safetensors") for p in folder.glob(pattern)
        if p.name not in read
    )  # fmt: skip


def _image_token_id(config: Json) -> int | None:
    return next((config[k] for k in ("image_token_index", "image_token_id") if isinstance(config.get(k), int)), None)


def _image_token(folder: Path, config: Json) -> Iterator[str]:
    """A config that names an image token which the tokenizer has not: its pictures would never reach the model."""
    wanted = _image_token_id(config)
    if wanted is None:
        return
    present = [name for name in TOKENIZERS if (folder / name).is_file()]
    if not set(present) & set(VOCABULARIES):
        wants = f"it needs {', '.join(VOCABULARIES[:-1])} or {VOCABULARIES[-1]}"
        more = "; tekken.json is not read, copy the tokenizer's and processor's files from a model that has both forms"
        tekken = more if (folder / "tekken.json").is_file() else ""
        yield f"{folder} has no tokenizer; {wants}, with token {wanted}, the image token of config.json{tekken}"
    elif wanted not in {number for _, number, _ in _tokens(folder)}:
        yield f"{folder / present[0]} has no token {wanted}, which config.json names as the image token"


def _tokens(folder: Path) -> Iterator[tuple[str, int, str]]:
    """(token, id, file) of all tokens that are written in JSON: those of the vocabulary, and those added to it."""
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


REPLACED = ("gemma3", "paligemma")
"""Families whose image token needs no row in the embedding: transformers replaces it before it looks there."""

IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def _beyond_the_embedding(folder: Path, config: Json) -> Iterator[str]:
    """Tokens that the model has no embedding for; an embedding with more rows than tokens is as usual."""
    rows = next((t.shape[0] for n, t in _tensors(folder).items() if canonical(n) == EMBEDDING and t.shape), None)
    if rows is None:
        return
    has = f"the embedding has {rows} rows, for ids 0 to {rows - 1}"
    unused = _image_token_id(config) if config.get("model_type") in REPLACED else None
    found: dict[int, tuple[str, list[str]]] = {}
    for token, number, file in _tokens(folder):
        if number >= rows and number != unused:
            files = found.setdefault(number, (token, []))[1]
            files += [file] * (file not in files)
    if found:
        token, files = found[min(found)]
        more = f" (and {len(found) - 1} more, up to {max(found)})" if len(found) > 1 else ""
        yield (
            f"{folder / files[0]}{''.join(f' and {file}' for file in files[1:])} has token {token!r} with id "
            f"{min(found)}{more}; {has}: take the token out, or resize the embedding (resize_token_embeddings)"
        )
    text = config.get("text_config")
    parts = {"config.json": config, "generation_config.json": read_json(folder / "generation_config.json")}
    if isinstance(text, dict):
        parts["config.json, text_config,"] = text
    decoder = "config.json, text_config," if isinstance(text, dict) else "config.json"
    for where, part in parts.items():
        # What pads a prompt is masked. Only the decoder takes its pad_token_id for a row of the embedding; transformers
        # wrote 128002 beside it for every SmolVLM and Idefics3.
        for key in IDS if where == decoder else IDS[:2]:
            value = part.get(key)
            beyond = [n for n in (value if isinstance(value, list) else [value]) if isinstance(n, int) and n >= rows]
            if beyond:
                yield f"{folder}/{where} has {key} {value!r}; {has}: set it to the id of a token that is there"
