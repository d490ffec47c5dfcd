"""Importance scores of decoder layers: each is one function with `@importance_method`, and nothing else (no torch).

A score's name, what it needs and the first line of its docstring are all that lists, help, errors, digests and tests
use. torch is imported inside the functions, so that listing them takes no time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import pi
from typing import TYPE_CHECKING

from vrbench.core.errors import VrbenchError

if TYPE_CHECKING:
    from torch import Tensor

    from vrbench.pruning.scoring_context import Need, ScoringContext


@dataclass(frozen=True)
class ImportanceMethod:
    """A score of how much each decoder layer matters.

    Attributes:
        name: for commands and records.
        compute: context -> one number a layer, larger for a layer that matters more.
        needs: what the context has to provide.
        turns: questions on each dev image where the user names no number; fewer where each costs more.
        version: enters the digest of recipes that use it, from 2 on.
    """

    name: str
    compute: Callable[[ScoringContext], Sequence[float]]
    needs: frozenset[Need]
    turns: int = 6
    version: int = 1

    @property
    def summary(self) -> str:
        """The first line of the function's docstring."""
        return str(self.compute.__doc__).partition("\n")[0]

    @property
    def requirements(self) -> str:
        """What it needs, in words."""
        found = {
            "a LoRA checkpoint" if "adapter" in self.needs else "a tuned checkpoint": True,
            "its base": "base" in self.needs,
            "images with answers" if "answers" in self.needs else "images": "images" in self.needs,
        }  # fmt: skip
        return ", ".join(name for name, needed in found.items() if needed)


IMPORTANCE_METHODS: dict[str, ImportanceMethod] = {}
"""Name -> method; filled by the decorator."""


def importance_method(
    name: str, *needs: Need, turns: int = 6, version: int = 1
) -> Callable[[Callable[[ScoringContext], Sequence[float]]], Callable[[ScoringContext], Sequence[float]]]:
    """Register a function as an importance score; arguments as in `ImportanceMethod`."""

    def register(compute: Callable[[ScoringContext], Sequence[float]]) -> Callable[[ScoringContext], Sequence[float]]:
        implied: set[Need] = {"images"} if {"image_tokens", "answers"} & set(needs) else set()
        IMPORTANCE_METHODS[name] = ImportanceMethod(name, compute, frozenset({*needs, *implied}), turns, version)
        return compute

    return register


@importance_method("attention", "image_tokens")
def attention(context: ScoringContext) -> Sequence[float]:
    """Share of attention from text tokens to image tokens.

    With A_h(q, k) the attention that token q gives to token k in head h of H (sum over k is 1), I the image tokens of a
    sample, and Q its text tokens after the first image token (question and answer, the only ones that can attend to
    it), it is the mean over the samples of

        (1 / (H |Q|)) * sum over h, over q in Q, over k in I of A_h(q, k)

    Source: the image attention score that Visual-Region compares (arXiv:2412.12785, section 3); the paper states no
    equation, and which tokens are averaged over is decided here.

    Raises:
        VrbenchError: a layer returns no attention weights, or no token is an image's.
    """
    import torch

    from vrbench.pruning.layer_hooks import watch_attention

    samples = context.samples
    sums, image_tokens = torch.zeros(samples.depth, dtype=torch.float64), 0
    for each in samples.passes():
        image_tokens += int(each.is_image.sum())
        queries, keys = (x.to(samples.vlm.device) for x in (each.weights("after_image"), each.is_image))

        def see(layer: int, weights: Tensor, queries: Tensor = queries, keys: Tensor = keys) -> None:
            to_image = (weights.double() * keys[:, None, None]).sum(-1).mean(1)
            sums[layer] += float((to_image * queries).sum())

        with watch_attention(samples.vlm.model, see):
            each.run()
    if not image_tokens:
        raise VrbenchError(f"a {samples.vlm.family} model has no image tokens in its text to attend to")
    return [float(total) / samples.count for total in sums]


@importance_method("change", "base")
def change(context: ScoringContext) -> Sequence[float]:
    """Relative change of the weights by tuning, ||W' - W|| / ||W||.

    With W_m a matrix of the layer in the base and W'_m the same one after tuning, adapters merged, it is

        sum over m of ||W'_m - W_m|| / ||W_m||

    in the Frobenius norm, over the layer's matrices (in a Llama its seven linears; norms and biases are left out). This
    is the parameter change ratio of Visual-Region (arXiv:2412.12785, section 3), summed over the linears as its code
    sums distances; a mean would give the same order.
    """
    from vrbench.pruning.weight_distances import matrix_distances

    return matrix_distances(context, lambda new, old: float((new - old).norm() / old.norm()))


@importance_method("block-influence", "images")
def block_influence(context: ScoringContext) -> Sequence[float]:
    """One minus the cosine similarity of the layer's input and output.

    With x_t and y_t the hidden states that enter and leave a layer at token t of a sample of T tokens, it is the mean
    over the samples of

        1 - (1 / T) * sum over t of x_t . y_t / (|x_t| |y_t|)

    which is 0 for a layer that changes no direction, and at most 2. Source: ShortGPT (arXiv:2403.03853), equation 1;
    averaged over all tokens of a sample and then over samples. A state of zeros counts as a cosine of 0. What published
    code does otherwise is in `block-influence-shortgpt` and `block-influence-visual-region`.
    """
    from vrbench.pruning.hidden_states import cosines, layer_means

    return layer_means(context.samples, lambda entering, leaving: 1 - cosines(entering, leaving), "all")[0]


@importance_method("block-influence-shortgpt", "images")
def block_influence_shortgpt(context: ScoringContext) -> Sequence[float]:
    """Block influence as in ShortGPT's code: a zero state counts 0.5, final norm included.

    As `block_influence`, but what leaves the last layer is read after the final norm, a state of zeros counts as a
    cosine of 0.5, and the mean is over the tokens of all samples together. Source: icip-cas/ShortGPT,
    shortgpt/metrics.py and shortgpt.py. That code sums, which gives the same order; it counts padding too.
    """
    from vrbench.pruning.hidden_states import published_block_influence

    return published_block_influence(context.samples, of_zeros=0.5, over_tokens=True)


@importance_method("block-influence-visual-region", "images")
def block_influence_visual_region(context: ScoringContext) -> Sequence[float]:
    """Block influence as in Visual-Region's code: zero states left out, final norm included.

    As `block_influence`, but what leaves the last layer is read after the final norm, and tokens with a state of zeros
    are left out of a sample's mean. Source: SiyuanWangw/Visual-Region, bunny/eval/block_influence_calc.py.
    """
    from math import nan

    from vrbench.pruning.hidden_states import published_block_influence

    return published_block_influence(context.samples, of_zeros=nan, over_tokens=False)


@importance_method("multimodal-block-influence", "image_tokens")
def multimodal_block_influence(context: ScoringContext) -> Sequence[float]:
    """Block influence with equal weight for text and image tokens.

    With BI over the tokens of one kind as in `block_influence`, for a sample with text tokens and image tokens, it is
    the mean over the samples of

        (BI over its text tokens + BI over its image tokens) / 2

    Source: Visual-Region (arXiv:2412.12785), section 3, and its code, which takes tokens 32 to T - 12 for the image's;
    here they are the tokens that the image's features replace.
    """
    from vrbench.pruning.hidden_states import cosines, layer_means

    kinds = layer_means(context.samples, lambda entering, leaving: 1 - cosines(entering, leaving), "text", "image")
    return [(text + image) / 2 for text, image in zip(*kinds, strict=True)]


@importance_method("angular", "images")
def angular(context: ScoringContext) -> Sequence[float]:
    """Angular distance between the layer's input and output.

    With x_t and y_t as in `block_influence`, it is the mean over the samples of

        (1 / T) * sum over t of (1 / pi) * arccos(x_t . y_t / (|x_t| |y_t|))

    which is 0 for a layer that turns nothing, and at most 1. This is the distance of Gromov et al. 2024, "The
    Unreasonable Ineffectiveness of the Deeper Layers" (arXiv:2403.17887), for a block of one layer, averaged over all
    tokens of a sample where they take the last one. A state of zeros, as a padding token's embedding may be, has no
    direction; its distance to any other is 1/2.
    """
    from vrbench.pruning.hidden_states import angles, layer_means

    return layer_means(context.samples, angles, "all")[0]


@importance_method("angular-weights", "base")
def angular_weights(context: ScoringContext) -> Sequence[float]:
    """Angular distance between the weights before and after tuning.

    With the matrices W'_m and W_m of a layer as in `change`, read as vectors, it is

        sum over m of (1 / pi) * arccos(W'_m . W_m / (||W'_m|| ||W_m||))

    as in Visual-Region's code (arXiv:2412.12785): each at most 1, summed over the layer's linears. The angle between
    the unit vectors u and v is computed as 2 atan2(||u - v||, ||u + v||), which keeps its digits for small angles.
    """
    from vrbench.pruning.weight_distances import matrix_distances

    def distance(new: Tensor, old: Tensor) -> float:
        u, v = new / new.norm(), old / old.norm()
        return float(2 * (u - v).norm().atan2((u + v).norm()) / pi)

    return matrix_distances(context, distance)


@importance_method("fisher", "answers", turns=2)
def fisher(context: ScoringContext) -> Sequence[float]:
    """Squared gradient of the answers' loss with respect to the layer's weights.

    With L_s the loss of the right answer of sample s in nats (summed over the answer's tokens) and w the entries of the
    layer's linears, it is the mean over the samples of

        sum over w of (dL_s / dw)^2

    Source: the diagonal of the empirical Fisher matrix, as Kirkpatrick et al. 2017 (arXiv:1612.00796) and Theis et al.
    2018 (arXiv:1801.05787, equation 9) use it; the gradient is squared for each sample, not for a batch. Norms and
    biases are left out. No gradient of a weight is computed: for a linear with inputs x_t and gradients g_t of its
    outputs, the sum is (x_t . x_u)(g_t . g_u) summed over all pairs of tokens t and u of the sample (Goodfellow 2015,
    arXiv:1510.01799).
    """
    import torch

    from vrbench.pruning.gradients import backward_passes, watch_linears

    samples = context.samples
    sums = torch.zeros(samples.depth, dtype=torch.float64)

    def see(layer: int, inputs: Tensor, gradient: Tensor) -> None:
        inputs, gradient = inputs.float(), gradient.float()
        products = (inputs @ inputs.mT) * (gradient @ gradient.mT)
        sums[layer] += float(products.double().sum())

    for run in backward_passes(samples):
        with watch_linears(samples.vlm.model, see):
            run()
    return [float(total) / samples.count for total in sums]


@importance_method("taylor", "answers", turns=2)
def taylor(context: ScoringContext) -> Sequence[float]:
    """First-order change of the answers' loss if the layer is scaled down.

    Let a gate a scale what a layer adds, so that it returns x + a (y - x) for input x and output y; a = 1 is the model
    as it is, a = 0 is the model without the layer. With L_s the loss of the right answer of sample s in nats, and g_t
    its gradient by the layer's output at token t, it is the mean over the samples of

        |dL_s / da at a = 1| = |sum over t of g_t . (y_t - x_t)|

    Source: the Taylor criterion of Molchanov et al. 2017 (arXiv:1611.06440, equation 8) for a feature map, here for a
    layer's residual branch. It costs one forward and one backward pass for all layers.
    """
    import torch

    from vrbench.pruning.gradients import backward_passes
    from vrbench.pruning.layer_hooks import watch_layers

    samples = context.samples
    sums = torch.zeros(samples.depth, dtype=torch.float64)

    def see(layer: int, entering: Tensor, leaving: Tensor) -> None:
        added = (leaving - entering).detach()

        def add(gradient: Tensor) -> None:
            sums[layer] += float((gradient.double() * added).sum((1, 2)).abs().sum())

        leaving.register_hook(add)

    for run in backward_passes(samples):
        with watch_layers(samples.vlm.model, see):
            run()
    return [float(total) / samples.count for total in sums]


@importance_method("lora-norm", "adapter")
def lora_norm(context: ScoringContext) -> Sequence[float]:
    """Norm of the LoRA update of the layer, ||scale B A||; 0 for a layer without LoRA.

    With A_m [r, in] and B_m [out, r] the adapter's matrices on the linear m of the layer, and s_m its scale (alpha / r,
    or alpha / sqrt(r) with rsLoRA), it is

        sum over m of ||s_m B_m A_m||

    in the Frobenius norm: the numerator of `change`, of the adapter alone, the one nearest to the checkpoint.

    Raises:
        VrbenchError: the adapter is a DoRA, whose matrices alone do not determine the change.
    """
    from vrbench.pruning.weight_distances import adapter_norms

    return adapter_norms(context.ckpt)
