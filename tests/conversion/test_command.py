"""`vrbench convert` on the command line: what it prints, how it fails, and what it says of itself."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.conversion import sources as tiny
from vrbench import cli


def vrbench(monkeypatch: pytest.MonkeyPatch, *command: str) -> int:
    """Run the program; returns its exit code."""
    monkeypatch.setattr(sys, "argv", ["vrbench", *command])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return int(end.value.code or 0)


def test_it_makes_a_checkpoint_and_shows_how_far_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made = tiny.make("llava")
    source, tower = tiny.save_merged(made, tmp_path / "src", "bin"), tiny.save_tower(made, tmp_path / "tower")
    code = vrbench(monkeypatch, "convert", str(source), str(tmp_path / "out"), "--vision-tower", str(tower))
    printed = capsys.readouterr()
    checkpoint, weights = printed.out.splitlines()
    assert (code, checkpoint) == (0, f"checkpoint: {tmp_path / 'out'}")
    assert weights.startswith("weights: model-00001-of-") and weights.endswith(" in float32")
    assert "converting: 100%" in printed.err


def test_every_fault_is_a_line_and_the_user_s(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    source = tiny.save_projector(tiny.make("llava"), tmp_path / "src")
    code = vrbench(monkeypatch, "convert", str(source), str(tmp_path / "out"))
    printed = capsys.readouterr()
    lines = printed.err.splitlines()
    assert (code, printed.out, len(lines)) == (2, "", 2)
    assert all(line.startswith("vrbench: ") for line in lines)
    assert "--base" in lines[0] and "--vision-tower" in lines[1]
