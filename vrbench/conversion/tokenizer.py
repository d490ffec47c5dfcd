"""The tokenizer of a converted model: the source's own, with "<image>" and the chat template.

The original code tokenizes the text before and after an image separately. A tokenizer that marks the start of a text
with a space (Vicuna, Phi 3) then marks it in both parts; so does the converted one.

A `tokenizer.model` is read with the library sentencepiece, and the converted tokenizer has to agree with it. It matches
transformers' slow `LlamaTokenizer` with `legacy=True` (4.31.0, which LLaVA-1.5 was trained with, and 4.37.2, of its
last release), and the `tokenizer.json` that transformers 4 made of it, as in llava-hf's LLaVA-1.5: a text is cut at
special tokens, and each part is encoded as SentencePiece encodes it, with a space in front whatever it starts with.
`legacy` only changes what follows a special token inside a text, such as "</s>USER" between two turns: "▁US", "ER" here
and in both versions; with `legacy=False` "US", "ER" in 4.31.0 and "USER" in 4.37.2. Which of them a checkpoint was
trained with depended on a setting in its base's folder; a prompt of one turn, with no special token but its first, is
the same in all.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vrbench.checkpoints.prompts import IMAGE, vicuna_template
from vrbench.core import os_errors
from vrbench.core.errors import VrbenchError
from vrbench.core.io import require_json

SENTENCEPIECE_FILE = "tokenizer.model"
FILES = ("tokenizer.json", SENTENCEPIECE_FILE)
RESERVED = "<|reserved_special_token_0|>"
"""Llama 3's first reserved token: it was never trained or generated, so it can become "<image>" without new weights."""

PROBES = (
    "def f(x):\n    return {'a': x  +  1}\t# two  spaces\n\n\n| red  (B) |   12345   |\n|:---|---:|\n",
    "  It starts with spaces, and ends with them.   ",
    " " * 3, " " * 17, "\t\t", "\n", "a\r\nb", "▁ ▁▁",
    "Größe ½ ﬁ Ａ é e\u0301, naïve; 漢字かな交じり文, 한국어, العربية, हिन्दी, 👩‍👩‍👧 🏳️‍🌈 \u00a0\u200b\x07",
    "<0x0A> <image",
)  # fmt: skip
"""Texts in which tokenizers differ: runs of spaces, code, tables, other scripts, characters in no vocabulary."""

PIECES_PER_PROBE = 64


@dataclass(frozen=True)
class ConvertedTokenizer:
    """A tokenizer ready to be saved.

    Attributes:
        tokenizer: with "<image>" as one special token, and the chat template.
        image_id: id of "<image>".
        unknown_id: id of the unknown token; None if there is none.
    """

    tokenizer: Any
    image_id: int
    unknown_id: int | None


def has_tokenizer(folder: Path) -> bool:
    """Return whether a folder has a tokenizer that can be converted."""
    return any((folder / name).is_file() for name in FILES)


def convert_tokenizer(folder: Path, end: str, use_sentencepiece: bool) -> ConvertedTokenizer:
    """Return the tokenizer of a folder, with what a LLaVA needs.

    Args:
        folder: with tokenizer.json or tokenizer.model.
        end: the token that ends an answer, such as "</s>".
        use_sentencepiece: whether tokenizer.model is read if there are both.

    Raises:
        VrbenchError: it cannot be read, lacks the end token, or cannot encode "<image>" as one token.
    """
    from tokenizers import AddedToken, Tokenizer
    from transformers import PreTrainedTokenizerFast

    loaded = _load(folder, use_sentencepiece)
    inner = Tokenizer.from_str(json.dumps(_with_image_token(json.loads(loaded.backend_tokenizer.to_str()))))
    _prepend_spaces(inner)
    if inner.token_to_id(end) is None:
        raise VrbenchError(f"the tokenizer of {folder} has no {end!r}, which ends an answer of this model")
    inner.add_special_tokens([AddedToken(IMAGE, special=True, normalized=False)])
    image_id = int(inner.token_to_id(IMAGE) or 0)
    if inner.encode(f"a{IMAGE}{IMAGE}\nb", add_special_tokens=False).ids.count(image_id) != 2:
        raise VrbenchError(f"the tokenizer of {folder} does not keep the image token {IMAGE} as one token")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token=loaded.bos_token, eos_token=end, unk_token=loaded.unk_token,
        pad_token=loaded.pad_token or loaded.unk_token or end, model_max_length=loaded.model_max_length,
        padding_side="left", clean_up_tokenization_spaces=False, extra_special_tokens=[IMAGE],
    )  # fmt: skip
    tokenizer.chat_template = vicuna_template(end)
    unknown = loaded.unk_token
    return ConvertedTokenizer(tokenizer, image_id, None if unknown is None else inner.token_to_id(unknown))


def _load(folder: Path, use_sentencepiece: bool) -> Any:
    """Load the tokenizer from the file that the original code reads, or else from the other."""
    from transformers import PreTrainedTokenizerFast

    found = [name for name in FILES if (folder / name).is_file()]
    if found[-1 if use_sentencepiece else 0] == SENTENCEPIECE_FILE:
        return _load_sentencepiece(folder)
    try:
        # The file as it is: the class that tokenizer_config.json names would replace parts of it by its own.
        return PreTrainedTokenizerFast.from_pretrained(folder, local_files_only=True)
    except Exception as error:  # transformers' readers raise anything
        os_errors.reraise_os_error(error)
        raise VrbenchError(f"the tokenizer of {folder} cannot be read: {error}") from error


def _load_sentencepiece(folder: Path) -> Any:
    """Return a Llama tokenizer from its SentencePiece model; its added tokens and settings from the files beside it."""
    from transformers import AddedToken

    stated, listed = (
        require_json(file) if file.is_file() else {}
        for file in (folder / "tokenizer_config.json", folder / "added_tokens.json")
    )
    settings = {key: stated[key] for key in ("add_bos_token", "add_eos_token", "model_max_length") if key in stated}
    tokenizer = _from_sentencepiece(folder / SENTENCEPIECE_FILE, {"add_bos_token": True} | settings)
    known = tokenizer.get_vocab()
    added = {text: number for text, number in listed.items() if text not in known}
    tokenizer.add_tokens([AddedToken(t, special=True, normalized=False) for t in sorted(added, key=added.__getitem__)])
    wrong = [text for text, number in added.items() if tokenizer.convert_tokens_to_ids(text) != number]
    if wrong:
        raise VrbenchError(f"{folder / 'added_tokens.json'} leaves gaps between ids: {', '.join(wrong)}")
    return tokenizer


def _from_sentencepiece(path: Path, settings: dict[str, Any]) -> Any:
    """Build a fast tokenizer that encodes like a SentencePiece model, with the settings of `LlamaTokenizer`."""
    from transformers import LlamaTokenizer
    from transformers.tokenization_utils_base import generate_merges

    model = _read_sentencepiece(path)
    ids = range(model.get_piece_size())
    scores = {model.id_to_piece(i): model.get_score(i) for i in ids}
    # Pieces that are never merged: the unknown one, control pieces such as "</s>", and bytes.
    unmerged = {model.id_to_piece(i) for i in ids if model.is_unknown(i) or model.is_control(i) or model.is_byte(i)}
    numbers = {piece: number for number, piece in enumerate(scores)}
    unknown, start, end = map(model.id_to_piece, (model.unk_id(), model.bos_id(), model.eos_id()))
    tokenizer = LlamaTokenizer(
        numbers, generate_merges(numbers, scores, skip_tokens=unmerged), legacy=True, unk_token=unknown,
        bos_token=start, eos_token=end, **settings,
    )  # fmt: skip
    _prepend_spaces(tokenizer.backend_tokenizer)
    for text in _probes([piece for piece in scores if piece not in unmerged]):
        if tokenizer.backend_tokenizer.encode(text, add_special_tokens=False).ids != model.encode(text):
            raise VrbenchError(
                f"{path} cannot be converted: {text[:60]!r} would not be encoded as SentencePiece encodes it; "
                "supported are BPE models with LLaMA's normalisation (identity, a space put first, spaces kept)"
            )
    return tokenizer


def _read_sentencepiece(path: Path) -> Any:
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError as error:
        raise VrbenchError(f"{path} needs the package sentencepiece, which is not installed") from error
    try:
        model = SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
        os_errors.reraise_os_error(error)
        raise VrbenchError(f"{path} is not a SentencePiece model: {error}") from error
    if min(model.unk_id(), model.bos_id(), model.eos_id()) < 0:
        raise VrbenchError(f"{path} lacks a piece for unknown characters, or one that starts or ends a text")
    return model


def _prepend_spaces(tokenizer: Any) -> None:
    """Make a `tokenizers.Tokenizer` put its space in front of every text as SentencePiece does.

    transformers 5 writes LLaMA's tokenizers with the pre-tokenizer Metaspace, which puts none in front of a text that
    starts with a space, and ("first") none after a special token. Other pre-tokenizers stay as they are.
    """
    from tokenizers import normalizers, pre_tokenizers

    splitter = tokenizer.pre_tokenizer
    if not isinstance(splitter, pre_tokenizers.Metaspace) or splitter.split or splitter.prepend_scheme == "never":
        return
    steps = [normalizers.Prepend(splitter.replacement), normalizers.Replace(" ", splitter.replacement)]
    before = [tokenizer.normalizer] if tokenizer.normalizer else []
    tokenizer.normalizer = normalizers.Sequence([*before, *steps])
    tokenizer.pre_tokenizer = None


def _probes(pieces: list[str]) -> Iterator[str]:
    """Yield the texts of `PROBES`, and all pieces in a row."""
    yield from PROBES
    texts = [piece.replace("▁", " ") for piece in pieces]
    for start in range(0, len(texts), PIECES_PER_PROBE):
        yield "".join(texts[start : start + PIECES_PER_PROBE])


def _with_image_token(raw: dict[str, Any]) -> dict[str, Any]:
    """Return a tokenizer's JSON with Llama 3's reserved token renamed to "<image>"."""
    added = {token["content"]: token for token in raw["added_tokens"]}
    if RESERVED in added and IMAGE not in added:
        added[RESERVED]["content"] = IMAGE
        vocabulary = raw["model"].get("vocab")
        if isinstance(vocabulary, dict) and RESERVED in vocabulary:
            vocabulary[IMAGE] = vocabulary.pop(RESERVED)
    return raw
