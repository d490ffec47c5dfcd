"""The steps behind each of the paper's tables: trainings, removals and runs, for one seed at a time.

A table is a function that adds its steps and entries to a plan. All models are compared with the model tuned in all
layers with the same seed; what two tables need is made once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from vrbench.reproduce.families import Value
from vrbench.reproduce.plan_builder import PlanBuilder
from vrbench.reproduce.tables import REGION

HEURISTICS = ("sparse-uniform", "bottom", "middle-low", "middle-high", "top", "hybrid", "random")
"""Strategies that need no model."""

IMPORTANCE_SCORES = (
    "attention", "change", "block-influence", "multimodal-block-influence", "angular", "angular-weights", "fisher",
    "lora-norm",
)  # fmt: skip
"""Scores of layers, from the model that was tuned in all layers with the same seed."""

COUNTS = (1, 2, 4, 6, 8, 16)
"""Numbers of tuned layers, in addition to all."""

SHARES = (100, 25, 10)
"""% of the training data."""

REMOVED = (1, 2, 4, 6, 8)
"""Layers removed."""

REMOVED_BY = ("loss", "divergence-lazy", "angular", "block-influence")
"""What selects the removed layers: the measured loss, which is the ceiling, its prediction, and two of the field."""

HEALED = (2, 4, 8)
"""Layers removed before a short training."""

REMOVED_FIRST = 4
"""Layers removed before the training."""

STEP_NAMES = {"layer-sampling": "lisa", "lisa": "lisa-with-embeddings"}
"""Baseline -> name of its steps, where it is another: layer sampling was published under that of LISA."""

RESTORED = ("sparse-uniform", "middle", "top")
RESTORED_COUNTS = (4, 8)
"""Which layers are restored to the backbone's weights, and how many."""


def strategies(plan: PlanBuilder) -> None:
    """Which layers: heuristics, scores of a tuned model, and other ways to tune less."""
    full, n = plan.full(), plan.n
    plan.enter("strategies", "full", full)
    for name in HEURISTICS:
        layers = f"{name}:{n}@{plan.seed}" if name == "random" else f"{name}:{n}"
        layers = plan.spread(n) if name == REGION else layers
        plan.enter("strategies", name, plan.train(f"{name}-{n}", tune__layers=layers))
    for by in IMPORTANCE_SCORES:
        scored = plan.step(
            "layers", f"layers-{by}-s{plan.seed}",
            {"by": by, "n": n, "ckpt": f"{{{full}}}", "base": plan.base, "pictures": plan.images},
        )  # fmt: skip
        plan.enter("strategies", by, plan.train(f"{by}-{n}", tune__layers=f"{{{scored}}}"))
    sampling: dict[str, Value] = {"layer-sampling": n, "lisa": f"lisa:{n}"}
    for name, keys in plan.family.baselines.items():
        sampled = {"tune__sampling": sampling[name]} if name in sampling else {}
        plan.enter("strategies", name, plan.train(STEP_NAMES.get(name, name), **keys, **sampled))


def layers(plan: PlanBuilder) -> None:
    """How many layers, spread evenly."""
    plan.run(plan.full())  # before the others
    for n in (count for count in COUNTS if count < plan.family.depth):
        plan.enter("layers", "1 layer" if n == 1 else f"{n} layers", plan.uniform(n), "sparse-uniform", n)
    plan.enter("layers", "all layers", plan.full(), "sparse-uniform", plan.family.depth)


def data(plan: PlanBuilder) -> None:
    """How much data: all layers and the region, on shares of it."""
    for series, selected in (("full", "all"), ("region", plan.spread(plan.n))):
        for share in SHARES:
            if share < 100:
                made = plan.train(f"{series}-data-{share}", tune__layers=selected, data__share=share / 100)
            else:
                made = plan.full() if series == "full" else plan.uniform(plan.n)
            plan.enter("data", f"{series}, {share} % of the data", made, series, share)


def text(plan: PlanBuilder) -> None:
    """The LLM's text ability: all layers tuned, the region, and none."""
    plan.enter("text", "full", plan.full())
    plan.enter("text", "region", plan.uniform(plan.n))
    plan.enter_base("text", "base")


def pruning(plan: PlanBuilder) -> None:
    """Layers removed from the model tuned in all layers and from the region's, healed or not."""
    models = {"full": plan.full(), "region": plan.uniform(plan.n)}

    def curve(series: str, model: str, make: Callable[[int], str], counts: Sequence[int]) -> None:
        plan.enter("pruning", "0 removed", model, series, 0)
        for count in counts:
            plan.enter("pruning", f"{count} removed", make(count), series, count)

    for name, model in models.items():
        for by in REMOVED_BY:
            curve(f"{name}, by {by}", model, partial(_pruned, plan, name, model, by), REMOVED)
        curve(f"{name}, by loss, healed", model, partial(_healed, plan, name, model), HEALED)
        label = "region, any layer" if name == "region" else name
        curve(f"{label}, angular block", model, partial(_block_pruned, plan, name, model), HEALED)
        made = _pruned_first(plan, name)
        plan.enter("pruning", f"{REMOVED_FIRST} removed", made, f"{name}, before training", REMOVED_FIRST)
    region = models["region"]
    curve("region, any layer, by loss", region, partial(_pruned, plan, "region-any", region, "loss"), HEALED)


def _pruned(plan: PlanBuilder, name: str, model: str, by: str, count: int) -> str:
    """A checkpoint without `count` layers: the first of a removal order that is measured once."""
    outside_region = name == "region"
    order = plan.step(
        "layers", f"order-{name}-{by}-s{plan.seed}",
        {"by": by, "most": max(REMOVED), "ckpt": f"{{{model}}}", "outside_region": outside_region,
         "pictures": plan.images},
    )  # fmt: skip
    arguments: dict[str, Value] = {
        "ckpt": f"{{{model}}}", "remove": count, "order": f"{{{order}}}", "outside_region": outside_region,
    }  # fmt: skip
    return plan.step("prune", f"prune-{name}-{by}-{count}-s{plan.seed}", arguments)


def _healed(plan: PlanBuilder, name: str, model: str, count: int) -> str:
    """A checkpoint without `count` layers, trained shortly."""
    return plan.heal(f"{name}-loss-{count}", _pruned(plan, name, model, "loss", count))


def _block_pruned(plan: PlanBuilder, name: str, model: str, count: int) -> str:
    """A checkpoint without the consecutive layers that turn the states least: a reference of the literature."""
    return plan.step(
        "prune", f"prune-{name}-block-{count}-s{plan.seed}",
        {"ckpt": f"{{{model}}}", "remove": count, "by": "angular-block", "outside_region": False,
         "pictures": plan.images},
    )  # fmt: skip


def _pruned_first(plan: PlanBuilder, name: str) -> str:
    """Layers removed from the base, which is then tuned; the region is spread over what is left."""
    pruned = plan.step(
        "prune", f"prune-base-angular-{REMOVED_FIRST}",
        {"ckpt": plan.base, "remove": REMOVED_FIRST, "by": "angular", "outside_region": False, "pictures": plan.images},
    )  # fmt: skip
    selected = "all" if name == "full" else f"sparse-uniform:{plan.n}"  # the published region counts in all layers
    return plan.train(f"{name}-after-removal-{REMOVED_FIRST}", tune__layers=selected, base=f"{{{pruned}}}")


def restoring(plan: PlanBuilder) -> None:
    """Layers of the model tuned in all layers restored to the backbone's weights."""
    for name in RESTORED:
        plan.enter("restoring", "0 restored", plan.full(), name, 0)
        for count in RESTORED_COUNTS:
            made = plan.step(
                "restore", f"restore-{name}-{count}-s{plan.seed}",
                {"ckpt": f"{{{plan.full()}}}", "layers": f"{name}:{count}", "from": plan.base},
            )  # fmt: skip
            plan.enter("restoring", f"{count} restored", made, name, count)


def profile(plan: PlanBuilder) -> None:
    """Time and memory of a training step at the paper's true shapes; once, whatever the seeds."""
    plan.step("profile", "profile", {})


EXPERIMENTS: dict[str, Callable[[PlanBuilder], None]] = {
    "strategies": strategies,
    "layers": layers,
    "data": data,
    "text": text,
    "pruning": pruning,
    "restoring": restoring,
    "profile": profile,
}
"""Table -> what adds its steps and entries for the seed of the plan."""
