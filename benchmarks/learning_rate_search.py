"""Choose learning rate and LoRA rank: train each setting with `vrbench train` and evaluate it on the dev split.

    python -m benchmarks.learning_rate_search --out DIR [--recipe pocket-full] [--rates 5e-4,1e-3] [--ranks 4,8]
        [--at-once 4]

The rule: of the settings whose accuracy on dev questions reaches ENOUGH, choose the one with the lowest word
perplexity on dev passages. Test items are not used. Finished runs in DIR are not repeated; their results are written to
benchmarks/results/rates.json, beside those of other recipes, and all of them to benchmarks/results/rates.md.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import queue
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from vrbench.core.io import write_atomically

ENOUGH = 85.0
"""Percent of dev turns answered rightly that a setting must reach."""

RESULTS = Path(__file__).parent / "results"


def train(recipe: str, rate: float, rank: int, more: Sequence[str], out: Path, gpu: str) -> dict[str, Any]:
    """Train one setting from the shell on one GPU, unless it is there; what its lineage says of the dev split."""
    changes = [f"tune.lr={rate:g}", f"tune.rank={rank}", f"tune.alpha={2 * rank}", *more]
    folder = out / f"{recipe}-lr{rate:g}-rank{rank}"
    if not (folder / "vrbench.json").is_file():
        command = [sys.executable, "-m", "vrbench", "train", recipe, "--out", str(folder)]
        command += [part for change in changes for part in ("--set", change)]
        log = out / f"{folder.name}.log"
        with log.open("w") as stream:
            environment = {**os.environ, "CUDA_VISIBLE_DEVICES": gpu}
            code = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, env=environment).returncode
        if code:
            raise RuntimeError(f"{' '.join(command)} ended with {code}; see {log}")
    step = json.loads((folder / "vrbench.json").read_text())["steps"][-1]
    note = json.loads(step["note"])
    return {"recipe": recipe, "changes": changes, "rate": rate, "rank": rank, "digest": step["recipe_digest"], **note}


def chosen(found: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The setting that the rule takes; None when none gets enough right."""
    good = [one for one in found if one["dev_right"]["mean"] >= ENOUGH]
    return min(good, key=lambda one: one["dev_ppl"], default=None)


def report(found: Sequence[dict[str, Any]]) -> str:
    """Markdown: all settings of all recipes, what the rule takes, and how they were run."""
    recipes = {one["recipe"] for one in found}
    taken = {recipe: chosen([one for one in found if one["recipe"] == recipe]) for recipe in recipes}
    lines = [
        "# Learning rate and rank, chosen on the dev split",
        "",
        f"Taken: of the settings with at least {ENOUGH:g} % of the dev turns right, the one with the lowest dev word "
        "perplexity (60 passages of the Python documentation, cut to 512 tokens each). LoRA alpha is twice the rank.",
        "",
        "| recipe | rate | rank | other changes | dev turns right | dev word perplexity | last loss | taken |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for one in sorted(found, key=lambda o: (o["recipe"], o["rank"], o["rate"])):
        others = ", ".join(one["changes"][3:]) or "-"
        lines.append(
            f"| {one['recipe']} | {one['rate']:g} | {one['rank']} | {others} | {one['dev_right']['mean']:.1f} | "
            f"{one['dev_ppl']:.1f} | {one['final_loss']:.4f} | {'**yes**' if one is taken[one['recipe']] else ''} |"
        )
    kinds = sorted({kind for one in found for kind in one["dev_right"]} - {"mean"})
    lines += ["", "By kind of question, % right:", "", f"| recipe | rate | rank | {' | '.join(kinds)} |"]
    lines.append("|---" * (3 + len(kinds)) + "|")
    for one in sorted(found, key=lambda o: (o["recipe"], o["rank"], o["rate"])):
        rights = " | ".join(f"{one['dev_right'].get(kind, float('nan')):.1f}" for kind in kinds)
        lines.append(f"| {one['recipe']} | {one['rate']:g} | {one['rank']} | {rights} |")
    made = sorted({f"{one['device']}, torch {one['torch']}, transformers {one['transformers']}" for one in found})
    by = "python -m benchmarks.learning_rate_search"
    lines += [
        "",
        f"Each with `vrbench train RECIPE --set ...` by `{by}`; {'; '.join(made)}.",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Train what is not there, then write and print the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--recipe", default="pocket-full")
    parser.add_argument("--rates", default="5e-4,7e-4,1e-3,1.4e-3")
    parser.add_argument("--ranks", default="8")
    parser.add_argument("--set", dest="more", action="append", default=[], help="KEY=VALUE for all settings")
    parser.add_argument("--gpus", default="0", help="CUDA devices, comma-separated")
    parser.add_argument("--cards", dest="gpus", default=argparse.SUPPRESS, help=argparse.SUPPRESS)  # old name of --gpus
    parser.add_argument("--at-once", type=int, default=4, help="parallel trainings per GPU")
    given = parser.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    free: queue.Queue[str] = queue.Queue()
    for gpu in given.gpus.split(",") * given.at_once:
        free.put(gpu)

    def work(setting: tuple[str, str]) -> dict[str, Any]:
        gpu = free.get()
        try:
            return train(given.recipe, float(setting[0]), int(setting[1]), given.more, given.out, gpu)
        finally:
            free.put(gpu)

    settings = list(itertools.product(given.rates.split(","), given.ranks.split(",")))
    with ThreadPoolExecutor(len(settings)) as pool:
        found = list(pool.map(work, settings))
    stored = RESULTS / "rates.json"
    before = json.loads(stored.read_text()) if stored.is_file() else []
    digests = {one["digest"] for one in found}
    every = [*(one for one in before if one["digest"] not in digests), *found]
    every.sort(key=lambda o: (o["recipe"], o["rank"], o["rate"]))
    write_atomically(stored, json.dumps(every, indent=1) + "\n")
    write_atomically(RESULTS / "rates.md", report(every))
    print(report(every))


if __name__ == "__main__":
    main()
