"""Records are read back as they were written, or not at all."""

from __future__ import annotations

import errno
import gc
import gzip
import hashlib
import json
import os
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import pytest
from pydantic import ValidationError

from vrbench.core import run_storage
from vrbench.core.errors import VrbenchError
from vrbench.core.io import canonical_json, digest_of, write_atomically
from vrbench.core.run_storage import load_run, samples_to_jsonl, save_run
from vrbench.core.sample_columns import columns_of
from vrbench.core.schemas import CheckpointRef, Provenance, RunRecord, RunSettings, Sample, Score, TaskResult

SAMPLES = (
    Sample(
        id="1",
        cluster="a",
        score=1.0,
        answer="crêpe\nline\u2028end",
        loglikelihoods=(-1.25, -3.1),
        responses=((-1.25, True), "crêpe", -3.0),
    ),
    Sample(id="2", cluster="b", score=0.1 + 0.2, target="no"),
)


def record(samples: tuple[Sample, ...] = SAMPLES) -> RunRecord:
    result = TaskResult(
        task="t", suite="visual", version="1", status="ok", metric="mean", n=2,
        score=Score(value=65.0, low=30.0, high=100.0, n=2, clusters=2),
        samples_digest=hashlib.sha256(samples_to_jsonl(samples).encode()).hexdigest(),
    )  # fmt: skip
    died = TaskResult(task="d", suite="text", version="1", status="error", error="it died", metric="mean")
    return RunRecord(
        status="error", checkpoint=CheckpointRef(id="c", digest="0", family="llava", depth=4),
        settings=RunSettings(tasks=("d", "t")), inputs_digest="1", results=(result, died),
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

    def test_scores_alone_are_a_whole_run_without_what_was_said(self, tmp_path: Path) -> None:
        kept = run_storage.scores_only(record(), {"t": SAMPLES})
        save_run(tmp_path, kept.record, kept.samples, compressed=True)
        rows = load_run(tmp_path).samples["t"]
        assert [(s.id, s.cluster, s.score) for s in rows] == [(s.id, s.cluster, s.score) for s in SAMPLES]
        assert rows == (Sample(id="1", cluster="a", score=1.0), Sample(id="2", cluster="b", score=0.1 + 0.2))
        assert kept.record.results[0].score == record().results[0].score

    def test_a_line_is_what_pydantic_writes_with_sorted_keys(self) -> None:
        assert samples_to_jsonl(SAMPLES) == "".join(canonical_json(s.model_dump(mode="json")) + "\n" for s in SAMPLES)

    def test_columns_are_those_of_the_samples_also_of_a_copy_with_others(self, saved: Path) -> None:
        run = load_run(saved)
        assert columns_of(run, "t").id == ["1", "2"]
        assert columns_of(run, "t") is columns_of(run, "t")
        assert columns_of(run.model_copy(update={"samples": {"t": SAMPLES[1:]}}), "t").id == ["2"]
        assert run == load_run(saved)

    def test_garbage_is_collected_after_reading_as_before(self, saved: Path) -> None:
        load_run(saved)
        assert gc.isenabled()
        (saved / "samples" / "t.jsonl").write_text("")
        gc.disable()
        try:
            with pytest.raises(VrbenchError):
                load_run(saved)
            assert not gc.isenabled()
        finally:
            gc.enable()
        with pytest.raises(VrbenchError):
            load_run(saved)
        assert gc.isenabled()

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
        with pytest.raises(VrbenchError, match=r"no run at .*; a run is a folder with run.json"):
            load_run(tmp_path)

    def test_the_runs_below_a_folder_are_named(self, tmp_path: Path) -> None:
        runs = [tmp_path / "full" / "12ab", tmp_path / "region" / "34cd"]
        for folder in runs:
            save_run(folder, record(), {"t": SAMPLES})
        with pytest.raises(VrbenchError, match=f"name one of the runs below it: {runs[0]}, {runs[1]}$"):
            load_run(tmp_path)
        with pytest.raises(VrbenchError, match=f"below it: {runs[1]}$"):
            load_run(tmp_path / "region")

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
            ({"status": "fine"}, "cannot be read: status"),
            ({"surprise": 1}, "cannot be read: surprise"),
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


class TestCompressed:
    @pytest.fixture
    def packed(self, tmp_path: Path) -> Path:
        save_run(tmp_path / "packed", record(), {"t": SAMPLES}, compressed=True)
        return tmp_path / "packed" / "samples" / "t.jsonl.gz"

    def test_it_is_read_back_whole(self, packed: Path) -> None:
        assert [file.name for file in packed.parent.iterdir()] == ["t.jsonl.gz"]
        assert load_run(packed.parent.parent).samples == {"t": SAMPLES}

    def test_the_record_and_its_digest_are_those_of_plain_samples(self, packed: Path, saved: Path) -> None:
        assert (packed.parent.parent / "run.json").read_bytes() == (saved / "run.json").read_bytes()
        assert gzip.decompress(packed.read_bytes()) == (saved / "samples" / "t.jsonl").read_bytes()

    def test_of_two_forms_the_one_written_last_is_left(self, packed: Path) -> None:
        folder = packed.parent.parent
        save_run(folder, record(SAMPLES[::-1]), {"t": SAMPLES[::-1]})
        assert [file.name for file in packed.parent.iterdir()] == ["t.jsonl"]
        assert load_run(folder).samples == {"t": SAMPLES[::-1]}
        save_run(folder, record(), {"t": SAMPLES}, compressed=True)
        assert [file.name for file in packed.parent.iterdir()] == ["t.jsonl.gz"]
        assert load_run(folder).samples == {"t": SAMPLES}

    def test_changed_samples_are_refused(self, packed: Path) -> None:
        packed.write_bytes(gzip.compress(b"{}\n"))
        with pytest.raises(VrbenchError, match="its sha256 differs"):
            load_run(packed.parent.parent)

    @pytest.mark.parametrize("damage", [lambda b: b[:-9], lambda b: b"no" + b, lambda b: b[:20] + b"x" + b[21:]])
    def test_a_broken_file_is_told(self, packed: Path, damage: Callable[[bytes], bytes]) -> None:
        packed.write_bytes(damage(packed.read_bytes()))
        with pytest.raises(VrbenchError, match=r"t\.jsonl\.gz cannot be unpacked"):
            load_run(packed.parent.parent)

    def test_no_more_is_unpacked_than_allowed(self, packed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(run_storage, "MAX_SAMPLE_BYTES", 10_000)
        packed.write_bytes(gzip.compress(bytes(50_000_000)))
        tracemalloc.start()
        with pytest.raises(VrbenchError, match="holds more than 10,000 bytes"):
            load_run(packed.parent.parent)
        assert tracemalloc.get_traced_memory()[1] < 5_000_000
        tracemalloc.stop()
        monkeypatch.setattr(run_storage, "MAX_SAMPLE_BYTES", len(samples_to_jsonl(SAMPLES).encode()))
        save_run(packed.parent.parent, record(), {"t": SAMPLES}, compressed=True)
        assert load_run(packed.parent.parent).samples == {"t": SAMPLES}


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
        for kind in (RunRecord, TaskResult, Sample, Score, RunSettings, Provenance, CheckpointRef):
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
            raise OSError(errno.ENOSPC, "disk full")

        monkeypatch.setattr(os, "replace", fail)
        with pytest.raises(OSError, match="disk full"):
            write_atomically(file, "new")
        assert [p.name for p in tmp_path.iterdir()] == ["x"]
        assert file.read_text() == "old"


class TestWhatCannotBeRead:
    def test_a_line_that_is_no_sample_is_told_with_its_number(self, tmp_path: Path) -> None:
        text = samples_to_jsonl(SAMPLES) + '{"id": 3}\n'
        save_run(tmp_path, record(), {"t": SAMPLES})
        (tmp_path / "samples" / "t.jsonl").write_text(text, encoding="utf-8")
        told = json.loads((tmp_path / "run.json").read_text())
        told["results"][0]["samples_digest"] = hashlib.sha256(text.encode()).hexdigest()
        (tmp_path / "run.json").write_text(json.dumps(told))
        with pytest.raises(VrbenchError, match="line 3 is not a sample: "):
            load_run(tmp_path)

    @pytest.mark.parametrize("text", ["[" * 100_000, "9" * 5_000, '{"a": '])
    def test_what_is_nested_or_long_beyond_reading_is_told(self, text: str, tmp_path: Path) -> None:
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(VrbenchError, match="is not JSON"):
            load_run(tmp_path)
