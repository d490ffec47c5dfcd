"""The parts of a vision-language model of any family, found by what they are and not by a pattern on names.

The decoder is what transformers' `get_decoder` gives; the vision tower is the module that the config's vision part
describes; the projector is what lies between them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from vrbench.core.errors import VrbenchError

if TYPE_CHECKING:
    import torch

MERGERS = ("merger", "deepstack_merger_list")
"""What projects inside of a tower that has its projector in itself (Qwen2.5-VL, Qwen3-VL)."""


def decoder(model: Any) -> Any:
    """The LLM without its head: token embeddings, `layers`, norm.

    Raises:
        VrbenchError: the model has none with a list of layers.
    """
    found = model.get_decoder()
    if not hasattr(found, "layers"):
        raise VrbenchError(
            f"{type(model).__name__} has a {type(found).__name__}, which is no decoder with a list of layers"
        )
    return found


def decoder_layers(model: Any) -> torch.nn.ModuleList:
    """The decoder's layers: the module list itself."""
    return decoder(model).layers


def vision_tower(model: Any) -> torch.nn.Module:
    """Pixels to vision features.

    Raises:
        VrbenchError: no module is described by the config's vision part.
    """
    kind = type(model.config.vision_config)
    for module in model.model.children():
        if isinstance(getattr(module, "config", None), kind):
            return module
    raise VrbenchError(f"{type(model).__name__} has no vision tower that its vision_config describes")


def projector(model: Any) -> list[torch.nn.Module]:
    """Vision features to the decoder's width: beside tower and decoder, or the mergers inside of the tower.

    Raises:
        VrbenchError: there is neither.
    """
    tower = vision_tower(model)
    others = (tower, decoder(model))
    beside = [m for m in model.model.children() if m not in others and any(True for _ in m.parameters())]
    found = beside or [getattr(tower, name) for name in MERGERS if hasattr(tower, name)]
    if not found:
        raise VrbenchError(f"{type(model).__name__} has no projector beside or inside of its vision tower")
    return found
