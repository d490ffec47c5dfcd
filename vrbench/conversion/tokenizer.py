"""The tokenizer of a converted model: the source's own, with "<image>" and the chat template.

The original code tokenizes what stands before and after a picture apart from each other. A tokenizer that marks the
start of a text with a space (Vicuna, Phi 3) then marks it in each of them; one here does so too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vrbench.conversion import tokenizer_model
from vrbench.conversion.tokenizer_model import put_spaces_first
from vrbench.core import os_errors
from vrbench.core.errors import VrbenchError
from vrbench.core.io import read_text

IMAGE = "<image>"
PIECES = "tokenizer.model"
FILES = ("tokenizer.json", PIECES)
RESERVED = "<|reserved_special_token_0|>"
"""Llama 3's first reserved place: it was never trained or said, so "<image>" can have it and no weight changes."""

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
"""What LLaVA-1.5 and Bunny were trained with (conversations vicuna_v1, bunny, phi3, llama of their code)."""

TEMPLATE = (
    "{% macro said(message) %}{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %}{% endmacro %}"
    "{% if messages[0]['role'] != 'system' %}SYSTEM {% endif %}"
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ said(message) }} "
    "{% elif message['role'] == 'user' %}USER: {{ said(message) }} "
    "{% else %}ASSISTANT: {{ said(message) }}END{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
"""Pictures first, each with a line end; SYSTEM and END stand for the system prompt and what ends an answer."""


@dataclass(frozen=True)
class ConvertedTokenizer:
    """A tokenizer ready to be saved.

    Attributes:
        tokenizer: with "<image>" as one special token, and the chat template.
        image_id: its id.
        unknown_id: id of the token for what is not in the vocabulary; none where there is no such token.
    """

    tokenizer: Any
    image_id: int
    unknown_id: int | None


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder holds a tokenizer of a kind that is known here."""
    return any((folder / name).is_file() for name in FILES)


def convert_tokenizer(folder: Path, end: str, from_pieces: bool) -> ConvertedTokenizer:
    """The tokenizer of a folder, with what a LLaVA needs.

    Args:
        folder: with tokenizer.json or tokenizer.model.
        end: the token that ends an answer, such as "</s>".
        from_pieces: whether tokenizer.model is read where both are there.

    Raises:
        VrbenchError: it cannot be read, has not that token, or cannot hold "<image>" as one token.
    """
    from tokenizers import AddedToken, Tokenizer
    from transformers import PreTrainedTokenizerFast

    loaded = _load(folder, from_pieces)
    inner = Tokenizer.from_str(json.dumps(_with_image_place(json.loads(loaded.backend_tokenizer.to_str()))))
    put_spaces_first(inner)
    if inner.token_to_id(end) is None:
        raise VrbenchError(f"the tokenizer of {folder} has no {end!r}, which ends an answer of this model")
    inner.add_special_tokens([AddedToken(IMAGE, special=True, normalized=False)])
    image_id = int(inner.token_to_id(IMAGE) or 0)
    if inner.encode(f"a{IMAGE}{IMAGE}\nb", add_special_tokens=False).ids.count(image_id) != 2:
        raise VrbenchError(f"the tokenizer of {folder} does not keep the image token {IMAGE} as one token")
    made = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token=loaded.bos_token, eos_token=end, unk_token=loaded.unk_token,
        pad_token=loaded.pad_token or loaded.unk_token or end, model_max_length=loaded.model_max_length,
        padding_side="left", clean_up_tokenization_spaces=False, extra_special_tokens=[IMAGE],
    )  # fmt: skip
    made.chat_template = TEMPLATE.replace("SYSTEM", SYSTEM).replace("END", end)
    return ConvertedTokenizer(made, image_id, None if loaded.unk_token is None else inner.token_to_id(loaded.unk_token))


def _load(folder: Path, from_pieces: bool) -> Any:
    """The tokenizer of the file that the original code reads, or else of the other."""
    from transformers import PreTrainedTokenizerFast

    found = [name for name in FILES if (folder / name).is_file()]
    if found[-1 if from_pieces else 0] == PIECES:
        return _from_pieces(folder)
    try:
        # The file as it is: the class that tokenizer_config.json names would put its own parts in place of the file's.
        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # whatever the many readers behind it raise
        os_errors.reraise_os_error(error)
        raise VrbenchError(f"the tokenizer of {folder} cannot be read: {error}") from error


def _from_pieces(folder: Path) -> Any:
    """A Llama tokenizer from its SentencePiece model; its added tokens and settings from the files beside it."""
    from transformers import AddedToken

    stated = _json(folder / "tokenizer_config.json")
    kept = {key: stated[key] for key in ("add_bos_token", "add_eos_token", "model_max_length") if key in stated}
    kept.setdefault("add_bos_token", True)  # as the original reader has it where nothing is said
    made = tokenizer_model.build(folder / PIECES, **kept)
    known = made.get_vocab()
    added = {text: number for text, number in _json(folder / "added_tokens.json").items() if text not in known}
    made.add_tokens([AddedToken(text, special=True, normalized=False) for text in sorted(added, key=added.__getitem__)])
    wrong = [text for text, number in added.items() if made.convert_tokens_to_ids(text) != number]
    if wrong:
        raise VrbenchError(f"{folder / 'added_tokens.json'} leaves gaps between ids: {', '.join(wrong)}")
    return made


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(read_text(path)) if path.is_file() else {}
    except (ValueError, RecursionError) as error:
        raise VrbenchError(f"{path} is not JSON") from error
    if not isinstance(found, dict):
        raise VrbenchError(f"{path} is not a JSON object")
    return found


def _with_image_place(raw: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer's JSON with Llama 3's reserved place renamed to "<image>"."""
    added = raw["added_tokens"]
    if not any(token["content"] == IMAGE for token in added):
        for token in added:
            if token["content"] == RESERVED:
                token["content"] = IMAGE
                vocabulary = raw["model"].get("vocab")
                if isinstance(vocabulary, dict) and RESERVED in vocabulary:
                    vocabulary[IMAGE] = vocabulary.pop(RESERVED)
    return raw
