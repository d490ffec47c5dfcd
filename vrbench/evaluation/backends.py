"""Backends, which send requests to a loaded model in batches.

A backend takes requests of one kind and yields responses as they are computed. `PackedBackend` computes what requests
share once. `WholePromptBackend` takes prompts with images as the family's own processor and forward pass read them.
Both generate in slots that are refilled as answers end. `PaddedBackend` gives whole prompts to transformers'
`generate`, for decoders whose steps need more than the keys and values of a prompt. Where vLLM has the
weights instead, `vllm_backend.VllmBackend` answers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Protocol

from vrbench.core.provenance import VLLM
from vrbench.evaluation.family_backends import PaddedBackend, WholePromptBackend
from vrbench.evaluation.packed_backend import PackedBackend
from vrbench.evaluation.requests import GenerationRequest, Request, Response, Unanswered
from vrbench.evaluation.vision_features import VisionFeatureCache
from vrbench.models.memory_budget import MemoryBudget

if TYPE_CHECKING:
    from vrbench.checkpoints.checkpoint import Checkpoint
    from vrbench.evaluation.run_config import RunConfig
    from vrbench.models.base_vlm import BaseVLM
    from vrbench.models.base_weights import BaseCache


class Backend(Protocol):
    """Requests of one kind, ready for one kind of model."""

    @property
    def unanswered(self) -> Mapping[str, Unanswered]:
        """Key -> reason, for each request that the model cannot answer; `answers` leaves them out."""

    def answers(self, budget: MemoryBudget, /) -> Iterator[Mapping[str, Response]]:
        """Yield responses by key as they are computed; another call goes on with the requests that are left."""


@contextmanager
def loaded_vlm(
    checkpoint: Checkpoint, config: RunConfig, device: str, bases: BaseCache | None = None
) -> Iterator[BaseVLM]:
    """Load a checkpoint's weights, or all but these where vLLM answers, which ends with the block.

    Args:
        config: with a real dtype.
        device: of this process.
        bases: as in `load_vlm`.
    """
    if config.backend == VLLM:
        from vrbench.evaluation.vllm_backend import served_vlm

        rows = config.batch_size if isinstance(config.batch_size, int) else None
        with served_vlm(checkpoint, device, config.dtype, config.image_settings, config.gpu_memory, rows) as vlm:
            yield vlm
    else:
        from vrbench.models import placement
        from vrbench.models.load import load_vlm

        spread: Callable[[Any], Any] | None = None
        if config.tp:
            spread = partial(placement.share_tensors, device=device)
        elif config.device_map:
            spread = partial(placement.spread_layers, gpu_memory=config.gpu_memory)
        yield load_vlm(checkpoint, device, config.dtype, images=config.image_settings, bases=bases, spread=spread)


def backends_of(vlm: BaseVLM, requests: Mapping[str, Request], features: VisionFeatureCache) -> list[Backend]:
    """Return the backends that answer some requests of one kind, by key."""
    from vrbench.models.hf_model import HFModel

    if vlm.vllm is not None:
        from vrbench.evaluation.vllm_backend import VllmBackend

        return [VllmBackend(vlm, vlm.vllm, requests)] if requests else []

    packed: dict[str, Request] = {}
    whole: dict[str, Request] = {}
    padded: dict[str, Request] = {}
    for key, request in requests.items():
        has_images = isinstance(request, GenerationRequest) and bool(request.images)
        if has_images and isinstance(vlm, HFModel):
            (whole if vlm.generates_in_slots else padded)[key] = request
        else:
            (packed if vlm.shares_prefixes else padded)[key] = request
    backends: list[Backend] = []
    if packed:
        backends.append(PackedBackend(vlm, packed, features))
    if whole and isinstance(vlm, HFModel):
        backends.append(WholePromptBackend(vlm, whole))
    if padded and isinstance(vlm, HFModel):
        backends.append(PaddedBackend(vlm, padded))
    return backends
