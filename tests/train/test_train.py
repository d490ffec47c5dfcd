"""`vrbench.train` from a recipe to a checkpoint that loads, on a pocket model made tiny."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig, LlamaForCausalLM

from vrbench.cache import file_digest
from vrbench.checkpoint import resolve
from vrbench.errors import VrbenchError
from vrbench.models import pocket, smollm2
from vrbench.models.load import load_vlm
from vrbench.pocket import easy_vqa
from vrbench.records import Lineage
from vrbench.train import load, publish, stages, train

DEPTH = 4
TUNED = (0, 2)
SIZES = {"LAYERS": DEPTH, "HIDDEN": 48, "HEADS": 3, "KV_HEADS": 1, "FFN": 64}
VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL = {"data.scenes": "6", "seed": "3", "dtype": "float32"}
BASE = {
    **SMALL,
    "tower.steps": "2",
    "tower.batch": "4",
    "align.steps": "2",
    "align.batch": "4",
    "data.easy_vqa": "0.25",
}
TUNE = {**SMALL, "data.turns": "2", "tune.layers": "0,2", "tune.steps": "2", "tune.batch": "4", "tune.lr": "0.01"}


@pytest.fixture(scope="module", autouse=True)
def tiny_pocket(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The pocket family with a small random LLM and tower, few dev pictures, and a cache of its own."""
    folder = tmp_path_factory.mktemp("pocket")
    few = list(itertools.islice(easy_vqa.training_items(), 4))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("VRBENCH_CACHE", str(folder / "cache"))
        for name, size in SIZES.items():
            patch.setattr(smollm2, name, size)
        vision = {**pocket.vision_config(), **VISION}
        patch.setattr(pocket, "vision_config", lambda: vision)
        patch.setattr(smollm2, "backbone_folder", lambda: folder / "llm")
        patch.setattr(stages, "DEV_PICTURES", 4)
        patch.setattr(stages, "DEV_PASSAGES", 1)
        patch.setattr(easy_vqa, "training_items", lambda: iter(few))
        torch.manual_seed(1)
        config = LlamaConfig(**smollm2.text_config(), initializer_range=0.2)
        llm = LlamaForCausalLM(config)
        (folder / "llm").mkdir()
        weights = {name: p.detach().clone() for name, p in llm.named_parameters()}
        save_file(weights, folder / "llm" / "model.safetensors")
        (folder / "llm" / "config.json").write_text(json.dumps({"num_hidden_layers": DEPTH, "model_type": "llama"}))
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(load("pocket-base", BASE), tmp_path_factory.mktemp("made") / "base", device="cpu")


@pytest.fixture(scope="module")
def tuned(base: Path) -> Path:
    return train("pocket-region", base.parent / "tuned", {**TUNE, "base": str(base)}, device="cpu")


def lineage(folder: Path) -> Lineage:
    return Lineage.model_validate_json((folder / "vrbench.json").read_text())


class TestBase:
    def test_it_is_a_checkpoint_that_loads(self, base: Path) -> None:
        found = resolve(str(base))
        assert (found.depth, found.family) == (DEPTH, "llava")
        assert load_vlm(found).depth == DEPTH

    def test_the_llm_is_that_of_the_package_unchanged(self, base: Path) -> None:
        expected = load_file(smollm2.backbone_folder() / "model.safetensors")
        state = load_vlm(resolve(str(base))).language_model.state_dict()
        assert {f"model.{name}" for name in state} == set(expected)
        assert all(torch.equal(value, expected[f"model.{name}"]) for name, value in state.items())

    def test_its_lineage_tells_both_stages(self, base: Path) -> None:
        found = lineage(base)
        assert [(s.stage, s.method, s.layers) for s in found.steps] == [
            ("tower", "weights", "none"), ("align", "projector", "none"),
        ]  # fmt: skip
        assert found.id == "pocket/base" and found.base is not None and found.base.id == smollm2.ID
        assert found.weights == {p.name: file_digest(p) for p in base.glob("*.safetensors")}
        assert set(found.weights) == {"tower.safetensors", "projector.safetensors"}

    def test_the_recipe_lies_beside_it(self, base: Path) -> None:
        copied = load(str(base / "recipe.yaml"))
        assert copied == load("pocket-base", BASE)
        assert {s.recipe_digest for s in lineage(base).steps} == {copied.digest}


class TestTuned:
    @pytest.mark.supports("pocket", "tuned")
    def test_lora_is_on_the_recipe_s_layers_alone(self, tuned: Path) -> None:
        names = list(load_file(tuned / "adapter_model.safetensors"))
        assert names and all(".language_model.layers." in name for name in names)
        assert {int(name.split(".layers.")[1].split(".")[0]) for name in names} == set(TUNED)

    @pytest.mark.supports("pocket", "tuned")
    def test_nothing_else_of_the_model_has_changed(self, base: Path, tuned: Path) -> None:
        before, after = (load_vlm(resolve(str(folder))).model.state_dict() for folder in (base, tuned))
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        layers = {name for name in changed if ".language_model.layers." in name}
        assert {int(name.split(".layers.")[1].split(".")[0]) for name in layers} == set(TUNED)
        assert changed - layers == {name for name in before if ".multi_modal_projector." in name}
        assert before.keys() == after.keys()

    def test_its_lineage_tells_the_layers_and_the_base(self, base: Path, tuned: Path) -> None:
        found = lineage(tuned)
        (step,) = found.steps
        assert (step.stage, step.method, step.layers, step.depth) == ("tune", "lora", "0,2", DEPTH)
        assert found.base is not None and found.base.digest == resolve(str(base)).digest
        assert set(json.loads(step.note)) >= {"device", "torch", "seconds", "dev_right", "dev_ppl", "final_loss"}
        assert load(str(tuned / "recipe.yaml")).digest == step.recipe_digest

    def test_the_adapter_names_its_base_as_the_recipe_does(self, base: Path, tuned: Path) -> None:
        config = json.loads((tuned / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == str(base)

    def test_all_is_stored_in_bfloat16_and_nothing_else_lies_there(self, tuned: Path) -> None:
        names = {"adapter_config.json", "adapter_model.safetensors", "projector.safetensors"}
        assert {p.name for p in tuned.iterdir()} == names | {"recipe.yaml", "vrbench.json"}
        for file in tuned.glob("*.safetensors"):
            assert {tensor.dtype for tensor in load_file(file).values()} == {torch.bfloat16}

    def test_the_same_recipe_makes_the_same_weights(self, base: Path, tuned: Path, tmp_path: Path) -> None:
        again = train("pocket-region", tmp_path / "again", {**TUNE, "base": str(base)}, device="cpu")
        assert lineage(again).weights == lineage(tuned).weights


class TestRefused:
    def test_a_taken_folder(self, base: Path, tuned: Path) -> None:
        before = lineage(tuned)
        with pytest.raises(VrbenchError, match="already holds a checkpoint"):
            train("pocket-region", tuned, {**TUNE, "base": str(base)}, device="cpu")
        assert lineage(tuned) == before

    def test_a_loss_that_is_not_finite_leaves_no_checkpoint(self, base: Path, tmp_path: Path) -> None:
        wild = {**TUNE, "base": str(base), "tune.lr": "1.0e+30", "tune.lr_projector": "1.0e+30", "tune.steps": "3"}
        with pytest.raises(VrbenchError, match=r"tune: the loss is nan at step [23]; lower the learning rate"):
            train("pocket-region", tmp_path / "out", wild, device="cpu")
        assert not (tmp_path / "out" / "vrbench.json").exists()

    def test_a_death_while_writing_leaves_no_checkpoint(
        self, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def die(*_: object) -> None:
            raise OSError("disk full")

        monkeypatch.setattr(publish, "save_tensors", die)
        with pytest.raises(OSError, match="disk full"):
            train("pocket-region", tmp_path / "out", {**TUNE, "base": str(base)}, device="cpu")
        assert not (tmp_path / "out" / "vrbench.json").exists()

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"tune.layers": "0,4"}, "layer 4 does not exist; a model of depth 4"),
            ({"base": "pocket/nope"}, "no checkpoint 'pocket/nope'"),
        ],
    )
    def test_what_cannot_be_trained(self, base: Path, tmp_path: Path, changes: dict[str, str], message: str) -> None:
        with pytest.raises(VrbenchError, match=message):
            train("pocket-region", tmp_path / "out", {**TUNE, "base": str(base), **changes}, device="cpu")

    def test_a_new_tower_before_another_llm(self, tmp_path: Path) -> None:
        with pytest.raises(VrbenchError, match="a new tower goes with 'smollm2-135m-instruct' only"):
            train("pocket-base", tmp_path / "out", {**BASE, "base": "pocket/full"}, device="cpu")

    def test_a_card_that_is_not_there(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("torch.cuda.is_available", lambda: False)
        with pytest.raises(VrbenchError, match="torch sees no CUDA card"):
            train("pocket-region", tmp_path / "out", device="cuda")
        assert not (tmp_path / "out").exists()
