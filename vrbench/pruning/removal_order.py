"""One order in which layers are removed, so that every number of them can be removed from a single measurement."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError

from vrbench.checkpoints.checkpoint import Checkpoint
from vrbench.core.device import resolve_device
from vrbench.core.errors import VrbenchError, raise_errors
from vrbench.core.io import read_text, validate_output, write_atomically
from vrbench.core.schemas import SCHEMA_VERSION, Record
from vrbench.models.resolve import resolve_checkpoint
from vrbench.pruning.importance import importance
from vrbench.pruning.questions import DevQuestions
from vrbench.pruning.recipe import PruneRecipe
from vrbench.pruning.removable_layers import RemovableLayers
from vrbench.pruning.removal_methods import BLOCKS, REMOVAL_METHODS, RemovalMethod, validate_criterion


class RemovalOrder(Record):
    """Layers of one checkpoint in the order of their removal."""

    schema_version: int = Field(default=SCHEMA_VERSION, description="Version of this layout.")
    checkpoint: str = Field(description="Id of the checkpoint.")
    digest: str = Field(description="Its digest; the order is valid for no other.")
    depth: int = Field(description="Decoder layers that it has.")
    by: str = Field(description="What the order was chosen by.")
    outside_region: bool = Field(description="Whether the layers that were tuned are kept.")
    pictures: int = Field(description="Number of dev images on which it was measured.")
    turns: int = Field(description="Questions on each.")
    order: tuple[int, ...] = Field(description="The layers, the least important first.")
    values: tuple[float, ...] = Field(default=(), description="Value with 0, 1, ... removed, if measured.")
    scores: dict[int, float] = Field(default={}, description="Layer -> its value alone.")
    note: str = Field(default="", description="What the values are.")

    def describe(self, removed: int) -> str:
        """Describe how the first layers of the order were found, for a lineage."""
        order = f"removed in the order {list(self.order[:removed])}"
        if self.values:
            reached = ", ".join(f"{value:.4f}" for value in self.values[: removed + 1])
            return f"{order}; {self.note} with 0, 1, ... removed: {reached}; not healed"
        scores = ", ".join(f"{layer}: {value:.4g}" for layer, value in sorted(self.scores.items()))
        return f"{order}; {self.note} of layer {scores}; not healed"

    def save(self, file: Path) -> Path:
        """Write it as JSON; returns the file."""
        write_atomically(file, self.model_dump_json(indent=1) + "\n")
        return file


def removal_order(
    ckpt: Checkpoint,
    by: str,
    most: int,
    questions: DevQuestions,
    *,
    outside_region: bool = True,
    device: str = "auto",
) -> RemovalOrder:
    """Measure an order of removal, of which any number of first layers can be removed.

    Args:
        ckpt: the checkpoint.
        by: a key of `removal_methods.removal_criteria`, except for blocks, which need not contain each other.
        most: maximum length of the order; it is shorter when fewer layers may be removed.
        questions: on dev images, whose answers are scored.
        outside_region: whether the layers that were tuned are kept.
        device: auto, cpu or cuda.

    Raises:
        VrbenchError: the name is unknown, or the order cannot be measured with this checkpoint.
    """
    raise_errors(validate_criterion(by))
    if by in BLOCKS:
        raise VrbenchError("blocks of different lengths need not contain each other; prune each by itself with --block")
    removable = RemovableLayers.for_checkpoint(ckpt, outside_region)
    raise_errors(removable.validate_count(1))
    count = min(most, removable.most)
    measured: dict[str, Any]
    if by in REMOVAL_METHODS:
        measured = _by_trials(REMOVAL_METHODS[by], ckpt, questions, removable.layers, count, resolve_device(device))
    else:
        found = importance(by, ckpt, questions=questions, device=device)
        order = tuple(sorted(removable.layers, key=found.values.__getitem__)[:count])
        measured = {"order": order, "scores": dict(enumerate(found.values)), "note": f"{by} {found.note}"}
    return RemovalOrder(
        checkpoint=ckpt.id, digest=ckpt.digest, depth=ckpt.depth, by=by, outside_region=outside_region,
        pictures=questions.num_images, turns=questions.turns, **measured,
    )  # fmt: skip


def _by_trials(
    method: RemovalMethod, ckpt: Checkpoint, questions: DevQuestions, layers: tuple[int, ...], count: int, device: str
) -> dict[str, Any]:
    from vrbench.models.load import load_vlm
    from vrbench.pruning.loss_evaluator import LossEvaluator

    evaluator = LossEvaluator(load_vlm(ckpt, device, "float32"), questions)
    found = method.search(partial(method.measure, evaluator), method.start(evaluator), layers, count)
    return {"order": found.order, "values": found.values, "scores": found.singles, "note": method.quantity}


def order_layers(recipe: PruneRecipe, file: str | Path, device: str = "auto") -> Path:
    """Measure once in which order layers are removed, and write it; later recipes name the file as `order`.

    Args:
        recipe: whose `remove` is the maximum length of the order.
        file: JSON file to write, a `RemovalOrder`.
        device: auto, cpu or cuda.

    Raises:
        VrbenchError: the base cannot be resolved, fewer layers may be removed, or the recipe names them already.
    """
    if recipe.layers or recipe.order:
        raise VrbenchError("the removal order is measured; omit --layers and --removal-order")
    raise_errors(validate_output(Path(file), "file"))
    base = resolve_checkpoint(recipe.base)
    raise_errors(RemovableLayers.for_checkpoint(base, recipe.outside_region).validate_count(recipe.remove or 0))
    return order_of(recipe, base, device).save(Path(file))


def order_of(recipe: PruneRecipe, base: Checkpoint, device: str) -> RemovalOrder:
    """Measure the removal order of a recipe that names neither layers nor an order."""
    questions = DevQuestions(recipe.pictures, recipe.turns)
    return removal_order(
        base, recipe.by, recipe.remove or 0, questions, outside_region=recipe.outside_region, device=device
    )


def read_order(file: Path, ckpt: Checkpoint) -> RemovalOrder:
    """Read an order that was measured on a checkpoint.

    Raises:
        VrbenchError: the file cannot be read, contains no order, or that of another checkpoint.
    """
    try:
        found = RemovalOrder.model_validate_json(read_text(file))
    except OSError as error:
        raise VrbenchError(f"removal order {str(file)!r} cannot be read: {error.strerror or error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "the file"
        problem = f"removal order {str(file)!r} was not written by `vrbench prune --save-removal-order`"
        raise VrbenchError(f"{problem}: {where}: {first['msg']}") from error
    if found.digest != ckpt.digest:
        measured = f"removal order {str(file)!r} was measured on {found.checkpoint} with digest {found.digest[:12]}"
        raise VrbenchError(f"{measured}; {ckpt.id} has digest {ckpt.digest[:12]}")
    return found
