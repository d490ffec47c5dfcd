"""The tokenizer of a `tokenizer.model`, such as Vicuna's: read with the library sentencepiece, and held to it.

What is matched: transformers' slow `LlamaTokenizer` with `legacy=True` (4.31.0, which LLaVA-1.5 was trained with, and
4.37.2, of its last release), and the `tokenizer.json` that transformers 4 made of it, as in llava-hf's LLaVA-1.5. A
text is cut at special tokens, and each part is encoded as SentencePiece encodes it: with a space put before it,
whatever it starts with. `legacy` decides only what follows a special token inside a text, such as "</s>USER" between
two turns: "▁US", "ER" here and in both versions; with `legacy=False` "US", "ER" in 4.31.0 and "USER" in 4.37.2. Which
of them a checkpoint saw in training hung on a setting beside its base, and a prompt of one turn, with no special token
but its first, is the same in all.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vrbench.core import os_errors
from vrbench.core.errors import VrbenchError

PROBE = (
    "def f(x):\n    return {'a': x  +  1}\t# two  spaces\n\n\n| red  (B) |   12345   |\n|:---|---:|\n",
    "  It starts with spaces, and ends with them.   ",
    " " * 3, " " * 17, "\t\t", "\n", "a\r\nb", "▁ ▁▁",
    "Größe ½ ﬁ Ａ é e\u0301, naïve; 漢字かな交じり文, 한국어, العربية, हिन्दी, 👩‍👩‍👧 🏳️‍🌈 \u00a0\u200b\x07",
    "<0x0A> <image",
)  # fmt: skip
"""Texts in which tokenizers differ: runs of spaces, code, tables, other scripts, what is in no vocabulary."""

AT_ONCE = 64  # pieces that are put into one text when all of them are tried


@dataclass(frozen=True)
class SentencePieceModel:
    """What a `tokenizer.model` holds.

    Attributes:
        scores: piece -> score, in the order of ids; of two pieces that may be merged the higher score is merged first.
        silent: pieces that are never merged: the unknown one, control pieces such as "</s>", and bytes.
        unknown, start, end: the three that LLaMA's tokenizers name.
        processor: the library's own tokenizer.
    """

    scores: dict[str, float]
    silent: frozenset[str]
    unknown: str
    start: str
    end: str
    processor: Any


def read_pieces(path: Path) -> SentencePieceModel:
    """The pieces of a SentencePiece model.

    Raises:
        VrbenchError: it is none, it has no piece that starts or ends a text, or the library is not installed.
    """
    try:
        from sentencepiece import SentencePieceProcessor
    except ImportError as error:
        raise VrbenchError(f"{path} needs the package sentencepiece, which is not installed") from error
    try:
        read = SentencePieceProcessor(model_file=str(path))
    except (RuntimeError, OSError) as error:
        os_errors.reraise_os_error(error)
        raise VrbenchError(f"{path} is no SentencePiece model: {error}") from error
    ids = range(read.get_piece_size())
    named = (read.unk_id(), read.bos_id(), read.eos_id())
    if min(named) < 0:
        raise VrbenchError(f"{path} lacks a piece for the unknown, or one that starts or ends a text")
    silent = (i for i in ids if read.is_unknown(i) or read.is_control(i) or read.is_byte(i))
    unknown, start, end = map(read.id_to_piece, named)
    scores = {read.id_to_piece(i): read.get_score(i) for i in ids}
    return SentencePieceModel(scores, frozenset(map(read.id_to_piece, silent)), unknown, start, end, read)


def build(path: Path, **settings: Any) -> Any:
    """A fast tokenizer that encodes as SentencePiece does.

    Args:
        path: the `tokenizer.model`.
        settings: of transformers' `LlamaTokenizer`, such as `add_bos_token`.

    Raises:
        VrbenchError: as `read_pieces`; or the two encode a text differently, as with a model that is no BPE.
    """
    from transformers import LlamaTokenizer
    from transformers.tokenization_utils_base import generate_merges

    pieces = read_pieces(path)
    ids = {piece: number for number, piece in enumerate(pieces.scores)}
    merges = generate_merges(ids, pieces.scores, skip_tokens=pieces.silent)
    made = LlamaTokenizer(
        ids, merges, legacy=True, unk_token=pieces.unknown, bos_token=pieces.start, eos_token=pieces.end, **settings
    )
    put_spaces_first(made.backend_tokenizer)
    for text in _probes(pieces):
        found = made.backend_tokenizer.encode(text, add_special_tokens=False).ids
        if found != pieces.processor.encode(text):
            raise VrbenchError(
                f"{path} cannot be converted: {text[:60]!r} would not be encoded as SentencePiece encodes it; what can "
                "be converted is a BPE model with LLaMA's normalisation (identity, a space put first, spaces kept)"
            )
    return made


def put_spaces_first(tokenizer: Any) -> None:
    """Make a `tokenizers.Tokenizer` put its space before every text as SentencePiece does.

    transformers 5 writes LLaMA's tokenizers with the pre-tokenizer Metaspace, which puts none before a text that
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


def _probes(pieces: SentencePieceModel) -> Iterator[str]:
    """The texts of `PROBE`, and all pieces behind one another."""
    yield from PROBE
    whole = [piece.replace("▁", " ") for piece in pieces.scores if piece not in pieces.silent]
    for start in range(0, len(whole), AT_ONCE):
        yield "".join(whole[start : start + AT_ONCE])
