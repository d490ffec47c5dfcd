"""The resolved checkpoint: complete weights on disk, how they were made, and edits applied on loading (no torch)."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from vrbench.checkpoints.lineage import LINEAGE_FILE, LayerOrigins, layer_origins
from vrbench.core.io import read_text
from vrbench.core.layers import LayerSet
from vrbench.core.schemas import CheckpointRef, Lineage

ADAPTER = "adapter_model.safetensors"
ADAPTER_CONFIG = "adapter_config.json"
DELTA = "delta.safetensors"
PROJECTOR = "projector.safetensors"
TOWER = "tower.safetensors"
TUNED_TOWER = "tuned_tower.safetensors"
TEMPLATE = "chat_template.jinja"
OVERLAY_FILES = (ADAPTER, DELTA, PROJECTOR, TOWER, TUNED_TOWER)
"""Weight files of a folder that changes another checkpoint."""

WHOLE_LLM = "weights+embeddings"
"""Method of a lineage's step: like 'weights', and embeddings, final norm and head were trained too (LISA)."""


@dataclass(frozen=True)
class Checkpoint:
    """Weights that were found complete, and how they were made.

    Attributes:
        id: the name that the user gave, or a folder's name.
        path: the folder.
        revision: the hub's revision, if it came from a hub.
        digest: sha256 over all that determines its answers: weights, settings, tokenizer, base, removed layers.
        family: model family, a key of `vrbench.checkpoints.families.FAMILY_FACTS`.
        depth: decoder layers of the loaded model.
        lineage: its own `vrbench.json` first, then those of its bases.
        base: the checkpoint that is loaded first; None for a folder that holds a complete model.
        edits: what is then done to the base's layers, in order, before the folder's own weights are applied.
        code: Python file that comes with it and is run when it is loaded -> its sha256; empty where transformers has
            the model.
    """

    id: str
    path: Path
    revision: str
    digest: str
    family: str
    depth: int
    lineage: tuple[Lineage, ...] = ()
    base: Checkpoint | None = None
    edits: tuple[LayerEdit, ...] = ()
    code: dict[str, str] = field(default_factory=dict)

    def ref(self) -> CheckpointRef:
        """Return the reference to it that a run's record contains."""
        return CheckpointRef(
            id=self.id, revision=self.revision, digest=self.digest, family=self.family, depth=self.depth,
            lineage=self.lineage, code=self.code,
        )  # fmt: skip

    @property
    def root(self) -> Checkpoint:
        """The complete model that is loaded first."""
        return self.base.root if self.base else self

    @property
    def has_adapter(self) -> bool:
        """Whether PEFT takes part in loading: an adapter in its folder, in its base's, or in a backbone's."""
        below = [self.base, *(edit.backbone for edit in self.edits)]
        return self.has(ADAPTER) or any(of.has_adapter for of in below if of is not None)

    @property
    def removed(self) -> tuple[LayerSet, ...]:
        """The layers to remove from the base, step by step; each set counts in the depth left by the one before."""
        return tuple(edit.layers for edit in self.edits if edit.kind == "pruned")

    @property
    def origins(self) -> LayerOrigins:
        """Where its decoder layers come from, and which of them are tuned."""
        return layer_origins(self.lineage, self.depth)

    @property
    def template(self) -> str | None:
        """The chat template that it, or the nearest of its bases, was trained with instead of its base's; None: none.

        Only a folder that vrbench has made says so: others have copies of their base's.
        """
        if self.base is None:
            return None
        if self.has(TEMPLATE) and self.has(LINEAGE_FILE):
            return read_text(self.path / TEMPLATE)
        return self.base.template

    def has(self, file: str) -> bool:
        """Return whether the folder holds a file such as "projector.safetensors"."""
        return (self.path / file).is_file()


@dataclass(frozen=True)
class LayerEdit:
    """One change of the base's decoder layers when a checkpoint is loaded.

    Attributes:
        kind: "pruned": the layers are removed; "restored": they get the backbone's weights.
        layers: counted in the depth that the edits before left.
        backbone: whose weights restored layers get.
        sources: for each restored layer, its index in the backbone.
    """

    kind: Literal["pruned", "restored"]
    layers: LayerSet
    backbone: Checkpoint | None = None
    sources: tuple[int, ...] = ()
