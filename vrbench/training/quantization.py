"""QLoRA (Dettmers et al., arXiv 2305.14314): the linears of decoder layers in 4 bits, by bitsandbytes, beside LoRA.

The tower, the projector, embeddings and the head stay as they are. What is written is the adapter alone, which is then
applied to the base in its own type.
"""

from __future__ import annotations

import importlib.util
from typing import Any

import torch
from torch import nn

from vrbench.models import components
from vrbench.training.recipe import TuneStage

EXTRA = "bitsandbytes"
"""The package that quantizes, and the extra that brings it."""


def quantization_errors(settings: TuneStage) -> list[str]:
    """Return why the weights cannot be quantized here, one message each; empty when they can, or need not be."""
    if settings.quantize == "none" or importlib.util.find_spec(EXTRA) is not None:
        return []
    return [f"tune.quantize is {settings.quantize!r}, which needs {EXTRA}; pip install 'vrbench[qlora]' adds it"]


def quantize_layers(model: Any, dtype: torch.dtype) -> None:
    """Replace the linears of a model's decoder layers by such in NF4, whose scales are quantized too.

    Args:
        model: of any family, not yet with LoRA.
        dtype: of the products.
    """
    import bitsandbytes

    for layer in components.decoder_layers(model):
        for name, linear in list(layer.named_modules()):
            if type(linear) is not nn.Linear:
                continue
            weight = linear.weight
            made = bitsandbytes.nn.Linear4bit(
                linear.in_features, linear.out_features, linear.bias is not None, dtype, quant_type="nf4", device="meta"
            )
            made.weight = bitsandbytes.nn.Params4bit(weight.data, requires_grad=False, quant_type="nf4")
            made.bias = linear.bias
            parent, _, last = name.rpartition(".")
            setattr(layer.get_submodule(parent), last, made.to(weight.device))
    model.is_loaded_in_4bit = True  # PEFT looks for this attribute
