"""One order in which layers go, so that every number of them can be removed from a single measurement."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from pydantic import Field, ValidationError

from vrbench.checkpoints.resolve import Checkpoint, resolve
from vrbench.core.device import resolve_device
from vrbench.core.errors import VrbenchError, raise_errors
from vrbench.core.io import read_text, validate_output, write_atomically
from vrbench.core.schemas import SCHEMA_VERSION, Record
from vrbench.pruning.importance import importance
from vrbench.pruning.names import BLOCK, MEASURED, by_faults
from vrbench.pruning.recipe import PruneRecipe
from vrbench.pruning.removable_layers import Candidates, candidates_of


class RemovalOrder(Record):
    """Layers of one checkpoint in the order in which they go."""

    schema_version: int = Field(default=SCHEMA_VERSION, description="Version of this layout.")
    checkpoint: str = Field(description="Id of the checkpoint.")
    digest: str = Field(description="Its digest; the order is of no other.")
    depth: int = Field(description="Decoder layers that it has.")
    by: str = Field(description="What the order was chosen by.")
    outside_region: bool = Field(description="Whether the layers that were tuned stay.")
    pictures: int = Field(description="Dev pictures on which it was measured.")
    turns: int = Field(description="Questions on each.")
    order: tuple[int, ...] = Field(description="The layers, the least missed first.")
    values: tuple[float, ...] = Field(default=(), description="What is reached with 0, 1, ... removed, if measured.")
    scores: dict[int, float] = Field(default={}, description="Layer -> what it scored by itself.")
    note: str = Field(default="", description="What the figures are.")

    def told(self, removed: int) -> str:
        """How the first layers of the order were found, for a lineage."""
        order = f"removed in the order {list(self.order[:removed])}"
        if self.values:
            reached = ", ".join(f"{value:.4f}" for value in self.values[: removed + 1])
            return f"{order}; {self.note} with 0, 1, ... removed: {reached}; not healed"
        scores = ", ".join(f"{layer}: {value:.4g}" for layer, value in sorted(self.scores.items()))
        return f"{order}; {self.note} of layer {scores}; not healed"


def removal_order(
    ckpt: Checkpoint,
    by: str,
    most: int,
    *,
    outside_region: bool = True,
    pictures: int = 200,
    turns: int = 6,
    device: str = "auto",
) -> RemovalOrder:
    """The order in which layers go, of which any number's first ones can then be removed.

    Args:
        ckpt: the checkpoint.
        by: a name of `vrbench.pruning.names.BY`, but no block: blocks of different lengths need not contain each other.
        most: how many layers the order shall have at most; fewer when fewer may go.
        outside_region: whether the layers that were tuned stay.
        pictures, turns: of the dev split, and questions on each.
        device: auto, cpu or cuda.

    Raises:
        VrbenchError: no such name, or the order cannot be measured with this checkpoint.
    """
    raise_errors(by_faults(by))
    if by == BLOCK:
        raise VrbenchError("blocks of different lengths need not contain each other; prune each with --block by itself")
    candidates = candidates_of(ckpt, outside_region)
    raise_errors(candidates.number_faults(1))
    count = min(most, candidates.most)
    head = RemovalOrder(
        checkpoint=ckpt.id, digest=ckpt.digest, depth=ckpt.depth, by=by, outside_region=outside_region,
        pictures=pictures, turns=turns, order=(),
    )  # fmt: skip
    if by in MEASURED:
        return _measured(head, ckpt, candidates, count, resolve_device(device))
    found = importance(by, ckpt, pictures=pictures, turns=turns, device=device)
    order = sorted(candidates.layers, key=found.values.__getitem__)[:count]
    scores = dict(enumerate(found.values))
    return head.model_copy(update={"order": tuple(order), "scores": scores, "note": f"{by} {found.note}"})


def _measured(head: RemovalOrder, ckpt: Checkpoint, candidates: Candidates, count: int, device: str) -> RemovalOrder:
    """The order by trying layers on dev pictures."""
    from vrbench.models.load import load_vlm
    from vrbench.pruning.loss_evaluator import dev_of
    from vrbench.pruning.predict import MEASURES
    from vrbench.pruning.removal_methods import WAYS

    choice = MEASURED[head.by]
    measure = MEASURES[choice.measure]
    dev = dev_of(load_vlm(ckpt, device, "float32"), head.pictures, head.turns)
    found = WAYS[choice.way](partial(measure.each, dev), measure.whole(dev), candidates.layers, count)
    note = f"dev {choice.measure} ({measure.unit})"
    return head.model_copy(update={"order": found.order, "values": found.values, "scores": found.singles, "note": note})


def order_layers(recipe: PruneRecipe, file: Path, device: str) -> Path:
    """See `vrbench.pruning.order_layers`."""
    if recipe.layers or recipe.order:
        raise VrbenchError("an order is to be measured; --layers and --order name the layers already")
    raise_errors(validate_output(file, "file"))
    base = resolve(recipe.base)
    count = recipe.remove or 0
    raise_errors(candidates_of(base, recipe.outside_region).number_faults(count))
    order = removal_order(
        base, recipe.by, count, outside_region=recipe.outside_region, pictures=recipe.pictures, turns=recipe.turns,
        device=device,
    )  # fmt: skip
    return save_order(order, file)


def save_order(order: RemovalOrder, file: Path) -> Path:
    """Write an order as JSON; returns the file."""
    write_atomically(file, order.model_dump_json(indent=1) + "\n")
    return file


def read_order(file: Path, ckpt: Checkpoint) -> RemovalOrder:
    """The order in a file, held to the checkpoint that it was measured on.

    Raises:
        VrbenchError: it cannot be read, is no order, or is another checkpoint's.
    """
    try:
        found = RemovalOrder.model_validate_json(read_text(file))
    except OSError as error:
        raise VrbenchError(f"order {str(file)!r} cannot be read: {error.strerror or error}") from error
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"]) or "it"
        raise VrbenchError(
            f"order {str(file)!r} is no file of `vrbench prune --save-order`: {where}: {fault['msg']}"
        ) from error
    if found.digest != ckpt.digest:
        made, here = found.digest[:12], ckpt.digest[:12]
        raise VrbenchError(
            f"order {str(file)!r} is of {found.checkpoint} with digest {made}; {ckpt.id} has the digest {here}"
        )
    return found
