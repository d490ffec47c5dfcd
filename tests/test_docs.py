"""README.md, CONTRIBUTING.md and docs/*.md: links lead somewhere, and commands are such as the program takes."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import typer.main

from vrbench.checkpoints.locate import published_names
from vrbench.checkpoints.random_shapes import RANDOM_SHAPES
from vrbench.cli import app
from vrbench.core.errors import VrbenchError
from vrbench.core.layers import STRATEGIES
from vrbench.leaderboard.json_schemas import schema_text
from vrbench.pruning.removal_methods import validate_criterion
from vrbench.reproduce.families import FAMILIES
from vrbench.reproduce.tables import TABLES
from vrbench.tasks import registry
from vrbench.tasks.spec import TaskSpec
from vrbench.training import recipe_files

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
LINK = re.compile(r"\[[^][]*(?:\[[^][]*\][^][]*)*\]\(([^()\s]+)\)")
PROGRAM = re.compile(r"(?:^|.*\s)(?:-m )?vrbench(?: |$)")
SCRIPT = re.compile(r"python3? (?:-m (benchmarks\.\w+)|(benchmarks/\w+\.py))")
PLACE = re.compile(r"(?:vrbench|tests|tasks|benchmarks|leaderboards|docs|requirements|\.ci|\.github)/[\w./-]*")
OPEN = re.compile(r"[A-Z]{2}|^[A-Z]|\.\.\.|[*/<>$]")
"""What stands for something else: FOLDER, ..., or a path."""


def fenced(text: str) -> Iterator[str]:
    """Command lines of a page's code blocks without a language, or with that of a shell, each whole."""
    for _, language, block in FENCE.findall(text):
        if language in ("", "sh", "bash"):
            yield from (line.strip() for line in block.replace("\\\n", " ").splitlines())


def inline(text: str) -> Iterator[str]:
    """What stands between single backticks, on one line."""
    yield from (" ".join(found.split()) for found in INLINE.findall(FENCE.sub("", text)))


def braces(word: str) -> list[str]:
    """'a-{b,c}' as a shell has it: 'a-b' and 'a-c'."""
    found = re.search(r"\{([^{}]*,[^{}]*)\}", word)
    if found is None:
        return [word]
    return [one for part in found[1].split(",") for one in braces(word[: found.start()] + part + word[found.end() :])]


def calls(line: str) -> Iterator[list[str]]:
    """The words behind every `vrbench` of a line, without what a shell takes for itself."""
    try:
        lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|<>")
        lexer.whitespace_split = True
        words = list(lexer)
    except ValueError as error:
        raise AssertionError(f"{line!r} is no shell command: {error}") from error
    call: list[str] | None = None
    for word in [*words, ";"]:
        if set(word) <= set(";&|<>"):
            if call is not None:
                yield call
            call = None
        elif call is None and word == "vrbench":
            call = []
        elif call is not None:
            call += braces(word)


@dataclass(frozen=True)
class Call:
    """A command as the program reads it: its name, and its arguments by name."""

    name: str
    given: dict[str, Any]


@lru_cache
def program() -> Any:
    """All commands; making them takes longer than reading a line."""
    return typer.main.get_command(app)


def parsed(words: list[str], whole: bool) -> Call | None:
    """A call held to the program's own parser; none where only the name is said.

    Args:
        words: behind `vrbench`.
        whole: whether what must be given has to be there.
    """
    command, name = program(), []
    shortened = "..." in words
    words = [word for word in words if word != "..."]
    while hasattr(command, "commands"):
        if not words or words[0] == "--help":
            return None
        if words[0] not in command.commands:
            raise AssertionError(f"there is no command {' '.join(['vrbench', *name, words[0]])!r}")
        name.append(words[0])
        command, words = command.commands[words[0]], words[1:]
    try:
        context = command.make_context(" ".join(name), list(words))
    except typer.Exit:  # --help, --list
        return None
    except Exception as error:
        if not hasattr(error, "format_message"):
            raise
        if type(error).__name__ == "MissingParameter" and (shortened or not whole):
            return None
        raise AssertionError(f"`vrbench {' '.join([*name, *words])}`: {error.format_message()}") from error
    return Call(" ".join(name), context.params)


@lru_cache
def specs() -> dict[str, TaskSpec]:
    return registry.load()


def odd_names(call: Call) -> Iterator[str]:
    """What a call names that this package does not have; what stands for something else is passed over."""
    given = call.given
    tasks = given.get("names") or given.get("tasks")
    if isinstance(tasks, str) and not OPEN.search(tasks.replace("*", "")) and not given.get("include_path"):
        try:
            registry.select(tasks, specs())
        except VrbenchError as error:
            yield str(error)
    known = {
        "train": ("recipe", recipe_files.names()),
        "profile": ("shape", RANDOM_SHAPES),
        "reproduce": ("family", FAMILIES),
    }
    if call.name in known:
        field, names = known[call.name]
        values = given[field] if isinstance(given[field], (list, tuple)) else [given[field]]
        for value in values:
            if value and value not in names and not OPEN.search(value) and not value.endswith(".yaml"):
                yield f"{field} {value!r} is none of {', '.join(names)}"
    if call.name == "reproduce" and isinstance(given.get("tables"), str):
        yield from (f"there is no table {t!r}" for t in given["tables"].split(",") if t not in {"all", *TABLES})
    if call.name == "schema":
        try:
            schema_text(given["name"])
        except VrbenchError as error:
            yield str(error)
    if call.name == "prune" and given.get("by"):
        yield from validate_criterion(given["by"])
    for value in given.values():
        for one in value if isinstance(value, (list, tuple)) else [value]:
            layers = re.fullmatch(r"tune\.layers=([\w-]+):\d+.*", one) if isinstance(one, str) else None
            if layers and layers[1] not in STRATEGIES:
                yield f"there is no strategy {layers[1]!r}"
            if isinstance(one, str) and re.fullmatch(r"pocket/[a-z0-9-]+", one):
                if one not in published_names() and call.name in ("run", "prune", "restore", "inspect"):
                    yield f"there is no checkpoint {one!r}"


def command_faults(text: str) -> list[str]:
    """What is wrong with the commands of a page, one sentence each."""
    found = []
    lines = [(line, True) for line in fenced(text)] + [(line, False) for line in inline(text)]
    for line, whole in lines:
        if not PROGRAM.match(line.split("#")[0]):
            continue
        try:
            for words in calls(line.split(" #")[0]):
                call = parsed(words, whole)
                found += [f"`{line}`: {fault}" for fault in odd_names(call)] if call else []
        except AssertionError as error:
            found.append(str(error))
    return found


def anchors(page: Path) -> set[str]:
    """The headings of a page, as GitHub names them in links."""
    text = FENCE.sub("", page.read_text(encoding="utf-8"))
    heads = re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


def link_faults(page: Path) -> list[str]:
    """Links of a page that lead nowhere in this repository, and files that it names and are not there."""
    text = page.read_text(encoding="utf-8")
    found = []
    for target in LINK.findall(FENCE.sub("", text)):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / name) if name else page
        if not file.exists():
            found.append(f"{page.name} links to {target}, which is not there")
        elif anchor and file.suffix == ".md" and anchor not in anchors(file):
            found.append(f"{page.name} links to {target}; {file.name} has no such heading")
    for module, script in SCRIPT.findall(text):
        file = ROOT / (script or module.replace(".", "/") + ".py")
        if not file.is_file():
            found.append(f"{page.name} runs {file.relative_to(ROOT)}, which is not there")
    for name in inline(text):
        if PLACE.fullmatch(name) and not (ROOT / name).exists():
            found.append(f"{page.name} names {name}, which is not there")
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_are_such_as_the_program_takes(page: Path) -> None:
    assert command_faults(page.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_and_named_files_are_there(page: Path) -> None:
    assert link_faults(page) == []


def test_commands_are_found_at_all() -> None:
    """So that the tests above do look at something."""
    counts = {page.name: 0 for page in PAGES}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        counts[page.name] = sum(bool(PROGRAM.match(line)) for line in [*fenced(text), *inline(text)])
    assert counts["README.md"] > 10 and counts["evaluation.md"] > 6 and counts["CONTRIBUTING.md"] > 10


BROKEN = {
    "```\nvrbench measure --ckpt pocket/full\n```": "no command 'vrbench measure'",
    "```\nvrbench data get mme --to DATA\n```": "no command 'vrbench data get'",
    "```\nvrbench run --ckpt pocket/full --task mme\n```": "No such option: --task",
    "```\nvrbench run --ckpt pocket/full --tasks mmee\n```": "mmee",
    "```\nvrbench run --ckpt pocket/most --tasks mme\n```": "pocket/most",
    "```\nvrbench run --tasks mme --limit few --ckpt pocket/full\n```": "valid integer",
    "```\nvrbench train pocket-regoin -o OUT\n```": "pocket-regoin",
    "```\nvrbench train pocket-region\n```": "Missing option",
    "```\nvrbench train pocket-region -o OUT --set tune.layers=sparse:4\n```": "no strategy 'sparse'",
    "```sh\naccelerate launch -m vrbench train pocket-regoin -o OUT\n```": "pocket-regoin",
    "```\nvrbench version && vrbench versions\n```": "no command 'vrbench versions'",
    "```\nvrbench train llava-1.5-7b-{full,half} -o OUT\n```": "unexpected extra argument",
    "```\nvrbench reproduce tables --family pocket\n```": "no table 'tables'",
    "```\nvrbench profile --shape llava-8b --out FILE.json\n```": "llava-8b",
    "Say `vrbench tasks mmme` or `vrbench compare runs --jsn`.": "--jsn",
    "`vrbench schema pages`": "pages",
}


@pytest.mark.parametrize(("text", "told"), BROKEN.items(), ids=range(len(BROKEN)))
def test_a_broken_command_is_told(text: str, told: str) -> None:
    assert any(told in fault for fault in command_faults(text)), command_faults(text)


def test_a_broken_link_is_told(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# One & two\n## Formula: *x*\n")
    page = tmp_path / "page.md"
    page.write_text(
        "# Head\n[a](other.md) [b](other.md#one--two) [c](#head) [d](https://example.org/no) [e](other.md#formula-x)\n"
        "[f](nowhere.md) ![g](no.png) [h](other.md#three) [i](#tail) `vrbench/nothing.py` `vrbench/statistics/bootstrap.py`\n"  # noqa: E501
        "`python benchmarks/nothing.py`, `python -m benchmarks.coverage`\n"
    )
    told = " ".join(link_faults(page))
    assert len(link_faults(page)) == 6, told
    for word in ("nowhere.md", "no.png", "#three", "#tail", "vrbench/nothing.py", "benchmarks/nothing.py"):
        assert word in told
