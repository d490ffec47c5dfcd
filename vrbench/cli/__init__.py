"""The commands: parse, one call, print. The only package that prints or exits."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable

import typer

from vrbench.cli.checkpoints import convert, inspect, prune, restore
from vrbench.cli.data import check, fetch
from vrbench.cli.evaluation import compare, run, schema, tasks, version
from vrbench.cli.interrupting import stopping
from vrbench.cli.layers import layers
from vrbench.cli.leaderboard import build, pin, reproduced, serve
from vrbench.cli.options import OURS, USERS
from vrbench.cli.profile import profile
from vrbench.cli.reproduce import reproduce
from vrbench.cli.submit import submit
from vrbench.cli.training import train
from vrbench.cli.validating import validate
from vrbench.core import os_errors
from vrbench.core.cache import cache_folder
from vrbench.core.errors import VrbenchError, error_messages

COMMANDS: dict[Callable[..., None], str] = {
    run: "vrbench run --ckpt pocket/region --baseline pocket/full --tasks pocket --limit 100",
    compare: "vrbench compare runs/region/* --baseline runs/full/fedcba9876543210",
    tasks: "vrbench tasks 'pocket_visual,text'; vrbench tasks mme --data-root DATA",
    train: "vrbench train pocket-region --out checkpoints/region --set tune.layers=sparse-uniform:4",
    layers: "vrbench layers change --n 8 --ckpt pocket/full --out change-8.json; vrbench layers --list",
    profile: "vrbench profile --shape llava-1.5-7b --tuning lora --out profile.json",
    inspect: "vrbench inspect pocket/region-pruned-2 --base pocket/base; vrbench inspect MODEL --base B --json",
    convert: "vrbench convert llava-lora checkpoints/llava --base vicuna-7b-v1.5 --vision-tower clip-336",
    prune: "vrbench prune pocket/region --remove 2 --out checkpoints/region-pruned-2",
    restore: "vrbench restore pocket/full --layers 3-7 --from smollm2-135m-instruct --out full-3-7",
    reproduce: "vrbench reproduce all --dry-run; vrbench reproduce layers --seeds 1 --set steps=20 --limit 20",
    submit: "vrbench submit runs/region/fedcba9876543210 --baseline runs/full/0123456789abcdef --name my-lab/region",
    schema: "vrbench schema submission > submission.schema.json",
    version: "vrbench version",
}
"""Command -> the example that its help ends with."""

DATA_COMMANDS: dict[Callable[..., None], str] = {
    fetch: "vrbench data fetch mme,paper_text --to DATA",
    check: "vrbench data check DATA --tasks mme,mmlu",
}
"""Those of `vrbench data`."""

LEADERBOARD_COMMANDS: dict[Callable[..., None], str] = {
    validate: "vrbench leaderboard validate; vrbench leaderboard validate --against origin/main --format markdown",
    build: "vrbench leaderboard build --out site",
    serve: "vrbench leaderboard serve --port 8000",
    reproduced: "vrbench leaderboard reproduced runs/region/fedcba9876543210 --by vrbench",
    pin: "vrbench leaderboard pin pocket --run runs/full/0123456789abcdef --baseline vrbench/pocket-full",
}
"""Those of `vrbench leaderboard`."""

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="What does a vision-language model whose LLM was made cheaper still see, and what can it still read?",
    epilog="Example: vrbench run --ckpt pocket/region --baseline pocket/full --tasks pocket --limit 40",
)  # fmt: skip
data_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Make a data root of the hub's sets, and see if it is whole.",
    epilog="Example: vrbench data fetch mme,text --to DATA && vrbench run --data-root DATA ...",
)  # fmt: skip
leaderboard_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Score submissions again, and make the board and its pages.",
    epilog="Example: vrbench leaderboard validate && vrbench leaderboard build --out site",
)  # fmt: skip
app.add_typer(data_app, name="data")
app.add_typer(leaderboard_app, name="leaderboard")
RESUMED: dict[Callable[..., None], str] = {
    run: "the same command goes on: answers so far are kept under --out and are not asked for again",
    train: "the same command goes on where it was last saved",
    reproduce: "the same command goes on: what is done stays, the rest goes on where it was saved",
    fetch: "the same command goes on: whole files are not fetched again",
}
"""Command -> what is said at Ctrl-C, where something is kept."""

for group, commands in ((app, COMMANDS), (data_app, DATA_COMMANDS), (leaderboard_app, LEADERBOARD_COMMANDS)):
    for command, example in commands.items():
        how = RESUMED.get(command, "nothing that it makes is half written; call it again")
        group.command(epilog=f"Example: {example}")(stopping(command, how))


def main() -> None:
    """The program: runs a command, tells errors in one line each, and exits with 0, 1, 2 or, at Ctrl-C, 130."""
    # Pillow's advice to whoever makes such an image RGB, which the harnesses do
    warnings.filterwarnings("ignore", "Palette images with Transparency", UserWarning)
    try:
        sys.exit(_status())
    except VrbenchError as error:
        _tell(*error_messages(error))
        sys.exit(USERS)
    except Exception as error:
        said = os_errors.describe_os_error(error, paths=True)
        if said:
            _tell(said)
            sys.exit(USERS)
        _tell(f"{type(error).__name__}: {error}".rstrip(": "), f"this is a fault of vrbench; {_keep_traceback()}")
        sys.exit(OURS)


def _status() -> int | str | None:
    """Run the command; what it printed is written to the end before it counts as done."""
    output = sys.stdout
    try:
        app()
    except SystemExit as left:
        if sys.stdout is not output:  # typer puts a silent one there when nobody reads it any more
            raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE)) from None
        try:
            output.flush()
        except OSError as error:
            _discard_output()
            raise type(error)(error.errno, error.strerror, "the standard output") from None
        return left.code
    return 0


def _discard_output() -> None:
    """Let what cannot be written go, or Python tries once more when it ends, and says so."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _tell(*faults: str) -> None:
    with contextlib.suppress(OSError):
        for fault in faults:
            print(f"vrbench: {fault}", file=sys.stderr)


def _keep_traceback() -> str:
    """Write the traceback to a file; says where it is, or gives it whole when no file can be written."""
    text = traceback.format_exc()
    file = cache_folder() / "errors" / f"{time.strftime('%Y%m%dT%H%M%S')}-{time.time_ns() % 10**6:06d}.txt"
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{' '.join(sys.argv)}\n{text}", encoding="utf-8")
    except OSError:
        return f"its traceback:\n{text}"
    return f"its traceback is in {file}"
