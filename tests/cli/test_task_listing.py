"""The list of tasks, where it says that their data are, and one task in full."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.evaluation import made
from tests.fakehub import parquet
from vrbench import cli
from vrbench.cli import task_listing
from vrbench.core.errors import VrbenchError
from vrbench.tasks import registry
from vrbench.tasks.spec import TaskSpec

SPECS = registry.load()


def where(data_root: Path | None) -> dict[str, str]:
    return {row["task"]: row["data"] for row in task_listing.table_rows(SPECS.values(), data_root)}


def changed(spec: TaskSpec, **fields: Any) -> TaskSpec:
    return spec.model_copy(update=fields)


def test_each_task_is_one_row_that_says_where_its_data_are(tmp_path: Path) -> None:
    file = tmp_path / "baber" / "piqa" / "default" / "validation.parquet"
    file.parent.mkdir(parents=True)
    file.touch()
    found = where(tmp_path)
    assert set(found) == set(SPECS)
    assert (found["piqa"], found["mme"], found["pocket_mme"]) == ("data root", "missing", "generated")


@pytest.mark.parametrize("offline", ["0", "1"])
def test_without_a_data_root_the_hubs_cache_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, offline: str
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", offline)
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    for name, folder in (("mme", "lmms-lab-encoder___mme/default"), ("mmlu", "cais___mmlu/anatomy")):
        (tmp_path / folder / "0.0.0" / SPECS[name].data.revision).mkdir(parents=True)
    found = where(None)
    assert (found["mme"], found["mmlu"], found["piqa"]) == ("hub cache", "missing", "missing")


def test_a_data_root_that_is_no_folder_is_said_as_run_says_it(tmp_path: Path) -> None:
    for names in ("mme", "visual"):
        with pytest.raises(VrbenchError, match=r"data root '.*nowhere' is not a folder"):
            cli.app(["tasks", names, "--data-root", str(tmp_path / "nowhere")], standalone_mode=False)


def test_figures_of_a_row() -> None:
    rows = {row["task"]: row for row in task_listing.table_rows(SPECS.values())}
    assert rows["pocket_pydoc"]["chance"] == "-"
    assert rows["pocket_mme"]["chance"] == "37.5"
    assert rows["pocket_mme"]["suites"] == "pocket_visual, pocket, embedded"
    assert (rows["mmlu"]["n"], rows["mmlu"]["few-shot"], rows["mmlu"]["metric"]) == (
        "14,042",
        "5",
        SPECS["mmlu"].metric,
    )


def test_a_task_that_needs_a_judge_says_so(tmp_path: Path) -> None:
    judged = changed(SPECS["piqa"], judge="answers are rated by a large model")
    assert task_listing.table_rows([judged], made.hub(tmp_path))[0]["data"] == "needs a judge"
    told = task_listing.describe_task(judged, tmp_path)
    assert "needed, so the task cannot be run: answers are rated by a large model" in told and "example (" not in told


def test_one_task_in_full_has_everything_and_a_prompt(tmp_path: Path) -> None:
    told = task_listing.describe_task(SPECS["piqa"], made.hub(tmp_path))
    spec = SPECS["piqa"]
    for part in (spec.title, "1,838 in the full set", spec.licence, spec.url, "50 of 100", "baber/piqa: data root"):
        assert part in told
    assert spec.citation in " ".join(told.split())
    number = int(told.split("row ")[1].split(")")[0])
    row = made.piqa()[number]
    right = row[f"sol{row['label'] + 1}"]
    assert f"  | Question: {row['goal']}\n  | Answer:\n" in told
    assert f"  option: {' ' + row['sol1']!r}\n  option: {' ' + row['sol2']!r}\n  target: {' ' + right!r}" in told


def test_examples_pictures_and_generation_are_shown(tmp_path: Path) -> None:
    told = task_listing.describe_task(SPECS["mme"], made.hub(tmp_path))
    assert "  image: 40 x 24 pixels\n  prompt of the harness, without a chat template; --ckpt" in told
    assert ":\n  | Is there " in told
    assert "Answer the question using a single word or phrase." in told
    assert "generation: do_sample False, max_new_tokens 16" in told
    import pyarrow as pa
    import pyarrow.parquet as pq

    row = {"question": "Which?", "subject": "s", "choices": ["w", "x", "y", "z"], "answer": 2}
    for subject in SPECS["mmlu"].data.config:
        folder = tmp_path / "cais/mmlu" / subject
        folder.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist([{**row, "question": "Last?"}]), folder / "test.parquet")
        pq.write_table(
            pa.Table.from_pylist([{**row, "question": f"Example {i}?"} for i in range(5)]), folder / "dev.parquet"
        )
    told = task_listing.describe_task(SPECS["mmlu"], tmp_path)
    assert "few-shot examples:      5, from dev" in told
    assert [told.count(f"Example {i}?") for i in range(5)] == [1] * 5
    assert told.rindex("  | Last?") > told.rindex("Example 4?") and told.endswith("  target: ' C'")


def test_a_long_prompt_is_cut_in_the_middle() -> None:
    text = "".join(str(i % 10) for i in range(3000))
    shown = task_listing.shorten(text, 100)
    assert shown.startswith(text[:50] + "\n[... 2,900 characters left out") and shown.endswith(text[-50:])
    assert task_listing.shorten(text, 3000) == text


def test_data_that_cannot_be_read_are_told_and_the_rest_is_shown(tmp_path: Path) -> None:
    root = made.hub(tmp_path)
    (root / "baber/piqa/default/validation.parquet").write_bytes(b"PAR1")
    told = task_listing.describe_task(SPECS["piqa"], root)
    assert "licence of the data:" in told and "no example can be shown: " in told


def test_an_item_that_the_harness_cannot_read_is_told(tmp_path: Path) -> None:
    root = made.hub(tmp_path)
    rows = [{"aim": "?", "sol1": "a", "sol2": "b", "label": 0}]
    (root / "baber/piqa/default/validation.parquet").write_bytes(parquet(rows))
    assert "validation.parquet, row 0: the harness cannot read it" in task_listing.describe_task(SPECS["piqa"], root)
    pair = [{**row, "image": {"bytes": b"no", "path": None}} for row in made.mme()[:2]]
    (root / "lmms-lab-encoder/MME/default/test.parquet").write_bytes(parquet(pair))
    assert "the image in column image cannot be used" in task_listing.describe_task(SPECS["mme"], root)


def called(*command: str) -> str:
    done = CliRunner().invoke(cli.app, ["tasks", *command])
    assert done.exit_code == 0, done.output
    return done.stdout


def test_one_id_is_shown_in_full_and_all_else_is_a_table(tmp_path: Path) -> None:
    assert called("pocket_facts").startswith("pocket_facts: knowledge of countries")
    header = "task          suites"
    for names in ("pocket_fact*", "pocket_facts,pocket_facts "):
        assert called(names).startswith(header), names
    task = {**json.loads(SPECS["piqa"].model_dump_json()), "id": "alone", "suites": ["lonely"]}
    (tmp_path / "alone.yaml").write_text(json.dumps(task))
    assert called("lonely", "--include-path", str(tmp_path)).startswith("task ")


def test_the_table_is_quick() -> None:
    start = time.process_time()
    task_listing.table_rows(registry.load().values())
    assert time.process_time() - start < 0.5
