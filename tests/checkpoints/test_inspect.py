"""`vrbench inspect`: what a checkpoint is, told without building a model."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests import tiny
from tests.tiny import checkpoint_errors
from vrbench.checkpoints.diff import BaseDiff
from vrbench.checkpoints.inspect import CheckpointInfo, format_info
from vrbench.checkpoints.tensor_index import TensorLocation, index_tensors
from vrbench.core.errors import VrbenchError
from vrbench.core.io import write_atomically
from vrbench.core.layers import LayerSet
from vrbench.core.schemas import BaseRef, Lineage, LineageStep
from vrbench.models.overlay import remove_layers
from vrbench.models.resolve import inspect_checkpoint, resolve_checkpoint

Tensors = dict[str, torch.Tensor]


def rewrite(folder: Path, change: Callable[[Tensors], object]) -> None:
    tensors = load_file(folder / "model.safetensors")
    change(tensors)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def nudge(*parts: str) -> Callable[[Tensors], None]:
    """Change the last value of the tensors whose names have these parts."""

    def change(tensors: Tensors) -> None:
        chosen = [name for name in tensors if any(part in name for part in parts)]
        assert chosen, (parts, sorted(tensors))
        for name in chosen:
            tensors[name].view(-1)[-1] += 1

    return change


def against(folder: Path | str, base: Path | str | None = None) -> BaseDiff:
    found = inspect_checkpoint(str(folder), None if base is None else str(base)).against
    assert found is not None
    return found


@cache
def published(name: str, base: str | None = None) -> CheckpointInfo:
    """What is told of a published checkpoint, which takes its time: its weights are compared with its base's."""
    return inspect_checkpoint(name, base)


def published_against(name: str, base: str | None = None) -> BaseDiff:
    found = published(name, base).against
    assert found is not None
    return found


def write_lineage(folder: Path, base: str, digest: str, *steps: LineageStep, depth: int) -> None:
    from vrbench.core.cache import file_digest

    weights = {file.name: file_digest(file) for file in folder.glob("*.safetensors")}
    line = Lineage(
        id="made", family="llava", depth=depth, base=BaseRef(id=base, digest=digest), steps=steps, weights=weights
    )
    write_atomically(folder / "vrbench.json", line.model_dump_json())


class TestPocket:
    """The published checkpoints."""

    def test_a_pruned_one_against_the_base_of_its_base(self) -> None:
        found = published_against("pocket/region-pruned-2", "pocket/base")
        assert (found.tuned, found.removed, found.depth) == ("0,3,7,11,15,18,22,26", "25,27", 30)
        assert (found.others, found.known_by) == (("projector",), "weights")

    def test_a_pruned_one_against_its_base(self) -> None:
        found = published_against("pocket/region-pruned-2")
        assert (found.base, found.tuned, found.removed, found.others) == ("pocket/region", "none", "25,27", ())

    def test_two_adapters_on_one_base(self) -> None:
        assert published_against("pocket/top", "pocket/full").tuned == "all"
        assert published_against("pocket/region", "pocket/top").tuned == "0,3,7,11,15,18,22-29"

    def test_what_a_language_model_has_not(self) -> None:
        found = published_against("pocket/base")
        assert (found.base, found.tuned, found.added) == (
            "smollm2-135m-instruct",
            "none",
            ("projector", "vision tower"),
        )

    def test_figures(self) -> None:
        found = published("pocket/region")
        assert (found.family, found.depth, found.licence) == ("llava", 30, "Apache-2.0")
        assert found.digest == resolve_checkpoint("pocket/region").digest
        assert found.parameters["LLM"] == 134_515_008  # SmolLM2-135M, embeddings tied
        assert found.parameters["total"] == sum(v for k, v in found.parameters.items() if k != "total")
        (ranks,) = found.ranks
        assert (ranks.rank, ranks.layers, len(ranks.modules)) == (8, "0,3,7,11,15,18,22,26", 7)

    def test_the_text_has_the_lineage_step_by_step(self) -> None:
        told = format_info(published("pocket/region-pruned-2"))
        steps = ("1. trained: layers none", "2. trained", "3. trained: layers 0,3,7", "4. pruned: layers 25,27 of 30")
        places = [told.index(step) for step in steps]
        assert places == sorted(places)
        assert "rank 8 on layers 0,3,7,11,15,18,22,26" in told
        assert "against:                  pocket/region, 30 layers (weights compared)" in told

    def test_the_command_imports_no_torch_and_prints_a_record(self) -> None:
        code = (
            "import atexit, sys; from vrbench.cli import main\n"
            "heavy = lambda: [m for m in ('torch', 'transformers') if m in sys.modules]\n"
            "atexit.register(lambda: print(*heavy(), file=sys.stderr))\n"
            "main()"
        )
        resolve_checkpoint("pocket/region")  # makes the LLM's folder, once and with transformers
        program = [sys.executable, "-c", code, "inspect", "pocket/region", "--json"]
        done = subprocess.run(program, capture_output=True, text=True, env={**os.environ}, check=False)
        assert (done.returncode, done.stderr.strip()) == (0, "")
        assert CheckpointInfo.model_validate_json(done.stdout) == published("pocket/region")


class TestWeightsCompared:
    def test_the_same_is_none(self, whole: Path, tiny_llava: Path) -> None:
        found = against(whole, tiny_llava)
        assert (found.tuned, found.removed, found.others, found.added) == ("none", "none", (), ())

    def test_tuned_layers_and_projector(self, whole: Path, tiny_llava: Path) -> None:
        rewrite(
            whole,
            nudge(
                "language_model.model.layers.1.mlp.up_proj",
                "language_model.model.layers.3.input_layernorm",
                "projector.linear_2.b",
            ),
        )
        found = against(whole, tiny_llava)
        assert (found.tuned, found.others) == ("1,3", ("projector",))

    def test_the_tower_s_layers_are_not_the_llm_s(self, whole: Path, tiny_llava: Path) -> None:
        rewrite(whole, nudge("vision_tower.encoder.layers.1.mlp.fc1.weight"))
        found = against(whole, tiny_llava)
        assert (found.tuned, found.others) == ("none", ("vision tower",))

    def test_embeddings_and_the_final_norm(self, whole: Path, tiny_llava: Path) -> None:
        rewrite(whole, nudge("embed_tokens", "language_model.model.norm"))
        assert against(whole, tiny_llava).others == ("embeddings", "final norm")

    def test_another_vocabulary_is_a_change(self, whole: Path, tiny_llava: Path) -> None:
        def lengthen(tensors: Tensors) -> None:
            name = next(n for n in tensors if "embed_tokens" in n)
            tensors[name] = torch.cat([tensors[name], tensors[name][:1]])

        rewrite(whole, lengthen)
        text = json.loads((whole / "config.json").read_text())["text_config"]
        tiny.edit_json(whole / "config.json", text_config=text | {"vocab_size": text["vocab_size"] + 1})
        assert against(whole, tiny_llava).others == ("embeddings",)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_rounding_to_another_dtype_is_no_change(self, whole: Path, tiny_llava: Path, dtype: torch.dtype) -> None:
        rewrite(whole, lambda tensors: tensors.update({n: v.to(dtype) for n, v in tensors.items()}))
        assert against(whole, tiny_llava).tuned == "none"
        rewrite(whole, nudge("language_model.model.layers.2.mlp.up_proj"))
        found = against(whole, tiny_llava)
        assert (found.tuned, found.others) == ("2", ())
        assert against(tiny_llava, whole).tuned == "all"  # what is finer cannot have come of rounding

    def test_half_precision_of_two_kinds(self, tiny_llava: Path, tmp_path: Path) -> None:
        for name, dtype in (("f16", torch.float16), ("bf16", torch.bfloat16)):
            shutil.copytree(tiny_llava, tmp_path / name)
            rewrite(tmp_path / name, lambda t, to=dtype: t.update({n: v.half().to(to) for n, v in t.items()}))
        assert against(tmp_path / "bf16", tmp_path / "f16").tuned == "none"

    def test_a_head_of_its_own_counts_though_the_config_ties_it(self, whole: Path, tiny_llava: Path) -> None:
        def add(tensors: Tensors, factor: float) -> None:
            embedding = next(name for name in tensors if "embed_tokens" in name)
            tensors["language_model.lm_head.weight"] = tensors[embedding] * factor

        rewrite(whole, lambda tensors: add(tensors, 1.0))
        assert against(whole, tiny_llava).others == ()
        rewrite(whole, lambda tensors: add(tensors, 2.0))  # transformers loads it as it is
        assert against(whole, tiny_llava).others == ("head",)

    def test_a_file_that_is_no_piece_of_a_checkpoint_is_not_counted(self, tiny_llava: Path, tmp_path: Path) -> None:
        folder = tiny.save_adapter(tmp_path / "adapter", tiny_llava)
        save_file({"language_model.model.norm.weight": torch.zeros(tiny.HIDDEN)}, folder / "notes.safetensors")
        told = inspect_checkpoint(str(folder)).against
        assert told is not None
        assert (told.tuned, told.others) == ("1-2", ())

    def test_newer_names(self, whole: Path, tiny_llava: Path) -> None:
        def rename(tensors: Tensors) -> None:
            for name in list(tensors):
                newer = name.replace("language_model.model.", "model.language_model.")
                tensors[newer if newer != name else f"model.{name}"] = tensors.pop(name)

        rewrite(whole, rename)
        assert against(whole, tiny_llava).tuned == "none"
        rewrite(whole, nudge("model.language_model.layers.0.self_attn.o_proj.weight"))
        found = against(whole, tiny_llava)
        assert (found.tuned, found.others, found.added) == ("0", (), ())

    def test_blocks_do_not_hide_a_change(self, whole: Path, tiny_llava: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(TensorLocation.blocks, "__defaults__", (7,))
        rewrite(whole, nudge("language_model.model.layers.2.mlp.down_proj"))
        assert against(whole, tiny_llava).tuned == "2"


def save_pruned(folder: Path, tiny_llava: Path, *removed: int) -> Path:
    """A whole folder of fewer layers, without lineage."""
    shutil.copytree(tiny_llava, folder)
    model = tiny.llava()
    remove_layers(model, LayerSet.of(removed, tiny.DEPTH))
    model.save_pretrained(folder)
    return folder


class TestRemovedLayers:
    def test_of_a_foreign_folder_they_are_seen_from_the_weights(self, tiny_llava: Path, tmp_path: Path) -> None:
        folder = save_pruned(tmp_path / "p", tiny_llava, 1)
        rewrite(folder, nudge("language_model.model.layers.1.mlp.up_proj"))
        found = against(folder, tiny_llava)
        assert (found.removed, found.tuned, found.depth) == ("1", "2", 4)

    def test_where_nothing_is_left_of_a_layer_nothing_is_guessed(self, tiny_llava: Path, tmp_path: Path) -> None:
        folder = save_pruned(tmp_path / "p", tiny_llava, 0, 1)
        tiny.llava(seed=5, depth=2).save_pretrained(folder)
        found = against(folder, tiny_llava)
        assert (found.tuned, found.removed) == ("", "")
        assert "which ones were removed is neither recorded nor visible" in found.note

    def test_by_the_lineage_when_the_weights_are_new(self, tiny_llava: Path, tmp_path: Path) -> None:
        folder = save_pruned(tmp_path / "p", tiny_llava, 0, 1)
        tiny.llava(seed=5, depth=2).save_pretrained(folder)
        steps = (LineageStep(kind="pruned", layers="1", depth=4), LineageStep(kind="pruned", layers="1", depth=3))
        write_lineage(folder, "../elsewhere", "", *steps, depth=2)
        found = against(folder, tiny_llava)
        assert (found.removed, found.tuned) == ("1-2", "0,3")


class TestRecordedBase:
    def test_it_is_found_beside_the_folder(self, tiny_llava: Path, tmp_path: Path) -> None:
        shutil.copytree(tiny_llava, tmp_path / "base")
        folder = save_pruned(tmp_path / "p", tiny_llava, 2)
        digest = resolve_checkpoint(str(tmp_path / "base")).digest
        write_lineage(folder, "../base", digest, LineageStep(kind="pruned", layers="2", depth=4), depth=3)
        found = against(folder)
        assert (found.removed, found.tuned, found.known_by, found.base) == ("2", "none", "weights", "base")

    def test_where_it_is_not_at_hand_the_lineage_speaks(self, tiny_llava: Path, tmp_path: Path) -> None:
        folder = save_pruned(tmp_path / "p", tiny_llava, 2)
        steps = (LineageStep(kind="pruned", layers="2", depth=4), LineageStep(kind="trained", layers="0,2", depth=3))
        write_lineage(folder, "../gone", "abc", *steps, depth=3)
        found = against(folder)
        assert (found.removed, found.tuned, found.known_by, found.digest) == ("2", "0,3", "lineage", "abc")
        assert "not available" in found.note

    def test_another_one_of_that_name_is_not_believed(self, tiny_llava: Path, tmp_path: Path) -> None:
        folder = save_pruned(tmp_path / "p", tiny_llava, 2)
        write_lineage(folder, str(tiny_llava), "0" * 64, LineageStep(kind="pruned", layers="2", depth=4), depth=3)
        found = against(folder)
        assert (found.known_by, found.removed) == ("lineage", "2")
        assert "another digest" in found.note


class TestAdapters:
    def test_ranks_by_layer_and_module(self, tiny_llava: Path, tmp_path: Path) -> None:
        folder = tiny.save_adapter(tmp_path / "a", tiny_llava, layers=(1, 2))

        def widen(tensors: Tensors) -> None:
            for name in [n for n in tensors if "layers.2.mlp.up_proj" in n]:
                tensors[name] = torch.cat([tensors[name]] * 2, dim=0 if "lora_A" in name else 1)

        tensors = load_file(folder / "adapter_model.safetensors")
        widen(tensors)
        save_file(tensors, folder / "adapter_model.safetensors")
        tiny.edit_json(folder / "adapter_config.json", rank_pattern={"2.mlp.up_proj": 4})
        found = inspect_checkpoint(str(folder))
        ranks = {(r.rank, r.layers, r.modules) for r in found.ranks}
        assert ranks == {
            (2, "1", ("mlp.up_proj", "self_attn.q_proj")), (2, "2", ("self_attn.q_proj",)), (4, "2", ("mlp.up_proj",))
        }  # fmt: skip
        assert found.adapter_parameters == sum(v.numel() for v in tensors.values())
        assert found.against is not None and found.against.tuned == "1-2"

    def test_one_that_was_never_trained_tunes_nothing(self, tiny_llava: Path, tmp_path: Path) -> None:
        folder = tiny.save_adapter(tmp_path / "a", tiny_llava, layers=(1, 2))
        tensors = load_file(folder / "adapter_model.safetensors")
        for name in [n for n in tensors if "lora_B" in n and "layers.2" in n]:
            tensors[name].zero_()
        save_file(tensors, folder / "adapter_model.safetensors")
        assert against(folder).tuned == "1"

    @pytest.mark.parametrize("name", ["weight", "magnitude_vector"])
    def test_dora_s_lengths_may_change_what_zeros_do_not(self, tiny_llava: Path, tmp_path: Path, name: str) -> None:
        found = resolve_checkpoint(str(tiny.save_adapter(tmp_path / "a", tiny_llava, layers=(1, 2))))
        file = found.path / "adapter_model.safetensors"
        tensors = {n: torch.zeros_like(v) if "lora_B" in n else v for n, v in load_file(file).items()}
        if name == "magnitude_vector":
            first = next(n for n in tensors if "layers.2" in n and "up_proj.lora_B" in n)
            tensors[first.replace("lora_B.weight", "lora_magnitude_vector")] = torch.ones(96)
        save_file(tensors, file)
        adapted = [n for n, location in index_tensors(found).tensors.items() if location.adapters]
        assert adapted == ([] if name == "weight" else ["layers.2.mlp.up_proj.weight"])

    def test_a_projector_in_the_adapter_is_another_projector(self, tiny_llava: Path, tmp_path: Path) -> None:
        found = resolve_checkpoint(str(tiny.save_adapter(tmp_path / "a", tiny_llava)))
        file = found.path / "adapter_model.safetensors"
        name = "base_model.model.model.multi_modal_projector.linear_1.modules_to_save.weight"
        save_file(load_file(file) | {name: torch.ones(48, 32)}, file)
        own = index_tensors(found)
        assert own.tensors["multi_modal_projector.linear_1.weight"].file == file
        assert own.parameters() == index_tensors(resolve_checkpoint(str(tiny_llava))).parameters()

    def test_what_is_merged_here_cannot_be_compared(self, tiny_llava: Path, tmp_path: Path) -> None:
        from vrbench.models.load import load_vlm

        folder = tiny.save_adapter(tmp_path / "a", tiny_llava, layers=(1,))
        shutil.copytree(tiny_llava, tmp_path / "merged")
        load_vlm(resolve_checkpoint(str(folder))).model.save_pretrained(tmp_path / "merged")
        assert against(tmp_path / "merged", tiny_llava).tuned == "1"
        found = against(tmp_path / "merged", folder)
        assert found.tuned == "none" and "layers 1 have an adapter in the base" in found.note

    def test_removed_layers_shift_the_adapters_below(self, tiny_llava: Path, tmp_path: Path) -> None:
        tuned = tiny.save_adapter(tmp_path / "a", tiny_llava, layers=(2,))
        digest = resolve_checkpoint(str(tuned)).digest
        tiny.mark(tmp_path / "p", str(tuned), digest, [LineageStep(kind="pruned", layers="0", depth=4)], depth=3)
        found = against(tmp_path / "p", tiny_llava)
        assert (found.tuned, found.removed) == ("2", "0")


def test_figures_are_those_of_the_loaded_model(tiny_llava: Path) -> None:
    model = tiny.llava()
    found = inspect_checkpoint(str(tiny_llava)).parameters
    assert found["total"] == sum(p.numel() for p in model.parameters())
    assert found["vision tower"] == sum(p.numel() for p in model.model.vision_tower.parameters())
    assert found["projector"] == sum(p.numel() for p in model.model.multi_modal_projector.parameters())


def test_a_head_that_is_stored_twice_counts_once(whole: Path) -> None:
    before = inspect_checkpoint(str(whole)).parameters
    rewrite(whole, lambda t: t.update({"lm_head.weight": next(v for n, v in t.items() if "embed_tokens" in n).clone()}))
    assert inspect_checkpoint(str(whole)).parameters == before


def test_a_licence_from_the_model_card(whole: Path) -> None:
    assert inspect_checkpoint(str(whole)).licence == ""
    (whole / "README.md").write_text("---\nlicense: llama2\ntags: [x]\n---\n# A model\n")
    assert inspect_checkpoint(str(whole)).licence == "llama2"
    (whole / "README.md").write_text("---\n: [\n")
    assert "licence:                  not stated" in format_info(inspect_checkpoint(str(whole)))


def test_files_that_are_not_read_are_named(whole: Path) -> None:
    (whole / "pytorch_model-00001-of-00002.bin").write_bytes(b"x")
    shutil.copy(whole / "model.safetensors", whole / "model-00001-of-00002.safetensors")
    note = inspect_checkpoint(str(whole)).note
    assert "not model-00001-of-00002.safetensors, pytorch_model-00001-of-00002.bin" in note


def test_random_weights() -> None:
    found = inspect_checkpoint("random/tiny?adapter=2&removed=1", "random/tiny")
    assert found.against is not None
    assert (found.against.tuned, found.against.removed) == ("0,2", "3")
    assert "not the model's own" in found.note and found.dtypes.keys() == {"random"}


def test_random_weights_cannot_be_compared_with_files(tiny_llava: Path) -> None:
    assert "random and not stored" in against("random/tiny", tiny_llava).note


def test_a_language_model_alone_can_be_looked_at(whole: Path) -> None:
    config = json.loads((whole / "config.json").read_text())["text_config"]
    (whole / "config.json").write_text(json.dumps(config))
    rewrite(whole, lambda t: [t.pop(n) for n in list(t) if "vision" in n or "projector" in n])
    found = inspect_checkpoint(str(whole))
    assert (found.family, found.parameters["vision tower"], found.depth) == ("llama", 0, 4)


def test_what_a_run_would_refuse_is_told_here_too(whole: Path) -> None:
    rewrite(whole, lambda tensors: [tensors.pop(name) for name in list(tensors) if "model.layers.3" in name])
    with pytest.raises(VrbenchError, match="lack decoder layers 3") as caught:
        inspect_checkpoint(str(whole))
    assert checkpoint_errors(str(whole)) == [str(caught.value)]


def test_faults_of_the_checkpoint_are_told(whole: Path) -> None:
    (whole / "model.safetensors").write_bytes((whole / "model.safetensors").read_bytes()[:-8])
    with pytest.raises(VrbenchError, match="is truncated"):
        inspect_checkpoint(str(whole))


class TestSurgery:
    def test_a_delta_s_layers(self, tiny_llava: Path, tmp_path: Path) -> None:
        from tests.tiny import save_delta

        model = tiny.llava()
        with torch.no_grad():
            model.model.language_model.layers[2].mlp.up_proj.weight += 1
            model.model.multi_modal_projector.linear_2.bias += 1
        made = save_delta(model, LayerSet.of((1, 2), 4), str(tiny_llava), tmp_path / "d")
        found = against(made)
        assert (found.tuned, found.others) == ("2", ("projector",))  # layer 1 is stored too, and is the base's
        assert inspect_checkpoint(str(made)).parameters == inspect_checkpoint(str(tiny_llava)).parameters

    def test_layers_put_back_to_the_backbone_s(self, tiny_llava: Path, tmp_path: Path) -> None:
        from vrbench.pruning.prune import restore

        shutil.copytree(tiny_llava, tmp_path / "tuned")
        rewrite(tmp_path / "tuned", nudge(*(f"language_model.model.layers.{i}.mlp.up_proj" for i in (1, 2, 3))))
        made = restore(str(tmp_path / "tuned"), "1,3", str(tiny_llava), tmp_path / "out")
        assert against(made).tuned == "1,3"
        assert against(made, tiny_llava).tuned == "2"

    def test_adapters_are_gone_from_what_was_put_back(self, tiny_llava: Path, tmp_path: Path) -> None:
        from vrbench.pruning.prune import restore

        tuned = tiny.save_adapter(tmp_path / "tuned", tiny_llava, layers=(1, 2))
        made = restore(str(tuned), "2-3", str(tiny_llava), tmp_path / "out")
        assert against(made, tiny_llava).tuned == "1"
        assert against(made).tuned == "2"

    def test_a_restored_model_of_a_pruned_one_follows_the_whole_lineage(self, tiny_llava: Path, tmp_path: Path) -> None:
        from vrbench.pruning.prune import prune, restore
        from vrbench.pruning.recipe import make_recipe

        unlike = tiny.save_llava(tmp_path / "unlike", seed=3)  # no layer can be told from its content
        recipe = make_recipe(makes="name/of-a-recipe", base=str(tiny_llava), layers="1", outside_region=False)
        pruned = prune(recipe, tmp_path / "pruned", "cpu", whole=True)
        made = restore(str(pruned), "1", str(tiny_llava), tmp_path / "out")
        assert against(made, unlike).removed == "1"
        text = format_info(inspect_checkpoint(str(made)))
        assert f"  out: made from pruned ({pruned.resolve()}), digest" in text and "name/of-a-recipe" not in text
        assert f"  pruned: made from {tiny_llava.name} ({tiny_llava.resolve()}), digest" in text
        digest = resolve_checkpoint(str(tiny_llava)).digest[:12]
        assert f"2. restored: layers 1 of 3 from {tiny_llava.name} ({tiny_llava.resolve()}), digest {digest} (" in text
        again = prune(make_recipe(makes="x", base=str(made), layers="0"), tmp_path / "again", "cpu")
        found = against(again, pruned)
        assert (found.removed, found.tuned) == ("0", "none")
