"""`vrbench layers`: which layers to tune, by a heuristic or by a score of a tuned model."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from vrbench.cli.options import Device


def _list(context: typer.Context, asked: bool) -> None:
    """Print all strategies, and leave."""
    if not asked or context.resilient_parsing:
        return
    from tabulate import tabulate

    from vrbench.core.layers import STRATEGIES
    from vrbench.pruning.importance_methods import IMPORTANCE_METHODS

    rows = [(name, "", strategy.summary) for name, strategy in STRATEGIES.items()]
    rows += [(name, method.requirements, method.summary) for name, method in IMPORTANCE_METHODS.items()]
    print(tabulate(rows, ("strategy", "needs", "layers chosen, or score by which they are"), "simple"))
    raise typer.Exit


def layers(
    strategy: Annotated[str, typer.Argument(help="Heuristic, or score of a tuned model; see --list.")],
    n: Annotated[int, typer.Option("--n", help="How many layers; by a score, those with the largest values.")],
    ckpt: Annotated[str | None, typer.Option(help="Tuned checkpoint to measure; or one whose depth is meant.")] = None,
    base: Annotated[
        str | None, typer.Option(help="What its weights are compared with; else what its latest training began with.")
    ] = None,
    depth: Annotated[int | None, typer.Option(help="Decoder layers, for a heuristic without a checkpoint.")] = None,
    pictures: Annotated[
        int, typer.Option(help="Dev pictures of the pocket world, or most pictures of --images.")
    ] = 200,
    turns: Annotated[
        int | None, typer.Option(help="Questions on each dev picture; else 6, and 2 for fisher and taylor.")
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder with pictures of your own, instead of dev ones.")] = None,
    prompt: Annotated[
        str | None, typer.Option(help="What is asked of these; else 'Please describe this image in detail.'")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Of random, and of the draw from --images; else 0.")] = None,
    device: Device = "auto",
    dtype: Annotated[str, typer.Option(help="Of the model at work on pictures: float32 or bfloat16.")] = "float32",
    blocks: Annotated[
        int, typer.Option(help="With angular: also the distance over blocks of 1 to so many consecutive layers.")
    ] = 0,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="File (.json) for the set, for tune.layers=.")] = None,
    plot: Annotated[Path | None, typer.Option(help="File (.png or .svg) for a plot of the scores.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON record instead of text.")] = False,
    listed: Annotated[
        bool, typer.Option("--list", callback=_list, is_eager=True, help="Show all strategies and what each needs.")
    ] = False,
) -> None:
    """Choose layers to tune: by a heuristic, or by what a score says of each layer of a tuned model."""
    from vrbench.pruning.choose import as_text, choose

    found = choose(
        strategy, n, ckpt=ckpt, base=base, depth=depth, pictures=pictures, turns=turns, images=images, prompt=prompt,
        seed=seed, device=device, dtype=dtype, blocks=blocks, out=out, plot=plot,
    )  # fmt: skip
    print(found.model_dump_json(indent=1) if as_json else as_text(found))
    for file in (out, plot):
        if file is not None:
            print(f"file: {file}", file=sys.stderr if as_json else sys.stdout)
