"""How far decoder layers turn what passes through them: angular distances, of single layers and of blocks of them."""

from __future__ import annotations

from collections import deque

import torch

from vrbench.models import components
from vrbench.pruning.hidden_states import Weighted, angles, layer_means, watched
from vrbench.pruning.samples import Samples, Tokens


def angular_distances(of: Weighted) -> list[float]:
    """The angular distance of each decoder layer; 0 for a layer that turns nothing, at most 1.

    With x_t and y_t the hidden states that enter and leave a layer at token t of a sample of T tokens, it is the mean
    over the samples of

        (1 / T) * sum over t of (1 / pi) * arccos(x_t . y_t / (|x_t| |y_t|))

    This is the distance of Gromov et al. 2024, "The Unreasonable Ineffectiveness of the Deeper Layers"
    (arXiv:2403.17887), for a block of one layer, averaged over all tokens of a sample where they take the last one.
    A sample is a picture with one question and its answer. A state of zeros, as a padding token's embedding may be, has
    no direction; its distance to any other is 1/2. Nothing but the sums is kept from pass to pass.

    Args:
        of: samples, for a model in float32; cosines near 1 are told apart in float64.

    Returns:
        One number a layer.
    """
    return layer_means(of, angles)[0]


def block_distances(samples: Samples, longest: int, tokens: Tokens = "last") -> list[list[float]]:
    """The angular distance over every block of 1, 2, ... consecutive layers.

    With x(l) what enters layer l, and y(l) what leaves it, at the last token T of a sample, the distance over the block
    of layers l to l + n - 1 is the mean over the samples of

        d(l, n) = (1 / pi) * arccos(x(l)_T . y(l + n - 1)_T / (|x(l)_T| |y(l + n - 1)_T|))

    Source: Gromov et al. 2024 (arXiv:2403.17887), equation 7, where the block with the least distance is the one to
    remove. The last token is that before the end of the answer, or of the prompt where there is none.

    Args:
        samples: what passes through the model; held at a time are the states of one pass that enter `longest` layers.
        longest: layers of the longest block, at most the depth.
        tokens: which tokens of a sample count; over several it is their mean.

    Returns:
        Entry [n - 1][l] is d(l, n); there are depth - n + 1 blocks of n layers.
    """
    depth = len(components.decoder_layers(samples.vlm.model))
    sums = torch.zeros(longest, depth, dtype=torch.float64)
    for each in samples.looks():
        weights = each.shares(tokens)
        rows, places = (index.to(samples.vlm.device) for index in weights.nonzero(as_tuple=True))
        shares = weights[weights > 0].to(samples.vlm.device)
        entered: deque[torch.Tensor] = deque(maxlen=longest)

        def see(layer: int, entering: torch.Tensor, leaving: torch.Tensor) -> None:
            entered.append(entering[rows, places])  # noqa: B023  # called within this turn of the loop
            left = leaving[rows, places]  # noqa: B023
            for n, before in enumerate(reversed(entered), 1):  # noqa: B023
                sums[n - 1, layer - n + 1] += float((angles(before, left) * shares).sum())  # noqa: B023

        with watched(samples.vlm.model, see):
            each.run()
    means = (sums / samples.samples).tolist()
    return [means[n - 1][: depth - n + 1] for n in range(1, longest + 1)]
