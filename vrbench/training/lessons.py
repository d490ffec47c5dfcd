"""Conversations as a stage's lessons: a share taken of them, encoded for the model's family, and put in order."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any

from vrbench.training.batches import answer_sum
from vrbench.training.conversation_batches import SupervisedSet
from vrbench.training.conversation_encoder import Supervised
from vrbench.training.conversation_sets import Samples, share_of
from vrbench.training.pocket_data import Lessons
from vrbench.training.recipe import ConversationFile, HubConversations, TrainRecipe

if TYPE_CHECKING:
    from vrbench.models.base_vlm import BaseVLM

_log = logging.getLogger(__name__)

WORKERS = 8
"""Processes that read pictures for a card."""


def conversation_lessons(recipe: TrainRecipe, found: Samples, vlm: BaseVLM) -> Lessons:
    """What a recipe's conversations teach a model.

    Args:
        recipe: with the section `tune` and conversations as data.
        found: as `vrbench.training.reading.read` gives them.
        vlm: the model that is tuned, as it was loaded.

    Raises:
        VrbenchError: the chat template cannot be trained with, or no sample fits into the length.
    """
    settings, tune = recipe.data, recipe.tune
    assert isinstance(settings, ConversationFile | HubConversations) and tune is not None
    part = share_of(found.samples, settings.share, recipe.seed, settings.subset == "stratified")
    data = SupervisedSet(part, Supervised(vlm, settings.length, settings.pad_square))
    steps = tune.steps_for(len(data))
    workers = min(WORKERS, os.cpu_count() or 1) if vlm.device.type == "cuda" else 0
    if workers:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # which would be told of in each process
    if data.dropped:
        _log.warning("vrbench: %d samples have no answer within %d tokens", data.dropped, settings.length)
    if data.refused:
        _log.warning("vrbench: %d samples are left out, such as %s", len(data.refused), data.refused[0])
    more = {"longer than data.length": data.dropped, "image refused": len(data.refused)}
    lost = {**found.left_out, **{reason: number for reason, number in more.items() if number}}

    def measure() -> dict[str, Any]:
        return {"samples": len(data), "of": found.read, "left_out": lost}

    return Lessons(
        data, data.collate, answer_sum, data.order(tune.batch, steps, recipe.seed), settings.length, measure,
        workers, uneven=not all(sample.pictures for sample in data.samples),
    )  # fmt: skip
