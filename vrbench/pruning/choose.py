"""Choosing layers by a strategy or by importance, with its file, table and plot (no torch)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field

from vrbench.checkpoints.checkpoint import Checkpoint
from vrbench.core.errors import VrbenchError, collect_errors, raise_errors, suggest_names
from vrbench.core.io import validate_output, write_atomically
from vrbench.core.layers import STRATEGIES, LayerSet
from vrbench.core.schemas import BaseRef, Record
from vrbench.models.resolve import resolve_backbone, resolve_checkpoint
from vrbench.pruning.importance import score_layers
from vrbench.pruning.importance_methods import IMPORTANCE_METHODS, ImportanceMethod
from vrbench.pruning.questions import DESCRIBE, DevQuestions, FolderQuestions, Questions
from vrbench.pruning.scoring_context import ScoringContext
from vrbench.reporting import plot_style

LAYERS_VERSION = 1
PLOT_SUFFIXES = (".png", ".svg")
CHOSEN, OTHER = plot_style.COLOURS[0], "#b8c4cc"


class ChosenLayers(Record):
    """A layer set and how it was chosen: what `vrbench layers --out` saves and `select_layers` reads."""

    schema_version: int = Field(default=LAYERS_VERSION, description="Version of this layout.")
    strategy: str = Field(description="Name of a layer strategy or of an importance score.")
    depth: int = Field(description="Decoder layers of the model.")
    indices: tuple[int, ...] = Field(description="The layers, ascending.")
    layers: str = Field(description="The same as text, as recipes and commands take it.")
    scores: tuple[float, ...] = Field(default=(), description="Importance of each layer, larger for what matters more.")
    ckpt: BaseRef | None = Field(default=None, description="The tuned checkpoint that was measured.")
    base: BaseRef | None = Field(default=None, description="What its weights were compared with.")
    note: str = Field(default="", description="What it was measured on, or the seed of a draw.")


def choose(
    strategy: str,
    n: int,
    *,
    ckpt: str | None = None,
    base: str | None = None,
    depth: int | None = None,
    num_images: int = 200,
    turns: int | None = None,
    images: Path | None = None,
    prompt: str | None = None,
    seed: int | None = None,
    device: str = "auto",
    dtype: str = "float32",
    out: Path | None = None,
    plot: Path | None = None,
) -> ChosenLayers:
    """Choose n layers by a strategy, or those with the largest importance; of equal ones the lower.

    Args:
        strategy: key of `STRATEGIES` or of `IMPORTANCE_METHODS`.
        n: number of layers.
        ckpt: the tuned checkpoint, which a score needs; a strategy takes the depth from it.
        base: as in `importance`, by name.
        depth: decoder layers, for a strategy without a checkpoint.
        seed: of strategies that draw, and of the draw among a folder's images; else 0.
        num_images: number of dev images of the pocket world, or maximum number of `images`.
        turns: questions on each dev image; else the method's own number.
        images: a folder with the user's images, instead of dev images.
        prompt: for each of them.
        device, dtype: as in `importance`.
        out: file to save them in.
        plot: file for a plot of the scores.

    Raises:
        VrbenchError: every invalid input, all together, before weights are loaded.
    """
    if strategy not in STRATEGIES and strategy not in IMPORTANCE_METHODS:
        hint = suggest_names(strategy, [*STRATEGIES, *IMPORTANCE_METHODS])
        raise VrbenchError(f"strategy {strategy!r} is unknown; {hint}")
    method = IMPORTANCE_METHODS.get(strategy)
    errors: list[str] = []
    tuned = None
    with collect_errors(errors):
        tuned = None if ckpt is None else resolve_checkpoint(ckpt, any_model=method is None)
    errors += _depth_errors(strategy, n, tuned, depth, named=ckpt is not None) + _output_errors(strategy, out, plot)
    if method is None:
        raise_errors(errors)
        made = _by_strategy(strategy, n, tuned.depth if tuned else depth or 0, tuned, seed)
    else:
        questions: Questions = DevQuestions(num_images, method.turns if turns is None else turns)
        if images is not None:
            questions = FolderQuestions(images, num_images, prompt or DESCRIBE, seed or 0)
        made = _by_importance(method, n, tuned, base, questions, device, dtype, errors)
    if out is not None:
        write_atomically(out, made.model_dump_json(indent=1) + "\n")
    if plot is not None:
        write_plot(made, plot)
    return made


def _by_importance(
    method: ImportanceMethod, n: int, tuned: Checkpoint | None, base: str | None, questions: Questions, device: str,
    dtype: str, errors: list[str],
) -> ChosenLayers:  # fmt: skip
    """Measure the layers; raises the errors that were found before together with its own."""
    reference, before = None, len(errors)
    with collect_errors(errors):
        reference = resolve_backbone(base) if base is not None and "base" in method.needs else None
    if tuned is not None and len(errors) == before:
        context = ScoringContext(tuned, reference, questions, device, dtype)
        errors += context.validate(method.name, method.needs)
    raise_errors(errors)
    found, depth = score_layers(method.name, context), context.ckpt.depth
    layers = LayerSet.of(sorted(range(depth), key=lambda layer: -found.values[layer])[:n], depth)
    compared = context.tuned_from if "base" in method.needs else None
    return _chosen(method.name, layers, context.ckpt, base=_reference(compared), scores=found.values, note=found.note)


def _by_strategy(name: str, n: int, depth: int, ckpt: Checkpoint | None, seed: int | None) -> ChosenLayers:
    note = f"drawn with seed {seed or 0}" + ("" if seed is not None else ", since none was named")
    layers = STRATEGIES[name](n, depth, seed or 0)
    return _chosen(name, layers, ckpt, note=note if STRATEGIES[name].seeded else "")


def _chosen(strategy: str, layers: LayerSet, ckpt: Checkpoint | None, **more: Any) -> ChosenLayers:
    return ChosenLayers(
        strategy=strategy, depth=layers.depth, indices=layers.indices, layers=str(layers), ckpt=_reference(ckpt), **more
    )


def _reference(checkpoint: Checkpoint | None) -> BaseRef | None:
    return BaseRef(id=checkpoint.id, digest=checkpoint.digest) if checkpoint else None


def _output_errors(strategy: str, out: Path | None, plot: Path | None) -> list[str]:
    found = []
    if out is not None and out.suffix != ".json":
        found.append(f"out is {str(out)!r}; the file of a layer set ends in .json")
    if plot is not None and plot.suffix not in PLOT_SUFFIXES:
        found.append(f"plot is {str(plot)!r}; a plot ends in {' or '.join(PLOT_SUFFIXES)}")
    if plot is not None and strategy in STRATEGIES:
        found.append(f"{strategy} has no scores to plot; omit --plot")
    return found + [error for file in (out, plot) if file is not None for error in validate_output(file, "file")]


def _depth_errors(strategy: str, n: int, ckpt: Checkpoint | None, depth: int | None, named: bool) -> list[str]:
    """Return why the number of layers does not fit the depth, or the depth is unknown."""
    found = []
    if strategy in IMPORTANCE_METHODS and not named:
        found.append(f"{strategy} is measured on a tuned checkpoint; name it with --ckpt, such as pocket/full")
    elif depth is None and not named:
        found.append(f"{strategy} needs the number of layers; give --depth, or a checkpoint with --ckpt")
    if depth is not None and depth < 1:
        found.append(f"depth is {depth}; it must be at least 1")
    elif ckpt and depth is not None and depth != ckpt.depth:
        found.append(f"depth is {depth}, but {ckpt.id} has {ckpt.depth} decoder layers; omit --depth")
    deep = ckpt.depth if ckpt else depth
    if n < 1 or (deep is not None and deep >= 1 and n > deep):
        allowed = f"a model of depth {deep} has 1 to {deep}" if deep else "it must be at least 1"
        found.append(f"{n} layers were requested; {allowed}")
    return found


def as_text(chosen: ChosenLayers) -> str:
    """Return the set as a recipe takes it, how it was chosen, and each layer's score with its rank, if it has one."""
    from tabulate import tabulate

    note = f", {chosen.note}" if chosen.note else ""
    lines = [
        f"{len(chosen.indices)} of {chosen.depth} layers by {chosen.strategy}{note}",
        f"in a recipe: --set tune.layers={chosen.layers}",
    ]
    if chosen.scores:
        order = sorted(range(chosen.depth), key=lambda layer: -chosen.scores[layer])
        rows = [
            (layer, f"{score:.6g}", order.index(layer) + 1, "*" if layer in chosen.indices else "")
            for layer, score in enumerate(chosen.scores)
        ]
        lines += ["", tabulate(rows, ("layer", "score", "rank", "chosen"), "simple")]
    return "\n".join(lines)


def write_plot(chosen: ChosenLayers, file: Path) -> None:
    """Write a bar chart of all layers' scores with the chosen layers highlighted, reproducible to the byte."""
    with plot_style.use_theme():
        figure, axes = plot_style.new_figure(8, 3.2)
        colours = [CHOSEN if layer in chosen.indices else OTHER for layer in range(chosen.depth)]
        axes.bar(range(chosen.depth), chosen.scores, color=colours)
        axes.set(xlabel="decoder layer", ylabel=chosen.strategy)
        axes.set_title(f"{len(chosen.indices)} of {chosen.depth} layers: {chosen.layers}", loc="left")
        write_atomically(file, plot_style.encode_figure(figure, file.suffix[1:]))
