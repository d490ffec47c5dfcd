"""`vrbench data`: download data sets, and check their files."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vrbench.cli.command import INVALID_INPUT
from vrbench.cli.options import IncludePath

if TYPE_CHECKING:
    from vrbench.tasks.spec import TaskSpec


def download(
    names: Annotated[str, typer.Argument(help="Task ids, suites and globs, comma-separated.", show_default=False)],
    to: Annotated[Path, typer.Option(help="Folder to write, or to complete; pass it as --data-root.")],
    include_path: IncludePath = None,
) -> None:
    """Download the tasks' data sets from the hub.

    They are parquet files of a pinned revision, with a digest of each. Run the same command again to resume; complete
    files are not downloaded again. HF_HOME is the download cache, and HF_ENDPOINT names another hub.

    \b
    Example:
      vrbench data download mme,paper_text --to DATA
    """
    from vrbench.data.download import download as download_sets
    from vrbench.tasks import registry

    specs, judged = registry.select_runnable(names, _specs(names, include_path))
    if judged:
        print(f"vrbench: skipped, since they need a judge model: {', '.join(s.id for s in judged)}", file=sys.stderr)
    files = download_sets(specs, to)
    print(f"{len(files)} files downloaded to {to}; the other files were complete")


def check(
    root: Annotated[Path, typer.Argument(help="Folder of downloaded data sets.", show_default=False)],
    tasks: Annotated[str | None, typer.Option(help="Only the files of these ids, suites and globs.")] = None,
    include_path: IncludePath = None,
) -> None:
    """Check the files of a data folder.

    Prints the state of each file: whole, changed, truncated, missing or unrecorded. A file is whole (complete and
    unchanged) if its sha256 equals that in vrbench-data.json, which `vrbench data download` writes. Exits with 0 if
    all files are whole, else with 2.

    \b
    Example:
      vrbench data check DATA --tasks mme,mmlu
    """
    from collections import Counter

    from tabulate import tabulate

    from vrbench.data import local_mirror
    from vrbench.tasks import registry

    specs = None if tasks is None else registry.select(tasks, _specs(tasks, include_path))
    found = local_mirror.check(root, specs)
    rows = [(file.file, file.state, file.detail) for file in found]
    print(tabulate(rows, ("file", "state", "details"), "simple", disable_numparse=True))
    counts = Counter(file.state for file in found)
    print(", ".join(f"{number:,} {state}" for state, number in counts.items()) or f"no data file under {root}")
    if set(counts) != {"whole"}:
        raise typer.Exit(INVALID_INPUT)


def _specs(names: str, include_path: Path | None) -> dict[str, TaskSpec]:
    from vrbench.core.errors import raise_errors
    from vrbench.tasks import registry

    found = registry.load_for(names, include_path)
    raise_errors(found.errors)
    return found.specs
