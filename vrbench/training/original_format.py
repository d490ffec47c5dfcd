"""Conversations as the training code of LLaVA-1.5 and Bunny writes, tokenizes and labels them.

The code is haotian-liu/LLaVA, llava/train/train.py (`preprocess_v1`), BAAI-DCAI/Bunny, bunny/util/data_utils.py
(`preprocess_bunny`, `preprocess_bunny_with_bos`) and SiyuanWangw/Visual-Region, the same file. They differ only in
the separator, the end token and whether a text begins with a BOS token, which are read from the tokenizer here.

What differs from the labels of `ConversationEncoder`: an empty message has neither separator nor end token; text before
and behind an image is tokenized separately; a `<image>` in a sample without images is text; and the labels are found by
counting tokens round by round, a round being what is between two end tokens. Where that count differs from the
number of all tokens (the last answer is empty or missing, or a text contains "ASSISTANT: " or an end token), no token
of the sample has a label.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from vrbench.checkpoints.prompts import IMAGE, LLAVA_SYSTEM, vicuna_separator
from vrbench.core.errors import VrbenchError
from vrbench.training.trainer import IGNORED

IMAGE_PLACE = -200
"""Stands for an image among token ids, as in the original code."""


class OriginalFormat:
    """Makes token ids and labels as the original code does; it holds no weights."""

    def __init__(self, tokenizer: Any, max_tokens: int) -> None:
        """Keep a LLaVA's tokenizer, whose chat template has to be LLaVA-1.5's or Bunny's conversation.

        Raises:
            VrbenchError: it writes prompts in another way.
        """
        separator = vicuna_separator(tokenizer)
        if separator is None:
            raise VrbenchError("the chat template does not write LLaVA-1.5's or Bunny's conversation")
        self.separator, self.end, self.max_tokens = separator, str(tokenizer.eos_token), max_tokens
        self._pad_id, self._pads_with_end = tokenizer.pad_token_id, tokenizer.pad_token_id == tokenizer.eos_token_id
        self._tokenizer = tokenizer_without_image(tokenizer)
        self._beginning = self._count("")
        whole = self._count(f"{self.end}USER") - self._count(self.end)
        self._shorter = self._count("USER") - self._beginning - whole

    def write(self, messages: Sequence[str]) -> str:
        """Return the text of a conversation whose messages alternate, a question first."""
        text = f"{LLAVA_SYSTEM}{self.separator}"
        for number, message in enumerate(messages):
            role, close = (("USER", self.separator), ("ASSISTANT", self.end))[number % 2]
            text += f"{role}: {message}{close}" if message else f"{role}:"
        return text

    def encode(self, messages: Sequence[str], has_image: bool) -> tuple[list[int], list[int]]:
        """Return token ids, with IMAGE_PLACE for each placeholder of a sample with an image, and their labels.

        A text without images is truncated to the maximum; with images it is for the caller to do.
        """
        text = self.write(messages)
        ids = self._tokens(text) if has_image else self._tokenizer.encode(text).ids[: self.max_tokens]
        is_label = [False] * len(ids)
        at, rounds = self._beginning, 0
        head = f"{self.separator}ASSISTANT: "
        for said in text.split(self.end):
            question, *answer = said.split(head)
            if len(answer) != 1:
                break
            # After an end token, a tokenizer may put no space in front of a text, which then has fewer tokens.
            shorter = self._shorter if rounds else 0
            asked = self._count(question + head, has_image) - self._beginning - shorter - 1  # " " goes to the answer
            length = self._count(said, has_image) - self._beginning - shorter + 1  # with the end token
            for place in range(at + asked, min(at + length, len(ids))):
                is_label[place] = True
            at, rounds = at + length, rounds + 1
        if self._pads_with_end:
            at -= rounds
        counted = sum(token != self._pad_id for token in ids)
        if at < self.max_tokens and at != counted:
            is_label = [False] * len(ids)
        return ids, [token if learned else IGNORED for token, learned in zip(ids, is_label, strict=True)]

    def _tokens(self, text: str) -> list[int]:
        """Return the ids of a text with images: each part is tokenized by itself, the first with its beginning."""
        first, *others = (self._tokenizer.encode(part).ids for part in text.split(IMAGE))
        return [*first, *(token for part in others for token in (IMAGE_PLACE, *part[self._beginning :]))]

    def _count(self, text: str, has_image: bool = False) -> int:
        return len(self._tokens(text) if has_image else self._tokenizer.encode(text).ids)


def tokenizer_without_image(tokenizer: Any) -> Any:
    """Return a `tokenizers.Tokenizer` like a transformers one, that reads the placeholder of an image as text."""
    from tokenizers import Tokenizer

    raw = json.loads(tokenizer.backend_tokenizer.to_str())
    hidden = f"\ue000{IMAGE}"  # in a private area of Unicode, so that no text has it; ids stay as they are
    for token in raw["added_tokens"]:
        token["content"] = token["content"].replace(IMAGE, hidden)
    vocabulary = raw["model"].get("vocab")
    if isinstance(vocabulary, dict) and IMAGE in vocabulary:
        vocabulary[hidden] = vocabulary.pop(IMAGE)
    found = Tokenizer.from_str(json.dumps(raw))
    found.no_truncation()
    found.no_padding()
    return found
