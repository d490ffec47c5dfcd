"""LISA: some of the layers learn at a time, drawn anew every so many steps.

Layerwise importance sampling (Pan et al., arXiv 2403.17919, algorithm 1) draws its layers with equal probability; the
moments of AdamW of a layer that is not drawn stay as they are until it is drawn again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import nn
from transformers import TrainerCallback

from vrbench.core.layers import LayerSet


def drawn(layers: LayerSet, count: int, seed: int, draw: int) -> LayerSet:
    """The layers of a draw, by its number alone: a training that goes on draws what an undisturbed one draws."""
    chosen = np.random.default_rng([seed, draw]).choice(list(layers), count, replace=False)
    return LayerSet.of([int(i) for i in chosen], layers.depth)


class LayerSampling(TrainerCallback):
    """Freezes the layers that are not drawn, so that they cost no gradients and the lowest of them no backward."""

    def __init__(
        self, parameters: Mapping[int, Sequence[nn.Parameter]], layers: LayerSet, count: int, every: int, seed: int
    ) -> None:
        self.parameters, self.layers = parameters, layers
        self.count, self.every, self.seed = count, every, seed
        self.draw = -1

    def on_step_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step // self.every == self.draw:
            return
        self.draw = state.global_step // self.every
        chosen = drawn(self.layers, self.count, self.seed, self.draw)
        for layer, parameters in self.parameters.items():
            for parameter in parameters:
                parameter.requires_grad_(layer in chosen)
