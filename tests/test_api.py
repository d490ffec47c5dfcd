"""The Python API: its names, its keywords, and what a run gives."""

from __future__ import annotations

import dataclasses
import inspect
import subprocess
import sys
from typing import get_type_hints

import pytest

import vrbench
from tests import simulated
from vrbench.core.errors import VrbenchError
from vrbench.core.schemas import RunRecord
from vrbench.evaluation.run_config import RunConfig, RunOptions


def test_the_public_names_are_listed_and_cost_nothing_until_they_are_used() -> None:
    code = (
        "import sys, vrbench; print([n for n in dir(vrbench) if n[0] != '_'], {'torch', 'pydantic'} & {*sys.modules})"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    names = ["Options", "Run", "VrbenchError", "compare", "evaluate", "join", "load_run", "run_all"]
    assert told == f"{names} set()"
    assert {*names, "__version__"} == {*vrbench.__all__} <= {*dir(vrbench)}
    for name in names:
        assert callable(getattr(vrbench, name)) and inspect.getdoc(getattr(vrbench, name)), name
    assert "Example:" in (inspect.getdoc(vrbench.evaluate) or "")


def test_every_option_is_a_keyword_of_both() -> None:
    fields = {field.name: field.type for field in dataclasses.fields(RunConfig)}
    assert get_type_hints(RunOptions) == get_type_hints(RunConfig)
    keywords = inspect.signature(vrbench.evaluate).parameters
    assert {*keywords} - {"ckpt", "tasks"} == {*fields} - {"command"}
    assert {name: keywords[name].annotation for name in keywords if name in fields} == {
        name: kind for name, kind in fields.items() if name != "command"
    }
    with pytest.raises(TypeError, match="limt"):
        vrbench.run_all("pocket/full", "pocket_mme", limt=8)  # type: ignore[call-arg]


def test_a_run_has_its_records_fields_and_its_samples_as_a_table() -> None:
    samples = simulated.samples([1.0, 0.0, 1.0])
    run = simulated.run("a", {"x": ("visual", "mean", samples), "y": ("text", "mean", samples[:2])})
    for name in {*RunRecord.model_fields} - {"schema_version"}:
        assert getattr(run, name) is getattr(run.record, name)
    table = run.to_pandas()
    assert list(table.columns[:3]) == ["task", "id", "cluster"] and list(table.task) == ["x"] * 3 + ["y"] * 2
    assert list(run.to_pandas("y").score) == [1.0, 0.0]
    with pytest.raises(VrbenchError, match="has no task 'z'"):
        run.to_pandas("z")
