"""A converted tokenizer encodes as the library sentencepiece does from the original `tokenizer.model`."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from tests.conversion import tokenizers
from vrbench.conversion.tokenizer import ConvertedTokenizer, convert_tokenizer
from vrbench.core.errors import VrbenchError

ROOT = Path(__file__).parents[2]
FILES = [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *sorted(ROOT.glob("vrbench/*.py"))]
TEXTS = (
    "red  (B)", "a   b", "  starts with spaces", " starts with one", "   ", " ", "ends  ", "\n", "\nQ?", "\n\n  x",
    "\tx\t\ty", "a\r\nb", "for i in range(10):\n        print(i)\n    # done", "| a |  b   |\n|---|:-:|\n| 1 |     2 |",
    "漢字かな交じり文", "한국어 텍스트", "مرحبا", "👩‍👩‍👧 and 🏳️‍🌈", "½ ﬁ Ａ é é",
    "\u00a0\u200b\x07", "▁ ▁▁a", "<0x0A>", "1234567890",
    "</s>USER: two? ASSISTANT: yes</s>USER: again", "<s> a", "a</s> b</s></s>c", "a<unk>b", "</s>", "</s>\nUSER",
)  # fmt: skip


@pytest.fixture(scope="session")
def trained() -> bytes:
    """A `tokenizer.model` made as LLaMA's was: BPE of our own pages, pieces of spaces merged last."""
    from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

    out = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=(line for file in FILES[:8] for line in file.read_text(encoding="utf-8").splitlines()),
        model_writer=out, model_type="bpe", vocab_size=1500, byte_fallback=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, split_digits=True, allow_whitespace_only_pieces=True, minloglevel=2,
    )  # fmt: skip
    read = SentencePieceProcessor(model_proto=out.getvalue())
    found: list[tokenizers.Piece] = []
    for i, text in enumerate(read.id_to_piece(list(range(len(read))))):
        kind = 2 if read.is_unknown(i) else 3 if read.is_control(i) else 6 if read.is_byte(i) else 1
        found.append((text, kind, tokenizers.LAST if set(text) == {"▁"} else read.get_score(i)))
    return tokenizers.sentencepiece_model(found)


@pytest.fixture(scope="session")
def converted(trained: bytes, tmp_path_factory: pytest.TempPathFactory) -> ConvertedTokenizer:
    folder = tmp_path_factory.mktemp("source")
    (folder / "tokenizer.model").write_bytes(trained)
    return convert_tokenizer(folder, "</s>", use_sentencepiece=True)


def test_source_and_markdown_files(trained: bytes, converted: ConvertedTokenizer) -> None:
    original = tokenizers.original_pieces(trained, "<image>")
    read = [file.read_text(encoding="utf-8") for file in FILES]
    assert len(read) > 15 and "\n    " in read[-1] and "|--" in read[0]
    differing = [t[:80] for t in read if converted.tokenizer(t).input_ids != original(t)["input_ids"]]
    assert (len(differing), differing) == (0, [])


def test_every_kind_of_text(trained: bytes, converted: ConvertedTokenizer, tmp_path: Path) -> None:
    original = tokenizers.original_pieces(trained)
    converted.tokenizer.save_pretrained(tmp_path)
    for tokenizer in (converted.tokenizer, AutoTokenizer.from_pretrained(tmp_path)):
        for text in (*TEXTS, *(f"a{' ' * n}b" for n in range(20)), *(" " * n + "(" for n in range(20))):
            assert tokenizer(text).input_ids == original(text)["input_ids"], text


def test_what_stands_around_a_picture_is_encoded_apart(trained: bytes, converted: ConvertedTokenizer) -> None:
    text, original = "USER: <image>\n  What?<image> It", tokenizers.original_pieces(trained, "<image>")
    assert converted.tokenizer(text).input_ids == original(text)["input_ids"]
    assert original(text)["input_ids"].count(converted.image_id) == 2


@pytest.mark.parametrize("metaspace", [False, True], ids=["published", "saved by transformers 5"])
def test_phi_3(metaspace: bool, tmp_path: Path) -> None:
    tokenizers.phi3_words(metaspace).save_pretrained(tmp_path)
    found, original = (
        convert_tokenizer(tmp_path, "<|endoftext|>", use_sentencepiece=False).tokenizer,
        tokenizers.original_words("bunny-phi3"),
    )
    for text in (*TEXTS, "<|end|><|assistant|> a the<|end|>USER"):
        assert found(text).input_ids == original(text)["input_ids"], text


def test_llama_3(tmp_path: Path) -> None:
    tokenizers.save_tokenizer("bunny-llama", tmp_path)
    found = convert_tokenizer(tmp_path, "<|end_of_text|>", use_sentencepiece=False).tokenizer
    original = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in TEXTS:
        assert found(text).input_ids == original.encode(text).ids, text


def test_which_file_is_read_where_both_are_there(tmp_path: Path) -> None:
    tokenizers.save_tokenizer("llava", tmp_path)
    tokenizers.save_tokenizer("bunny-phi3", tmp_path)
    assert convert_tokenizer(tmp_path, "</s>", use_sentencepiece=True).image_id == len(tokenizers.pieces())
    assert convert_tokenizer(tmp_path, "</s>", use_sentencepiece=False).image_id == len(tokenizers.pieces()) + len(
        tokenizers.PHI3
    )


def test_the_parts_of_tokenizer_json_stay_whatever_class_is_named(tmp_path: Path) -> None:
    tokenizers.save_tokenizer("bunny-llama", tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config | {"tokenizer_class": "LlamaTokenizer"}))
    found = convert_tokenizer(tmp_path, "<|end_of_text|>", use_sentencepiece=False).tokenizer
    assert found("a  b").input_ids == Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode("a  b").ids


OTHERS: dict[str, Callable[[], bytes]] = {
    "unigram": lambda: tokenizers.sentencepiece_model(tokenizers.pieces(), kind=1),
    "no space put first": lambda: tokenizers.sentencepiece_model(tokenizers.pieces(), first=False),
    "spaces become one": lambda: tokenizers.sentencepiece_model(tokenizers.pieces(), extra=True),
    "pieces matched whole": lambda: tokenizers.sentencepiece_model([*tokenizers.pieces(), ("THE", 4, 0.0)]),
}


@pytest.mark.parametrize("name", OTHERS)
def test_a_model_that_would_be_encoded_otherwise_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.model").write_bytes(OTHERS[name]())
    with pytest.raises(VrbenchError, match="would not be encoded as SentencePiece encodes it"):
        convert_tokenizer(tmp_path, "</s>", use_sentencepiece=True)


def test_without_the_library_its_name_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tokenizers.save_tokenizer("llava", tmp_path)
    missing: Any = None
    monkeypatch.setitem(sys.modules, "sentencepiece", missing)
    with pytest.raises(VrbenchError, match=r"tokenizer\.model needs the package sentencepiece, which is not installed"):
        convert_tokenizer(tmp_path, "</s>", use_sentencepiece=True)
