"""The commands: parse, one call, print. The only package that prints or exits."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
import time
import traceback
import warnings

import typer

from vrbench.cli.checkpoints import convert, inspect, prune, restore
from vrbench.cli.command import INTERNAL_ERROR, INVALID_INPUT, Command
from vrbench.cli.data import check, download
from vrbench.cli.evaluation import compare, run, schema, tasks, version
from vrbench.cli.leaderboard import add_reproduction, build, pin, serve, submit, validate
from vrbench.cli.reproduce import reproduce
from vrbench.cli.training import layers, profile, train
from vrbench.core import os_errors
from vrbench.core.errors import VrbenchError, error_messages

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="What does a vision-language model whose LLM was made cheaper still see, and what can it still read?",
    epilog="Example: vrbench run --ckpt pocket/region --baseline pocket/full --tasks pocket --limit 40",
)  # fmt: skip
data_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Download and check data sets.",
    epilog="Example: vrbench data download mme,text --to DATA && vrbench run --data-root DATA ...",
)  # fmt: skip
leaderboard_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Validate submissions and build the boards.",
    epilog="Example: vrbench leaderboard validate && vrbench leaderboard build --out site",
)  # fmt: skip
app.add_typer(data_app, name="data")
app.add_typer(leaderboard_app, name="leaderboard")

COMMANDS = {
    app: (run, compare, tasks, train, layers, profile, inspect, convert, prune, restore, reproduce, submit, schema,
          version),
    data_app: (download, check),
    leaderboard_app: (validate, build, serve, add_reproduction, pin),
}  # fmt: skip
for group, functions in COMMANDS.items():
    for function in functions:
        group.command(cls=Command)(function)

# Old names, for one more release.
data_app.command("fetch", cls=Command, hidden=True)(download)
leaderboard_app.command("reproduced", cls=Command, hidden=True)(add_reproduction)


def main() -> None:
    """Run a command, print one line for each error, and exit with 0, 1, 2 or, at Ctrl-C, 130."""
    # Pillow's advice to whoever makes such an image RGB, which the harnesses do
    warnings.filterwarnings("ignore", "Palette images with Transparency", UserWarning)
    try:
        sys.exit(_status())
    except VrbenchError as error:
        _print_errors(*error_messages(error))
        sys.exit(INVALID_INPUT)
    except Exception as error:
        message = os_errors.describe_os_error(error, paths=True)
        if message:
            _print_errors(message)
            sys.exit(INVALID_INPUT)
        what = f"{type(error).__name__}: {error}".rstrip(": ")
        _print_errors(what, f"internal error (please report); {_keep_traceback()}")
        sys.exit(INTERNAL_ERROR)


def _status() -> int | str | None:
    """Run the command; its output must be written completely before it counts as done."""
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
    """Drop what cannot be written, or Python tries again when it exits, and prints an error."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_errors(*messages: str) -> None:
    with contextlib.suppress(OSError):
        for message in messages:
            print(f"vrbench: {message}", file=sys.stderr)


def _keep_traceback() -> str:
    """Write the traceback to a file and return where it is, or the traceback itself when no file can be written."""
    from vrbench.core.cache import cache_folder
    from vrbench.core.io import write_atomically

    text = traceback.format_exc()
    file = cache_folder() / "errors" / f"{time.strftime('%Y%m%dT%H%M%S')}-{time.time_ns() % 10**6:06d}.txt"
    try:
        write_atomically(file, f"{' '.join(sys.argv)}\n{text}")
    except OSError:
        return f"traceback:\n{text}"
    return f"traceback: {file}"
