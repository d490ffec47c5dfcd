"""What `vrbench reproduce` prints: the plan, what is happening, and what was spent."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from tabulate import tabulate

from vrbench.reproduce.discarding import again, has_weights
from vrbench.reproduce.estimate import elapsed
from vrbench.reproduce.execute import ExecutionOptions, StepEvent
from vrbench.reproduce.families import family
from vrbench.reproduce.order import chosen
from vrbench.reproduce.packing import RecordFolder
from vrbench.reproduce.plan import TRIAL, Plan, PlanStep
from vrbench.reproduce.plan_folder import CHECKPOINTS, finished, joined, made_by

NAMES_SHOWN = 4


def print_plan(plan: Plan, folder: Path, only: str, jobs: int | None) -> None:
    """Every step by kind, what is done of it, and how long the rest takes."""
    whole = joined(plan, folder)
    done, wanted = set(finished(whole, RecordFolder(folder))), chosen(plan, only)
    repeated = set(again(whole, folder, wanted, done))
    there = done - repeated
    steps = [step for step in whole.steps if step.name in wanted | repeated]
    kinds = {kind: [step for step in steps if step.kind == kind] for kind in dict.fromkeys(s.kind for s in steps)}
    for kind, alike in kinds.items():
        print(f"{kind}:")
        for step in alike:
            state = "  (done)" if step.name in there else _why_again(step, folder) if step.name in repeated else ""
            print(f"  {step.name}{_needs(step)}{state}")
    rows = [_row(kind, alike, there) for kind, alike in kinds.items()]
    print()
    _print_table([*rows, _row("all", steps, there)], ("step", "all", "done", "GPU minutes left"))
    of = family(plan.family)
    at_once = jobs or of.jobs_per_card
    left = {step.name: step.minutes for step in steps if step.name not in there}
    alone = sum(minutes for name, minutes in left.items() if name in {s.name for s in kinds.get("profile", [])})
    clock = alone + elapsed(sum(left.values()) - alone, of.costs, 1, at_once)
    apart = f", {alone:,.0f} of them for the profile, which runs alone" if alone else ""
    print(f"\nBy the clock about {clock:,.0f} minutes of one card with {at_once} steps at once{apart}.")
    print(f"Estimated from: {of.costs.source}.")
    print(f"Measured: {plan.tasks}, {f'{plan.limit} items a task' if plan.limit else 'all items'}.")
    print_trial(plan)
    print(f"Results go to {folder}.")


def print_trial(plan: Plan) -> None:
    """Say what else is small when so few steps are asked for that nothing is learned."""
    if plan.is_trial:
        print(
            f"Fewer than {TRIAL} steps are a trial: batches, pictures, questions and tasks ({plan.tasks}) are few too, "
            "and nothing is learned."
        )


def _why_again(step: PlanStep, folder: Path) -> str:
    missing = step.kind in CHECKPOINTS and not has_weights(made_by(step, folder))
    return "  (again: its weights are not here)" if missing else "  (again: it rests on what is made again)"


def _needs(step: PlanStep) -> str:
    return f"  after {', '.join(step.needs)}" if step.needs else ""


def _row(kind: str, steps: list[PlanStep], there: set[str]) -> tuple[str, int, int, str]:
    left = [step for step in steps if step.name not in there]
    return kind, len(steps), len(steps) - len(left), f"{sum(step.minutes for step in left):,.1f}"


def watch(happening: Iterable[StepEvent], plan: Plan, options: ExecutionOptions) -> list[StepEvent]:
    """Draw a bar over the steps with the names of those that are going on; returns all that happened."""
    from tqdm import tqdm

    running: dict[str, None] = {}
    events = []
    with tqdm(total=len(chosen(plan, options.only)), unit="step", desc="reproduce", smoothing=0) as bar:
        for event in happening:
            events.append(event)
            if event.kind == "started":
                running[event.step] = None
            else:
                running.pop(event.step, None)
                bar.update()
            if event.kind == "failed":
                bar.write(f"{event.step} failed: {event.error}")
            bar.set_postfix_str(_shortened(list(running)))
    return events


def _shortened(names: list[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(names[:NAMES_SHOWN]) + more


def print_spent(plan: Plan, folder: Path, options: ExecutionOptions, events: list[StepEvent], seconds: float) -> None:
    """Minutes of steps by kind, from all sessions; and by card, with what the cards were held, from this one."""
    there = finished(joined(plan, folder), RecordFolder(folder))
    rows = []
    for kind in dict.fromkeys(step.kind for step in plan.steps):
        done = [there[step.name] for step in plan.steps if step.kind == kind and step.name in there]
        peak = max((one.peak_gib or 0.0 for one in done), default=0.0)
        spent = f"{sum(one.seconds for one in done) / 60:,.1f}"
        rows.append((kind, len(done), spent, f"{peak:.1f}" if peak else "-"))
    _print_table(rows, ("step", "done", "minutes of steps", "most memory of one, GiB"))
    print(
        f"this time {seconds / 60:,.1f} minutes by the clock, {options.jobs} steps at once{_of_cards(options, seconds)}"
    )
    by_card: dict[int, float] = defaultdict(float)
    for event in events:
        if event.kind in ("done", "failed"):
            by_card[event.card] += event.seconds / 60
    if options.cards and by_card:
        spent = ", ".join(f"{options.cards[card]}: {minutes:,.1f}" for card, minutes in sorted(by_card.items()))
        print(f"minutes of steps by card, where several share one: {spent}")


def _of_cards(options: ExecutionOptions, seconds: float) -> str:
    cards = min(len(options.cards), options.jobs)
    return f", {cards} cards: {cards * seconds / 60:,.1f} GPU minutes" if cards else ""


def _print_table(rows: Sequence[tuple[object, ...]], head: tuple[str, ...]) -> None:
    print(tabulate(rows, head, "simple", disable_numparse=True))
