"""The JSON Schemas that are published are those of the records as they are now."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner, Result

from vrbench.cli import app
from vrbench.core.errors import VrbenchError
from vrbench.leaderboard.json_schemas import DIALECT, SCHEMAS, schema_text

ROOT = Path(__file__).parents[2] / "leaderboards"
PUBLISHED = ROOT / "schemas"


def test_the_published_schemas_are_these() -> None:
    made = {f"{name}.schema.json": schema_text(name) for name in SCHEMAS}
    published = {file.name: file.read_text(encoding="utf-8") for file in PUBLISHED.iterdir()}
    assert made == published, "vrbench schema NAME > leaderboards/schemas/NAME.schema.json"


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_says_what_every_field_means(name: str) -> None:
    schema = json.loads(schema_text(name))
    assert schema["$schema"] == DIALECT
    kinds = [schema, *schema.get("$defs", {}).values()]
    silent = [f"{kind['title']}.{field}" for kind in kinds for field, told in kind["properties"].items()
              if not told.get("description")]  # fmt: skip
    assert silent == []
    assert all(kind["additionalProperties"] is False for kind in kinds)


def test_an_unknown_schema_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(VrbenchError, match="there is no schema 'runs'; there are run, sample, submission"):
        schema_text("runs")


def command(*words: str) -> Result:
    return CliRunner().invoke(app, list(words))


def test_the_command_prints_them_and_run_json_s_by_default() -> None:
    assert command("schema").stdout == schema_text("run")
    assert command("schema", "submission").stdout == schema_text("submission")
    wrong = command("schema", "nothing")
    assert isinstance(wrong.exception, VrbenchError) and wrong.stdout == ""


def instances(name: str) -> list[Any]:
    """What lies in the repository of one kind."""
    if name == "board":
        return [yaml.safe_load(file.read_text()) for file in ROOT.glob("*/board.yaml")]
    if name == "task":
        return [yaml.safe_load(file.read_text()) for file in ROOT.parent.glob("tasks/*/*.yaml")]
    if name == "sample":
        texts = [gzip.decompress(file.read_bytes()) for file in ROOT.glob("pocket/submissions/*/*/samples/*.jsonl.gz")]
        return [json.loads(text.splitlines()[0]) for text in texts]
    places = {
        "run": "pocket/submissions/*/*/run.json", "submission": "*/submissions/*/*/submission.json",
        "reproduction": "*/reproductions/*/*/reproduction.json",
        "leaderboard": "*/leaderboard.json", "comparison": "pocket/report/comparison.json",
    }  # fmt: skip
    return [json.loads(file.read_text()) for file in ROOT.glob(places[name])]


@pytest.mark.parametrize("name", SCHEMAS)
def test_what_lies_in_the_repository_is_valid_by_them(name: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    validator = jsonschema.Draft202012Validator(json.loads(schema_text(name)))
    validator.check_schema(validator.schema)
    found = instances(name)
    assert found
    for instance in found:
        assert [error.message for error in validator.iter_errors(instance)] == []
        assert not validator.is_valid(instance | {"no such field": 1})
