"""Every fault of a checkpoint is told before a weight is loaded; what is whole has a digest and a lineage."""

from __future__ import annotations

import codecs
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import huggingface_hub
import pytest
import safetensors
import safetensors.torch
import torch
from safetensors.torch import load_file, save_file

from tests import tiny
from tests.tiny import checkpoint_errors
from vrbench.checkpoints import locate
from vrbench.core.cache import file_digest
from vrbench.core.errors import MultipleErrors, VrbenchError
from vrbench.core.schemas import LineageStep
from vrbench.models.resolve import resolve_checkpoint


@pytest.fixture
def whole(tiny_llava: Path, tmp_path: Path) -> Path:
    """A copy of the tiny LLaVA that may be damaged."""
    return Path(shutil.copytree(tiny_llava, tmp_path / "whole"))


@pytest.fixture
def adapter(tiny_llava: Path, tmp_path: Path) -> Path:
    """An adapter folder with lineage, on the tiny LLaVA."""
    folder = tiny.save_adapter(tmp_path / "adapter", tiny_llava)
    return marked(folder, tiny_llava, LineageStep(kind="trained", layers="1-2", depth=4))


def marked(folder: Path, base: Path, *steps: LineageStep, depth: int = tiny.DEPTH) -> Path:
    return tiny.mark(folder, str(base), resolve_checkpoint(str(base)).digest, steps, depth)


def told(folder: Path | str, *words: str) -> None:
    """The folder has exactly one fault, and its sentence has these words."""
    found = checkpoint_errors(str(folder))
    assert len(found) == 1, found
    for word in words:
        assert word in found[0], found


@pytest.fixture
def no_weight_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a weight was loaded")

    monkeypatch.setattr(safetensors.torch, "load_file", refuse)
    import transformers

    monkeypatch.setattr(transformers.PreTrainedModel, "from_pretrained", refuse)


class TestNames:
    def test_an_unknown_published_name_is_answered_with_the_nearest(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(locate, "published_names", lambda: ["pocket/full", "pocket/region", "pocket/top"])
        told("pocket/ful", "no checkpoint 'pocket/ful'", "did you mean 'pocket/full'")

    def test_a_misspelt_folder_is_answered_with_its_neighbour(self, whole: Path) -> None:
        told(whole.parent / "whoel", "did you mean", str(whole))

    def test_a_hub_id_that_is_not_in_the_cache_is_refused_without_the_network(self) -> None:
        told("nobody/nothing-here", "no checkpoint 'nobody/nothing-here'", "the network is off")

    def test_a_hub_id_in_the_cache_is_found_with_its_revision(
        self, tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        revision = "0123456789abcdef0123456789abcdef01234567"
        repository = tmp_path / "models--someone--tiny"
        shutil.copytree(tiny_llava, repository / "snapshots" / revision)
        (repository / "refs").mkdir()
        (repository / "refs" / "main").write_text(revision)
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
        found = resolve_checkpoint("someone/tiny", offline=True)
        assert (found.id, found.revision) == ("someone/tiny", revision)
        assert found.digest == resolve_checkpoint(str(tiny_llava)).digest

    def test_an_adapter_s_base_is_the_revision_that_it_was_trained_on(self, tiny_llava: Path, tmp_path: Path) -> None:
        folder = tiny.save_adapter(tmp_path / "adapter", tiny_llava)
        told_base = {"base_model_name_or_path": "nobody/nothing-here", "revision": "v1.2"}
        tiny.edit_json(folder / "adapter_config.json", **told_base)
        told(folder, "no checkpoint 'nobody/nothing-here@v1.2'", "the network is off")
        tiny.edit_json(folder / "adapter_config.json", base_model_name_or_path=str(tiny_llava))
        assert checkpoint_errors(str(folder)) == []  # a folder has no revisions

    @pytest.mark.parametrize("start", ["pissa_niter_16", "loftq", "corda"])
    def test_an_adapter_whose_base_cannot_be_made_again(self, start: str, tiny_llava: Path, tmp_path: Path) -> None:
        folder = tiny.save_adapter(tmp_path / "adapter", tiny_llava)
        tiny.edit_json(folder / "adapter_config.json", init_lora_weights=start)
        told(folder, f"init_lora_weights {start!r}", "path_initial_model_for_weight_conversion")

    def test_a_folder_with_nothing_in_it_is_no_checkpoint(self, tmp_path: Path) -> None:
        told(tmp_path, "is not a checkpoint")

    def test_every_fault_comes_at_once(self, adapter: Path) -> None:
        tiny.edit_json(adapter / "vrbench.json", base={"id": "pocket/nope", "digest": "0"})
        (adapter / "adapter_model.safetensors").write_bytes(b"x")
        with pytest.raises(MultipleErrors) as caught:
            resolve_checkpoint(str(adapter))
        assert len(caught.value.messages) == 2


@pytest.mark.usefixtures("no_weight_is_loaded")
class TestBrokenWeights:
    @pytest.mark.parametrize(
        "change",
        [
            lambda content: content[:-100],
            lambda content: content[:300],
            lambda content: content + b"more",
            lambda content: b"",
            lambda content: b"\x80\x02}q\x00" * 100,
            lambda content: (200_000).to_bytes(8, "little") + b"[" * 200_000,
            lambda content: (10**12).to_bytes(8, "little") + b"{}",
            *(
                lambda _, header=f'{{"a": {{"dtype": "{dtype}", "shape": [{size}], "data_offsets": [{begin}, 4]}}}}': (
                    len(header).to_bytes(8, "little") + header.encode() + b"1234"
                )
                for dtype, size, begin in (
                    ("F32", "Infinity", 0), ("F32", "1e400", 0), ("F32", "1", "-Infinity"), ("F32", "-1", 0),
                    ("F32", "2", 0), ("F32", "4611686018427387905", 0), ("F33", "1", 0), ("F32", "1", 4),
                )
            ),
        ],
    )  # fmt: skip
    def test_no_complete_safetensors_file(self, whole: Path, change: Callable[[bytes], bytes]) -> None:
        file = whole / "model.safetensors"
        file.write_bytes(change(file.read_bytes()))
        told(whole, "model.safetensors is truncated or no valid safetensors file")

    def test_an_unknown_dtype(self, whole: Path) -> None:
        header = b'{"a": {"dtype": "F8_E4M3FNUZ", "shape": [4], "data_offsets": [0, 4]}}'
        (whole / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + b"1234")
        told(whole, "unknown dtype", "F8_E4M3FNUZ")

    @pytest.mark.parametrize("name", ["../../other.safetensors", "..", "x\0", "a\\b", ""])
    def test_an_index_that_leads_out_of_the_folder(self, whole: Path, name: str) -> None:
        (whole / "model.safetensors").unlink()
        (whole / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": name}}))
        told(whole, "no weight_map of file names")

    def test_a_tensor_in_two_shards(self, whole: Path) -> None:
        tensors = load_file(whole / "model.safetensors")
        (whole / "model.safetensors").unlink()
        first, *rest = sorted(tensors)
        parts = {"a.safetensors": [first], "b.safetensors": [first, *rest]}
        for file, names in parts.items():
            save_file({name: tensors[name] for name in names}, whole / file, {"format": "pt"})
        index = {"weight_map": dict.fromkeys(rest, "b.safetensors") | {first: "a.safetensors"}}
        (whole / "model.safetensors.index.json").write_text(json.dumps(index))
        told(whole, f"holds {first!r} twice", "a.safetensors and b.safetensors")

    def test_one_weight_under_two_names(self, whole: Path) -> None:
        tensors = load_file(whole / "model.safetensors")
        old = "language_model.model.layers.0.self_attn.q_proj.weight"
        new = "model.language_model.layers.0.self_attn.q_proj.weight"
        save_file({**tensors, new: tensors[old] * 0}, whole / "model.safetensors", {"format": "pt"})
        told(whole, "one weight under two names", repr(old), repr(new))

    @pytest.mark.parametrize("layer", [-4, 3, 99])
    def test_a_state_that_the_tower_has_not(self, layer: int, whole: Path) -> None:
        tiny.edit_json(whole / "config.json", vision_feature_layer=layer)
        told(whole, f"vision_feature_layer {layer}", "has states -3 to 2")

    @pytest.mark.parametrize("layer", [-3, 2])
    def test_the_first_and_the_last_state(self, layer: int, whole: Path) -> None:
        tiny.edit_json(whole / "config.json", vision_feature_layer=layer)
        assert checkpoint_errors(str(whole)) == []

    def test_a_git_lfs_pointer(self, whole: Path) -> None:
        (whole / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
        told(whole, "Git LFS pointer", "git lfs pull")

    def test_offsets_that_overlap(self, whole: Path) -> None:
        def shift(entries: list[dict[str, Any]]) -> None:
            entries[1]["data_offsets"] = [n - 4 for n in entries[1]["data_offsets"]]

        rewrite_header(whole / "model.safetensors", shift)
        told(whole, "no valid safetensors file")

    def test_a_shape_that_does_not_fit_its_bytes(self, whole: Path) -> None:
        rewrite_header(whole / "model.safetensors", lambda entries: entries[0].update(shape=[3, 3]))
        told(whole, "no valid safetensors file")

    def test_no_weights(self, whole: Path) -> None:
        (whole / "model.safetensors").unlink()
        told(whole, "has no weights")

    def test_pickled_weights_only(self, whole: Path) -> None:
        (whole / "model.safetensors").rename(whole / "pytorch_model.bin")
        told(whole, "has no weights", "pytorch_model.bin", "converted")


def rewrite_header(file: Path, change: Callable[[list[dict[str, Any]]], None]) -> None:
    content = file.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change([entry for name, entry in header.items() if name != "__metadata__"])
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])


class TestForeignWeights:
    def test_weights_of_a_deeper_model(self, whole: Path) -> None:
        tiny.llava(depth=5).save_pretrained(whole / "other")
        shutil.copy(whole / "other" / "model.safetensors", whole)
        told(whole, "config.json has num_hidden_layers 4", "have decoder layers beyond it: 4; set it to 5")

    def test_weights_of_a_shallower_model(self, whole: Path) -> None:
        tiny.llava(depth=3).save_pretrained(whole / "other")
        shutil.copy(whole / "other" / "model.safetensors", whole)
        told(whole, "config.json has num_hidden_layers 4", "lack decoder layers 3; download them again")

    def test_layers_with_a_gap_in_their_numbers(self, whole: Path) -> None:
        old, new = "language_model.model.layers.3.", "language_model.model.layers.5."
        rename(whole / "model.safetensors", old, new)
        found = checkpoint_errors(str(whole))
        assert len(found) == 2 and all("number them 0 to 3, without a gap" in fault for fault in found), found

    def test_weights_of_a_wider_model(self, whole: Path) -> None:
        tiny.llava(hidden=64).save_pretrained(whole / "other")
        shutil.copy(whole / "other" / "model.safetensors", whole)
        told(whole, "has another shape", "64")

    def test_one_tensor_under_another_name(self, whole: Path) -> None:
        tensors = load_file(whole / "model.safetensors")
        tensors["language_model.model.norm.wait"] = tensors.pop("language_model.model.norm.weight")
        save_file(tensors, whole / "model.safetensors", {"format": "pt"})
        assert len(checkpoint_errors(str(whole))) == 2  # one is missing, one is foreign

    def test_a_family_that_is_not_known(self, whole: Path) -> None:
        tiny.edit_json(whole / "config.json", model_type="bert")
        told(whole, "model_type 'bert'", "llava")

    def test_a_config_that_is_not_json(self, whole: Path) -> None:
        (whole / "config.json").write_text("{")
        told(whole, "config.json is not JSON")


class TestShards:
    @pytest.fixture
    def sharded(self, whole: Path) -> Path:
        (whole / "model.safetensors").unlink()
        tiny.llava().save_pretrained(whole, max_shard_size="200KB")
        assert len(list(whole.glob("model-*.safetensors"))) > 1
        return whole

    def test_a_sharded_folder_is_whole(self, sharded: Path) -> None:
        assert resolve_checkpoint(str(sharded)).depth == tiny.DEPTH

    def test_a_missing_shard(self, sharded: Path) -> None:
        shard = sorted(sharded.glob("model-*.safetensors"))[0]
        shard.unlink()
        told(sharded, shard.name, "is missing")

    def test_shards_that_changed_places(self, sharded: Path) -> None:
        first, second = sorted(sharded.glob("model-*.safetensors"))[:2]
        content = first.read_bytes()
        first.write_bytes(second.read_bytes())
        second.write_bytes(content)
        assert "lacks" in checkpoint_errors(str(sharded))[0]


class TestLineage:
    def test_an_adapter_made_on_another_base(self, adapter: Path) -> None:
        tiny.edit_json(adapter / "vrbench.json", base=raw(adapter)["base"] | {"digest": "0" * 64})
        told(adapter, "was made on another", "0" * 12)

    def test_a_base_that_changed_since(self, whole: Path, tmp_path: Path) -> None:
        folder = marked(tiny.save_adapter(tmp_path / "a", whole), whole)
        tiny.llava(seed=5).save_pretrained(whole)
        told(folder, "was made on another")

    def test_weights_that_are_not_those_of_the_lineage(self, adapter: Path) -> None:
        file = adapter / "adapter_model.safetensors"
        content = bytearray(file.read_bytes())
        content[-1] ^= 1
        file.write_bytes(content)
        told(adapter, "adapter_model.safetensors is not what vrbench.json says")

    def test_weights_that_the_lineage_lists_and_are_gone(self, adapter: Path) -> None:
        tiny.edit_json(adapter / "vrbench.json", weights=raw(adapter)["weights"] | {"projector.safetensors": "0"})
        told(adapter, "projector.safetensors is missing")

    def test_weights_that_the_lineage_does_not_list(self, adapter: Path) -> None:
        tiny.save_projector(adapter)
        told(adapter, "projector.safetensors is not listed")

    def test_a_half_made_folder(self, tmp_path: Path) -> None:
        tiny.save_projector(tmp_path / "p")
        told(tmp_path / "p", "is incomplete", "projector.safetensors")

    def test_a_lineage_that_cannot_be_read(self, adapter: Path) -> None:
        tiny.edit_json(adapter / "vrbench.json", depth="many")
        told(adapter, "vrbench.json cannot be read: depth")

    def test_a_lineage_of_a_later_version(self, adapter: Path) -> None:
        tiny.edit_json(adapter / "vrbench.json", schema_version=99)
        told(adapter, "schema version 99")

    def test_a_folder_that_is_its_own_base(self, tmp_path: Path) -> None:
        folder = tiny.mark(tmp_path / "loop", str(tmp_path / "loop"), "0")
        told(folder, "from itself")

    def test_a_pruned_layer_out_of_range(self, tiny_llava: Path, tmp_path: Path) -> None:
        folder = marked(tmp_path / "p", tiny_llava, LineageStep(kind="pruned", layers="2,4", depth=4), depth=2)
        told(folder, "step 1 (pruned)", "layer 4 does not exist", "layers 0 to 3")

    def test_a_second_pruning_counts_in_the_depth_that_is_left(self, tiny_llava: Path, tmp_path: Path) -> None:
        steps = [LineageStep(kind="pruned", layers="2", depth=4), LineageStep(kind="pruned", layers="3", depth=4)]
        told(marked(tmp_path / "p", tiny_llava, *steps, depth=2), "step 2", "the model has 3 at that point")

    def test_all_layers_removed(self, tiny_llava: Path, tmp_path: Path) -> None:
        folder = marked(tmp_path / "p", tiny_llava, LineageStep(kind="pruned", layers="all", depth=4), depth=0)
        told(folder, "removes every layer")

    def test_a_depth_that_the_steps_do_not_give(self, tiny_llava: Path, tmp_path: Path) -> None:
        folder = marked(tmp_path / "p", tiny_llava, LineageStep(kind="pruned", layers="2", depth=4), depth=4)
        told(folder, "says depth 4", "leave 3")


def raw(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "vrbench.json").read_text())


class TestAdapters:
    def test_a_plain_peft_folder_is_a_checkpoint(self, tiny_llava: Path, tmp_path: Path) -> None:
        found = resolve_checkpoint(str(tiny.save_adapter(tmp_path / "plain", tiny_llava)))
        assert (found.family, found.depth, found.root.path) == ("llava", 4, tiny_llava)

    def test_a_layer_beyond_the_depth(self, tiny_llava: Path, tmp_path: Path) -> None:
        told(tiny.save_adapter(tmp_path / "a", tiny_llava, layers=(3, 5), depth=6), "layers [5]", "layers 0 to 3")

    def test_a_layer_beyond_the_depth_that_pruning_left(self, tiny_llava: Path, tmp_path: Path) -> None:
        folder = tiny.save_adapter(tmp_path / "a", tiny_llava, layers=(3,))
        marked(folder, tiny_llava, LineageStep(kind="pruned", layers="0", depth=4), depth=3)
        told(folder, "layers [3]", "layers 0 to 2")

    def test_layers_are_counted_anew_after_pruning(self, tiny_llava: Path, tmp_path: Path) -> None:
        folder = tiny.save_adapter(tmp_path / "a", tiny_llava, layers=(0,))
        marked(folder, tiny_llava, LineageStep(kind="pruned", layers="0", depth=4), depth=3)
        assert resolve_checkpoint(str(folder)).depth == 3

    def test_an_adapter_for_a_wider_base(self, tiny_llava: Path, tmp_path: Path) -> None:
        folder = tiny.save_adapter(tmp_path / "a", tiny_llava, hidden=64)
        told(folder, "is for another base", "layers.1.mlp.up_proj", "64")

    def test_a_base_that_is_not_there(self, tmp_path: Path) -> None:
        told(tiny.save_adapter(tmp_path / "a", tmp_path / "gone"), "no checkpoint", "gone")

    def test_a_relative_base_names_the_file_that_names_it(self, tiny_llava: Path, tmp_path: Path) -> None:
        folder = tiny.save_adapter(tmp_path / "a", Path("../bases/gone"))
        told(
            folder, f"{folder / 'adapter_config.json'} has base_model_name_or_path '../bases/gone'",
            f"tried {folder}/../bases/gone and {Path.cwd()}/../bases/gone", "set base_model_name_or_path to a folder",
        )  # fmt: skip
        tiny.mark(folder, "../gone", "0" * 64)
        told(folder, "vrbench.json has base.id '../gone'", f"tried {folder}/../gone")
        marked(folder, tiny_llava, LineageStep(kind="pruned", layers="0", depth=4), depth=3)
        step = {"kind": "restored", "layers": "0", "depth": 4, "backbone": {"id": "../gone", "digest": "0"}}
        tiny.edit_json(folder / "vrbench.json", steps=[step], depth=4)
        told(folder, "vrbench.json has backbone.id '../gone'", f"tried {folder}/../gone")

    @pytest.mark.parametrize("mark", [codecs.BOM_UTF8, codecs.BOM_UTF16_LE])
    def test_settings_that_an_editor_put_a_byte_order_mark_in_front_of(
        self, tiny_llava: Path, tmp_path: Path, mark: bytes
    ) -> None:
        folder = marked(tiny.save_adapter(tmp_path / "a", tiny_llava), tiny_llava)
        encoding = "utf-8" if mark == codecs.BOM_UTF8 else "utf-16-le"
        for name in ("adapter_config.json", "vrbench.json"):
            before = (folder / name).read_bytes()
            (folder / name).write_bytes(mark + before.decode().encode(encoding))
            if mark == codecs.BOM_UTF8:
                assert checkpoint_errors(str(folder)) == []
            else:
                told(folder, f"{name} is UTF-16; save it as UTF-8")
                (folder / name).write_bytes(before)

    def test_a_pickled_adapter(self, tiny_llava: Path, tmp_path: Path) -> None:
        folder = tiny.save_adapter(tmp_path / "a", tiny_llava)
        (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
        told(folder, "adapter_model.bin", "save it with PEFT as adapter_model.safetensors")

    def test_a_module_under_two_names(self, tiny_llava: Path, tmp_path: Path) -> None:
        folder = tiny.save_adapter(tmp_path / "a", tiny_llava)
        tensors = load_file(folder / "adapter_model.safetensors")
        name = next(iter(tensors))
        other = name.replace("model.model.language_model.", "model.language_model.model.")
        save_file({**tensors, other: tensors[name] * 0}, folder / "adapter_model.safetensors", {"format": "pt"})
        told(folder, "one weight under two names", repr(other))

    def test_an_adapter_on_the_vision_tower(self, tiny_llava: Path, tmp_path: Path) -> None:
        folder = tiny.save_adapter(tmp_path / "a", tiny_llava)
        rename(folder / "adapter_model.safetensors", "language_model.layers.1", "vision_tower.encoder.layers.1")
        told(folder, "vision_tower", "decoder layers is all that is allowed", "merge it into its base")

    def test_one_matrix_of_two(self, tiny_llava: Path, tmp_path: Path) -> None:
        folder = tiny.save_adapter(tmp_path / "a", tiny_llava)
        tensors = load_file(folder / "adapter_model.safetensors")
        tensors.pop(next(name for name in tensors if "lora_B" in name))
        save_file(tensors, folder / "adapter_model.safetensors")
        told(folder, "only one of the two matrices")

    @pytest.mark.parametrize(
        "change",
        [
            {"peft_type": "IA3"}, {"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"bias": "all"},
            {"use_qalora": True}, {"modules_to_save": ["multi_modal_projector"]}, {"modules_to_save": ["fc1"]},
        ],
    )  # fmt: skip
    def test_what_cannot_be_had(self, tiny_llava: Path, tmp_path: Path, change: dict[str, Any]) -> None:
        folder = tiny.save_adapter(tmp_path / "a", tiny_llava)
        tiny.edit_json(folder / "adapter_config.json", **change)
        told(folder, next(iter(change)))

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            ({"r": 64}, ("says rank 64 (r) for", "and 3 more", "are of rank 2", "alpha / r would be wrong")),
            ({"r": 0}, ("has r 0", "whole number above 0")),
            ({"r": "2"}, ("has r '2'", "whole number above 0")),
            ({"lora_alpha": 0}, ("has lora_alpha 0", "other than 0")),
            ({"lora_alpha": None}, ("has lora_alpha None", "other than 0")),
            ({"rank_pattern": {"layers.2.mlp.up_proj": 3}}, ("says rank 3 (rank_pattern or r) for", "layers.2.mlp")),
            ({"rank_pattern": {"up_proj(": 3}}, ("has rank_pattern {'up_proj(': 3}", "regular expressions")),
            ({"alpha_pattern": {"up_proj": 0}}, ("has alpha_pattern 'up_proj' 0", "other than 0")),
            ({"init_lora_weights": "lora_ga"}, ("has init_lora_weights 'lora_ga', whose base cannot be reproduced",)),
        ],
    )
    def test_a_rank_or_an_alpha_that_is_not_what_the_matrices_were_trained_with(
        self, tiny_llava: Path, tmp_path: Path, change: dict[str, Any], words: tuple[str, ...]
    ) -> None:
        folder = tiny.save_adapter(tmp_path / "a", tiny_llava)
        tiny.edit_json(folder / "adapter_config.json", **change)
        told(folder, "adapter_config.json", *words)

    def test_a_rank_that_is_left_out_is_peft_s(self, tiny_llava: Path, tmp_path: Path) -> None:
        folder = tiny.save_adapter(tmp_path / "a", tiny_llava)
        config = json.loads((folder / "adapter_config.json").read_text())
        del config["r"]
        (folder / "adapter_config.json").write_text(json.dumps(config))
        told(folder, "says rank 8 (r)")

    def test_an_adapter_saved_under_its_name(self, tiny_llava: Path, tmp_path: Path) -> None:
        folder = tiny.save_adapter(tmp_path / "a", tiny_llava)
        file = folder / "adapter_model.safetensors"
        rename(file, ".weight", ".eyes.weight")
        told(folder, "under the adapter's name, 'eyes'", "lora_A.eyes.weight", "save_pretrained")
        rename(file, ".eyes.weight", ".default.weight")
        assert checkpoint_errors(str(folder)) == []
        tensors = load_file(file)
        name = next(n for n in tensors if "lora_A" in n)
        save_file(tensors | {name.replace(".default", ""): tensors[name] * 0}, file, {"format": "pt"})
        told(folder, "one weight under two names", "lora_A.default.weight")

    def test_tensors_that_replace_more_than_the_projector(self, tiny_llava: Path, tmp_path: Path) -> None:
        folder = tiny.save_adapter(tmp_path / "a", tiny_llava)
        add(folder / "adapter_model.safetensors", "base_model.model.lm_head.weight", (261, 48))
        told(folder, "'lm_head.weight'", "decoder layers is all that is allowed")

    def test_a_projector_in_an_adapter_for_another_base(self, tiny_llava: Path, tmp_path: Path) -> None:
        folder = tiny.save_adapter(tmp_path / "a", tiny_llava)
        tiny.edit_json(folder / "adapter_config.json", modules_to_save=["linear_2"])
        for name, shape in (("weight", (48, 47)), ("bias", (48,))):
            file = folder / "adapter_model.safetensors"
            add(file, f"base_model.model.model.multi_modal_projector.linear_2.{name}", shape)
        told(folder, "is for another base: 'multi_modal_projector.linear_2.weight' is [48, 48] there", "[48, 47]")

    def test_matrices_of_two_ranks_are_not_called_those_of_another_base(self, tiny_llava: Path, tmp_path: Path) -> None:
        folder = tiny.save_adapter(tmp_path / "a", tiny_llava, layers=(1,))
        module = "base_model.model.model.language_model.layers.1.self_attn.q_proj"
        add(folder / "adapter_model.safetensors", f"{module}.lora_A.weight", (3, 48))
        found = list(checkpoint_errors(str(folder)))
        assert any("different ranks for 'layers.1.self_attn.q_proj': A is [3, 48], B [48, 2]" in f for f in found)
        assert not any("another base" in fault for fault in found)

    def test_a_magnitude_vector_of_another_length_or_without_dora(self, tiny_llava: Path, tmp_path: Path) -> None:
        for name, size, words in (("up_proj", 95, "is for another base"), ("q_proj", 48, "has no magnitude vector")):
            folder = tiny.save_adapter(tmp_path / name, tiny_llava, layers=(1,))
            tiny.edit_json(folder / "adapter_config.json", use_dora=True)
            module = "base_model.model.model.language_model.layers.1."
            other = {"up_proj": ("self_attn.q_proj", 48), "q_proj": ("self_attn.q_proj", size)}[name]
            add(folder / "adapter_model.safetensors", f"{module}{other[0]}.lora_magnitude_vector", (other[1],))
            if name == "up_proj":
                add(folder / "adapter_model.safetensors", f"{module}mlp.up_proj.lora_magnitude_vector", (size,))
            told(folder, words, "up_proj")

    def test_layers_that_are_not_those_of_the_lineage(self, tiny_llava: Path, tmp_path: Path) -> None:
        folder = tiny.save_adapter(tmp_path / "a", tiny_llava, layers=(1, 3))
        marked(folder, tiny_llava, LineageStep(kind="trained", layers="1-2", depth=4, method="lora"))
        told(folder, "tunes layers 1,3", "its lineage says 1-2")

    def test_a_layer_of_the_vision_tower_alone_is_no_layer_of_the_llm(self, tiny_llava: Path, tmp_path: Path) -> None:
        folder = tiny.save_adapter(tmp_path / "a", tiny_llava)
        old = "base_model.model.model.language_model.layers.1"
        rename(folder / "adapter_model.safetensors", old, "base_model.model.vision_model.layers.1")
        told(folder, "vision_model.layers.1", "decoder layers is all that is allowed")

    def test_an_adapter_beside_a_tower(self, tiny_llava: Path, tmp_path: Path) -> None:
        folder = tiny.save_adapter(tmp_path / "a", tiny_llava)
        save_file({"x": torch.zeros(1)}, folder / "tower.safetensors")
        found = checkpoint_errors(str(marked(folder, tiny_llava)))
        assert "has tower.safetensors and also adapter_model.safetensors; that needs a folder of its own" in found[0]

    def test_a_projector_of_another_width(self, tiny_llava: Path, tmp_path: Path) -> None:
        tiny.save_projector(tmp_path / "p", hidden=64)
        told(marked(tmp_path / "p", tiny_llava), "projector.safetensors has another shape")


def add(file: Path, name: str, shape: tuple[int, ...]) -> None:
    save_file(load_file(file) | {name: torch.zeros(shape)}, file, {"format": "pt"})


def rename(file: Path, old: str, new: str) -> None:
    save_file({name.replace(old, new): value for name, value in load_file(file).items()}, file, {"format": "pt"})


class TestFewerLayers:
    """Folders that others pruned: config.json says fewer layers, and that is all that says so."""

    @pytest.fixture
    def shallow(self, tmp_path: Path) -> Path:
        return tiny.save_llava(tmp_path / "shallow", depth=3)

    def text(self, folder: Path, **changes: Any) -> None:
        config = json.loads((folder / "config.json").read_text())
        tiny.edit_json(folder / "config.json", text_config=config["text_config"] | changes)

    def test_they_are_what_they_say(self, shallow: Path) -> None:
        found = resolve_checkpoint(str(shallow))
        assert (found.depth, found.origins.first_depth, found.lineage) == (3, 3, ())

    def test_lists_that_still_have_an_entry_for_every_old_layer_are_told(self, shallow: Path) -> None:
        self.text(shallow, layer_types=["full_attention"] * 4)
        assert any("layer_types has 4 entries for 3 decoder layers" in f for f in checkpoint_errors(str(shallow)))

    def test_layers_that_are_gone_are_told_where_a_list_names_them(self, shallow: Path) -> None:
        self.text(shallow, mlp_only_layers=[0, 3])
        assert any("mlp_only_layers names layers [3]" in fault for fault in checkpoint_errors(str(shallow)))

    def test_a_depth_that_is_left_out_is_the_usual_one(self, tmp_path: Path) -> None:
        folder = tiny.save_llava(tmp_path / "usual", depth=32)  # as LlamaConfig has it when nothing is said
        config = json.loads((folder / "config.json").read_text())
        del config["text_config"]["num_hidden_layers"]
        (folder / "config.json").write_text(json.dumps(config))
        assert resolve_checkpoint(str(folder)).depth == 32

    def test_a_history_that_does_not_lead_to_the_depth(self, shallow: Path) -> None:
        line = {"id": "x", "family": "llava", "depth": 3, "steps": [{"kind": "pruned", "layers": "0", "depth": 5}]}
        weights = {"model.safetensors": file_digest(shallow / "model.safetensors")}
        (shallow / "vrbench.json").write_text(json.dumps({**line, "weights": weights}))
        told(shallow, "lead to 4 decoder layers; the model has 3")


class TestDigest:
    def test_it_is_of_the_content_and_not_of_the_place(self, whole: Path, tmp_path: Path) -> None:
        digest = resolve_checkpoint(str(whole)).digest
        moved = whole.rename(tmp_path / "elsewhere")
        assert resolve_checkpoint(str(moved)).digest == digest

    @pytest.mark.parametrize("name", ["config.json", "tokenizer_config.json", "preprocessor_config.json"])
    def test_settings_are_part_of_it(self, whole: Path, name: str) -> None:
        digest = resolve_checkpoint(str(whole)).digest
        (whole / name).write_text((whole / name).read_text() + "\n")
        assert resolve_checkpoint(str(whole)).digest != digest

    def test_one_bit_of_a_weight_is_part_of_it(self, whole: Path) -> None:
        digest = resolve_checkpoint(str(whole)).digest
        content = bytearray((whole / "model.safetensors").read_bytes())
        content[-1] ^= 1
        (whole / "model.safetensors").write_bytes(content)
        assert resolve_checkpoint(str(whole)).digest != digest

    def test_removed_layers_and_the_base_are_part_of_it(self, tiny_llava: Path, adapter: Path, tmp_path: Path) -> None:
        def pruned(base: Path, layers: str) -> str:
            step = LineageStep(kind="pruned", layers=layers, depth=4)
            return resolve_checkpoint(str(marked(tmp_path / "p", base, step, depth=3))).digest

        assert len({pruned(tiny_llava, "1"), pruned(tiny_llava, "2"), pruned(adapter, "1")}) == 3

    def test_the_lineage_s_prose_is_not_part_of_it(self, adapter: Path) -> None:
        digest = resolve_checkpoint(str(adapter)).digest
        tiny.edit_json(adapter / "vrbench.json", licence="MIT")
        assert resolve_checkpoint(str(adapter)).digest == digest

    def test_the_reference_has_the_whole_lineage(self, adapter: Path, tmp_path: Path) -> None:
        folder = marked(tmp_path / "p", adapter, LineageStep(kind="pruned", layers="0", depth=4), depth=3)
        ref = resolve_checkpoint(str(folder)).ref()
        assert [line.id for line in ref.lineage] == ["p", "adapter"]
        assert (ref.depth, ref.family) == (3, "llava")

    def test_a_name_beside_the_folder_is_a_base(self, whole: Path, tmp_path: Path) -> None:
        tiny.save_adapter(tmp_path / "a", whole)
        tiny.edit_json(tmp_path / "a" / "adapter_config.json", base_model_name_or_path="../whole")
        assert resolve_checkpoint(str(tmp_path / "a")).root.path == whole


def test_resolve_raises_what_faults_tells(tmp_path: Path) -> None:
    with pytest.raises(VrbenchError) as caught:
        resolve_checkpoint(str(tmp_path))
    assert [str(caught.value)] == checkpoint_errors(str(tmp_path))
