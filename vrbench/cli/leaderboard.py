"""`vrbench submit` and `vrbench leaderboard`: runs submitted to boards; boards validated, pinned, built and served."""

from __future__ import annotations

import signal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vrbench.cli.command import INVALID_INPUT
from vrbench.cli.options import DataRoot, IncludePath

if TYPE_CHECKING:
    from vrbench.leaderboard.board import Board
    from vrbench.leaderboard.check import SubmissionChecker
    from vrbench.leaderboard.packing import PackedFolder

Boards = Annotated[Path, typer.Option("--boards", help="Folder of all boards.")]
LEADERBOARDS = Path("leaderboards")
shown = partial(typer.Option, rich_help_panel="Shown on the board")


def submit(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the run to submit.", show_default=False)],
    baseline: Annotated[Path, typer.Option(help="Folder of its baseline's run; RUN itself to submit a baseline.")],
    name: Annotated[str, typer.Option(metavar="ORG/NAME", help="Submitter and name of the checkpoint.")],
    board: Annotated[str, typer.Option(help="Id of the board.")] = "pocket",
    family: Annotated[str | None, typer.Option(help="Family on the board; default: that of the baseline.")] = None,
    description: Annotated[str, shown(help="Description of the checkpoint, in a sentence or two.")] = "",
    url: Annotated[str, shown(help="Page of the checkpoint.")] = "",
    paper: Annotated[str, shown(help="Page of the paper.")] = "",
    code: Annotated[str, shown(help="Page of the code.")] = "",
    licence: Annotated[str | None, shown(help="Licence of the checkpoint; default: from its lineage.")] = None,
    ckpt: Annotated[Path | None, typer.Option(help="Folder of the checkpoint, whose recipe is submitted too.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Report all errors and write nothing.")] = False,
    rescore: Annotated[
        bool, typer.Option("--rescore", help="Also score the answers again, as the board does; needs the tasks' data.")
    ] = False,
    data_root: DataRoot = None,
    include_path: IncludePath = None,
    boards: Boards = LEADERBOARDS,
) -> None:
    """Pack a run as a submission to a board.

    Writes a complete submission or nothing, and prints the next commands.

    \b
    Example:
      vrbench submit runs/region/fedcba9876543210 --baseline runs/full/0123456789abcdef --name my-lab/region
    """
    from vrbench.leaderboard.publish import SubmissionMetadata, pack

    def make_checker(of: Board) -> SubmissionChecker:
        from vrbench.leaderboard.check import SubmissionChecker

        return SubmissionChecker(of, data_root, include_path)

    metadata = SubmissionMetadata(name, board, family, description, url, paper, code, licence, ckpt)
    packed = pack(run, baseline, metadata, boards, make_checker if rescore else None, dry_run=check)
    if not check:
        _print_packed(packed, name, board)
        return
    scored = "" if rescore else " if its scores follow from its answers (--rescore checks that)"
    print(f"board {board} would accept it{scored}; leave out --check to pack it")


def _print_packed(packed: PackedFolder, name: str, board: str) -> None:
    """Print what was written, and the commands that submit it."""
    if not packed.is_new:
        print(f"{packed.path} already contains the same submission; nothing was changed")
        return
    sizes = [file.stat().st_size for file in packed.path.rglob("*") if file.is_file()]
    print(f"packed {packed.path}: {len(sizes)} files, {sum(sizes) / 2**20:.1f} MiB")
    folder = packed.path.parents[2]
    print(
        f"""next, score every answer of the board again, add the row to it, and open a pull request:
  git switch -c submit-{name.replace("/", "-")}-{packed.path.name}
  vrbench leaderboard validate {folder} --write
  git add {packed.path} {folder / "leaderboard.json"}
  git commit -m "Submit {name} to board {board}"
  git push -u origin submit-{name.replace("/", "-")}-{packed.path.name}"""
    )


def validate(
    path: Annotated[
        Path, typer.Argument(help="Folder of all boards, of one board, or of one submission.")
    ] = LEADERBOARDS,
    data_root: DataRoot = None,
    include_path: IncludePath = None,
    jobs: Annotated[int, typer.Option(min=0, help="Number of processes; 0: one a core.")] = 0,
    against: Annotated[
        str | None, typer.Option(metavar="REF", help="Commit or branch whose submissions must be unchanged.")
    ] = None,
    form: Annotated[
        Literal["text", "markdown"], typer.Option("--format", help="For a terminal, or for a comment.")
    ] = "text",
    write: Annotated[bool, typer.Option("--write", help="Write leaderboard.json if nothing is rejected.")] = False,
) -> None:
    """Score all submissions again.

    No model is needed; every figure is recomputed from the answers. Prints each rejected submission with all reasons,
    and exits with 2 if there is one.

    \b
    Examples:
      vrbench leaderboard validate
      vrbench leaderboard validate --against origin/main --format markdown
    """
    from vrbench.leaderboard import report
    from vrbench.leaderboard import validate as validating

    found = validating.validate(path, data_root, jobs, include_path, against=against)
    print(report.as_markdown(found) if form == "markdown" else report.as_text(found), end="")
    if found.rejections:
        raise typer.Exit(INVALID_INPUT)
    if write:
        for file in validating.write_leaderboards(found):
            print(f"wrote {file}")


def pin(
    board: Annotated[str, typer.Argument(help="Id of the board.", show_default=False)],
    run: Annotated[list[Path] | None, typer.Option(help="Run without --limit, for data and prompt digests.")] = None,
    family: Annotated[str | None, typer.Option(help="Family of the runs, on a board of several.")] = None,
    baseline: Annotated[
        str | None, typer.Option(metavar="ORG/NAME", help="Make the first run's checkpoint the family's baseline.")
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace values that are already pinned.")] = False,
    include_path: IncludePath = None,
    boards: Boards = LEADERBOARDS,
) -> None:
    """Fill board.yaml from the task files and from runs.

    It pins versions, numbers, digests and a family's baseline. Submissions made before a pinned value was replaced are
    rejected from then on.

    \b
    Example:
      vrbench leaderboard pin pocket --run runs/full/0123456789abcdef --baseline vrbench/pocket-full
    """
    from vrbench.leaderboard.board import load_board
    from vrbench.leaderboard.pin import pin as fill
    from vrbench.tasks import registry

    for change in fill(boards / board, run or [], family, baseline, replace, registry.load(include_path)):
        print(f"{change.place}: {change.old or 'not pinned'} -> {change.new}")
    left = load_board(boards / board).unpinned()
    print("\n".join(left) or f"board {board}: everything is pinned")


def add_reproduction(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of the maintainer's run.", show_default=False)],
    by: Annotated[str, typer.Option(help="The maintainer who ran it, one of the board's.")],
    board: Annotated[str, typer.Option(help="Id of the board.")] = "pocket",
    boards: Boards = LEADERBOARDS,
) -> None:
    """Pack a maintainer's own run of a submitted checkpoint.

    `leaderboard validate` then compares the two.

    \b
    Example:
      vrbench leaderboard add-reproduction runs/region/fedcba9876543210 --by vrbench
    """
    from vrbench.leaderboard.reproductions import pack_reproduction

    for packed in pack_reproduction(run, by, board, boards):
        print(f"packed {packed.path}" if packed.is_new else f"{packed.path} already contains the same run")
    print(f"next: vrbench leaderboard validate {boards / board} --write")


def build(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the site; an existing site is replaced.")] = Path(
        "site"
    ),
    include_path: IncludePath = None,
    data_root: DataRoot = None,
    boards: Boards = LEADERBOARDS,
) -> None:
    """Build the pages of all boards.

    A browser opens the folder without a server or a network.

    \b
    Example:
      vrbench leaderboard build --out site
    """
    from vrbench.leaderboard.site.build import build as write

    print(f"open {write(boards, out, include_path, data_root)}")


def serve(
    port: Annotated[int, typer.Option(help="Port on this machine; 0: any that is free.")] = 0,
    browser: Annotated[bool, typer.Option(help="Open the pages in the browser.")] = True,
    include_path: IncludePath = None,
    data_root: DataRoot = None,
    boards: Boards = LEADERBOARDS,
) -> None:
    """Build the pages and serve them to this machine.

    They are in a temporary folder until Ctrl-C.

    \b
    Example:
      vrbench leaderboard serve --port 8000
    """
    from vrbench.leaderboard.site.serve import serve as show

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that "kill", too, leaves no folder behind

    def announce(url: str) -> None:
        print(f"serving {url}; stop with Ctrl-C", flush=True)

    show(boards, port, browser, announce, include_path, data_root)
