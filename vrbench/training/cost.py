"""Memory and FLOPs of a tuning step, estimated from the stored shapes of its base (no torch).

For a pass over n tokens, in bytes, with b bytes an element of the computation (2 in bfloat16):

    weights      b for each frozen parameter (0.516 in NF4), 4 for each trained one (float32), and b for its copy in the
                 computation
    AdamW        8 for each trained parameter
    gradients    4 for each trained parameter; with `tune.sampling`, of the layers that are drawn
    activations  n x (sum over the layers with a backward pass + logits), where a layer keeps, for each token,
                   8 hidden                          the inputs of two norms in float32
                 + b (queries + keys + values + heads' output)
                 + b (gate + up + activated gate)    or b times the first linear's output, without a gate
                 + LoRA: (b, and 1 with dropout) x inputs, and b x rank, of each adapted linear (DoRA: and b x outputs)
                 + whole weights: b (4 hidden + inputs of the last linear)
                 with checkpointing, b hidden a layer and all of the above once
                 a trained tower: b (inputs + outputs) of its linears, for each token of an image
                 logits: (b + 8) x vocabulary, for the share of tokens with a label

The peak is that of weights and AdamW with gradients or activations, whichever are more: a backward pass makes the
former while it frees the latter. Kernels are PyTorch's, attention keeps no scores (Korthikanti et al., arXiv
2205.05198, count a GPT's activations the same way). Compiled layers keep less.

FLOPs: 2 for each weight and token forward; as many for the gradient of the activations, in layers that need it; as
many for the gradient of trained weights (with `tune.sampling` of the drawn layers); attention 2 x tokens x width
forward, twice that backward.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from vrbench.checkpoints.families import projector_names, tower_names
from vrbench.checkpoints.parameter_names import TOWER_PREFIX, Shape, is_outside_layers, layer_index
from vrbench.core.layers import LayerSet
from vrbench.training.recipe import ATTENTION, TuneStage

LAST_LINEARS = ("down_proj", "fc2")
OUTPUT_LINEARS = ("o_proj", "out_proj", "dense")
NF4 = 0.516  # bytes of a weight in 4 bits, with its share of 8-bit scales of 64 and their own of 256
MASTER = 4  # bytes of a float32 master or its gradient


@dataclass(frozen=True)
class Rows:
    """What a step computes on one device.

    Attributes:
        rows: of a pass.
        passes: of a step.
        tokens: of a row, the image's included.
        labelled: share of the tokens that have a label.
        image_tokens: of a row, on average.
    """

    rows: int
    passes: int
    tokens: float
    labelled: float
    image_tokens: float


@dataclass(frozen=True)
class Flops:
    """FLOPs of a step.

    Attributes:
        needed: what MFU (model FLOPs utilization; Chowdhery et al., arXiv 2204.02311) counts.
        computed: the same with what checkpointing computes again.
    """

    needed: float
    computed: float


@dataclass(frozen=True)
class LayerShape:
    """A decoder layer.

    Attributes:
        linears: name such as 'self_attn.q_proj' -> (outputs, inputs).
        parameters: all of its parameters.
    """

    linears: dict[str, tuple[int, int]] = field(default_factory=dict)
    parameters: int = 0

    @property
    def products(self) -> int:
        """Weights that each token is multiplied with."""
        return sum(outputs * inputs for outputs, inputs in self.linears.values())

    def _sum(self, names: tuple[str, ...], attention: bool, side: int) -> int:
        """Return the outputs (side 0) or inputs (1) of the attention's or the others' linears of these names."""
        chosen = {
            name: shape for name, shape in self.linears.items()
            if any(part in ATTENTION for part in name.split(".")) == attention
        }  # fmt: skip
        return sum(shape[side] for name, shape in chosen.items() if name.rpartition(".")[2] in names)

    @property
    def heads(self) -> int:
        """Width of all heads' outputs."""
        return self._sum(OUTPUT_LINEARS, True, 1)

    @property
    def ffn(self) -> int:
        """Width inside of the feed-forward network."""
        return self._sum(LAST_LINEARS, False, 1)

    def kept(self, hidden: int, size: int) -> int:
        """Return bytes for each token that are kept for the backward pass, in a layer without trained weights."""
        outputs = sum(shape[0] for shape in self.linears.values())
        last = self._sum(OUTPUT_LINEARS, True, 0) + self._sum(LAST_LINEARS, False, 0)
        is_gated = self._sum(tuple(n.rpartition(".")[2] for n in self.linears), False, 0) > self.ffn + hidden
        return 2 * MASTER * hidden + size * (outputs - last + self.heads + (self.ffn if is_gated else 0))


class TuneCost:
    """The cost of tuning some layers of a model, from the shapes of its weights."""

    def __init__(
        self, shapes: Mapping[str, Shape], family: str, layers: LayerSet, settings: TuneStage,
        size: int = 2, master: int = MASTER,
    ) -> None:  # fmt: skip
        """Sort the shapes.

        Args:
            shapes: canonical name -> shape of all weights of the base.
            family: of the base.
            layers: the tuned ones.
            settings: how they are tuned.
            size: bytes of an element of the computation.
            master: bytes of a trained weight and of its gradient; a moment of AdamW has as many.
        """
        self.settings, self.size, self.master = settings, size, master
        self.tuned = layers
        self.layers = [LayerShape({}, 0) for _ in range(layers.depth)]
        projector, tower = projector_names(family, shapes), tower_names(family, shapes)
        self.total, self.tower, self.tower_sides, self.projector, self.outside = 0, 0, 0, 0, 0
        for name, shape in shapes.items():
            count = math.prod(shape)
            self.total += count
            number = layer_index(name)
            if number is not None:
                self._add(number, name, shape)
            elif name in projector:
                self.projector += count
            elif is_outside_layers(name):
                self.outside += count
            elif name in tower:
                self.tower += count
                self.tower_sides += sum(shape) if len(shape) == 2 and "embed" not in name else 0
        self.vocabulary, self.hidden = shapes["embed_tokens.weight"]
        positions = shapes.get(f"{TOWER_PREFIX}embeddings.position_embedding.weight", (0,))[0]
        self.image_tokens = positions - (f"{TOWER_PREFIX}embeddings.class_embedding" in shapes)  # 0 where unknown

    def _add(self, number: int, name: str, shape: Shape) -> None:
        layer = self.layers[number]
        linears = dict(layer.linears)
        if len(shape) == 2:
            linears[name.split(".", 2)[2].removesuffix(".weight")] = (shape[0], shape[1])
        self.layers[number] = LayerShape(linears, layer.parameters + math.prod(shape))

    def _adapted(self, layer: LayerShape) -> list[tuple[int, int]]:
        return [shape for name, shape in layer.linears.items() if self.settings.adapts(name)]

    @property
    def _rank(self) -> int:
        return self.settings.rank or 0

    @property
    def trained_layers(self) -> int:
        """Trained parameters in the layers."""
        layers = [self.layers[i] for i in self.tuned]
        if self.settings.tuning == "weights":
            return sum(layer.parameters for layer in layers)
        adapted = [shape for layer in layers for shape in self._adapted(layer)]
        norms = sum(outputs for outputs, _ in adapted) if self.settings.dora else 0
        return self._rank * sum(sum(shape) for shape in adapted) + norms

    @property
    def trained_projector(self) -> int:
        """Trained parameters in the projector."""
        return self.projector if self.settings.lr_projector else 0

    @property
    def trained_tower(self) -> int:
        """Trained parameters in the vision tower, without DoRA's."""
        return {"none": 0, "lora": self._rank * self.tower_sides, "weights": self.tower}[self.settings.tower]

    @property
    def trained_others(self) -> int:
        """Trained parameters in embeddings, final norm and head."""
        return self.outside if self.settings.is_lisa else 0

    @property
    def trained(self) -> int:
        """All trained parameters."""
        return self.trained_layers + self.trained_projector + self.trained_others + self.trained_tower

    @property
    def _drawn(self) -> float:
        """Share of the tuned layers that are trained in a step: with `tune.sampling` those that are drawn; else all."""
        return (self.settings.layers_at_a_time or len(self.tuned)) / max(1, len(self.tuned))

    @property
    def _lowest(self) -> int:
        """The first layer with a backward pass."""
        has_inputs_trained = self.settings.lr_projector or self.settings.is_lisa or self.settings.tower != "none"
        return 0 if has_inputs_trained else min(self.tuned, default=len(self.layers))

    def _kept_to_train(self, number: int) -> int:
        """Return bytes for each token that a layer keeps for the gradient of its trained weights."""
        layer = self.layers[number]
        if number not in self.tuned:
            return 0
        if self.settings.tuning == "weights":
            return self.size * (4 * self.hidden + layer.ffn)
        each = self.size + (1 if self.settings.dropout else 0)
        products = self.size if self.settings.dora else 0
        return sum(
            each * inputs + self.size * self._rank + products * outputs for outputs, inputs in self._adapted(layer)
        )

    def memory(self, rows: Rows) -> dict[str, float]:
        """Return part of the memory -> bytes on one device; see the formula above."""
        trained = self.trained
        with_gradient = trained - (1 - self._drawn) * self.trained_layers
        whole = self.trained_layers + self.trained_others if self.settings.tuning == "weights" else 0
        whole += self.tower if self.settings.tower == "weights" else 0
        frozen = self.total - whole - self.trained_projector
        quantized = sum(layer.products for layer in self.layers) if self.settings.quantize != "none" else 0
        tower = self.size * self.tower_sides if self.settings.tower != "none" else 0
        drawn = 1 if self.settings.checkpointing else self._drawn  # of the one layer that keeps all of its own
        kept = [
            self.layers[number].kept(self.hidden, self.size) + drawn * self._kept_to_train(number)
            for number in range(self._lowest, len(self.layers))
        ]
        if self.settings.checkpointing and kept:
            kept = [self.size * self.hidden * len(kept), max(kept)]
        logits = (self.size + 8) * self.vocabulary * rows.labelled
        return {
            "weights": self.size * (frozen - quantized) + NF4 * quantized, "masters": self.master * trained,
            "copies": self.size * trained if self.size < self.master else 0,
            "AdamW": 2 * self.master * trained, "gradients": self.master * with_gradient,
            "activations": rows.rows * (rows.tokens * (sum(kept) + logits) + rows.image_tokens * tower),
        }  # fmt: skip

    def flops(self, rows: Rows) -> Flops:
        """Return the FLOPs of a step on all its rows."""
        forward, again, backward = 0.0, 0.0, 0.0
        for number, layer in enumerate(self.layers):
            attention = 2 * rows.tokens * layer.heads
            adapter = 0
            if number in self.tuned and self.settings.tuning == "lora":
                adapter = self._rank * sum(sum(shape) for shape in self._adapted(layer))
            own = 2 * (layer.products + adapter) + attention
            forward += own
            if number < self._lowest:
                continue
            weights = layer.products if number in self.tuned and self.settings.tuning == "weights" else adapter
            backward += 2 * (layer.products + adapter + self._drawn * weights) + 2 * attention
            again += own if self.settings.checkpointing else 0
        head = (6 if self.settings.is_lisa else 4) * self.hidden * self.vocabulary * rows.labelled
        of_tower = {"none": 2, "lora": 4, "weights": 6}[self.settings.tower]
        image = (of_tower * self.tower + (6 if self.settings.lr_projector else 2) * self.projector) * rows.image_tokens
        count = rows.rows * rows.passes
        needed = count * (rows.tokens * (forward + backward + head) + image)
        return Flops(needed, needed + count * rows.tokens * again)


def peak_memory(parts: Mapping[str, float]) -> float:
    """Return the largest memory at one time, in bytes."""
    fixed = sum(value for name, value in parts.items() if name not in ("gradients", "activations"))
    return fixed + max(parts["gradients"], parts["activations"])
