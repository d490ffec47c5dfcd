"""The angular distance, streamed over packed rows, is the one computed sample by sample."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny
from vrbench.checkpoints.resolve import resolve
from vrbench.models.llava_model import LlavaModel
from vrbench.models.load import load_vlm
from vrbench.pocket.turns import turns
from vrbench.pocket.world import draw, scene
from vrbench.pruning import prune, recipe_of
from vrbench.pruning.angular import angular_distances
from vrbench.pruning.loss_evaluator import DevLoss
from vrbench.pruning.questions import DevQuestions
from vrbench.pruning.samples import Counted, Samples

PICTURES, TURNS = 3, 2


@pytest.fixture(scope="module")
def vlm(tiny_llava: Path) -> LlavaModel:
    return load_vlm(resolve(str(tiny_llava)))


@pytest.fixture(scope="module")
def distances(vlm: LlavaModel) -> list[float]:
    return angular_distances(looked_at(vlm))


def looked_at(vlm: LlavaModel, per_picture: int = TURNS) -> Counted:
    return Samples(vlm, DevQuestions(PICTURES, per_picture)).counting("all")


def direct(vlm: LlavaModel, per_picture: int = TURNS) -> list[float]:
    """One sample after the other through the whole model from the pixels, all hidden states kept."""
    samples = []
    for index in range(PICTURES):
        of = scene("dev", index)
        pixels = vlm.image_processor(images=[Image.fromarray(draw(of))], return_tensors="pt")["pixel_values"]
        for turn in turns(of, per_picture):
            prompt = vlm.prompt(turn.prompt, 1).replace("<image>", "<image>" * vlm.image_tokens)
            said = vlm.tokenizer(turn.answer, add_special_tokens=False)["input_ids"]
            ids = torch.tensor([vlm.tokenizer(prompt)["input_ids"] + said])
            samples.append([mean_angle(x, y) for x, y in states(vlm, ids, pixels)])
    return [sum(column) / len(samples) for column in zip(*samples, strict=True)]


def states(vlm: LlavaModel, ids: torch.Tensor, pixels: torch.Tensor) -> list[tuple[np.ndarray, np.ndarray]]:
    """What enters and what leaves each layer, [tokens, hidden] each."""
    found: list[tuple[np.ndarray, np.ndarray]] = []
    handles = [
        layer.register_forward_hook(lambda _, args, output: found.append((args[0][0].numpy(), output[0].numpy())))
        for layer in vlm.decoder_layers
    ]
    with torch.inference_mode():
        vlm.model(input_ids=ids, pixel_values=pixels, use_cache=False)
    for handle in handles:
        handle.remove()
    return found


def mean_angle(entering: np.ndarray, leaving: np.ndarray) -> float:
    angles = []
    for x, y in zip(entering.astype(float), leaving.astype(float), strict=True):
        lengths = math.sqrt(float(x @ x) * float(y @ y))
        cosine = float(x @ y) / lengths if lengths else 0.0  # the embedding of </s>, which pads, is all zeros
        angles.append(math.acos(max(-1.0, min(1.0, cosine))) / math.pi)
    return sum(angles) / len(angles)


def test_streamed_distances_are_those_of_each_sample_alone(vlm: LlavaModel, distances: list[float]) -> None:
    assert distances == pytest.approx(direct(vlm), abs=1e-5)
    assert len({round(value, 3) for value in distances}) == tiny.DEPTH
    assert all(0.01 < value < 1 for value in distances)


def test_rows_may_pass_in_any_number_at_once(
    vlm: LlavaModel, distances: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vrbench.pruning.samples.ROWS_AT_ONCE", 1)
    assert angular_distances(looked_at(vlm)) == pytest.approx(distances, abs=1e-6)


def test_tokens_that_samples_share_count_for_each_of_them(vlm: LlavaModel) -> None:
    assert not all(row.is_causal for rows, _, _ in DevLoss(vlm, PICTURES, 12).batches for row in rows)
    assert angular_distances(looked_at(vlm, 12)) == pytest.approx(direct(vlm, 12), abs=1e-5)


def test_a_layer_that_does_nothing_has_distance_0_and_goes_first(vlm: LlavaModel) -> None:
    layer = vlm.decoder_layers[2]
    kept = {n: p.data.clone() for n, p in layer.named_parameters()}
    layer.self_attn.o_proj.weight.data.zero_()
    layer.mlp.down_proj.weight.data.zero_()
    found = angular_distances(looked_at(vlm))
    for name, parameter in layer.named_parameters():
        parameter.data = kept[name]
    assert found[2] == pytest.approx(0, abs=1e-6)
    assert min(found[:2] + found[3:]) > 0.01


def test_prune_removes_the_layers_that_turn_least(vlm: LlavaModel, tiny_llava: Path, tmp_path: Path) -> None:
    recipe = recipe_of(makes="small", base=str(tiny_llava), remove=2, by="angular", pictures=PICTURES, turns=TURNS)
    found = resolve(str(prune(recipe, tmp_path / "out", "cpu")))
    (step,) = found.lineage[0].steps
    least = sorted(np.argsort(angular_distances(looked_at(vlm)))[:2].tolist())
    assert list(found.removed[0]) == least
    assert step.method == "angular"
    assert step.note.startswith("removed in the order [")


def test_hooks_are_gone_afterwards(vlm: LlavaModel, distances: list[float]) -> None:
    assert distances
    assert not any(layer._forward_hooks for layer in vlm.decoder_layers)
