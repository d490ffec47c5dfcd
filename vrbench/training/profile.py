"""What training costs at true shapes: seconds a step and memory, with random weights made on the device.

A step is what `vrbench.training` does in the paper's second stage: features of the frozen tower (here random)
through the
projector, the decoder over picture and text, the LM head on answer tokens only, backward, clipped gradients, AdamW.
What is trained is kept in the row's `masters`: float32 under bfloat16 autocast, or bfloat16 as it is. The learning
rate is 0, so that no row depends on the rows before it.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vrbench.core.device import device_name, is_out_of_memory, resolve_device, validate_device
from vrbench.core.errors import VrbenchError, raise_errors
from vrbench.core.io import validate_output
from vrbench.core.layers import LayerSet
from vrbench.core.provenance import package_version
from vrbench.core.version import __version__
from vrbench.training.profile_asked import PAPER, Options, asked_rows
from vrbench.training.profile_results import ProfileRow, load_profile, save_profile
from vrbench.training.shape_model import ShapeModel, Tuning, tuned

WARM_UP = 2
"""Steps before the first timed one; the optimizer makes its states in them."""

CLIP = 1.0
GIB = 1 << 30


def profile(
    shapes: Sequence[str] = PAPER,
    options: Options | None = None,
    device: str = "auto",
    out: Path | None = None,
    tell: Callable[[ProfileRow], None] = lambda row: None,
) -> list[ProfileRow]:
    """Measure training steps, and prefill with layers removed, at some shapes.

    Args:
        shapes: keys of `vrbench.checkpoints.random_shapes.SHAPES`.
        options: what is measured at each; the paper's settings if left out.
        device: "auto", "cpu" or "cuda".
        out: file in which each row is kept as soon as it is measured; rows that it has are not measured again.
        tell: called with each row that was measured.

    Returns:
        The rows that were asked for, in order. One that does not fit into the memory says so in its `status`.

    Raises:
        VrbenchError: wrong options, all faults at once, or a file with rows of another device.
    """
    raise_errors([*validate_device(device), *(validate_output(out, "file") if out else ())])
    asked = asked_rows(shapes, options or Options())
    where = torch.device(resolve_device(device))
    kept = {row.asked: row for row in _kept(out, device_name(where))}
    for shape in dict.fromkeys(shapes):
        missing = [row for row in asked if row.shape == shape and row.asked not in kept]
        bench = _Bench(shape, where)
        for row in missing:
            kept[row.asked] = bench.measured(row)
            tell(kept[row.asked])
            if out:
                save_profile(out, list(kept.values()))
        bench.clear()
    return [kept[row.asked] for row in asked]


def _kept(out: Path | None, device: str) -> list[ProfileRow]:
    rows = load_profile(out) if out and out.exists() else []
    others = sorted({row.device for row in rows} - {device})
    if others:
        raise VrbenchError(f"{out} has rows of {others[0]}, and this is {device}; name another file")
    return rows


class _Bench:
    """A shape's model, made when the first row needs it, and what is measured on it."""

    def __init__(self, shape: str, device: torch.device) -> None:
        self.shape, self.device = shape, device
        self.model: ShapeModel | None = None
        versions = {name: package_version(name) for name in ("torch", "transformers", "peft")} | {
            "vrbench": __version__
        }
        self.about = {"device": device_name(device), "versions": versions}

    def clear(self) -> None:
        """Let the model go, and its memory."""
        self.model = None
        _free(self.device)

    def measured(self, row: ProfileRow) -> ProfileRow:
        """The row with its figures, or with "out of memory" instead."""
        try:
            self._ready()
            _free(self.device)
            figures = self._train(row) if row.kind == "train" else self._prefill(row)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            figures = {"status": "out of memory"}
            self.model = None  # what it was doing to the model cannot be known; the next row gets a new one
        return row.model_copy(update=self.about | figures)

    def _ready(self) -> ShapeModel:
        if self.model is None:
            self.model = ShapeModel(self.shape, self.device)
        return self.model

    def _train(self, row: ProfileRow) -> dict[str, Any]:
        model = self._ready()
        how = Tuning(
            method=str(row.tuning), layers=LayerSet.parse(row.indices, row.depth), checkpointing=row.checkpointing,
            masters=getattr(torch, row.masters), projector=row.projector, rank=row.rank or 0, alpha=row.alpha or 0,
            dropout=row.dropout or 0,
        )  # fmt: skip
        with tuned(model, how) as trained:
            optimizer = torch.optim.AdamW(trained, lr=0.0, fused=True)
            batch = _Batch(model, row)
            seconds = self._timed(lambda: _step(model, row, batch, optimizer, trained), row.steps)
            return self._figures(row, seconds) | {"trainable": sum(p.numel() for p in trained)}

    def _prefill(self, row: ProfileRow) -> dict[str, Any]:
        model = self._ready()
        batch = _Batch(model, row)

        @torch.inference_mode()
        def fill() -> None:
            states = model.states(batch.features, batch.words, use_cache=True)
            model.llm.lm_head(states.last_hidden_state[:, -1])

        with model.without_last(row.removed):
            return self._figures(row, self._timed(fill, row.steps))

    def _timed(self, step: Callable[[], None], steps: int) -> float:
        """Median seconds of a step, after the warm-up."""
        taken = []
        for _ in range(WARM_UP + steps):
            self._wait()
            start = time.perf_counter()
            step()
            self._wait()
            taken.append(time.perf_counter() - start)
        return statistics.median(taken[WARM_UP:])

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)

    def _figures(self, row: ProfileRow, seconds: float) -> dict[str, Any]:
        on_card = self.device.type == "cuda"
        peak = torch.cuda.max_memory_allocated(self.device) / GIB if on_card else None
        speed = row.batch * row.tokens / seconds
        return {"seconds_per_step": seconds, "tokens_per_second": speed, "peak_gib": peak}


class _Batch:
    """Random rows: a picture's features, the words after it, and the last words as answers.

    Attributes:
        features: [batch, image tokens, width of the tower], bfloat16.
        words: [batch, text tokens] ids.
        answers: [batch, answer tokens] ids: what the states of the last words have to say.
    """

    def __init__(self, model: ShapeModel, row: ProfileRow) -> None:
        shape = (row.batch, row.image_tokens, model.tower_width)
        self.features = torch.randn(shape, device=model.device, dtype=torch.bfloat16)
        text = (row.batch, row.tokens - row.image_tokens)
        self.words = torch.randint(model.vocabulary, text, device=model.device)
        self.answers = self.words[:, text[1] - row.answer_tokens :]


def _step(
    model: ShapeModel, row: ProfileRow, batch: _Batch, optimizer: torch.optim.Optimizer, trained: list[nn.Parameter]
) -> None:
    """One step of the optimizer."""
    loss_of(model, row, batch).backward()
    nn.utils.clip_grad_norm_(trained, CLIP)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def loss_of(model: ShapeModel, row: ProfileRow, batch: _Batch) -> Tensor:
    """Mean cross-entropy over the answer tokens; the LM head sees no others."""
    with torch.autocast(model.device.type, torch.bfloat16, enabled=row.masters == "float32"):
        states = model.states(batch.features, batch.words, use_cache=False).last_hidden_state
        logits = model.llm.lm_head(states[:, -row.answer_tokens - 1 : -1])
    return nn.functional.cross_entropy(logits.flatten(0, 1).float(), batch.answers.flatten())


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
