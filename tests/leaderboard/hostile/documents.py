"""Whole, right documents of every kind that a stranger hands in; what is hostile is made by changing them."""

from __future__ import annotations

import gzip
import hashlib
from pathlib import Path
from typing import Any

from vrbench.core.run_storage import samples_to_jsonl
from vrbench.core.schemas import (
    BaseRef,
    CheckpointRef,
    Lineage,
    LineageStep,
    Provenance,
    RunRecord,
    RunSettings,
    Sample,
    Score,
    TaskResult,
)
from vrbench.leaderboard.schema import (
    LayerRegion,
    Leaderboard,
    LeaderboardRow,
    RowCost,
    RowTaskScores,
    ScoreWithCI,
    Submission,
    SuiteMean,
    VerificationStatus,
)
from vrbench.statistics.claims import parse

TASK = "pocket_mme"
HEX = "0123456789abcdef" * 4
RECIPE = "name: region\nlayers: 0,3,7\nsteps: 1500\nrates: [0.001, 2.0e-4]\ndata: {llava: 1, text: 2}\n"
BOARD = """\
schema_version: 1
id: pocket
title: Pocket
description: Small tasks.
tasks:
  pocket_mme: {version: '1', n: 3, data_digest: null, definition_digest: null}
  pocket_facts: {version: '1', n: 3, data_digest: null, definition_digest: null}
suites: {visual: [pocket_mme], text: [pocket_facts]}
settings: {limit: null, dtypes: [float32]}
averaging: mean of tasks
claims: ['visual>=99%']
families: {pocket: {title: Pocket, model: llava, depth: 30, baseline: null, prompts: {}}}
shown: {pocket_mme: true, pocket_facts: true}
maintainers: [someone]
"""
SAMPLES = (
    Sample(id="1", cluster="a", score=1.0, answer="Yes", target="Yes", responses=("Yes.\n",), prompt_digest=HEX),
    Sample(id="2", cluster="a", score=0.0, loglikelihoods=(-1.5, -2.0), responses=((-1.5, True), (-2.0, False))),
    Sample(id="3", cluster="b", score=-12.5, weight=7.0, responses=(-12.5,)),
)


def samples_bytes(samples: tuple[Sample, ...] = SAMPLES) -> bytes:
    """The JSON lines of some samples."""
    return samples_to_jsonl(samples).encode()


def run_record(content: bytes | None = None) -> RunRecord:
    """A run of one task."""
    content = samples_bytes() if content is None else content
    result = TaskResult(
        task=TASK, suite="pocket_visual", version="1", status="ok", metric="mean", n=3, chance=50.0,
        score=Score(value=65.0, low=30.0, high=100.0, n=3, clusters=2), official={"mme": 65.0},
        samples_digest=hashlib.sha256(content).hexdigest(), data_digest=HEX, definition_digest=HEX,
    )  # fmt: skip
    base = Lineage(id="pocket/base", family="llava", depth=30)
    step = LineageStep(kind="trained", layers="0,3,7", depth=30, method="lora", recipe="region", recipe_digest=HEX)
    lineage = Lineage(
        id="pocket/region", family="llava", depth=30, base=BaseRef(id="pocket/base", digest=HEX), steps=(step,),
        weights={"adapter_model.safetensors": HEX},
    )  # fmt: skip
    return RunRecord(
        status="ok", settings=RunSettings(tasks=(TASK,)), inputs_digest=HEX, results=(result,),
        checkpoint=CheckpointRef(id="pocket/region", digest=HEX, family="llava", depth=30, lineage=(lineage, base)),
        provenance=Provenance(vrbench="0.2.0", commit="a" * 40, dirty=False, command="vrbench run"),
    )  # fmt: skip


def submission(run_text: str = "", **changes: Any) -> Submission:
    """What is said of a run whose run.json has this text."""
    reference = f"lab/region@{HEX[:16]}"
    said = Submission(
        schema_version=1, board="pocket", org="lab", name="region", revision=HEX[:16], family="pocket",
        baseline=reference, description="A region of layers.", url="https://example.org/region", submitted="2026-11-01",
        vrbench="0.2.0", run_digest=hashlib.sha256(run_text.encode()).hexdigest(),
    )  # fmt: skip
    return said.model_copy(update=changes)


def leaderboard() -> Leaderboard:
    """A board of one row."""
    figure = ScoreWithCI(value=65.0, low=60.0, high=70.0)
    mean = SuiteMean(tasks=(TASK,), n=3, score=figure, retention=figure)
    row = LeaderboardRow(
        org="lab", name="region", revision=HEX[:16], family="pocket", baseline=f"lab/region@{HEX[:16]}", digest=HEX,
        is_baseline=True, checkpoint="pocket/region", dtype="float32", submitted="2026-11-01", cost=RowCost(),
        region=LayerRegion(
            depth=30, tuning="lora", tuned="0,3", tuned_share=0.1, removed="none", removed_share=0, healed=False
        ),
        visual=mean, text=None, verdicts=(),
        status=VerificationStatus(kind="rescored", by="vrbench", date="2026-11-01"),
        tasks=(RowTaskScores(task=TASK, n=3, clusters=2, score=figure, difference=figure, retention=figure),),
    )  # fmt: skip
    return Leaderboard(board="pocket", title="Pocket", claims=(parse("visual>=99%"),), tasks=(), rows=(row,))


def write_submission(folder: Path, content: bytes | None = None) -> Path:
    """A whole submission in a new folder; returns the folder.

    Args:
        content: JSON lines of its samples, instead of the right ones.
    """
    content = samples_bytes() if content is None else content
    run_text = run_record(content).model_dump_json(indent=1) + "\n"
    (folder / "samples").mkdir(parents=True)
    (folder / "run.json").write_text(run_text, encoding="utf-8")
    (folder / "submission.json").write_text(submission(run_text).model_dump_json(indent=1) + "\n", encoding="utf-8")
    (folder / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    (folder / "samples" / f"{TASK}.jsonl.gz").write_bytes(gzip.compress(content, mtime=0))
    return folder
