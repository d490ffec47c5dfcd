"""`prune` end to end: which layers may go, and the whole smaller model that was read back before it got its name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests import tiny
from vrbench.checkpoints.families import FAMILIES
from vrbench.core.errors import MultipleErrors, VrbenchError
from vrbench.core.layers import LayerSet
from vrbench.core.schemas import BaseRef, LineageStep
from vrbench.models import components
from vrbench.models.load import load_model, load_vlm
from vrbench.models.overlay import remove_layers
from vrbench.models.resolve import resolve_checkpoint
from vrbench.pruning import export, hidden_states
from vrbench.pruning.hidden_states import block_distances
from vrbench.pruning.prune import prune
from vrbench.pruning.questions import DevQuestions
from vrbench.pruning.recipe import PruneRecipe, make_recipe
from vrbench.pruning.samples import Samples


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VRBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def adapter(tiny_llava: Path, tmp_path: Path) -> Path:
    """Layer 1 is tuned; a foreign folder, whose layers are read from its tensors."""
    return tiny.save_adapter(tmp_path / "adapter", tiny_llava, layers=(1,))


def recipe(base: Path, **changes: Any) -> PruneRecipe:
    return make_recipe(**{"makes": "small", "base": str(base), "remove": 2, "pictures": 2, "turns": 2, **changes})


def generated(vlm: Any) -> list[int]:
    pixels = torch.linspace(-1, 1, 3 * tiny.SIDE**2).reshape(1, 3, tiny.SIDE, tiny.SIDE)
    image = vlm.tokenizer.convert_tokens_to_ids("<image>")
    ids = torch.tensor([[5, 60, *[image] * 4, 71, 33, 90]])
    return vlm.model.generate(input_ids=ids, pixel_values=pixels, max_new_tokens=12, do_sample=False)[0].tolist()


class TestWhole:
    def test_it_says_what_the_light_one_says_without_its_base(self, adapter: Path, tmp_path: Path) -> None:
        light = resolve_checkpoint(str(prune(recipe(adapter), tmp_path / "light", "cpu")))
        prune(recipe(adapter), tmp_path / "whole", "cpu", whole=True)
        said = generated(load_vlm(light))
        adapter.rename(tmp_path / "gone")
        made = resolve_checkpoint(str(tmp_path / "whole"))
        assert generated(load_vlm(made)) == said
        assert (made.depth, made.base, made.lineage[0].id) == (2, None, "small")
        assert [line.steps for line in made.lineage] == [line.steps for line in light.lineage]
        assert made.origins.tuned == light.origins.tuned != ()
        assert made.digest != light.digest

    def test_it_has_all_that_a_model_folder_has(self, tiny_llava: Path, tmp_path: Path) -> None:
        out = prune(recipe(tiny_llava), tmp_path / "whole", "cpu", whole=True)
        text = json.loads((out / "config.json").read_text())["text_config"]
        assert text["num_hidden_layers"] == len(text["layer_types"] if "layer_types" in text else [0, 0]) == 2
        assert (out / "tokenizer.json").read_bytes() == (tiny_llava / "tokenizer.json").read_bytes()
        assert (out / "preprocessor_config.json").is_file()
        assert (out / "recipe.yaml").is_file()

    def test_files_in_half_precision_stay_so_when_nothing_is_merged(self, tmp_path: Path) -> None:
        dtype = torch.float16
        base = tiny.save_llava(tmp_path / "half")
        tiny.llava().to(dtype).save_pretrained(base)
        out = prune(recipe(base), tmp_path / "whole", "cpu", whole=True)
        assert export.exact_dtype(resolve_checkpoint(str(out))) == dtype
        adapter = tiny.save_adapter(tmp_path / "a", base)
        assert export.exact_dtype(resolve_checkpoint(str(adapter))) == torch.float32

    @pytest.mark.parametrize("fault", ["layers", "weights", "cache"])
    def test_what_comes_back_otherwise_from_disk_gets_no_name(
        self, tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
    ) -> None:
        calls: list[Any] = []

        def load_otherwise(*arguments: Any) -> Any:
            model = load_model(*arguments)
            calls.append(model)
            if len(calls) == 2:  # the one that was saved
                layers = components.decoder_layers(model)
                if fault == "layers":
                    del layers[1]
                elif fault == "weights":
                    layers[1].mlp.up_proj.weight.data[0, 0] += 1
                else:
                    layers[1].self_attn.layer_idx = 0
            return model

        monkeypatch.setattr(export, "load_model", load_otherwise)
        messages = {"layers": "has 1 decoder layers", "weights": "differs from", "cache": "does not generate what"}
        with pytest.raises(VrbenchError, match=messages[fault]):
            prune(recipe(tiny_llava), tmp_path / "out", "cpu", whole=True)
        assert list(tmp_path.iterdir()) == []

    def test_the_lineage_is_written_last(
        self, tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen: list[bool] = []
        compare = export.compare_saved

        def watched(expected: Any, folder: Path, *rest: Any) -> None:
            seen.append((folder / "vrbench.json").exists())
            compare(expected, folder, *rest)

        monkeypatch.setattr(export, "compare_saved", watched)
        prune(recipe(tiny_llava), tmp_path / "out", "cpu", whole=True)
        assert seen == [False]

    def test_an_adapter_goes_on_a_whole_pruned_model(self, tiny_llava: Path, tmp_path: Path) -> None:
        base = prune(recipe(tiny_llava), tmp_path / "whole", "cpu", whole=True)
        folder = tiny.save_adapter(tmp_path / "healed", base, layers=(1,), depth=2)
        found = resolve_checkpoint(str(folder))
        assert (found.depth, found.origins.first_depth, found.origins.tuned) == (2, 4, (1,))
        load_vlm(found)


class TestWhichMayGo:
    def test_a_foreign_adapter_s_layers_stay(self, adapter: Path, tmp_path: Path) -> None:
        with pytest.raises(VrbenchError, match="4 layers cannot be removed: of 4 only 3 may"):
            prune(recipe(adapter, remove=4), tmp_path / "out", "cpu")

    def test_tuned_layers_of_a_pruned_checkpoint_stay(self, adapter: Path, tmp_path: Path) -> None:
        step = LineageStep(kind="pruned", layers="0", depth=4)
        tiny.mark(tmp_path / "p", str(adapter), resolve_checkpoint(str(adapter)).digest, [step], 3)
        found = resolve_checkpoint(str(prune(recipe(tmp_path / "p", remove=2), tmp_path / "out", "cpu")))
        assert found.removed[-1].indices == (1, 2)  # layer 0 was layer 1, the tuned one
        assert found.origins.numbers == (1,)

    def test_restored_layers_may_go(self, adapter: Path, tiny_llava: Path, tmp_path: Path) -> None:
        backbone = BaseRef(id=str(tiny_llava), digest=resolve_checkpoint(str(tiny_llava)).digest)
        step = LineageStep(kind="restored", layers="1", depth=4, backbone=backbone)
        tiny.mark(tmp_path / "r", str(adapter), resolve_checkpoint(str(adapter)).digest, [step])
        assert resolve_checkpoint(str(tmp_path / "r")).origins.tuned == ()
        with pytest.raises(VrbenchError, match="4 layers cannot be removed: of 4 only 3 may"):
            prune(recipe(tmp_path / "r", remove=4), tmp_path / "out", "cpu")

    def test_layers_that_may_not_go_stay_and_the_reason_is_told(
        self, tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(
            FAMILIES,
            "llava",
            replace(FAMILIES["llava"], fixed_layers=lambda _: {0: "it is the first", 2: "it is even"}),
        )
        out = prune(recipe(tiny_llava), tmp_path / "out", "cpu")
        assert resolve_checkpoint(str(out)).removed[0].indices == (1, 3)
        with pytest.raises(VrbenchError, match="of 4 only 2 may be; layer 0: it is the first"):
            prune(recipe(tiny_llava, remove=3), tmp_path / "more", "cpu")
        step = LineageStep(kind="pruned", layers="1", depth=4)
        tiny.mark(tmp_path / "p", str(tiny_llava), resolve_checkpoint(str(tiny_llava)).digest, [step], 3)
        out = prune(recipe(tmp_path / "p", remove=1), tmp_path / "again", "cpu")
        assert resolve_checkpoint(str(out)).removed[0].indices == (2,)  # once layer 3

    def test_a_quantized_base_is_refused(self, tmp_path: Path) -> None:
        base = tiny.save_llava(tmp_path / "q")
        tiny.edit_json(base / "config.json", quantization_config={"quant_method": "gptq"})
        with pytest.raises(VrbenchError, match=r"are quantized \(gptq\)"):
            prune(recipe(base), tmp_path / "out", "cpu")


class TestPrune:
    def tuned(self, base: Path, folder: Path, layers: str) -> Path:
        step = LineageStep(kind="trained", layers=layers, depth=tiny.DEPTH, method="lora")
        tiny.save_adapter(folder, base, LayerSet.parse(layers, tiny.DEPTH))
        return tiny.mark(folder, str(base), resolve_checkpoint(str(base)).digest, [step])

    @pytest.mark.supports("llava", "pruned")
    def test_the_folder_loads_as_the_smaller_model(self, tiny_llava: Path, tmp_path: Path) -> None:
        out = prune(recipe(tiny_llava), tmp_path / "out", "cpu")
        made = resolve_checkpoint(str(out))
        (step,) = made.lineage[0].steps
        assert (made.depth, step.kind, step.method, made.lineage[0].id) == (2, "pruned", "loss", "small")
        assert step.recipe_digest == recipe(tiny_llava).digest
        smaller = tiny.llava()
        remove_layers(smaller, LayerSet.parse(step.layers, tiny.DEPTH))
        loaded = load_vlm(made).model.state_dict()
        assert all(torch.equal(value, loaded[name]) for name, value in smaller.state_dict().items())

    def test_layers_that_were_tuned_stay(self, tiny_llava: Path, tmp_path: Path) -> None:
        base = self.tuned(tiny_llava, tmp_path / "tuned", "0,2")
        out = prune(recipe(base), tmp_path / "out", "cpu")
        assert resolve_checkpoint(str(out)).lineage[0].steps[0].layers == "1,3"

    @pytest.mark.parametrize(
        ("layers", "changes", "most"),
        [("0,2", {"remove": 3}, 2), ("all", {"remove": 1}, 0), ("0,2", {"remove": 4, "outside_region": False}, 3)],
    )
    def test_more_than_may_go_are_refused(
        self, tiny_llava: Path, tmp_path: Path, layers: str, changes: dict[str, Any], most: int
    ) -> None:
        base = self.tuned(tiny_llava, tmp_path / "tuned", layers)
        with pytest.raises(VrbenchError, match=f"layers cannot be removed: of 4 only {most} may"):
            prune(recipe(base, **changes), tmp_path / "out", "cpu")
        assert not (tmp_path / "out").exists()

    def test_a_taken_folder_is_refused(self, tiny_llava: Path, tmp_path: Path) -> None:
        tiny.mark(tmp_path / "out", "x", "y")
        with pytest.raises(VrbenchError, match="already holds a checkpoint"):
            prune(recipe(tiny_llava), tmp_path / "out", "cpu")

    def test_faults_of_a_recipe_are_told_at_once(self, tiny_llava: Path) -> None:
        with pytest.raises(MultipleErrors) as told:
            recipe(tiny_llava, remove=0, by="size")
        assert [fault.split(":")[0] for fault in told.value.messages] == ["remove is 0", "by is 'size'"]


def test_a_block_is_the_one_that_turns_least(tiny_llava: Path, tmp_path: Path) -> None:
    found = resolve_checkpoint(str(prune(recipe(tiny_llava, block=True, turns=12), tmp_path / "out", "cpu")))
    samples = Samples(load_vlm(resolve_checkpoint(str(tiny_llava))), DevQuestions(2, 12))
    distances = block_distances(samples, 2)[-1]
    first = distances.index(min(distances))
    assert found.removed[0].indices == (first, first + 1)
    (step,) = found.lineage[0].steps
    assert step.method == "angular-block"
    told = step.note.removeprefix("angular distance over 2 layers from layer 0, 1, ... on: ").partition(";")[0]
    assert [float(value) for value in told.split(", ")] == pytest.approx(distances, abs=1e-4)


@pytest.mark.parametrize(("by", "removed"), [("angular-block", (0, 1)), ("angular-block-pruneme", (2, 3))])
def test_no_block_of_pruneme_begins_with_the_first_layer(
    by: str, removed: tuple[int, ...], tiny_llava: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def distances(samples: Samples, longest: int, final_norm: bool) -> list[list[float]]:
        assert longest == 2 and final_norm == (by == "angular-block-pruneme")
        return [[], [0.1, 0.3, 0.2]]

    monkeypatch.setattr(hidden_states, "block_distances", distances)
    found = resolve_checkpoint(str(prune(recipe(tiny_llava, by=by, remove=2), tmp_path / "out", "cpu")))
    assert (found.removed[0].indices, found.lineage[0].steps[0].method) == (removed, by)
    assert make_recipe(makes="x", base="y", remove=1, block=True, by=by).by == by


def test_a_block_keeps_out_of_the_region(tiny_llava: Path, tmp_path: Path) -> None:
    base = tiny.save_adapter(tmp_path / "tuned", tiny_llava, layers=(1,))
    step = LineageStep(kind="trained", layers="1", depth=4, method="lora")
    tiny.mark(base, str(tiny_llava), resolve_checkpoint(str(tiny_llava)).digest, [step])
    values = {"makes": "x", "base": str(base), "block": True, "pictures": 1, "turns": 1}
    found = resolve_checkpoint(str(prune(make_recipe(remove=2, **values), tmp_path / "out", "cpu")))
    assert found.removed[0].indices == (2, 3)
    with pytest.raises(VrbenchError, match="no 3 consecutive layers may be removed; those that may are 0,2-3"):
        prune(make_recipe(remove=3, **values), tmp_path / "more", "cpu")
