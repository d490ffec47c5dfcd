"""Commands that train a checkpoint, choose the layers to tune, and measure what training costs."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Annotated, Literal

import typer

from vrbench.cli.checkpoints import print_made
from vrbench.cli.options import Config, Device, Out, read_overrides
from vrbench.core.errors import VrbenchError


def train(
    out: Out,
    recipe: Annotated[
        str | None,
        typer.Argument(help="Name of a shipped recipe, or a YAML file; not needed with --resume.", show_default=False),
    ] = None,
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Override a key. May be repeated.")
    ] = None,
    device: Device = "auto",
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume the interrupted training in --out; an error if there is none.")
    ] = False,
    log_to: Annotated[
        list[str] | None, typer.Option(metavar="TRACKER", help="Log to tensorboard or wandb. May be repeated.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print recipe, layers, steps, estimated memory and time; train nothing.")
    ] = False,
) -> None:
    """Train a checkpoint with a recipe.

    Tunes the projector and selected layers of the LLM, with LoRA or fully.

    \b
    Keys for --set:
      base                     the checkpoint to tune; with stage=heal, one with layers removed
      tune.layers              all, none (only the projector), 0-3,8, sparse-uniform:8, or a file of `vrbench layers`
      tune.tuning              lora, or weights: writes an adapter, or a delta
      tune.modules             modules with LoRA: all, or attention
      tune.rank, .alpha        LoRA's rank and alpha; also tune.dropout
      tune.rslora, .dora       true for rsLoRA's factor, for DoRA; tune.neftune=5 adds noise to embeddings (NEFTune)
      tune.sampling            lisa:2 (two layers at a time; embeddings, final norm, head always) or layer-sampling:2
      tune.every               steps until other layers are drawn
      tune.steps or .epochs    length of the training
      tune.batch, .accumulate  samples per step over all devices, and gradient accumulation steps
      tune.average             loss: the mean over all answer tokens, or over micro-batches of tune.micro_batch samples
      tune.lr, .lr_projector   peak learning rates; lr_projector=0 freezes the projector
      tune.packing             true: samples of a pass in one row without padding
      tune.quantize            nf4: QLoRA, the frozen layers in 4 bits (extra vrbench[qlora])
      tune.tower, .lr_tower    lora or weights: train the vision tower too, at a rate of its own
      tune.schedule            cosine, linear or constant; warmup is the warm-up's share of the steps
      tune.checkpointing       true for gradient checkpointing, to save memory
      tune.compile             on, off, or auto: compile the decoder layers on a GPU, for 100 steps or more
      tune.attention           sdpa (auto), eager, flash_attention_2 or flash_attention_3
      tune.save_every          steps between saved states
      eval.tasks, .every       tasks to evaluate on while training, and steps between; eval.split=dev, eval.limit=200
      data.share               share of the data to use
      data.conversations       a LLaVA JSON file, with data.images; or data.hub, a data set on the hub
      data.label_newline       true: label the line break behind an answer's end token too, as LLaMA-Factory does
      data.grouping            modality (steps with images or without), or none: any samples in a step
      data.style               samples, tokens and labels of vrbench (default), or of the code of llava, visual-region
      prompt.version           template of Bunny-Llama-3, bunny or visual-region; the base's where it is left out
      dtype                    of computation and output: bfloat16 (default) or float32; master weights are float32
      seed, clip               random seed, gradient clipping; --dry-run prints all keys

    The progress bar shows loss, tokens per second, MFU on known GPUs, and the time left. Curves of the loss, the
    learning rate and the gradient norm are in --out, STAGE-curves.csv and .png.

    The same command resumes an interrupted training from its last saved state, and starts it where there is none.
    --resume never starts one; without RECIPE it takes the recipe of the interrupted training. On several GPUs:
    accelerate launch -m vrbench train ...; FSDP2 or DeepSpeed with accelerate's own configuration.

    \b
    Examples:
      vrbench train pocket-region --out checkpoints/region --set tune.layers=sparse-uniform:4
      vrbench train pocket-region --out checkpoints/region --log-to tensorboard
      vrbench train --resume --out checkpoints/region
    """
    from vrbench.training import load
    from vrbench.training.checkpoint_folder import interrupted_recipe
    from vrbench.training.run import train as train_recipe

    overrides = read_overrides(changes or [])
    if recipe is None and not resume:
        raise VrbenchError("no recipe was named; `vrbench train RECIPE` starts a training, --resume resumes one")
    recipe = str(interrupted_recipe(out)) if recipe is None else recipe
    if dry_run:
        from vrbench.training import prepare

        print(prepare.dry_run(load(recipe, overrides), out, resume, log_to or ()))
        return
    print_made(train_recipe(recipe, out, overrides, device, resume, log_to or ()))


def _list(context: typer.Context, requested: bool) -> None:
    """Print all strategies and scores, and exit."""
    if not requested or context.resilient_parsing:
        return
    from tabulate import tabulate

    from vrbench.core.layers import STRATEGIES
    from vrbench.pruning.importance_methods import IMPORTANCE_METHODS

    rows = [(name, "", strategy.summary) for name, strategy in STRATEGIES.items()]
    rows += [(name, method.requirements, method.summary) for name, method in IMPORTANCE_METHODS.items()]
    print(tabulate(rows, ("strategy", "needs", "selected layers, or importance score"), "simple"))
    raise typer.Exit


measuring = partial(typer.Option, rich_help_panel="How a score is measured")
output = partial(typer.Option, rich_help_panel="Output")


def layers(
    strategy: Annotated[str, typer.Argument(help="Layer strategy, or importance score; see --list.")],
    num_layers: Annotated[
        int, typer.Option("--num-layers", "-n", help="Number of layers; by a score, those with the largest values.")
    ],
    ckpt: Annotated[str | None, typer.Option(help="Tuned checkpoint to measure, or to take the depth from.")] = None,
    depth: Annotated[int | None, typer.Option(help="Number of decoder layers, if there is no --ckpt.")] = None,
    seed: Annotated[int | None, typer.Option(help="Random seed for random and --images; default: 0.")] = None,
    listed: Annotated[
        bool, typer.Option("--list", callback=_list, is_eager=True, help="List all strategies and scores, and exit.")
    ] = False,
    base: Annotated[str | None, measuring(help="Compare weights with it; default: before its latest training.")] = None,
    num_images: Annotated[int, measuring(help="Number of synthetic dev images, or maximum of --images.")] = 200,
    turns: Annotated[int | None, measuring(help="Questions per dev image; default: 6 (gradients: 2).")] = None,
    images: Annotated[Path | None, measuring(help="Folder with your own images, instead of dev images.")] = None,
    prompt: Annotated[
        str | None, measuring(help="Prompt for each of --images; default: 'Please describe this image in detail.'")
    ] = None,
    device: Annotated[str, measuring(help="auto, cpu or cuda.")] = "auto",
    dtype: Annotated[str, measuring(help="dtype of the model: float32 or bfloat16.")] = "float32",
    out: Annotated[Path | None, output("--out", "-o", help="File (.json) to write, for --set tune.layers=.")] = None,
    plot: Annotated[Path | None, output(help="File (.png or .svg) for a plot of the scores.")] = None,
    as_json: Annotated[bool, output("--json", help="Print a JSON record instead of text.")] = False,
) -> None:
    """Choose layers to tune, by a strategy or a score.

    A layer strategy needs only the depth; an importance score is measured on a tuned checkpoint.

    \b
    Examples:
      vrbench layers --list
      vrbench layers sparse-uniform --num-layers 8 --depth 32
      vrbench layers change --num-layers 8 --ckpt pocket/full --out change-8.json
    """
    from vrbench.pruning.choose import as_text, choose

    found = choose(
        strategy, num_layers, ckpt=ckpt, base=base, depth=depth, num_images=num_images, turns=turns, images=images,
        prompt=prompt, seed=seed, device=device, dtype=dtype, out=out, plot=plot,
    )  # fmt: skip
    print(found.model_dump_json(indent=1) if as_json else as_text(found))
    for file in (out, plot):
        if file is not None:
            print(f"file: {file}", file=sys.stderr if as_json else sys.stdout)


HELP_SHAPE = "llava-1.5-7b, llava-1.5-13b, bunny-llama-3-8b, bunny-phi3-mini or tiny; default: the paper's four."
HELP_LAYERS = "Tuned layers, such as '0-7' or 'top:8'; default: all, and the paper's region."
HELP_MASTERS = (
    "dtype of the trained parameters: float32, as in `vrbench train`, or bfloat16; auto: float32 for lora, bfloat16 "
    "for weights, of which a 13B model then fits on one GPU."
)


def profile(
    shape: Annotated[list[str] | None, typer.Option(help=f"{HELP_SHAPE} May be repeated.", show_default=False)] = None,
    tuning: Annotated[Literal["lora", "weights", "both"], typer.Option(help="How layers are tuned.")] = "both",
    checkpointing: Annotated[
        Literal["on", "off", "both"], typer.Option(help="Whether the backward pass recomputes activations.")
    ] = "both",
    layers: Annotated[list[str] | None, typer.Option(help=f"{HELP_LAYERS} May be repeated.")] = None,
    removed: Annotated[
        list[int], typer.Option(help="Numbers of removed layers for which prefill is timed. May be repeated.")
    ] = [0, 4, 8],  # noqa: B006 - typer copies it
    prefill: Annotated[bool, typer.Option(help="Time prefill too.")] = True,
    batch: Annotated[int, typer.Option(help="Rows per step.")] = 8,
    tokens: Annotated[int, typer.Option(help="Tokens a row, image included; half of the text is answers.")] = 768,
    image_tokens: Annotated[int, typer.Option(help="Tokens of the image in a row.")] = 576,
    steps: Annotated[int, typer.Option(help="Timed steps after the warm-up, of which the median is taken.")] = 4,
    masters: Annotated[str, typer.Option(help=HELP_MASTERS)] = "auto",
    compile_layers: Annotated[
        Literal["auto", "on", "off"], typer.Option("--compile", help="Compile the decoder layers; auto: on a GPU.")
    ] = "auto",
    projector: Annotated[
        bool, typer.Option("--projector/--freeze-projector", help="Whether the projector is trained too.")
    ] = True,
    device: Device = "auto",
    out: Annotated[Path, typer.Option(help="File of the rows; those that it contains are not measured again.")] = Path(
        "profile.json"
    ),
    config: Config = None,
) -> None:
    """Measure seconds and memory of training steps.

    Models have true shapes and random weights, made on the device. Language model and projector are trained as in the
    paper's second stage, on random features; LoRA has rank 128 and alpha 256 on every linear of the layers. The LM head
    runs on answer tokens only.

    \b
    Example:
      vrbench profile --shape llava-1.5-7b --tuning lora --out profile.json
    """
    from vrbench.training.profile import DEFAULT_MASTERS, PAPER_SHAPES, ProfileOptions
    from vrbench.training.profile import profile as measure
    from vrbench.training.profile_results import ProfileRow, profile_tables

    def report(row: ProfileRow) -> None:
        result = row.status if row.seconds_per_step is None else f"{row.seconds_per_step:.3f} s"
        what = f"{row.tuning} {row.layers}" if row.kind == "train" else f"prefill, {row.removed} layers removed"
        print(f"{row.shape} {what}{', checkpointing' if row.checkpointing else ''}: {result}", file=sys.stderr)

    options = ProfileOptions(
        tunings=tuple(DEFAULT_MASTERS) if tuning == "both" else (tuning,),
        checkpointing=(True, False) if checkpointing == "both" else (checkpointing == "on",),
        layers=layers or (), batch=batch, tokens=tokens, image_tokens=image_tokens, steps=steps, masters=masters,
        compile=compile_layers, projector=projector, removed=removed if prefill else (),
    )  # fmt: skip
    rows = measure(tuple(shape or PAPER_SHAPES), options, device, out, report)
    print(profile_tables(rows))
    print(f"profile: {out}")
