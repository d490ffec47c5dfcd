"""Texts tokenized in parts have the ids of the whole texts, with every kind of tokenizer that may be cut."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from vrbench.evaluation import tokenization
from vrbench.evaluation.tokenization import CUT, BatchTokenizer, can_cut, split
from vrbench.models.packing import common_prefix_length

LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
O200K = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
    r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = ["<s>", "</s>", "<image>", "<|end|>"]
CORPUS = [
    "The quick brown fox\njumps over the lazy dog.\n\nQuestion: What's 12 + 345?\nAnswer: 357\n\n",
    "A. a cat\nB. the hat\nC. it's\n\n\nD. the cat's  hat \t\nAnswer: A\n\nAnswer:\n the the the\nThe cat\n",
    "été naïve 中文字符 答案：A\n\n数学 12 ３４ Straße ½ e\u0301tude\n",
] * 5


def split_on(pattern: str) -> Any:
    isolated = pre_tokenizers.Split(Regex(pattern), "isolated")
    return pre_tokenizers.Sequence([isolated, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def made(pre_tokenizer: Any, normalizer: Any = None, begins: bool = False, added: tuple[Any, ...] = ()) -> Any:
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizer
    if normalizer is not None:
        inner.normalizer = normalizer
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    inner.train_from_iterator(CORPUS, trainer)
    inner.decoder = decoders.ByteLevel()
    inner.add_tokens(list(added))
    if begins:
        first = [("<s>", inner.token_to_id("<s>"))]
        inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=first)
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>")


GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
SMOLLM2 = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), GPT2])
DEEPSEEK = pre_tokenizers.Sequence(
    [
        *(
            pre_tokenizers.Split(Regex(one), "isolated")
            for one in ("[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+")
        ),
        pre_tokenizers.Digits(individual_digits=True),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ]
)
CUTTABLE = {
    "gpt2": lambda: made(GPT2),
    "smollm2": lambda: made(SMOLLM2, begins=True),
    "llama3": lambda: made(split_on(LLAMA3), begins=True),
    "qwen": lambda: made(split_on(QWEN), normalizers.NFC()),
    "o200k": lambda: made(split_on(O200K)),
    "deepseek": lambda: made(DEEPSEEK, begins=True),
    "added": lambda: made(
        split_on(LLAMA3), added=(AddedToken("<x>", lstrip=True), AddedToken("   "), AddedToken("\n\n"))
    ),
}
WHOLE = {
    "metaspace": lambda: made(pre_tokenizers.Metaspace()),
    "spaces in front": lambda: made(pre_tokenizers.ByteLevel(add_prefix_space=True)),
    "a normalizer in front": lambda: made(GPT2, normalizers.Prepend("_")),
    "no words": lambda: made(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)),
    "looks back": lambda: made(split_on(r"(?<=t)\n\w+|" + LLAMA3)),
    "lines together": lambda: made(split_on(r"\p{L}+\n*|" + LLAMA3)),
    "several words": lambda: made(split_on(r"\p{L}+( \p{L}+)*|" + LLAMA3)),
    "over a line": lambda: made(GPT2, added=(AddedToken("cat\nB"),)),
    "eats spaces": lambda: made(GPT2, added=(AddedToken("<x>", rstrip=True),)),
    "over a space": lambda: made(GPT2, added=(AddedToken(": A"),)),
    "whole words": lambda: made(GPT2, added=(AddedToken(" the", single_word=True),)),
}


@pytest.fixture(scope="module", params=sorted(CUTTABLE))
def cut(request: pytest.FixtureRequest) -> Any:
    return CUTTABLE[request.param]()


@pytest.fixture(scope="module", params=sorted(WHOLE))
def whole(request: pytest.FixtureRequest) -> Any:
    return WHOLE[request.param]()


WORDS = st.sampled_from(
    ["The", "cat", " the", " hat", "\n", "\n\n", " ", "  ", "\t", "\r\n", ".", "?", ":", "1", "12", "3456", " 7", "'s",
     "'ll", "é", "e\u0301", "中文", "３", "½", "ſ", "Answer:", "Question", "A", " B", "<s>", "</s>", "<|end|>",
     "<image>", "<x>", "s", "\u00a0", "\u2028", "\u200b", "\ufeff", "🙂", "_", "-", "\x00", "\u0301", "ﬁ", "İ"]
)  # fmt: skip
TEXT = st.lists(WORDS | st.text(max_size=3), max_size=25).map("".join)


@st.composite
def families(draw: st.DrawFn) -> list[str]:
    """Texts whose beginnings repeat: headers, contexts and continuations."""
    texts = []
    for header in draw(st.lists(TEXT, min_size=1, max_size=3)):
        for context in draw(st.lists(TEXT, max_size=3)):
            texts += [header + context, *(header + context + end for end in draw(st.lists(TEXT, max_size=3)))]
    return texts


@settings(max_examples=20, deadline=None)
@given(texts=families(), add=st.randoms())
def test_parts_give_the_ids_of_whole_texts(cut: Any, texts: list[str], add: Any) -> None:
    fast = BatchTokenizer(cut)
    assert fast.cuts
    added = [add.random() < 0.7 for _ in texts]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenization, "MIN_PART", 1)
        found = list(fast.encode(zip(texts, added, strict=True)))
    assert fast.cuts
    assert found == [cut.encode(text, add_special_tokens=a) for text, a in zip(texts, added, strict=True)]


@settings(max_examples=50, deadline=None)
@given(text=TEXT)
def test_a_tokenizer_splits_wherever_a_text_may_be_cut(cut: Any, text: str) -> None:
    for match in CUT.finditer(text):
        parts = [text[: match.start()], text[match.start() :]]
        ids = [token for part in parts for token in cut.encode(part, add_special_tokens=False)]
        assert ids == cut.encode(text, add_special_tokens=False)


def test_other_tokenizers_get_whole_texts(whole: Any) -> None:
    assert not can_cut(whole)
    texts = ["The cat\nB the hat\n", "The cat\nB the hat\n x", "", "The cat the"]
    fast = BatchTokenizer(whole)
    for added in ([True] * 4, [False, True, True, False]):
        expected = [whole.encode(text, add_special_tokens=a) for text, a in zip(texts, added, strict=True)]
        assert list(fast.encode(zip(texts, added, strict=True))) == expected


def test_an_end_that_is_added_behind_forbids_cuts() -> None:
    both = made(GPT2)
    special = [(text, both.convert_tokens_to_ids(text)) for text in ("<s>", "</s>")]
    both.backend_tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=special)
    assert can_cut(both)
    assert not BatchTokenizer(both).cuts
    assert list(BatchTokenizer(both).encode([("The cat\nB", True), ("The cat\nB", False)])) == [
        both.encode("The cat\nB"), both.encode("The cat\nB", add_special_tokens=False)
    ]  # fmt: skip


def test_python_tokenizers_are_asked_one_by_one() -> None:
    class Slow:
        def encode(self, text: str, add_special_tokens: bool, verbose: bool) -> list[int]:
            return [1] * add_special_tokens + [ord(c) for c in text]

    assert list(BatchTokenizer(Slow()).encode([("ab", True), ("abc", False)])) == [[1, 97, 98], [97, 98, 99]]


def test_a_difference_in_a_sample_ends_the_cutting(monkeypatch: pytest.MonkeyPatch) -> None:
    words = WHOLE["a normalizer in front"]()
    monkeypatch.setattr(tokenization, "can_cut", lambda tokenizer: True)
    fast = BatchTokenizer(words)
    texts = [f"Which cat\nAnswer:{end}" for end in ("", " A", " B", " cat")]
    assert fast.cuts
    assert list(fast.encode((text, False) for text in texts)) == [words.encode(text) for text in texts]
    assert not fast.cuts


@pytest.mark.parametrize("more", ["", " is it" * 100])
def test_what_texts_share_is_one_part(more: str) -> None:
    header = "Examples " * 50 + "\nAnswer: A"
    contexts = [
        f"{header}\n\n{question}{more}\nA. x1\nB. {last}\nAnswer:" for question, last in (("Who", "y"), ("Why", "z!"))
    ]
    texts = [context + end for context in contexts for end in ("", " A", " B")]
    parts = list(split(texts))
    assert list(map("".join, parts)) == texts
    assert [len(of) for of in parts] == [2, 3, 3] * 2
    assert {of[0] for of in parts} == {header}
    assert len({part for of in parts for part in of}) == 1 + 2 + 2  # header, questions, options
    assert list(split(["Examples\nB", *texts]))[1:] == parts  # also where the text before begins like the header


def test_a_cut_stays_only_where_the_next_text_may_be_cut_too() -> None:
    texts = ["The cat", "The cat\nB", "The cats", "The cat B", "The cat 1"]
    assert list(split(texts)) == [["The cat"], ["The cat", "\nB"], ["The cats"], ["The cat", " B"], ["The cat 1"]]


@given(one=TEXT, other=TEXT)
def test_the_shared_beginning_is_the_longest(one: str, other: str) -> None:
    n = common_prefix_length(one, other)
    assert one[:n] == other[:n]
    assert one[n : n + 1] != other[n : n + 1] or n == len(one) == len(other)
