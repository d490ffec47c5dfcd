"""Dev pictures as a model reads them: the loss of right answers without some layers, and the greedy choice by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from vrbench.layers import LayerSet
from vrbench.models import anatomy
from vrbench.models.packing import Row, pack
from vrbench.models.prune import setting_changes
from vrbench.models.vlm import VLM
from vrbench.pocket.turns import turns
from vrbench.pocket.world import draw, scene

PICTURES_AT_ONCE = 32
ROWS_AT_ONCE = 8


class Dev(Protocol):
    """Dev pictures with questions and their right answers, as a model reads them.

    Attributes:
        vlm: the model.
        samples: how many answers there are.
    """

    vlm: Any
    samples: int

    def loss(self) -> float:
        """The mean loss of the right answers, in nats an answer."""

    def passes(self) -> Iterator[tuple[list[torch.Tensor], Callable[[], object]]]:
        """What each token of each row of a pass counts in a mean over samples, [tokens] a row; and the pass."""


def dev_of(vlm: Any, pictures: int, per_picture: int) -> Dev:
    """Dev pictures for a model: rows that share what is alike where its family's prompts can be packed."""
    if isinstance(vlm, VLM):
        return DevLoss(vlm, pictures, per_picture)
    from vrbench.surgery.plain import PlainLoss

    return PlainLoss(vlm, pictures, per_picture)


class DevLoss:
    """`Dev` in packed rows.

    Attributes:
        batches: (rows, sequence number -> token ids of its answer, slot -> the picture's projected features), the
            arguments of `VLM.loglikelihood`.
    """

    def __init__(self, vlm: VLM, pictures: int, per_picture: int) -> None:
        self.vlm = vlm
        self.batches: list[tuple[list[Row], dict[int, list[int]], dict[int, torch.Tensor]]] = []
        for start in range(0, pictures, PICTURES_AT_ONCE):
            self._add(range(start, min(pictures, start + PICTURES_AT_ONCE)), per_picture)
        self.samples = sum(len(targets) for _, targets, _ in self.batches)

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

    def loss(self) -> float:
        """The mean loss of the right answers, their ends included, in nats an answer."""
        logs = [log for batch in self.batches for log, _ in self.vlm.loglikelihood(*batch).values()]
        return -float(np.mean(logs))

    def passes(self) -> Iterator[tuple[list[torch.Tensor], Callable[[], object]]]:
        """See `Dev`; a token that several samples share counts for each of them."""
        for rows, _, pictures in self.batches:
            for start in range(0, len(rows), ROWS_AT_ONCE):
                some = rows[start : start + ROWS_AT_ONCE]
                yield [_shares(row) for row in some], partial(self.vlm.hidden, some, pictures)


def _shares(row: Row) -> torch.Tensor:
    """[tokens] what each token of a row counts: for each sample that passes through it, 1 / tokens of the sample."""
    shares = torch.zeros(len(row), dtype=torch.float64)
    for path in row.paths.values():
        shares[path] += 1 / len(path)
    return shares


@contextmanager
def left_out(model: Any, removed: Sequence[int]) -> Iterator[None]:
    """The model without some layers, for passes that keep no cache; whole again afterwards."""
    decoder = anatomy.decoder(model)
    whole = decoder.layers
    kept = LayerSet(tuple(i for i in range(len(whole)) if i not in removed), len(whole))
    changes = setting_changes(model, kept)
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
    try:
        decoder.layers = torch.nn.ModuleList(whole[i] for i in kept)
        for owner, name, value in changes:
            setattr(owner, name, value)
        yield
    finally:
        decoder.layers = whole
        for owner, name, value in before:
            setattr(owner, name, value)


def loss_without(dev: Dev, removed: Sequence[int]) -> float:
    """The loss of the right answers with these layers left out."""
    with left_out(dev.vlm.model, removed):
        return dev.loss()


def choose(
    without: Callable[[Sequence[int]], float], candidates: Sequence[int], count: int
) -> tuple[list[int], list[float]]:
    """The layers to remove, first the least missed, and the loss with none, one, two, ... of them removed.

    Args:
        without: the loss with some layers left out.
        candidates: layers that may go.
        count: how many go.
    """
    removed: list[int] = []
    losses = [without([])]
    for _ in range(count):
        rest = [layer for layer in candidates if layer not in removed]
        tried = {layer: without([*removed, layer]) for layer in tqdm(rest, desc="layers tried", unit="layer")}
        best = min(tried, key=tried.__getitem__)
        removed.append(best)
        losses.append(tried[best])
    return removed, losses
