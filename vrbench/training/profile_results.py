"""Results of `vrbench profile`: its rows, their file, and the tables of them (no torch)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, TypeAdapter, ValidationError
from tabulate import tabulate

from vrbench.core import os_errors
from vrbench.core.errors import VrbenchError
from vrbench.core.io import read_text, write_atomically
from vrbench.core.schemas import Record

RESULT_FIELDS = ("status", "seconds_per_step", "tokens_per_second", "peak_gib", "trainable", "device", "versions")
"""Fields with results; all others are settings."""

LEFT_ALIGNED = ("shape", "tuning", "checkpointing", "layers", "prefill")


class ProfileRow(Record):
    """One setting and its cost: a training step, or the prefill of a batch of prompts."""

    kind: Literal["train", "prefill"] = Field(description="What was timed.")
    shape: str = Field(description="Key of `vrbench.checkpoints.random_shapes.RANDOM_SHAPES`, such as 'llava-1.5-7b'.")
    tuning: Literal["lora", "weights"] | None = Field(default=None, description="How layers are tuned; none: prefill.")
    checkpointing: bool = Field(default=False, description="Whether activations are recomputed in the backward pass.")
    layers: str = Field(default="none", description="The tuned layers as given: 'sparse-uniform:8'.")
    indices: str = Field(default="none", description="The same as `LayerSet` text: '0,4,8'.")
    depth: int = Field(description="Decoder layers of the shape.")
    removed: int = Field(default=0, description="How many of them were removed.")
    batch: int = Field(description="Rows in a step.")
    tokens: int = Field(description="Tokens in a row, the image's included.")
    image_tokens: int = Field(description="Tokens of the image in a row.")
    answer_tokens: int = Field(default=0, description="Tokens of a row that have a loss; the LM head sees no others.")
    projector: bool = Field(default=False, description="Whether the projector is trained too.")
    dtype: str = Field(default="bfloat16", description="Type of frozen weights, and of all products.")
    masters: str = Field(default="", description="Type of trained weights, their gradient and AdamW's two moments.")
    rank: int | None = Field(default=None, description="LoRA rank.")
    alpha: float | None = Field(default=None, description="LoRA alpha.")
    dropout: float | None = Field(default=None, description="LoRA dropout.")
    attention: str = Field(default="sdpa", description="transformers' name of the attention.")
    compiled: bool = Field(default=False, description="Whether the decoder layers are compiled.")
    steps: int = Field(description="Steps that were timed, after the warm-up; their median is reported.")
    status: Literal["ok", "out of memory"] = Field(default="ok", description="Whether it could be computed.")
    seconds_per_step: float | None = Field(default=None, description="Median wall time of a step, or of one prefill.")
    tokens_per_second: float | None = Field(default=None, description="batch x tokens / seconds_per_step.")
    peak_gib: float | None = Field(default=None, description="torch.cuda.max_memory_allocated, GiB; none on a CPU.")
    trainable: int | None = Field(default=None, description="Number of trained parameters.")
    device: str = Field(default="", description="GPU, or processor and threads.")
    versions: dict[str, str] = Field(default={}, description="Library -> version.")

    @property
    def key(self) -> str:
        """All settings as one text; rows that agree in it are the same measurement."""
        return self.model_dump_json(exclude={*RESULT_FIELDS, "layers"})  # "0-31" and "all" are the same layers

    @property
    def reference_key(self) -> str:
        """The key of the row that savings refer to: the same with all layers tuned, or with no layer removed."""
        changed = {"removed": 0} if self.kind == "prefill" else {"indices": "all"}
        return self.model_copy(update=changed).key


ROWS = TypeAdapter(list[ProfileRow])


def load_profile(file: Path) -> list[ProfileRow]:
    """Read the rows of a profile.json.

    Raises:
        VrbenchError: there is no such file, or it holds something else.
    """
    try:
        return ROWS.validate_json(read_text(file))
    except OSError as error:
        os_errors.reraise_os_error(error)
        raise VrbenchError(f"no profile at {str(file)!r}; `vrbench profile --out {file}` writes one") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise VrbenchError(f"{file} is not a profile of this version of vrbench: {where} {first['msg']}") from error


def save_profile(file: Path, rows: Sequence[ProfileRow]) -> None:
    """Write the rows atomically."""
    value = [row.model_dump(mode="json") for row in rows]
    write_atomically(file, json.dumps(value, indent=1) + "\n")


def profile_tables(rows: Sequence[ProfileRow]) -> str:
    """Return the training rows and the prefill rows as text tables; see `profile_cells`."""
    return "\n\n".join(
        tabulate(
            cells, "keys", disable_numparse=True,
            colalign=["left" if name in LEFT_ALIGNED else "right" for name in cells[0]],
        )
        for cells in profile_cells(rows).values()
        if cells
    )  # fmt: skip


def profile_cells(rows: Sequence[ProfileRow]) -> dict[str, list[dict[str, str]]]:
    """Return kind of row -> its rows as header -> cell, each with its savings against the row with all layers."""
    references = {row.key: row for row in rows}
    found: dict[str, list[dict[str, str]]] = {"train": [], "prefill": []}
    for row in rows:
        cells = _train_cells if row.kind == "train" else _prefill_cells
        found[row.kind].append(cells(row, references.get(row.reference_key)))
    return found


def _train_cells(row: ProfileRow, reference: ProfileRow | None) -> dict[str, str]:
    return {
        "shape": row.shape, "tuning": f"{row.tuning}{', compiled' if row.compiled else ''}",
        "checkpointing": "on" if row.checkpointing else "off",
        "layers": f"all {row.depth}" if row.indices == "all" else row.layers, "s/step": _seconds(row),
        "GiB": _cell(row.peak_gib, "{:.1f}"), "trained, M": _cell(row.trainable, "{:,.1f}", 1e6),
        "time saved": _saved(row, reference, "seconds_per_step"), "memory saved": _saved(row, reference, "peak_gib"),
    }  # fmt: skip


def _prefill_cells(row: ProfileRow, reference: ProfileRow | None) -> dict[str, str]:
    return {
        "shape": row.shape, "prefill": f"{row.batch} x {row.tokens}", "layers": str(row.depth - row.removed),
        "seconds": _seconds(row), "tokens/s": _cell(row.tokens_per_second, "{:,.0f}"),
        "GiB": _cell(row.peak_gib, "{:.1f}"), "time saved": _saved(row, reference, "seconds_per_step"),
    }  # fmt: skip


def _seconds(row: ProfileRow) -> str:
    return _cell(row.seconds_per_step, "{:.3f}") if row.status == "ok" else row.status


def _cell(value: float | None, form: str, unit: float = 1) -> str:
    return "-" if value is None else form.format(value / unit)


def _saved(row: ProfileRow, reference: ProfileRow | None, field: str) -> str:
    """Return how much less than its reference a row takes, in percent; empty for the reference itself, or no value."""
    if reference is None or reference is row:
        return ""
    value, whole = getattr(row, field), getattr(reference, field)
    return "" if value is None or not whole else f"{100 * (1 - value / whole):.0f} %"
