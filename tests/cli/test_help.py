"""Help and spellings of every command: examples that parse, hidden old spellings, no heavy imports."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import typer.main

from tests.test_docs import calls, parsed
from vrbench.cli import app
from vrbench.cli.command import OLD_OPTIONS

HEAVY = (
    "torch", "transformers", "datasets", "lm_eval", "lmms_eval", "pandas", "matplotlib", "peft", "accelerate",
    "pyarrow",
)  # fmt: skip
LIGHT = (
    "layers --list", "layers sparse-uniform -n 8 --depth 32", "reproduce all --dry-run", "tasks", "version", "schema",
    "schema submission", "schema board",
)  # fmt: skip
LIGHT_MODULES = (
    "vrbench.leaderboard.validate", "vrbench.leaderboard.pin", "vrbench.leaderboard.site.build",
    "vrbench.leaderboard.site.serve",
)  # fmt: skip
RUN_ALL = f"""
import importlib, sys
from vrbench.cli import app
for command in sys.argv[1:]:
    app(command.split(), standalone_mode=False)
    heavy = [name for name in {HEAVY} + ("numpy",) * command.endswith("--help") if name in sys.modules]
    if heavy:
        sys.exit(f"{{command}} imports {{heavy}}")
from vrbench.training import load
load("pocket-heal")
for name in {LIGHT_MODULES}:
    importlib.import_module(name)
if heavy := [name for name in {HEAVY} if name in sys.modules and name != "pyarrow"]:
    sys.exit(f"{LIGHT_MODULES} or a recipe imports {{heavy}}")
"""


def walk(command: Any, *names: str) -> Iterator[tuple[str, Any]]:
    """Yield every command that is not hidden with its full name."""
    for name, child in getattr(command, "commands", {}).items():
        if hasattr(child, "commands"):
            yield from walk(child, *names, name)
        elif not child.hidden:
            yield " ".join([*names, name]), child


COMMANDS = dict(walk(typer.main.get_command(app)))


def test_light_commands_modules_and_all_help_import_nothing_heavy() -> None:
    helps = [f"{name} --help" for name in ("", "data", "leaderboard", *COMMANDS)]
    program = [sys.executable, "-c", RUN_ALL, *helps, *LIGHT]
    done = subprocess.run(program, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", COMMANDS)
def test_examples_of_every_command_parse(name: str) -> None:
    help_ = COMMANDS[name].help
    examples = [line.strip() for line in help_.splitlines() if line.strip().startswith("vrbench ")]
    assert examples
    for example in examples:
        (words,) = calls(example)
        found = parsed(words, whole=True)
        assert found is None or found.name == name


@pytest.mark.parametrize(
    ("command", "old", "new"), [(c, old, new) for c, names in OLD_OPTIONS.items() for old, new in names.items()]
)
def test_old_spellings_of_options_are_hidden_aliases(command: str, old: str, new: str) -> None:
    found = COMMANDS[command]
    option = next(p for p in found.params if new in p.opts)
    value = [] if getattr(option, "is_flag", False) else ["7"]
    required = ["x", "--num-layers", "3"] if command == "layers" else ["x"]
    contexts = [found.make_context(command, [*required, name, *value]) for name in (old, new)]
    assert contexts[0].params == contexts[1].params
    if value:
        assert found.make_context(command, [*required, f"{old}=7"]).params == contexts[1].params
    assert f"{old} " not in contexts[0].get_help()


@pytest.mark.parametrize(
    ("old", "new"), [("data fetch", "data download"), ("leaderboard reproduced", "leaderboard add-reproduction")]
)
def test_old_names_of_commands_are_hidden_aliases(old: str, new: str) -> None:
    group, name = old.split()
    commands = typer.main.get_command(app).commands[group].commands  # type: ignore[attr-defined]
    assert commands[name].hidden
    assert commands[name].callback.__wrapped__ is COMMANDS[new].callback.__wrapped__
