"""Decoder layers compiled by torch.compile while they are trained: fewer, fused kernels, and less memory.

Each layer is compiled on its own, so that layers of one kind share their code. Hooks of a layer, such as FSDP's, stay
outside of the compiled code, and so does gradient checkpointing, which compiled code is fastest in.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch.utils.checkpoint import checkpoint

from vrbench.models import components
from vrbench.training.recipe import TuneStage
from vrbench.training.trainable import enable_checkpointing, unwrap_peft

WORTHWHILE_STEPS = 100
"""From how many steps on "auto" compiles on a GPU: in about so many, compiling saves the time that it takes."""

VARIANTS = 64
"""How many versions of a layer's code may be compiled: with LoRA or not, with gradients or not (which layer sampling
switches), with a mask or not. torch.compile's own limit of 8 would leave what is beyond it uncompiled."""


def is_worthwhile(choice: Literal["auto", "on", "off"], device: torch.device, steps: int) -> bool:
    """Return whether layers are compiled; "auto" does so on a GPU, in a training that is long enough."""
    return choice == "on" or (choice == "auto" and device.type == "cuda" and steps >= WORTHWHILE_STEPS)


def layers_for_training(
    model: Any, settings: TuneStage, steps: int, device: torch.device, fixed_shapes: bool
) -> AbstractContextManager[None]:
    """Return a context in which a model's layers are compiled and recompute activations as the settings say."""
    if is_worthwhile(settings.compile, device, steps):
        return compiled_layers(model, settings.checkpointing, fixed_shapes)
    if settings.checkpointing:
        enable_checkpointing(model)
    return nullcontext()


@contextmanager
def compiled_layers(
    model: Any, checkpointing: bool = False, fixed_shapes: bool = False, backend: str = "inductor"
) -> Iterator[None]:
    """Compile the forward and backward passes of a model's decoder layers, and leave the layers as they were.

    Args:
        model: of any family, PEFT's around it or not.
        checkpointing: recompute the activations in the backward pass; transformers' own checkpointing must be off.
        fixed_shapes: whether all batches have one shape; else one code serves all batch sizes and lengths.
        backend: of torch.compile.
    """
    layers = components.decoder_layers(unwrap_peft(model))
    # DDP's splitting of compiled code is for models compiled as a whole; here each layer is compiled by itself
    with torch._dynamo.config.patch(recompile_limit=VARIANTS, optimize_ddp=False):
        try:
            for layer in layers:
                compiled = torch.compile(layer.forward, backend=backend, dynamic=not fixed_shapes)
                layer.forward = _training_forward(layer, compiled, checkpointing)
            yield
        finally:
            for layer in layers:
                layer.__dict__.pop("forward", None)


def _training_forward(layer: Any, compiled: Callable[..., Any], checkpointing: bool) -> Callable[..., Any]:
    """Return a forward pass that is compiled in training, and plain in evaluation."""
    plain = layer.forward

    def forward(*args: Any, **given: Any) -> Any:
        if not (layer.training and torch.is_grad_enabled()):
            return plain(*args, **given)
        if checkpointing:
            return checkpoint(compiled, *args, use_reentrant=False, **given)
        return compiled(*args, **given)

    return forward
