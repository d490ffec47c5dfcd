"""Gradients of the right answers' loss: backward passes over samples, and the gradients of gates on decoder layers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch

from vrbench.core.errors import VrbenchError
from vrbench.models import components
from vrbench.models.llava_model import LlavaModel
from vrbench.pruning.layer_hooks import forward_hooks, skip_layers
from vrbench.pruning.loss_evaluator import LossEvaluator
from vrbench.pruning.samples import ROWS_PER_PASS, Samples, batched, padded_inputs

MOST_VALUES = 1 << 18
"""Values of the hidden states at one token of all layers of all samples in one pass."""


def backward_passes(samples: Samples) -> Iterator[Callable[[], None]]:
    """Yield forward and backward passes, a few samples each, in which layer states get gradients and weights do not.

    The loss is that of each sample's right answer, summed over its tokens and over the samples, in nats.

    Raises:
        VrbenchError: a sample has no answer, or the family attends to a prompt in both directions and would see the
            answer.
    """
    vlm = samples.vlm
    if not isinstance(vlm, LlavaModel) and vlm.prompt_format.prefix_lm:
        raise VrbenchError(f"a {vlm.family} model sees the answer with the prompt; choose a score that needs no answer")
    samples.count = 0
    with frozen_weights(vlm.model), _layer_gradients(vlm.model):
        for some in batched(chain.from_iterable(samples.questions), _samples_per_pass(vlm)):
            if not all(question.answer for question in some):
                raise VrbenchError("a question has no answer; a gradient of the loss needs one")
            inputs, lengths = padded_inputs(vlm, some)
            samples.count += len(some)
            yield lambda i=inputs, n=lengths: answer_losses(vlm.model, i, n).sum().backward()  # type: ignore[misc]


def _samples_per_pass(vlm: Any) -> int:
    """Return how many samples fit a pass that keeps the states of all layers: 8 of a small model, 2 of a 7B one."""
    return max(1, min(ROWS_PER_PASS, MOST_VALUES // (len(vlm.decoder_layers) * vlm.text_config.hidden_size)))


def answer_losses(model: Any, inputs: dict[str, Any], lengths: list[int]) -> torch.Tensor:
    """Return [rows] the loss of each answer, summed over its tokens, in nats.

    Args:
        model: transformers' model.
        inputs: of `padded_inputs`.
        lengths: tokens of the answer at the end of each row.
    """
    kept = max(lengths)
    logits = model(**inputs, use_cache=False, logits_to_keep=kept + 1).logits[:, -kept - 1 : -1].float()
    tokens = inputs["input_ids"][:, -kept:]
    losses = torch.nn.functional.cross_entropy(logits.mT, tokens, reduction="none")
    sizes = torch.tensor(lengths, device=tokens.device)
    return (losses * (torch.arange(kept, 0, -1, device=tokens.device)[None] <= sizes[:, None])).sum(-1)


@contextmanager
def frozen_weights(model: torch.nn.Module) -> Iterator[None]:
    """Turn off the gradients of all weights, which would cost time and memory."""
    trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in trainable:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trainable:
            parameter.requires_grad_(True)


@contextmanager
def _layer_gradients(model: Any) -> Iterator[None]:
    """Turn on the gradient of what enters the first decoder layer, and so of all states that follow."""

    def enter(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (args[0].detach().requires_grad_(), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": kwargs["hidden_states"].detach().requires_grad_()}

    handle = components.decoder_layers(model)[0].register_forward_pre_hook(enter, with_kwargs=True)
    try:
        with torch.enable_grad():
            yield
    finally:
        handle.remove()


@contextmanager
def watch_linears(model: Any, see: Callable[[int, torch.Tensor, torch.Tensor], object]) -> Iterator[None]:
    """Call `see(layer, inputs, gradient of outputs)` for each linear of a decoder layer, [rows, tokens, width] each."""
    layers = components.decoder_layers(model)
    linears = [(i, m) for i, layer in enumerate(layers) for m in layer.modules() if isinstance(m, torch.nn.Linear)]

    def hook(index: int, inputs: torch.Tensor, output: torch.Tensor) -> None:
        inputs = inputs.detach()
        if not output.requires_grad:  # of an image, in a layer that attends to it by cross attention
            output.requires_grad_()
        output.register_hook(lambda gradient: see(linears[index][0], inputs, gradient) and None)

    with forward_hooks([module for _, module in linears], hook):
        yield


def gate_gradients(evaluator: LossEvaluator, removed: Sequence[int] = ()) -> torch.Tensor:
    """Return [rows, layers] the derivative of each row's summed loss by each layer's gate, in float64.

    A gate g scales what a layer adds: with input x and output y the layer returns x + g * (y - x), at g = 1. A row is a
    row of a forward pass. The entries of removed layers are 0.
    """
    model, found = evaluator.vlm.model, []
    layers = components.decoder_layers(model)
    gates: dict[int, Any] = {}

    def gate_layer(layer: int, entering: torch.Tensor, output: Any) -> Any:
        leaving = output[0] if isinstance(output, tuple) else output
        gate = gates[layer] = torch.ones(len(leaving), device=leaving.device, requires_grad=True)
        gated = entering + gate.to(leaving.dtype)[:, None, None] * (leaving - entering)
        return (gated, *output[1:]) if isinstance(output, tuple) else gated

    with frozen_weights(model), skip_layers(model, removed), forward_hooks(layers, gate_layer):
        for batch in evaluator.batches:
            losses = batch.row_losses()
            losses.sum().backward()
            row = torch.zeros(len(losses), len(layers), dtype=torch.float64)
            for layer, gate in gates.items():
                row[:, layer] = gate.grad.double().cpu()
            found.append(row)
            gates.clear()
    return torch.cat(found)
