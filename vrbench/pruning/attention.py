"""How much of each decoder layer's attention goes to the picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch

from vrbench.core.errors import VrbenchError
from vrbench.models import components
from vrbench.pruning.samples import Samples


def image_attention(samples: Samples) -> list[float]:
    """The image attention score of each decoder layer: the share of attention that text gives to the picture, 0 to 1.

    With A_h(q, k) the attention that token q gives to token k in head h of H (sum over k is 1), I the image tokens of a
    sample, and Q its text tokens that come after the first image token (question and answer, the only ones that can see
    it), it is the mean over the samples of

        (1 / (H |Q|)) * sum over h, over q in Q, over k in I of A_h(q, k)

    Source: the image attention score that Visual-Region compares (arXiv:2412.12785, section 3); the paper states no
    equation, and which tokens are averaged over is this one's choice.

    The decoder attends as transformers' "eager" implementation does during the passes, which is the one that gives its
    weights, with the family's own masks and key heads; the weights of one layer, [rows, heads, tokens, tokens], are
    held at a time.

    Raises:
        VrbenchError: a layer's attention gives no weights, or no token is an image's.
    """
    model = samples.vlm.model
    sums = torch.zeros(len(components.decoder_layers(model)), dtype=torch.float64)
    seen = 0
    with eager(components.decoder(model)):
        for each in samples.looks():
            seen += int(each.images.sum())
            queries, keys = (x.to(samples.vlm.device) for x in (each.shares("after"), each.images))

            def see(layer: int, weights: torch.Tensor) -> None:
                to_image = (weights.double() * keys[:, None, None]).sum(-1).mean(1)  # noqa: B023  # called in this turn
                sums[layer] += float((to_image * queries).sum())  # noqa: B023

            with attention_watched(model, see):
                each.run()
    if not seen:
        raise VrbenchError(
            f"a {samples.vlm.family} model has no image tokens in its text, so that none are attended to"
        )
    return [float(total) / samples.samples for total in sums]


@contextmanager
def eager(decoder: Any) -> Iterator[None]:
    """A decoder that computes its attention weights step by step, as it was again afterwards."""
    before = decoder.config._attn_implementation
    decoder.set_attn_implementation("eager")
    try:
        yield
    finally:
        decoder.set_attn_implementation(before)


@contextmanager
def attention_watched(model: Any, see: Callable[[int, torch.Tensor], None]) -> Iterator[None]:
    """Have `see(layer, weights)` called for each layer in each pass, weights [rows, heads, tokens, tokens]."""

    def hook(layer: int) -> Any:
        def call(_: Any, __: Any, output: Any) -> None:
            if not isinstance(output, tuple) or output[1] is None:
                raise VrbenchError(f"layer {layer} of {type(model).__name__} does not give its attention weights")
            see(layer, output[1])

        return call

    attentions = [layer.get_submodule("self_attn") for layer in components.decoder_layers(model)]
    handles = [module.register_forward_hook(hook(layer)) for layer, module in enumerate(attentions)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
