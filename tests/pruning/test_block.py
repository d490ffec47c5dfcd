"""The block of consecutive layers over which the state at the last token turns least."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests import tiny
from tests.pruning.test_angular import mean_angle, states
from vrbench.checkpoints.resolve import resolve
from vrbench.core.errors import VrbenchError
from vrbench.core.schemas import LineageStep
from vrbench.models.llava_model import LlavaModel
from vrbench.models.load import load_vlm
from vrbench.pocket.turns import turns
from vrbench.pocket.world import draw, scene
from vrbench.pruning import prune, recipe_of
from vrbench.pruning.angular import block_distances
from vrbench.pruning.questions import DevQuestions
from vrbench.pruning.samples import Samples

PICTURES, TURNS = 2, 12


@pytest.fixture(scope="module")
def vlm(tiny_llava: Path) -> LlavaModel:
    return load_vlm(resolve(str(tiny_llava)))


def direct(vlm: LlavaModel, length: int) -> list[float]:
    """One sample after the other, all hidden states kept."""
    samples = []
    for index in range(PICTURES):
        of = scene("dev", index)
        pixels = vlm.image_processor(images=[Image.fromarray(draw(of))], return_tensors="pt")["pixel_values"]
        for turn in turns(of, TURNS):
            prompt = vlm.prompt(turn.prompt, 1).replace("<image>", "<image>" * vlm.image_tokens)
            ids = torch.tensor([vlm.tokenizer(prompt)["input_ids"] + vlm.tokenizer(turn.answer)["input_ids"]])
            found = states(vlm, ids, pixels)
            last = [x[-1:] for x, _ in found] + [found[-1][1][-1:]]
            samples.append([mean_angle(x, y) for x, y in zip(last[:-length], last[length:], strict=True)])
    return np.mean(samples, axis=0).tolist()


@pytest.mark.parametrize("length", [1, 2, 4])
def test_distances_are_those_of_each_sample_alone(vlm: LlavaModel, length: int) -> None:
    expected = direct(vlm, length)
    found = block_distances(Samples(vlm, DevQuestions(PICTURES, TURNS)), length)[-1]
    assert found == pytest.approx(expected, abs=1e-5)
    assert len(expected) == tiny.DEPTH - length + 1 and min(expected) > 0.01


def test_prune_takes_the_block_that_turns_least(vlm: LlavaModel, tiny_llava: Path, tmp_path: Path) -> None:
    recipe = recipe_of(makes="x", base=str(tiny_llava), remove=2, block=True, pictures=PICTURES, turns=TURNS)
    found = resolve(str(prune(recipe, tmp_path / "out", "cpu")))
    first = int(np.argmin(direct(vlm, 2)))
    assert found.removed[0].indices == (first, first + 1)
    (step,) = found.lineage[0].steps
    assert step.method == "angular-block"
    told = step.note.removeprefix("angular distance over 2 layers from layer 0, 1, ... on: ").partition(";")[0]
    assert [float(value) for value in told.split(", ")] == pytest.approx(direct(vlm, 2), abs=1e-4)


def test_a_block_keeps_out_of_the_region(tiny_llava: Path, tmp_path: Path) -> None:
    base = tiny.save_adapter(tmp_path / "tuned", tiny_llava, layers=(1,))
    tiny.mark(base, str(tiny_llava), resolve(str(tiny_llava)).digest, [LineageStep(kind="trained", layers="1", depth=4,
              method="lora")])  # fmt: skip
    values = {"makes": "x", "base": str(base), "block": True, "pictures": 1, "turns": 1}
    found = resolve(str(prune(recipe_of(remove=2, **values), tmp_path / "out", "cpu")))
    assert found.removed[0].indices == (2, 3)
    with pytest.raises(VrbenchError, match="no 3 consecutive layers may go; those that may are 0,2-3"):
        prune(recipe_of(remove=3, **values), tmp_path / "more", "cpu")
