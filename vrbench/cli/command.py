"""How every command behaves: grouped plain help, old spellings of options, and one line at Ctrl-C."""

from __future__ import annotations

import sys
from typing import Any

import typer
from typer.core import TyperCommand

from vrbench.core.errors import RunAborted

INTERNAL_ERROR, INVALID_INPUT, INTERRUPTED = 1, 2, 130
"""Exit codes: internal error or failed task, invalid input, Ctrl-C (128 + SIGINT, as in shells)."""

OLD_OPTIONS: dict[str, dict[str, str]] = {
    "layers": {"--n": "--num-layers", "--pictures": "--num-images"},
    "prune": {
        "--remove": "--num-layers", "--whole": "--export-full", "--order": "--removal-order",
        "--save-order": "--save-removal-order", "--pictures": "--num-images",
    },
}  # fmt: skip
"""Command -> old spelling of an option -> the current one. Old spellings are accepted for one more release."""

RESUME = {
    "run": "run the same command again to resume; stored answers under --out are reused",
    "train": "run the same command again to resume from the last saved state",
    "reproduce": "run the same command again to resume; finished steps are kept",
    "download": "run the same command again to resume; complete files are not downloaded again",
}
"""Command -> what is printed at Ctrl-C, where something is kept."""


class Command(TyperCommand):
    """A command of vrbench."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Replace old spellings of options before they are parsed."""
        current = OLD_OPTIONS.get(str(self.name), {})
        split = (arg.partition("=") for arg in args)
        return super().parse_args(ctx, [current.get(name, name) + sign + value for name, sign, value in split])

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write arguments and options in groups, named by `rich_help_panel`."""
        groups: dict[str, list[Any]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            kind = "Arguments" if parameter.param_type_name == "argument" else "Options"
            if record is not None:
                groups.setdefault(getattr(parameter, "rich_help_panel", None) or kind, []).append(record)
        for name in sorted(groups, key=lambda name: (name != "Arguments", name != "Options")):
            with formatter.section(name):
                formatter.write_dl(groups[name])

    def invoke(self, ctx: Any) -> Any:
        """Run the command; Ctrl-C prints one line and exits with 130."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            how = RESUME.get(str(self.name), "no output was left half written; run it again")
            print(f"\nvrbench: stopped; {how}", file=sys.stderr)
            raise typer.Exit(INTERRUPTED) from None
        except RunAborted:
            raise typer.Exit(1) from None
