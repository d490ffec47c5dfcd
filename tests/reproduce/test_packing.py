"""Packed records: nothing is lost, the report is the same, a plan goes on from them, and changed ones are refused."""

from __future__ import annotations

import shutil
from contextlib import closing
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.reproduce import fake_steps
from tests.reproduce.sample_results import made_folder, made_profile
from tests.simulated import run, samples, saved
from vrbench.core.errors import VrbenchError
from vrbench.core.run_storage import load_run
from vrbench.reproduce.execute import ExecutionOptions, execute
from vrbench.reproduce.packing import RECORDS, SAMPLES, RecordFolder, pack, unpack
from vrbench.reproduce.report import write_report


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = made_folder(tmp_path / "made", seeds=[0])
    made_profile(made, 0.7)
    return made


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_a_packed_folder_has_few_files_the_same_report_and_unpacks_to_the_same_bytes(folder: Path) -> None:
    before = content(folder)
    write_report(folder)
    reported = {name: data for name, data in content(folder).items() if name not in before}
    pack(folder)
    assert content(folder).keys() == {"plan.json", "profile.json", RECORDS, SAMPLES, *reported}
    write_report(folder)
    assert {name: data for name, data in content(folder).items() if name in reported} == reported
    unpack(folder)
    assert {name: data for name, data in content(folder).items() if name not in reported} == before


def test_every_field_of_a_sample_is_kept(tmp_path: Path) -> None:
    said = {"answer": "B", "target": "A\n", "loglikelihoods": (-0.1, -2.0), "responses": ("B", (-0.1, True), -3.5)}
    rows = tuple(sample.model_copy(update=said) for sample in samples([1.0, 0.0], cluster=2))
    place = saved(tmp_path / "runs" / "run-x", run("x", {"seen": ("pocket_visual", "mean", rows)}))
    whole = load_run(place)
    pack(tmp_path)
    assert not place.exists()
    again = RecordFolder(tmp_path).run("run-x")
    assert (again.record, again.samples) == (whole.record, whole.samples)


def test_new_records_are_added_to_what_is_packed(folder: Path, tmp_path: Path) -> None:
    before = content(folder)
    shutil.move(folder / "runs" / "run-top-s0", tmp_path / "later")
    pack(folder)
    shutil.move(tmp_path / "later", folder / "runs" / "run-top-s0")
    pack(folder)
    unpack(folder)
    assert content(folder) == before


def test_samples_that_are_not_those_of_the_record_are_refused(folder: Path) -> None:
    pack(folder)
    table = pq.read_table(folder / SAMPLES)
    pq.write_table(table.slice(0, table.num_rows - 1), folder / SAMPLES)
    with pytest.raises(VrbenchError, match="its sha256 differs"):
        write_report(folder)
    (folder / SAMPLES).write_bytes(b"no parquet")
    with pytest.raises(VrbenchError, match=r"samples\.parquet cannot be read"):
        write_report(folder)


def test_a_plan_goes_on_from_packed_records(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_steps.use_light_workers(monkeypatch)
    of = fake_steps.plan(fake_steps.step("train-a"), fake_steps.step("layers-x", "train-a"))
    with closing(execute(of, tmp_path, fake_steps.FUNCTIONS, ExecutionOptions())) as happening:
        list(happening)
    pack(tmp_path)
    more = fake_steps.plan(*of.steps, fake_steps.step("train-b", "layers-x", what="{layers-x}"))
    with closing(execute(more, tmp_path, fake_steps.FUNCTIONS, ExecutionOptions())) as happening:
        assert [(e.step, e.kind) for e in happening if e.kind != "started"] == [
            ("train-a", "existing"), ("layers-x", "existing"), ("train-b", "done"),
        ]  # fmt: skip
    assert (tmp_path / "layers" / "layers-x.json").is_file() and not (tmp_path / RECORDS).exists()


@pytest.mark.parametrize(
    "path", ["../done/a.json", "done/../../a.json", "/done/a.json", "plots/a.json", "done//a.json"]
)
def test_a_packed_record_outside_the_folder_is_refused(tmp_path: Path, path: str) -> None:
    pq.write_table(pa.table({"path": [path], "text": ["{}"]}), tmp_path / RECORDS)
    with pytest.raises(VrbenchError, match="has a record at"):
        unpack(tmp_path)


def test_nothing_to_pack_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(VrbenchError, match="no records to pack"):
        pack(tmp_path)
