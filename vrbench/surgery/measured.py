"""Layers chosen one by one where the measured loss on dev pictures grows least: greedy, and honest about it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from vrbench.models import anatomy
from vrbench.models.packing import Row, pack
from vrbench.models.vlm import VLM
from vrbench.pocket.turns import turns
from vrbench.pocket.world import draw, scene

PICTURES_AT_ONCE = 32


class DevRows:
    """Dev pictures with questions and their right answers, as a model reads them.

    Attributes:
        vlm: the model.
        batches: (packed rows, sequence number -> token ids of its answer, slot -> the picture's projected features),
            the arguments of `VLM.loglikelihood`.
    """

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


class DevLoss(DevRows):
    """The mean loss of right answers on dev pictures, in nats an answer, for a model with some layers left out."""

    def without(self, removed: Sequence[int]) -> float:
        """The loss with these layers left out."""
        with left_out(self.vlm, removed):
            logs = [log for batch in self.batches for log, _ in self.vlm.loglikelihood(*batch).values()]
        return -float(np.mean(logs))


@contextmanager
def left_out(vlm: VLM, removed: Sequence[int]) -> Iterator[None]:
    """The model without some layers, for passes that keep no cache; whole again afterwards."""
    decoder = anatomy.decoder(vlm.model)
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
