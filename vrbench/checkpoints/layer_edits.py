"""What is done to a base's decoder layers when a layered checkpoint is loaded: layers removed, layers restored."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from vrbench.checkpoints import overlay_validation
from vrbench.checkpoints.lineage import Followed
from vrbench.core.layers import LayerSet

if TYPE_CHECKING:
    from vrbench.checkpoints.resolve import Checkpoint


@dataclass(frozen=True)
class Change:
    """What is done to the base's decoder layers when a layered checkpoint is loaded.

    Attributes:
        kind: "pruned": the layers go; "restored": they get the backbone's weights.
        layers: counted in the depth that the changes before left.
        backbone: whose weights restored layers get.
        sources: for each restored layer, which of the backbone's it is.
    """

    kind: Literal["pruned", "restored"]
    layers: LayerSet
    backbone: Checkpoint | None = None
    sources: tuple[int, ...] = ()


def changes_of(
    steps: Followed, base: Checkpoint, inspect: Callable[[str], tuple[Checkpoint | None, list[str]]]
) -> tuple[tuple[Change, ...], list[str]]:
    """The steps with what they need at hand: the backbone of every restoring, checked; and every fault.

    Args:
        steps: without faults.
        base: whose layers are changed.
        inspect: a backbone's name -> the backbone, or why it cannot be had.
    """
    changes: list[Change] = []
    found: list[str] = []
    for step, layers in steps.changes:
        if step.backbone is None:
            changes.append(Change("pruned", layers))
            continue
        backbone, faults = inspect(step.backbone.id)
        found += faults
        if backbone is None:
            continue
        if backbone.digest != step.backbone.digest:
            made, here = step.backbone.digest[:12], backbone.digest[:12]
            found.append(f"layers {layers} are from another {step.backbone.id}: its digest was {made}, now {here}")
            continue
        change, unfit = restoring(base, tuple(changes), layers, backbone)
        changes.append(change)
        found += unfit
    return tuple(changes), found


def restoring(
    base: Checkpoint, before: tuple[Change, ...], layers: LayerSet, backbone: Checkpoint
) -> tuple[Change, list[str]]:
    """Layers of a base put back to a backbone's weights, and every reason why that cannot be.

    A layer gets the weights of the layer that it was before any was removed.

    Args:
        base: whose layers are restored.
        before: what is done to it first.
        layers: counted in the depth that is there then.
        backbone: with layers of the same shapes.
    """
    numbers = list(base.origins.numbers)
    for change in before:
        if change.kind == "pruned":
            numbers = [number for i, number in enumerate(numbers) if i not in change.layers]
    theirs = backbone.origins
    if theirs.first_depth != base.origins.first_depth:
        depths = f"{backbone.id} was made with {theirs.first_depth} decoder layers, {base.id} with"
        fault = f"{depths} {base.origins.first_depth}; which of them belong together cannot be told"
        return Change("restored", layers, backbone), [fault]
    absent = [i for i in layers if numbers[i] not in theirs.numbers]
    if absent:
        was = ", ".join(f"{i} (once {numbers[i]})" for i in absent)
        return Change("restored", layers, backbone), [f"{backbone.id} lacks layers of {base.id} to restore: {was}"]
    change = Change("restored", layers, backbone, tuple(theirs.numbers.index(numbers[i]) for i in layers))
    return change, overlay_validation.restored_faults(base, before, change)


def what_lies_below(base: Checkpoint, changes: tuple[Change, ...]) -> dict[str, Any]:
    """What lies below a layered folder's own weights, as its digest covers it."""
    found: dict[str, Any] = {"base": base.digest, "removed": [str(c.layers) for c in changes if c.kind == "pruned"]}
    restored = [
        [place, str(change.layers), change.backbone.digest] for place, change in enumerate(changes) if change.backbone
    ]
    return {**found, "restored": restored} if restored else found
