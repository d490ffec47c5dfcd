"""Commands that say what a checkpoint is, or make one of another."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vrbench.cli.options import Checkpoint, Device, Id, Out


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
    from vrbench.description import as_text, describe

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
    from vrbench.convert import convert as convert_folder

    print(f"checkpoint: {convert_folder(source, out, base, vision_tower)}")


def prune(
    ckpt: Checkpoint,
    remove: Annotated[int, typer.Option(help="How many decoder layers go.")],
    out: Out,
    by: Annotated[
        str, typer.Option(help="loss (of right answers on dev pictures), or angular (distance of output from input).")
    ] = "loss",
    outside_region: Annotated[
        bool, typer.Option("--outside-region/--all-layers", help="Whether the layers that were tuned stay.")
    ] = True,
    whole: Annotated[
        bool, typer.Option("--whole", help="Write the whole smaller model; else only what is removed from the base.")
    ] = False,
    id_: Id = None,
    pictures: Annotated[int, typer.Option(help="Dev pictures on which layers are measured.")] = 200,
    device: Device = "auto",
) -> None:
    """Remove the decoder layers that a checkpoint misses least."""
    from vrbench.surgery import prune as prune_layers
    from vrbench.surgery import recipe_of

    recipe = recipe_of(
        makes=id_ or out.resolve().name, base=ckpt, remove=remove, by=by, outside_region=outside_region,
        pictures=pictures,
    )  # fmt: skip
    print(f"checkpoint: {prune_layers(recipe, out, device, whole)}")


def restore(
    ckpt: Checkpoint,
    layers: Annotated[str, typer.Option(help="Decoder layers, such as '3-7,12', 'all' or 'middle:5'.")],
    backbone: Annotated[str, typer.Option("--from", help="Language model (or checkpoint) whose weights they get.")],
    out: Out,
    id_: Id = None,
) -> None:
    """Put decoder layers back to the weights of the language model that they were tuned from."""
    from vrbench.surgery import restore as restore_layers

    print(f"checkpoint: {restore_layers(ckpt, layers, backbone, out, id_ or '')}")
