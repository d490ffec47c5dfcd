"""What cannot be converted is told in one sentence each, before a weight is read, and nothing half made is left."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.conversion import sources as tiny
from tests.conversion.refusal import refused, told
from tests.conversion.tokenizers import save_tokenizer
from tests.tiny import checkpoint_errors
from vrbench.conversion import shards
from vrbench.conversion.convert import convert
from vrbench.conversion.source import read_source
from vrbench.core.errors import VrbenchError


@pytest.fixture
def no_weight_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a weight was read")

    monkeypatch.setattr(shards, "open_tensors", refuse)


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.usefixtures("no_weight_is_read")
class TestFolders:
    def test_a_missing_shard(self, at: Path) -> None:
        (at / "merged" / "model-00002-of-00002.safetensors").unlink()
        told(at, "merged", "lacks model-00002-of-00002.safetensors", "model.safetensors.index.json")

    def test_a_missing_shard_of_the_base(self, at: Path) -> None:
        (at / "base" / "model-00001-of-00002.safetensors").unlink()
        told(at, "projector", "base lacks model-00001-of-00002.safetensors", base=True)

    @pytest.mark.parametrize("part", ["merged", "base", "tower"])
    def test_both_formats(self, part: str, at: Path) -> None:
        torch.save({"a": torch.ones(1)}, at / part / "pytorch_model.bin")
        source = "projector" if part != "merged" else part
        told(at, source, f"{part} has its weights twice", base=source == "projector")

    def test_an_adapter_in_both_formats(self, at: Path) -> None:
        torch.save({}, at / "lora" / "adapter_model.bin")
        told(at, "lora", "has its adapter twice", base=True)

    def test_a_folder_without_weights(self, at: Path) -> None:
        (at / "projector" / "mm_projector.bin").unlink()
        told(at, "projector", "has no weights", "mm_projector.bin", base=True)

    def test_two_forms_in_one_folder(self, at: Path) -> None:
        shutil.copy(at / "projector" / "mm_projector.bin", at / "lora")
        told(at, "lora", "a LoRA adapter and a projector alone", base=True)

    def test_a_base_that_is_not_named(self, at: Path) -> None:
        told(at, "lora", "has a LoRA adapter; name its language model by --base")

    def test_a_base_that_is_not_wanted(self, at: Path) -> None:
        told(at, "merged", "--base is for", base=True)

    def test_a_tower_that_is_not_named(self, at: Path) -> None:
        told(at, "projector", "clip-vit-tiny", "--vision-tower", base=True, tower=False)

    def test_a_tower_whose_shape_nobody_knows(self, at: Path) -> None:
        told(at, "merged", "'openai/clip-vit-tiny' is not one of", "config.json", tower=False)

    def test_a_source_that_is_not_there(self, at: Path) -> None:
        told(at, "merge", "no checkpoint", "did you mean")

    def test_a_lora_folder_without_its_projector(self, at: Path) -> None:
        (at / "lora" / "non_lora_trainables.bin").unlink()
        assert "lacks non_lora_trainables.bin" in refused(at, "lora", str(at / "base"), str(at / "tower"))[0]

    def test_a_goal_that_is_taken(self, at: Path) -> None:
        (at / "out").mkdir()
        (at / "out" / "notes.txt").write_text("mine")
        told(at, "merged", "is not an empty folder")
        assert (at / "out" / "notes.txt").read_text() == "mine"

    def test_every_fault_comes_at_once(self, at: Path) -> None:
        (at / "lora" / "non_lora_trainables.bin").unlink()
        edit(at / "lora" / "config.json", mm_projector_type="linear", image_aspect_ratio="anyres")
        edit(at / "lora" / "adapter_config.json", use_dora=True)
        found = refused(at, "lora")
        for word in ("'linear'", "'anyres'", "--base", "--vision-tower", "use_dora", "non_lora_trainables.bin"):
            assert sum(word in sentence for sentence in found) == 1, (word, found)


@pytest.mark.usefixtures("no_weight_is_read")
class TestSettings:
    @pytest.mark.parametrize(
        ("change", "word"),
        [
            ({"mm_projector_type": "linear"}, "'linear'"),
            ({"mm_projector_type": None}, "mlp2x_gelu"),
            ({"image_aspect_ratio": "anyres"}, "'anyres'"),
            ({"use_s2": True}, "use_s2"),
            ({"mm_use_im_start_end": True}, "mm_use_im_start_end"),
            ({"mm_patch_merge_type": "spatial_unpad"}, "mm_patch_merge_type"),
            ({"quantization_config": {"bits": 4}}, "quantization_config"),
            ({"mm_vision_select_feature": "slicefour_patch"}, "slicefour_patch"),
            ({"model_type": "llava_mpt"}, "'llava_mpt'"),
            ({"text_config": {}}, "already"),
            ({"hidden_size": "wide"}, "describes no llama"),
            ({"mm_vision_select_layer": "last"}, "mm_vision_select_layer is 'last'"),
        ],
    )
    def test_what_is_not_known_is_refused(self, change: dict[str, Any], word: str, at: Path) -> None:
        edit(at / "merged" / "config.json", **change)
        told(at, "merged", word)

    @pytest.mark.parametrize("key", ["unfreeze_mm_vision_tower", "unfreeze_vision_tower"])
    def test_a_tower_that_was_trained_and_is_not_there(self, key: str, at: Path) -> None:
        edit(at / "projector" / "config.json", **{key: True})
        told(at, "projector", f"{key} True", "no weights of its vision tower", base=True)
        edit(at / "merged" / "config.json", **{key: True})
        assert read_source(str(at / "merged"), None, str(at / "tower")).tower_folder is None  # it holds them
        edit(at / "projector" / "config.json", **{key: False})
        assert read_source(str(at / "projector"), str(at / "base"), str(at / "tower")).tower_folder

    @pytest.mark.parametrize("form", ["merged", "merged-bin", "projector", "lora"])
    def test_given_to_a_run_it_is_answered_with_how_to_convert_it(self, form: str, at: Path) -> None:
        found = checkpoint_errors(str(at / form))
        assert [f for f in found if "vrbench convert" in f], found
        assert len(found) == 1

    @pytest.mark.parametrize("said", ["x", [1], {"hidden_size": "wide"}, {"image_size": None}])
    def test_a_tower_that_is_none(self, said: Any, at: Path) -> None:
        edit(at / "tower" / "config.json", vision_config=said)
        told(at, "projector", "describes no vision tower", base=True)

    def test_what_is_usual_may_be_left_out(self, at: Path) -> None:
        shape = json.loads((at / "tower" / "config.json").read_text())["vision_config"]
        edit(at / "tower" / "config.json", vision_config={k: v for k, v in shape.items() if k != "image_size"})
        found = read_source(str(at / "projector"), str(at / "base"), str(at / "tower"))
        assert found.tower.config["image_size"] == 224  # CLIP's

    def test_another_kind_of_tower(self, at: Path) -> None:
        edit(at / "tower" / "config.json", model_type="dinov2")
        told(at, "merged", "'dinov2'", "CLIP and SigLIP")

    def test_no_tokenizer(self, at: Path) -> None:
        (at / "merged" / "tokenizer.model").unlink()
        told(at, "merged", "no tokenizer (tokenizer.json or tokenizer.model)")

    def test_a_tokenizer_of_another_model(self, at: Path) -> None:
        (at / "merged" / "tokenizer.model").unlink()
        save_tokenizer("bunny-llama", at / "merged")
        told(at, "merged", "has no '</s>'")

    def test_a_tokenizer_that_cannot_hold_the_image_token(self, at: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        import tokenizers

        monkeypatch.setattr(tokenizers.Tokenizer, "add_special_tokens", lambda *_: 0)
        told(at, "merged", "does not keep the image token <image> as one token")

    def test_added_tokens_with_a_gap(self, at: Path) -> None:
        (at / "merged" / "added_tokens.json").write_text(json.dumps({"[PAD]": 400}))
        told(at, "merged", "leaves gaps between ids: [PAD]")

    @pytest.mark.parametrize("content", [b"", b"\x00\x01\x02", b"\n\x7fabc", b"#version: 0.2\nthe quick\n"])
    def test_a_tokenizer_model_that_is_something_else(self, content: bytes, at: Path) -> None:
        (at / "merged" / "tokenizer.model").write_bytes(content)
        told(at, "merged", "tokenizer.model is not a SentencePiece model")


def resave(file: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> None:
    """Change the tensors of a weight file in place."""
    if file.suffix == ".safetensors":
        state = load_file(file)
        change(state)
        save_file(state, file, {"format": "pt"})
    else:
        state = torch.load(file, weights_only=True)
        change(state)
        torch.save(state, file)


@pytest.mark.usefixtures("no_weight_is_read")
class TestTensors:
    @pytest.mark.parametrize(
        "source", ["merged/model-00001-of-00002.safetensors", "merged-bin/pytorch_model-00001-of-00002.bin"]
    )
    def test_foreign_ones_are_all_named(self, source: str, at: Path) -> None:
        def change(state: dict[str, torch.Tensor]) -> None:
            state |= {"model.image_newline": torch.ones(2), "model.layers_extra.weight": torch.ones(2)}

        resave(at / source, change)
        told(at, source.split("/")[0], "not part of this model", "model.image_newline", "model.layers_extra.weight")

    def test_missing_ones_are_all_named(self, at: Path) -> None:
        gone = ["model.norm.weight", "model.mm_projector.2.bias", "model.layers.1.mlp.up_proj.weight"]
        for file in sorted((at / "merged").glob("*.safetensors")):
            resave(file, lambda state: [state.pop(name, None) for name in gone])
        told(at, "merged", "norm.weight", "multi_modal_projector.linear_2.bias", "layers.1.mlp.up_proj.weight")

    def test_ones_of_another_shape_are_all_named(self, at: Path) -> None:
        edit(at / "merged" / "config.json", intermediate_size=40, vocab_size=99)
        found = told(at, "merged", "shapes do not match", "embed_tokens.weight is [307, 32] where [99, 32] is needed")
        assert found.count(" is needed") == 2 + 3 * tiny.DEPTH

    def test_a_deeper_model_than_the_config_says(self, at: Path) -> None:
        edit(at / "merged" / "config.json", num_hidden_layers=2)
        assert told(at, "merged", "has no").count("layers.2.") == 9

    def test_a_base_of_another_width(self, at: Path) -> None:
        tiny.save_base(tiny.make("llava", intermediate_size=40), at / "base")
        told(at, "projector", "shapes do not match", "[40, 32]", base=True)

    def test_integers_and_float8_are_no_weights(self, at: Path) -> None:
        def change(state: dict[str, torch.Tensor]) -> None:
            name = next(iter(state))
            state[name] = state[name].to(torch.float8_e4m3fn)
            state["model.layers.0.mlp.up_proj.weight"] = torch.ones(2, dtype=torch.int8)

        resave(at / "merged" / "model-00001-of-00002.safetensors", change)
        found = refused(at, "merged", None, str(at / "tower"))
        assert any("F8_E4M3" in sentence and "I8" in sentence for sentence in found), found

    def test_known_harmless_ones_are_left_out(self, at: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def change(state: dict[str, torch.Tensor]) -> None:
            state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
            state["model.vision_tower.vision_tower.vision_model.embeddings.position_ids"] = torch.arange(5)[None]

        resave(at / "merged-bin" / "pytorch_model-00001-of-00002.bin", change)
        monkeypatch.undo()
        assert (convert(str(at / "merged-bin"), at / "out", None, str(at / "tower")) / "vrbench.json").is_file()

    def test_the_same_tensor_twice(self, at: Path) -> None:
        first, second = sorted((at / "merged").glob("*.safetensors"))
        name, value = next(iter(load_file(first).items()))
        resave(second, lambda state: state.update({name: value}))
        told(at, "merged", "another file already has", name)


@pytest.mark.usefixtures("no_weight_is_read")
class TestAdapters:
    FILE = "adapter_model.safetensors"

    def test_a_layer_of_the_vision_tower_is_not_one_of_the_language_model(self, at: Path) -> None:
        def change(state: dict[str, torch.Tensor]) -> None:
            for end in "AB":
                value = state[f"base_model.model.model.layers.0.self_attn.q_proj.lora_{end}.weight"]
                tower = (
                    "base_model.model.model.vision_tower.vision_tower.vision_model.encoder.layers.0.self_attn.q_proj"
                )
                state[f"{tower}.lora_{end}.weight"] = value.clone()

        resave(at / "lora" / self.FILE, change)
        told(at, "lora", "other than LoRA on the language model's layers", "vision_tower", base=True)

    @pytest.mark.parametrize(
        "change",
        [{"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"bias": "all"}, {"rank_pattern": {"q_proj": 2}},
         {"peft_type": "IA3"}, {"r": 0}, {"init_lora_weights": "pissa"}, {"init_lora_weights": "olora"},
         {"alora_invocation_tokens": [1, 2]}],
    )  # fmt: skip
    def test_what_is_no_plain_lora(self, change: dict[str, Any], at: Path) -> None:
        edit(at / "lora" / "adapter_config.json", **change)
        assert next(iter(change)) in refused(at, "lora", str(at / "base"), str(at / "tower"))[0]

    def test_another_rank_than_the_config_says(self, at: Path) -> None:
        edit(at / "lora" / "adapter_config.json", r=8)
        told(at, "lora", "says rank 8 (r)", "and 7 more", "are of rank 4", base=True)

    def test_two_matrices_for_one(self, at: Path) -> None:
        name = "base_model.model.model.layers.0.self_attn.q_proj.lora_A"
        resave(at / "lora" / self.FILE, lambda s: s.update({f"{name}.default.weight": s[f"{name}.weight"] * 0}))
        told(at, "lora", "one weight under two names", f"{name}.default.weight", base=True)

    def test_one_matrix_of_two(self, at: Path) -> None:
        resave(at / "lora" / self.FILE, lambda state: state.pop(next(n for n in state if "lora_B" in n), None) is None)
        told(at, "lora", "has only one matrix of", base=True)

    @pytest.mark.parametrize("form", ["lora", "projector"])
    @pytest.mark.parametrize("key", ["rms_norm_eps", "hidden_act", "num_attention_heads"])
    def test_a_base_that_computes_otherwise_in_the_same_shapes(self, key: str, form: str, at: Path) -> None:
        value = {"rms_norm_eps": 1e-6, "hidden_act": "gelu", "num_attention_heads": 2}[key]
        edit(at / "base" / "config.json", **{key: value})
        told(at, form, "another base than", f"{key} {value!r}", base=True)

    def test_an_adapter_for_a_deeper_and_wider_base(self, at: Path) -> None:
        deeper = tiny.make("llava", num_hidden_layers=5, intermediate_size=64)
        tiny.save_lora(deeper, at / "lora", layers=(1, 4))
        (at / "lora" / "config.json").write_text((at / "merged" / "config.json").read_text())
        found = refused(at, "lora", str(at / "base"), str(at / "tower"))
        assert len(found) == 2, found
        assert found[0].count("layers.4.") == 4
        assert found[1].count("layers.1.") == 2


@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt(), VrbenchError("not finite")])
def test_a_conversion_that_breaks_off_leaves_nothing(
    error: BaseException, at: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []

    def break_off(*args: Any) -> Any:
        seen.append(sorted(p.name for p in at.rglob("*") if ".out-" in str(p)))
        if any(name.startswith("model-") for name in seen[-1]):  # the first shard is written
            raise error
        return converted(*args)

    converted = shards._converted
    monkeypatch.setattr(shards, "_converted", break_off)
    before = sorted(os.listdir(at))
    with pytest.raises(type(error)):
        convert(str(at / "merged"), at / "out", None, str(at / "tower"))
    assert sorted(os.listdir(at)) == before
    assert any("model-00001-of-00002.safetensors" in names for names in seen)
    assert not any("vrbench.json" in names or "config.json" in names for names in seen)


def test_a_merge_that_overflows_is_refused(at: Path) -> None:
    half = tiny.make("llava", dtype=torch.float16)
    half.llm = {name: value.half() for name, value in half.llm.items()}
    tiny.save_base(half, at / "base")
    resave(
        at / "lora" / "adapter_model.safetensors", lambda state: state.update({n: v * 3e3 for n, v in state.items()})
    )
    told(at, "lora", "not finite", base=True)


def test_too_little_room(at: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Usage:
        free = 1000

    monkeypatch.setattr(shutil, "disk_usage", lambda _: Usage)
    told(at, "merged", "GB free")


def test_an_empty_folder_may_be_the_goal(at: Path) -> None:
    (at / "out").mkdir()
    convert(str(at / "merged"), at / "out", None, str(at / "tower"))
    assert (at / "out" / "vrbench.json").is_file()
    assert (at / "out").stat().st_mode & 0o777 == 0o755


def test_a_link_to_a_folder_elsewhere_may_be_the_goal(at: Path) -> None:
    (at / "elsewhere").mkdir()
    (at / "out").symlink_to(at / "elsewhere")
    convert(str(at / "merged"), at / "out", None, str(at / "tower"))
    assert (at / "out").is_symlink()
    assert (at / "elsewhere" / "vrbench.json").is_file()
