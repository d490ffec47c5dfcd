"""Which image processor settings apply: the checkpoint's, or those of lmms-eval's class (no torch)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vrbench.checkpoints.families import family_of
from vrbench.core.io import read_json

if TYPE_CHECKING:
    from vrbench.checkpoints.checkpoint import Checkpoint

HARNESS, AS_STORED, PAD = CHOICES = ("harness", "checkpoint", "pad")
"""As lmms-eval's class for the family has them; as the checkpoint has them; padded to a square as in LLaVA-1.5."""

OLD_NAMES = {"shortest_edge": "min_pixels", "longest_edge": "max_pixels"}
"""Fewest and most pixels of an image: their names in `size` -> their names in older folders."""


def stored_settings(folder: Path) -> dict[str, Any]:
    """Return the settings of a folder's image processor, from where transformers reads them, or an empty dict."""
    nested = read_json(folder / "processor_config.json").get("image_processor")
    return nested if isinstance(nested, dict) else read_json(folder / "preprocessor_config.json")


def overridden_settings(checkpoint: Checkpoint) -> dict[str, tuple[Any, Any]]:
    """Return setting -> (the checkpoint's value or None, the different value of lmms-eval's class for the family)."""
    own, found = stored_settings(checkpoint.root.path), {}
    for name, value in family_of(checkpoint).prompt_format.image_settings.items():
        for key, inner in value.items() if isinstance(value, Mapping) else [(name, value)]:
            part = own.get(name) if isinstance(value, Mapping) else own
            kept = own.get(OLD_NAMES.get(key, ""))  # takes precedence over `size`; newer folders write null beside that
            if kept is None:
                kept = part.get(key) if isinstance(part, Mapping) else None
            if kept != inner:
                found[OLD_NAMES.get(key, key)] = (kept, inner)
    return found


def cropped_share(settings: Mapping[str, Any]) -> float:
    """Return the share of an image twice as wide as high that an image processor cuts off; 0 where it cuts nothing."""
    if not settings.get("do_center_crop") or settings.get("do_pad"):
        return 0.0
    size, crop = settings.get("size"), settings.get("crop_size")
    edge = size.get("shortest_edge") if isinstance(size, Mapping) else size
    sides = [crop.get("height"), crop.get("width")] if isinstance(crop, Mapping) else [crop, crop]
    height, width = (side if isinstance(side, int) else 0 for side in sides)
    if not isinstance(edge, int) or min(edge, height, width) < 1:
        return 0.0  # it is resized to one size whatever its shape
    return 1 - min(height, edge) * min(width, 2 * edge) / (2 * edge * edge)


def validate_choice(checkpoint: Checkpoint, choice: str) -> Iterator[str]:
    """Yield why a choice of image settings does not apply to a checkpoint."""
    if choice == PAD and not _can_pad(checkpoint):
        reason = (
            "its image processor crops nothing"
            if checkpoint.family == "llava"
            else "padding is not how this family reads images"
        )
        yield (
            f"{checkpoint.id} of family {checkpoint.family!r} cannot be evaluated with padded images: {reason}; "
            f"leave out --image-settings {PAD}, which is for LLaVA folders whose image processor crops"
        )


def _can_pad(checkpoint: Checkpoint) -> bool:
    return checkpoint.family == "llava" and cropped_share(stored_settings(checkpoint.root.path)) > 0


def image_notes(checkpoint: Checkpoint, choice: str = HARNESS) -> Iterator[str]:
    """Yield what a reader must know about how a checkpoint's images are processed, one sentence each."""
    changed = overridden_settings(checkpoint)
    if changed:
        name = family_of(checkpoint).prompt_format.lmms_model_name
        own = ", ".join(f"{setting} {_format(kept)}" for setting, (kept, _) in changed.items())
        used = ", ".join(f"{setting} {_format(value)}" for setting, (_, value) in changed.items())
        if choice == HARNESS:
            yield f"images are processed with {used}, as in lmms-eval's {name}; the checkpoint has {own}"
        else:
            yield f"images are processed with the checkpoint's {own}; lmms-eval's {name} has {used}"
    share = cropped_share(stored_settings(checkpoint.root.path))
    if share and choice == PAD:
        yield "images are padded to a square with the mean colour, as in LLaVA-1.5's training; the folder crops them"
    elif share:
        yield f"images are cropped: {100 * share:.0f} % of one twice as wide as high is lost"


def notes_with_options(checkpoint: Checkpoint, choice: str = HARNESS) -> Iterator[str]:
    """Yield `image_notes`, each with the other values of --image-settings that would change something."""
    options = [AS_STORED] if choice == HARNESS and overridden_settings(checkpoint) else []
    options += [PAD] if choice != PAD and _can_pad(checkpoint) else []
    text = " or ".join(f"--image-settings {name}" for name in options)
    yield from (note + (f" ({text})" if text else "") for note in image_notes(checkpoint, choice))


def _format(value: Any) -> str:
    return "the processor's default" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
