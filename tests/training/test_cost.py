"""What a training costs: no backward and nothing kept where nothing learns."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import TrainerCallback

from tests import tiny
from tests.training import packed
from tests.training.packed import CPU, TURNS
from vrbench.checkpoints.llava_shapes import llava_shapes
from vrbench.checkpoints.overlay_validation import checkpoint_shapes
from vrbench.checkpoints.parameter_names import canonical_name
from vrbench.checkpoints.random_shapes import RANDOM_SHAPES
from vrbench.core.layers import LayerSet
from vrbench.training.cost import Rows, TuneCost, peak_memory
from vrbench.training.estimate import duration
from vrbench.training.gpu_peaks import peak_flops
from vrbench.training.packing import EncodedImages
from vrbench.training.pocket_data import packed_data
from vrbench.training.profile_results import ProfileRow, load_profile
from vrbench.training.recipe import GeneratedScenes, TrainRecipe, TuneStage
from vrbench.training.stages import tune
from vrbench.training.trainable import LayerSampling, add_lora, parameter_groups, sample_layers, unfreeze

DEPTH = 6


def settings(**changes: Any) -> TuneStage:
    given = {"layers": "3,5", "rank": 2, "alpha": 4.0, "steps": 3, "batch": 2, "lr": 1e-2, "lr_projector": 0.0}
    return TuneStage(**{**given, **changes})


def recipe(of: TuneStage) -> TrainRecipe:
    return TrainRecipe(name="t", makes="t", base="t", dtype="float32", data=GeneratedScenes(scenes=3), tune=of)


class Study:
    """A tiny model about to be tuned, and what each of its layers does in one step."""

    def __init__(self, of: TuneStage, layers: LayerSet | None = None) -> None:
        self.recipe, self.settings = recipe(of), of
        self.layers = layers or LayerSet.of([3, 5], DEPTH)
        torch.manual_seed(0)
        self.whole = tiny.llava(depth=DEPTH)
        self.images = EncodedImages(packed.features(self.whole, packed.pixels()), packed.packer().rows(TURNS))
        lora = of.tuning == "lora"
        self.model = add_lora(self.whole, self.layers, of) if lora else self.whole
        llava = packed.packed_llava(self.model)
        self.data = packed_data(llava, self.images, None, self.recipe, of.steps or 1, of.batch)

    def step(self) -> tuple[list[int], dict[int, int]]:
        """(layers that a gradient reached, bytes kept by each layer for the backward pass) of one step."""
        unfreeze(self.model, parameter_groups(self.model, self.layers, self.settings), torch.float32)
        reached: set[int] = set()
        kept = dict.fromkeys(range(DEPTH), 0)
        weights = {p.data_ptr() for p in self.model.parameters()}
        for i, layer in enumerate(self.whole.model.language_model.layers):
            self._watch(layer, i, reached, kept, weights)
        batch = self.data.collate([0, 1])
        self.model.train()
        self.data.loss(self.model, batch).backward()
        return sorted(reached), kept

    @staticmethod
    def _watch(layer: nn.Module, i: int, reached: set[int], kept: dict[int, int], weights: set[int]) -> None:
        forward = layer.forward

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            if tensor.data_ptr() not in weights:
                kept[i] += tensor.numel() * tensor.element_size()
            return tensor

        def watched(*args: Any, **given: Any) -> Any:
            with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
                out = forward(*args, **given)
            hidden = out if isinstance(out, torch.Tensor) else out[0]
            if hidden.requires_grad:
                hidden.register_hook(lambda grad: reached.add(i))
            return out

        layer.forward = watched  # type: ignore[method-assign]


class TestBackward:
    @pytest.mark.parametrize("tuning", ["lora", "weights"])
    def test_none_below_the_first_tuned_layer_when_the_projector_is_frozen(self, tuning: str) -> None:
        reached, kept = Study(settings(tuning=tuning)).step()
        assert reached == [3, 4, 5]
        assert kept[0] == kept[1] == kept[2] == 0 and min(kept[3], kept[4], kept[5]) > 0

    def test_through_all_layers_when_the_projector_learns(self) -> None:
        reached, kept = Study(settings(lr_projector=1e-3)).step()
        assert reached == list(range(DEPTH)) and min(kept.values()) > 0

    def test_a_frozen_layer_keeps_less_than_a_tuned_one(self) -> None:
        kept = Study(settings(lr_projector=1e-3)).step()[1]
        assert max(kept[i] for i in (0, 1, 2, 4)) < min(kept[3], kept[5])

    def test_the_tower_has_no_part_in_a_step(self) -> None:
        study = Study(settings(lr_projector=1e-3))
        calls: list[int] = []
        study.whole.model.vision_tower.register_forward_hook(lambda *_: calls.append(1))
        study.step()
        assert not calls

    def test_layers_that_are_not_drawn_have_none(self) -> None:
        of = settings(tuning="weights", sampling=1, every=2)
        study = Study(of)
        moved: list[set[int]] = []
        layers = study.whole.model.language_model.layers

        class Note(LayerSampling):
            def on_step_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
                self.before = [layer.mlp.up_proj.weight.detach().clone() for layer in layers]

            def on_step_end(self, *_: Any, **given: Any) -> None:
                pairs = zip(layers, self.before, strict=True)
                moved.append({i for i, (ly, old) in enumerate(pairs) if not torch.equal(ly.mlp.up_proj.weight, old)})

        note = Note({}, study.layers, 1, 2, 0)
        study.recipe = recipe(of.model_copy(update={"steps": 12}))
        study.data = packed_data(packed.packed_llava(study.model), study.images, None, study.recipe, 12, 2)
        tune(study.model, study.layers, study.data, study.recipe, CPU, callbacks=[note])
        assert moved == [set(sample_layers(study.layers, 1, study.recipe.seed, step // 2)) for step in range(12)]
        assert set.union(*moved) == {3, 5}

    def test_lisa_trains_embeddings_and_norm_in_every_step(self) -> None:
        of = settings(tuning="weights", sampling="lisa:1", every=2)
        study = Study(of)
        llm = study.whole.model.language_model
        moved: list[set[Any]] = []
        watched: dict[Any, nn.Module] = {"embeddings": llm.embed_tokens, "norm": llm.norm} | dict(enumerate(llm.layers))

        class Note(TrainerCallback):
            def values(self) -> dict[Any, list[torch.Tensor]]:
                return {name: [p.detach().clone() for p in part.parameters()] for name, part in watched.items()}

            def on_step_begin(self, *_: Any, **given: Any) -> None:
                self.before = self.values()

            def on_step_end(self, *_: Any, **given: Any) -> None:
                after = self.values()
                pairs = {name: zip(after[name], self.before[name], strict=True) for name in after}
                moved.append({name for name in pairs if any(not torch.equal(a, b) for a, b in pairs[name])})

        tune(study.model, study.layers, study.data, study.recipe, CPU, callbacks=[Note()])
        steps = range(len(moved))
        drawn = [set(sample_layers(study.layers, 1, study.recipe.seed, step // 2)) for step in steps]
        assert moved == [one | {"embeddings", "norm"} for one in drawn]
        assert study.whole.lm_head.weight is llm.embed_tokens.weight


class TestCheckpointing:
    def test_it_keeps_less_and_changes_nothing(self) -> None:
        plain, kept = (Study(settings(lr_projector=1e-3, checkpointing=value)) for value in (False, True))
        peaks = [self.peak(study) for study in (plain, kept)]
        assert peaks[1] < peaks[0] / 2
        for (name, ours), theirs in zip(kept.model.named_parameters(), plain.model.parameters(), strict=True):
            assert torch.allclose(ours, theirs, atol=1e-6), name

    @staticmethod
    def peak(study: Study) -> int:
        """Bytes kept for the backward pass in all steps."""
        total = 0

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal total
            total += tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            tune(study.model, study.layers, study.data, study.recipe, CPU)
        return total


class TestDraws:
    LAYERS = LayerSet.of([1, 2, 4, 5, 7], 8)

    def test_they_are_of_the_layers_and_known_by_their_number(self) -> None:
        draws = [sample_layers(self.LAYERS, 2, 0, number) for number in range(200)]
        assert all(len(one) == 2 and set(one) <= set(self.LAYERS) for one in draws)
        assert draws == [sample_layers(self.LAYERS, 2, 0, number) for number in range(200)]
        assert draws[:20] != [sample_layers(self.LAYERS, 2, 1, number) for number in range(20)]
        counts = {layer: sum(layer in one for one in draws) for layer in self.LAYERS}
        assert all(55 < count < 105 for count in counts.values())  # 80 are expected, with a deviation of 7


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"modules": "attention"},
        {"dora": True},
        {"tuning": "weights", "lr_projector": 1e-3},
        {"lr_projector": 1e-3, "rank": 3},
        {"tuning": "weights", "sampling": "lisa:1"},
        {"tower": "weights", "lr_tower": 1e-3},
        {"tower": "lora", "lr_tower": 1e-3},
    ],
)
def test_the_parameters_that_are_told_beforehand_are_those_that_learn(changes: dict[str, Any], tiny_llava: Any) -> None:
    from vrbench.models.resolve import resolve_checkpoint

    of = settings(layers="1,3", **changes)
    layers = LayerSet.of([1, 3], tiny.DEPTH)
    model = tiny.llava()
    model = add_lora(model, layers, of) if of.tuning == "lora" else model
    groups = parameter_groups(model, layers, of)
    unfreeze(model, groups, torch.float32)
    learning_ones = sum(p.numel() for p in model.parameters() if p.requires_grad)
    cost = TuneCost(checkpoint_shapes(resolve_checkpoint(str(tiny_llava))), "llava", layers, of)
    parts = (cost.trained_layers, cost.trained_projector, cost.trained_others, cost.trained_tower)
    assert sum(parts) == learning_ones
    assert learning_ones == sum(p.numel() for group in groups for p in group.parameters)


def test_each_group_learns_at_its_own_rate(tiny_llava: Any) -> None:
    del tiny_llava
    model, layers = tiny.llava(), LayerSet.of([1, 3], tiny.DEPTH)
    of = settings(layers="1,3", tuning="weights", lr=1e-2, lr_projector=1e-3, weight_decay=0.1)
    groups = parameter_groups(model, layers, of)
    rates = {id(p): (group.lr, group.weight_decay) for group in groups for p in group.parameters}
    decoder = dict(model.model.language_model.layers.named_parameters())
    tuned = {name: p for name, p in decoder.items() if name.split(".")[0] in ("1", "3")}
    projector = list(model.model.multi_modal_projector.parameters())
    assert len(rates) == len(tuned) + len(projector)
    assert {rates[id(p)] for p in projector} == {(1e-3, 0.0)}
    assert all(rates[id(p)] == (1e-2, 0.1 if p.ndim > 1 else 0.0) for p in tuned.values())


def test_frozen_weights_of_the_llm_are_in_the_compute_type_and_all_others_keep_theirs() -> None:
    model, layers = tiny.llava(), LayerSet.of([1, 3], tiny.DEPTH)
    groups = parameter_groups(model, layers, settings(layers="1,3", tuning="weights", lr_projector=0.0))
    unfreeze(model, groups, torch.bfloat16)
    parts = {
        "tuned": [p for i in layers for p in model.model.language_model.layers[i].parameters()],
        "frozen layer": list(model.model.language_model.layers[0].parameters()),
        "embedding": list(model.model.language_model.embed_tokens.parameters()),
        "head": list(model.lm_head.parameters()),
        "tower": list(model.model.vision_tower.parameters()),
        "projector": list(model.model.multi_modal_projector.parameters()),
    }
    found = {name: {(p.dtype, p.requires_grad) for p in part} for name, part in parts.items()}
    frozen, kept = {(torch.bfloat16, False)}, {(torch.float32, False)}
    assert found == {
        "tuned": {(torch.float32, True)}, "frozen layer": frozen, "embedding": frozen, "head": frozen,
        "tower": kept, "projector": kept,
    }  # fmt: skip


MEASURED = Path(__file__).parents[2] / "leaderboards/reproduce/pocket/profile.json"


@pytest.mark.parametrize("row", [row for row in load_profile(MEASURED) if row.kind == "train"], ids=lambda row: row.key)
def test_memory_and_flops_are_estimated_as_they_were_measured(row: ProfileRow) -> None:
    """At the true shapes on one H200; the shares of its peak are those that a GPU can have."""
    shapes = llava_shapes(*RANDOM_SHAPES[row.shape])
    shapes = {name: shape for name, shape in shapes.items() if "vision" not in name}  # it measured none
    of = settings(
        layers=row.indices, tuning=row.tuning, rank=row.rank, alpha=row.alpha, dropout=row.dropout or 0,
        checkpointing=row.checkpointing, lr_projector=1.0,
    )  # fmt: skip
    masters = {"float32": 4, "bfloat16": 2}[row.masters]
    cost = TuneCost(shapes, "llava", LayerSet.parse(row.indices, row.depth), of, master=masters)
    rows = Rows(row.batch, 1, row.tokens, row.answer_tokens / row.tokens, row.image_tokens)
    assert row.peak_gib and row.seconds_per_step
    assert cost.trained_layers + cost.trained_projector == row.trainable
    assert peak_memory(cost.memory(rows)) / 2**30 == pytest.approx(row.peak_gib, rel=0.09)
    flops, peak = cost.flops(rows), peak_flops(row.device)
    assert peak and 0.26 < flops.computed / row.seconds_per_step / peak < 0.51
    assert (flops.needed < flops.computed) == row.checkpointing


@pytest.mark.parametrize("tuning", ["lora", "weights"])
def test_a_step_with_sampling_costs_what_its_drawn_layers_cost(tuning: str) -> None:
    """But for the masters and moments, which all tuned layers have."""
    shapes = {canonical_name(name): tuple(p.shape) for name, p in tiny.llava(depth=DEPTH).named_parameters()}
    layers, rows = LayerSet.all(DEPTH), Rows(2, 1, 20, 0.2, 4)
    of, drawn = settings(tuning=tuning, lr_projector=1e-3), settings(tuning=tuning, lr_projector=1e-3, sampling=2)
    sampled, whole = TuneCost(shapes, "llava", layers, drawn), TuneCost(shapes, "llava", layers, of)
    two = TuneCost(shapes, "llava", LayerSet.of([1, 4], DEPTH), of)
    if tuning == "weights":  # adapters of the others compute too
        assert sampled.flops(rows) == two.flops(rows)
    assert two.flops(rows).needed <= sampled.flops(rows).needed < whole.flops(rows).needed
    parts = sampled.memory(rows)
    for name, same in (("gradients", two), ("activations", two), ("masters", whole), ("AdamW", whole)):
        assert parts[name] == pytest.approx(same.memory(rows)[name]), name


def test_flops_are_those_that_torch_counts() -> None:
    """All but attention's, which its counter does not see on a CPU."""
    of = settings(layers="all", lr_projector=1.0)
    study = Study(of, LayerSet.all(DEPTH))
    unfreeze(study.model, parameter_groups(study.model, study.layers, of), torch.float32)
    batch = study.data.collate([0, 1])
    with FlopCounterMode(display=False) as counter:
        study.data.loss(study.model, batch).backward()
    shapes = {canonical_name(name): tuple(p.shape) for name, p in tiny.llava(depth=DEPTH).named_parameters()}
    cost = TuneCost({n: s for n, s in shapes.items() if "vision" not in n}, "llava", study.layers, of, size=4)
    tokens, images = batch["length"], study.images.features.shape[1]
    rows = Rows(2, 1, tokens, len(batch["answers"]) / 2 / tokens, images)
    attention = 2 * DEPTH * 6 * tokens**2 * cost.hidden
    assert cost.flops(rows).needed - attention == pytest.approx(counter.get_total_flops(), rel=0.01)


@pytest.mark.parametrize(
    ("seconds", "text"), [(37.4, "0 min 37 s"), (3599.6, "1 h 0 min"), (12000, "3 h 20 min"), (200000, "2 d 7 h")]
)
def test_times_are_told_in_two_units(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("name", "peak"),
    [("NVIDIA H200", 989e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA L40S", 362e12), ("NVIDIA T4", None)],
)
def test_peaks_are_found_by_name(name: str, peak: float | None) -> None:
    assert peak_flops(name) == peak
