"""New checkpoint folders, which get their name only when they are complete."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vrbench.checkpoints.lineage import LINEAGE_FILE
from vrbench.core.cache import file_digest
from vrbench.core.errors import VrbenchError, raise_errors
from vrbench.core.io import validate_output, write_atomically
from vrbench.core.schemas import Lineage


def require_free(out: Path) -> None:
    """Check that a folder is missing or empty, and can be written.

    Raises:
        VrbenchError: it is not.
    """
    if (out / LINEAGE_FILE).exists():
        raise VrbenchError(f"{out} already holds a checkpoint; name another folder, or remove it")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise VrbenchError(f"{out} is not an empty folder; name another, or remove it")
    raise_errors(validate_output(out, "checkpoint"))


@contextmanager
def create_folder(out: Path) -> Iterator[Path]:
    """Yield a folder beside `out` to be filled; it is renamed to `out` at the end, or removed after an exception.

    Raises:
        VrbenchError: `out` is not empty, or cannot be written.
    """
    require_free(out)
    out = out.resolve()  # the target of a link can be replaced, the link cannot
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    try:
        yield temporary
        temporary.chmod(0o755)
        for file in temporary.iterdir():
            file.chmod(0o644)
        os.replace(temporary, out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_lineage(folder: Path, lineage: Lineage) -> None:
    """Write `vrbench.json`, with the digests of the weights in the folder."""
    weights = {path.name: file_digest(path) for path in sorted(folder.glob("*.safetensors"))}
    whole = lineage.model_copy(update={"weights": weights})
    write_atomically(folder / LINEAGE_FILE, whole.model_dump_json(indent=1) + "\n")
