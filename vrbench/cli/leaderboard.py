"""`vrbench leaderboard`: boards validated, pinned, built as pages and looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vrbench.cli.submit import Boards


def pin(
    board: Annotated[str, typer.Argument(help="Id of the board.", show_default=False)],
    run: Annotated[list[Path] | None, typer.Option(help="Run of whole tasks, for data and prompts.")] = None,
    family: Annotated[str | None, typer.Option(help="Family of the runs, on a board of several.")] = None,
    baseline: Annotated[
        str | None, typer.Option(metavar="ORG/NAME", help="Make the first run's checkpoint the family's baseline.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Let what is pinned already change.")] = False,
    boards: Boards = Path("leaderboards"),
) -> None:
    """Fill board.yaml from the task files and from runs: versions, numbers, digests and a family's baseline.

    Submissions made before something pinned was replaced are refused from then on.
    """
    from vrbench.leaderboard.board import load_board
    from vrbench.leaderboard.pin import pin as fill

    for change in fill(boards / board, run or [], family, baseline, replace):
        print(f"{change.place}: {change.old or 'not pinned'} -> {change.new}")
    left = load_board(boards / board).unpinned()
    print("\n".join(left) or f"board {board}: everything is pinned")


def changes(
    before: Annotated[Path, typer.Argument(help="Folder of all boards as they were.", show_default=False)],
    after: Annotated[Path, typer.Argument(help="Folder of all boards as they are to be.")] = Path("leaderboards"),
) -> None:
    """Print which rows differ between two states of the boards, as Markdown; a submission may not change.

    Exits with 2 if one that was handed in before was changed or removed.
    """
    from vrbench.leaderboard.changed import markdown, moved

    gone = moved(before, after)
    print(markdown(before, after, gone), end="")
    if gone:
        raise typer.Exit(USERS)
