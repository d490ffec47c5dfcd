"""The benchmark of training steps: what it compares, its intervals, and rows that are not measured again."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import trainer


def test_a_ratio_s_interval_grows_with_the_spread_of_the_blocks() -> None:
    steady, uneven, half = ({"seconds": s} for s in ([2.0, 2.0, 2.0], [1.0, 2.0, 4.0], [1.0, 1.0, 1.0]))
    assert trainer.ratio(steady, half) == pytest.approx((2, 2, 2))
    centre, low, high = trainer.ratio(uneven, half)
    assert centre == pytest.approx(2) and low == pytest.approx(0.357, abs=2e-3) and low * high == pytest.approx(4)


def test_each_row_is_kept_and_not_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: list[str] = []

    def measured(setting: Any, ways: Any, device: Any, save: Any) -> None:
        for way in ways:
            if len(asked) == 5:
                raise KeyboardInterrupt
            asked.append(setting.key(way))
            seconds = {"0.2.0": 2.0}.get(way, 1.0) * (1 if setting.layers == "all" else 0.75)
            save(way, {"status": "ok", "seconds": [seconds] * 2, "gib": None})

    monkeypatch.setattr(trainer, "measure_setting", measured)
    rows, out = tmp_path / "rows.jsonl", tmp_path / "page.md"
    monkeypatch.setattr(sys, "argv", ["trainer", "--quick", f"--rows={rows}", f"--out={out}"])
    with pytest.raises(KeyboardInterrupt):
        trainer.main()
    assert len(rows.read_text().splitlines()) == 5
    asked.append("")  # so that it goes on
    trainer.main()
    kept = [json.loads(line)["key"] for line in rows.read_text().splitlines()]
    assert len(kept) == len(set(kept)) == sum(len(s.ways) for s in trainer.settings(quick=True))
    assert "2.000 [2.000, 2.000]" in out.read_text() and "25.0 % [25.0, 25.0]" in capsys.readouterr().out


@pytest.mark.parametrize("way", trainer.WAYS)
def test_what_differs_between_the_ways(way: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compiled or not, LoRA's inputs converted or not, and the type of the trained weights."""
    seen: list[tuple[Any, ...]] = []
    setting = next(trainer.settings(quick=True))
    one = trainer.Measured(setting, torch.device("cpu"))

    def run(way: str, row: Any, watch: Any) -> list[float]:
        casts = {m.cast_input_dtype_enabled for m in one.model.llm.modules() if hasattr(m, "cast_input_dtype_enabled")}
        compiled = "forward" in vars(one.model.decoder.layers[0])
        seen.append((compiled, casts, {p.dtype for p in one.trained}))
        watch.seconds = [1.0]
        return []

    monkeypatch.setattr(one, "_run", run)
    one.measure(way)
    dtype = torch.bfloat16 if way == "bfloat16" else torch.float32
    assert seen == [(way != "0.2.0", {way == "0.2.0"}, {dtype})]
