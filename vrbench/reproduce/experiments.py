"""What each of the paper's tables takes: trainings, removals and runs, for one seed at a time.

A table is a function that adds its steps and entries to a draft. All are compared with the model tuned everywhere, with
the same seed; what two tables need is made once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from vrbench.reproduce.draft import PlanBuilder
from vrbench.reproduce.families import Value

HEURISTICS = ("sparse-uniform", "bottom", "middle-low", "middle-high", "top", "hybrid", "random")
"""Strategies that look at no model."""

POST_HOC = (
    "attention", "change", "block-influence", "multimodal-block-influence", "angular", "angular-weights", "fisher",
    "lora-norm",
)  # fmt: skip
"""Scores of layers, from the model that was tuned everywhere with the same seed."""

COUNTS = (1, 2, 4, 6, 8, 16)
"""Layers tuned, beside all."""

SHARES = (100, 25, 10)
"""% of the training data."""

REMOVED = (1, 2, 4, 6, 8)
"""Layers removed."""

REMOVED_BY = ("loss", "divergence-lazy", "angular", "block-influence")
"""What chooses the layers that go: the measured loss, which is the ceiling, what predicts it, and two of the field."""

HEALED = (2, 4, 8)
"""Layers removed before a short training."""

BEFORE = 4
"""Layers removed before the training."""

RESTORED = ("sparse-uniform", "middle", "top")
RESTORED_COUNTS = (4, 8)
"""Which layers are put back to the backbone's weights, and how many."""


def _full(draft: PlanBuilder, seed: int) -> str:
    return draft.trained("full", seed, tune__layers="all")


def _uniform(draft: PlanBuilder, seed: int, n: int) -> str:
    return draft.trained(f"sparse-uniform-{n}", seed, tune__layers=f"sparse-uniform:{n}")


def strategies(draft: PlanBuilder, seed: int) -> None:
    """Which layers: heuristics, scores of a tuned model, and other ways to tune less."""
    full, n = _full(draft, seed), draft.n
    baseline = draft.measured(full)
    draft.enter("strategies", "full", baseline, baseline, seed)
    for name in HEURISTICS:
        layers = f"{name}:{n}@{seed}" if name == "random" else f"{name}:{n}"
        made = draft.trained(f"{name}-{n}", seed, tune__layers=layers)
        draft.enter("strategies", name, draft.measured(made), baseline, seed)
    for by in POST_HOC:
        scored = draft.step(
            "layers", f"layers-{by}-s{seed}",
            {"by": by, "n": n, "ckpt": f"{{{full}}}", "base": draft.base, "pictures": draft.pictures},
        )  # fmt: skip
        made = draft.trained(f"{by}-{n}", seed, tune__layers=f"{{{scored}}}")
        draft.enter("strategies", by, draft.measured(made), baseline, seed)
    for name, keys in draft.of.baselines.items():
        drawn: dict[str, Value] = {"tune__sampling": n} if name == "lisa" else {}
        draft.enter("strategies", name, draft.measured(draft.trained(name, seed, **keys, **drawn)), baseline, seed)


def layers(draft: PlanBuilder, seed: int) -> None:
    """How many layers, spread evenly."""
    baseline = draft.measured(_full(draft, seed))
    for n in (count for count in COUNTS if count < draft.of.depth):
        row = "1 layer" if n == 1 else f"{n} layers"
        draft.enter("layers", row, draft.measured(_uniform(draft, seed, n)), baseline, seed, "sparse-uniform", n)
    draft.enter("layers", "all layers", baseline, baseline, seed, "sparse-uniform", draft.of.depth)


def data(draft: PlanBuilder, seed: int) -> None:
    """How much data: all layers and the region, on shares of it."""
    baseline = draft.measured(_full(draft, seed))
    for series, chosen in (("full", "all"), ("region", f"sparse-uniform:{draft.n}")):
        for share in SHARES:
            less: dict[str, Value] = {} if share == 100 else {"data__share": share / 100}
            name = _name(series, draft.n) if share == 100 else f"{series}-data-{share}"
            made = draft.trained(name, seed, tune__layers=chosen, **less)
            draft.enter("data", f"{series}, {share} % of the data", draft.measured(made), baseline, seed, series, share)


def _name(series: str, n: int) -> str:
    return "full" if series == "full" else f"sparse-uniform-{n}"


def text(draft: PlanBuilder, seed: int) -> None:
    """What is left of the LLM's text: tuned everywhere, the region, and not at all."""
    baseline = draft.measured(_full(draft, seed))
    draft.enter("text", "full", baseline, baseline, seed)
    draft.enter("text", "region", draft.measured(_uniform(draft, seed, draft.n)), baseline, seed)
    untuned = draft.base_measured()
    if untuned:
        draft.enter("text", "base", untuned, baseline, seed)


def pruning(draft: PlanBuilder, seed: int) -> None:
    """Layers removed from the model tuned everywhere and from the region's, healed or not."""
    models = {"full": _full(draft, seed), "region": _uniform(draft, seed, draft.n)}
    baseline = draft.measured(models["full"])
    for series, model in models.items():
        for by in REMOVED_BY:
            draft.enter("pruning", _row(0), draft.measured(model), baseline, seed, f"{series}, by {by}", 0)
            _curve(draft, seed, series, by, REMOVED, baseline, outside_region=series == "region")
        _healed(draft, seed, series, baseline, draft.measured(model))
        _blocks(draft, seed, series, model, baseline)
        _before(draft, seed, series, baseline)
    draft.enter(
        "pruning", "0 removed", draft.measured(models["region"]), baseline, seed, "region, any layer, by loss", 0
    )
    _curve(draft, seed, "region", "loss", HEALED, baseline, outside_region=False)


def _row(count: int) -> str:
    return f"{count} removed"


def _pruned(draft: PlanBuilder, seed: int, series: str, by: str, count: int, outside_region: bool) -> str:
    """A checkpoint without `count` layers: the first of an order that is measured once."""
    model = _full(draft, seed) if series == "full" else _uniform(draft, seed, draft.n)
    what = f"{series}-any" if series == "region" and not outside_region else series
    order = draft.step(
        "layers", f"order-{what}-{by}-s{seed}",
        {"by": by, "most": max(REMOVED), "ckpt": f"{{{model}}}", "outside_region": outside_region,
         "pictures": draft.pictures},
    )  # fmt: skip
    arguments: dict[str, Value] = {
        "ckpt": f"{{{model}}}", "remove": count, "order": f"{{{order}}}", "outside_region": outside_region,
    }  # fmt: skip
    return draft.step("prune", f"prune-{what}-{by}-{count}-s{seed}", arguments)


def _curve(
    draft: PlanBuilder, seed: int, series: str, by: str, counts: Sequence[int], baseline: str, outside_region: bool
) -> None:
    told = f"{series}, any layer" if series == "region" and not outside_region else series
    for count in counts:
        run = draft.measured(_pruned(draft, seed, series, by, count, outside_region))
        draft.enter("pruning", _row(count), run, baseline, seed, f"{told}, by {by}", count)


def _healed(draft: PlanBuilder, seed: int, series: str, baseline: str, whole: str) -> None:
    draft.enter("pruning", _row(0), whole, baseline, seed, f"{series}, by loss, healed", 0)
    for count in HEALED:
        pruned = _pruned(draft, seed, series, "loss", count, outside_region=series == "region")
        healed = draft.healed(f"{series}-loss-{count}", seed, pruned)
        draft.enter("pruning", _row(count), draft.measured(healed), baseline, seed, f"{series}, by loss, healed", count)


def _blocks(draft: PlanBuilder, seed: int, series: str, model: str, baseline: str) -> None:
    """Consecutive layers that together turn the states least, of all layers: a reference of the literature."""
    told = "region, any layer" if series == "region" else series
    draft.enter("pruning", _row(0), draft.measured(model), baseline, seed, f"{told}, angular block", 0)
    for count in HEALED:
        pruned = draft.step(
            "prune", f"prune-{series}-block-{count}-s{seed}",
            {"ckpt": f"{{{model}}}", "remove": count, "by": "angular-block", "outside_region": False,
             "pictures": draft.pictures},
        )  # fmt: skip
        draft.enter("pruning", _row(count), draft.measured(pruned), baseline, seed, f"{told}, angular block", count)


def _before(draft: PlanBuilder, seed: int, series: str, baseline: str) -> None:
    """Layers removed from the base, which is then tuned; the region is spread over what is left."""
    pruned = draft.step(
        "prune", f"prune-base-angular-{BEFORE}",
        {"ckpt": draft.base, "remove": BEFORE, "by": "angular", "outside_region": False, "pictures": draft.pictures},
    )  # fmt: skip
    chosen = "all" if series == "full" else f"sparse-uniform:{draft.n}"
    made = draft.trained(f"{series}-after-removal-{BEFORE}", seed, tune__layers=chosen, base=f"{{{pruned}}}")
    draft.enter("pruning", _row(BEFORE), draft.measured(made), baseline, seed, f"{series}, before training", BEFORE)


def restoring(draft: PlanBuilder, seed: int) -> None:
    """Layers of the model tuned everywhere put back to the backbone's weights."""
    full = _full(draft, seed)
    baseline = draft.measured(full)
    for name in RESTORED:
        draft.enter("restoring", "0 restored", baseline, baseline, seed, name, 0)
        for count in RESTORED_COUNTS:
            made = draft.step(
                "restore", f"restore-{name}-{count}-s{seed}",
                {"ckpt": f"{{{full}}}", "layers": f"{name}:{count}", "from": draft.base},
            )  # fmt: skip
            draft.enter("restoring", f"{count} restored", draft.measured(made), baseline, seed, name, count)


def profile(draft: PlanBuilder, seed: int) -> None:
    """Time and memory of a training step at the paper's true shapes; once, whatever the seeds."""
    draft.step("profile", "profile", {})


EXPERIMENTS: dict[str, Callable[[PlanBuilder, int], None]] = {
    "strategies": strategies,
    "layers": layers,
    "data": data,
    "text": text,
    "pruning": pruning,
    "restoring": restoring,
    "profile": profile,
}
"""Table -> what adds its steps and entries for one seed."""
