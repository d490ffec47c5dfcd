"""Edits of a base's decoder layers when a checkpoint is loaded: layers removed or restored, with what they need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from vrbench.checkpoints.checkpoint import Checkpoint, LayerEdit
from vrbench.checkpoints.lineage import AppliedSteps
from vrbench.checkpoints.overlay_validation import checkpoint_shapes, edited_shapes
from vrbench.checkpoints.parameter_names import compare_shapes, layer_index
from vrbench.core.layers import LayerSet


def resolve_edits(
    steps: AppliedSteps, base: Checkpoint, resolve: Callable[[str], tuple[Checkpoint | None, list[str]]]
) -> tuple[tuple[LayerEdit, ...], list[str]]:
    """Return the steps with the backbone of every restored layer, and every error.

    Args:
        steps: without errors.
        base: whose layers are edited.
        resolve: a backbone's name -> the backbone or None, and errors.
    """
    edits: list[LayerEdit] = []
    errors: list[str] = []
    for step, layers in steps.edits:
        if step.backbone is None:
            edits.append(LayerEdit("pruned", layers))
            continue
        backbone, found = resolve(step.backbone.id)
        errors += found
        if backbone is None:
            continue
        if backbone.digest != step.backbone.digest:
            made, here = step.backbone.digest[:12], backbone.digest[:12]
            errors.append(f"layers {layers} are from another {step.backbone.id}: its digest was {made}, now {here}")
            continue
        edit, found = plan_restore(base, tuple(edits), layers, backbone)
        edits.append(edit)
        errors += found
    return tuple(edits), errors


def plan_restore(
    base: Checkpoint, before: tuple[LayerEdit, ...], layers: LayerSet, backbone: Checkpoint
) -> tuple[LayerEdit, list[str]]:
    """Return the edit that restores layers to a backbone's weights, and every reason why that is impossible.

    A layer gets the weights of the layer that it was before any was removed.

    Args:
        base: whose layers are restored.
        before: the edits that come first.
        layers: counted in the depth at that point.
        backbone: with layers of the same shapes.
    """
    numbers = list(base.origins.numbers)
    for edit in before:
        if edit.kind == "pruned":
            numbers = [number for i, number in enumerate(numbers) if i not in edit.layers]
    origins = backbone.origins
    if origins.first_depth != base.origins.first_depth:
        return LayerEdit("restored", layers, backbone), [
            f"{backbone.id} was made with {origins.first_depth} decoder layers, {base.id} with "
            f"{base.origins.first_depth}; which of them correspond is unknown"
        ]
    absent = [i for i in layers if numbers[i] not in origins.numbers]
    if absent:
        was = ", ".join(f"{i} (once {numbers[i]})" for i in absent)
        return LayerEdit("restored", layers, backbone), [f"{backbone.id} lacks layers of {base.id} to restore: {was}"]
    edit = LayerEdit("restored", layers, backbone, tuple(origins.numbers.index(numbers[i]) for i in layers))
    return edit, _compare_restored(base, before, edit)


def _compare_restored(base: Checkpoint, before: tuple[LayerEdit, ...], edit: LayerEdit) -> list[str]:
    assert edit.backbone is not None
    below, shapes = edited_shapes(checkpoint_shapes(base), before), checkpoint_shapes(edit.backbone)
    errors: list[str] = []
    for layer, source in zip(edit.layers, edit.sources, strict=True):
        where = f"layers.{layer}."
        have = {n.replace(f"layers.{source}.", where, 1): s for n, s in shapes.items() if layer_index(n) == source}
        want = {name: shape for name, shape in below.items() if layer_index(name) == layer}
        errors += compare_shapes(f"layer {source} of {edit.backbone.id}", have, want, list_all=True)
    return errors


def base_digests(base: Checkpoint, edits: tuple[LayerEdit, ...]) -> dict[str, Any]:
    """Return the digests below a layered folder's own weights, as its digest covers them."""
    found: dict[str, Any] = {"base": base.digest, "removed": [str(e.layers) for e in edits if e.kind == "pruned"]}
    restored = [[i, str(edit.layers), edit.backbone.digest] for i, edit in enumerate(edits) if edit.backbone]
    return {**found, "restored": restored} if restored else found
