"""Conversations as a stage's lessons: read, a share taken of them, encoded for the model's family, and put in order."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vrbench.errors import raise_all
from vrbench.train.batches import answer_sum
from vrbench.train.hub_sets import Columns, from_hub
from vrbench.train.recipe import Conversations, Hub, TrainRecipe
from vrbench.train.sets import Samples, from_json, share_of
from vrbench.train.supervised import Supervised
from vrbench.train.supervised_set import SupervisedSet
from vrbench.train.tune import Lessons, steps_of

if TYPE_CHECKING:
    from vrbench.models.loaded import LoadedModel

_log = logging.getLogger(__name__)

WORKERS = 8
"""Processes that read pictures for a card."""


def read(settings: Conversations | Hub) -> Samples:
    """The conversations that a recipe's section `data` means.

    Raises:
        VrbenchError: they are not there or faulty; see `vrbench.train.sets` and `vrbench.train.hub_sets`.
    """
    if isinstance(settings, Conversations):
        images = Path(settings.images).expanduser() if settings.images else None
        return from_json(Path(settings.conversations).expanduser(), images, settings.most_left_out)
    columns = Columns(settings.image, settings.turns, settings.question, settings.answer)
    root = Path(settings.data_root).expanduser() if settings.data_root else None
    config, revision = settings.config or "default", settings.revision or ""
    return from_hub(settings.hub, config, settings.split, revision, columns, root, settings.most_left_out)


def conversation_lessons(recipe: TrainRecipe, found: Samples, vlm: LoadedModel) -> Lessons:
    """What a recipe's conversations teach a model.

    Args:
        recipe: with the section `tune` and conversations as data.
        found: as `read` gives them.
        vlm: the model that is tuned, as it was loaded.

    Raises:
        VrbenchError: the chat template cannot be trained with, or no sample fits into the length.
    """
    settings, tune = recipe.data, recipe.tune
    assert isinstance(settings, Conversations | Hub) and tune is not None
    part = share_of(found.samples, settings.share, recipe.seed, settings.subset == "stratified")
    data = SupervisedSet(part, Supervised(vlm, settings.length, settings.pad_square))
    steps = steps_of(tune, len(data))
    workers = min(WORKERS, os.cpu_count() or 1) if vlm.device.type == "cuda" else 0
    if workers:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # which would be told of in each process
    if data.dropped:
        _log.warning("vrbench: %d samples have no answer within %d tokens", data.dropped, settings.length)
    lost = {**found.left_out, **({"longer than data.length": data.dropped} if data.dropped else {})}

    def measure() -> dict[str, Any]:
        return {"samples": len(data), "of": found.read, "left_out": lost}

    return Lessons(
        data, data.collate, answer_sum, data.order(tune.batch, steps, recipe.seed), settings.length, measure,
        workers, uneven=not all(sample.pictures for sample in data.samples),
    )  # fmt: skip


def refuse_unset(recipe: TrainRecipe) -> None:
    """Refuse a recipe whose paths are left for the user to give.

    Raises:
        VrbenchError: each of them that is not set.
    """
    needed = {"base": (recipe.base, "the checkpoint folder that is tuned")}
    if isinstance(recipe.data, Conversations):
        needed["data.conversations"] = (recipe.data.conversations, "a JSON file in LLaVA's layout")
    raise_all(
        f"recipe {recipe.name} leaves {key} to you: {what}; give --set {key}=PATH"
        for key, (value, what) in needed.items()
        if not value
    )
