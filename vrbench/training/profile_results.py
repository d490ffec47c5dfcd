"""What `vrbench profile` measured: its rows, the file they are kept in, and its tables (no torch)."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, TypeAdapter, ValidationError
from tabulate import tabulate

from vrbench.core import os_errors
from vrbench.core.errors import VrbenchError
from vrbench.core.io import read_text, write_atomically
from vrbench.core.schemas import Record

MEASURED = ("status", "seconds_per_step", "tokens_per_second", "peak_gib", "trainable", "device", "versions")
"""Fields that say what came out; all others say what was asked."""


class ProfileRow(Record):
    """One setting and what it cost: a training step, or the prefill of a batch of prompts."""

    kind: Literal["train", "prefill"] = Field(description="What was timed.")
    shape: str = Field(description="Key of `vrbench.checkpoints.random_shapes.SHAPES`, such as 'llava-1.5-7b'.")
    tuning: Literal["lora", "weights"] | None = Field(default=None, description="How layers are tuned; none: prefill.")
    checkpointing: bool = Field(default=False, description="Whether activations are computed again in the backward.")
    layers: str = Field(default="none", description="The tuned layers as they were asked for: 'sparse-uniform:8'.")
    indices: str = Field(default="none", description="The same as `LayerSet` text: '0,4,8'.")
    depth: int = Field(description="Decoder layers of the shape.")
    removed: int = Field(default=0, description="How many of them were left out.")
    batch: int = Field(description="Rows in a step.")
    tokens: int = Field(description="Tokens in a row, the picture's included.")
    image_tokens: int = Field(description="Tokens of the picture in a row.")
    answer_tokens: int = Field(default=0, description="Tokens of a row that have a loss; the LM head sees no others.")
    projector: bool = Field(default=False, description="Whether the projector is trained too.")
    dtype: str = Field(default="bfloat16", description="Type of what is frozen, and of all products.")
    masters: str = Field(default="", description="Type of what is trained, its gradient and AdamW's two moments.")
    rank: int | None = Field(default=None, description="LoRA rank.")
    alpha: float | None = Field(default=None, description="LoRA alpha.")
    dropout: float | None = Field(default=None, description="LoRA dropout.")
    attention: str = Field(default="sdpa", description="transformers' name of the attention.")
    steps: int = Field(description="Steps that were timed, after the warm-up; the median counts.")
    status: Literal["ok", "out of memory"] = Field(default="ok", description="Whether it could be computed.")
    seconds_per_step: float | None = Field(default=None, description="Median wall time of a step, or of one prefill.")
    tokens_per_second: float | None = Field(default=None, description="batch x tokens / seconds_per_step.")
    peak_gib: float | None = Field(default=None, description="torch.cuda.max_memory_allocated, GiB; none on a CPU.")
    trainable: int | None = Field(default=None, description="Parameters that are trained.")
    device: str = Field(default="", description="Card, or processor and threads.")
    versions: dict[str, str] = Field(default={}, description="Library -> version.")

    @property
    def asked(self) -> str:
        """What was asked, as one text: rows that agree in it are the same measurement."""
        return self.model_dump_json(exclude={*MEASURED, "layers"})  # "0-31" and "all" are the same layers

    @property
    def whole(self) -> str:
        """What it is compared with: the same with all layers tuned, or with no layer removed."""
        if self.kind == "prefill":
            return self.model_copy(update={"removed": 0}).asked
        return self.model_copy(update={"indices": "all"}).asked


ROWS = TypeAdapter(list[ProfileRow])


def load_profile(file: Path) -> list[ProfileRow]:
    """Read the rows of a profile.json.

    Raises:
        VrbenchError: no such file, or it holds something else.
    """
    try:
        return ROWS.validate_json(read_text(file))
    except OSError as error:
        os_errors.reraise_os_error(error)
        raise VrbenchError(f"no profile at {str(file)!r}; `vrbench profile --out {file}` writes one") from error
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise VrbenchError(f"{file} is no profile that this vrbench reads: {where} {fault['msg']}".strip()) from error


def save_profile(file: Path, rows: Sequence[ProfileRow]) -> None:
    """Write the rows, whole or not at all."""
    value = [row.model_dump(mode="json") for row in rows]
    write_atomically(file, json.dumps(value, indent=1) + "\n")


def profile_tables(rows: Sequence[ProfileRow], form: str = "simple") -> str:
    """The training rows and the prefill rows as tables, each with what is saved against the whole.

    Args:
        rows: of one or more shapes.
        form: of `tabulate`.
    """
    return "\n\n".join(
        tabulate(cells, "keys", form, disable_numparse=True, colalign=_aligned(cells[0]))
        for cells in profile_cells(rows).values()
        if cells
    )


def profile_cells(rows: Sequence[ProfileRow]) -> dict[str, list[dict[str, str]]]:
    """Kind of row -> its rows as texts, header -> cell, each with what is saved against the whole."""
    whole = {row.asked: row for row in rows}
    return {
        "train": [_training_cells(r, whole.get(r.whole)) for r in rows if r.kind == "train"],
        "prefill": [_prefill_cells(r, whole.get(r.whole)) for r in rows if r.kind == "prefill"],
    }


def _training_cells(row: ProfileRow, whole: ProfileRow | None) -> dict[str, str]:
    return {
        "shape": row.shape, "tuning": row.tuning or "", "checkpointing": "on" if row.checkpointing else "off",
        "layers": _layers(row), "s/step": _measured(row, row.seconds_per_step, "{:.3f}"),
        "GiB": _cell(row.peak_gib, "{:.1f}"), "trained, M": _cell(row.trainable, "{:,.1f}", 1e6),
        "time saved": _saved(row, whole, lambda r: r.seconds_per_step),
        "memory saved": _saved(row, whole, lambda r: r.peak_gib),
    }  # fmt: skip


def _prefill_cells(row: ProfileRow, whole: ProfileRow | None) -> dict[str, str]:
    return {
        "shape": row.shape, "prefill": f"{row.batch} x {row.tokens}", "layers": str(row.depth - row.removed),
        "seconds": _measured(row, row.seconds_per_step, "{:.3f}"), "tokens/s": _cell(row.tokens_per_second, "{:,.0f}"),
        "GiB": _cell(row.peak_gib, "{:.1f}"), "time saved": _saved(row, whole, lambda r: r.seconds_per_step),
    }  # fmt: skip


def _layers(row: ProfileRow) -> str:
    return f"all {row.depth}" if row.indices == "all" else row.layers


def _measured(row: ProfileRow, value: float | None, form: str) -> str:
    return _cell(value, form) if row.status == "ok" else row.status


def _cell(value: float | None, form: str, unit: float = 1) -> str:
    return "-" if value is None else form.format(value / unit)


def _saved(row: ProfileRow, whole: ProfileRow | None, figure: Callable[[ProfileRow], float | None]) -> str:
    """Percent less than the whole takes; empty for the whole itself, or where either was not measured."""
    if whole is None or whole is row:
        return ""
    mine, its = figure(row), figure(whole)
    return "" if mine is None or not its else f"{100 * (1 - mine / its):.0f} %"


def _aligned(cells: dict[str, Any]) -> Iterable[str]:
    words = ("shape", "tuning", "checkpointing", "layers", "prefill")
    return tuple("left" if name in words else "right" for name in cells)
