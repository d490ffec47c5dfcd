"""What is printed of a checkpoint folder that a command has made."""

from __future__ import annotations

from pathlib import Path

TYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def print_made(folder: Path) -> None:
    """Print the folder, and the weight files in it with the types that they are written in, if it has any."""
    from vrbench.checkpoints.safetensors_index import read_header

    print(f"checkpoint: {folder}")
    files = sorted(folder.glob("*.safetensors"))
    if files:
        kinds = {tensor.dtype for file in files for tensor in read_header(file).values()}
        names = ", ".join(file.name for file in files) if len(files) < 4 else f"{len(files)} files"
        print(f"weights: {names} in {' and '.join(sorted(TYPES.get(kind, kind) for kind in kinds))}")
