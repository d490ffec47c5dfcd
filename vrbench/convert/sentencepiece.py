"""The pieces of a SentencePiece model, such as Vicuna's `tokenizer.model`, read without the package of that name.

The file is a protocol buffer whose repeated field 1 is a piece: field 1 its text, field 3 its kind. Layout:
https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from vrbench.errors import VrbenchError

VARINT, EIGHT_BYTES, COUNTED, FOUR_BYTES = 0, 1, 2, 5  # wire types of protocol buffers
NORMAL, UNKNOWN, CONTROL, USER_DEFINED = 1, 2, 3, 4  # kinds of pieces


def read_pieces(path: Path) -> list[tuple[str, int]]:
    """Text and kind of every piece, in the order of their ids.

    Raises:
        VrbenchError: it is no SentencePiece model.
    """
    pieces = []
    try:
        for field, value in _fields(path.read_bytes()):
            if field == 1 and isinstance(value, bytes):
                inner = dict(_fields(value))
                text, kind = inner[1], inner.get(3, NORMAL)
                if not isinstance(text, bytes) or not isinstance(kind, int):
                    raise ValueError("a piece has no text")
                pieces.append((text.decode("utf-8"), kind))
    except (ValueError, KeyError, IndexError) as error:
        raise VrbenchError(f"{path} is no SentencePiece model") from error
    if not pieces:
        raise VrbenchError(f"{path} is no SentencePiece model: it has no pieces")
    return pieces


def _fields(content: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Number and value of each field of a message; integers for varints, bytes for all else."""
    position = 0
    while position < len(content):
        key, position = _varint(content, position)
        kind = key & 7
        if kind == VARINT:
            value, position = _varint(content, position)
            yield key >> 3, value
            continue
        if kind == COUNTED:
            length, position = _varint(content, position)
        elif kind in (EIGHT_BYTES, FOUR_BYTES):
            length = 8 if kind == EIGHT_BYTES else 4
        else:
            raise ValueError(f"wire type {kind}")
        if position + length > len(content):
            raise ValueError("the message is cut")
        yield key >> 3, content[position : position + length]
        position += length


def _varint(content: bytes, position: int) -> tuple[int, int]:
    """The number that starts at a position, seven bits a byte, and the position after it."""
    number = shift = 0
    while True:
        byte = content[position]
        number |= (byte & 127) << shift
        position += 1
        if byte < 128:
            return number, position
        shift += 7
