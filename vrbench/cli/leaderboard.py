"""`vrbench leaderboard`: boards validated, pinned, built as pages and looked at."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated

import typer

from vrbench.cli.options import DataRoot, IncludePath
from vrbench.cli.submit import Boards


def pin(
    board: Annotated[str, typer.Argument(help="Id of the board.", show_default=False)],
    run: Annotated[list[Path] | None, typer.Option(help="Run of whole tasks, for data and prompts.")] = None,
    family: Annotated[str | None, typer.Option(help="Family of the runs, on a board of several.")] = None,
    baseline: Annotated[
        str | None, typer.Option(metavar="ORG/NAME", help="Make the first run's checkpoint the family's baseline.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Let what is pinned already change.")] = False,
    include_path: IncludePath = None,
    boards: Boards = Path("leaderboards"),
) -> None:
    """Fill board.yaml from the task files and from runs: versions, numbers, digests and a family's baseline.

    Submissions made before something pinned was replaced are refused from then on.
    """
    from vrbench.leaderboard.board import load_board
    from vrbench.leaderboard.pin import pin as fill
    from vrbench.tasks import registry

    for change in fill(boards / board, run or [], family, baseline, replace, registry.load(include_path)):
        print(f"{change.place}: {change.old or 'not pinned'} -> {change.new}")
    left = load_board(boards / board).unpinned()
    print("\n".join(left) or f"board {board}: everything is pinned")


def reproduced(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the maintainer's run.", show_default=False)],
    by: Annotated[str, typer.Option(help="The maintainer who ran it, one of the board's.")],
    board: Annotated[str, typer.Option(help="Id of the board.")] = "pocket",
    boards: Boards = Path("leaderboards"),
) -> None:
    """Pack a maintainer's own run of a submitted checkpoint; validating then says whether the two agree."""
    from vrbench.leaderboard.reproductions import pack_reproduction

    for packed in pack_reproduction(run, by, board, boards):
        print(f"packed {packed.path}" if packed.is_new else f"{packed.path} holds the same run already")
    print(f"next: vrbench leaderboard validate {boards / board} --write")


def build(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the site, replaced if it is one.")] = Path("site"),
    include_path: IncludePath = None,
    data_root: DataRoot = None,
    boards: Boards = Path("leaderboards"),
) -> None:
    """Make the pages of all boards as a folder that a browser opens without a server or a network."""
    from vrbench.leaderboard.site.build import build as write

    print(f"open {write(boards, out, include_path, data_root)}")


def serve(
    port: Annotated[int, typer.Option(help="Of this machine; 0 for any that is free.")] = 0,
    browser: Annotated[bool, typer.Option(help="Open the pages in the browser.")] = True,
    include_path: IncludePath = None,
    data_root: DataRoot = None,
    boards: Boards = Path("leaderboards"),
) -> None:
    """Build the pages in a temporary folder, show them to this machine alone, and end at Ctrl-C."""
    from vrbench.leaderboard.site.serve import serve as show

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that "kill", too, leaves no folder behind

    def tell(address: str) -> None:
        print(f"serving {address}; Ctrl-C ends it", flush=True)

    show(boards, port, browser, tell, include_path, data_root)
