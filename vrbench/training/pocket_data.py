"""Stages 'align' and 'tune': the projector on captions; then chosen layers, by LoRA or whole, with the projector."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import TrainerCallback

from vrbench.core.layers import LayerSet
from vrbench.models import components
from vrbench.training.features import Encoded
from vrbench.training.packed import PackedRows
from vrbench.training.packed_llava import Learner
from vrbench.training.recipe import GeneratedScenes, TrainRecipe
from vrbench.training.sampling import LayerSampling
from vrbench.training.trainable import core_of, groups_of, projector_of, thaw, trained_by_layer
from vrbench.training.trainer import Collate, Course, Group, Loss, fit, passes

EXTRA_SEED = 20_001  # of the choice of easy-VQA's pictures when a share of them is used


@dataclass(frozen=True)
class Lessons:
    """What a stage learns from.

    Attributes:
        samples: anything with `samples[number]`.
        collate: samples to a batch, as `vrbench.training.trainer` wants it.
        loss: sums the loss over a batch.
        order: numbers of samples, steps * batch of them.
        tokens: of the longest row.
        measure: what the lineage tells of the trained model, such as the share of dev turns that are right.
        workers: processes that get samples ready; 0 where there is nothing to do for them.
        uneven: whether some batches leave parameters without a gradient, as those without pictures do.
    """

    samples: Any
    collate: Collate
    loss: Loss
    order: NDArray[np.int64]
    tokens: int
    measure: Callable[[], Mapping[str, Any]] = dict
    workers: int = 0
    uneven: bool = False


def pocket_lessons(
    learner: Learner, data: Encoded, extra: Encoded | None, recipe: TrainRecipe, steps: int, batch: int
) -> Lessons:
    """Packed rows: those of the generated pictures that are used, and easy-VQA's share of each step behind them.

    Args:
        learner: the model; compiled if it shall be.
        data: the generated pictures.
        extra: easy-VQA's.
        recipe: whose data and seed.
        steps, batch: of the stage.
    """
    settings = recipe.data
    assert isinstance(settings, GeneratedScenes)
    main = learner.fitting(data.rows[: settings.used])
    extras = settings.easy_vqa_images(batch) if extra else 0
    rows = PackedRows.of([data, *([extra] if extra and extras else [])], learner.pad, learner.device, learner.length)
    order = main[passes(steps * (batch - extras), len(main), (recipe.seed, 1))].reshape(steps, -1)
    if extra and extras:
        others = learner.fitting(extra.rows)
        kept = max(1, round(len(others) * settings.share))
        others = np.sort(np.random.default_rng(EXTRA_SEED).permutation(others)[:kept]) + len(data.rows)
        drawn = others[passes(steps * extras, len(others), (recipe.seed, 2))].reshape(steps, -1)
        order = np.concatenate([order, drawn], axis=1)
    loss = learner.summed_loss(rows, learner.first_image_token(data.rows[0]))
    return Lessons(rows, rows.collate, loss, order.reshape(-1), rows.longest)


def align(learner: Learner, data: Encoded, recipe: TrainRecipe, state: Path | None = None) -> list[float]:
    """Train the projector alone; returns the losses."""
    settings = recipe.align
    assert settings is not None
    lessons = pocket_lessons(learner, data, None, recipe, settings.steps, settings.batch)
    groups = [Group(projector_of(learner.model), settings.lr)]
    thaw(learner.model, groups, getattr(torch, recipe.dtype))
    course = Course(
        "align", settings.steps, settings.batch, warmup=recipe.warmup, clip=recipe.clip, seed=recipe.seed,
        dtype=recipe.dtype, save_every=settings.save_every, state=state, tokens=lessons.tokens,
    )  # fmt: skip
    return _fitted(learner.model, lessons, groups, course, learner.device)


def tune(
    model: Any,
    layers: LayerSet,
    lessons: Lessons,
    recipe: TrainRecipe,
    device: torch.device,
    state: Path | None = None,
    callbacks: Sequence[TrainerCallback] = (),
) -> list[float]:
    """Train the chosen layers and the projector of a model of any family; returns the losses.

    Args:
        model: carries LoRA on the layers already, if the recipe wants that.
        layers: out of its depth; may be none.
        lessons: the data.
        recipe: with the section `tune`.
        device: where the model is.
        state: folder of the saved states.
        callbacks: more to do at each step.
    """
    settings = recipe.tune
    assert settings is not None
    groups = groups_of(model, layers, settings)
    thaw(model, groups, getattr(torch, recipe.dtype))
    if settings.checkpointing:
        _checkpoint_activations(model)
    course = Course(
        recipe.stage, len(lessons.order) // settings.batch, settings.batch, settings.accumulate, settings.schedule,
        recipe.warmup, recipe.clip, recipe.seed, recipe.dtype, settings.save_every, state, lessons.tokens,
        changing=settings.sampling is not None or lessons.uneven, workers=lessons.workers, beta2=settings.beta2,
    )  # fmt: skip
    if settings.sampling is not None:
        by_layer = trained_by_layer(model, layers, settings)
        sampling = LayerSampling(by_layer, layers, settings.sampling, settings.every, recipe.seed)
        callbacks = [sampling, *callbacks]
    return _fitted(model, lessons, groups, course, device, callbacks)


def _fitted(
    model: Any,
    lessons: Lessons,
    groups: list[Group],
    course: Course,
    device: torch.device,
    callbacks: Sequence[TrainerCallback] = (),
) -> list[float]:
    return fit(
        model, lessons.loss, lessons.samples, lessons.collate, groups, course, lessons.order, device, callbacks
    )  # fmt: skip


def _checkpoint_activations(model: Any) -> None:
    """Compute the decoder layers' activations anew in the backward pass, where they are needed at all."""
    core = core_of(model)
    enable = getattr(core, "activation_checkpointing_enable", None) or core.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    assert any(getattr(layer, "gradient_checkpointing", True) for layer in components.decoder_layers(core))
