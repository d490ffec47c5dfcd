"""Records are read back as they were written, or not at all."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

import pytest
from pydantic import ValidationError

from vrbench.errors import VrbenchError
from vrbench.records import (
    CheckpointRef,
    Provenance,
    RunRecord,
    Sample,
    Score,
    Settings,
    TaskResult,
    canonical_json,
    digest_of,
    load_run,
    samples_text,
    save_run,
    write_atomically,
)

SAMPLES = (
    Sample(id="1", cluster="a", score=1.0, answer="crêpe\nline\u2028end", loglikelihoods=(-1.25, -3.1)),
    Sample(id="2", cluster="b", score=0.1 + 0.2, target="no"),
)


def record(samples: tuple[Sample, ...] = SAMPLES) -> RunRecord:
    result = TaskResult(
        task="t", suite="visual", version="1", status="ok", metric="mean", n=2,
        score=Score(value=65.0, low=30.0, high=100.0, n=2, clusters=2),
        samples_digest=hashlib.sha256(samples_text(samples).encode()).hexdigest(),
    )  # fmt: skip
    died = TaskResult(task="d", suite="text", version="1", status="error", error="it died", metric="mean")
    return RunRecord(
        status="error", checkpoint=CheckpointRef(id="c", digest="0", family="llava", depth=4),
        settings=Settings(tasks=("d", "t")), inputs_digest="1", results=(result, died),
        provenance=Provenance(vrbench="0"),
    )  # fmt: skip


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_run(tmp_path / "run", record(), {"t": SAMPLES})
    return tmp_path / "run"


class TestRun:
    def test_it_is_read_back_whole(self, saved: Path) -> None:
        for path in (saved, saved / "run.json", str(saved)):
            run = load_run(path)
            assert run.record == record()
            assert run.samples == {"t": SAMPLES}

    def test_a_task_is_found_by_name(self, saved: Path) -> None:
        assert load_run(saved).result("d").error == "it died"
        with pytest.raises(VrbenchError, match="the run of c has no task 'x'"):
            load_run(saved).result("x")

    def test_the_record_is_written_last(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        order: list[str] = []
        real = os.replace
        monkeypatch.setattr(os, "replace", lambda a, b: (order.append(Path(b).name), real(a, b))[1])
        save_run(tmp_path, record(), {"t": SAMPLES})
        assert order == ["t.jsonl", "run.json"]

    def test_no_run_is_told(self, tmp_path: Path) -> None:
        with pytest.raises(VrbenchError, match="no run at"):
            load_run(tmp_path)

    def test_changed_samples_are_refused(self, saved: Path) -> None:
        file = saved / "samples" / "t.jsonl"
        file.write_text(file.read_text().replace('"score":1.0', '"score":0.0'))
        with pytest.raises(VrbenchError, match="its sha256 differs"):
            load_run(saved)
        file.unlink()
        with pytest.raises(VrbenchError, match="is missing; the record says"):
            load_run(saved)

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"schema_version": 99}, "has schema version 99; this vrbench reads 1"),
            ({"status": "fine"}, "is not a run record: status"),
            ({"surprise": 1}, "is not a run record: surprise"),
        ],
    )
    def test_another_record_is_refused(self, saved: Path, change: dict[str, object], message: str) -> None:
        file = saved / "run.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | change))
        with pytest.raises(VrbenchError, match=message):
            load_run(saved)

    def test_what_is_not_json_is_refused(self, saved: Path) -> None:
        (saved / "run.json").write_text("{")
        with pytest.raises(VrbenchError, match="is not JSON"):
            load_run(saved)


class TestValues:
    def test_they_are_frozen_and_closed(self) -> None:
        with pytest.raises(ValidationError):
            SAMPLES[0].score = 0.0  # type: ignore[misc]
        with pytest.raises(ValidationError):
            Sample(id="1", cluster="a", score=1.0, scores=2.0)  # type: ignore[call-arg]

    @pytest.mark.parametrize("score", [float("nan"), float("inf")])
    def test_no_figure_is_nan(self, score: float) -> None:
        with pytest.raises(ValidationError):
            Sample(id="1", cluster="a", score=score)
        with pytest.raises(ValueError, match="not JSON compliant"):
            canonical_json({"x": score})

    def test_every_field_says_what_it_is(self) -> None:
        for kind in (RunRecord, TaskResult, Sample, Score, Settings, Provenance, CheckpointRef):
            assert all(field.description for field in kind.model_fields.values())

    def test_digests_do_not_depend_on_the_order_of_keys(self) -> None:
        assert digest_of({"a": 1, "b": [2]}) == digest_of({"b": [2], "a": 1}) != digest_of({"a": 1, "b": [3]})


class TestWriting:
    def test_a_failed_write_leaves_the_old_file_and_no_other(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        file = tmp_path / "x"
        write_atomically(file, "old")

        def fail(*_: object) -> None:
            raise OSError("disk full")

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="disk full"):
            write_atomically(file, "new")
        assert [p.name for p in tmp_path.iterdir()] == ["x"]
        assert file.read_text() == "old"
