"""Checkpoints with random weights: of true shape, the same wherever they are made, and run like any other."""

from __future__ import annotations

import json
import math
import re
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from tests.evaluation.made import hub
from tests.tiny import checkpoint_errors
from vrbench import cli
from vrbench.checkpoints import llava_shapes, random_shapes
from vrbench.checkpoints.random_shapes import RANDOM_PREFIX, RandomModel, parse_random_name
from vrbench.core.errors import VrbenchError
from vrbench.core.run_storage import load_run
from vrbench.models import random_weights
from vrbench.models.load import load_vlm
from vrbench.models.resolve import inspect_checkpoint, resolve_checkpoint

IDS = torch.tensor([[5, 60, 71, 33, 90, 12, 44]])


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VRBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def weights(name: str, dtype: str = "float32") -> dict[str, torch.Tensor]:
    model = load_vlm(resolve_checkpoint(name), dtype=dtype).model
    return {name: value.detach().clone() for name, value in model.named_parameters()}


def logits(name: str) -> torch.Tensor:
    with torch.inference_mode():
        return load_vlm(resolve_checkpoint(name)).model(input_ids=IDS).logits


class TestNames:
    def test_a_name_reads_back(self) -> None:
        for recipe in (RandomModel("tiny"), RandomModel("tiny", 3, 2, 1), RandomModel("llava-1.5-13b", removed=4)):
            assert parse_random_name(str(recipe)) == recipe
        assert str(RandomModel("tiny", 0, 2, 1)) == "random/tiny?adapter=2&removed=1"

    def test_the_paper_s_region_and_what_is_removed_outside_of_it(self) -> None:
        recipe = parse_random_name("random/llava-1.5-7b?adapter=8&removed=4")
        assert (str(recipe.region), str(recipe.removed_layers)) == ("0,4,8,12,16,20,24,28", "27,29-31")
        assert str(parse_random_name("random/llava-1.5-13b?removed=3").removed_layers) == "37-39"

    @pytest.mark.parametrize(
        ("name", "words"),
        [
            ("random/llava", "there are random/llava-1.5-7b, random/llava-1.5-13b"),
            ("random/tiny?layers=4", "'layers=4' cannot be read; options are seed, adapter, removed"),
            ("random/tiny?removed=top", "'removed=top' cannot be read"),
            ("random/tiny?adapter=5", "an adapter on 5 of 4 layers"),
            ("random/tiny?removed=4", "of 4 layers only 3 outside"),
            ("random/tiny?adapter=2&removed=3", "of 4 layers only 2 outside"),
            ("random/tiny-qwen3-vl?removed=1", "adapter and removed are options of random/llava-1.5-7b, .* alone"),
        ],
    )
    def test_a_wrong_name_is_one_clear_sentence(self, name: str, words: str) -> None:
        (fault,) = checkpoint_errors(name)
        assert re.search(words.replace("?", r"\?"), fault)


def counted(llm: tuple[int, ...], tower: tuple[int, ...], tokens: int, has_class_token: bool) -> int:
    """Parameters by hand: of a Llama-like LLM, a CLIP-like tower and a two-layer projector."""
    layers, hidden, keys, ffn, vocabulary = llm
    decoder = layers * (2 * hidden * hidden + 2 * hidden * keys + 3 * hidden * ffn + 2 * hidden)
    depth, width, inner = tower
    block = 4 * (width * width + width) + 2 * width * inner + inner + width + 4 * width
    embedding = 3 * 14 * 14 * width + (tokens + has_class_token) * width
    around = 5 * width if has_class_token else 3 * width  # class token and two norms; or one norm and a bias
    projector = width * hidden + hidden + hidden * hidden + hidden
    return decoder + hidden + 2 * vocabulary * hidden + depth * block + embedding + around + projector


CLIP, SIGLIP = (24, 1024, 4096), (27, 1152, 4304)
FACTS = {
    "llava-1.5-7b": counted((32, 4096, 4096, 11008, 32064), CLIP, 576, True),
    "llava-1.5-13b": counted((40, 5120, 5120, 13824, 32064), CLIP, 576, True),
    "bunny-llama-3-8b": counted((32, 4096, 1024, 14336, 128256), SIGLIP, 729, False),
    "bunny-phi3-mini": counted((32, 3072, 3072, 8192, 32064), SIGLIP, 729, False),
}


@pytest.mark.parametrize("name", FACTS)
def test_the_shapes_are_the_true_ones(name: str) -> None:
    found = resolve_checkpoint(RANDOM_PREFIX + name)
    shapes = llava_shapes.folder_shapes(found.path)
    assert sum(math.prod(shape) for shape in shapes.values()) == FACTS[name]
    assert found.depth == {"llava-1.5-13b": 40}.get(name, 32)
    config = json.loads((found.path / "config.json").read_text())
    assert config["image_seq_length"] == (576 if "llava-1.5" in name else 729)
    linears = llava_shapes.decoder_linears(random_shapes.RANDOM_SHAPES[name][0])  # those that an adapter is for
    assert all(shapes[f"layers.0.{module}.weight"] == shape for module, shape in linears.items())
    assert len(linears) == sum(n.startswith("layers.0.") and len(s) == 2 for n, s in shapes.items())


def test_llava_has_the_parameters_that_are_published() -> None:
    assert FACTS["llava-1.5-7b"] == 7_063_427_072


@pytest.mark.parametrize(("name", "parameters"), [("qwen2.5-vl-7b", 8_292_166_656), ("qwen3-vl-8b", 8_767_123_696)])
def test_families_have_the_parameters_that_are_published(name: str, parameters: int) -> None:
    from transformers import AutoConfig

    from vrbench.models.hf_folder import empty_model

    model = empty_model(AutoConfig.from_pretrained(resolve_checkpoint(RANDOM_PREFIX + name).path))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


class TestWeights:
    def test_a_seed_is_a_model(self) -> None:
        first, again, other = weights("random/tiny"), weights("random/tiny?seed=0"), weights("random/tiny?seed=1")
        assert all(torch.equal(value, again[name]) for name, value in first.items())
        differ = {name for name, value in first.items() if not torch.equal(value, other[name])}
        assert {name for name, value in first.items() if value.std() > 0} == differ
        digests = {resolve_checkpoint(name).digest for name in ("random/tiny", "random/tiny?seed=1")}
        assert len(digests) == 2

    def test_another_dtype_is_the_same_rounded(self) -> None:
        exact = weights("random/tiny")
        for name, value in weights("random/tiny", "bfloat16").items():
            assert torch.equal(value, exact[name].bfloat16()), name

    def test_they_are_bell_shaped_and_norms_are_one(self) -> None:
        found = weights("random/tiny")
        table = found["model.language_model.embed_tokens.weight"].flatten()
        assert float(table.std()) == pytest.approx(0.02, rel=0.02)
        assert abs(float(table.mean())) < 3e-4
        assert float((table.abs() < 0.02).float().mean()) == pytest.approx(0.683, abs=0.02)
        assert float(table[1:].dot(table[:-1]) / table.dot(table)) == pytest.approx(0, abs=0.02)
        assert set(found["model.language_model.norm.weight"].tolist()) == {1.0}
        assert set(found["model.multi_modal_projector.linear_1.bias"].tolist()) == {0.0}
        assert float(found["model.vision_tower.embeddings.class_embedding"].std()) > 0.01

    def test_values_are_splitmix64_s(self) -> None:
        """Against the algorithm in Python's own numbers."""
        mask = (1 << 64) - 1
        for start in (0, 1, 12345, 2**47):
            z = start * 0x9E3779B97F4A7C15 & mask
            z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & mask
            z = (z ^ z >> 27) * 0x94D049BB133111EB & mask
            z ^= z >> 31
            expected = sum(z >> lane & 0xFFFF for lane in (0, 16, 32, 48)) - 2 * 0xFFFF
            assert random_weights._normal(start, 1, torch.device("cpu")).tolist() == [expected]

    def test_parts_do_not_show(self, monkeypatch: pytest.MonkeyPatch) -> None:
        whole = weights("random/tiny")
        monkeypatch.setattr(random_weights, "CHUNK", 1000)
        assert all(torch.equal(value, whole[name]) for name, value in weights("random/tiny").items())

    def test_they_are_made_on_the_device_that_was_asked_for(self, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = []
        monkeypatch.setattr(random_weights, "fill", lambda model, *_: seen.append(next(model.parameters()).device.type))
        found = resolve_checkpoint("random/tiny")
        random_weights.load(found.path, torch.bfloat16, "meta")  # stands for a card: memory that is not the CPU's
        assert seen == ["meta"]

    @pytest.mark.parametrize("name", ["tiny", "tiny-qwen2.5-vl", "tiny-qwen3-vl"])
    def test_nothing_is_left_as_memory_was(self, name: str) -> None:
        """Transformers' own initialisation is left out: what it would have set has to be set all the same."""
        from transformers import AutoConfig, AutoModelForImageTextToText

        found = resolve_checkpoint(RANDOM_PREFIX + name)
        whole = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(found.path))
        made = load_vlm(found).model
        assert [name for name, _ in made.named_buffers()] == [name for name, _ in whole.named_buffers()]
        assert all(torch.equal(value, made.get_buffer(name)) for name, value in whole.named_buffers())
        filled = AutoModelForImageTextToText.from_config(AutoConfig.from_pretrained(found.path))
        with torch.no_grad():
            for parameter in filled.parameters():
                parameter.fill_(float("nan"))
        random_weights.fill(filled, 0, 0.02)
        assert all(torch.equal(value, made.get_parameter(name)) for name, value in filled.named_parameters())

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
    def test_a_card_gives_the_same_bits(self) -> None:
        found = resolve_checkpoint("random/tiny")
        card = load_vlm(found, "cuda").model
        assert all(torch.equal(p.cpu(), weights("random/tiny")[n]) for n, p in card.named_parameters())


class TestVariants:
    def test_removed_layers(self) -> None:
        found = resolve_checkpoint("random/tiny?removed=1")
        assert (found.depth, [step.layers for line in found.lineage for step in line.steps]) == (3, ["3"])
        kept = weights("random/tiny?removed=1")
        whole = weights("random/tiny")
        assert all(torch.equal(value, whole[name]) for name, value in kept.items())
        assert len(whole) - len(kept) == 9

    def test_an_adapter_changes_its_region_alone(self) -> None:
        tuned, whole = weights("random/tiny?adapter=2"), weights("random/tiny")
        changed = {name for name, value in whole.items() if not torch.equal(value, tuned[name])}
        assert {name.split("layers.")[1][0] for name in changed} == {"0", "2"}
        assert len(changed) == 2 * 7
        assert not torch.equal(logits("random/tiny?adapter=2"), logits("random/tiny"))

    def test_the_adapter_is_a_peft_folder_on_the_base_s_name(self) -> None:
        folder = resolve_checkpoint("random/tiny?adapter=2&seed=4").path
        assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == (
            "random/tiny?seed=4"
        )
        tensors = load_file(folder / "adapter_model.safetensors")
        assert {tensor.shape[0] for name, tensor in tensors.items() if "lora_A" in name} == {128}

    def test_both(self) -> None:
        found = resolve_checkpoint("random/tiny?adapter=2&removed=1")
        assert [line.id for line in found.lineage] == ["random/tiny?adapter=2&removed=1", "random/tiny?adapter=2"]
        assert load_vlm(found).depth == 3

    def test_digests_tell_them_apart(self) -> None:
        names = ("random/tiny", "random/tiny?adapter=2", "random/tiny?removed=1", "random/tiny?adapter=2&removed=1")
        assert len({resolve_checkpoint(name).digest for name in names}) == 4


def test_bunny_s_parts_go_the_same_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Phi-3's joined linears and a SigLIP tower, small."""
    text = random_shapes.RANDOM_SHAPES["bunny-phi3-mini"][0] | {
        "num_hidden_layers": 3, "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4,
        "intermediate_size": 96, "vocab_size": 1024,
    }  # fmt: skip
    tower = random_shapes.SIGLIP_SO400M | {
        "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64, "image_size": 28,
    }  # fmt: skip
    monkeypatch.setitem(random_shapes.RANDOM_SHAPES, "little-bunny", (text, tower))
    vlm = load_vlm(resolve_checkpoint("random/little-bunny?adapter=1&removed=1"), dtype="bfloat16")
    assert (vlm.depth, vlm.image_tokens, vlm.image_processor_name) == (2, 4, "SiglipImageProcessorPil")
    assert torch.isfinite(vlm.model(input_ids=IDS).logits).all()


class TestTokenizer:
    def test_text_comes_back(self) -> None:
        tokenizer = load_vlm(resolve_checkpoint("random/tiny")).tokenizer
        ids = tokenizer("Two 中 dogs, née 2024")["input_ids"]
        assert ids[0] == tokenizer.bos_token_id
        assert tokenizer.decode(ids[1:]) == "Two 中 dogs, née 2024"

    def test_it_fits_the_vocabulary_and_says_what_it_is(self) -> None:
        for name in ("tiny", "llava-1.5-7b", "bunny-llama-3-8b", "qwen2.5-vl-7b"):
            folder = resolve_checkpoint(RANDOM_PREFIX + name).path
            ids = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"]
            assert sorted(ids.values()) == list(range(len(ids)))
            config = json.loads((folder / "config.json").read_text())
            assert len(ids) <= config["text_config"]["vocab_size"]
            assert "not the model's own" in json.loads((folder / random_shapes.RANDOM_WEIGHTS).read_text())["note"]


@pytest.mark.parametrize(
    ("name", "depth"),
    [
        pytest.param("random/tiny?adapter=2&removed=1", 3, marks=pytest.mark.supports("llava", "random weights")),
        pytest.param("random/tiny-qwen2.5-vl", 4, marks=pytest.mark.supports("qwen2_5_vl", "random weights")),
        pytest.param("random/tiny-qwen3-vl", 4, marks=pytest.mark.supports("qwen3_vl", "random weights")),
    ],
)
def test_vrbench_run_measures_one(
    name: str, depth: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = hub(tmp_path / "hub")
    command = ["run", "--ckpt", name, "--tasks", "mme,piqa", "--data-root", str(data)]
    monkeypatch.setattr(sys, "argv", ["vrbench", *command, "--device", "cpu", "--out", str(tmp_path / "runs")])
    with pytest.raises(SystemExit) as exit_:
        cli.main()
    assert not exit_.value.code, capsys.readouterr()
    (file,) = (tmp_path / "runs").glob("*/*/run.json")
    run = load_run(file)
    assert (run.record.checkpoint.id, run.record.checkpoint.depth) == (name, depth)
    assert [result.n for result in run.record.results] == [24, 13]


def test_shapes_of_other_families_are_not_known_before_they_are_loaded() -> None:
    with pytest.raises(VrbenchError, match="is a qwen3_vl whose weights are made when it is loaded"):
        inspect_checkpoint("random/tiny-qwen3-vl")


def test_it_needs_no_other_model_and_its_tokenizer_gives_every_text_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers import AutoTokenizer

    from vrbench.checkpoints import smollm2

    monkeypatch.setenv("VRBENCH_CACHE", str(tmp_path))
    monkeypatch.setattr(smollm2, "gguf_file", lambda: 1 / 0)
    assert not checkpoint_errors("random/tiny")
    (folder,) = (path for path in tmp_path.iterdir() if path.name.startswith("random-tiny"))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    text = "The following is a question (with answers) about Größe 12.5\n\tand 数学?"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.decode(ids) == f"<s>{text}"
    assert len(tokenizer) == 1024 and len(ids) < 0.7 * len(text.encode())
