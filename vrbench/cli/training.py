"""Commands that train."""

from __future__ import annotations

from typing import Annotated

import typer

from vrbench.cli.made import print_made
from vrbench.cli.options import Device, Out


def train(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe, or a YAML file.", show_default=False)],
    out: Out,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Another value for a key. May be repeated.")
    ] = None,
    device: Device = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved recipe, layers, parameters and steps; train nothing.")
    ] = False,
) -> None:
    """Train a checkpoint after a recipe: layers of an LLM by LoRA or whole, and the projector.

    \b
    Keys for --set:
      base                     a checkpoint; one with layers removed is healed (--set stage=heal)
      tune.layers              all, none (the projector alone), 0-3,8, sparse-uniform:8, or a saved set, FILE.json
      tune.tuning              lora, or weights: what comes out is an adapter, or a delta
      tune.modules             all, or attention: where LoRA is put
      tune.rank, .alpha        of LoRA; and tune.dropout
      tune.sampling, .every    train so many of the layers at a time, drawn anew every so many steps (LISA)
      tune.steps or .epochs    how long
      tune.batch, .accumulate  samples a step over all devices, and parts that it is computed in
      tune.lr, .lr_projector   peak rates; lr_projector=0 freezes the projector
      tune.schedule            cosine, linear or constant; warmup is its share of the steps
      tune.checkpointing       true computes activations twice and keeps none
      tune.save_every          steps between saved states
      data.share               share of the data that is used
      data.conversations       a LLaVA JSON file, with data.images; or data.hub, a set on the hub
      dtype                    bfloat16 (the default) or float32: computed and written in; masters are float32
      seed, clip               and more: --dry-run prints every key that has a value

    Stopped or killed, the same command goes on where it was last saved. On several cards: accelerate launch -m vrbench
    train ...; FSDP2 or DeepSpeed by accelerate's own configuration.
    """
    from vrbench.cli.config_file import read_overrides
    from vrbench.training import load
    from vrbench.training import train as train_recipe

    overrides = read_overrides(changes or [])
    if dry_run:
        from vrbench.training import prepare

        print(prepare.dry_run(load(recipe, overrides), out))
        return
    print_made(train_recipe(recipe, out, overrides, device))
