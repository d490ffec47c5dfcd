"""Decoder layers put back to the weights of the language model that they were trained from."""

from __future__ import annotations

from pathlib import Path

from vrbench.checkpoints.layer_edits import restoring
from vrbench.checkpoints.new_folder import made_folder, name_beside, refuse_taken, write_lineage
from vrbench.checkpoints.resolve import resolve, resolve_backbone
from vrbench.core.errors import raise_errors
from vrbench.core.layers import select_layers
from vrbench.core.schemas import BaseRef, Lineage, LineageStep


def restore(ckpt: str, layers: str, backbone: str, out: Path, id_: str = "") -> Path:
    """See `vrbench.pruning.restore`."""
    refuse_taken(out)
    base, source = resolve(ckpt), resolve_backbone(backbone)
    chosen = select_layers(layers, base.depth)
    raise_errors(restoring(base, (), chosen, source)[1])
    step = LineageStep(
        kind="restored", layers=str(chosen), depth=base.depth, method="weights",
        backbone=BaseRef(id=name_beside(backbone, out), digest=source.digest),
    )  # fmt: skip
    lineage = Lineage(
        id=id_ or out.resolve().name, family=base.family, depth=base.depth, steps=(step,),
        base=BaseRef(id=name_beside(ckpt, out), digest=base.digest),
        licence=base.lineage[0].licence if base.lineage else "",
    )  # fmt: skip
    with made_folder(out) as folder:
        write_lineage(folder, lineage)
        resolve(str(folder))
    return out
