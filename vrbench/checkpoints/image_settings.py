"""Whose settings of the image processor hold: what the checkpoint has, what lmms-eval's class puts in their place."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vrbench.core.io import read_json

if TYPE_CHECKING:
    from vrbench.checkpoints.resolve import Checkpoint

HARNESS, AS_STORED, PAD = CHOICES = ("harness", "checkpoint", "pad")
"""As lmms-eval's class for the family has them; as the checkpoint has them; padded to a square as LLaVA-1.5 does."""

OLD_NAMES = {"shortest_edge": "min_pixels", "longest_edge": "max_pixels"}
"""Pixels of an image at least and at most: how `size` calls them -> how older folders do."""


def stored_settings(folder: Path) -> dict[str, Any]:
    """The settings of a folder's image processor, from where transformers takes them; empty where there are none."""
    nested = read_json(folder / "processor_config.json").get("image_processor")
    return nested if isinstance(nested, dict) else read_json(folder / "preprocessor_config.json")


def overridden_settings(checkpoint: Checkpoint) -> dict[str, tuple[Any, Any]]:
    """Setting -> (the checkpoint's value, none where it names none; the value that the family's class puts there).

    Settings that are the same in both are left out.
    """
    from vrbench.checkpoints.families import family_of

    own, found = stored_settings(checkpoint.root.path), {}
    for name, value in family_of(checkpoint).manner.pictures.items():
        for key, inner in value.items() if isinstance(value, Mapping) else [(name, value)]:
            part = own.get(name) if isinstance(value, Mapping) else own
            kept = own.get(OLD_NAMES.get(key, ""))  # it counts before `size`; newer folders write null beside that
            if kept is None:
                kept = part.get(key) if isinstance(part, Mapping) else None
            if kept != inner:
                found[OLD_NAMES.get(key, key)] = (kept, inner)
    return found


def cropped_share(settings: Mapping[str, Any]) -> float:
    """The share of an image twice as wide as high that an image processor cuts off; 0 where it cuts nothing."""
    if not settings.get("do_center_crop") or settings.get("do_pad"):
        return 0.0
    size, crop = settings.get("size"), settings.get("crop_size")
    edge = size.get("shortest_edge") if isinstance(size, Mapping) else size
    sides = [crop.get("height"), crop.get("width")] if isinstance(crop, Mapping) else [crop, crop]
    height, width = (side if isinstance(side, int) else 0 for side in sides)
    if not isinstance(edge, int) or min(edge, height, width) < 1:
        return 0.0  # it is brought to one size whatever its shape, so that nothing hangs over
    return 1 - min(height, edge) * min(width, 2 * edge) / (2 * edge * edge)


def validate_choice(checkpoint: Checkpoint, choice: str) -> Iterator[str]:
    """Why a checkpoint cannot be asked with a choice of image settings."""
    if choice == PAD and (checkpoint.family != "llava" or not cropped_share(stored_settings(checkpoint.root.path))):
        what = "its image processor cuts nothing off" if checkpoint.family == "llava" else "its family has its own way"
        yield (
            f"{checkpoint.id} of family {checkpoint.family!r} cannot be shown padded images: {what}; "
            f"leave out --image-settings {PAD}, which is for LLaVA folders whose image processor crops"
        )


def image_notes(checkpoint: Checkpoint, choice: str = HARNESS) -> Iterator[str]:
    """What a reader must know of how a checkpoint is shown images, one sentence each."""
    from vrbench.checkpoints.families import family_of

    changed = overridden_settings(checkpoint)
    if changed:
        name = family_of(checkpoint).manner.model_name
        own = ", ".join(f"{setting} {_said(kept)}" for setting, (kept, _) in changed.items())
        theirs = ", ".join(f"{setting} {_said(value)}" for setting, (_, value) in changed.items())
        if choice == HARNESS:
            yield f"images are shown with {theirs}, as lmms-eval's {name} has it; the checkpoint has {own}"
        else:
            yield f"images are shown with the checkpoint's {own}; lmms-eval's {name} has {theirs}"
    share = cropped_share(stored_settings(checkpoint.root.path))
    if share and choice == PAD:
        yield "images are padded to a square with the mean colour, as LLaVA-1.5 was trained; the folder would crop them"
    elif share:
        yield f"images are cropped: {100 * share:.0f} % of one twice as wide as high is not shown"


def lines(checkpoints: Iterable[Checkpoint], choice: str) -> Iterator[str]:
    """What is told of checkpoints before they are asked: a line each for what is not as their files have it, or cut."""
    for checkpoint in checkpoints:
        other = remedy(checkpoint, choice)
        for note in image_notes(checkpoint, choice):
            yield f"{checkpoint.id}: {note}" + (f" ({other})" if other else "")


def remedy(checkpoint: Checkpoint, choice: str = HARNESS) -> str:
    """Which other choice there is; empty where it would change nothing."""
    other = [AS_STORED] if choice == HARNESS and overridden_settings(checkpoint) else []
    crops = checkpoint.family == "llava" and choice != PAD and cropped_share(stored_settings(checkpoint.root.path))
    return " or ".join(f"--image-settings {name}" for name in [*other, *([PAD] if crops else [])])


def padded(image_processor: Any) -> Any:
    """The same image processor, which first pads to a square with the mean colour (`expand2square` of LLaVA-1.5)."""
    from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

    settings = {name: value for name, value in image_processor.to_dict().items() if not name.startswith("_")}
    settings.pop("image_processor_type", None)
    return LlavaImageProcessorPil(**{**settings, "do_pad": True})


def _said(value: Any) -> str:
    return "the processor's default" if value is None else f"{value:,}" if isinstance(value, int) else str(value)
