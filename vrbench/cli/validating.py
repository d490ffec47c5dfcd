"""`vrbench leaderboard validate`: every answer scored again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from vrbench.cli.options import USERS, DataRoot, IncludePath


def validate(
    path: Annotated[Path, typer.Argument(help="Folder of all boards, of one board, or of one submission.")] = Path(
        "leaderboards"
    ),
    data_root: DataRoot = None,
    include_path: IncludePath = None,
    jobs: Annotated[int, typer.Option(min=0, help="Processes; 0 for one a core.")] = 0,
    against: Annotated[
        str | None, typer.Option(metavar="REF", help="Commit or branch whose submissions must not have changed.")
    ] = None,
    form: Annotated[
        Literal["text", "markdown"], typer.Option("--format", help="For a terminal or a comment.")
    ] = "text",
    write: Annotated[bool, typer.Option("--write", help="Write leaderboard.json if nothing is refused.")] = False,
) -> None:
    """Score all answers of all submissions again, without a model, and rebuild every figure from them.

    Prints each refused submission with all reasons, and exits with 2 if there is one.
    """
    from vrbench.leaderboard import report
    from vrbench.leaderboard import validate as validating

    found = validating.validate(path, validating.ValidationOptions(data_root, jobs, include_path), against)
    print(report.as_markdown(found) if form == "markdown" else report.as_text(found), end="")
    if found.rejections:
        raise typer.Exit(USERS)
    if write:
        for file in validating.write_leaderboards(found):
            print(f"wrote {file}")
