"""What the checkpoints of one run share: each of it is computed or loaded once, whichever of them needs it first."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from vrbench.checkpoints.checkpoint import Checkpoint

if TYPE_CHECKING:
    from vrbench.evaluation.built_task import RequestCache
    from vrbench.evaluation.vision_features import VisionFeatureCache
    from vrbench.models.base_weights import BaseCache


class SharedWork:
    """Requests, vision features and the base's weights of a run; what only one checkpoint needs is not kept."""

    def __init__(self, checkpoints: Sequence[Checkpoint]) -> None:
        """Args: checkpoints: of the run, in the order in which they are loaded."""
        self._several = len(checkpoints) > 1
        self._left = list(checkpoints)

    @cached_property
    def features(self) -> VisionFeatureCache:
        """Vision features by tower and image."""
        from vrbench.evaluation.vision_features import VisionFeatureCache

        return VisionFeatureCache(shared=self._several)

    @cached_property
    def requests(self) -> RequestCache:
        """Built tasks and requests."""
        from vrbench.evaluation.built_task import RequestCache

        return RequestCache() if self._several else RequestCache(budget=0)

    def bases(self, checkpoint: Checkpoint) -> BaseCache:
        """Return what keeps the base, told which checkpoints follow this one."""
        from vrbench.models.load import first_loaded

        self._left = self._left[self._left.index(checkpoint) + 1 :]
        self._bases.expected = [first_loaded(one).digest for one in self._left]
        return self._bases

    @cached_property
    def _bases(self) -> BaseCache:
        from vrbench.models.base_weights import BaseCache

        return BaseCache()
