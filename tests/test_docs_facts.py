"""Tables and sentences of the documents against committed records and the code that they speak of.

The tables of scores are held to the records by tests/test_published.py.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import pytest
import typer.main

from tests.test_docs import PAGES, ROOT
from vrbench.checkpoints.generation_config import SUPPORTED_SETTINGS, UNSUPPORTED_SETTINGS
from vrbench.checkpoints.image_settings import CHOICES
from vrbench.checkpoints.random_shapes import RANDOM_SHAPES
from vrbench.cli import app, command
from vrbench.cli.training import train
from vrbench.core.device import DEVICES
from vrbench.core.provenance import ADAPTER_PACKAGES, ANSWER_PACKAGES
from vrbench.data.local_mirror import State
from vrbench.evaluation import answer_store
from vrbench.evaluation.run_config import DTYPES
from vrbench.leaderboard.json_schemas import SCHEMAS
from vrbench.models import context_length
from vrbench.models.packed_inference import PREFIX_SHARING_DECODERS
from vrbench.pruning.questions import DESCRIBE
from vrbench.reporting import FORMATS
from vrbench.reproduce.families import FAMILIES
from vrbench.reproduce.tables import TABLES
from vrbench.tasks import registry
from vrbench.training import recipe

README = (ROOT / "README.md").read_text(encoding="utf-8")
BOARD = ROOT / "leaderboards" / "pocket"
REPRODUCED = ROOT / "leaderboards" / "reproduce" / "pocket"


def page(name: str) -> str:
    return (ROOT / "docs" / name).read_text(encoding="utf-8")


def cells(line: str) -> list[str]:
    """The cells of a line of a Markdown table, without emphasis; minus signs as in ASCII."""
    plain = line.replace("*", "").replace("\u2212", "-").replace("\u00a0", " ")
    return [cell.strip() for cell in plain.strip().strip("|").split("|")]


def table(text: str, first: str) -> list[list[str]]:
    """The rows, head included, of the table whose first cell is `first`."""
    lines = text.splitlines()
    start = next(n for n, line in enumerate(lines) if line.startswith("|") and cells(line)[0] == first)
    end = next((n for n in range(start, len(lines)) if not lines[n].startswith("|")), len(lines))
    return [cells(line) for line in lines[start:end] if not set(line) <= set("|-: ")]


def test_seconds_and_memory_of_steps_are_those_of_the_profile() -> None:
    profile = [row for row in json.loads((REPRODUCED / "profile.json").read_text()) if row["kind"] == "train"]
    names = {"lora": "LoRA", "weights": "whole layers"}
    measured: dict[tuple[str, ...], list[Any]] = {}
    for row in profile:
        key = row["shape"], names[row["tuning"]], "on" if row["checkpointing"] else "off"
        measured.setdefault(key, []).append(row)
    for *key, everywhere, region, time, memory in table(page("results-pocket.md"), "shape")[1:]:
        all_layers, some = sorted(measured[tuple(key)], key=lambda row: row["layers"] != "all")
        said = [f"{row['seconds_per_step']:.3f}, {row['peak_gib']:.1f}" for row in (all_layers, some)]
        for name in ("seconds_per_step", "peak_gib"):
            said.append(f"{100 * (1 - some[name] / all_layers[name]):.0f} %")
        assert [everywhere, region, time, memory] == said, key


def test_seconds_of_the_published_weights_are_those_that_their_lineage_notes() -> None:
    looked = 0
    for name, _, seconds in table(page("results-pocket.md"), "checkpoint")[1:]:
        folder = ROOT / "vrbench" / "pocket" / "weights" / name.strip("`").removeprefix("pocket/")
        note = json.loads((folder / "vrbench.json").read_text())["steps"][0]["note"]
        if note.startswith("{"):  # a pruned one's says what was removed
            assert seconds.split()[0] == f"{json.loads(note)['seconds']:.0f}", name
            looked += 1
    assert looked == 4


def test_coverage_is_as_simulated() -> None:
    lines = (ROOT / "benchmarks" / "results" / "coverage.md").read_text(encoding="utf-8").splitlines()
    found = [re.findall(r"\d+ of \d+|[\d.]+(?= %)", line) for line in lines if "settings lie within" in line]
    said = table(page("statistics.md"), "settings")[1:]
    assert [[row[1], row[2]] for row in said] == [[of, f"{low}, {mean}, {high} %"] for of, _, mean, low, high in found]
    within, all_ = (sum(int(of.split(" of ")[n]) for of, *_ in found[:2]) for n in (0, 1))
    said = " ".join(page("evaluation.md").split())
    assert f"93-97 % in {within} of {all_} ordinary settings, and in {found[2][0]} difficult ones" in said


def test_tasks_and_suites_are_as_the_pages_count_them() -> None:
    specs = registry.load().values()
    suites = [suite for spec in specs for suite in spec.suites]
    listed = page("evaluation.md").split("ids, suites (")[1].split(")")[0]
    assert {*re.findall(r"`(\w+)`", listed)} == {*suites}
    assert f"`visual` is {suites.count('visual')} tasks" in README and f"`text` {suites.count('text')} with" in README
    unpinned = [f"`{spec.id}`" for spec in specs if spec.data.kind == "hub" and not spec.data.revision]
    assert f"{' and '.join(unpinned)}, which use the newest" in " ".join(page("data.md").split())


def test_exit_codes_and_number_of_checkpoints_of_the_board() -> None:
    said = " ".join(page("evaluation.md").split("- Exit codes: ")[1].split("\n- ")[0].split())
    assert f"{command.INTERNAL_ERROR} an internal error" in said and f"{command.INVALID_INPUT} invalid input" in said
    assert f"{command.INTERRUPTED} interrupted by Ctrl-C" in said
    board = " ".join(page("leaderboard.md").split())
    assert len(list((BOARD / "submissions").iterdir())) == 8 and "the eight checkpoints of this project" in board


def test_every_page_is_linked_from_the_readme() -> None:
    assert [file.name for file in (ROOT / "docs").glob("*.md") if f"(docs/{file.name}" not in README] == []


def test_what_is_used_again_depends_on_what_the_page_says() -> None:
    text = page("reuse.md")
    assert f"`answers/{answer_store.store_file(Path(), '<checkpoint digest>')}`" in text
    column = {"loglikelihood": 1, "text": 2, "images": 3}
    rows = table(text, "changed")[1:]
    for package in {name for packages in ANSWER_PACKAGES.values() for name in packages} | {*ADAPTER_PACKAGES}:
        (row,) = [row for row in rows if re.search(rf"\b{package}\b", row[0])]
        for kind, packages in ANSWER_PACKAGES.items():
            assert row[column[kind]] == ("recomputed" if package in (*packages, *ADAPTER_PACKAGES) else "kept"), (
                package,
                kind,
            )


def test_generation_settings_are_followed_or_refused_as_the_page_says() -> None:
    rows = {row[1].split(",")[0].split(":")[0]: {*re.findall(r"`(\w+)`", row[0])} for row in table_of_settings()}
    followed = next(names for what, names in rows.items() if what.startswith("followed"))
    refused = next(names for what, names in rows.items() if what.startswith("refused"))
    assert followed == {*SUPPORTED_SETTINGS} - {"eos_token_id"} and {*UNSUPPORTED_SETTINGS} <= refused
    assert "eos_token_id" in page("decoding.md")


def table_of_settings() -> list[list[str]]:
    """The rows of the page's table; underscores of names are no emphasis."""
    return table(page("decoding.md"), "setting of the generation config")[1:]


def test_context_and_data_root_are_as_the_pages_say() -> None:
    assert ", ".join(f"`{name}`" for name in context_length.CONFIG_KEYS[:2]) in page("context.md")
    assert f"`{context_length.CONFIG_KEYS[2]}`" in page("context.md") and f"{context_length.DEFAULT:,}" in page(
        "context.md"
    )
    assert tuple(row[0] for row in table(page("data.md"), "state")[1:]) == get_args(State)


def test_help_of_train_names_keys_of_recipes() -> None:
    known = recipe.TrainRecipe.model_json_schema()
    sections = {
        "tune": recipe.TuneStage, "eval": recipe.EvalSettings, "prompt": recipe.PromptSettings,
        "data": tuple(recipe.DATA_SECTIONS.values()),
    }  # fmt: skip
    lines = str(train.__doc__).split("Keys for --set:")[1].split("\n\n")[0].splitlines()
    keys = [key for line in lines if line.strip() for key in re.split(r",\s*| or ", line.strip().split("  ")[0])]
    section = ""
    for key in keys:
        *outer, last = key.split(".")
        section = outer[0] if outer and outer[0] else section if outer else ""
        of = sections[section] if section else None
        fields = {name for one in (of if isinstance(of, tuple) else (of,)) if one for name in one.model_fields}
        assert last in (fields if section else known["properties"]), key
    assert len(keys) > 20


NAMED = re.compile(r"`([A-Z_]{4,})`[^`]{0,30}`((?:vrbench|tests|benchmarks)/[\w/]+\.py)`")


@pytest.mark.parametrize("file", PAGES, ids=lambda file: file.name)
def test_constants_that_are_named_with_their_file_are_there(file: Path) -> None:
    for name, source in NAMED.findall(" ".join(file.read_text(encoding="utf-8").split())):
        assert re.search(rf"^{name}\b", (ROOT / source).read_text(encoding="utf-8"), re.MULTILINE), (name, source)


def test_only_the_command_line_prints_or_exits() -> None:
    assert "the only package that prints or exits" in (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    found = []
    for file in (ROOT / "vrbench").rglob("*.py"):
        if "cli" in file.relative_to(ROOT).parts:
            continue
        body = [node for node in ast.parse(file.read_text(encoding="utf-8")).body if not is_script(node)]
        calls = [node for top in body for node in ast.walk(top) if isinstance(node, ast.Call)]
        found += [f"{file.name}: {name}" for name in (ast.unparse(call.func) for call in calls)
                  if name in ("print", "exit", "sys.exit", "SystemExit")]  # fmt: skip
    assert found == []


def is_script(node: ast.stmt) -> bool:
    """Whether it is what a file does when it is called as a script."""
    return isinstance(node, ast.If) and "__main__" in ast.unparse(node.test)


def test_the_line_that_adds_a_family_is_one_that_the_module_takes() -> None:
    from vrbench.checkpoints import families

    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (line,) = re.findall(r'^ +"vipllava": (.+),$', text, re.MULTILINE)
    assert isinstance(eval(line, vars(families)), families.Family)


def test_decoders_whose_prompts_share_rows_are_those_of_the_page() -> None:
    said = " ".join(page("decoding.md").split()).split("plain rotary positions (")[1].split(")")[0]
    text_models = "the text models of Qwen2.5-VL and Qwen3-VL"
    said = said.replace(" without a window", "").replace(text_models, "qwen25vltext, qwen3vltext")
    names = {re.sub(r"\W", "", name).lower() for name in re.split(r", | and ", said)}
    assert names == {name.replace("_", "") for name in PREFIX_SHARING_DECODERS}


@pytest.mark.parametrize(
    ("command", "option", "names"),
    [
        ("schema", "name", SCHEMAS),
        ("profile", "shape", RANDOM_SHAPES),
        ("reproduce", "tables", TABLES),
        ("reproduce", "family", FAMILIES),
        ("run", "image_settings", CHOICES),
        ("run", "dtype", DTYPES),
        ("run", "device", DEVICES),
        ("compare", "form", FORMATS),
        ("layers", "prompt", [DESCRIBE]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_help_lists_all_that_an_option_takes(command: str, option: str, names: Iterable[str]) -> None:
    context = typer.main.get_command(app).commands[command]  # type: ignore[attr-defined]
    (found,) = [parameter for parameter in context.params if parameter.name == option]
    assert [name for name in names if name not in found.help] == []
