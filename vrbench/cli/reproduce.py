"""`vrbench reproduce`: the paper's tables, planned, executed and reported."""

from __future__ import annotations

import os
import shlex
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vrbench.cli.options import OURS, DataRoot, Device

if TYPE_CHECKING:
    from vrbench.reproduce.execute import ExecutionOptions
    from vrbench.reproduce.plan import Plan

PUBLISHED = Path("leaderboards") / "reproduce"


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
    seeds: Annotated[int, typer.Option(help="Trainings with seeds 0, 1, ...")] = 3,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done, and for how long.")] = False,
    report_only: Annotated[bool, typer.Option("--report-only", help="Write the report of what is there.")] = False,
    pack: Annotated[
        bool,
        typer.Option("--pack", help="Pack the records that are there into two parquet files, which are then read."),
    ] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the plan; reproduce/FAMILY, or the published one to report on.")
    ] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Recipe key for all trainings, or steps, scenes, batch."),
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Items a task; 0 for all. Else as the family has it.")] = None,
    tasks: Annotated[str | None, typer.Option(help="What is measured. Else as the family has it.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Steps at once. Else as many as suit the cards.")] = None,
    device: Device = "auto",
    data_root: DataRoot = None,
    only: Annotated[str, typer.Option(help="Only steps whose names fit these globs, and what they need.")] = "*",
    discard: Annotated[bool, typer.Option("--discard", help="Remove weights that no step needs any more.")] = False,
) -> None:
    """Repeat the paper's tables: train, remove, measure, and set the results beside what was published.

    Stopped, it goes on where it was. What several tables need is made once; a table added later uses what is there.
    """
    from vrbench.cli.config_file import read_overrides
    from vrbench.reproduce.build import ExperimentRequest, build

    overrides = read_overrides(changes or [])
    plan = build(ExperimentRequest(tables, family, seeds, overrides, tasks, limit))
    if report_only:
        _report(out or PUBLISHED / plan.family)
        return
    folder = out or Path("reproduce") / plan.family
    if pack:
        _pack(folder)
        return
    if dry_run:
        from vrbench.cli.reproduce_shown import print_plan

        print_plan(plan, folder, only, jobs)
        return
    went_well = _execute(plan, folder, _options(plan, folder, jobs, device, only, discard, data_root))
    _report(folder)
    if not went_well:
        raise typer.Exit(OURS)


def _pack(folder: Path) -> None:
    from vrbench.reproduce.packing import pack

    for file in pack(folder):
        print(f"packed: {file}")


def _report(folder: Path) -> None:
    from vrbench.reproduce.report import write

    for file in write(folder):
        print(f"report: {file}")


def _options(
    plan: Plan, folder: Path, jobs: int | None, device: str, only: str, discard: bool, data_root: Path | None
) -> ExecutionOptions:
    """How to execute, with what "auto" means here; every fault is told before anything is done."""
    from vrbench.cli.reproduce_faults import faults
    from vrbench.core.device import resolve_device
    from vrbench.core.errors import raise_errors
    from vrbench.core.io import validate_output
    from vrbench.reproduce.execute import ExecutionOptions, cards_of
    from vrbench.reproduce.families import family

    found = [*validate_output(folder), *faults(plan, device, str(data_root or ""))]
    if jobs is not None and jobs < 1:
        found.append(f"jobs is {jobs}; it must be at least 1")
    raise_errors(found)
    where = resolve_device(device)
    cards: tuple[str, ...] = ()
    if where == "cuda":
        import torch

        cards = cards_of(torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES"))
    at_once = jobs or max(1, len(cards) * family(plan.family).jobs_per_card)
    command = shlex.join(["vrbench", *sys.argv[1:]])
    return ExecutionOptions(where, cards, at_once, only, discard, str(data_root or ""), command)


def _execute(plan: Plan, folder: Path, options: ExecutionOptions) -> bool:
    """Do the steps; says whether all went well."""
    from vrbench.cli.reproduce_shown import print_spent, print_trial, watch
    from vrbench.cli.reproduce_steps import FUNCTIONS
    from vrbench.reproduce.execute import execute

    print_trial(plan)
    start = time.perf_counter()
    with closing(execute(plan, folder, FUNCTIONS, options)) as happening:
        events = watch(happening, plan, options)
    print_spent(plan, folder, options, events, time.perf_counter() - start)
    for event in (event for event in events if event.kind == "failed"):
        print(f"vrbench: step {event.step} failed: {event.error} (see logs/{event.step}.log)", file=sys.stderr)
    skipped = sum(event.kind == "skipped" for event in events)
    if skipped:
        print(f"vrbench: {skipped} steps that need what failed were left out", file=sys.stderr)
    return not any(event.kind == "failed" for event in events)
