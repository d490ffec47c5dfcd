"""The command that measures what training costs at true shapes."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

import typer

from vrbench.cli.options import Config, Device

HELP_SHAPE = "llava-1.5-7b, llava-1.5-13b, bunny-llama-3-8b, bunny-phi3-mini or tiny; the paper's four if left out."
HELP_LAYERS = "Tuned layers, such as '0-7' or 'top:8'; all and the paper's region if left out."
HELP_MASTERS = "float32 or bfloat16: type of what is trained; auto: float32 for lora, bfloat16 for weights."


def profile(
    shape: Annotated[list[str] | None, typer.Option(help=f"{HELP_SHAPE} May be repeated.", show_default=False)] = None,
    tuning: Annotated[Literal["lora", "weights", "both"], typer.Option(help="How layers are tuned.")] = "both",
    checkpointing: Annotated[
        Literal["on", "off", "both"], typer.Option(help="Whether activations are computed again in the backward pass.")
    ] = "both",
    layers: Annotated[list[str] | None, typer.Option(help=f"{HELP_LAYERS} May be repeated.")] = None,
    removed: Annotated[
        list[int], typer.Option(help="Prefill is timed without so many layers; --no-prefill: not at all.")
    ] = [0, 4, 8],  # noqa: B006 - typer copies it
    prefill: Annotated[bool, typer.Option(help="Time prefill too.")] = True,
    batch: Annotated[int, typer.Option(help="Rows a step.")] = 8,
    tokens: Annotated[
        int, typer.Option(help="Tokens a row, with those of the picture; half of the text is answers.")
    ] = 768,
    image_tokens: Annotated[int, typer.Option(help="Tokens of the picture in a row.")] = 576,
    steps: Annotated[int, typer.Option(help="Timed steps after the warm-up; the median counts.")] = 4,
    masters: Annotated[str, typer.Option(help=HELP_MASTERS)] = "auto",
    projector: Annotated[
        bool, typer.Option("--projector/--freeze-projector", help="Whether the projector is trained too.")
    ] = True,
    device: Device = "auto",
    out: Annotated[Path, typer.Option(help="File of the rows; those that it has are not measured again.")] = Path(
        "profile.json"
    ),
    config: Config = None,
) -> None:
    """Measure seconds a training step and memory at true shapes, with random weights made on the device.

    Language model and projector are trained as in the paper's second stage, on features that are random; LoRA has rank
    128 and alpha 256 on every linear of the layers. The LM head sees answer tokens only.
    """
    from vrbench.training.profile import MASTERS, PAPER, ProfileOptions
    from vrbench.training.profile import profile as measure
    from vrbench.training.profile_results import ProfileRow, profile_tables

    def report(row: ProfileRow) -> None:
        took = row.status if row.seconds_per_step is None else f"{row.seconds_per_step:.3f} s"
        what = f"{row.tuning} {row.layers}" if row.kind == "train" else f"prefill, {row.removed} layers removed"
        print(f"{row.shape} {what}{', checkpointing' if row.checkpointing else ''}: {took}", file=sys.stderr)

    options = ProfileOptions(
        tunings=tuple(MASTERS) if tuning == "both" else (tuning,),
        checkpointing=(True, False) if checkpointing == "both" else (checkpointing == "on",),
        layers=layers or (), batch=batch, tokens=tokens, image_tokens=image_tokens, steps=steps, masters=masters,
        projector=projector, removed=removed if prefill else (),
    )  # fmt: skip
    rows = measure(tuple(shape or PAPER), options, device, out, report)
    print(profile_tables(rows))
    print(f"profile: {out}")
