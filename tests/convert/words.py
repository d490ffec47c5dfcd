"""Tiny tokenizers in the files in which those of LLaVA-1.5 and Bunny are published."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

WORDS = [*"▁AQSUER:theisanordlcufgmvypbwkxqz.,'?INT", "▁a", "▁t", "US", "ER", "USER", "▁USER", "th", "he"]


def pieces() -> list[tuple[str, int]]:
    """Text and kind of the pieces of a tiny SentencePiece vocabulary: special ones, bytes, then words."""
    return [("<unk>", 2), ("<s>", 3), ("</s>", 3), *((f"<0x{i:02X}>", 6) for i in range(256)), *((w, 1) for w in WORDS)]


def save_tokenizer(family: str, folder: Path) -> None:
    """The tokenizer of a family, in the files in which it is published."""
    if family == "llava":
        (folder / "tokenizer.model").write_bytes(sentencepiece_model())
        config = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": True, "model_max_length": 2048}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    elif family == "bunny-llama":
        byte_level().save_pretrained(folder)
    else:
        phi3_words().save_pretrained(folder)


def sentencepiece_model() -> bytes:
    """The bytes of a `tokenizer.model` (a protocol buffer) with the tiny vocabulary."""

    def counted(field_number: int, content: bytes) -> bytes:
        low, high = len(content) & 127, len(content) >> 7
        return bytes([field_number << 3 | 2, *([low | 128, high] if high else [low])]) + content

    entries = []
    for text, kind in pieces():
        score = b"\x15" + np.float32(-1.5).tobytes()  # field 2, four bytes
        entries.append(counted(1, counted(1, text.encode()) + score + bytes([3 << 3, kind])))
    return counted(3, b"n" * 300) + b"".join(entries) + counted(2, counted(7, b"m" * 400))


def llama_words() -> Any:
    """The tokenizer of the original LLaVA: every text that it is given starts with a space."""
    from transformers import LlamaTokenizer
    from transformers.tokenization_utils_base import generate_merges

    vocabulary = {text: i for i, (text, _) in enumerate(pieces())}
    merges = generate_merges(vocabulary, skip_tokens=["<unk>", "<s>", "</s>"])
    return LlamaTokenizer(vocabulary, merges, legacy=True, add_bos_token=True)


def phi3_words() -> Any:
    """A Llama tokenizer, in tokenizer.json, with Phi 3's added tokens."""
    from transformers import LlamaTokenizer
    from transformers.tokenization_utils_base import generate_merges

    vocabulary = {text: i for i, (text, _) in enumerate(pieces())}
    merges = generate_merges(vocabulary, skip_tokens=["<unk>", "<s>", "</s>"])
    words = LlamaTokenizer(vocabulary, merges, legacy=False, add_bos_token=True, pad_token="<unk>")
    words.add_special_tokens({"additional_special_tokens": ["<|endoftext|>", "<|assistant|>", "<|end|>"]})
    return words


def byte_level() -> Any:
    """Llama 3's kind of tokenizer: bytes, special tokens at the end of the vocabulary, a reserved one among them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(
        ["<|begin_of_text|>", "<|end_of_text|>", "<|reserved_special_token_0|>", "<|reserved_special_token_1|>",
         "<|eot_id|>"]
    )  # fmt: skip
    inner.post_processor = processors.TemplateProcessing(
        single="<|begin_of_text|> $A", special_tokens=[("<|begin_of_text|>", 256)]
    )
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<|begin_of_text|>", eos_token="<|eot_id|>")


def original_words(family: str) -> Any:
    """The tokenizer as the original code has it, for texts without pictures."""
    if family == "bunny-llama":
        return byte_level()
    words = llama_words()
    if family == "bunny-phi3":
        words.add_special_tokens({"additional_special_tokens": ["<|endoftext|>", "<|assistant|>", "<|end|>"]})
    return words
