"""A small results folder made of chance: two seeds, some rows of every table, known losses."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from tests.simulated import flipped, run, samples
from vrbench.core.run_storage import save_run
from vrbench.core.schemas import Lineage, LineageStep, Provenance, Run
from vrbench.reproduce.plan import Plan, PlanStep, StepRecord, TableEntry, save_plan, step_digests
from vrbench.training.profile_results import ProfileRow, save_profile

ODD = "<b>50%_of $x^$ & {y}|z</b>"
"""A row's label with what must be escaped."""

RIGHT = (np.arange(240) % 10 < 8).astype(float)

LAYERS = {"full": "all", "region": "0,3,7,11,15,18,22,26", "top": "22-29", "odd": "0-7"}
"""Trained model -> its layers, of 30."""

LOST = {"full": 0.0, "region": 0.1, "top": 0.4, "odd": 0.2, "pruned": 0.3, "full-pruned": 0.05, "restored": 0.0}
"""Model -> share of the baseline's right visual answers that it loses."""

PROVENANCE = Provenance(
    vrbench="0.1", commit="0123456789abcdef", packages={"torch": "2.11.0"}, python="3.12.3", platform="Linux",
    device="a card", command="vrbench reproduce all",
)  # fmt: skip


def made_run(model: str, seed: int, lost: float | None = None) -> Run:
    """A model's run: 240 visual items in clusters of 2, 240 text items, 20 texts; each seed has answers of its own."""
    number = 100 * seed + list(LOST).index(model)
    base = flipped(RIGHT, 0.05, 0.05, 7 + seed)
    seen = base if model == "full" else flipped(base, LOST[model] if lost is None else lost, 0.02, number)
    read = base if model == "full" else flipped(base, 0.02, 0.05, 50 + number)
    made = run(
        model,
        {
            "seen": ("pocket_visual", "mean", samples(seen, cluster=2)),
            "read": ("pocket_text", "mean", samples(read)),
            "words": ("pocket_text", "perplexity", samples(np.full(20, -90.0 - number % 5), weight=30)),
        },
        limit=240,
    )
    layers = LAYERS.get(model)
    if layers is None:
        return made
    step = LineageStep(kind="trained", layers=layers, depth=30, stage="tune")
    lineage = (Lineage(id=model, family="llava", depth=30, steps=(step,)),)
    ckpt = made.record.checkpoint.model_copy(update={"lineage": lineage})
    return made.model_copy(update={"record": made.record.model_copy(update={"checkpoint": ckpt})})


def made_plan(seeds: Iterable[int] = (0, 1)) -> Plan:
    """A training and a run for each model and seed, and where the runs stand."""
    steps: list[PlanStep] = []
    entries: list[TableEntry] = []
    for seed in seeds:
        for model in LOST:
            kind = "prune" if "pruned" in model else "restore" if model == "restored" else "train"
            makes = f"{kind}-{model}-s{seed}"
            steps.append(PlanStep(name=makes, kind=kind, arguments={"seed": seed}))  # type: ignore[arg-type]
            steps.append(PlanStep(name=f"run-{model}-s{seed}", kind="run", needs=(makes,), arguments={"m": model}))
        entries += _entries(seed)
    tables = ("strategies", "layers", "text", "pruning", "restoring", "profile")
    return Plan(
        family="pocket", tables=tables, seeds=tuple(seeds), tasks="pocket", limit=240, steps=tuple(steps),
        entries=tuple(entries),
    )  # fmt: skip


def _entries(seed: int) -> list[TableEntry]:
    told: list[tuple[str, str, str, str, float | None]] = [
        ("strategies", "full", "", "full", None),
        ("strategies", "sparse-uniform", "", "region", None),
        ("strategies", "top", "", "top", None),
        ("strategies", ODD, "", "odd", None),
        ("layers", "8 layers", "sparse-uniform", "region", 8),
        ("layers", "all layers", "sparse-uniform", "full", 30),
        ("text", "region", "", "region", None),
        ("pruning", "0 removed", "region, by angular", "region", 0),
        ("pruning", "3 removed", "region, by angular", "pruned", 3),
        ("pruning", "0 removed", "full, by angular", "full", 0),
        ("pruning", "3 removed", "full, by angular", "full-pruned", 3),
        ("restoring", "4 restored", "middle", "restored", 4),
    ]
    return [
        TableEntry(
            table=table, row=row, series=series, x=x, seed=seed,
            run=f"run-{model}-s{seed}", baseline=f"run-full-s{seed}",
        )
        for table, row, series, model, x in told
    ]  # fmt: skip


def made_folder(folder: Path, without: Iterable[str] = (), seeds: Iterable[int] = (0, 1)) -> Path:
    """The results of `made_plan`, without some steps and what needs them."""
    plan = made_plan(tuple(seeds))
    save_plan(plan, folder)
    gone = set(without)
    for step in plan.steps:
        if step.name in gone or gone & set(step.needs):
            gone.add(step.name)
            continue
        if step.kind == "run":
            model, seed = str(step.arguments["m"]), int(step.name.rpartition("-s")[2])
            made = made_run(model, seed)
            save_run(folder / "runs" / step.name, made.record, made.samples, compressed=True)
        done = StepRecord(
            step=step.name, digest=step_digests(plan)[step.name], seconds=60.0 if "full" in step.name else 45.0,
            device="a card", peak_gib=2.0, provenance=PROVENANCE,
        )  # fmt: skip
        (folder / "done").mkdir(exist_ok=True)
        (folder / "done" / f"{step.name}.json").write_text(done.model_dump_json())
    return folder


def made_profile(folder: Path, seconds: float) -> None:
    """All layers in 1 s a step, a quarter of them in so many seconds."""
    common = {"kind": "train", "shape": "llava-1.5-7b", "tuning": "lora", "depth": 32, "batch": 8, "tokens": 768}
    rows = [
        ProfileRow(
            **common, image_tokens=576, steps=4, layers=layers, indices=indices, seconds_per_step=s, peak_gib=20.0,
            trainable=1000, device="a card", versions={"torch": "2.11.0"},
        )
        for layers, indices, s in (("all", "all", 1.0), ("sparse-uniform:8", "0,4,8,12,16,20,24,28", seconds))
    ]  # fmt: skip
    save_profile(folder / "profile.json", rows)
