"""The tokenizer of a converted model: the source's own, with "<image>" and the chat template.

The original code tokenizes what stands before and after a picture apart from each other. A tokenizer that marks the
start of a text with a space (Vicuna, Phi 3) then marks it in each of them; one here does so too.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vrbench.convert import sentencepiece
from vrbench.errors import VrbenchError

IMAGE = "<image>"
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
class Words:
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
    return any((folder / name).is_file() for name in ("tokenizer.json", "tokenizer.model"))


def read_words(folder: Path, end: str) -> Words:
    """The tokenizer of a folder, with what a LLaVA needs.

    Args:
        folder: with tokenizer.json or tokenizer.model.
        end: the token that ends an answer, such as "</s>".

    Raises:
        VrbenchError: it cannot be read, has not that token, or cannot hold "<image>" as one token.
    """
    from tokenizers import AddedToken, Tokenizer
    from transformers import PreTrainedTokenizerFast

    loaded = _load(folder)
    inner = Tokenizer.from_str(json.dumps(_adapted(json.loads(loaded.backend_tokenizer.to_str()))))
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
    return Words(made, image_id, None if loaded.unk_token is None else inner.token_to_id(loaded.unk_token))


def _load(folder: Path) -> Any:
    from transformers import AutoTokenizer

    if not (folder / "tokenizer.json").is_file():
        return _from_pieces(folder)
    try:
        # Said, since the folder's config.json may name a model that transformers does not know.
        return AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False, config=_plain_config()
        )
    except Exception as error:  # whatever the many readers behind it raise
        raise VrbenchError(f"the tokenizer of {folder} cannot be read: {error}") from error


def _plain_config() -> Any:
    from transformers import LlamaConfig

    return LlamaConfig()


def _from_pieces(folder: Path) -> Any:
    """A Llama tokenizer from its SentencePiece model; its added tokens and settings from the files beside it."""
    from transformers import AddedToken, LlamaTokenizer
    from transformers.tokenization_utils_base import generate_merges

    pieces = sentencepiece.read_pieces(folder / "tokenizer.model")
    vocabulary = {text: number for number, (text, _) in enumerate(pieces)}
    special = [text for text, kind in pieces if kind in (sentencepiece.UNKNOWN, sentencepiece.CONTROL)]
    stated = _json(folder / "tokenizer_config.json")
    kept = {key: stated[key] for key in ("add_bos_token", "add_eos_token", "model_max_length") if key in stated}
    kept.setdefault("add_bos_token", True)  # as the original reader has it where nothing is said
    made = LlamaTokenizer(vocabulary, generate_merges(vocabulary, skip_tokens=special), legacy=True, **kept)
    added = {text: number for text, number in _json(folder / "added_tokens.json").items() if text not in vocabulary}
    made.add_tokens([AddedToken(text, special=True, normalized=False) for text in sorted(added, key=added.__getitem__)])
    wrong = [text for text, number in added.items() if made.convert_tokens_to_ids(text) != number]
    if wrong:
        raise VrbenchError(f"{folder / 'added_tokens.json'} leaves gaps between ids: {', '.join(wrong)}")
    return made


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    except (ValueError, RecursionError) as error:
        raise VrbenchError(f"{path} is not JSON") from error
    if not isinstance(found, dict):
        raise VrbenchError(f"{path} is not a JSON object")
    return found


def _adapted(raw: dict[str, Any]) -> dict[str, Any]:
    """A tokenizer's JSON with the reserved place renamed, and a space marked at the start of every part."""
    added = raw["added_tokens"]
    if not any(token["content"] == IMAGE for token in added):
        for token in added:
            if token["content"] == RESERVED:
                token["content"] = IMAGE
                vocabulary = raw["model"].get("vocab")
                if isinstance(vocabulary, dict) and RESERVED in vocabulary:
                    vocabulary[IMAGE] = vocabulary.pop(RESERVED)
    splitter = raw.get("pre_tokenizer") or {}
    for part in splitter.get("pretokenizers", [splitter]):
        if part.get("type") == "Metaspace" and part.get("prepend_scheme") == "first":
            part["prepend_scheme"] = "always"
    return raw
