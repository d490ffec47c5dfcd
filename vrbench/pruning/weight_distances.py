"""How far a tuning moved each decoder layer's weights: parameter change ratio, and angular distance between weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from math import pi
from typing import TYPE_CHECKING

import torch

from vrbench.checkpoints.parameter_names import TOWER, first_of
from vrbench.checkpoints.random_shapes import RECIPE
from vrbench.core.errors import VrbenchError
from vrbench.models.components import layer_parameters
from vrbench.models.load import load_model
from vrbench.models.overlay import backbone_layers
from vrbench.pruning.scoring_context import paired

if TYPE_CHECKING:
    from torch import Tensor

    from vrbench.checkpoints.resolve import Checkpoint

Tensors = dict[str, "Tensor"]


def change_ratios(ckpt: Checkpoint, base: Checkpoint, device: str = "cpu") -> list[float]:
    """The parameter change ratio of each decoder layer; 0 for a layer that the tuning left alone.

    With W_m a matrix of the layer in the base and W'_m the same one after the tuning, an adapter merged, it is

        sum over m of ||W'_m - W_m|| / ||W_m||

    in the Frobenius norm, over the layer's matrices (in a Llama its seven linears; norms and biases are left out). This
    is the ratio of Visual-Region (arXiv:2412.12785, section 3), summed over the linears as its code sums distances; a
    mean would give the same order.

    Args:
        ckpt: the tuned checkpoint.
        base: what it was tuned from, or any other with its layers.
        device: where the matrices are compared, one at a time, in float64.

    Raises:
        VrbenchError: layers cannot be paired, or have other matrices.
    """
    return _summed(ckpt, base, device, lambda new, old: float((new - old).norm() / old.norm()))


def weight_angles(ckpt: Checkpoint, base: Checkpoint, device: str = "cpu") -> list[float]:
    """The angular distance between each decoder layer's weights after and before the tuning; 0 for one left alone.

    With the matrices W'_m and W_m of a layer as in `change_ratios`, read as vectors, it is

        sum over m of (1 / pi) * arccos(W'_m . W_m / (||W'_m|| ||W_m||))

    as Visual-Region's code has it (arXiv:2412.12785): each at most 1, summed over the layer's linears. The angle
    between the unit vectors u and v is computed as 2 atan2(||u - v||, ||u + v||), which is the same one and keeps its
    digits where the angle is small.

    Args and errors: as `change_ratios`.
    """
    return _summed(ckpt, base, device, _angle)


def _angle(new: Tensor, old: Tensor) -> float:
    u, v = new / new.norm(), old / old.norm()
    return float(2 * torch.atan2((u - v).norm(), (u + v).norm()) / pi)


@torch.inference_mode()
def _summed(ckpt: Checkpoint, base: Checkpoint, device: str, of: Callable[[Tensor, Tensor], float]) -> list[float]:
    """For each layer the sum of a distance over its matrices, which are given to it in float64."""
    sums = []
    twins = paired(ckpt, base)
    ours, theirs = _reader(ckpt), _reader(base)
    for layer, twin in enumerate(twins):
        pairs = _matched(ckpt, ours(layer), base, theirs(twin))
        sums.append(sum(of(new.to(device).double(), old.to(device).double()) for new, old in pairs))
    return sums


def _reader(checkpoint: Checkpoint) -> Callable[[int], Tensors]:
    """Layer -> its tensors by canonical name: read alone where files hold them, else of the model put together."""
    plain = checkpoint
    while plain.base is not None and plain.has(TOWER):
        plain = plain.base  # whose decoder a tower leaves alone
    if plain.base is None and not plain.has(RECIPE):
        return lambda layer: backbone_layers(plain, [layer], _none)
    model = load_model(checkpoint, torch.float32)
    return lambda layer: {name: p.detach() for name, p in layer_parameters(model, [layer]).items()}


def _none(backbone: Checkpoint) -> None:
    raise AssertionError(f"{backbone.id} is read from files")


def _matched(ckpt: Checkpoint, ours: Tensors, base: Checkpoint, theirs: Tensors) -> Iterator[tuple[Tensor, Tensor]]:
    """The matrices of one layer in both, pair by pair."""
    new, old = ({_inside(name): t for name, t in of.items() if t.dim() == 2} for of in (ours, theirs))
    other = sorted(
        name for name in {*new, *old} if name not in new or name not in old or new[name].shape != old[name].shape
    )
    if other:
        raise VrbenchError(
            f"{ckpt.id} and {base.id} differ in {first_of(other)} of a layer: missing, or of another shape"
        )
    return ((new[name], old[name]) for name in sorted(new))


def _inside(name: str) -> str:
    """A tensor's name in its layer: 'mlp.up_proj.weight'."""
    return name.split(".", 2)[2]
