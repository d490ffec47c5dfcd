"""The tables in README.md and docs/results-pocket.md are what the committed runs give."""

from __future__ import annotations

from pathlib import Path

import pytest

from vrbench.core.run_storage import load_run
from vrbench.reporting import render
from vrbench.reproduce.report import write_report
from vrbench.statistics.comparison import compare_paths

ROOT = Path(__file__).parents[1]
SUBMISSIONS = ROOT / "leaderboards" / "pocket" / "submissions"


def folders(name: str) -> list[Path]:
    return sorted(path.parent for path in (SUBMISSIONS / f"vrbench__{name}").glob("*/run.json"))


def cells(line: str) -> list[str]:
    return [cell.strip(" *").replace("\N{NO-BREAK SPACE}", " ") for cell in line.strip("|\n").split("|")]


README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS = (ROOT / "docs" / "results-pocket.md").read_text(encoding="utf-8")


def test_the_readme_is_short_and_shows_what_compare_prints() -> None:
    assert len(README.encode()) <= 10_240
    shown = render(compare_paths(folders("pocket-region"), folders("pocket-full")), "table").split("\n\nBrackets")[0]
    assert shown.strip() in README


def test_the_submitted_runs_give_the_table_of_the_results() -> None:
    candidates = [run for name in ("base", "region", "top", "region-pruned-2") for run in folders(f"pocket-{name}")]
    made = render(compare_paths(candidates, folders("pocket-full")), "markdown")
    ours = [line for line in made.split("###")[0].splitlines() if line.startswith("|")]
    assert len(ours) == 14
    assert "\n".join(ours) in RESULTS


REPRODUCED = ROOT / "leaderboards" / "reproduce" / "pocket"
MADE = {"plan.json", "profile.json", "records.parquet", "samples.parquet"}


def test_the_published_report_is_what_its_records_give(tmp_path: Path) -> None:
    for name in MADE:
        (tmp_path / name).symlink_to(REPRODUCED / name)
    write_report(tmp_path)
    published = [f for f in REPRODUCED.rglob("*") if f.is_file() and f.relative_to(REPRODUCED).parts[0] not in MADE]
    assert len(published) == 3 + 16
    for file in published:
        assert (tmp_path / file.relative_to(REPRODUCED)).read_bytes() == file.read_bytes(), file.name


@pytest.mark.parametrize(("text", "count"), [(README, 7), (RESULTS, 19 + 5)])
def test_the_reproduced_rows_are_those_of_the_report(text: str, count: int) -> None:
    report = [cells(line) for line in (REPRODUCED / "report.md").read_text().splitlines() if line.startswith("| ")]
    shown = [cells(line) for line in text.splitlines() if line.startswith("| ")]
    start = next(number for number, row in enumerate(shown) if row[0] == "tuned")
    rows = [row for row in shown[start + 1 :] if len(row) == 6 and row[2].endswith("]")]
    assert len(rows) == count
    for name, *figures in rows:
        label = name.split(", ")
        found = [row for row in report if row[: len(label)] == label and all(figure in row for figure in figures)]
        assert found, name


def test_the_fully_tuned_one_sees_enough_and_not_all() -> None:
    (run,) = [load_run(folder) for folder in folders("pocket-full")]
    visual = [result for result in run.record.results if result.suite == "pocket_visual"]
    assert 80 <= sum(result.score.value for result in visual if result.score) / len(visual) <= 97
    assert sum(result.n for result in visual) >= 2000
    for result in visual:
        assert result.chance is not None
        for name, part in {"all": result.score, **result.groups}.items():
            assert part is not None and part.value >= result.chance + 15, (result.task, name)
            assert part.value <= 98.5 or result.task == "easy_vqa", (result.task, name)
