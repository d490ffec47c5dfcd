"""`benchmarks/seed_study.py` on the pocket board's own runs: retention over all visual tasks, and without each."""

from __future__ import annotations

import pytest

from benchmarks import seed_study

RECIPES = ("pocket-full", "pocket-region")


def test_what_is_kept_with_and_without_each_task() -> None:
    read = {recipe: seed_study.read_counts(seed_study.published(recipe)) for recipe in RECIPES}
    runs = {(recipe, seed): read[recipe] for recipe in RECIPES for seed in (0, 1)}
    lines = seed_study.report(runs, "made for a test").splitlines()
    tables = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("|")]
    scores = [{r.task: r.score.value for r in runs[recipe, 0].record.results} for recipe in RECIPES]
    visual = runs["pocket-full", 0].pool("visual")

    def kept(names: list[str]) -> float:
        full, region = (sum(one[name] for name in names) for one in scores)
        return 100 * region / full

    [whole] = [row for row in tables if row[0] == "pocket-region" and len(row) == 7]
    assert float(whole[2].split()[0]) == pytest.approx(kept(visual), abs=0.051)
    assert whole[3] == ", ".join([whole[2].split()[0]] * 2)  # both seeds are the same run
    [without] = [row for row in tables if row[0] == "pocket-region" and len(row) == len(visual) + 1]
    for name, cell in zip(visual, without[1:], strict=True):
        rest = [other for other in visual if other != name]
        assert float(cell.split()[0]) == pytest.approx(kept(rest), abs=0.051)
    assert any(line.startswith("`made for a test`") for line in lines)
    assert sum("NVIDIA H200, vrbench " in line for line in lines) == 1  # all four were made alike
