"""Training cost at true shapes: seconds per step and memory, with random weights made on the device.

A step is that of the paper's second stage: features of the frozen tower (here random) through the projector, the
decoder over image and text, the LM head on answer tokens only, backward, clipped gradients, AdamW; layers and loss are
those of `vrbench train`, without its Trainer. Trained weights have the type of the row's `masters`: float32 under
bfloat16 autocast, or bfloat16. The learning rate is 0, so that no row depends on the rows before it.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from vrbench.checkpoints.random_shapes import ALPHA, RANDOM_SHAPES, RANK
from vrbench.core.device import device_name, is_out_of_memory, resolve_device, validate_device
from vrbench.core.errors import VrbenchError, error_messages, raise_errors
from vrbench.core.io import validate_output
from vrbench.core.layers import select_layers
from vrbench.core.provenance import package_versions
from vrbench.core.version import __version__
from vrbench.training.compiled_layers import WORTHWHILE_STEPS, compiled_layers, is_worthwhile
from vrbench.training.profile_results import ProfileRow, load_profile, save_profile
from vrbench.training.shape_model import ShapeModel
from vrbench.training.token_loss import token_loss

PAPER_SHAPES = ("llava-1.5-7b", "llava-1.5-13b", "bunny-llama-3-8b", "bunny-phi3-mini")
REGION_SIZES = {"llava-1.5-13b": 9}
"""Number of layers that the paper tunes, where that is not a quarter of them."""

Tuning = Literal["lora", "weights"]
DEFAULT_MASTERS: dict[Tuning, str] = {"lora": "float32", "weights": "bfloat16"}
"""What "auto" is: with float32 masters and moments, weights take 16 bytes each, too many for a 13B model on a GPU."""

DROPOUT = 0.05  # of LoRA; the paper's
PREFILL_ROWS, PREFILL_TOKENS = 16, 704

WARM_UP = 2
"""Steps before the first timed one; the optimizer makes its states in them."""

CLIP_NORM = 1.0
GIB = 1 << 30


@dataclass(frozen=True)
class ProfileOptions:
    """The measurements to make at each shape.

    Attributes:
        tunings: "lora" (rank 128, alpha 256, dropout 0.05, on every linear of the layers), "weights", or both.
        checkpointing: whether activations are recomputed in the backward pass; both to compare.
        layers: which are tuned, as `select_layers` reads them; default: all, and the paper's region.
        batch: rows per step.
        tokens: of a row, the image's included; half of the text is answers.
        image_tokens: of the image in a row.
        steps: timed after a warm-up; their median is reported.
        masters: type of trained weights: "float32", "bfloat16", or "auto" as in `DEFAULT_MASTERS`.
        compile: whether decoder layers are compiled, as `vrbench train` does it; "auto": on a GPU.
        projector: train it too, as the paper does; else there is no backward pass below the first tuned layer.
        removed: numbers of removed layers that prefill is timed with; numbers that leave a shape no layer are skipped.
    """

    tunings: Sequence[Tuning] = tuple(DEFAULT_MASTERS)
    checkpointing: Sequence[bool] = (True, False)
    layers: Sequence[str] = ()
    batch: int = 8
    tokens: int = 768
    image_tokens: int = 576
    steps: int = 4
    masters: str = "auto"
    compile: Literal["auto", "on", "off"] = "auto"
    projector: bool = True
    removed: Sequence[int] = (0, 4, 8)


def profile(
    shapes: Sequence[str] = PAPER_SHAPES,
    options: ProfileOptions | None = None,
    device: str = "auto",
    out: Path | None = None,
    report: Callable[[ProfileRow], None] = lambda row: None,
) -> list[ProfileRow]:
    """Measure training steps, and prefill with layers removed, at some shapes.

    Args:
        shapes: keys of `vrbench.checkpoints.random_shapes.RANDOM_SHAPES`.
        options: what is measured at each; default: the paper's settings.
        device: "auto", "cpu" or "cuda".
        out: file to which each row is saved as soon as it is measured; rows that it has are not measured again.
        report: called with each row that was measured.

    Returns:
        The requested rows, in order. One that does not fit into memory says so in its `status`.

    Raises:
        VrbenchError: invalid options, all errors together, or a file with rows of another device.
    """
    raise_errors([*validate_device(device), *(validate_output(out, "file") if out else ())])
    options = options or ProfileOptions()
    rows = planned_rows(shapes, options)
    torch_device = torch.device(resolve_device(device))
    is_compiled = is_worthwhile(options.compile, torch_device, WORTHWHILE_STEPS)
    rows = [row.model_copy(update={"compiled": is_compiled and row.kind == "train"}) for row in rows]
    measured = {row.key: row for row in _saved_rows(out, device_name(torch_device))}
    for row in (row for row in rows if row.key not in measured):
        measured[row.key] = measure(row, torch_device)
        report(measured[row.key])
        if out:
            save_profile(out, list(measured.values()))
    return [measured[row.key] for row in rows]


def _saved_rows(out: Path | None, device: str) -> list[ProfileRow]:
    rows = load_profile(out) if out and out.exists() else []
    others = sorted({row.device for row in rows} - {device})
    if others:
        raise VrbenchError(f"{out} has rows of {others[0]}, and this is {device}; name another file")
    return rows


def paper_layers(shape: str) -> str:
    """Return the layers that the paper tunes, as `vrbench.core.layers.select_layers` reads them."""
    return f"sparse-uniform:{REGION_SIZES.get(shape, _depth(shape) // 4)}"


def _depth(shape: str) -> int:
    return int(RANDOM_SHAPES[shape][0]["num_hidden_layers"])


def planned_rows(shapes: Sequence[str], options: ProfileOptions) -> list[ProfileRow]:
    """Return the rows to measure, without results, each once, shape by shape.

    Raises:
        VrbenchError: an unknown shape, layers that a shape does not have, or a number out of bounds; all together.
    """
    raise_errors(_option_errors(shapes, options))
    rows = [row for shape in shapes for row in (*_train_rows(shape, options), *_prefill_rows(shape, options))]
    return list({row.key: row for row in rows}.values())


def _option_errors(shapes: Sequence[str], options: ProfileOptions) -> Iterator[str]:
    if not shapes:
        yield f"no shape was given; there are {', '.join(RANDOM_SHAPES)}"
    choices: tuple[tuple[str, Sequence[str], Sequence[str]], ...] = (
        ("shape", shapes, tuple(RANDOM_SHAPES)), ("tuning", options.tunings, tuple(DEFAULT_MASTERS)),
        ("masters", (options.masters,), ("auto", *DEFAULT_MASTERS.values())),
    )  # fmt: skip
    for name, values, known in choices:
        yield from (
            f"{name} {value!r} is unknown; there are {', '.join(known)}" for value in values if value not in known
        )
    for name in ("batch", "steps", "image_tokens"):
        if getattr(options, name) < 1:
            yield f"{name} is {getattr(options, name)}; it must be at least 1"
    if options.tokens < options.image_tokens + 2:
        least = options.image_tokens + 2
        yield f"tokens is {options.tokens}; with {options.image_tokens} image tokens it must be at least {least}"
    yield from (f"removed is {count}; it must be 0 or more" for count in options.removed if count < 0)
    for shape in (shape for shape in shapes if shape in RANDOM_SHAPES):
        for text in options.layers:
            try:
                if not len(select_layers(text, _depth(shape))):
                    yield f"layers {text!r} selects none; name at least one"
            except VrbenchError as error:
                yield from (f"{shape}: {message}" for message in error_messages(error))


def _train_rows(shape: str, options: ProfileOptions) -> Iterator[ProfileRow]:
    for tuning in options.tunings:
        lora: dict[str, Any] = {"rank": RANK, "alpha": ALPHA, "dropout": DROPOUT} if tuning == "lora" else {}
        masters = DEFAULT_MASTERS[tuning] if options.masters == "auto" else options.masters
        for checkpointing in options.checkpointing:
            for text in options.layers or ("all", paper_layers(shape)):
                layers = select_layers(text, _depth(shape))
                yield ProfileRow(
                    kind="train", shape=shape, tuning=tuning, checkpointing=checkpointing, layers=text,
                    indices=str(layers), depth=layers.depth, batch=options.batch, tokens=options.tokens,
                    steps=options.steps, image_tokens=options.image_tokens, projector=options.projector,
                    answer_tokens=(options.tokens - options.image_tokens) // 2, masters=masters, **lora,
                )  # fmt: skip


def _prefill_rows(shape: str, options: ProfileOptions) -> Iterator[ProfileRow]:
    for count in options.removed:
        if count < _depth(shape):
            image_tokens = min(options.image_tokens, PREFILL_TOKENS - 1)
            yield ProfileRow(
                kind="prefill", shape=shape, depth=_depth(shape), removed=count, image_tokens=image_tokens,
                steps=options.steps, batch=PREFILL_ROWS, tokens=PREFILL_TOKENS,
            )  # fmt: skip


def measure(row: ProfileRow, device: torch.device) -> ProfileRow:
    """Return the row with its results, or with the status "out of memory"."""
    _free_memory(device)
    try:
        model = ShapeModel(row.shape, device)
        _free_memory(device)  # what making the model took does not count
        results = _train(model, row) if row.kind == "train" else _prefill(model, row)
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        results = {"status": "out of memory"}
    versions = package_versions(("torch", "transformers", "peft")) | {"vrbench": __version__}
    return row.model_copy(update={"device": device_name(device), "versions": versions, **results})


def _train(model: ShapeModel, row: ProfileRow) -> dict[str, Any]:
    trained = model.tune(row)
    optimizer = torch.optim.AdamW(trained, lr=0.0, fused=True)
    batch = RandomBatch(model, row)
    with compiled_layers(model.llm, row.checkpointing, fixed_shapes=True) if row.compiled else nullcontext():
        results = _timed(model, row, lambda: training_step(model, row, batch, optimizer, trained))
    return {**results, "trainable": sum(p.numel() for p in trained)}


def _prefill(model: ShapeModel, row: ProfileRow) -> dict[str, Any]:
    model.remove_last(row.removed)
    batch = RandomBatch(model, row)

    @torch.inference_mode()
    def fill() -> None:
        states = model.states(batch.features, batch.words, use_cache=True)
        model.llm.lm_head(states.last_hidden_state[:, -1])

    return _timed(model, row, fill)


def _timed(model: ShapeModel, row: ProfileRow, step: Callable[[], None]) -> dict[str, Any]:
    """Run a row's steps after the warm-up; returns their median time, the tokens per second and the memory."""
    seconds, on_gpu = [], model.device.type == "cuda"
    for _ in range(WARM_UP + row.steps):
        start = time.perf_counter()
        step()
        if on_gpu:
            torch.cuda.synchronize(model.device)
        seconds.append(time.perf_counter() - start)
    median = statistics.median(seconds[WARM_UP:])
    return {
        "seconds_per_step": median, "tokens_per_second": row.batch * row.tokens / median,
        "peak_gib": torch.cuda.max_memory_allocated(model.device) / GIB if on_gpu else None,
    }  # fmt: skip


class RandomBatch:
    """Random rows: features [batch, image tokens, width of the tower], ids of words, and those that are answers."""

    def __init__(self, model: ShapeModel, row: ProfileRow) -> None:
        shape = (row.batch, row.image_tokens, model.tower_width)
        self.features = torch.randn(shape, device=model.device, dtype=torch.bfloat16)
        text = (row.batch, row.tokens - row.image_tokens)
        self.words = torch.randint(model.vocabulary, text, device=model.device)
        self.answers = self.words[:, text[1] - row.answer_tokens :]


def training_step(
    model: ShapeModel,
    row: ProfileRow,
    batch: RandomBatch,
    optimizer: torch.optim.Optimizer,
    trained: list[nn.Parameter],
) -> None:
    batch_loss(model, row, batch).backward()
    nn.utils.clip_grad_norm_(trained, CLIP_NORM)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)


def batch_loss(model: ShapeModel, row: ProfileRow, batch: RandomBatch) -> Tensor:
    """Return the mean cross-entropy over the answer tokens; the LM head sees no others."""
    with torch.autocast(model.device.type, torch.bfloat16, enabled=row.masters == "float32"):
        states = model.states(batch.features, batch.words, use_cache=False).last_hidden_state
        states = states[:, -row.answer_tokens - 1 : -1].flatten(0, 1)
        return token_loss(states, batch.answers.flatten(), model.llm.lm_head) / batch.answers.numel()


def _free_memory(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
