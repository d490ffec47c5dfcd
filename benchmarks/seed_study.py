"""Measure how the published pocket scores vary with the training seed: train their recipes with other seeds.

    python -m benchmarks.seed_study --work DIR [--seeds 1,2] [--recipes pocket-full,pocket-region,pocket-top]

Seed 0 is on the pocket board. Each further seed changes the adapter's initial weights and the order of the same data:
`vrbench train RECIPE --set seed=SEED`, then `vrbench run --tasks embedded --dtype float32`. Finished steps in DIR are
not repeated; the report needs only the runs, not their checkpoints. With --limit (a test run) the board's full runs are
not included. Writes benchmarks/results/repeated.md.
"""

from __future__ import annotations

import argparse
import datetime
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from vrbench.core.io import write_atomically
from vrbench.core.run_storage import load_run
from vrbench.reporting.formatting import interval, number
from vrbench.reproduce.joint_bootstrap import JointBootstrap
from vrbench.reproduce.run_counts import RunCounts, count_run
from vrbench.reproduce.seed_estimate import SeedEstimate

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks/results/repeated.md"
BASELINE = "pocket-full"
PERPLEXITY = "pocket_docs"

Runs = Mapping[tuple[str, int], RunCounts]
"""Recipe and seed -> its run."""


def read_counts(folder: Path) -> RunCounts:
    """Read a run's folder as counts."""
    return count_run(partial(load_run, folder))


def do(words: Sequence[str], log: Path) -> None:
    """One vrbench command, its words kept in a file."""
    with log.open("w") as stream:
        code = subprocess.run(
            [sys.executable, "-m", "vrbench", *words], stdout=stream, stderr=subprocess.STDOUT, env=dict(os.environ)
        ).returncode
    if code:
        raise RuntimeError(f"vrbench {' '.join(words)} ended with {code}; see {log}")


def measured(recipe: str, seed: int, work: Path, train: Sequence[str], run: Sequence[str]) -> Path:
    """Train one recipe with one seed and measure it, unless that is done; the run's folder."""
    name = f"{recipe}-s{seed}"
    folder, runs = work / name, work / "runs" / name
    if not any(runs.glob("*/*/run.json")):
        if not (folder / "vrbench.json").is_file():
            words = ["train", recipe, "--out", str(folder), "--set", f"seed={seed}", "--set", f"makes=pocket/{name}"]
            do([*words, *(word for change in train for word in ("--set", change))], work / f"{name}.train.log")
        words = ["run", "--ckpt", str(folder), "--tasks", "embedded", "--dtype", "float32", "--out", str(runs)]
        do([*words, *run], work / f"{name}.run.log")
    [found] = runs.glob("*/*/run.json")
    return found.parent


def published(recipe: str) -> Path:
    """The run of seed 0, on the pocket board."""
    [found] = (ROOT / "leaderboards/pocket/submissions").glob(f"vrbench__{recipe}/*/run.json")
    return found.parent


def report(runs: Runs, command: str) -> str:
    """Markdown: each recipe over its seeds, each seed's tasks, and how they were made."""
    joint = JointBootstrap({f"{recipe} {seed}": run for (recipe, seed), run in runs.items()})
    recipes, seeds = (list(dict.fromkeys(key[place] for key in runs)) for place in (0, 1))
    first = next(iter(runs.values()))
    visual, text = first.pool("visual"), first.pool("text")
    lines = [
        "# The published pocket recipes with other seeds",
        "",
        f"All items. Kept: in % of {BASELINE} of the same seed; brackets are 95 % intervals over items and "
        "seeds. The seed decides the adapter's first weights and the order of the data; the data are the same.",
        "",
        "| recipe | visual score | visual kept, % | each seed | text, points | perplexity kept, % | each seed |",
        "|:--|--:|--:|--:|--:|--:|--:|",
    ]
    for recipe in recipes:
        own = {seed: f"{recipe} {seed}" for seed in seeds}
        pairs = {seed: (name, f"{BASELINE} {seed}") for seed, name in own.items()}
        score, kept = joint.score(own, visual), joint.retention(pairs, visual)
        gained, ratio = joint.difference(pairs, text), joint.retention(pairs, [PERPLEXITY])
        if recipe == BASELINE:
            lines.append(f"| {recipe} | {_told(score)} | 100 | {_each(score)} (score) | 0 | 100 | |")
            continue
        cells = [_told(score), _told(kept), _each(kept), _told(gained, True), _told(ratio), _each(ratio)]
        lines.append(f"| {recipe} | {' | '.join(cells)} |")
    lines += _left_out(joint, [recipe for recipe in recipes if recipe != BASELINE], seeds, visual)
    names = [*visual, *text, PERPLEXITY]
    lines += ["", "Scores, 0 to 100, and the perplexity:", "", f"| recipe | seed | {' | '.join(names)} |"]
    lines.append("|:--|--:" + "|--:" * len(names) + "|")
    for (recipe, seed), run in runs.items():
        scores = {result.task: result.score.value for result in run.record.results}
        cells = [number(scores[name], 1) for name in names]
        lines.append(f"| {recipe} | {seed} | {' | '.join(cells)} |")
    return "\n".join(
        [*lines, "", f"`{command}`, {_today()}. Seed 0: the runs on the pocket board.", "", *_origins(runs), ""]
    )


def _left_out(joint: JointBootstrap, recipes: Sequence[str], seeds: Sequence[int], visual: Sequence[str]) -> list[str]:
    """What each recipe keeps of the visual tasks but one, for each of them."""
    lines = ["", "Does one task decide? Visual kept, %, with one task left out:", ""]
    lines += [f"| recipe | {' | '.join(f'without {name}' for name in visual)} |", "|:--|" + "--:|" * len(visual)]
    for recipe in recipes:
        pairs = {seed: (f"{recipe} {seed}", f"{BASELINE} {seed}") for seed in seeds}
        rests = ([name for name in visual if name != out] for out in visual)
        lines.append(f"| {recipe} | {' | '.join(_told(joint.retention(pairs, rest)) for rest in rests)} |")
    return lines


def _told(found: SeedEstimate | None, signed: bool = False) -> str:
    low, high = (found and found.ends) or (None, None)
    return interval(found and found.value, low, high, 1, signed)


def _each(found: SeedEstimate | None) -> str:
    return ", ".join(f"{value:.1f}" for value in found.each.values()) if found else ""


def _origins(runs: Runs) -> list[str]:
    """How they were made, alike ones together."""
    told: dict[str, list[str]] = {}
    for (recipe, seed), run in runs.items():
        by = run.record.provenance
        packages = ", ".join(f"{name} {by.packages[name]}" for name in ("torch", "transformers"))
        limit = "" if run.record.settings.limit is None else f", at most {run.record.settings.limit} items a task"
        how = f"{by.device}, vrbench {(by.commit or 'of no commit')[:12]}, {packages}{limit}"
        told.setdefault(how, []).append(f"{recipe} {seed}")
    return [f"- {', '.join(names)}: {how}." for how, names in told.items()]


def _today() -> datetime.date:
    return datetime.datetime.now(datetime.timezone.utc).date()


def main() -> None:
    """Train and measure what is not there, then write and print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", required=True, type=Path)
    parser.add_argument("--seeds", default="1,2")
    parser.add_argument("--recipes", default=f"{BASELINE},pocket-region,pocket-top", help=f"must include {BASELINE}")
    parser.add_argument("--at-once", type=int, default=6, help="parallel trainings")
    parser.add_argument("--set", dest="changes", action="append", default=[], help="KEY=VALUE of the recipes")
    parser.add_argument("--limit", help="items per task, for a test run")
    given = parser.parse_args()
    given.work.mkdir(parents=True, exist_ok=True)
    recipes, seeds = given.recipes.split(","), list(map(int, given.seeds.split(",")))
    run = ["--limit", given.limit] if given.limit else []
    places = [(recipe, seed) for recipe in recipes for seed in seeds]
    with ThreadPoolExecutor(given.at_once) as pool:
        folders = list(pool.map(lambda place: measured(*place, given.work, given.changes, run), places))
    found = {} if given.limit else {(recipe, 0): published(recipe) for recipe in recipes}
    found |= dict(zip(places, folders, strict=True))
    runs = {place: read_counts(found[place]) for place in sorted(found, key=lambda p: (recipes.index(p[0]), p[1]))}
    changes = [word for change in given.changes for word in ("--set", change)]
    words = ["python -m benchmarks.seed_study --seeds", given.seeds, "--recipes", given.recipes, *changes, *run]
    page = report(runs, " ".join(words))
    if not given.limit:
        write_atomically(RESULTS, page)
    print(page)


if __name__ == "__main__":
    main()
