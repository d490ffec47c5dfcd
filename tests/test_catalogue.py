"""The list of tasks, and where it says that their data are."""

from __future__ import annotations

from pathlib import Path

import pytest

from vrbench import catalogue, registry


def where(data_root: Path | None) -> dict[str, str]:
    return {row["task"]: row["data"] for row in catalogue.describe(registry.load().values(), data_root)}


def test_each_task_is_one_row_that_says_where_its_data_are(tmp_path: Path) -> None:
    file = tmp_path / "baber" / "piqa" / "default" / "validation.parquet"
    file.parent.mkdir(parents=True)
    file.touch()
    found = where(tmp_path)
    assert set(found) == set(registry.load())
    assert (found["piqa"], found["mme"], found["pocket_mme"]) == ("data root", "missing", "generated")


def test_without_a_data_root_the_hub_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert where(None)["mme"] == "hub (online)"


def test_a_task_without_chance_level_has_a_dash() -> None:
    rows = {row["task"]: row for row in catalogue.describe(registry.load().values())}
    assert rows["pocket_pydoc"]["chance"] == "-"
    assert rows["pocket_mme"]["chance"] == "37.5"
    assert rows["pocket_mme"]["suites"] == "pocket_visual, pocket"
