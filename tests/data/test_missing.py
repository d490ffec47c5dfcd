"""Data that are not there: one line a cause, and left out only where the user asked for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.evaluation import made
from vrbench.core.errors import VrbenchError, merge_messages
from vrbench.data.locate import locate_all, missing_messages, skipped_note
from vrbench.evaluation.run_config import RunConfig
from vrbench.evaluation.run_plan import RunPlan, plan
from vrbench.tasks import registry

MME = "lmms-lab-encoder/MME/default/test.parquet"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = made.hub(tmp_path / "root")
    (folder / MME).unlink()
    return folder


def planned(ckpt: Path, root: Path, tasks: str, **more: bool) -> RunPlan:
    return plan([str(ckpt)], tasks, RunConfig(data_root=root, out=root.parent / "runs", device="cpu", **more))


def test_one_cause_is_one_line_with_the_tasks(tiny_llava: Path, root: Path) -> None:
    with pytest.raises(VrbenchError) as told:
        planned(tiny_llava, root, "piqa,mme,mmlu,textvqa")
    (line,) = str(told.value).splitlines()
    start = f"the data sets of 3 tasks are not whole under the data root {root}: mme (lmms-lab-encoder/MME), mmlu ("
    assert line.startswith(start)
    assert line.endswith(", or leave them out with --skip-missing")


def test_offline_all_tasks_are_one_line(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path))
    monkeypatch.delenv("HF_DATASETS_CACHE", raising=False)
    specs = registry.select_runnable("visual,text", registry.load())[0]
    looked = locate_all(specs, None)
    (line,) = missing_messages(looked.missing)
    assert f"the data sets of {len(specs)} tasks are not whole in the hub's cache" in line
    assert all(f"{spec.id} ({spec.data.name})" in line for spec in specs)


def test_what_is_not_there_is_left_out_and_told_and_the_rest_is_planned(tiny_llava: Path, root: Path) -> None:
    found = planned(tiny_llava, root, "piqa,mme,mmlu", skip_missing=True)
    assert [job.spec.id for job in found.tasks] == ["piqa"]
    reason = f"data set lmms-lab-encoder/MME is not whole under the data root {root}"
    assert found.skipped == {"mme": reason, "mmlu": reason.replace("lmms-lab-encoder/MME", "cais/mmlu")}
    assert skipped_note(dict(found.skipped)) == (
        f"left out by --skip-missing, since their data are not there: mme, mmlu (not whole under the data root {root})"
    )


def test_broken_data_are_refused_all_the_same(tiny_llava: Path, root: Path) -> None:
    file = root / "allenai/ai2_arc/ARC-Easy/test.parquet"
    file.write_bytes(file.read_bytes()[:-40])
    with pytest.raises(VrbenchError, match=rf"task 'arc_easy': {file} cannot be read as parquet") as told:
        planned(tiny_llava, root, "piqa,arc_easy,mme", skip_missing=True)
    assert "MME" not in str(told.value)


def test_where_nothing_is_left_it_is_refused(tiny_llava: Path, root: Path) -> None:
    with pytest.raises(VrbenchError, match=r"the data sets of 2 tasks are not whole .*to use the hub$"):
        planned(tiny_llava, root, "mme,mmlu", skip_missing=True)


def test_faults_that_differ_in_one_name_are_one() -> None:
    messages = [*(f"no checkpoint {name!r}: it is not a folder" for name in "ab"), "seed is 'x'", "no name"]
    assert merge_messages(messages) == ["no checkpoint 'a', 'b': it is not a folder", "seed is 'x'", "no name"]
