"""The harness's own aggregates of a task, and that our figure over the samples is the same."""

from __future__ import annotations

import inspect
import math
import tempfile
from argparse import Namespace
from collections.abc import Mapping, Sequence
from typing import Any

from vrbench.core.schemas import Sample
from vrbench.tasks import metrics
from vrbench.tasks.registry import TaskSpec
from vrbench.tasks.scorers import SCORERS
from vrbench.tasks.scoring import Aggregates, ScoredDocument

TOLERANCE = 1e-9
"""Relative difference up to which our figure is the harness's."""


def named(figures: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Filter -> metric -> figure, as one mapping; named "metric,filter" as the harnesses do where filters are many."""
    several = len(figures) > 1
    return {
        f"{metric},{name}" if several else metric: value
        for name, found in figures.items()
        for metric, value in found.items()
    }


def aggregate(task: Any, documents: Sequence[ScoredDocument]) -> dict[str, float]:
    """The harness's aggregates by metric."""
    values: dict[str, list[Any]] = {}
    for document in documents:
        for name, value in document.metrics.items():
            values.setdefault(name, []).append(value)
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, function in task.aggregation().items():
            if name in values:
                takes_args = "args" in inspect.signature(function).parameters
                more = {"args": Namespace(output_path=folder)} if takes_args else {}  # it may write a report there
                found[name] = float(function(values[name], **more))
    return found


def official(adapter: Any, configs: Sequence[str], parts: Aggregates) -> dict[str, float]:
    """Each config's figures, and before them those of the whole where the harness has a group for it.

    A config without a scored document has none.
    """
    if len(configs) == 1:
        return dict(parts[0][1])
    configs = [config for config, (n, _) in zip(configs, parts, strict=True) if n]
    parts = [part for part in parts if part[0]]
    each = {
        f"{config}/{name}": value
        for config, (_, found) in zip(configs, parts, strict=True)
        for name, value in found.items()
    }
    return {**(adapter.group_figures(parts) if parts else {}), **each}


def check(spec: TaskSpec, samples: Sequence[Sample], parts: Aggregates) -> None:
    """Our figure must be the harness's own; with unscored items it cannot be, since the harness calls them wrong."""
    if any(sample.unscored for sample in samples):
        return
    scorer = SCORERS[spec.scorer]
    metric = metrics.METRICS[scorer.check]
    ours = float(metric.value(metric.statistics(samples).sum(0)))
    theirs = scorer.official(parts)
    if scorer.decimals is not None:
        ours = 100 * round(ours / 100, scorer.decimals)
    if not math.isclose(ours, theirs, rel_tol=TOLERANCE, abs_tol=TOLERANCE):
        raise RuntimeError(f"task {spec.id}: {scorer.check} is {ours!r}, but {spec.harness} says {theirs!r}")
