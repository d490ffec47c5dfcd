"""Tokenizers in the files in which those of LLaVA-1.5 and Bunny are published, and how the original code reads them."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

WORDS = ["▁▁", "▁a", "▁t", "US", "ER", "USER", "▁USER", "th", *"▁AQSUER:theisanordlcufgmvypbwkxqz.,'?INT"]
LAST = -1e9
"""Score of LLaMA's pieces that are nothing but spaces: every other pair is merged before them."""
PHI3 = ("<|endoftext|>", "<|assistant|>", "<|end|>")

Piece = tuple[str, int, float]


def pieces() -> list[Piece]:
    """Text, kind and score of a tiny SentencePiece vocabulary: special pieces, bytes, then words."""
    special = [("<unk>", 2, 0.0), ("<s>", 3, 0.0), ("</s>", 3, 0.0), *((f"<0x{i:02X}>", 6, 0.0) for i in range(256))]
    return [*special, *((w, 1, LAST if set(w) == {"▁"} else -float(i)) for i, w in enumerate(WORDS))]


def save_tokenizer(family: str, folder: Path) -> None:
    """The tokenizer of a family, in the files in which it is published."""
    if family == "llava":
        (folder / "tokenizer.model").write_bytes(sentencepiece_model(pieces()))
        config = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "add_bos_token": True, "model_max_length": 2048}
        (folder / "tokenizer_config.json").write_text(json.dumps(config))
    elif family == "bunny-llama":
        byte_level().save_pretrained(folder)
    else:
        phi3_words().save_pretrained(folder)


def sentencepiece_model(found: list[Piece], kind: int = 2, first: bool = True, extra: bool = False) -> bytes:
    """The bytes of a `tokenizer.model`, a protocol buffer (sentencepiece_model.proto), with LLaMA's settings.

    Args:
        found: the pieces.
        kind: 1 for unigram, 2 for BPE.
        first: whether a space is put before every text.
        extra: whether several spaces become one.
    """

    def counted(field_number: int, content: bytes) -> bytes:
        low, high = len(content) & 127, len(content) >> 7
        return bytes([field_number << 3 | 2, *([low | 128, high] if high else [low])]) + content

    entries = []
    for text, of, score in found:
        number = b"\x15" + np.float32(score).tobytes()  # field 2, four bytes
        entries.append(counted(1, counted(1, text.encode()) + number + bytes([3 << 3, of])))
    trainer = bytes([3 << 3, kind, 0x98, 0x02, 1])  # model_type; byte_fallback, field 35
    normalizer = counted(1, b"identity") + bytes([3 << 3, first, 4 << 3, extra])
    return b"".join(entries) + counted(2, trainer) + counted(3, normalizer)


@dataclass
class OriginalWords:
    """SentencePiece's own tokenizer, as transformers' slow tokenizer calls it with `legacy=True`.

    A text is cut at special tokens; each part is encoded by itself.
    """

    processor: Any
    special: dict[str, int]
    bos_token_id: int = 1

    def __call__(self, text: str) -> dict[str, list[int]]:
        ids = [self.bos_token_id]
        for part in re.split(f"({'|'.join(map(re.escape, self.special))})", text):
            ids += [self.special[part]] if part in self.special else self.processor.encode(part)
        return {"input_ids": ids}


def original_pieces(model: bytes, *added: str) -> OriginalWords:
    """The tokenizer of a `tokenizer.model`, with tokens that were added to it."""
    from sentencepiece import SentencePieceProcessor

    read = SentencePieceProcessor(model_proto=model)
    names = [*(read.id_to_piece(i) for i in range(3)), *added]
    return OriginalWords(read, dict(zip(names, [0, 1, 2, *range(len(read), len(read) + len(added))], strict=True)))


def phi3_words(metaspace: bool = False) -> Any:
    """A Llama tokenizer, in tokenizer.json, with Phi 3's added tokens.

    Args:
        metaspace: as transformers 5 writes it; else as it is published, and as transformers 4 wrote it.
    """
    from tokenizers import normalizers
    from transformers import LlamaTokenizer, PreTrainedTokenizerFast
    from transformers.tokenization_utils_base import generate_merges

    ids, scores = {w: i for i, (w, *_) in enumerate(pieces())}, {w: score for w, _, score in pieces()}
    silent = [w for w, kind, _ in pieces() if kind != 1]
    made = LlamaTokenizer(ids, generate_merges(ids, scores, silent), legacy=False, add_bos_token=True)
    inner = made.backend_tokenizer
    if not metaspace:
        inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        inner.pre_tokenizer = None
    whole = PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )
    whole.add_special_tokens({"additional_special_tokens": list(PHI3)})
    return whole


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
    return original_pieces(sentencepiece_model(pieces()), *(PHI3 if family == "bunny-phi3" else ()))
