"""What enters and what leaves each decoder layer, watched while samples pass; means over samples, nothing kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from vrbench.models import components


class Weighted(Protocol):
    """Samples with what each of their tokens counts in a mean over samples; `Dev` and `samples.Counted` are such.

    Attributes:
        vlm: the model.
        samples: how many there are, known when all have passed.
    """

    @property
    def vlm(self) -> Any: ...

    @property
    def samples(self) -> int: ...

    def passes(self) -> Iterator[tuple[list[torch.Tensor], Callable[[], object]]]:
        """What each token of each row of a pass counts, [tokens] or [tokens, kinds] a row; and the pass."""


@contextmanager
def watched(model: Any, see: Callable[[int, torch.Tensor, torch.Tensor], None]) -> Iterator[None]:
    """Have `see(layer, entering, leaving)` called for each layer in each pass, states [rows, tokens, hidden] each."""

    def hook(layer: int) -> Any:
        def call(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            entering = args[0] if args else kwargs["hidden_states"]
            see(layer, entering, output[0] if isinstance(output, tuple) else output)

        return call

    layers = components.decoder_layers(model)
    handles = [module.register_forward_hook(hook(layer), with_kwargs=True) for layer, module in enumerate(layers)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def layer_means(of: Weighted, measure: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> list[list[float]]:
    """For each kind of share and each layer, the mean over samples of a measure of what enters and leaves.

    Args:
        of: the samples.
        measure: states that enter and leave, [rows, tokens, hidden] each -> [rows, tokens].
    """
    sums: dict[int, torch.Tensor] = {}
    for shares, run in of.passes():
        padded = torch.nn.utils.rnn.pad_sequence([s if s.dim() > 1 else s[:, None] for s in shares], batch_first=True)

        def see(layer: int, entering: torch.Tensor, leaving: torch.Tensor, weights: torch.Tensor = padded) -> None:
            tokens = weights.shape[1]
            measured = measure(entering[:, :tokens], leaving[:, :tokens])
            sums[layer] = sums.get(layer, 0) + (measured[..., None] * weights.to(measured.device)).sum((0, 1)).cpu()

        with watched(of.vlm.model, see):
            run()
    found = torch.stack([sums[layer] for layer in sorted(sums)], -1) / of.samples
    return [[float(value) for value in kind] for kind in found]


def cosines(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """[...] cosines of states [..., hidden] in float64; a state of zeros has no direction, its cosine is 0."""
    return torch.nn.functional.cosine_similarity(first.double(), second.double(), dim=-1).clamp(-1, 1)


def angles(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """[...] (1 / pi) * arccos of the cosine of states [..., hidden]: 0 for the same direction, 1 for the opposite."""
    return cosines(first, second).arccos() / torch.pi
