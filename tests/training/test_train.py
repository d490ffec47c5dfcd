"""`vrbench.training` from a recipe to a checkpoint that loads, on a pocket model made tiny."""

from __future__ import annotations

import json
import random
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from torch import nn

from tests.training.tiny_pocket import BASE, DEPTH, TUNE, TUNED, tiny_pocket, trained_base, trained_tuned  # noqa: F401
from vrbench.checkpoints import smollm2
from vrbench.cli.checkpoints import print_made
from vrbench.core.cache import file_digest
from vrbench.core.errors import MultipleErrors, VrbenchError
from vrbench.core.layers import LayerSet
from vrbench.core.schemas import BaseRef, Lineage, LineageStep
from vrbench.models.load import load_vlm
from vrbench.models.resolve import resolve_checkpoint
from vrbench.tasks.spec import TaskSpec
from vrbench.training import load, stages
from vrbench.training.checkpoint_folder import interrupted_recipe
from vrbench.training.dev_evaluation import _in_dtype, _random_state, dev_scores, plan_dev_tasks, selection_errors
from vrbench.training.packing import PackedLlava
from vrbench.training.prepare import dry_run
from vrbench.training.quantization import quantize_layers
from vrbench.training.run import train
from vrbench.training.trainable import sample_layers


def types(folder: Path) -> set[torch.dtype]:
    """What the weights in a folder are stored as."""
    return {tensor.dtype for file in folder.glob("*.safetensors") for tensor in load_file(file).values()}


@cache
def state_of(folder: Path) -> dict[str, torch.Tensor]:
    """The weights of a checkpoint that several tests look at."""
    return load_vlm(resolve_checkpoint(str(folder))).model.state_dict()


def lineage(folder: Path) -> Lineage:
    return Lineage.model_validate_json((folder / "vrbench.json").read_text())


class TestBase:
    def test_it_is_a_checkpoint_that_loads(self, base: Path) -> None:
        found = resolve_checkpoint(str(base))
        assert (found.depth, found.family) == (DEPTH, "llava")
        assert load_vlm(found).depth == DEPTH

    def test_the_llm_is_that_of_the_package_unchanged(self, base: Path) -> None:
        expected = load_file(smollm2.backbone_folder() / "model.safetensors")
        prefix = "model.language_model."
        state = {name: value for name, value in state_of(base).items() if name.startswith(prefix)}
        assert {name.replace(prefix, "model.") for name in state} == set(expected)
        assert all(torch.equal(value, expected[name.replace(prefix, "model.")]) for name, value in state.items())

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
        before, after = state_of(base), state_of(tuned)
        changed = {name for name in before if not torch.equal(before[name], after[name])}
        layers = {name for name in changed if ".language_model.layers." in name}
        assert {int(name.split(".layers.")[1].split(".")[0]) for name in layers} == set(TUNED)
        assert changed - layers == {name for name in before if ".multi_modal_projector." in name}
        assert before.keys() == after.keys()

    def test_its_lineage_tells_the_layers_and_the_base(self, base: Path, tuned: Path) -> None:
        found = lineage(tuned)
        (step,) = found.steps
        assert (step.stage, step.method, step.layers, step.depth) == ("tune", "lora", "0,2", DEPTH)
        assert found.base is not None and found.base.digest == resolve_checkpoint(str(base)).digest
        assert set(json.loads(step.note)) >= {"device", "torch", "seconds", "dev_right", "dev_ppl", "final_loss"}
        assert load(str(tuned / "recipe.yaml")).digest == step.recipe_digest

    def test_the_adapter_names_its_base_as_the_recipe_does(self, base: Path, tuned: Path) -> None:
        config = json.loads((tuned / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == str(base)

    def test_curves_are_those_of_the_steps(self, base: Path, tuned: Path) -> None:
        header, *rows = (tuned / "tune-curves.csv").read_text().splitlines()
        values = [[float(value) for value in row.split(",")] for row in rows]
        assert header == "step,loss,rate,gradient_norm" and [row[0] for row in values] == [1, 2]
        final = json.loads(lineage(tuned).steps[0].note)["final_loss"]
        assert sum(row[1] for row in values) / 2 == pytest.approx(final, abs=1e-4)
        assert values[0][2] == 0.01 and all(row[3] > 0 for row in values)
        assert {p.name for p in base.glob("*-curves.*")} == {
            f"{s}-curves.{f}" for s in ("tower", "align") for f in ("csv", "png")
        }

    def test_all_is_stored_in_the_recipes_type_and_nothing_else_lies_there(self, base: Path, tuned: Path) -> None:
        names = {"adapter_config.json", "adapter_model.safetensors", "projector.safetensors"}
        curves = {"tune-curves.csv", "tune-curves.png"}
        assert {p.name for p in tuned.iterdir()} == names | curves | {"recipe.yaml", "vrbench.json"}
        assert types(tuned) == types(base) == {torch.float32}
        assert json.loads(lineage(tuned).steps[0].note)["written"] == "float32"


class TestOtherTunings:
    """What comes out loads, and differs from its base where it was tuned and nowhere else."""

    @staticmethod
    def made(base: Path, out: Path, **changes: str) -> tuple[Lineage, set[str]]:
        """(the lineage, the parameters that differ from the base's)."""
        keys = {f"tune.{key}": value for key, value in changes.items()}
        folder = train("pocket-region", out, {**TUNE, "base": str(base), **keys}, device="cpu")
        before, after = state_of(base), load_vlm(resolve_checkpoint(str(folder))).model.state_dict()
        return lineage(folder), {name for name in before if not torch.equal(before[name], after[name])}

    def test_whole_weights_become_a_delta(self, base: Path, tmp_path: Path) -> None:
        found, changed = self.made(base, tmp_path / "out", tuning="weights")
        assert set(found.weights) == {"delta.safetensors"} and found.steps[0].method == "weights"
        norms = {name for name in changed if "layernorm" in name}
        assert len(norms) == 4  # both of both layers: all weights are tuned
        places = {int(name.split(".layers.")[1].split(".")[0]) for name in changed if ".language_model." in name}
        assert places == set(TUNED)
        assert any(".multi_modal_projector." in name for name in changed)

    @pytest.mark.parametrize("sampling", ["lisa:1", "layer-sampling:1"])
    def test_those_layers_are_tuned_that_were_drawn(self, sampling: str, base: Path, tmp_path: Path) -> None:
        asked = {"tuning": "weights", "sampling": sampling, "every": "1", "layers": "all"}
        found, changed = self.made(base, tmp_path / "out", **asked)
        outside = {
            name for name in changed if name.endswith(("embed_tokens.weight", "lm_head.weight", "model.norm.weight"))
        }
        assert len(outside) == (3 if sampling == "lisa:1" else 0)
        places = {int(n.split(".layers.")[1].split(".")[0]) for n in changed - outside if ".language_model." in n}
        expected = {layer for step in range(2) for layer in sample_layers(LayerSet.all(DEPTH), 1, 3, step)}
        assert expected <= places  # rounding to bfloat16 changes the others
        assert found.steps[0].layers == "all"

    def test_the_projector_alone(self, base: Path, tmp_path: Path) -> None:
        found, changed = self.made(base, tmp_path / "out", layers="none")
        assert set(found.weights) == {"projector.safetensors"}
        assert (found.steps[0].method, found.steps[0].layers) == ("projector", "none")
        assert changed and all(".multi_modal_projector." in name for name in changed)

    def test_the_layers_alone_with_lora_on_their_attention(self, base: Path, tmp_path: Path) -> None:
        found, changed = self.made(base, tmp_path / "out", modules="attention", lr_projector="0")
        assert set(found.weights) == {"adapter_model.safetensors"}
        assert changed and all(".self_attn." in name for name in changed)

    @pytest.mark.parametrize("options", [("rslora",), ("dora",), ("dora", "rslora")])
    def test_variants_of_lora_are_merged_as_peft_merges_them(
        self, base: Path, tmp_path: Path, options: tuple[str, ...]
    ) -> None:
        found, changed = self.made(
            base, tmp_path / "out", lr_projector="0", alpha="3", **dict.fromkeys(options, "true")
        )
        assert found.steps[0].method == "+".join(options)
        below = load_vlm(resolve_checkpoint(str(base))).model
        merged = PeftModel.from_pretrained(below, tmp_path / "out").merge_and_unload().state_dict()
        ours = state_of(tmp_path / "out")
        assert len(changed) == len(TUNED) * 7
        assert all(torch.allclose(ours[name], merged[name], rtol=0, atol=1e-6) for name in ours)
        names = load_file(tmp_path / "out" / "adapter_model.safetensors")
        assert any("magnitude_vector" in name for name in names) == ("dora" in options)

    def test_qlora_trains_an_adapter_for_the_base_in_its_own_type(self, base: Path, tmp_path: Path) -> None:
        pytest.importorskip("bitsandbytes")
        found, changed = self.made(base, tmp_path / "out", quantize="nf4", **{"lr_projector": "0"})
        assert found.steps[0].method == "lora" and len(changed) == len(TUNED) * 7
        model = load_vlm(resolve_checkpoint(str(base))).model
        quantize_layers(model, torch.float32)
        linears = {name: m for name, m in model.named_modules() if isinstance(m, torch.nn.Linear)}
        in_4_bits = {name for name, m in linears.items() if m.weight.dtype == torch.uint8}
        assert in_4_bits == {name for name in linears if ".language_model.layers." in name}
        asked = {**TUNE, "base": str(base), "tune.quantize": "nf4"}
        lines = dry_run(load("pocket-region", asked), tmp_path / "other").splitlines()
        whole = dry_run(load("pocket-region", {**asked, "tune.quantize": "none"}), tmp_path / "other").splitlines()
        used, plain = (float(of[-2].split("(")[1].split()[0]) for of in (lines, whole))
        assert used < plain  # GiB of weights

    def test_a_pruned_checkpoint_is_healed(self, base: Path, tuned: Path, tmp_path: Path) -> None:
        pruned = tmp_path / "pruned"
        pruned.mkdir()
        step = LineageStep(kind="pruned", layers="1", depth=DEPTH)
        below = Lineage(id="pruned", family="llava", depth=DEPTH - 1, steps=(step,),
                        base=BaseRef(id=str(tuned), digest=resolve_checkpoint(str(tuned)).digest))  # fmt: skip
        (pruned / "vrbench.json").write_text(below.model_dump_json())
        healed = train("pocket-heal", tmp_path / "healed", {**TUNE, "base": str(pruned), "tune.layers": "all"}, "cpu")
        found = resolve_checkpoint(str(healed))
        assert (found.depth, load_vlm(found).depth) == (DEPTH - 1, DEPTH - 1)
        assert [(s.stage, s.kind, s.layers, s.depth) for s in found.lineage[0].steps] == [("heal", "trained", "all", 3)]

    def test_an_epoch_of_a_share_in_bfloat16(
        self, base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        keys = {
            "tune.epochs": "2",
            "data.share": "0.5",
            "dtype": "bfloat16",
            "tune.schedule": "linear",
            "data.dev": "3",
        }
        given = {key: value for key, value in TUNE.items() if key != "tune.steps"}
        folder = train("pocket-region", tmp_path / "out", {**given, "base": str(base), **keys}, device="cpu")
        assert json.loads(lineage(folder).steps[0].note)["steps"] == 2  # 2 x 3 pictures by 4 a step
        assert types(folder) == {torch.bfloat16}
        capsys.readouterr()
        print_made(folder)
        assert capsys.readouterr().out.splitlines() == [
            f"checkpoint: {folder}", "weights: adapter_model.safetensors, projector.safetensors in bfloat16",
        ]  # fmt: skip


class TestGoneOn:
    def test_a_run_that_stopped_goes_on_and_leaves_no_state(
        self, base: Path, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Stopped after its last step, while it was written; what `test_trainer` kills is stopped in between."""
        out, asked = tmp_path / "out", {**TUNE, "base": str(base)}
        with monkeypatch.context() as patch:
            patch.setattr(stages, "save_tensors", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
            with pytest.raises(OSError, match="disk full"):
                train("pocket-region", out, asked, device="cpu")
        assert (out / "state" / "tune" / "checkpoint-2" / "losses.safetensors").exists()
        assert not (out / "vrbench.json").exists()
        with pytest.raises(VrbenchError, match="holds the state of another recipe"):
            train("pocket-region", out, {**asked, "seed": "4"}, device="cpu")
        with pytest.raises(VrbenchError, match="is incomplete: its training was stopped"):
            resolve_checkpoint(str(out))
        found = interrupted_recipe(out)
        assert "# resumes: tune at step 2" in dry_run(load(str(found)), out, must_resume=True)
        train(str(found), out, device="cpu", must_resume=True)
        assert lineage(out).weights == lineage(tuned).weights
        assert not (out / "state").exists()

    def test_a_state_of_lisa_holds_the_embeddings(
        self, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked = {**TUNE, "base": str(base), "tune.tuning": "weights", "tune.sampling": "lisa:1", "tune.every": "1"}
        whole = train("pocket-region", tmp_path / "whole", asked, device="cpu")
        with monkeypatch.context() as patch:
            patch.setattr(stages, "save_tensors", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
            with pytest.raises(OSError, match="disk full"):
                train("pocket-region", tmp_path / "out", asked, device="cpu")
        train("pocket-region", tmp_path / "out", asked, device="cpu", must_resume=True)
        assert lineage(tmp_path / "out").weights == lineage(whole).weights

    def test_there_has_to_be_a_state_where_one_is_asked_for(self, base: Path, tuned: Path, tmp_path: Path) -> None:
        asked = {**TUNE, "base": str(base)}
        with pytest.raises(VrbenchError, match="holds no saved state to resume from; leave --resume out"):
            train("pocket-region", tmp_path / "out", asked, device="cpu", must_resume=True)
        assert not (tmp_path / "out").exists()
        with pytest.raises(VrbenchError, match="no interrupted training to resume"):
            interrupted_recipe(tuned)

    def test_a_run_that_ran_out_of_memory_before_it_saved_leaves_nothing(
        self, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory.")

        monkeypatch.setattr(PackedLlava, "answer_states", full)
        with pytest.raises(VrbenchError, match=r"tune: memory ran out with 4 samples a step.*rows of up to \d+ tokens"):
            train("pocket-region", tmp_path / "out", {**TUNE, "base": str(base)}, device="cpu")
        assert not (tmp_path / "out").exists()

    def test_nor_does_one_that_ran_out_before_its_steps(
        self, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes")

        monkeypatch.setattr(stages, "load_llava", full)
        with pytest.raises(VrbenchError, match="memory ran out before or after"):
            train("pocket-region", tmp_path / "out", {**TUNE, "base": str(base)}, device="cpu")
        assert not (tmp_path / "out").exists()


class TestDryRun:
    def test_it_says_layers_parameters_and_steps_and_makes_nothing(self, base: Path, tmp_path: Path) -> None:
        asked = {**TUNE, "base": str(base), "tune.layers": "sparse-uniform:2", "tune.rank": "1"}
        told = dry_run(load("pocket-region", asked), tmp_path / "out")
        q, kv, ffn = 2 * 48, 48 + 16, 48 + 64
        layers, projector = 2 * (2 * q + 2 * kv + 3 * ffn), (32 * 48 + 48) + (48 * 48 + 48)
        parts = f"({layers:,} in the layers, {projector:,} in the projector)"
        for line in (
            "schedule: cosine", "# layers: 2 of 4: 0 2", "# steps: 2, of 4 samples each",
            f"# trainable parameters: {layers + projector:,} {parts}", "# memory, estimated: ", "# time, estimated: ",
        ):  # fmt: skip
            assert line in told
        assert not (tmp_path / "out").exists()

    def test_it_says_what_the_model_is_evaluated_on(self, base: Path, tmp_path: Path) -> None:
        told = dry_run(load("pocket-region", {**TUNE, "base": str(base), **EVAL}), tmp_path / "out")
        assert "# evaluated every 1 steps: pocket_mme (4 items of dev), pocket_facts (4 items of dev)" in told

    def test_it_tells_the_faults_that_the_training_would_tell(self, base: Path, tmp_path: Path) -> None:
        asked = {**TUNE, "base": str(base), "tune.sampling": "3"}
        (tmp_path / "vrbench.json").write_text("{}")
        with pytest.raises(MultipleErrors) as told:
            dry_run(load("pocket-region", asked), tmp_path)
        assert "already holds a checkpoint" in told.value.messages[0]
        assert all(text in told.value.messages[1] for text in ("tune.sampling is 3", "tune.layers = 0,2"))


EVAL = {"eval.tasks": "pocket_mme,pocket_facts", "eval.every": "1", "eval.limit": "4", "eval.split": "dev"}


class TestEvaluatedWhileTraining:
    @pytest.mark.parametrize("tuning", ["lora", "weights"])
    def test_scores_are_those_of_the_checkpoint_and_change_no_weights(
        self, base: Path, tmp_path: Path, tuning: str
    ) -> None:
        asked = {**TUNE, "base": str(base), "tune.tuning": tuning, "dtype": "bfloat16"}
        plain = train("pocket-region", tmp_path / "plain", asked, device="cpu")
        out = train("pocket-region", tmp_path / "out", {**asked, **EVAL}, device="cpu")
        assert lineage(out).weights == lineage(plain).weights
        header, *rows = (out / "tune-scores.csv").read_text().splitlines()
        assert header == "step,task,score" and [row.split(",")[0] for row in rows] == ["1", "1", "2", "2"]
        settings = load("pocket-region", {**asked, **EVAL}).eval
        assert settings is not None
        tasks = plan_dev_tasks(settings, 3, [])
        found = dev_scores(load_vlm(resolve_checkpoint(str(out)), dtype="bfloat16"), tasks, "bfloat16", 3)()
        assert [f"2,{task},{score:.6g}" for task, score in found.items()] == rows[2:]

    @pytest.mark.parametrize("split", ["test", "validation"])
    def test_a_test_split_of_other_data_may_not_be_looked_at_either(
        self, split: str, specs: dict[str, TaskSpec]
    ) -> None:
        own = specs["pocket_mme"].data.model_copy(update={"name": "own/data", "split": split})
        errors = selection_errors(specs["pocket_mme"].model_copy(update={"data": own}))
        assert bool(errors) == (split == "test")

    def test_an_evaluation_leaves_modes_and_master_weights_as_they_were(self) -> None:
        model = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
        model[0].eval()
        vlm: Any = SimpleNamespace(model=model, dtype=torch.float32)
        weight = model[0].weight.clone()
        with _in_dtype(vlm, "bfloat16"):
            assert not model[1].training and model[0].weight.dtype == vlm.dtype == torch.bfloat16
        assert [module.training for module in model.modules()] == [True, False, True]
        assert torch.equal(model[0].weight, weight) and vlm.dtype == torch.float32

    def test_an_evaluation_changes_no_random_number_of_the_training(self) -> None:
        def numbers() -> tuple[float, float, float]:
            return random.random(), np.random.random(), torch.rand(()).item()

        with _random_state(torch.device("cpu")):
            first = numbers()
        assert numbers() == first

    @pytest.mark.parametrize(
        ("changes", "fault"),
        [
            ({"eval.split": "null"}, "pocket_mme, whose split 'test' is one that results are reported on"),
            ({"eval.tasks": "textvqa", "eval.split": "validation"}, "'validation' is one that results are reported on"),
            ({"eval.tasks": "mmlu"}, "mmlu, whose split 'dev' has the examples of its prompts"),
            ({"eval.tasks": "pocket_mm"}, "task 'pocket_mm' is unknown; did you mean"),
            ({"eval.split": "train"}, "split 'train' is unknown; generated data have test and dev"),
            ({"eval.ever": "3"}, r"no key 'eval\.ever'.* mean 'every'"),
        ],
    )
    def test_what_may_not_be_looked_at(self, base: Path, tmp_path: Path, changes: dict[str, str], fault: str) -> None:
        with pytest.raises(VrbenchError, match=fault):
            dry_run(load("pocket-region", {**TUNE, "base": str(base), **EVAL, **changes}), tmp_path / "out")


class TestRefused:
    def test_quantization_without_its_package(
        self, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("vrbench.training.quantization.EXTRA", "no_such_package")
        asked = load("pocket-region", {**TUNE, "base": str(base), "tune.quantize": "nf4"})
        with pytest.raises(VrbenchError, match=r"'nf4', which needs no_such_package; pip install 'vrbench\[qlora\]'"):
            dry_run(asked, tmp_path / "out")

    def test_trackers_that_are_not_there(self, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
        with pytest.raises(MultipleErrors) as told:
            train("pocket-region", tmp_path / "out", {**TUNE, "base": str(base)}, "cpu", log_to=("wandb", "mlflow"))
        assert told.value.messages == (
            "wandb is not installed; pip install 'vrbench[wandb]' adds it",
            "tracker 'mlflow' is unknown; there are tensorboard, wandb",
        )  # fmt: skip
        with pytest.raises(VrbenchError, match="wandb is not installed"):
            dry_run(load("pocket-region", {**TUNE, "base": str(base)}), tmp_path / "out", log_to=["wandb"])

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
        with pytest.raises(VrbenchError, match="torch sees no CUDA GPU"):
            train("pocket-region", tmp_path / "out", device="cuda")
        assert not (tmp_path / "out").exists()
