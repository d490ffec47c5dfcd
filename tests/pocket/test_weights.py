"""The published checkpoints: whole, within their size, and made by the recipes that the package ships."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from vrbench import evaluate
from vrbench.checkpoints.locate import PUBLISHED_FOLDER, published_names
from vrbench.models.resolve import resolve_checkpoint
from vrbench.pruning.recipe import PruneRecipe
from vrbench.training import load

LARGEST = 25_000_000


def test_all_of_the_family_is_there() -> None:
    assert published_names() == [f"pocket/{name}" for name in ("base", "full", "region", "region-pruned-2", "top")]


DIGESTS = {
    "pocket/base": "7c6e5c0ac4f97959", "pocket/full": "ac7e17903999af7f", "pocket/region": "86862f2f883fc874",
    "pocket/region-pruned-2": "c2d077dcc13e3d0e", "pocket/top": "edd2b3393ab40f2b",
}  # fmt: skip
"""How their digests begin: runs that were recorded name them, so that they stay what they are."""


@pytest.mark.parametrize("name", published_names())
def test_digests_and_lineage_hold(name: str) -> None:
    found = resolve_checkpoint(name)
    assert found.digest.startswith(DIGESTS[name])
    assert found.depth == (28 if name.endswith("pruned-2") else 30)
    assert found.root.id == "smollm2-135m-instruct"
    assert found.lineage[0].id == name


def test_weights_fit_into_25_mb() -> None:
    assert sum(file.stat().st_size for file in PUBLISHED_FOLDER.glob("*/*.safetensors")) <= LARGEST


@pytest.mark.parametrize("name", ["base", "full", "region", "top"])
def test_the_shipped_recipe_is_the_one_that_made_it(name: str) -> None:
    steps = json.loads((PUBLISHED_FOLDER / name / "vrbench.json").read_text())["steps"]
    recipe = load(f"pocket-{name}")
    assert {step["recipe_digest"] for step in steps} == {recipe.digest}
    assert load(str(PUBLISHED_FOLDER / name / "recipe.yaml")) == recipe  # with the defaults of the keys that came later
    assert recipe.makes == f"pocket/{name}"


def test_the_pruned_one_says_how_it_was_pruned() -> None:
    folder = PUBLISHED_FOLDER / "region-pruned-2"
    recipe = PruneRecipe.model_validate(yaml.safe_load((folder / "recipe.yaml").read_text()))
    (step,) = json.loads((folder / "vrbench.json").read_text())["steps"]
    assert step["recipe_digest"] == recipe.digest
    assert recipe.outside_region and len(step["layers"].split(",")) == recipe.remove == 2


@pytest.mark.supports("pocket", "run")
@pytest.mark.supports("pocket", "adapter")
@pytest.mark.supports("pocket", "pruned")
def test_the_pruned_one_sees(tmp_path: Path) -> None:
    """The whole chain in float32: LLM, tower and projector, adapter merged, two layers removed."""
    record = evaluate("pocket/region-pruned-2", "pocket_mme", limit=16, device="cpu", out=tmp_path, show_progress=False)
    (result,) = record.results
    assert record.checkpoint.depth == 28 and result.score is not None and result.chance is not None
    assert result.score.value > result.chance + 10
