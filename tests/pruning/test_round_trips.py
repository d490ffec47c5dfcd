"""What is done to a model comes back from disk as it was in memory, in two families with unlike parts."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoTokenizer

from tests import tiny
from tests.pruning import others
from tests.tiny import save_delta
from vrbench.checkpoints.new_folder import create_folder
from vrbench.core.layers import LayerSet
from vrbench.core.schemas import LineageStep
from vrbench.models import hf_folder
from vrbench.models.components import decoder_layers, layer_parameters, projector_parameters
from vrbench.models.load import load_model, load_vlm
from vrbench.models.overlay import remove_layers
from vrbench.models.processors import load_image_processor
from vrbench.models.resolve import resolve_checkpoint
from vrbench.pruning.export import export_full
from vrbench.pruning.prune import restore


@dataclass
class Made:
    """A tiny model, the folder that it was saved to, and how to make others of its kind."""

    model: Any
    folder: Path
    make: Callable[..., Any]


@contextmanager
def made_of(kind: str, folder: Path) -> Iterator[Made]:
    """A family's tiny model; neither it nor its folder may be changed."""

    def load_parts(folder: Path, model_type: str, config: Any) -> Any:  # no image is shown here
        tokenizer = AutoTokenizer.from_pretrained(folder, config=config)
        return SimpleNamespace(image_processor=load_image_processor(folder, "llava"), tokenizer=tokenizer)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hf_folder, "load_processor", load_parts)
        patch.setattr(hf_folder, "validate_processor", lambda *_: [])
        make = {"llava": tiny.llava, "qwen2_5_vl": others.qwen}[kind]
        model = make()
        yield Made(model, others.save(model, folder), make)


@pytest.fixture(scope="module", params=["llava", "qwen2_5_vl"])
def each(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    """For what depends on where the projector and the layers are."""
    with made_of(request.param, tmp_path_factory.mktemp("made") / "base") as made:
        yield made


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Made]:
    with made_of("llava", tmp_path_factory.mktemp("made") / "base") as made:
        yield made


def loaded(folder: Path) -> Any:
    return load_model(resolve_checkpoint(str(folder)), torch.float32)


def same(model: Any, expected: Any) -> bool:
    return torch.equal(others.logits(model), others.logits(expected))


def layered(folder: Path, base: Path, *steps: LineageStep, depth: int = tiny.DEPTH) -> Path:
    found = resolve_checkpoint(str(base))
    tiny.mark(folder, str(base), found.digest, steps, depth)
    tiny.edit_json(folder / "vrbench.json", family=found.family)
    return folder


def tuned(made: Made, layers: tuple[int, ...]) -> Any:
    """The model with other weights in some layers and in the projector."""
    model = copy.deepcopy(made.model)
    torch.manual_seed(11)
    for parameter in (*layer_parameters(model, layers).values(), *projector_parameters(model).values()):
        parameter.data += 0.2 * torch.randn_like(parameter)
    return model


def save_adapter(made: Made, folder: Path, layers: tuple[int, ...] = (1, 2), **options: Any) -> Path:
    from peft import LoraConfig, get_peft_model

    model = made.make()
    inside = {id(m) for i in layers for m in decoder_layers(model)[i].modules()}
    wanted = [n for n, m in model.named_modules() if id(m) in inside and n.endswith(("q_proj", "up_proj"))]
    wrapped = get_peft_model(model, LoraConfig(**{"r": 2, "lora_alpha": 8, "target_modules": wanted, **options}))
    torch.manual_seed(5)
    for name, parameter in wrapped.named_parameters():
        if "lora_A" in name or "lora_B" in name or "modules_to_save" in name:
            torch.nn.init.normal_(parameter, std=0.3)
        elif "magnitude" in name:
            parameter.data *= 1.5
    wrapped.save_pretrained(folder)
    tiny.edit_json(folder / "adapter_config.json", base_model_name_or_path=str(made.folder))
    return folder


OPTIONS: list[dict[str, Any]] = [
    {},
    {"use_dora": True},
    {"use_rslora": True, "use_dora": True},
    {"use_rslora": True},
    {"rank_pattern": {"layers.2.self_attn.q_proj": 3}, "alpha_pattern": {"up_proj": 3}},
    {"use_rslora": True, "rank_pattern": {r"layers\.[12]\..*_proj": 3}, "alpha_pattern": {"proj": 1, "l.+p_proj": -3}},
    {"init_lora_weights": "olora", "fan_in_fan_out": True, "lora_dropout": 0.5},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: "+".join(o) or "lora")
def test_an_adapter_merged_or_beside_the_weights_gives_what_peft_gives(
    made: Made, tmp_path: Path, options: dict[str, Any]
) -> None:
    from peft import PeftModel

    folder = save_adapter(made, tmp_path / "a", **options)
    theirs = others.logits(PeftModel.from_pretrained(made.make(), folder).eval().get_base_model())
    merged = load_vlm(resolve_checkpoint(str(folder))).model
    beside = load_vlm(resolve_checkpoint(str(folder)), merge=False).model
    assert not [name for name, _ in merged.named_parameters() if "lora_" in name]
    assert [name for name, _ in beside.named_parameters() if "lora_" in name]
    assert torch.allclose(others.logits(merged), theirs, atol=1e-5, rtol=1e-5)
    assert torch.allclose(others.logits(beside), theirs, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(theirs, others.logits(made.model), atol=0.1)


def test_an_adapter_whose_keys_and_config_are_those_of_other_scripts_gives_what_peft_gives(
    made: Made, tmp_path: Path
) -> None:
    from peft import PeftModel

    folder = save_adapter(made, tmp_path / "a")
    file = folder / "adapter_model.safetensors"
    config = json.loads((folder / "adapter_config.json").read_text())
    kept = {key: config[key] for key in ("peft_type", "r", "target_modules", "base_model_name_or_path")}
    (folder / "adapter_config.json").write_text(json.dumps(kept))  # alpha is then PEFT's own
    save_file({name.replace(".weight", ".default.weight"): t for name, t in load_file(file).items()}, file)
    theirs = others.logits(PeftModel.from_pretrained(made.make(), folder).eval().get_base_model())
    assert torch.allclose(others.logits(loaded(folder)), theirs, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(theirs, others.logits(made.model), atol=0.1)


@pytest.mark.parametrize("key", ["up_proj", "l.+p_proj", "p_proj", "layers.1", "1.mlp.up_proj", "x|up_proj"])
def test_patterns_are_matched_as_peft_matches_them(key: str) -> None:
    from peft.utils.other import get_pattern_key

    from vrbench.checkpoints.lora_adapter import lora_alpha

    name = "model.language_model.layers.1.mlp.up_proj"
    patterns = {key: 5, "up_proj": 6}
    assert lora_alpha({"alpha_pattern": patterns}, name) == patterns.get(get_pattern_key(list(patterns), name), 8)


def test_an_adapter_that_was_trained_on_the_language_model_alone(made: Made, tmp_path: Path) -> None:
    folder = save_adapter(made, tmp_path / "a", layers=(1,))
    file = folder / "adapter_model.safetensors"
    tensors = {name.replace("language_model.layers", "layers"): t for name, t in load_file(file).items()}
    save_file(tensors, file)
    tiny.edit_json(folder / "adapter_config.json", alpha_pattern={"model.layers.1.mlp.up_proj": 3})
    model, before = dict(loaded(folder).named_parameters()), dict(made.model.named_parameters())
    for module, scale in (("mlp.up_proj", 3 / 2), ("self_attn.q_proj", 8 / 2)):
        name = f"model.language_model.layers.1.{module}.weight"
        a, b = (tensors[f"base_model.model.model.layers.1.{module}.lora_{x}.weight"] for x in "AB")
        assert torch.allclose(model[name], before[name] + scale * b @ a, atol=1e-6)


def test_an_adapter_on_an_adapter(made: Made, tmp_path: Path) -> None:
    below = save_adapter(made, tmp_path / "a", layers=(0, 1))
    above = save_adapter(made, tmp_path / "b", layers=(1, 2), lora_alpha=2)
    tiny.edit_json(above / "adapter_config.json", base_model_name_or_path="../a")
    merged, beside = (
        load_vlm(resolve_checkpoint(str(above))).model,
        load_vlm(resolve_checkpoint(str(above)), merge=False).model,
    )
    assert torch.allclose(others.logits(merged), others.logits(beside), atol=1e-5, rtol=1e-5)
    changed = dict(merged.named_parameters())
    lower, base = dict(loaded(below).named_parameters()), dict(made.model.named_parameters())
    one = "model.language_model.layers.1.mlp.up_proj.weight"
    tensors = load_file(above / "adapter_model.safetensors")
    a, b = (tensors[f"base_model.model.{one.replace('.weight', f'.lora_{x}.weight')}"] for x in "AB")
    assert torch.allclose(changed[one], lower[one] + b @ a, atol=1e-6)
    assert not torch.allclose(lower[one], base[one], atol=1e-3)


def test_an_adapter_s_own_projector_replaces_the_base_s(each: Made, tmp_path: Path) -> None:
    from peft import PeftModel

    name = {"llava": "multi_modal_projector", "qwen2_5_vl": "merger"}[each.model.config.model_type]
    folder = save_adapter(each, tmp_path / "a", modules_to_save=[name])
    found = resolve_checkpoint(str(folder))
    theirs = PeftModel.from_pretrained(each.make(), folder).eval().get_base_model()
    model = load_model(found, torch.float32)
    assert torch.allclose(others.logits(model), others.logits(theirs), atol=1e-5)
    before = projector_parameters(each.model)
    assert not any(torch.equal(p, before[n]) for n, p in projector_parameters(model).items())
    assert "projector" in found.lineage[0].steps[0].note


def test_a_foreign_adapter_s_layers_and_kind_are_in_its_lineage(made: Made, tmp_path: Path) -> None:
    found = resolve_checkpoint(str(save_adapter(made, tmp_path / "a", layers=(1, 3), use_dora=True)))
    assert found.lineage[0].steps == (LineageStep(kind="trained", layers="1,3", depth=4, method="dora"),)
    assert found.origins.tuned == (1, 3)


def test_only_layers_of_the_llm_are_tuned(each: Made, tmp_path: Path) -> None:
    folder = save_adapter(each, tmp_path / "a", layers=(1,))
    # Patterns that also name the vision tower's own layer 1, and every layer.
    tiny.edit_json(folder / "adapter_config.json", target_modules=["q_proj", "up_proj"], layers_to_transform=[])
    before, after = dict(each.model.named_parameters()), dict(loaded(folder).named_parameters())
    changed = {name for name, p in after.items() if not torch.equal(p, before[name])}
    assert changed == {f"model.language_model.layers.1.{m}.weight" for m in ("self_attn.q_proj", "mlp.up_proj")}


@pytest.mark.supports("llava", "delta")
def test_a_delta_is_the_tuned_model(each: Made, tmp_path: Path) -> None:
    model = tuned(each, (0, 2))
    folder = save_delta(model, LayerSet.of((0, 2), 4), str(each.folder), tmp_path / "delta")
    found = resolve_checkpoint(str(folder))
    assert same(load_model(found, torch.float32), model)
    assert not same(each.model, model)
    assert found.lineage[0].steps == (LineageStep(kind="trained", layers="0,2", depth=4, method="weights"),)
    assert (found.origins.tuned, found.base and found.base.path) == ((0, 2), each.folder)
    names = load_file(folder / "delta.safetensors")
    assert {n.split(".")[1] for n in names if n.startswith("layers.")} == {"0", "2"}
    assert set(projector_parameters(model)) < set(names)


def test_a_delta_on_a_pruned_base(made: Made, tmp_path: Path) -> None:
    pruned = layered(tmp_path / "pruned", made.folder, LineageStep(kind="pruned", layers="1", depth=4), depth=3)
    model = loaded(pruned)
    for parameter in layer_parameters(model, [1]).values():
        parameter.data += 1
    folder = save_delta(model, LayerSet.of((1,), 3), str(pruned), tmp_path / "delta")
    assert same(loaded(folder), model)


def test_a_delta_on_an_adapter_that_is_not_merged(made: Made, tmp_path: Path) -> None:
    adapter = save_adapter(made, tmp_path / "a", layers=(0, 1))
    model = loaded(adapter)
    for parameter in layer_parameters(model, [1]).values():
        parameter.data += 0.1
    found = resolve_checkpoint(str(save_delta(model, LayerSet.of((1,), 4), str(adapter), tmp_path / "d")))
    beside = load_vlm(found, merge=False).model
    assert torch.allclose(others.logits(beside), others.logits(model), atol=1e-4)
    assert same(load_model(found, torch.float32), model)


def test_a_light_pruned_folder_is_the_smaller_model(made: Made, tmp_path: Path) -> None:
    folder = layered(tmp_path / "p", made.folder, LineageStep(kind="pruned", layers="0,2", depth=4), depth=2)
    expected = copy.deepcopy(made.model)
    remove_layers(expected, LayerSet.of((0, 2), 4))
    assert same(loaded(folder), expected)


@pytest.mark.supports("llava", "saved")
def test_a_whole_folder_is_the_light_one_and_needs_no_base(each: Made, tmp_path: Path) -> None:
    adapter = save_adapter(each, tmp_path / "a")
    light = layered(tmp_path / "light", adapter, LineageStep(kind="pruned", layers="0", depth=4), depth=3)
    found = resolve_checkpoint(str(light))
    with create_folder(tmp_path / "whole") as folder:
        (folder / "vrbench.json").touch()
        assert found.base
        export_full(found, folder, found.lineage[0], found.base)
    expected = others.logits(loaded(light))
    adapter.rename(tmp_path / "gone")
    whole = resolve_checkpoint(str(tmp_path / "whole"))
    assert torch.equal(others.logits(load_model(whole, torch.float32)), expected)
    assert (whole.base, whole.depth) == (None, 3)
    assert [line.steps for line in whole.lineage] == [line.steps for line in found.lineage]
    assert whole.lineage[0].base == found.lineage[0].base
    assert whole.origins == found.origins
    assert whole.origins.numbers == (1, 2, 3)


@pytest.mark.supports("llava", "restored")
def test_restored_layers_are_the_backbone_s_whatever_was_trained(each: Made, tmp_path: Path) -> None:
    adapter = save_adapter(each, tmp_path / "a", layers=(0, 1, 2))
    folder = restore(str(adapter), "1-2", str(each.folder), tmp_path / "r")
    found = resolve_checkpoint(str(folder))
    expected = loaded(adapter)
    for name, parameter in layer_parameters(expected, (1, 2)).items():
        parameter.data.copy_(layer_parameters(each.model, (1, 2))[name])
    assert same(load_model(found, torch.float32), expected)
    assert not same(expected, loaded(adapter))
    assert found.origins.tuned == (0,)
    (step,) = found.lineage[0].steps
    assert (step.kind, step.layers, step.depth) == ("restored", "1-2", 4)
    assert step.backbone and step.backbone.digest == resolve_checkpoint(str(each.folder)).digest
    beside = load_vlm(found, merge=False).model
    assert torch.allclose(others.logits(beside), others.logits(expected), atol=1e-5)
    assert {name.split("layers.")[1][0] for name, _ in beside.named_parameters() if "lora_A" in name} == {"0"}


def test_all_layers_restored_undo_an_adapter(made: Made, tmp_path: Path) -> None:
    adapter = save_adapter(made, tmp_path / "a", layers=(0, 1, 2, 3))
    assert same(loaded(restore(str(adapter), "all", str(made.folder), tmp_path / "r")), made.model)


def test_restored_layers_count_in_the_depth_that_pruning_left(made: Made, tmp_path: Path) -> None:
    delta = save_delta(tuned(made, (0, 1, 2, 3)), LayerSet.all(4), str(made.folder), tmp_path / "d")
    pruned = layered(tmp_path / "p", delta, LineageStep(kind="pruned", layers="1", depth=4), depth=3)
    folder = restore(str(pruned), "1", str(made.folder), tmp_path / "r")
    expected = tuned(made, (0, 1, 2, 3))
    for name, parameter in layer_parameters(expected, (2,)).items():  # which pruning made layer 1
        parameter.data.copy_(layer_parameters(made.model, (2,))[name])
    remove_layers(expected, LayerSet.of((1,), 4))
    found = resolve_checkpoint(str(folder))
    assert same(load_model(found, torch.float32), expected)
    assert (found.origins.numbers, found.origins.tuned) == ((0, 2, 3), (0, 2))


def test_layers_may_be_removed_again_after_they_were_restored_in_one_folder(made: Made, tmp_path: Path) -> None:
    digest = resolve_checkpoint(str(made.folder)).digest
    adapter = save_adapter(made, tmp_path / "a", layers=(1, 2))
    backbone = {"id": str(made.folder), "digest": digest}
    steps = [
        LineageStep.model_validate({"kind": "restored", "layers": "1", "depth": 4, "backbone": backbone}),
        LineageStep(kind="pruned", layers="0", depth=4),
        LineageStep.model_validate({"kind": "restored", "layers": "1", "depth": 3, "backbone": backbone}),
    ]
    expected = copy.deepcopy(made.model)
    remove_layers(expected, LayerSet.of((0,), 4))
    assert same(loaded(layered(tmp_path / "r", adapter, *steps, depth=3)), expected)


def test_a_layered_backbone_gives_the_layers_that_it_has_when_loaded(made: Made, tmp_path: Path) -> None:
    delta = save_delta(tuned(made, (1,)), LayerSet.of((1,), 4), str(made.folder), tmp_path / "d")
    folder = restore(str(made.folder), "1", str(delta), tmp_path / "r")
    expected = copy.deepcopy(made.model)
    for name, parameter in layer_parameters(expected, (1,)).items():
        parameter.data.copy_(layer_parameters(tuned(made, (1,)), (1,))[name])
    assert same(loaded(folder), expected)


def test_every_step_has_a_digest_of_its_own(made: Made, tmp_path: Path) -> None:
    adapter = save_adapter(made, tmp_path / "a")
    model = tuned(made, (1,))
    delta = save_delta(model, LayerSet.of((1,), 4), str(made.folder), tmp_path / "d")
    folders = [
        made.folder, adapter, delta,
        layered(tmp_path / "p", made.folder, LineageStep(kind="pruned", layers="1", depth=4), depth=3),
        restore(str(adapter), "1", str(made.folder), tmp_path / "r1"),
        restore(str(adapter), "2", str(made.folder), tmp_path / "r2"),
        restore(str(adapter), "1", str(delta), tmp_path / "r3"),
        restore(str(delta), "1", str(made.folder), tmp_path / "r4"),
    ]  # fmt: skip
    assert len({resolve_checkpoint(str(folder)).digest for folder in folders}) == len(folders)
