"""How much a checkpoint would miss each of its decoder layers: measured directly, or predicted by cheaper means.

Costs are counted in passes over the dev pictures: a forward pass through all layers is 1, a backward pass about 1 more.
With D layers of which each is tried, what lies below a layer is computed once for all, so that trying all costs D / 2.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

from vrbench.models import components
from vrbench.pruning.layer_hooks import left_out
from vrbench.pruning.loss_evaluator import Dev


@dataclass(frozen=True)
class Measure:
    """What removing one layer more costs, or is predicted to.

    Attributes:
        each: (dev, removed layers, layers to try) -> layer -> what is reached without the removed and this one; smaller
            is better.
        whole: what is reached with no layer removed.
        unit: of the figures, for notes.
    """

    each: Callable[[Dev, Sequence[int], Iterable[int]], dict[int, float]]
    whole: Callable[[Dev], float]
    unit: str


def loss_each(dev: Dev, removed: Sequence[int], layers: Iterable[int]) -> dict[int, float]:
    """The right answers' mean loss without each layer, in nats an answer; D / 2 passes.

    (1 / S) * sum over samples s of -log p(right answer of s | its prompt, without the removed layers and this one)
    """
    return {layer: answers.loss for layer, answers in dev.without_each(removed, layers).items()}


def divergence_each(dev: Dev, removed: Sequence[int], layers: Iterable[int]) -> dict[int, float]:
    """How far the answers without each layer lie from the whole model's, in nats an answer; 1 + D / 2 passes.

    (1 / S) * sum over samples s, tokens t of the answer, words w of p(w) * (log p(w) - log q(w))

    with p what the whole model says at t and q what it says without the removed layers and this one. What the whole
    model does not know adds nothing but noise to a difference of losses and nothing to this, so that it needs fewer
    pictures for the same order.
    """
    return dev.divergence_each(removed, layers)


def gate_fisher_each(dev: Dev, removed: Sequence[int], layers: Iterable[int]) -> dict[int, float]:
    """The empirical Fisher information of each layer's gate, in squared nats; 2 passes.

    (1 / R) * sum over rows r of (dL_r / dg_l)^2  at g = 1, where layer l gives x + g_l * (f_l(x) - x)

    where a row is what a pass keeps apart: a picture with its questions, or one question. Half of it stands for the
    second-order term of the loss's growth (Theis et al. 2018, "Faster gaze prediction with dense networks and Fisher
    pruning", arXiv:1801.05787).
    """
    squares = gate_gradients(dev, removed).square().mean(0)
    return {layer: float(squares[layer]) for layer in layers}


MEASURES: dict[str, Measure] = {
    "loss": Measure(loss_each, lambda dev: dev.loss(), "nats an answer"),
    "divergence": Measure(divergence_each, lambda _: 0.0, "nats an answer"),
    "gate-fisher": Measure(gate_fisher_each, lambda _: 0.0, "squared nats"),
}


def gate_gradients(dev: Dev, removed: Sequence[int] = ()) -> torch.Tensor:
    """[rows, layers] the derivative of each row's summed loss by each layer's gate, float64; 0 for removed layers.

    Args:
        dev: pictures with questions and answers.
        removed: layers that are left out.
    """
    model = dev.vlm.model
    layers = components.decoder_layers(model)
    found = []
    with _weights_frozen(model), left_out(model, removed):
        for run in dev.differentiable():
            with _gated(layers) as gates:
                losses = run()
                losses.sum().backward()
            row = torch.zeros(len(losses), len(layers), dtype=torch.float64)
            for layer, gate in gates.items():
                row[:, layer] = gate.grad.double().cpu()
            found.append(row)
    return torch.cat(found)


@contextmanager
def _weights_frozen(model: torch.nn.Module) -> Iterator[None]:
    """No weight gets a gradient, which would cost time and memory."""
    wanted = [p for p in model.parameters() if p.requires_grad]
    try:
        for parameter in wanted:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in wanted:
            parameter.requires_grad_(True)


@contextmanager
def _gated(layers: torch.nn.ModuleList) -> Iterator[dict[int, Any]]:
    """Put a gate of 1 a row on what each layer adds; layer -> its gates, [rows], of the latest pass."""
    gates: dict[int, Any] = {}

    def hook(layer: int) -> Any:
        def put(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
            entering = args[0] if args else kwargs["hidden_states"]
            leaving = output[0] if isinstance(output, tuple) else output
            gate = torch.ones(len(leaving), device=leaving.device, requires_grad=True)
            gates[layer] = gate
            gated = entering + gate.to(leaving.dtype)[:, None, None] * (leaving - entering)
            return (gated, *output[1:]) if isinstance(output, tuple) else gated

        return put

    handles = [module.register_forward_hook(hook(i), with_kwargs=True) for i, module in enumerate(layers)]
    try:
        yield gates
    finally:
        for handle in handles:
            handle.remove()
