"""When memory runs out: what was too large, and what to lower."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vrbench.core.device import is_out_of_memory
from vrbench.core.errors import VrbenchError


@contextmanager
def out_of_memory(label: str, batch: int, accumulate: int, tokens: int, watch: Any) -> Iterator[None]:
    """Turn running out of memory into a fault that says batch, tokens a row, and what to lower.

    Args:
        label: the stage.
        batch: samples a step.
        accumulate: parts that a step is computed in.
        tokens: of the longest row.
        watch: says where the last state is kept.

    Raises:
        VrbenchError: memory ran out.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_out_of_memory(error):
            raise
        rows = f", rows of up to {tokens} tokens" if tokens else ""
        raise VrbenchError(
            f"{label}: memory ran out with {batch} samples a step, computed in {accumulate} part(s){rows}; raise "
            f"accumulate (the result is the same), set checkpointing, lower batch, or tune fewer layers{watch.kept()}"
        ) from error
    finally:
        watch.close()
