"""Layers removed one by one where the measured loss on dev pictures grows least: greedy, and honest about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from vrbench.checkpoint import Checkpoint, resolve
from vrbench.device import chosen_device
from vrbench.errors import VrbenchError
from vrbench.layers import LayerSet
from vrbench.lineage import MARKER
from vrbench.models.load import load_packed
from vrbench.models.packing import Row, pack
from vrbench.models.vlm import VLM
from vrbench.pocket.turns import turns
from vrbench.pocket.world import draw, scene
from vrbench.records import Base, Lineage, Step
from vrbench.surgery.recipe import PruneRecipe
from vrbench.writing import write_atomically

PICTURES_AT_ONCE = 32


class DevLoss:
    """The mean loss of right answers on dev pictures, in nats an answer, for a model with some layers left out."""

    def __init__(self, vlm: VLM, pictures: int, per_picture: int) -> None:
        self.vlm = vlm
        self.batches: list[tuple[list[Row], dict[int, list[int]], dict[int, torch.Tensor]]] = []
        for start in range(0, pictures, PICTURES_AT_ONCE):
            self._add(range(start, min(pictures, start + PICTURES_AT_ONCE)), per_picture)

    def _add(self, numbers: Sequence[int], per_picture: int) -> None:
        scenes = [scene("dev", i) for i in numbers]
        projected = self.vlm.project(self.vlm.encode_images([Image.fromarray(draw(of)) for of in scenes]))
        sequences: list[list[int]] = []
        targets: dict[int, list[int]] = {}
        for slot, of in enumerate(scenes):
            for turn in turns(of, per_picture):
                asked = self.vlm.encode(self.vlm.prompt(turn.prompt, 1), [slot])
                said = self.vlm.tokenizer(turn.answer, add_special_tokens=False)["input_ids"] + [self.vlm.end_of_text]
                targets[len(sequences)] = said
                sequences.append([*asked, *said[:-1]])
        self.batches.append((pack(sequences), targets, dict(enumerate(projected))))

    def without(self, removed: Sequence[int]) -> float:
        """The loss with these layers left out."""
        with left_out(self.vlm, removed):
            logs = [log for batch in self.batches for log, _ in self.vlm.loglikelihood(*batch).values()]
        return -float(np.mean(logs))


@contextmanager
def left_out(vlm: VLM, removed: Sequence[int]) -> Iterator[None]:
    """The model without some layers, for passes that keep no cache; whole again afterwards."""
    decoder = vlm.language_model
    whole = decoder.layers
    decoder.layers = torch.nn.ModuleList(layer for i, layer in enumerate(whole) if i not in removed)
    try:
        yield
    finally:
        decoder.layers = whole


def choose(loss: DevLoss, candidates: Sequence[int], count: int) -> tuple[list[int], list[float]]:
    """The layers to remove, first the least missed, and the loss with none, one, two, ... of them removed.

    Args:
        loss: measures.
        candidates: layers that may go.
        count: how many go.
    """
    removed: list[int] = []
    losses = [loss.without([])]
    for _ in range(count):
        rest = [layer for layer in candidates if layer not in removed]
        tried = {layer: loss.without([*removed, layer]) for layer in tqdm(rest, desc="layers tried", unit="layer")}
        best = min(tried, key=tried.__getitem__)
        removed.append(best)
        losses.append(tried[best])
    return removed, losses


def prune_by_loss(recipe: PruneRecipe, out: Path, device: str) -> Path:
    """See `vrbench.surgery.prune`."""
    where = chosen_device(device)
    if (out / MARKER).exists():
        raise VrbenchError(f"{out} already holds a checkpoint; name another folder, or remove it")
    base = resolve(recipe.base)
    candidates = _candidates(base, recipe.outside_region)
    most = min(len(candidates), base.depth - 1)  # one layer must stay
    if recipe.remove > most:
        raise VrbenchError(f"{recipe.remove} layers are to go, but of {base.depth} only {most} may")
    vlm = load_packed(base, where, "float32")
    removed, losses = choose(DevLoss(vlm, recipe.pictures, recipe.turns), candidates, recipe.remove)
    return _write(recipe, out, base, removed, losses)


def _candidates(base: Checkpoint, outside_region: bool) -> list[int]:
    """All layers, or those that no training step of the checkpoint's own touched."""
    steps = base.lineage[0].steps if base.lineage and outside_region else ()
    trained = [LayerSet.parse(step.layers, step.depth) for step in steps if step.kind == "trained"]
    tuned = {layer for layers in trained for layer in layers}
    return [layer for layer in range(base.depth) if layer not in tuned]


def _write(recipe: PruneRecipe, out: Path, base: Checkpoint, removed: list[int], losses: list[float]) -> Path:
    measured = ", ".join(f"{value:.4f}" for value in losses)
    step = Step(
        kind="pruned", layers=str(LayerSet.of(removed, base.depth)), depth=base.depth, method=recipe.by,
        recipe_digest=recipe.digest,
        note=f"removed in the order {removed}; dev loss with 0, 1, ... removed: {measured} nats an answer; not healed",
    )  # fmt: skip
    lineage = Lineage(
        id=recipe.makes, family=base.family, depth=base.depth - len(removed), steps=(step,),
        base=Base(id=recipe.base, digest=base.digest), licence=base.lineage[0].licence if base.lineage else "",
    )  # fmt: skip
    write_atomically(out / "recipe.yaml", recipe.text())
    write_atomically(out / MARKER, lineage.model_dump_json(indent=1) + "\n")
    return out
