"""The table of what works says what tests showed, and names no pair that has no test."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from benchmarks import support
from benchmarks.support import Shown, cell
from tests.supports import SHOWN, pytest_collection_modifyitems

ROOT = Path(__file__).parents[1]
TESTS = """
import pytest

@pytest.mark.supports("seer", "run")
def test_good(): pass

@pytest.mark.supports("seer", "adapter")
def test_bad(): assert False

@pytest.mark.supports("seer", "delta")
def test_left_out(): pytest.skip("no GPU")

@pytest.mark.supports("seer", "pruned", refused="it has one layer")
def test_refused(): pass

@pytest.fixture
def broken(): raise OSError

@pytest.mark.supports("seer", "saved")
def test_never_run(broken): pass

@pytest.mark.parametrize("family", [
    pytest.param("owl", marks=pytest.mark.supports("owl", "run")),
    pytest.param("lynx", marks=pytest.mark.supports("lynx", "run")),
])
def test_each(family): assert family == "owl"

def test_unmarked(): pass
"""


def run(folder: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.supports", "-p", "no:cacheprovider", *options]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=environment, check=False)


def test_outcomes_are_written_down_and_the_table_says_them(tmp_path: Path) -> None:
    (tmp_path / "test_seer.py").write_text(TESTS)
    done = run(tmp_path, "--supports", "shown.json")
    assert done.returncode == 1, done.stdout + done.stderr
    written = support.read(tmp_path / "shown.json")
    assert {(one.family, one.form): one.outcome for one in written} == {
        ("seer", "run"): "passed", ("seer", "adapter"): "failed", ("seer", "delta"): "skipped",
        ("seer", "pruned"): "passed", ("seer", "saved"): "failed", ("owl", "run"): "passed", ("lynx", "run"): "failed",
    }  # fmt: skip
    assert written[0].test == "test_seer.py::test_each[lynx]"
    lines = support.table(written).splitlines()
    assert lines[2] == "| family | run | adapter | delta | pruned | saved |"
    assert "| lynx | fails | - | - | - | - |" in lines
    assert "| owl | yes (1) | - | - | - | - |" in lines
    assert "| seer | yes (1) | fails | not tested here | refused: it has one layer | fails |" in lines


def test_one_failure_outweighs_what_passed() -> None:
    good, bad = (Shown("seer", "run", name, outcome=outcome) for name, outcome in (("a", "passed"), ("b", "failed")))
    again = Shown("seer", "run", "a[2]", outcome="passed")
    no = Shown("seer", "run", "c", refused="too old", outcome="passed")
    assert (cell([good, again]), cell([good, bad]), cell([]), cell([good, no])) == ("yes (1)", "fails", "-", "yes (1)")


@pytest.mark.parametrize(
    "wrong",
    [pytest.mark.supports("seer", "flown"), pytest.mark.supports("seer"), pytest.mark.supports("seer", "run", why="x")],
)
def test_a_mark_that_is_misspelt_stops_everything(wrong: pytest.MarkDecorator) -> None:
    item = SimpleNamespace(nodeid="test_seer.py::test_good", iter_markers=lambda _: [wrong.mark])
    with pytest.raises(pytest.UsageError, match=r"is not \(family, form\)"):
        pytest_collection_modifyitems(SimpleNamespace(stash={}), [item])  # type: ignore[arg-type, list-item]


class TestCommitted:
    """benchmarks/results/support.md, and the table in docs/checkpoints.md."""

    def test_it_is_made_of_the_results(self) -> None:
        assert support.table(support.read()) == support.TABLE.read_text(encoding="utf-8")
        assert support.page(support.read()) == support.PAGE.read_text(encoding="utf-8")

    def test_every_test_that_it_names_is_there_and_marked(self) -> None:
        for one in support.read():
            file, _, name = one.test.partition("::")
            function = name.split("::")[-1].partition("[")[0]
            assert function in marked(ROOT / file), one.test

    def test_it_names_no_pair_that_has_no_test(self, request: pytest.FixtureRequest) -> None:
        collected = request.config.stash[SHOWN]
        missing = [one.test for one in support.read() if one.test not in collected]
        if missing and not is_whole(request.config):
            pytest.skip("only some tests were collected")
        for one in support.read():
            assert (one.family, one.form) in {(c.family, c.form) for c in collected.get(one.test, [])}, one.test


def is_whole(config: pytest.Config) -> bool:
    """Whether this session collected all tests."""
    return config.args_source == pytest.Config.ArgsSource.TESTPATHS or config.args == [str(ROOT / "tests")]


def marked(file: Path) -> set[str]:
    """Names of a test file's functions that carry the mark, on themselves or on a parameter."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef):
            decorators = " ".join(ast.unparse(decorator) for decorator in node.decorator_list)
            if "supports" in decorators or "parametrize" in decorators:
                found.add(node.name)
    return found
