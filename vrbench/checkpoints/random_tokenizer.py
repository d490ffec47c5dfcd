"""A tokenizer of any size for checkpoints with random weights: SmolLM2's, cut to its first merges.

It is not the tokenizer of the model whose shape is made, but it cuts text into pieces of about the same length, so that
prompts have about as many tokens.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from vrbench.checkpoints.smollm2 import check_gguf

SPECIAL = ("<unk>", "<s>", "</s>", "<image>")


def write_tokenizer(folder: Path, vocabulary: int, longest: int) -> dict[str, int]:
    """Write tokenizer.json and tokenizer_config.json; returns token -> id.

    Args:
        vocabulary: most tokens that there may be.
        longest: tokens that the model was made for.

    Raises:
        VrbenchError: the package that carries the vocabulary is not installed.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    ids, merges = _cut(_merges(check_gguf()), vocabulary)
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", ids["<s>"])])
    tokenizer.save(str(folder / "tokenizer.json"))
    about = {
        "tokenizer_class": "PreTrainedTokenizerFast", "unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>",
        "pad_token": "</s>", "model_max_length": longest, "clean_up_tokenization_spaces": False,
        "additional_special_tokens": ["<image>"],
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    return ids


@cache
def _merges(source: Path) -> list[tuple[str, str]]:
    from gguf import GGUFReader

    lines = GGUFReader(source).fields["tokenizer.ggml.merges"].contents()
    return [(first, second) for first, second in (line.split(" ") for line in lines)]


def _cut(merges: list[tuple[str, str]], vocabulary: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Special tokens, the 256 bytes, and as many merges as there is room for: token -> id, and the merges."""
    from tokenizers import pre_tokenizers

    words = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    ids = {word: number for number, word in enumerate(words)}
    kept = []
    for pair in merges:
        if len(ids) >= vocabulary:
            break
        ids.setdefault("".join(pair), len(ids))
        kept.append(pair)
    return ids, kept
