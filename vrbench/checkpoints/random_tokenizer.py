"""A byte-level BPE tokenizer for checkpoints with random weights, made of frequent English words and nothing else.

It is not the tokenizer of the model whose shape is used. English text has a third to a half more tokens with it than
with one of Llama's size; ids that no text has are filled up, so that the vocabulary has its true size.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from vrbench.checkpoints.smollm2 import bpe_tokenizer

SPECIAL = ("<unk>", "<s>", "</s>", "<image>")
LLAMA_TOKENS = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}

WORDS = (
    "the of and to in is it that for on with as are this be at by from or an was which not have one can all more "
    "question answer choices following image options letter directly using word phrase single correct about has they "
    "will would there their what when where who how why if then than other some such only these most number each also "
    "time people way first two new between after before must may into over under out up down no yes does do did been "
    "because while same different many make made use used part side left right color object person man woman house "
    "water light high low large small long short year day world system state law energy cell force value function "
    "true false statement statements example result case order form point line group set given choose best describe "
    "ation ing tion ment ness able ity ive ous ent ant ence ance ical ally est ers ed er ly al re un con pro com per"
).split()
"""Each becomes a token, alone and behind a space, and so do its beginnings."""

CONSONANTS, VOWELS = "tnsrldcmpfghbvwykxjqz", "eaioucy"
SYLLABLES = [
    *(vowel + last for vowel in VOWELS for last in CONSONANTS),
    *(first + vowel + last for first in CONSONANTS for vowel in VOWELS for last in CONSONANTS),
]
"""What other words are made of; they follow the words."""


def write_tokenizer(
    folder: Path, vocabulary: int, longest: int, special: Sequence[str] = SPECIAL,
    named: Mapping[str, str] = LLAMA_TOKENS, chat: str | None = None,
) -> dict[str, int]:  # fmt: skip
    """Write tokenizer.json and tokenizer_config.json; return token -> id.

    Args:
        vocabulary: number of tokens; fewer where not all merges fit.
        longest: context length of the model.
        special: tokens of their own, first in the vocabulary.
        named: attribute of transformers' tokenizer -> special token; a "bos_token" is put in front of each text.
        chat: template of conversations.
    """
    from tokenizers import pre_tokenizers, processors

    ids, merges = _vocabulary(special, sorted(pre_tokenizers.ByteLevel.alphabet()), vocabulary)
    tokenizer = bpe_tokenizer(ids, merges, special, unk_token=named.get("unk_token"))
    first = named.get("bos_token")
    if first:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{first} $A", special_tokens=[(first, ids[first])]
        )
    tokenizer.save(str(folder / "tokenizer.json"))
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast", **named, "model_max_length": longest,
        "clean_up_tokenization_spaces": False,
        **({"chat_template": chat} if chat else {"additional_special_tokens": ["<image>"]}),
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return ids


def _vocabulary(special: Sequence[str], alphabet: list[str], size: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Return token -> id of special tokens, bytes, merges as far as they fit and unused tokens; and the merges."""
    ids = {token: number for number, token in enumerate((*special, *alphabet))}
    merges = []
    for word in (spelled for plain in (*WORDS, *SYLLABLES) for spelled in (f"Ġ{plain}", plain)):
        for end in range(2, len(word) + 1):
            if len(ids) < size and word[:end] not in ids:
                ids[word[:end]] = len(ids)
                merges.append((word[: end - 1], word[end - 1]))
    for number in range(len(ids), size):
        ids[f"<unused{number}>"] = number
    return ids, merges
