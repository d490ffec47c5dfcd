"""Token ids of many texts whose beginnings repeat (few-shot examples, a question before its options), each part once.

A text is cut where every pre-tokenizer known here splits: behind an ASCII letter or digit, before a line break or
before a space and a letter. The parts between cuts are tokenized without special tokens and put together again, which
gives the ids of the whole text: byte-pair and other models of the `tokenizers` library work inside the pieces that the
pre-tokenizer leaves. That does not hold for SentencePiece-like tokenizers (Metaspace, or a normalizer that puts a space
in front); with those, and wherever a sample of the texts shows a difference, texts are tokenized whole, in batches.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

LINE_CUT = re.compile(r"(?<=[0-9A-Za-z])(?=\n)")
WORD_CUT = re.compile(r"(?<=[0-9A-Za-z])(?= [A-Za-z])")

MIN_PART = 200
"""Characters of a beginning below which a cut for the next text is not worth it."""

PARTS_PER_BATCH = 512
"""Parts that are tokenized at a time, which bounds the memory of what the library returns for them."""

CHECKED_TEXTS = 4
"""Texts of a call whose ids are compared with those of the whole texts."""

_UNSAFE_PATTERN = re.compile(r"\(\?<|\\[bBAGzZ]|(?<!\[)\^|\$")
"""Parts of a regular expression that look at what is before a match, or for the ends of the text."""

_BEFORE = ("The cat", "A", "z", "Paris is 75", "0", "I'll", "x_1", "été a", "(B) no", "don't")
_BEHIND = (
    "\nB", "\n\nQuestion: a", "\n 1", "\n", "\n\t.", "\n\n\n  x", "\n“", "\n中", " b", " b's", " The end", " i18n",
)  # fmt: skip
_PROBES = [before + behind for before in _BEFORE for behind in _BEHIND]
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

    def encode(self, texts: Sequence[str], add_special_tokens: Sequence[bool]) -> Iterator[list[int]]:
        """Return the token ids of each text, one after the other, since all together would fill the memory.

        Args:
            texts: in an order in which those with the same beginning follow each other.
            add_special_tokens: of each text, whether the tokenizer adds its special tokens.
        """
        if self.cuts:
            of_texts = list(split(texts))
            ids = self._encode_parts(of_texts)
            checked = range(0, len(texts), max(1, len(texts) // CHECKED_TEXTS))
            parts, added = [of_texts[i] for i in checked], [add_special_tokens[i] for i in checked]
            whole = [self._whole(texts[i], add_special_tokens[i]) for i in checked]
            if list(self._join(parts, ids, added)) == whole:
                return self._join(of_texts, ids, add_special_tokens)
            self.cuts = False
        return iter(self._encode_whole(texts, add_special_tokens))

    def _whole(self, text: str, add_special_tokens: bool) -> list[int]:
        # Not verbose: it would warn of long texts, which are truncated or cut into windows afterwards.
        return list(self._tokenizer.encode(text, add_special_tokens=add_special_tokens, verbose=False))

    def _encode_whole(self, texts: Sequence[str], add_special_tokens: Sequence[bool]) -> list[list[int]]:
        if not getattr(self._tokenizer, "is_fast", False):
            return [self._whole(text, add) for text, add in zip(texts, add_special_tokens, strict=True)]
        encoded: list[list[int]] = [[] for _ in texts]
        for special in (True, False):
            numbers = [n for n, add in enumerate(add_special_tokens) if bool(add) is special]
            for start in range(0, len(numbers), PARTS_PER_BATCH):
                batch = numbers[start : start + PARTS_PER_BATCH]
                several = [texts[n] for n in batch]
                ids = self._tokenizer(several, add_special_tokens=special, verbose=False)["input_ids"]
                for number, found in zip(batch, ids, strict=True):
                    encoded[number] = list(found)
        return encoded

    def _encode_parts(self, of_texts: Sequence[Sequence[str]]) -> dict[str, list[int]]:
        """Return the token ids of each part, without special tokens."""
        parts = list(dict.fromkeys(part for parts in of_texts for part in parts))
        self._whole("", add_special_tokens=False)  # resets truncation and padding
        ids: dict[str, list[int]] = {}
        for start in range(0, len(parts), PARTS_PER_BATCH):
            batch = parts[start : start + PARTS_PER_BATCH]
            found = self._tokenizer.backend_tokenizer.encode_batch_fast(batch, add_special_tokens=False)
            ids.update((part, one.ids) for part, one in zip(batch, found, strict=True))
        return ids

    def _join(
        self, of_texts: Iterable[Sequence[str]], ids: Mapping[str, Sequence[int]], add_special_tokens: Iterable[bool]
    ) -> Iterator[list[int]]:
        for parts, add in zip(of_texts, add_special_tokens, strict=True):
            whole = list(self._first) if add else []
            for part in parts:
                whole += ids[part]
            yield whole


def split(texts: Sequence[str]) -> Iterator[list[str]]:
    """Yield each text in parts, cut so that texts which follow each other share their first parts.

    A text is cut where the one before was cut, as far as both are the same; at its last line that it shares with the
    one before; and where the next text continues it, at the last word.
    """
    cuts: list[int] = []
    parts: list[str] = []
    shared = 0
    for number, text in enumerate(texts):
        following = texts[number + 1] if number + 1 < len(texts) else ""
        kept = sum(1 for cut in cuts if cut + 2 <= shared)  # both characters on which a cut depends are the same
        cuts, parts = cuts[:kept], parts[:kept]
        _cut(text, last_cut(LINE_CUT, text, shared), cuts, parts, MIN_PART)
        ahead = shared_length(text, following)
        if ahead == len(text):
            _cut(text, max(last_cut(LINE_CUT, text, ahead), last_cut(WORD_CUT, text, ahead)), cuts, parts, 1)
        yield [*parts, text[cuts[-1] if cuts else 0 :]]
        shared = ahead


def _cut(text: str, place: int, cuts: list[int], parts: list[str], shortest: int) -> None:
    """Cut a text at a place, unless the part that this makes is too short."""
    start = cuts[-1] if cuts else 0
    if place - start >= shortest:
        cuts.append(place)
        parts.append(text[start:place])


def last_cut(kind: re.Pattern[str], text: str, end: int) -> int:
    """Return the last place in the first `end` characters of a text where it may be cut; 0 if there is none."""
    mark = "\n" if kind is LINE_CUT else " "
    place = text.rfind(mark, 0, end)
    while place > 0 and not kind.match(text, place):
        place = text.rfind(mark, 0, place)
    return max(0, place)


def shared_length(one: str, other: str) -> int:
    """Return the number of characters with which both texts begin."""
    if other.startswith(one):
        return len(one)
    low, high = 0, min(len(one), len(other))  # texts share `low` characters, and less than `high` + 1
    while low < high:
        middle = (low + high + 1) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low


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
    over = re.search(r"[0-9A-Za-z][\n ]", token.content)
    eats = token.rstrip and re.search(r"[0-9A-Za-z]$", token.content)
    return not over and not eats and not (token.single_word and token.content[:1].isspace())


def _is_split(pre_tokenizer: Any, probe: str) -> bool:
    """Return whether a pre-tokenizer splits a text wherever it may be cut."""
    starts = {start for _, (start, _) in pre_tokenizer.pre_tokenize_str(probe)}
    places = [match.start() for kind in (LINE_CUT, WORD_CUT) for match in kind.finditer(probe)]
    return all(place in starts for place in places)
