"""Every family's tiny model is pruned, restored, tuned and adapted, and comes back from disk as it was."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny, tiny_families
from tests.tiny import save_delta
from vrbench.checkpoints.families import FAMILIES
from vrbench.core.errors import VrbenchError
from vrbench.core.layers import LayerSet
from vrbench.models.components import decoder_layers, layer_parameters, projector_parameters
from vrbench.models.load import load_model, load_vlm
from vrbench.models.resolve import resolve_checkpoint
from vrbench.pruning.prune import prune, restore
from vrbench.pruning.recipe import make_recipe

OTHERS = sorted(set(FAMILIES) - {"llava"})


@pytest.fixture(scope="module", params=OTHERS)
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(tiny_families.save(request.param, tmp_path_factory.mktemp("family") / "base"))


def loaded(folder: Path) -> Any:
    return load_model(resolve_checkpoint(str(folder)), torch.float32)


def same(model: Any, expected: Any) -> bool:
    ours, theirs = model.state_dict(), expected.state_dict()
    return set(ours) == set(theirs) and all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_layers_are_chosen_by_loss_where_answers_are_not_seen_with_the_prompt(tmp_path: Path) -> None:
    makes = {"makes": "small", "remove": 1, "by": "loss", "pictures": 1, "turns": 2}
    gemma = make_recipe(base=str(tiny_families.save("gemma3", tmp_path / "gemma")), **makes)
    assert resolve_checkpoint(str(prune(gemma, tmp_path / "out", "cpu"))).depth == tiny_families.DEPTH - 1
    both_ways = make_recipe(base=str(tiny_families.save("paligemma", tmp_path / "pali")), **makes)
    with pytest.raises(VrbenchError, match="choose layers by angular"):
        prune(both_ways, tmp_path / "none", "cpu")


@pytest.mark.supports("{base}", "pruned")
@pytest.mark.supports("{base}", "delta")
@pytest.mark.supports("{base}", "restored")
@pytest.mark.supports("{base}", "adapter")
def test_pruned_tuned_restored_and_adapted(base: Path, tmp_path: Path) -> None:
    """One test, so that each family's model is made and loaded once."""
    before = loaded(base)
    check_prune_light_and_whole(base, tmp_path)
    check_delta_and_restore(base, before, tmp_path)
    check_an_adapter_reaches_the_llm_s_layers_and_no_others(base, before, tmp_path)


def check_prune_light_and_whole(base: Path, folder: Path) -> None:
    recipe = make_recipe(makes="small", base=str(base), remove=1, by="angular", pictures=1, turns=1)
    light = prune(recipe, folder / "light", "cpu")
    (step,) = resolve_checkpoint(str(light)).lineage[0].steps
    same_layers = make_recipe(makes="small", base=str(base), layers=step.layers)
    whole = load_vlm(resolve_checkpoint(str(prune(same_layers, folder / "whole", "cpu", whole=True))))
    assert same(whole.model, loaded(light))
    assert whole.depth == tiny_families.DEPTH - 1


def check_delta_and_restore(base: Path, before: Any, folder: Path) -> None:
    model = copy.deepcopy(before)
    for parameter in (*layer_parameters(model, [1]).values(), *projector_parameters(model).values()):
        parameter.data += 0.1
    delta = save_delta(model, LayerSet.of((1,), tiny_families.DEPTH), str(base), folder / "delta")
    assert same(loaded(delta), model)
    restored = loaded(restore(str(delta), "1", str(base), folder / "restored"))
    expected = layer_parameters(before, range(tiny_families.DEPTH))
    assert all(torch.equal(p, expected[n]) for n, p in layer_parameters(restored, range(tiny_families.DEPTH)).items())
    assert not same(restored, before)  # its projector is still the tuned one


def check_an_adapter_reaches_the_llm_s_layers_and_no_others(base: Path, model: Any, folder: Path) -> None:
    from peft import LoraConfig, get_peft_model

    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    inside = {id(m) for m in decoder_layers(model)[2].modules()}
    wanted = [n for n, m in model.named_modules() if id(m) in inside and n.endswith(("q_proj", "up_proj"))]
    wrapped = get_peft_model(model, LoraConfig(r=2, lora_alpha=4, target_modules=wanted, init_lora_weights=False))
    wrapped.save_pretrained(folder / "a")
    tiny.edit_json(folder / "a" / "adapter_config.json", base_model_name_or_path=str(base))
    merged, beside = loaded(folder / "a"), load_vlm(resolve_checkpoint(str(folder / "a")), merge=False).model
    changed = {name for name, p in merged.named_parameters() if not torch.equal(p, before[name])}
    assert changed == {f"{name}.weight" for name in wanted} and len(changed) == 2
    ids = {"input_ids": torch.arange(10, 20)[None]}
    if resolve_checkpoint(str(base)).family == "paligemma":
        ids["token_type_ids"] = torch.zeros(1, 10, dtype=torch.long)
    with torch.inference_mode():
        assert torch.allclose(merged(**ids).logits, beside(**ids).logits, atol=1e-4)
