"""Which rows a profile has: settings in, `ProfileRow`s without figures out, and every fault at once (no torch)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from vrbench.checkpoints.random_shapes import ALPHA, RANK, SHAPES
from vrbench.core.errors import VrbenchError, error_messages, raise_errors
from vrbench.core.layers import select_layers
from vrbench.training.profile_results import ProfileRow

PAPER = ("llava-1.5-7b", "llava-1.5-13b", "bunny-llama-3-8b", "bunny-phi3-mini")
REGION = {"llava-1.5-13b": 9}
"""Layers that the paper tunes, where that is not a quarter of them."""

Method = Literal["lora", "weights"]
TUNINGS: tuple[Method, ...] = ("lora", "weights")
MASTERS = {"lora": "float32", "weights": "bfloat16"}
"""What "auto" is: weights with float32 masters and moments take 16 bytes a parameter, more than a card has at 13B."""

DROPOUT = 0.05  # of LoRA; the paper's
PREFILL_ROWS, PREFILL_TOKENS = 16, 704


@dataclass(frozen=True)
class Options:
    """What is measured at each shape.

    Attributes:
        tunings: "lora" (rank 128, alpha 256, dropout 0.05, on every linear of the layers), "weights", or both.
        checkpointing: whether activations are computed again in the backward pass; both to compare.
        layers: which are tuned, as `select_layers` reads them; if none is given, all and the paper's
        region.
        batch: rows a step.
        tokens: of a row, the picture's included; half of the text is answers.
        image_tokens: of the picture in a row.
        steps: timed after a warm-up; the median counts.
        masters: type of what is trained: "float32", "bfloat16", or "auto" as `MASTERS` says.
        projector: train it too, as the paper does; else nothing below the first tuned layer has a backward pass.
        removed: prefill is timed with so many layers left out; numbers that leave a shape no layer are passed over.
    """

    tunings: Sequence[Method] = TUNINGS
    checkpointing: Sequence[bool] = (True, False)
    layers: Sequence[str] = ()
    batch: int = 8
    tokens: int = 768
    image_tokens: int = 576
    steps: int = 4
    masters: str = "auto"
    projector: bool = True
    removed: Sequence[int] = (0, 4, 8)


def depth_of(shape: str) -> int:
    """Decoder layers of a shape."""
    return int(SHAPES[shape][0]["num_hidden_layers"])


def region(shape: str) -> str:
    """The layers that the paper tunes, as `select_layers` reads them."""
    return f"sparse-uniform:{REGION.get(shape, depth_of(shape) // 4)}"


def asked_rows(shapes: Sequence[str], options: Options) -> list[ProfileRow]:
    """The rows to measure, each once, shape by shape.

    Raises:
        VrbenchError: an unknown shape, layers that a shape does not have, numbers out of bounds; all faults at once.
    """
    raise_errors([*_faults(shapes, options), *_layer_faults(shapes, options)])
    rows = [row for shape in shapes for row in (*_training(shape, options), *_prefill(shape, options))]
    return list({row.asked: row for row in rows}.values())


def _faults(shapes: Sequence[str], options: Options) -> Iterator[str]:
    if not shapes:
        yield f"no shape was named; there are {', '.join(SHAPES)}"
    for shape in shapes:
        if shape not in SHAPES:
            yield f"shape {shape!r} is unknown; there are {', '.join(SHAPES)}"
    for tuning in options.tunings:
        if tuning not in TUNINGS:
            yield f"tuning {tuning!r} is unknown; there are {', '.join(TUNINGS)}"
    if options.masters not in ("auto", "float32", "bfloat16"):
        yield f"masters {options.masters!r} are unknown; there are auto, float32, bfloat16"
    for name in ("batch", "steps", "image_tokens"):
        if getattr(options, name) < 1:
            yield f"{name} is {getattr(options, name)}; it must be at least 1"
    if options.tokens < options.image_tokens + 2:
        least = options.image_tokens + 2
        yield f"tokens is {options.tokens}; with {options.image_tokens} of the picture it must be at least {least}"
    wrong = [count for count in options.removed if count < 0]
    if wrong:
        yield f"{wrong[0]} removed layers cannot be; name 0 or more"


def _layer_faults(shapes: Sequence[str], options: Options) -> Iterator[str]:
    for shape in shapes:
        for text in options.layers if shape in SHAPES else ():
            try:
                if not len(select_layers(text, depth_of(shape))):
                    yield f"layers {text!r} are none; name at least one"
            except VrbenchError as error:
                yield from (f"{shape}: {sentence}" for sentence in error_messages(error))


def _training(shape: str, options: Options) -> Iterator[ProfileRow]:
    for tuning in options.tunings:
        lora: dict[str, Any] = {"rank": RANK, "alpha": ALPHA, "dropout": DROPOUT} if tuning == "lora" else {}
        masters = MASTERS[tuning] if options.masters == "auto" else options.masters
        for is_on in options.checkpointing:
            for text in options.layers or ("all", region(shape)):
                layers = select_layers(text, depth_of(shape))
                yield ProfileRow(
                    kind="train", shape=shape, tuning=tuning, checkpointing=is_on, layers=text, indices=str(layers),
                    depth=layers.depth, batch=options.batch, tokens=options.tokens, steps=options.steps,
                    image_tokens=options.image_tokens, answer_tokens=(options.tokens - options.image_tokens) // 2,
                    projector=options.projector, masters=masters, **lora,
                )  # fmt: skip


def _prefill(shape: str, options: Options) -> Iterator[ProfileRow]:
    depth = depth_of(shape)
    for count in options.removed:
        if count < depth:
            image_tokens = min(options.image_tokens, PREFILL_TOKENS - 1)
            yield ProfileRow(
                kind="prefill", shape=shape, depth=depth, removed=count, image_tokens=image_tokens,
                steps=options.steps, batch=PREFILL_ROWS, tokens=PREFILL_TOKENS,
            )  # fmt: skip
