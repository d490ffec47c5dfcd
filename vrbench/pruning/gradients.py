"""What the loss of right answers says of each decoder layer: its Fisher information, and a first-order gate score."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import torch

from vrbench.core.errors import VrbenchError
from vrbench.models import components
from vrbench.models.llava_model import LlavaModel
from vrbench.pruning.hidden_states import watched
from vrbench.pruning.samples import ROWS_AT_ONCE, Samples, groups, whole_inputs

ROOM = 1 << 18
"""Values of the hidden states at one token of all layers of all samples in one pass."""


def fisher(samples: Samples) -> list[float]:
    """The empirical Fisher information of each decoder layer: its trace over the layer's linears.

    With L_s the loss of the right answer of sample s in nats (summed over the answer's tokens) and w the entries of the
    layer's linears, it is the mean over S samples of

        sum over w of (dL_s / dw)^2

    Source: the diagonal of the empirical Fisher matrix, as Kirkpatrick et al. 2017 (arXiv:1612.00796) and Theis et al.
    2018 (arXiv:1801.05787, equation 9) use it; the gradient is squared for each sample, not for a batch. Norms and
    biases are left out.

    No gradient of a weight is ever made: for a linear with inputs x_t and gradients g_t of its outputs, the sum is
    (x_t . x_u)(g_t . g_u) summed over all pairs of tokens t and u of the sample (Goodfellow 2015, arXiv:1510.01799).

    Args:
        samples: with answers.

    Raises:
        VrbenchError: a sample has no answer, or the family reads a prompt both ways and would see the answer.
    """
    layers = components.decoder_layers(samples.vlm.model)
    sums = torch.zeros(len(layers), dtype=torch.float64)

    def add(layer: int, inputs: torch.Tensor, gradient: torch.Tensor) -> None:
        inputs, gradient = inputs.float(), gradient.float()
        alike = (inputs @ inputs.mT) * (gradient @ gradient.mT)
        sums[layer] += float(alike.double().sum())

    for backward in _backwards(samples):
        with _linears_watched(layers, add):
            backward()
    return [float(total) / samples.samples for total in sums]


def gate_gradients(samples: Samples) -> list[float]:
    """The first-order Taylor score of each decoder layer: how fast the loss answers to fading the layer out.

    Let a gate a stand before what a layer adds, so that x + a (y - x) leaves it where x enters and y would leave; a = 1
    is the model as it is, a = 0 is the model without the layer. With L_s the loss of the right answer of sample s in
    nats, and g_t its gradient with respect to what leaves the layer at token t, it is the mean over the samples of

        |dL_s / da at a = 1| = |sum over t of g_t . (y_t - x_t)|

    Source: the Taylor criterion of Molchanov et al. 2017 (arXiv:1611.06440, equation 8) for a feature map, here for a
    layer's residual branch. It costs one pass forth and back for all layers.

    Args and errors: as `fisher`.
    """
    model = samples.vlm.model
    sums = torch.zeros(len(components.decoder_layers(model)), dtype=torch.float64)

    def see(layer: int, entering: torch.Tensor, leaving: torch.Tensor) -> None:
        added = (leaving - entering).detach()

        def add(gradient: torch.Tensor) -> None:
            sums[layer] += float((gradient.double() * added).sum((1, 2)).abs().sum())

        leaving.register_hook(add)

    for backward in _backwards(samples):
        with watched(model, see):
            backward()
    return [float(total) / samples.samples for total in sums]


def _backwards(samples: Samples) -> Iterator[Callable[[], None]]:
    """Passes forth and back, a few samples at a time; gradients reach the layers' states and no weight."""
    vlm = samples.vlm
    if not isinstance(vlm, LlavaModel) and vlm.prompt_format.prefix_lm:
        raise VrbenchError(f"a {vlm.family} model sees the answer with the prompt; choose a score that needs none")
    samples.samples = 0
    with _frozen(vlm.model):
        for some in groups(chain.from_iterable(samples.questions), _rows_at_once(vlm)):
            if not all(question.answer for question in some):
                raise VrbenchError("a question has no answer; a gradient of the loss needs one")
            inputs, said = whole_inputs(vlm, some)
            samples.samples += len(some)
            yield lambda inputs=inputs, said=said: answer_losses(vlm.model, inputs, said).sum().backward()  # type: ignore[misc]


def _rows_at_once(vlm: Any) -> int:
    """Samples in a pass forth and back, which keeps the states of all layers: 8 of a small model, 2 of a 7B one."""
    return max(1, min(ROWS_AT_ONCE, ROOM // (len(vlm.decoder_layers) * vlm.text_config.hidden_size)))


def answer_losses(model: Any, inputs: dict[str, Any], said: list[int]) -> torch.Tensor:
    """[rows] the loss of each answer, summed over its tokens, in nats.

    Args:
        inputs: as `whole_inputs` gives them, padded on the left.
        said: tokens of the answer at the end of each row.
    """
    kept = max(said)
    logits = model(**inputs, use_cache=False, logits_to_keep=kept + 1).logits[:, -kept - 1 : -1].float()
    tokens = inputs["input_ids"][:, -kept:]
    losses = torch.nn.functional.cross_entropy(logits.mT, tokens, reduction="none")
    answer = torch.arange(kept, 0, -1, device=tokens.device)[None] <= torch.tensor(said, device=tokens.device)[:, None]
    return (losses * answer).sum(-1)


@contextmanager
def _frozen(model: Any) -> Iterator[None]:
    """No weight wants a gradient; what enters the first decoder layer does, so that all that follows has one."""
    wanted = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def enter(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if args:
            return (args[0].detach().requires_grad_(), *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": kwargs["hidden_states"].detach().requires_grad_()}

    first = components.decoder_layers(model)[0]
    handle = first.register_forward_pre_hook(enter, with_kwargs=True)
    for parameter in wanted:
        parameter.requires_grad_(False)
    try:
        with torch.enable_grad():
            yield
    finally:
        handle.remove()
        for parameter in wanted:
            parameter.requires_grad_(True)


@contextmanager
def _linears_watched(layers: Any, add: Callable[[int, torch.Tensor, torch.Tensor], None]) -> Iterator[None]:
    """Have `add(layer, inputs, gradient of outputs)` called for each linear of a layer, [rows, tokens, width] each."""

    def hook(layer: int) -> Any:
        def call(_: Any, args: tuple[Any, ...], output: torch.Tensor) -> None:
            inputs = args[0].detach()
            if not output.requires_grad:  # of a picture, in a layer that looks at it by cross attention
                output.requires_grad_()
            output.register_hook(lambda gradient: add(layer, inputs, gradient))

        return call

    linears = [(i, m) for i, layer in enumerate(layers) for m in layer.modules() if isinstance(m, torch.nn.Linear)]
    handles = [module.register_forward_hook(hook(layer)) for layer, module in linears]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
