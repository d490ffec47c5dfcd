"""Conversion: a checkpoint in its authors' own layout in, a folder that transformers loads without their code out."""

from __future__ import annotations

from pathlib import Path


def convert(source: str, out: str | Path, base: str | None = None, vision_tower: str | None = None) -> Path:
    """Write a LLaVA-1.5 or Bunny checkpoint in transformers' `LlavaForConditionalGeneration` layout.

    Args:
        source: folder in the original layout: a merged model, a projector (`mm_projector.bin`) or a LoRA folder.
        out: the folder to make; it must not exist, or be empty. What fails on the way leaves none.
        base: the language model's folder or hub id, for a projector or a LoRA folder.
        vision_tower: the tower's folder or hub id; needed where the source does not hold the tower's weights.

    Returns:
        The folder, with `vrbench.json` written last.

    Raises:
        VrbenchError: every fault that can be told from names, shapes and settings, before a weight is read.
    """
    from vrbench.conversion.steps import run

    return run(source, Path(out), base, vision_tower)
