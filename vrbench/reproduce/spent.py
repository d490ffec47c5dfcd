"""With what the results were made, and what it cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from vrbench.core.schemas import Provenance
from vrbench.reporting.formatting import code, reused
from vrbench.reproduce.results import PlanResults

LIBRARIES = ("torch", "transformers", "peft", "accelerate", "lm_eval", "lmms_eval")


def spent(results: PlanResults) -> Iterator[str]:
    """Sentences: minutes by kind of step and by device, then what each part was made with, then commands."""
    if not results.done:
        yield "Nothing has been done yet."
        return
    kinds = {step.name: step.kind for step in results.plan.steps}
    devices: dict[str, dict[str, list[float]]] = {}
    for name, done in results.done.items():
        device = done.device or done.provenance.device or "an unnamed device"
        devices.setdefault(device, {}).setdefault(kinds[name], []).append(done.seconds)
    for device, each in sorted(devices.items()):
        parts = [f"{kind} {_minutes(sum(s))} ({len(s)})" for kind, s in sorted(each.items())]
        total = sum(sum(s) for s in each.values())
        yield (
            f"Spent on {device}: {_minutes(total)} of steps in all: {', '.join(parts)}. Steps that shared a card are "
            "each counted whole."
        )
    peak = max((done.peak_gib for done in results.done.values() if done.peak_gib is not None), default=None)
    if peak is not None:
        yield f"Most memory that a step held: {peak:.1f} GiB."
    yield from _mixed_code(results)
    yield from (f"{name}: {said}." for name, run in results.runs.items() if (said := reused(run.record.provenance)))
    yield from dict.fromkeys(f"Made with {_made(done.provenance)}." for done in results.done.values())
    yield from sorted({f"Command: {c}" for c in (d.provenance.command for d in results.done.values()) if c})


def _mixed_code(results: PlanResults) -> Iterator[str]:
    """Tasks that some runs answered or scored by other versions of vrbench's code than others."""
    found: dict[str, list[Mapping[str, int]]] = {}
    for run in results.runs.values():
        for result in run.record.results:
            found.setdefault(result.task, []).append(result.code)
    mixed = [task for task, codes in found.items() if any(code != codes[0] for code in codes)]
    if mixed:
        yield f"Not all runs were answered and scored by the same versions of vrbench's code: {', '.join(mixed)}."


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f} min"


def _made(by: Provenance) -> str:
    versions = [f"{name} {by.packages[name]}" for name in LIBRARIES if name in by.packages]
    parts = [
        code(by),
        *versions,
        f"Python {by.python}" if by.python else "",
        by.platform,
    ]
    return ", ".join(filter(None, parts))
