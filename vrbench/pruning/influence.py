"""Block Influence: how little of what enters a decoder layer is left in what leaves it."""

from __future__ import annotations

import torch

from vrbench.pruning.hidden_states import cosines, layer_means
from vrbench.pruning.samples import Samples


def block_influence(samples: Samples) -> list[float]:
    """The Block Influence of each decoder layer; 0 for a layer that turns nothing, at most 2.

    With x_t and y_t the hidden states that enter and leave a layer at token t of a sample of T tokens, it is the mean
    over the samples of

        1 - (1 / T) * sum over t of x_t . y_t / (|x_t| |y_t|)

    Source: ShortGPT (arXiv:2403.03853), equation 1; averaged over all tokens of a sample and then over samples, as
    Visual-Region's code does it. There what leaves the last layer is read after the final norm, here before it. A state
    of zeros, as a padding token's embedding may be, has cosine 0 with any other.

    Args:
        samples: what passes through the model; one pass after the other, nothing but sums is kept.

    Returns:
        One number a layer.
    """
    return layer_means(samples.counting("all"), _turned)[0]


def multimodal_block_influence(samples: Samples) -> list[float]:
    """The multimodal Block Influence of each decoder layer: text and picture count alike, however many tokens each has.

    With BI over the tokens of some kind as in `block_influence`, for a sample with text tokens and image tokens, it is
    the mean over the samples of

        (BI over its text tokens + BI over its image tokens) / 2

    Source: Visual-Region (arXiv:2412.12785), section 3, and its code, which takes tokens 32 to T - 12 for the image's;
    here they are found by what they are.
    """
    text, image = layer_means(samples.counting("text", "image"), _turned)
    return [(of_text + of_image) / 2 for of_text, of_image in zip(text, image, strict=True)]


def _turned(entering: torch.Tensor, leaving: torch.Tensor) -> torch.Tensor:
    return 1 - cosines(entering, leaving)
