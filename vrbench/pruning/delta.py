"""What tuning whole layers changed, as a small folder: these layers' weights and the projector's, beside the base."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from vrbench.checkpoints.new_folder import made_folder, name_beside, refuse_taken, write_lineage
from vrbench.checkpoints.parameter_names import DELTA, difference_faults, first_of
from vrbench.checkpoints.resolve import Checkpoint, resolve
from vrbench.core.errors import VrbenchError, raise_errors
from vrbench.core.layers import LayerSet
from vrbench.core.schemas import BaseRef, Lineage, LineageStep
from vrbench.models.components import layer_parameters, projector_parameters
from vrbench.models.load import load_model


def write_delta(
    model: Any, layers: LayerSet, base: str, out: str | Path, *, id_: str = "", step: LineageStep | None = None
) -> Path:
    """Write the folder of a tuned model whose base is at hand: `delta.safetensors` and `vrbench.json`, last.

    Args:
        model: transformers' model with the tuned weights; those outside of the layers and the projector are the base's.
        layers: the decoder layers that were tuned, out of the model's depth.
        base: checkpoint that the model was tuned from.
        out: folder to make.
        id_: id of the checkpoint; else the folder's name.
        step: what the lineage says of the training (stage, recipe, note); else only that weights were trained.

    Returns:
        The folder.

    Raises:
        VrbenchError: the folder is taken, the depths differ, a weight is not finite, or the model differs from its base
            elsewhere too.
    """
    from safetensors.torch import save_file

    out = Path(out)
    refuse_taken(out)
    below = resolve(base)
    if layers.depth != below.depth:
        raise VrbenchError(f"layers {layers} are out of {layers.depth}; {base} has {below.depth} decoder layers")
    _refuse_other_changes(model, layers, below)
    tensors = layer_parameters(model, layers) | projector_parameters(model)
    broken = sorted(name for name, p in tensors.items() if not bool(p.isfinite().all()))
    if broken:
        raise VrbenchError(
            f"the tuned model has values that are not finite in {first_of(broken)}; the training diverged"
        )
    about = {"kind": "trained", "layers": str(layers), "depth": below.depth, "method": "weights"}
    lineage = Lineage(
        id=id_ or out.resolve().name, family=below.family, depth=below.depth,
        steps=(step.model_copy(update=about) if step else LineageStep.model_validate(about),),
        base=BaseRef(id=name_beside(base, out), digest=below.digest),
        licence=below.lineage[0].licence if below.lineage else "",
    )  # fmt: skip
    with made_folder(out) as folder:
        kept = {name: p.detach().cpu().contiguous() for name, p in tensors.items()}
        save_file(kept, folder / DELTA, metadata={"format": "pt"})
        write_lineage(folder, lineage)
        resolve(str(folder))
    return out


def _refuse_other_changes(model: Any, layers: LayerSet, below: Checkpoint) -> None:
    """Refuse a tuned model whose delta would not be all that sets it apart from its base."""
    whole = load_model(below, torch.float32)
    ours, theirs = dict(model.named_parameters()), dict(whole.named_parameters())
    have, want = ({n: tuple(p.shape) for n, p in of.items()} for of in (ours, theirs))
    raise_errors(difference_faults("the tuned model", have, want, every=True))
    covered = {id(p) for p in (*layer_parameters(model, layers).values(), *projector_parameters(model).values())}
    other = sorted(
        name for name, p in ours.items() if id(p) not in covered and not torch.equal(p.cpu(), theirs[name].to(p.dtype))
    )
    if other:
        raise VrbenchError(
            f"the tuned model differs from {below.id} in {first_of(other)}, which no delta of layers {layers} holds"
        )
