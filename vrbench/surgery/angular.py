"""How far each decoder layer turns what passes through it: the angular distance between its input and its output."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from vrbench.models import anatomy
from vrbench.surgery.measured import Dev


def angular_distances(dev: Dev) -> list[float]:
    """The angular distance of each decoder layer over dev pictures; 0 for a layer that turns nothing, at most 1.

    With x_t and y_t the hidden states that enter and leave a layer at token t of a sample of T tokens, it is the mean
    over the samples of

        (1 / T) * sum over t of (1 / pi) * arccos(x_t . y_t / (|x_t| |y_t|))

    This is the distance of Gromov et al. 2024, "The Unreasonable Ineffectiveness of the Deeper Layers"
    (arXiv:2403.17887), for a block of one layer, averaged over all tokens of a sample where they take the last one.
    A sample is a picture with one question and its answer. A state of zeros, as a padding token's embedding may be, has
    no direction; its distance to any other is 1/2. Nothing but the sums is kept from pass to pass.

    Args:
        dev: pictures with questions and answers, for a model in float32; cosines near 1 are told apart in float64.

    Returns:
        One number a layer.
    """
    layers = anatomy.decoder_layers(dev.vlm.model)
    sums = torch.zeros(len(layers), dtype=torch.float64)
    for shares, run in dev.passes():
        with _adding(layers, shares, sums):
            run()
    return [float(total) / dev.samples for total in sums]


@contextmanager
def _adding(layers: torch.nn.ModuleList, shares: Sequence[torch.Tensor], sums: torch.Tensor) -> Iterator[None]:
    """Add every layer's distances to the sums while a pass goes on; shares[i] is what the tokens of row i count."""

    def hook(layer: int) -> Any:
        def add(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            entering = args[0] if args else kwargs["hidden_states"]
            leaving = output[0] if isinstance(output, tuple) else output
            for row, share in enumerate(shares):
                turned = _angles(entering[row, : len(share)], leaving[row, : len(share)])
                sums[layer] += (turned.cpu() * share).sum()

        return add

    handles = [module.register_forward_hook(hook(layer), with_kwargs=True) for layer, module in enumerate(layers)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _angles(entering: torch.Tensor, leaving: torch.Tensor) -> torch.Tensor:
    """[tokens] (1 / pi) * arccos of the cosine between states [tokens, hidden]."""
    cosines = torch.nn.functional.cosine_similarity(entering.double(), leaving.double(), dim=-1)
    return cosines.clamp(-1, 1).arccos() / torch.pi
