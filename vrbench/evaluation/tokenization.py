"""Token ids of many texts whose beginnings repeat (few-shot examples, a question before its options), each part once.

A text is cut where the usual pre-tokenizers split: between an ASCII letter or digit and a line break, and between any
visible ASCII character and a space before a letter. The parts are tokenized without special tokens and put
together again, which gives the ids of the whole text: byte-pair and other models of the `tokenizers` library work
inside the pieces that the pre-tokenizer leaves. That does not hold for SentencePiece-like tokenizers (Metaspace, or a
normalizer that puts a space in front); with those, and wherever a sample of the texts shows a difference, texts are
tokenized whole, in batches.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby, islice
from operator import itemgetter
from typing import Any

from vrbench.models.packing import common_prefix_length

CUT = re.compile(r"(?<=[0-9A-Za-z])(?=\n)|(?<=[!-~])(?= [A-Za-z])")

MIN_PART = 200
"""Characters of a beginning below which a cut for the next text is not worth it."""

WINDOW = 1024
"""Texts that are tokenized at a time."""

CHECKED_TEXTS = 2
"""Texts of a window whose ids are compared with those of the whole texts."""

_UNSAFE_PATTERN = re.compile(r"\(\?<|\\[bBAGzZ]|(?<!\[)\^|\$")
"""Parts of a regular expression that look at what is before a match, or for the ends of the text."""

_LINES = ("\nB", "\n\nQuestion: a", "\n 1", "\n", "\n\t.", "\n\n\n  x", "\n“", "\n中")
_WORDS = (" b", " b's", " The end", " i18n")
_PROBES = [
    *(text + line for text in ("The cat", "A", "z", "Paris is 75", "0", "I'll", "x_1", "été a") for line in _LINES),
    *(text + chr(mark) + word for text in ("", "x", " ", "12") for mark in range(33, 127) for word in _WORDS),
]
"""Texts with a cut, at which a pre-tokenizer has to split."""


class BatchTokenizer:
    """Tokenizes texts as `tokenizer.encode` does each of them, faster.

    Attributes:
        cuts: whether texts are cut, as the tokenizer allows and no text so far has shown to be wrong.
    """

    def __init__(self, tokenizer: Any) -> None:
        """Args: tokenizer: from transformers."""
        self._tokenizer = tokenizer
        self.cuts = can_cut(tokenizer)
        self._first: list[int] = []
        if self.cuts:
            plain, special = (self._whole("a", add_special_tokens=add) for add in (False, True))
            self._first = special[: len(special) - len(plain)]
            self.cuts = special == self._first + plain  # nothing is added at the end

    def encode(self, texts: Iterable[tuple[str, bool]]) -> Iterator[list[int]]:
        """Yield the token ids of each text; those of a few texts are in memory at a time.

        Args:
            texts: each with whether the tokenizer adds its special tokens, in an order in which those with the same
                beginning follow each other.
        """
        rest = iter(texts)
        while window := list(islice(rest, WINDOW)):
            yield from self._encode_window(window)

    def _encode_window(self, window: Sequence[tuple[str, bool]]) -> Iterable[list[int]]:
        if self.cuts:
            of_texts = list(split([text for text, _ in window]))
            ids = self._encode_parts(of_texts)
            checked = range(0, len(window), max(1, len(window) // CHECKED_TEXTS))
            if all(self._join(of_texts[i], ids, window[i][1]) == self._whole(*window[i]) for i in checked):
                return (self._join(parts, ids, add) for parts, (_, add) in zip(of_texts, window, strict=True))
            self.cuts = False
        return self._encode_whole(window)

    def _whole(self, text: str, add_special_tokens: bool) -> list[int]:
        # Not verbose: it would warn of long texts, which are truncated or cut into windows afterwards.
        return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens, verbose=False))

    def _encode_whole(self, window: Sequence[tuple[str, bool]]) -> Iterator[list[int]]:
        if not getattr(self._tokenizer, "is_fast", False):
            yield from (self._whole(*one) for one in window)
            return
        for add, group in groupby(window, key=itemgetter(1)):
            several = [text for text, _ in group]
            yield from self._tokenizer(several, add_special_tokens=add, verbose=False)["input_ids"]

    def _encode_parts(self, of_texts: Iterable[Sequence[str]]) -> dict[str, list[int]]:
        """Return the token ids of each part, without special tokens."""
        parts = list(dict.fromkeys(part for parts in of_texts for part in parts))
        self._whole("", add_special_tokens=False)  # resets truncation and padding
        encoded = self._tokenizer.backend_tokenizer.encode_batch_fast(parts, add_special_tokens=False)
        return {part: one.ids for part, one in zip(parts, encoded, strict=True)}

    def _join(self, parts: Iterable[str], ids: Mapping[str, Sequence[int]], add_special_tokens: bool) -> list[int]:
        whole = list(self._first) if add_special_tokens else []
        for part in parts:
            whole += ids[part]
        return whole


def split(texts: Sequence[str]) -> Iterator[list[str]]:
    """Yield each text in parts, cut so that texts which follow each other share their first parts.

    A text is cut where the one before was cut, as far as both are the same; behind the last line that it shares with
    the one before or, as the first of its kind, with the next one; and where the next text continues it, as late as
    possible.
    """
    cuts: list[int] = []
    parts: list[str] = []
    shared = before = 0
    for number, text in enumerate(texts):
        kept = sum(1 for cut in cuts if cut + 2 <= shared or (cut <= shared and CUT.match(text, cut)))
        cuts, parts = cuts[:kept], parts[:kept]
        header = shared
        if not cuts:
            others = (texts[n] for n in range(number + 1, len(texts)))
            other = next((one for one in others if not one.startswith(text)), "")
            header = max(shared, common_prefix_length(text, other))
        can_cut_here = CUT.match(text, shared)
        if not (can_cut_here and shared == before):  # else the text before was cut here already
            _cut(text, _last(text, "\n", header), cuts, parts, MIN_PART)
        if can_cut_here:
            _cut(text, shared, cuts, parts)
        following = texts[number + 1] if number + 1 < len(texts) else ""
        shared = common_prefix_length(text, following)
        if shared == len(text) and not CUT.match(following, shared):
            _cut(text, max(_last(text, "\n", shared), _last(text, " ", shared)), cuts, parts)
        before = len(text)
        yield [*parts, text[cuts[-1] if cuts else 0 :]]


def _cut(text: str, place: int, cuts: list[int], parts: list[str], shortest: int = 1) -> None:
    """Cut a text at a place, unless the part that this makes is too short."""
    start = cuts[-1] if cuts else 0
    if place - start >= shortest:
        cuts.append(place)
        parts.append(text[start:place])


def _last(text: str, mark: str, end: int) -> int:
    """Return the last place in the first `end` characters before a mark where a text may be cut; 0 if there is none."""
    place = text.rfind(mark, 0, end)
    while place > 0 and not CUT.match(text, place):
        place = text.rfind(mark, 0, place)
    return max(0, place)


def can_cut(tokenizer: Any) -> bool:
    """Return whether a tokenizer gives a text the ids of its parts, as far as its definition shows."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None or not hasattr(backend, "encode_batch_fast") or backend.pre_tokenizer is None:
        return False
    steps = [*_steps(backend.normalizer, "normalizers"), *_steps(backend.pre_tokenizer, "pretokenizers")]
    return (
        not getattr(backend.model, "dropout", None)
        and all(map(_is_harmless, backend.get_added_tokens_decoder().values()))
        and all(map(_is_local, steps))
        and all(_is_split(backend.pre_tokenizer, probe) for probe in _PROBES)
    )


def _steps(component: Any, of_sequence: str) -> list[dict[str, Any]]:
    """Return the definitions of a normalizer or pre-tokenizer, one for each of a sequence."""
    if component is None:
        return []
    state = json.loads(component.__getstate__())
    return list(state[of_sequence]) if state["type"] == "Sequence" else [state]


def _is_local(step: dict[str, Any]) -> bool:
    """Return whether a step does with a part of a text, cut as here, what it does with it in the whole text."""
    if step["type"] == "ByteLevel":
        return step.get("add_prefix_space") is False
    if step["type"] == "Split":
        pattern = step["pattern"]
        return "Regex" in pattern and not _UNSAFE_PATTERN.search(pattern["Regex"])
    return step["type"] in ("NFC", "Digits")


def _is_harmless(token: Any) -> bool:
    """Return whether an added token can neither reach over a cut, nor depends on what is before one."""
    over = re.search(r"[0-9A-Za-z]\n|[!-~] ", token.content)
    eats = token.rstrip and re.search(r"[!-~]$", token.content)
    return not over and not eats and not (token.single_word and token.content[:1].isspace())


def _is_split(pre_tokenizer: Any, probe: str) -> bool:
    """Return whether a pre-tokenizer splits a text wherever it may be cut."""
    starts = {start for _, (start, _) in pre_tokenizer.pre_tokenize_str(probe)}
    return all(match.start() in starts for match in CUT.finditer(probe))
