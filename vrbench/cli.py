"""The commands: parse, one call, print. The only place that prints or exits."""

from __future__ import annotations

import shlex
import sys
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vrbench import __version__
from vrbench.cache import cache_folder
from vrbench.errors import ManyFaults, VrbenchError

if TYPE_CHECKING:
    from vrbench.compare import Comparison
    from vrbench.records import Run

DONE, OURS, USERS = 0, 1, 2  # exit codes: done, our fault, the user's fault

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="What does a vision-language model whose LLM was made cheaper still see, and what can it still read?",
    epilog="Example: vrbench run --ckpt pocket/region --baseline pocket/full --tasks pocket --limit 40",
)  # fmt: skip


def main() -> None:
    """The program: runs a command, tells faults in one line each, and exits with 0, 1 or 2."""
    try:
        app()
    except VrbenchError as error:
        for fault in error.faults if isinstance(error, ManyFaults) else (str(error),):
            print(f"vrbench: {fault}", file=sys.stderr)
        sys.exit(USERS)
    except Exception as error:
        print(f"vrbench: {type(error).__name__}: {error}".rstrip(": "), file=sys.stderr)
        print(f"vrbench: this is a fault of vrbench; {_keep_traceback()}", file=sys.stderr)
        sys.exit(OURS)


def _keep_traceback() -> str:
    """Write the traceback to a file; says where it is, or gives it whole when no file can be written."""
    text = traceback.format_exc()
    file = cache_folder() / "errors" / f"{time.strftime('%Y%m%dT%H%M%S')}-{time.time_ns() % 10**6:06d}.txt"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{' '.join(sys.argv)}\n{text}", encoding="utf-8")
    except OSError:
        return f"its traceback:\n{text}"
    return f"its traceback is in {file}"


def _from_config(context: typer.Context, file: Path | None) -> Path | None:
    """Make a YAML file's options the defaults of a command; what the command line says still wins."""
    if file is None or context.resilient_parsing:
        return file
    from vrbench.config import read_config

    known = [p.name for p in context.command.params if p.name and p.name not in ("config", "help")]
    context.default_map = {**(context.default_map or {}), **read_config(file, known)}
    return file


CONFIG_HELP = "YAML file that gives any of these options; the command line wins."
Config = Annotated[Path | None, typer.Option(help=CONFIG_HELP, callback=_from_config, is_eager=True)]
IncludePath = Annotated[Path | None, typer.Option(help="Folder with your own task files.")]
DataRoot = Annotated[Path | None, typer.Option(help="Folder with the hub's data sets; the network is left alone then.")]


@app.command(epilog="Example: vrbench run --ckpt pocket/region --baseline pocket/full --tasks pocket --limit 100")
def run(
    ckpt: Annotated[
        list[str], typer.Option(help="Checkpoint: pocket/NAME, random/NAME, a folder, or a hub id. May be repeated.")
    ],
    tasks: Annotated[str, typer.Option(help="Task ids, suites and globs, comma-separated; see `vrbench tasks`.")],
    baseline: Annotated[str | None, typer.Option(help="Checkpoint that the others are compared with.")] = None,
    limit: Annotated[int | None, typer.Option(help="Items a task at most; pairs and rotations stay whole.")] = None,
    batch_size: Annotated[str, typer.Option(help="'auto', or rows in one pass.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    dtype: Annotated[str, typer.Option(help="auto (bfloat16 on a card, else float32), float32 or bfloat16.")] = "auto",
    data_root: DataRoot = None,
    include_path: IncludePath = None,
    out: Annotated[Path, typer.Option(help="Folder of the runs; the same inputs go on there.")] = Path("runs"),
    seed: Annotated[int, typer.Option(help="Of the choice under a limit, and of intervals.")] = 0,
    config: Config = None,
) -> None:
    """Measure checkpoints on tasks, and compare them with a baseline."""
    from transformers.utils.logging import disable_progress_bar

    from vrbench.evaluate import run_all
    from vrbench.plan import Options

    disable_progress_bar()  # of loading weights: it is over before it can be read
    size = int(batch_size) if batch_size.isdigit() else batch_size  # a wrong text is told with the other faults
    options = Options(
        limit=limit, batch_size=size, device=device, dtype=dtype,
        data_root=data_root, include_path=include_path, out=out, seed=seed,
        command=shlex.join(["vrbench", *sys.argv[1:]]),
    )  # fmt: skip
    runs = run_all(ckpt, tasks, baseline, options)
    _print_runs(runs, compared=baseline is not None, out=out, seed=seed)
    for done in runs:
        for result in done.record.results:
            if result.status == "error":
                print(f"vrbench: {done.record.checkpoint.id} {result.task} died: {result.error}", file=sys.stderr)
    if any(done.record.status == "error" for done in runs):
        raise typer.Exit(OURS)


def _write_report(comparison: Comparison, folder: Path) -> None:
    from vrbench import report

    for file in report.write(comparison, folder):
        print(f"report: {file}", file=sys.stderr)


def _print_runs(runs: list[Run], compared: bool, out: Path, seed: int) -> None:
    from vrbench import report

    if compared:
        from vrbench.compare import compare

        comparison = compare(runs[1:], runs[0], seed=seed)
        print(report.render(comparison, "table"))
        _write_report(comparison, out)
    else:
        print(report.scores(runs))
    for done in runs:
        print(f"run: {done.path}")


@app.command(epilog="Example: vrbench compare runs/region/* --baseline runs/full/fedcba9876543210")
def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help="Folders of runs; those of one checkpoint are joined.", show_default=False
        ),
    ],
    baseline: Annotated[
        list[Path],
        typer.Option(help="Folder of the run that the others are compared with; repeat it to join several."),
    ],
    form: Annotated[str, typer.Option("--format", help="table, markdown, latex, html or json.")] = "table",
    claim: Annotated[list[str] | None, typer.Option(help="Such as 'visual>=99%', 'text>=-1'; may be repeated.")] = None,
    seed: Annotated[int, typer.Option(help="Of the bootstrap's draws.")] = 0,
    to: Annotated[Path | None, typer.Option("--report", help="Folder for Markdown, HTML, JSON and the plots.")] = None,
) -> None:
    """Compare runs with a baseline: retention with intervals, and verdicts on claims.

    Tasks of a checkpoint that were measured on other days or machines may lie in several runs, all with the same limit,
    seed and dtype; of two versions of a task the higher is used.
    """
    from vrbench import report
    from vrbench.compare import compare_paths

    comparison = compare_paths(runs, baseline, claim or None, seed)
    print(report.render(comparison, form))
    if to:
        _write_report(comparison, to)


@app.command(epilog="Example: vrbench tasks 'pocket_visual,text'; vrbench tasks mme --data-root DATA")
def tasks(
    names: Annotated[
        str, typer.Argument(help="Only these ids, suites or globs; one id shows that task in full.", show_default=False)
    ] = "*",
    data_root: DataRoot = None,
    include_path: IncludePath = None,
) -> None:
    """List the tasks, and whether their data are at hand; or show one with an example of its prompt."""
    from tabulate import tabulate

    from vrbench import catalogue, registry

    specs = registry.resolve(names, registry.load(include_path))
    if [spec.id for spec in specs] == [names.strip()]:
        print(catalogue.in_full(specs[0], data_root))
        return
    print(tabulate(catalogue.describe(specs, data_root), headers="keys", tablefmt="simple", disable_numparse=True))


data_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Make a data root of the hub's sets, and see if it is whole.",
    epilog="Example: vrbench data fetch mme,text --to DATA && vrbench run --data-root DATA ...",
)  # fmt: skip
app.add_typer(data_app, name="data")


@data_app.command(epilog="Example: vrbench data fetch mme,paper_text --to DATA")
def fetch(
    names: Annotated[str, typer.Argument(help="Task ids, suites and globs, comma-separated.", show_default=False)],
    to: Annotated[Path, typer.Option(help="Data root to make or to complete.")],
    include_path: IncludePath = None,
) -> None:
    """Fetch the tasks' data sets from the hub: parquet of a pinned revision, and a digest of each file.

    Stopped, it goes on where it was; whole files are not fetched again. HF_HOME says where downloads are kept, and
    HF_ENDPOINT names another hub.
    """
    from vrbench import registry
    from vrbench.fetch import fetch as fetch_sets

    specs, judged = registry.runnable(names, registry.load(include_path))
    if judged:
        print(f"vrbench: left out, since they need a judge model: {', '.join(s.id for s in judged)}", file=sys.stderr)
    made = fetch_sets(specs, to)
    print(f"{len(made)} files fetched into {to}, the others that are needed were whole")


@data_app.command(epilog="Example: vrbench data check DATA --tasks mme,mmlu")
def check(
    root: Annotated[Path, typer.Argument(help="Data root.", show_default=False)],
    tasks: Annotated[str | None, typer.Option(help="Only the files of these ids, suites and globs.")] = None,
    include_path: IncludePath = None,
) -> None:
    """Say which files of a data root are whole, changed, truncated, missing or not recorded.

    A file is whole when its sha256 is the one in vrbench-data.json, which `vrbench data fetch` writes. Exits with 0 if
    all are whole, else with 2.
    """
    from collections import Counter

    from tabulate import tabulate

    from vrbench import dataroot, registry

    specs = None if tasks is None else registry.resolve(tasks, registry.load(include_path))
    found = dataroot.check(root, specs)
    rows = [(one.file, one.state, one.detail) for one in found]
    print(tabulate(rows, ("file", "state", "what was found"), "simple", disable_numparse=True))
    counts = Counter(one.state for one in found)
    print(", ".join(f"{number:,} {state}" for state, number in counts.items()) or f"no data file under {root}")
    if set(counts) != {"whole"}:
        raise typer.Exit(USERS)


@app.command(epilog="Example: vrbench train pocket-region --out checkpoints/region --set tune.layers=sparse-uniform:4")
def train(
    recipe: Annotated[str, typer.Argument(help="Name of a shipped recipe, or a YAML file.", show_default=False)],
    out: Annotated[Path, typer.Option(help="Checkpoint folder to make.")],
    changes: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Another value for a key. May be repeated.")
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Train a checkpoint after a recipe."""
    from vrbench.config import read_overrides
    from vrbench.train import train as train_recipe

    print(f"checkpoint: {train_recipe(recipe, out, read_overrides(changes or []), device)}")


@app.command(epilog="Example: vrbench prune pocket/region --remove 2 --out checkpoints/region-pruned-2")
def prune(
    ckpt: Annotated[str, typer.Argument(help="Checkpoint: pocket/NAME, a folder, or a hub id.", show_default=False)],
    remove: Annotated[int, typer.Option(help="How many decoder layers go.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Checkpoint folder to make.")],
    by: Annotated[
        str, typer.Option(help="loss (of right answers on dev pictures), or angular (distance of output from input).")
    ] = "loss",
    outside_region: Annotated[
        bool, typer.Option("--outside-region/--all-layers", help="Whether the layers that were tuned stay.")
    ] = True,
    whole: Annotated[
        bool, typer.Option("--whole", help="Write the whole smaller model; else only what is removed from the base.")
    ] = False,
    id_: Annotated[str | None, typer.Option("--id", help="Id of the new checkpoint; else the folder's name.")] = None,
    pictures: Annotated[int, typer.Option(help="Dev pictures on which layers are measured.")] = 200,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
) -> None:
    """Remove the decoder layers that a checkpoint misses least."""
    from vrbench.surgery import prune as prune_layers
    from vrbench.surgery import recipe_of

    recipe = recipe_of(
        makes=id_ or out.resolve().name, base=ckpt, remove=remove, by=by, outside_region=outside_region,
        pictures=pictures,
    )  # fmt: skip
    print(f"checkpoint: {prune_layers(recipe, out, device, whole)}")


@app.command(epilog="Example: vrbench restore pocket/full --layers 3-7 --from smollm2-135m-instruct --out full-3-7")
def restore(
    ckpt: Annotated[str, typer.Argument(help="Checkpoint: pocket/NAME, a folder, or a hub id.", show_default=False)],
    layers: Annotated[str, typer.Option(help="Decoder layers, such as '3-7,12', 'all' or 'middle:5'.")],
    backbone: Annotated[str, typer.Option("--from", help="Language model (or checkpoint) whose weights they get.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Checkpoint folder to make.")],
    id_: Annotated[str | None, typer.Option("--id", help="Id of the new checkpoint; else the folder's name.")] = None,
) -> None:
    """Put decoder layers back to the weights of the language model that they were tuned from."""
    from vrbench.surgery import restore as restore_layers

    print(f"checkpoint: {restore_layers(ckpt, layers, backbone, out, id_ or '')}")


@app.command(
    epilog="Example: vrbench inspect pocket/region-pruned-2 --base pocket/base; vrbench inspect MODEL --base B --json"
)
def inspect(
    ckpt: Annotated[str, typer.Argument(help="Checkpoint: pocket/NAME, a folder, or a hub id.", show_default=False)],
    base: Annotated[str | None, typer.Option(help="What it is compared with; else what it was made from.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print a JSON record instead of text.")] = False,
) -> None:
    """Say what a checkpoint is: size, layers tuned or removed against its base, adapters, digest, lineage, licence.

    Weights are compared with the base's tensor by tensor where it is at hand; no model is built.
    """
    from vrbench.description import as_text, describe

    told = describe(ckpt, base)
    print(told.model_dump_json(indent=1) if as_json else as_text(told))


@app.command(
    epilog="Example: vrbench convert llava-lora checkpoints/llava --base vicuna-7b-v1.5 --vision-tower clip-336"
)
def convert(
    source: Annotated[str, typer.Argument(help="Folder in the original layout of LLaVA-1.5 or Bunny.", metavar="SRC")],
    out: Annotated[Path, typer.Argument(help="Checkpoint folder to make.", metavar="DST")],
    base: Annotated[str | None, typer.Option(help="Language model that a projector or LoRA folder is put on.")] = None,
    vision_tower: Annotated[str | None, typer.Option(help="CLIP or SigLIP folder, if SRC does not hold it.")] = None,
) -> None:
    """Write a checkpoint in transformers' own layout, so that no other code is needed to load it.

    SRC is a merged model, a projector (mm_projector.bin) or a LoRA folder (adapter_model, non_lora_trainables.bin).
    """
    from vrbench.convert import convert as convert_folder

    print(f"checkpoint: {convert_folder(source, out, base, vision_tower)}")


@app.command(epilog="Example: vrbench schema > run.schema.json")
def schema() -> None:
    """Print the JSON schema of run.json."""
    import json

    from vrbench.records import RunRecord

    print(json.dumps(RunRecord.model_json_schema(), indent=1))


@app.command(epilog="Example: vrbench version")
def version() -> None:
    """Print the version."""
    print(f"vrbench {__version__}")
