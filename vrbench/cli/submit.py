"""`vrbench submit`: a run handed in to a board."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vrbench.cli.options import DataRoot, IncludePath

if TYPE_CHECKING:
    from vrbench.leaderboard.board import Board
    from vrbench.leaderboard.check import SubmissionChecker
    from vrbench.leaderboard.publish import Packed, SubmissionMetadata

Boards = Annotated[Path, typer.Option("--boards", help="Folder of all boards.")]


def submit(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run to hand in.", show_default=False)],
    baseline: Annotated[Path, typer.Option(help="Folder of its baseline's run; RUN itself to hand in a baseline.")],
    name: Annotated[str, typer.Option(metavar="ORG/NAME", help="Who submits, and what the checkpoint is called.")],
    board: Annotated[str, typer.Option(help="Id of the board.")] = "pocket",
    family: Annotated[str | None, typer.Option(help="Family of the board; else found by the baseline.")] = None,
    description: Annotated[str, typer.Option(help="What was done, in a sentence or two.")] = "",
    url: Annotated[str, typer.Option(help="Where the checkpoint is.")] = "",
    paper: Annotated[str, typer.Option(help="Where it is written up.")] = "",
    code: Annotated[str, typer.Option(help="Where its code is.")] = "",
    licence: Annotated[str | None, typer.Option(help="Of the checkpoint; else that of its lineage.")] = None,
    ckpt: Annotated[Path | None, typer.Option(help="Folder of the checkpoint, whose recipe is handed in too.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Report all errors and write nothing.")] = False,
    rescore: Annotated[
        bool, typer.Option("--rescore", help="Also score the answers again, as the board does; needs the tasks' data.")
    ] = False,
    data_root: DataRoot = None,
    include_path: IncludePath = None,
    boards: Boards = Path("leaderboards"),
) -> None:
    """Pack a run as a submission to a board, whole or not at all, and print the next commands."""
    from vrbench.leaderboard.publish import SubmissionMetadata, pack

    def make_checker(of: Board) -> SubmissionChecker:
        from vrbench.leaderboard.check import SubmissionChecker

        return SubmissionChecker(of, data_root, include_path)

    metadata = SubmissionMetadata(name, board, family, description, url, paper, code, licence, ckpt)
    packed = pack(run, baseline, metadata, boards, make_checker if rescore else None, dry_run=check)
    if not check:
        _print_packed(packed, metadata)
        return
    scored = "" if rescore else " if its scores follow from its answers (--rescore checks that)"
    print(f"board {board} would accept it{scored}; leave out --check to pack it")


def _print_packed(packed: Packed, about: SubmissionMetadata) -> None:
    """Print the result and the commands that submit it."""
    if not packed.is_new:
        print(f"{packed.path} holds the same submission already; nothing was changed")
        return
    sizes = [file.stat().st_size for file in packed.path.rglob("*") if file.is_file()]
    print(f"packed {packed.path}: {len(sizes)} files, {sum(sizes) / 2**20:.1f} MiB")
    branch = f"submit-{about.name.replace('/', '-')}-{packed.path.name}"
    board = packed.path.parents[2]
    print(
        f"""next, score every answer of the board again, add the row to it, and open a pull request:
  git switch -c {branch}
  vrbench leaderboard validate {board} --write
  git add {packed.path} {board / "leaderboard.json"}
  git commit -m "Submit {about.name} to board {about.board}"
  git push -u origin {branch}"""
    )
