"""Commands that run tasks, compare runs, list tasks, and print schemas and the version."""

from __future__ import annotations

import logging
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vrbench.cli.command import INTERNAL_ERROR, INTERRUPTED, INVALID_INPUT
from vrbench.cli.options import Config, DataRoot, IncludePath, TrustRemoteCode, TrustTaskCode
from vrbench.core.errors import VrbenchError, collect_errors, raise_errors
from vrbench.core.version import __version__

if TYPE_CHECKING:
    from vrbench.core.schemas import Run
    from vrbench.evaluation.failures import PartialFailureError
    from vrbench.evaluation.ranks import Ranks
    from vrbench.evaluation.run_config import RunConfig
    from vrbench.statistics.schema import Comparison

model = partial(typer.Option, rich_help_panel="How the model is run")


def run(
    ckpt: Annotated[
        list[str], typer.Option(help="Checkpoint: pocket/NAME, random/NAME, a folder, or a hub id. May be repeated.")
    ],
    tasks: Annotated[str, typer.Option(help="Task ids, suites and globs, comma-separated; see `vrbench tasks`.")],
    baseline: Annotated[str | None, typer.Option(help="Checkpoint that the others are compared with.")] = None,
    limit: Annotated[int | None, typer.Option(help="Maximum items per task; does not split pairs.")] = None,
    batch_size: Annotated[str, model(help="Rows per batch, or auto.")] = "auto",
    device: Annotated[str, model(help="auto, cpu, cuda or cuda:N.")] = "auto",
    dtype: Annotated[str, model(help="auto (bfloat16 on a GPU, else float32), float32, bfloat16 or float16.")] = "auto",
    gpus: Annotated[
        str,
        model(
            help="GPUs of this machine to use, each by a process: a number, all, or auto (all if there are several "
            "checkpoints or tasks to evaluate). Or start with torchrun."
        ),
    ] = "auto",
    gpu_memory: Annotated[float, model(help="Share of the GPU's memory to use, weights included.")] = 0.85,
    deterministic: Annotated[
        bool,
        model(
            "--deterministic", help="Bitwise identical answers for any batch size, order and number of GPUs; slower."
        ),
    ] = False,
    device_map: Annotated[
        str | None, model(help="auto: spread the layers of a model larger than one GPU over all of them (accelerate).")
    ] = None,
    tp: Annotated[
        bool,
        model("--tp", help="Tensor parallelism: shard one model over the GPUs of --gpus or torchrun."),
    ] = False,
    backend: Annotated[
        str, model(help="Inference backend: vrbench, or vllm (vrbench[vllm]; some tasks and families).")
    ] = "vrbench",
    data_root: DataRoot = None,
    include_path: IncludePath = None,
    out: Annotated[Path, typer.Option(help="Folder of runs and stored answers.")] = Path("runs"),
    seed: Annotated[int, typer.Option(help="Random seed for --limit and for intervals.")] = 0,
    trust_remote_code: TrustRemoteCode = False,
    trust_task_code: TrustTaskCode = False,
    image_settings: Annotated[
        str,
        model(
            help="Settings of the image processor: harness (lmms-eval's class for the family), checkpoint (its own "
            "files), or pad (pad images that a LLaVA's image processor would crop)."
        ),
    ] = "harness",
    skip_missing: Annotated[
        bool, typer.Option("--skip-missing", help="Skip tasks without data; table and record list them.")
    ] = False,
    config: Config = None,
) -> None:
    """Evaluate checkpoints on tasks.

    With a baseline, all are compared with it. An interrupted run resumes with the same command and produces the same
    record.

    \b
    Examples:
      vrbench run --ckpt pocket/region --baseline pocket/full --tasks pocket --limit 100
      vrbench run --ckpt MODEL --tasks mme,mmlu --dtype bfloat16 --deterministic
      vrbench run --ckpt MODEL --baseline BASE --tasks mme,mmlu --data-root DATA --gpus 2
      vrbench run --ckpt 72B-MODEL --tasks mme,mmlu --device-map auto
      torchrun --nproc-per-node 4 -m vrbench run --ckpt 72B-MODEL --tasks mme,mmlu --tp
      vrbench run --ckpt pocket/region --tasks pocket_visual --backend vllm
    """
    from transformers.utils.logging import disable_progress_bar

    from vrbench.evaluation.failures import PartialFailureError
    from vrbench.evaluation.ranks import Ranks
    from vrbench.evaluation.run_config import RunConfig

    ranks = Ranks.of_environment(together=tp)
    disable_progress_bar()  # of loading weights: it is over before it can be read
    size = int(batch_size) if batch_size.isdecimal() else batch_size  # invalid text is reported with the other errors
    options = RunConfig(
        limit=limit, batch_size=size, device=device, dtype=dtype, gpu_memory=gpu_memory, deterministic=deterministic,
        device_map=device_map, tp=tp, data_root=data_root, include_path=include_path, out=out, seed=seed,
        trust_remote_code=trust_remote_code, trust_task_code=trust_task_code, image_settings=image_settings,
        skip_missing=skip_missing, backend=backend, command=shlex.join(["vrbench", *sys.argv[1:]]),
    )  # fmt: skip
    failure: PartialFailureError | None = None
    try:
        with _silent_but_for_rank_0(ranks):
            runs = _evaluate(ckpt, tasks, baseline, options, ranks, gpus)
    except PartialFailureError as error:
        runs, failure = error.runs, error
    if runs:
        has_both = len(runs) > 1 and not (failure and failure.baseline_failed)
        _print_runs(runs, compared=baseline is not None and has_both, out=out, seed=seed)
    _exit_after_failures(runs, failure)


def _evaluate(
    ckpts: list[str], tasks: str, baseline: str | None, options: RunConfig, ranks: Ranks, gpus: str
) -> list[Run]:
    """Evaluate here, or where several GPUs are to be used, run this command in a process for each of them."""
    from vrbench.core.provenance import VLLM
    from vrbench.evaluation.evaluate import run_planned
    from vrbench.evaluation.ranks import gpu_count, run_with_torchrun
    from vrbench.evaluation.run_plan import checkpoint_names, plan

    count = 1
    errors: list[str] = []
    started = ranks.local_size if "RANK" in os.environ else 0  # by torchrun or accelerate
    takes_one = options.device_map is not None or options.backend == VLLM
    with collect_errors(errors):
        count = 1 if takes_one and gpus == "auto" else gpu_count(gpus, options.device, started)
    wanted = replace(ranks, size=count, local_size=count) if count > 1 else ranks
    run_plan = plan(checkpoint_names(ckpts, baseline), tasks, options, wanted, errors)
    if count > 1 and (gpus != "auto" or options.tp or run_plan.unfinished > 1):
        raise typer.Exit(run_with_torchrun(count, sys.argv[1:]))
    return run_planned(replace(run_plan, ranks=ranks), baseline is not None)


@contextmanager
def _silent_but_for_rank_0(ranks: Ranks) -> Iterator[None]:
    """Let rank 0 alone report what all processes find; another one ends well, or torchrun would end rank 0 with it."""
    if ranks.rank == 0:
        yield
        return
    log = logging.getLogger("vrbench")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        yield
    except VrbenchError:
        pass
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except Exception:
        log.exception("vrbench: process %d leaves its share to process 0", ranks.rank)
    finally:
        log.setLevel(level)
    raise typer.Exit


def _exit_after_failures(runs: list[Run], failure: PartialFailureError | None) -> None:
    """Print the checkpoints and tasks that failed, and exit with 1 or 2 if there are any."""
    for message in failure.messages if failure else ():
        print(f"vrbench: {message}", file=sys.stderr)
    for done in runs:
        for result in done.record.results:
            if result.status == "error":
                print(f"vrbench: {done.record.checkpoint.id} {result.task} failed: {result.error}", file=sys.stderr)
    is_internal = failure is not None and any(failed.is_internal for failed in failure.failed)
    if is_internal or any(done.record.status == "error" for done in runs):
        raise typer.Exit(INTERNAL_ERROR)
    if failure:
        raise typer.Exit(INVALID_INPUT)


def _write_report(comparison: Comparison, folder: Path) -> None:
    from vrbench import reporting

    for file in reporting.write(comparison, folder):
        print(f"report: {file}", file=sys.stderr)


def _print_runs(runs: list[Run], compared: bool, out: Path, seed: int) -> None:
    from vrbench import reporting

    if compared:
        from vrbench.statistics.comparison import compare

        comparison = compare(runs[1:], runs[0], seed=seed)
        print(reporting.render(comparison, "table"))
        _write_report(comparison, out)
    else:
        print(reporting.scores(runs))
    for done in runs:
        print(f"run: {done.path}")


def compare(
    runs: Annotated[
        list[Path],
        typer.Argument(
            metavar="RUN...", help="Folders of runs; those of one checkpoint are merged.", show_default=False
        ),
    ],
    baseline: Annotated[
        list[Path],
        typer.Option(help="Folder of the run that the others are compared with; repeat it to merge several."),
    ],
    form: Annotated[str, typer.Option("--format", help="table, markdown, latex, html or json.")] = "table",
    claim: Annotated[
        list[str] | None, typer.Option(help="Claim to test: 'visual>=99%', 'text>=-1'. May be repeated.")
    ] = None,
    seed: Annotated[int, typer.Option(help="Random seed of the bootstrap.")] = 0,
    draws: Annotated[int, typer.Option(help="Bootstrap draws, for the ends of intervals.")] = 4000,
    to: Annotated[Path | None, typer.Option("--report", help="Folder for Markdown, HTML, JSON and the plots.")] = None,
) -> None:
    """Compare runs with a baseline.

    Prints the retention of each score with confidence intervals, and verdicts on claims.

    The tasks of a checkpoint can be in several runs, if all have the same limit, seed and dtype; if runs have different
    versions of a task, the highest is used.

    \b
    Example:
      vrbench compare runs/region/* --baseline runs/full/fedcba9876543210
    """
    from vrbench import reporting
    from vrbench.core.io import validate_output
    from vrbench.statistics.comparison import compare_paths

    raise_errors(validate_output(to) if to else ())
    comparison = compare_paths(runs, baseline, claim or None, seed, draws)
    print(reporting.render(comparison, form))
    if to:
        _write_report(comparison, to)


def tasks(
    names: Annotated[
        str,
        typer.Argument(help="Only these ids, suites or globs; one id prints that task in full.", show_default=False),
    ] = "*",
    data_root: DataRoot = None,
    include_path: IncludePath = None,
    trust_task_code: TrustTaskCode = False,
    ckpt: Annotated[str | None, typer.Option(help="Print the example of one task as this checkpoint gets it.")] = None,
) -> None:
    """List the tasks, or print one with an example prompt.

    The list says whether the data are available.

    \b
    Examples:
      vrbench tasks 'pocket_visual,text'
      vrbench tasks mme --data-root DATA
    """
    from tabulate import tabulate

    from vrbench.cli import task_listing
    from vrbench.tasks import registry

    found = registry.load_for(names, include_path, trust_task_code)
    raise_errors(found.errors)
    specs = registry.select(names, found.specs)
    if [spec.id for spec in specs] == [names.strip()]:
        print(task_listing.describe_task(specs[0], data_root, ckpt))
        return
    if ckpt is not None:
        raise VrbenchError(f"--ckpt prints how one task is asked, but {names!r} is not the id of one")
    print(tabulate(task_listing.table_rows(specs, data_root), headers="keys", tablefmt="simple", disable_numparse=True))


def schema(
    name: Annotated[
        str,
        typer.Argument(
            help="run, sample, task, submission, reproduction, board, leaderboard or comparison.", show_default=False
        ),
    ] = "run",
) -> None:
    """Print the JSON schema of a file; default: run.json.

    \b
    Example:
      vrbench schema submission > submission.schema.json
    """
    from vrbench.leaderboard.json_schemas import schema_text

    print(schema_text(name), end="")


def version() -> None:
    """Print the version.

    \b
    Example:
      vrbench version
    """
    print(f"vrbench {__version__}")
