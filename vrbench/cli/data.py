"""`vrbench data`: make a data root, and see if it is whole."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vrbench.cli.options import USERS, IncludePath

if TYPE_CHECKING:
    from vrbench.tasks.spec import TaskSpec


def fetch(
    names: Annotated[str, typer.Argument(help="Task ids, suites and globs, comma-separated.", show_default=False)],
    to: Annotated[Path, typer.Option(help="Data root to make or to complete.")],
    include_path: IncludePath = None,
) -> None:
    """Fetch the tasks' data sets from the hub: parquet of a pinned revision, and a digest of each file.

    Stopped, it goes on where it was; whole files are not fetched again. HF_HOME says where downloads are kept, and
    HF_ENDPOINT names another hub.
    """
    from vrbench.data.download import download as fetch_sets
    from vrbench.tasks import registry

    specs, judged = registry.select_runnable(names, _specs(names, include_path))
    if judged:
        print(f"vrbench: left out, since they need a judge model: {', '.join(s.id for s in judged)}", file=sys.stderr)
    made = fetch_sets(specs, to)
    print(f"{len(made)} files fetched into {to}, the others that are needed were whole")


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

    from vrbench.data import local_mirror
    from vrbench.tasks import registry

    specs = None if tasks is None else registry.select(tasks, _specs(tasks, include_path))
    found = local_mirror.check(root, specs)
    rows = [(one.file, one.state, one.detail) for one in found]
    print(tabulate(rows, ("file", "state", "what was found"), "simple", disable_numparse=True))
    counts = Counter(one.state for one in found)
    print(", ".join(f"{number:,} {state}" for state, number in counts.items()) or f"no data file under {root}")
    if set(counts) != {"whole"}:
        raise typer.Exit(USERS)


def _specs(names: str, include_path: Path | None) -> dict[str, TaskSpec]:
    from vrbench.core.errors import raise_errors
    from vrbench.tasks import registry

    asked = registry.load_for(names, include_path)
    raise_errors(asked.errors)
    return asked.specs
