"""`vrbench reproduce`: plan, execute and report the paper's tables."""

from __future__ import annotations

import os
import shlex
import sys
import time
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vrbench.cli.command import INTERNAL_ERROR
from vrbench.cli.options import DataRoot, Device, read_overrides

if TYPE_CHECKING:
    from vrbench.reproduce.execute import StepEvent
    from vrbench.reproduce.plan import Plan, PlanStep
    from vrbench.reproduce.worker import ExecutionOptions

PUBLISHED_REPORTS = Path("leaderboards") / "reproduce"
MAX_NAMES = 4
"""Running steps that the progress bar names."""


def reproduce(
    tables: Annotated[
        str,
        typer.Argument(
            metavar="TABLE",
            show_default=False,
            help="strategies, layers, data, text, pruning, restoring, profile, several with commas, or all.",
        ),
    ],
    family: Annotated[str, typer.Option(help="pocket, llava-1.5-7b or bunny-llama-3-8b.")] = "pocket",
    seeds: Annotated[int, typer.Option(help="Number of training seeds: 0, 1, ...")] = 3,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the steps and their estimated minutes.")] = False,
    report_only: Annotated[bool, typer.Option("--report-only", help="Write the report of the finished steps.")] = False,
    pack: Annotated[bool, typer.Option("--pack", help="Pack the folder's records into two parquet files.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the plan (default: reproduce/FAMILY; to report: the published one).")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Recipe key for all trainings, or steps, scenes, batch."),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Items per task; 0 for all (default: by family).")] = None,
    tasks: Annotated[str | None, typer.Option(help="Evaluated tasks (default: by family).")] = None,
    jobs: Annotated[int | None, typer.Option(help="Parallel workers (default: by number of GPUs).")] = None,
    device: Device = "auto",
    data_root: DataRoot = None,
    only: Annotated[str, typer.Option(help="Run only steps that match these globs, and their inputs.")] = "*",
    discard: Annotated[bool, typer.Option("--discard", help="Delete weights that no later step needs.")] = False,
) -> None:
    """Reproduce the paper's tables, beside the published ones.

    Steps train, prune and evaluate models, and write a report.

    An interrupted run resumes. Steps that several tables need run once; a table added later reuses them.

    \b
    Examples:
      vrbench reproduce all --dry-run
      vrbench reproduce layers --seeds 1 --set steps=20 --limit 20
    """
    from vrbench.reproduce.build import ExperimentRequest, build

    plan = build(ExperimentRequest(tables, family, seeds, read_overrides(changes or []), tasks, limit))
    folder = out or Path("reproduce") / plan.family
    if report_only:
        _report(out or PUBLISHED_REPORTS / plan.family)
    elif pack:
        _pack(folder)
    elif dry_run:
        print_plan(plan, folder, only, jobs)
    else:
        succeeded = _execute(plan, folder, _options(plan, folder, jobs, device, only, discard, data_root))
        _report(folder)
        if not succeeded:
            raise typer.Exit(INTERNAL_ERROR)


def _report(folder: Path) -> None:
    from vrbench.reproduce.report import write_report

    for file in write_report(folder):
        print(f"report: {file}")


def _pack(folder: Path) -> None:
    from vrbench.reproduce.packing import pack
    from vrbench.reproduce.plan import lock_folder

    with lock_folder(folder):
        for file in pack(folder):
            print(f"packed: {file}")


def _options(
    plan: Plan, folder: Path, jobs: int | None, device: str, only: str, discard: bool, data_root: Path | None
) -> ExecutionOptions:
    """Return the options of the execution, with what "auto" means here; all errors are raised together."""
    from vrbench.cli.reproduce_steps import validate_plan
    from vrbench.core.device import device_kind, resolve_device
    from vrbench.core.errors import raise_errors
    from vrbench.core.io import validate_output
    from vrbench.reproduce.execute import gpu_names
    from vrbench.reproduce.families import family_named
    from vrbench.reproduce.worker import ExecutionOptions

    errors = [*validate_output(folder), *validate_plan(plan, device, str(data_root or ""))]
    if jobs is not None and jobs < 1:
        errors.append(f"jobs is {jobs}; it must be at least 1")
    raise_errors(errors)
    resolved = resolve_device(device)
    gpus: tuple[str, ...] = ()
    if device_kind(resolved) == "cuda":
        import torch

        gpus = gpu_names(torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES"))
        if ":" in resolved:  # each step sees one GPU, as cuda
            gpus = (gpus[int(resolved.partition(":")[2])],)
            resolved = "cuda"
    workers = jobs or max(1, len(gpus) * family_named(plan.family).jobs_per_gpu)
    command = shlex.join(["vrbench", *sys.argv[1:]])
    return ExecutionOptions(resolved, gpus, workers, only, discard, str(data_root or ""), command)


def _execute(plan: Plan, folder: Path, options: ExecutionOptions) -> bool:
    """Do the steps; returns whether all succeeded."""
    from vrbench.cli.reproduce_steps import FUNCTIONS
    from vrbench.reproduce.execute import execute

    _print_trial(plan)
    start = time.perf_counter()
    with closing(execute(plan, folder, FUNCTIONS, options)) as happening:
        events = _show_progress(happening, plan, options)
    print_costs(plan, folder, options, events, time.perf_counter() - start)
    failed = [event for event in events if event.kind == "failed"]
    for event in failed:
        print(f"vrbench: step {event.step} failed: {event.error} (see logs/{event.step}.log)", file=sys.stderr)
    if skipped := sum(event.kind == "skipped" for event in events):
        print(f"vrbench: {skipped} steps that need a failed step were skipped", file=sys.stderr)
    return not failed


def print_plan(plan: Plan, folder: Path, only: str, jobs: int | None) -> None:
    """Print every step by kind, which are done, and how long the rest takes."""
    from vrbench.reproduce.families import family_named
    from vrbench.reproduce.plan_builder import wall_minutes
    from vrbench.reproduce.schedule import remaining_work

    work = remaining_work(plan, folder, only)
    steps, done = work.steps, work.done
    kinds = {kind: [step for step in steps if step.kind == kind] for kind in dict.fromkeys(s.kind for s in steps)}
    for kind, alike in kinds.items():
        print(f"{kind}:")
        for step in alike:
            needs = f"  after {', '.join(step.needs)}" if step.needs else ""
            state = "  (done)" if step.name in done else _repeat_reason(step, folder) if step in work.repeated else ""
            print(f"  {step.name}{needs}{state}")
    rows = [_row(kind, alike, done) for kind, alike in kinds.items()]
    print()
    _print_table([*rows, _row("all", steps, done)], ("step", "all", "done", "GPU minutes left"))
    family = family_named(plan.family)
    workers = jobs or family.jobs_per_gpu
    alone = sum(step.minutes for step in work.left if step.kind == "profile")
    clock = alone + wall_minutes(sum(step.minutes for step in work.left) - alone, family.costs, 1, workers)
    profile = f", {alone:,.0f} of them for the profile, which runs alone" if alone else ""
    print(f"\nAbout {clock:,.0f} minutes of wall time on one GPU with {workers} parallel workers{profile}.")
    print(f"Estimated from: {family.costs.source}.")
    print(f"Evaluated: {plan.tasks}, {f'{plan.limit} items a task' if plan.limit else 'all items'}.")
    _print_trial(plan)
    print(f"Results go to {folder}.")


def _print_trial(plan: Plan) -> None:
    if plan.is_trial:
        from vrbench.reproduce.plan import MIN_STEPS

        print(
            f"With fewer than {MIN_STEPS} training steps this is a trial: batches, images, questions and tasks "
            f"({plan.tasks}) are few too, and nothing is learned."
        )


def _repeat_reason(step: PlanStep, folder: Path) -> str:
    from vrbench.reproduce.plan import CHECKPOINT_KINDS
    from vrbench.reproduce.schedule import has_weights

    missing = step.kind in CHECKPOINT_KINDS and not has_weights(step.output(folder))
    return "  (again: its weights are missing)" if missing else "  (again: a step that it needs is repeated)"


def _row(kind: str, steps: Sequence[PlanStep], done: Collection[str]) -> tuple[str, int, int, str]:
    left = [step for step in steps if step.name not in done]
    return kind, len(steps), len(steps) - len(left), f"{sum(step.minutes for step in left):,.1f}"


def _show_progress(happening: Iterable[StepEvent], plan: Plan, options: ExecutionOptions) -> list[StepEvent]:
    """Show a progress bar with the names of running steps; returns all events."""
    from tqdm import tqdm

    from vrbench.reproduce.schedule import select_steps

    running: dict[str, None] = {}
    events = []
    with tqdm(total=len(select_steps(plan, options.only)), unit="step", desc="reproduce", smoothing=0) as bar:
        for event in happening:
            events.append(event)
            if event.kind == "started":
                running[event.step] = None
            else:
                running.pop(event.step, None)
                bar.update()
            if event.kind == "failed":
                bar.write(f"{event.step} failed: {event.error}")
            names = list(running)
            more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
            bar.set_postfix_str(", ".join(names[:MAX_NAMES]) + more)
    return events


def print_costs(plan: Plan, folder: Path, options: ExecutionOptions, events: list[StepEvent], seconds: float) -> None:
    """Print minutes of steps by kind, from all sessions; and by GPU, from this one.

    Args:
        seconds: wall time of this session.
    """
    from vrbench.reproduce.packing import RecordFolder
    from vrbench.reproduce.plan import finished_steps, merge_with_stored

    records = finished_steps(merge_with_stored(plan, folder), RecordFolder(folder))
    rows = []
    for kind in dict.fromkeys(step.kind for step in plan.steps):
        done = [records[step.name] for step in plan.steps if step.kind == kind and step.name in records]
        peak = max((record.peak_gib or 0.0 for record in done), default=0.0)
        spent = f"{sum(record.seconds for record in done) / 60:,.1f}"
        rows.append((kind, len(done), spent, f"{peak:.1f}" if peak else "-"))
    _print_table(rows, ("step", "done", "minutes of steps", "peak memory, GiB"))
    used = min(len(options.gpus), options.jobs)
    gpu_minutes = f", {used} GPUs: {used * seconds / 60:,.1f} GPU minutes" if used else ""
    print(f"this session: {seconds / 60:,.1f} minutes of wall time, {options.jobs} parallel workers{gpu_minutes}")
    by_gpu: dict[int, float] = defaultdict(float)
    for event in events:
        if event.kind in ("done", "failed"):
            by_gpu[event.gpu] += event.seconds / 60
    if options.gpus and by_gpu:
        each = ", ".join(f"{options.gpus[gpu]}: {minutes:,.1f}" for gpu, minutes in sorted(by_gpu.items()))
        print(f"minutes of steps by GPU, which several may share: {each}")


def _print_table(rows: Sequence[tuple[object, ...]], head: tuple[str, ...]) -> None:
    from tabulate import tabulate

    print(tabulate(rows, head, "simple", disable_numparse=True))
