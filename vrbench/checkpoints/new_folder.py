"""A checkpoint folder that appears under its name only when it is whole."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vrbench.checkpoints.lineage import MARKER
from vrbench.checkpoints.locate import name_beside as name_beside
from vrbench.core.cache import file_digest
from vrbench.core.errors import VrbenchError, raise_errors
from vrbench.core.io import validate_output, write_atomically
from vrbench.core.schemas import Lineage


def refuse_taken(out: Path) -> None:
    """Refuse a folder that holds something, or that cannot be made.

    Raises:
        VrbenchError: it does, or cannot.
    """
    if (out / MARKER).exists():
        raise VrbenchError(f"{out} already holds a checkpoint; name another folder, or remove it")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise VrbenchError(f"{out} is not an empty folder; name another, or remove it")
    raise_errors(validate_output(out, "checkpoint"))


@contextmanager
def made_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out`, to be filled; it becomes `out` at the end, or is removed when something is raised.

    Raises:
        VrbenchError: `out` holds something already.
    """
    refuse_taken(out)
    out = out.resolve()  # what a link leads to can be replaced, the link cannot
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
    """Write `vrbench.json`, with the digests of the weights that lie in the folder."""
    weights = {path.name: file_digest(path) for path in sorted(folder.glob("*.safetensors"))}
    whole = lineage.model_copy(update={"weights": weights})
    write_atomically(folder / MARKER, whole.model_dump_json(indent=1) + "\n")
