"""Conversion of checkpoints in their authors' layout to folders that transformers loads without their code."""

from __future__ import annotations

from pathlib import Path


def convert(source: str, out: str | Path, base: str | None = None, vision_tower: str | None = None) -> Path:
    """Write a LLaVA-1.5 or Bunny checkpoint in transformers' `LlavaForConditionalGeneration` layout.

    Args:
        source: folder in the original layout: a merged model, a projector (`mm_projector.bin`) or a LoRA folder.
        out: the folder to make; it must not exist, or be empty. A conversion that fails leaves none.
        base: the language model's folder or hub id, for a projector or a LoRA folder.
        vision_tower: the tower's folder or hub id; needed where the source does not hold the tower's weights.

    Returns:
        The folder, with `vrbench.json` written last.

    Raises:
        VrbenchError: every error that names, shapes and settings show, before a weight is read.
    """
    from vrbench.conversion.target import write_target

    return write_target(source, Path(out), base, vision_tower)
