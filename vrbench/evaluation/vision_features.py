"""Outputs of vision towers, computed once for each image and kept for the checkpoints that share a tower."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from vrbench.evaluation.prefetch import Prefetcher
from vrbench.evaluation.requests import RequestImage

if TYPE_CHECKING:
    import torch

    from vrbench.models.llava_model import LlavaModel

FEATURE_BYTES = 2 * 1024**3
"""Bytes of vision features that are kept on a CPU."""

FEATURE_SHARE = 0.05
"""Share of the GPU's memory in use that they may take there: of 120 GB as much as 5,000 images of LLaVA-1.5 need."""

IMAGES_PER_PASS = 32
"""Images in one pass of the vision tower."""


class VisionFeatureCache:
    """Vision tower outputs by (tower digest, image digest), shared by the checkpoints of a run; the oldest are dropped.

    Attributes:
        budget: bytes kept at most; the features of one call are returned even if they exceed it.
        shared: whether several checkpoints may have the same tower; else its weights need no digest.
        computed: images that went through a tower.
    """

    def __init__(self, budget: int = FEATURE_BYTES, shared: bool = True) -> None:
        self.budget, self.shared = budget, shared
        self.computed = 0
        self._kept: OrderedDict[tuple[str, str], torch.Tensor] = OrderedDict()
        self._towers: dict[str, str] = {}  # digest of the checkpoint that has a tower -> the tower's digest
        self._ahead: Prefetcher[str, torch.Tensor] | None = None

    def plan_memory(self, device: torch.device, gpu_memory: float) -> float:
        """Set the budget on a GPU to a share of the memory that may be used there; return what is left of that.

        Args:
            gpu_memory: share of the GPU's memory that may be used.
        """
        if device.type != "cuda":
            return gpu_memory
        import torch

        self.budget = int(FEATURE_SHARE * gpu_memory * torch.cuda.mem_get_info(device)[1])
        return (1 - FEATURE_SHARE) * gpu_memory

    def features(
        self, vlm: LlavaModel, images: Sequence[RequestImage], per_pass: int = IMAGES_PER_PASS
    ) -> dict[str, torch.Tensor]:
        """Return image digest -> features [tokens, width of the tower], on the model's device.

        Args:
            per_pass: most images in one pass of the vision tower.
        """
        tower = self._tower(vlm)
        missing = {image.digest: image for image in images if (tower, image.digest) not in self._kept}
        found = {image.digest: self._kept[tower, image.digest] for image in images if image.digest not in missing}
        for digest in found:
            self._kept.move_to_end((tower, digest))
        todo = list(missing.values())
        for start in range(0, len(todo), per_pass):
            part = todo[start : start + per_pass]
            pixels = [self._pixels(vlm, image) for image in part]
            for image, features in zip(part, vlm.encode_pixels(pixels), strict=True):
                found[image.digest] = features
                self._kept[tower, image.digest] = features
        self.computed += len(todo)
        held = sum(features.nbytes for features in self._kept.values())
        while held > self.budget and self._kept:
            held -= self._kept.popitem(last=False)[1].nbytes
        return found

    @contextmanager
    def loading(self, vlm: Any, images: Sequence[RequestImage]) -> Iterator[None]:
        """Load and preprocess images in threads within the block, in the order in which they will be needed."""
        tower = self._tower(vlm) if images else ""
        by_digest = {image.digest: image for image in images}  # all: kept ones may be dropped before use
        missing = [digest for digest in by_digest if (tower, digest) not in self._kept]
        with Prefetcher(vlm, lambda digest: vlm.pixels(by_digest[digest].load()), missing) as self._ahead:
            try:
                yield
            finally:
                self._ahead = None

    def _pixels(self, vlm: LlavaModel, image: RequestImage) -> torch.Tensor:
        return self._ahead(image.digest) if self._ahead else vlm.pixels(image.load())

    def _tower(self, vlm: LlavaModel) -> str:
        if not self.shared:
            return str(id(vlm))
        if not vlm.tower_origin:
            return vlm.tower_digest
        if vlm.tower_origin not in self._towers:
            self._towers[vlm.tower_origin] = vlm.tower_digest
        return self._towers[vlm.tower_origin]
