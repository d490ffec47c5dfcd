"""Commands that say what a checkpoint is, or make one of another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vrbench.cli.made import print_made
from vrbench.cli.options import Checkpoint, Device, Id, Out
from vrbench.core.errors import VrbenchError


def inspect(
    ckpt: Checkpoint,
    base: Annotated[str | None, typer.Option(help="What it is compared with; else what it was made from.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON record instead of text.")] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Describe a checkpoint with code of its own; none is run here.")
    ] = False,
) -> None:
    """Say what a checkpoint is: size, layers tuned or removed against its base, adapters, digest, lineage, licence.

    Weights are compared with the base's tensor by tensor where it is at hand; no model is built.
    """
    from vrbench.checkpoints.inspect import as_text, describe

    told = describe(ckpt, base, trusted=trust_remote_code)
    print(told.model_dump_json(indent=1) if as_json else as_text(told))


def convert(
    source: Annotated[str, typer.Argument(help="Folder in the original layout of LLaVA-1.5 or Bunny.", metavar="SRC")],
    out: Annotated[Path, typer.Argument(help="Checkpoint folder to make.", metavar="DST")],
    base: Annotated[str | None, typer.Option(help="Language model that a projector or LoRA folder is put on.")] = None,
    vision_tower: Annotated[
        str | None, typer.Option(help="CLIP or SigLIP folder or hub id, if SRC neither holds it nor names it.")
    ] = None,
) -> None:
    """Write a checkpoint in transformers' own layout, so that no other code is needed to load it.

    SRC is a merged model, a projector (mm_projector.bin) or a LoRA folder (adapter_model, non_lora_trainables.bin).
    Code that lies in SRC is not needed and never run.
    """
    from vrbench.conversion import convert as convert_folder

    print_made(convert_folder(source, out, base, vision_tower))


def prune(
    ckpt: Checkpoint,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Checkpoint folder to make.")] = None,
    remove: Annotated[int | None, typer.Option(help="How many decoder layers go.")] = None,
    layers: Annotated[str | None, typer.Option(help="Which go, such as '3,7'; instead of --remove.")] = None,
    by: Annotated[
        str | None,
        typer.Option(
            help="How they are chosen: loss (of right answers on dev pictures, the default), divergence, angular, "
            "block-influence, ...; a wrong name lists all."
        ),
    ] = None,
    block: Annotated[
        bool, typer.Option("--block", help="Consecutive layers, over which the angular distance is least.")
    ] = False,
    outside_region: Annotated[
        bool, typer.Option("--outside-region/--all-layers", help="Whether the layers that were tuned stay.")
    ] = True,
    order: Annotated[Path | None, typer.Option(help="File of --save-order whose first layers go.")] = None,
    save_order: Annotated[
        Path | None, typer.Option(help="Write the order in which --remove layers go, instead of a folder.")
    ] = None,
    whole: Annotated[
        bool, typer.Option("--whole", help="Write the whole smaller model; else only what is removed from the base.")
    ] = False,
    id_: Id = None,
    pictures: Annotated[int, typer.Option(help="Dev pictures on which layers are measured.")] = 200,
    device: Device = "auto",
) -> None:
    """Remove the decoder layers that a checkpoint misses least, or measure once in which order they go."""
    from vrbench.pruning.prune import prune as prune_layers
    from vrbench.pruning.recipe import make_recipe
    from vrbench.pruning.removal_order import order_layers

    if (out is None) == (save_order is None):
        raise VrbenchError("name either the folder to make, with --out, or the file of an order, with --save-order")
    recipe = make_recipe(
        makes=id_ or (out.resolve().name if out else ckpt), base=ckpt, remove=remove, layers=layers, by=by,
        order=str(order) if order else None, block=block, outside_region=outside_region, pictures=pictures,
    )  # fmt: skip
    if save_order:
        print(f"order: {order_layers(recipe, save_order, device)}")
    elif out:
        print_made(prune_layers(recipe, out, device, whole))


def restore(
    ckpt: Checkpoint,
    layers: Annotated[str, typer.Option(help="Decoder layers, such as '3-7,12', 'all' or 'middle:5'.")],
    backbone: Annotated[str, typer.Option("--from", help="Language model (or checkpoint) whose weights they get.")],
    out: Out,
    id_: Id = None,
) -> None:
    """Put decoder layers back to the weights of the language model that they were tuned from."""
    from vrbench.pruning.prune import restore as restore_layers

    print_made(restore_layers(ckpt, layers, backbone, out, id_ or ""))
