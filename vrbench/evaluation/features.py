"""Vision features, computed once a picture and kept for all checkpoints that share the vision tower."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING

from vrbench.evaluation.requests import RequestImage

if TYPE_CHECKING:
    import torch

    from vrbench.models.llava_model import LlavaModel

BUDGET = 2 * 1024**3
AT_ONCE = 32
"""Pictures in one pass of the tower."""


class VisionFeatureCache:
    """Tower outputs by (tower digest, picture digest), least recently used first out.

    Attributes:
        budget: bytes kept at most; the features of one call are returned even if they exceed it.
        computed: pictures that went through a tower.
    """

    def __init__(self, budget: int = BUDGET) -> None:
        self.budget = budget
        self.computed = 0
        self._kept: OrderedDict[tuple[str, str], torch.Tensor] = OrderedDict()
        self._bytes = 0

    def features(self, vlm: LlavaModel, pictures: Sequence[RequestImage]) -> dict[str, torch.Tensor]:
        """Picture digest -> features [tokens, width of the tower], on the CPU."""
        tower = vlm.tower_digest
        found: dict[str, torch.Tensor] = {}
        missing: dict[str, RequestImage] = {}
        for picture in pictures:
            if (tower, picture.digest) in self._kept:
                self._kept.move_to_end((tower, picture.digest))
                found[picture.digest] = self._kept[tower, picture.digest]
            else:
                missing[picture.digest] = picture
        todo = list(missing.values())
        for start in range(0, len(todo), AT_ONCE):
            part = todo[start : start + AT_ONCE]
            for picture, features in zip(part, vlm.encode_images([p.load() for p in part]), strict=True):
                found[picture.digest] = features
                self._keep((tower, picture.digest), features.clone())
        self.computed += len(todo)
        return found

    def _keep(self, key: tuple[str, str], features: torch.Tensor) -> None:
        self._kept[key] = features
        self._bytes += features.nbytes
        while self._bytes > self.budget and self._kept:
            _, dropped = self._kept.popitem(last=False)
            self._bytes -= dropped.nbytes
