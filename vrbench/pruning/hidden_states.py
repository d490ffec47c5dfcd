"""Means over samples of how decoder layers change hidden states."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import torch

from vrbench.models import components
from vrbench.pruning.layer_hooks import watch_layers
from vrbench.pruning.samples import Samples, TokenSubset


def layer_means(
    samples: Samples, measure: Callable[[torch.Tensor, torch.Tensor], torch.Tensor], *subsets: TokenSubset
) -> list[list[float]]:
    """Return, for each token subset and each layer, the mean over samples of a measure of entering and leaving states.

    Only sums are kept from pass to pass.

    Args:
        samples: the samples.
        measure: entering and leaving states, [rows, tokens, hidden] each -> [rows, tokens].
        subsets: which tokens of a sample count; a sample's value is the mean over them.
    """
    sums = torch.zeros(samples.depth, len(subsets), dtype=torch.float64)
    for each in samples.passes():
        weights = torch.stack([each.weights(subset) for subset in subsets], -1)

        def see(layer: int, entering: torch.Tensor, leaving: torch.Tensor, weights: torch.Tensor = weights) -> None:
            tokens = weights.shape[1]
            values = measure(entering[:, :tokens], leaving[:, :tokens])
            sums[layer] += (values[..., None] * weights.to(values.device)).sum((0, 1)).cpu()

        with watch_layers(samples.vlm.model, see):
            each.run()
    means: list[list[float]] = (sums / samples.count).T.tolist()
    return means


def published_block_influence(samples: Samples, of_zeros: float, over_tokens: bool) -> list[float]:
    """Return block influence as published code computes it: the last layer's output is read after the final norm.

    Args:
        samples: the samples.
        of_zeros: cosine of a state of zeros; NaN leaves its token out.
        over_tokens: take the mean over the tokens of all samples, not over the samples' means.
    """
    norm = components.decoder(samples.vlm.model).norm
    sums, count = torch.zeros(samples.depth, dtype=torch.float64), 0
    for each in samples.passes():
        tokens = each.is_image.shape[1]

        def see(layer: int, entering: torch.Tensor, leaving: torch.Tensor) -> None:
            leaving = norm(leaving) if layer == samples.depth - 1 else leaving
            found = cosines(entering[:, :tokens], leaving[:, :tokens], of_zeros).cpu()  # noqa: B023
            for row, path in each.paths:  # noqa: B023
                of_sample = found[row, path]
                sums[layer] += (1 - of_sample).sum() if over_tokens else 1 - of_sample.nanmean().nan_to_num()

        with watch_layers(samples.vlm.model, see):
            each.run()
        count += sum(len(path) for _, path in each.paths) if over_tokens else len(each.paths)
    means: list[float] = (sums / count).tolist()
    return means


def cosines(first: torch.Tensor, second: torch.Tensor, of_zeros: float = 0.0) -> torch.Tensor:
    """Return [...] cosines of states [..., hidden] in float64; `of_zeros` where a state is all zeros."""
    found = torch.nn.functional.cosine_similarity(first.double(), second.double(), dim=-1).clamp(-1, 1)
    return found.masked_fill(~(first.any(-1) & second.any(-1)), of_zeros) if of_zeros else found


def angles(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return [...] (1 / pi) * arccos of the cosines of states [..., hidden]: 0 for equal directions, 1 for opposite."""
    return cosines(first, second).arccos() / torch.pi


def block_distances(
    samples: Samples, longest: int, subset: TokenSubset = "last", final_norm: bool = False
) -> list[list[float]]:
    """Return the angular distance over every block of 1, 2, ... consecutive layers.

    With x(l) what enters layer l, and y(l) what leaves it, at the last token T of a sample, the distance over the block
    of layers l to l + n - 1 is the mean over the samples of

        d(l, n) = (1 / pi) * arccos(x(l)_T . y(l + n - 1)_T / (|x(l)_T| |y(l + n - 1)_T|))

    Source: Gromov et al. 2024 (arXiv:2403.17887), equation 7, where the block with the least distance is the one to
    remove. The last token is that before the end of the answer, or of the prompt where there is none.

    Args:
        samples: the samples; the states that enter `longest` layers are held for one pass at a time.
        longest: layers of the longest block, at most the depth.
        subset: which tokens of a sample count; a sample's value is the mean over them.
        final_norm: read the last layer's output after the final norm.

    Returns:
        Entry [n - 1][l] is d(l, n); there are depth - n + 1 blocks of n layers.
    """
    norm = components.decoder(samples.vlm.model).norm
    sums = torch.zeros(longest, samples.depth, dtype=torch.float64)
    for each in samples.passes():
        weights = each.weights(subset)
        rows, positions = (index.to(samples.vlm.device) for index in weights.nonzero(as_tuple=True))
        shares = weights[weights > 0].to(samples.vlm.device)
        entered: deque[torch.Tensor] = deque(maxlen=longest)

        def see(layer: int, entering: torch.Tensor, leaving: torch.Tensor) -> None:
            entered.append(entering[rows, positions])  # noqa: B023  # called within this turn of the loop
            leaving = norm(leaving) if final_norm and layer == samples.depth - 1 else leaving
            left = leaving[rows, positions]  # noqa: B023
            for n, before in enumerate(reversed(entered), 1):  # noqa: B023
                sums[n - 1, layer - n + 1] += float((angles(before, left) * shares).sum())  # noqa: B023

        with watch_layers(samples.vlm.model, see):
            each.run()
    means = (sums / samples.count).tolist()
    return [means[n - 1][: samples.depth - n + 1] for n in range(1, longest + 1)]
