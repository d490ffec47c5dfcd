"""Commands that describe a checkpoint, or make one from another."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from vrbench.cli.options import Checkpoint, Id, Out
from vrbench.core.errors import VrbenchError
from vrbench.pruning.removal_methods import removal_criteria

DTYPES = {"F32": "float32", "F16": "float16", "BF16": "bfloat16"}
selection = partial(typer.Option, rich_help_panel="Which layers to remove")
measuring = partial(typer.Option, rich_help_panel="How they are measured")


def print_made(folder: Path) -> None:
    """Print the folder of a new checkpoint, and its weight files with their dtypes, if it has any."""
    from vrbench.checkpoints.safetensors_index import read_header

    print(f"checkpoint: {folder}")
    files = sorted(folder.glob("*.safetensors"))
    if files:
        kinds = {tensor.dtype for file in files for tensor in read_header(file).values()}
        names = ", ".join(file.name for file in files) if len(files) < 4 else f"{len(files)} files"
        print(f"weights: {names} in {' and '.join(sorted(DTYPES.get(kind, kind) for kind in kinds))}")


def inspect(
    ckpt: Checkpoint,
    base: Annotated[str | None, typer.Option(help="Checkpoint to compare with; default: its own base.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON record instead of text.")] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Accept a checkpoint with its own code, which is not run here.")
    ] = False,
) -> None:
    """Describe a checkpoint.

    Prints size, layers tuned or removed against its base, adapters, digest, lineage and licence. Weights are compared
    with the base's tensor by tensor if it is available; no model is built.

    \b
    Examples:
      vrbench inspect pocket/region-pruned-2 --base pocket/base
      vrbench inspect checkpoints/mine --json
    """
    from vrbench.checkpoints.inspect import format_info
    from vrbench.models.resolve import inspect_checkpoint

    found = inspect_checkpoint(ckpt, base, trusted=trust_remote_code)
    print(found.model_dump_json(indent=1) if as_json else format_info(found))


def convert(
    source: Annotated[str, typer.Argument(help="Folder in the original layout of LLaVA-1.5 or Bunny.", metavar="SRC")],
    out: Annotated[Path, typer.Argument(help="Checkpoint folder to write.", metavar="DST")],
    base: Annotated[str | None, typer.Option(help="Language model under a projector or LoRA folder.")] = None,
    vision_tower: Annotated[
        str | None, typer.Option(help="CLIP or SigLIP folder or hub id, if SRC neither contains nor names it.")
    ] = None,
) -> None:
    """Convert a checkpoint to transformers' layout.

    No other code is needed to load the result. SRC is a merged model, a projector (mm_projector.bin) or a LoRA folder
    (adapter_model, non_lora_trainables.bin). Code in SRC is never run.

    \b
    Example:
      vrbench convert llava-lora checkpoints/llava --base vicuna-7b-v1.5 --vision-tower clip-336
    """
    from vrbench.conversion.convert import convert as convert_folder

    print_made(convert_folder(source, out, base, vision_tower))


def prune(
    ckpt: Checkpoint,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Checkpoint folder to write.")] = None,
    num_layers: Annotated[int | None, selection(help="Number of decoder layers to remove.")] = None,
    layers: Annotated[str | None, selection(help="Layers to remove, such as '3,7'; instead of --num-layers.")] = None,
    by: Annotated[str | None, selection(help=f"Criterion: {', '.join(removal_criteria())}. Default: loss.")] = None,
    block: Annotated[
        bool, selection("--block", help="Remove consecutive layers, with the smallest angular distance.")
    ] = False,
    outside_region: Annotated[
        bool, selection("--outside-region/--all-layers", help="Whether tuned layers are kept.")
    ] = True,
    removal_order: Annotated[Path | None, selection(help="Use the order in this file of --save-removal-order.")] = None,
    save_removal_order: Annotated[
        Path | None, typer.Option(help="Write the order in which --num-layers layers are removed, and no checkpoint.")
    ] = None,
    export_full: Annotated[
        bool, typer.Option("--export-full", help="Write the full smaller model; default: only the list of layers.")
    ] = False,
    id_: Id = None,
    num_images: Annotated[int, measuring(help="Dev images on which layers are measured.")] = 200,
    device: Annotated[str, measuring(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Remove the least important decoder layers.

    With --save-removal-order the order is measured once, from which any number of layers can then be removed.

    \b
    Examples:
      vrbench prune pocket/region --num-layers 2 --out checkpoints/region-pruned-2
      vrbench prune pocket/full --num-layers 8 --by divergence-lazy --all-layers --save-removal-order order.json
    """
    from vrbench.pruning.prune import prune as prune_layers
    from vrbench.pruning.recipe import make_recipe
    from vrbench.pruning.removal_order import order_layers

    if (out is None) == (save_removal_order is None):
        raise VrbenchError("give either --out, the checkpoint folder to write, or --save-removal-order, a file")
    recipe = make_recipe(
        makes=id_ or (out.resolve().name if out else ckpt), base=ckpt, remove=num_layers, layers=layers, by=by,
        order=str(removal_order) if removal_order else None, block=block, outside_region=outside_region,
        pictures=num_images,
    )  # fmt: skip
    if save_removal_order:
        print(f"order: {order_layers(recipe, save_removal_order, device)}")
    elif out:
        print_made(prune_layers(recipe, out, device, export_full))


def restore(
    ckpt: Checkpoint,
    layers: Annotated[str, typer.Option(help="Decoder layers, such as '3-7,12', 'all' or 'middle:5'.")],
    backbone: Annotated[str, typer.Option("--from", help="Language model or checkpoint whose weights they get.")],
    out: Out,
    id_: Id = None,
) -> None:
    """Restore decoder layers to a language model's weights.

    It is the one that they were tuned from, or any other with layers of the same shapes.

    \b
    Example:
      vrbench restore pocket/full --layers 3-7 --from smollm2-135m-instruct --out full-3-7
    """
    from vrbench.pruning.prune import restore as restore_layers

    print_made(restore_layers(ckpt, layers, backbone, out, id_ or ""))
