"""The parity benchmark: what it compares, what it says, and that it goes on where it was."""

from __future__ import annotations

import sys
from argparse import Namespace
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from benchmarks import parity, parity_report
from benchmarks.parity_text import TextLine
from tests.evaluation.made_text import part_of, put
from vrbench.models.load import load_vlm
from vrbench.models.resolve import resolve_checkpoint
from vrbench.tasks import registry

LINE = TextLine("mmlu", 40, 2, 0.25, 0.25, 3e-5, 0, None, 3, (), 0, (10.0, 15.0))


def given(root: Path, *more: str) -> Namespace:
    return parity.arguments(["--data-root", str(root), *more])


def test_quick_is_few_items_and_short_answers_unless_told_otherwise(tmp_path: Path) -> None:
    usual, quick = given(tmp_path), given(tmp_path, "--quick", "--items", "7")
    assert (usual.items, usual.items_per_part, usual.max_gen_toks, usual.shares) == (400, 20, None, 1)
    assert (quick.items, quick.items_per_part, quick.max_gen_toks, quick.shares, quick.share) == (7, 1, 48, 2, 1)


def test_each_part_gives_as_many_items(tmp_path: Path) -> None:
    spec = part_of(registry.load()["ceval"], ["accountant", "logic"])
    put(tmp_path, spec, n=5)
    put(tmp_path, part_of(spec, ["logic"]), n=2)
    sizes = [[len(p.positions) for p in parity.chosen(spec, given(tmp_path, *more))] for more in PER_PART]
    assert sizes == [[3, 2], [5, 2]]


PER_PART = (["--items-per-part", "3"], ["--items-per-part", "0"])


def test_shares_of_a_task_add_up_to_the_whole(tiny_llava: Path, tmp_path: Path) -> None:
    spec = part_of(registry.load()["ceval"], ["accountant", "logic", "law"])
    put(tmp_path, spec, n=5)
    of = resolve_checkpoint(str(tiny_llava))
    vlm, work = load_vlm(of, "cpu", "float32"), tmp_path / "work"
    work.mkdir()
    (whole,) = parity.lines_of(spec, vlm, of, given(tmp_path, "--items-per-part", "2"), work)
    options = ["--items-per-part", "2", "--shares", "2"]
    parts = [parity.lines_of(spec, vlm, of, given(tmp_path, *options, "--share", k), work)[0] for k in "12"]
    assert isinstance(whole, TextLine)
    assert [(line.items, line.parts) for line in parts] == [(4, 2), (2, 1)]
    nothing: Any = None
    (added,) = parity.lines_of(spec, nothing, of, given(tmp_path, *options), work)
    assert (added.items, added.parts, added.flips) == (whole.items, whole.parts, whole.flips)
    assert (added.ours, added.theirs) == (pytest.approx(whole.ours), pytest.approx(whole.theirs))
    assert added.difference == pytest.approx(whole.difference, abs=1e-6)


def test_a_finished_task_is_not_run_again(tiny_llava: Path, tmp_path: Path) -> None:
    spec = registry.load()["openbookqa"]
    put(tmp_path, spec, n=3)
    of = resolve_checkpoint(str(tiny_llava))
    options, work = given(tmp_path, "--items", "2"), tmp_path / "work"
    work.mkdir()
    (line,) = parity.lines_of(spec, load_vlm(of, "cpu", "float32"), of, options, work)
    assert isinstance(line, TextLine)
    assert (line.items, line.equal) == (2, True)
    assert min(line.seconds) > 0
    nothing: Any = None
    assert parity.lines_of(spec, nothing, of, options, work) == [line]


@pytest.mark.parametrize(
    "change",
    [{"difference": 2e-4}, {"flips": 1}, {"generations": 1}, {"unequal": ("acc",)}],
)
def test_what_may_not_differ_is_told(change: dict[str, Any]) -> None:
    line = replace(LINE, **change)
    assert LINE.equal and not line.equal
    assert "**no**" in parity_report.row(line) and "**no**" not in parity_report.row(LINE)


def test_the_report_names_no_folder_and_tells_the_ratio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--data-root", str(tmp_path), "--quick", f"--work={tmp_path}", "--report", str(tmp_path / "r.md")]
    monkeypatch.setattr(sys, "argv", ["parity.py", *words])
    of: Any = SimpleNamespace(id="mine", digest="0" * 64)
    lines = [LINE, replace(LINE, task="bbh", difference=None, generations=0), parity.VisualLine("mme", 4, "f", 1, 2)]
    told = parity_report.report(lines, of, parity.arguments(words))
    assert str(tmp_path) not in told
    assert "`python benchmarks/parity.py --data-root DATA --quick`" in told
    assert "20 and 30, a ratio of 1.50" in told
    assert "| mme | 4 | f | 1.000000 | 2.000000 | **no** |" in told
