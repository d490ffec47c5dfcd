"""Layers chosen by a strategy, a heuristic or a score of a tuned model, and the file that says how (no torch)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from vrbench.checkpoints.resolve import Checkpoint, resolve, resolve_backbone
from vrbench.core.errors import VrbenchError, error_messages, raise_errors, suggest_names
from vrbench.core.io import validate_output, write_atomically
from vrbench.core.layers import RANDOM, STRATEGIES, LayerSet, random_layers
from vrbench.core.schemas import BaseRef, Record
from vrbench.pruning.importance import SCORES, measured, questions_of, subject_of
from vrbench.pruning.questions import DESCRIBE
from vrbench.pruning.showing import FORMS, write_plot

if TYPE_CHECKING:
    from vrbench.pruning.scoring_context import Subject

LAYERS_VERSION = 1


class ChosenLayers(Record):
    """A layer set with how it was made: what `vrbench layers --out` saves and `select_layers` reads."""

    schema_version: int = Field(default=LAYERS_VERSION, description="Version of this layout.")
    strategy: str = Field(description="Key of `vrbench.core.layers.STRATEGIES` or `vrbench.pruning.importance.SCORES`.")
    depth: int = Field(description="Decoder layers of the model that they are out of.")
    indices: tuple[int, ...] = Field(description="The layers, ascending.")
    layers: str = Field(description="The same as text, as recipes and commands take it.")
    scores: tuple[float, ...] = Field(default=(), description="Of each layer of a score, larger for what matters more.")
    ckpt: BaseRef | None = Field(default=None, description="The tuned checkpoint that was measured.")
    base: BaseRef | None = Field(default=None, description="What its weights were compared with.")
    blocks: tuple[tuple[float, ...], ...] = Field(
        default=(), description="Angular distance over the block of n layers from layer l on, at [n - 1][l]."
    )
    note: str = Field(default="", description="On what it was measured, or the seed of a draw.")

    def save(self, file: Path) -> None:
        """Write it as JSON."""
        write_atomically(file, self.model_dump_json(indent=1) + "\n")


def choose(
    strategy: str,
    n: int,
    *,
    ckpt: str | None = None,
    base: str | None = None,
    depth: int | None = None,
    pictures: int = 200,
    turns: int | None = None,
    images: Path | None = None,
    prompt: str | None = None,
    seed: int | None = None,
    device: str = "auto",
    dtype: str = "float32",
    blocks: int = 0,
    out: Path | None = None,
    plot: Path | None = None,
) -> ChosenLayers:
    """n layers by a strategy; by a score, those with the largest values, of equal ones the lower.

    Args:
        strategy: key of `vrbench.core.layers.STRATEGIES` or `vrbench.pruning.importance.SCORES`.
        n: how many layers.
        ckpt: the tuned checkpoint, which a score needs; a heuristic takes the depth from it.
        base: as in `importance`, by name.
        depth: decoder layers, for a heuristic without a checkpoint.
        seed: of "random", and of the draw among a folder's pictures; else 0.
        pictures, turns, images, prompt, device, dtype: as in `vrbench.pruning.importance.importance`.
        blocks: with "angular", also the distance over every block of 1 to so many consecutive layers.
        out: file to save them in.
        plot: file for a plot of the scores.

    Raises:
        VrbenchError: every fault of what was given, at once, before weights are loaded.
    """
    if strategy not in STRATEGIES and strategy not in SCORES:
        raise VrbenchError(f"strategy {strategy!r} is unknown; {suggest_names(strategy, [*STRATEGIES, *SCORES])}")
    tuned, found = _checkpoint(ckpt, fitted=strategy in SCORES)
    found += _depth_faults(strategy, n, tuned, depth, named=ckpt is not None) + _file_faults(strategy, out, plot)
    found += _block_faults(strategy, blocks, tuned)
    if strategy in STRATEGIES:
        raise_errors(found)
        made = _heuristic(strategy, n, tuned.depth if tuned else depth or 0, tuned, seed)
    else:
        theirs, more = _base(base) if SCORES[strategy].needs_base else (None, [])
        found += more
        questions = questions_of(strategy, pictures, turns, images, prompt or DESCRIBE, seed or 0)
        subject = subject_of(tuned, theirs, questions, device, dtype) if tuned else None
        raise_errors([*found, *(subject.faults(strategy, SCORES[strategy]) if subject and not more else ())])
        assert subject is not None  # or there would have been a fault
        made = _by_score(strategy, n, subject, blocks)
    if out is not None:
        made.save(out)
    if plot is not None:
        write_plot(made, plot)
    return made


def _by_score(strategy: str, n: int, subject: Subject, blocks: int) -> ChosenLayers:
    found = measured(strategy, subject)
    best = sorted(range(subject.ckpt.depth), key=lambda layer: -found.values[layer])[:n]
    against = subject.tuned_from if SCORES[strategy].needs_base else None
    made = _chosen(strategy, LayerSet.of(best, subject.ckpt.depth), found.note, found.values, subject.ckpt, against)
    if not blocks:
        return made
    from vrbench.pruning.angular import block_distances

    return made.model_copy(update={"blocks": tuple(map(tuple, block_distances(subject.samples, blocks)))})


def _heuristic(strategy: str, n: int, depth: int, ckpt: Checkpoint | None, seed: int | None) -> ChosenLayers:
    if strategy != RANDOM:
        return _chosen(strategy, STRATEGIES[strategy](n, depth), ckpt=ckpt)
    note = f"drawn with seed {seed or 0}" + ("" if seed is not None else ", since none was named")
    return _chosen(strategy, random_layers(n, depth, seed or 0), note, ckpt=ckpt)


def _chosen(
    strategy: str, layers: LayerSet, note: str = "", scores: tuple[float, ...] = (), ckpt: Checkpoint | None = None,
    base: Checkpoint | None = None,
) -> ChosenLayers:  # fmt: skip
    named, against = (BaseRef(id=of.id, digest=of.digest) if of else None for of in (ckpt, base))
    return ChosenLayers(
        strategy=strategy, depth=layers.depth, indices=layers.indices, layers=str(layers), scores=scores, ckpt=named,
        base=against, note=note,
    )  # fmt: skip


def _checkpoint(name: str | None, fitted: bool) -> tuple[Checkpoint | None, list[str]]:
    if name is None:
        return None, []
    try:
        return resolve(name, fitted=fitted), []
    except VrbenchError as fault:
        return None, error_messages(fault)


def _base(name: str | None) -> tuple[Checkpoint | None, list[str]]:
    if name is None:
        return None, []
    try:
        return resolve_backbone(name), []
    except VrbenchError as fault:
        return None, error_messages(fault)


def _file_faults(strategy: str, out: Path | None, plot: Path | None) -> list[str]:
    """Why the files cannot be what was asked for."""
    found = []
    if out is not None and out.suffix != ".json":
        found.append(f"out is {str(out)!r}; a layer set is known by the ending .json")
    if plot is not None and plot.suffix not in FORMS:
        found.append(f"plot is {str(plot)!r}; a plot ends in {' or '.join(FORMS)}")
    if plot is not None and strategy in STRATEGIES:
        found.append(f"{strategy} has no scores to plot; leave --plot away")
    return found + [fault for file in (out, plot) if file is not None for fault in validate_output(file, "file")]


def _block_faults(strategy: str, blocks: int, ckpt: Checkpoint | None) -> list[str]:
    """Why there are no blocks of so many layers."""
    if blocks and strategy != "angular":
        return [f"blocks are measured by angular, not by {strategy}; leave --blocks away"]
    if blocks < 0 or (ckpt and blocks > ckpt.depth):
        most = f"; {ckpt.id} has {ckpt.depth}" if ckpt else ""
        return [f"blocks of {blocks} layers were asked for{most}"]
    return []


def _depth_faults(strategy: str, n: int, ckpt: Checkpoint | None, depth: int | None, named: bool) -> list[str]:
    """Why the number of layers does not fit the depth, or there is none."""
    found = []
    if strategy in SCORES and not named:
        found.append(f"{strategy} is measured on a tuned checkpoint; name it with --ckpt, such as pocket/full")
    elif depth is None and not named:
        found.append(f"{strategy} needs to know how many layers there are; name --depth, or a checkpoint with --ckpt")
    if depth is not None and depth < 1:
        found.append(f"depth is {depth}; it must be at least 1")
    elif ckpt and depth is not None and depth != ckpt.depth:
        found.append(f"depth is {depth}, but {ckpt.id} has {ckpt.depth} decoder layers; leave --depth away")
    deep = ckpt.depth if ckpt else depth
    if n < 1 or (deep is not None and deep >= 1 and n > deep):
        allowed = f"a model of depth {deep} gives 1 to {deep}" if deep else "it must be at least 1"
        found.append(f"{n} layers were asked for; {allowed}")
    return found
