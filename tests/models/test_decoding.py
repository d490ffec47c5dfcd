"""Where an answer ends, and the choice of a token, without a model."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from vrbench.models.decoding import StopCriteria, argmax_or_nan, is_finished

END = "</s>"
HALF = ("\N{REPLACEMENT CHARACTER}", "\N{REPLACEMENT CHARACTER}")
"""Two tokens, each half of an é."""


def spoken(pieces: Sequence[str]) -> tuple[Any, list[int]]:
    """A model whose tokens are the pieces' places, and the tokens; alone, a piece loses its first space."""

    def decode(tokens: Sequence[int], skip_special_tokens: bool = False) -> str:
        text = "".join(pieces[t] for t in tokens if not (skip_special_tokens and pieces[t] == "<pad>"))
        return text.replace("".join(HALF), "é")

    vlm = SimpleNamespace(
        tokenizer=SimpleNamespace(decode=decode),
        token_text=lambda token: pieces[token].removeprefix(" "),
        stop_token_ids={i for i, piece in enumerate(pieces) if piece == END},
    )
    return vlm, list(range(len(pieces)))


@pytest.mark.parametrize(
    ("pieces", "until", "is_end"),
    [
        (("ab", "c"), (), False),
        (("ab", END), (), True),
        (("ab", "c"), ("bc",), True),  # it ends with the new token's last character
        (("ab", "c"), ("", "never", "bc"), True),
        (("ab", "c"), ("",), False),
        (("ab", "c"), ("b",), False),  # said earlier, when the answer would have ended
        (("ab", "cd"), ("bc",), True),
        (("ab", "cd"), ("bd",), False),
        (("x", *HALF), ("é",), True),  # a part of a character shows no text
        (("a", " x"), (" ",), True),  # the new token alone loses its space
        (("a", " x"), ("a ",), True),
        (("a", " x"), ("b ",), False),
        (("b", "<pad>", "c"), ("bc",), True),  # special tokens are no part of the answer
        (("bc", *"ccccc"), ("bc",), True),
        (("bc", *"cccccc"), ("bc",), False),  # as many tokens as the stop text has bytes, and 4 more, are read
    ],
)
def test_an_answer_ends_with_the_token_that_completes_a_stop_text(
    pieces: tuple[str, ...], until: tuple[str, ...], is_end: bool
) -> None:
    vlm, tokens = spoken(pieces)
    assert is_finished(vlm, tokens, StopCriteria(100, until)) is is_end
    assert is_finished(vlm, tokens, StopCriteria(len(tokens), until))
    assert is_finished(vlm, tokens, StopCriteria(len(tokens) + 1, until)) is is_end


def test_the_likeliest_token_is_chosen_and_nan_marked() -> None:
    scores = torch.tensor([[0.0, 3.0, 1.0], [5.0, -1.0, float("inf")]])
    assert argmax_or_nan(scores).tolist() == [1, 2]
    scores[0, 2] = float("nan")
    assert argmax_or_nan(scores).tolist() == [-1, 2]
