"""The scales at which the paper's tables can be reproduced, from `families.yaml`."""

from __future__ import annotations

from importlib.resources import files

from pydantic import Field

from vrbench.core.errors import VrbenchError, suggest_names
from vrbench.core.io import load_yaml
from vrbench.core.schemas import Record

Value = str | int | float | bool


class StepCosts(Record):
    """Seconds of one GPU, from which a plan's minutes are estimated."""

    source: str = Field(description="How they were measured.")
    start: float = Field(description="Loading a model, its data and compiling, once a step.")
    step: float = Field(description="An optimizer step with no layer tuned, at `batch` samples.")
    layer: float = Field(description="What each tuned layer adds to it.")
    batch: int = Field(description="Samples of the timed step.")
    item: float = Field(description="An evaluated item, on average.")
    dev_pass: float = Field(description="A pass over the dev images; scoring layers takes one, trying layers many.")
    profile: float = Field(default=180.0, description="The whole profile at true shapes.")
    overlap: float = Field(default=1.0, description="Speedup of steps that share a GPU over one after the other.")


class ReproductionFamily(Record):
    """One scale."""

    id: str = Field(description="As --family names it.")
    recipe: str = Field(description="Recipe of the model tuned in all layers; the others differ in their layers.")
    heal: str = Field(description="Recipe of the short training after a removal.")
    heal_keys: dict[str, Value] = Field(default={}, description="Recipe keys of that training.")
    base: str = Field(description="Checkpoint that every training starts from; its layers are the backbone's.")
    depth: int = Field(description="Decoder layers.")
    region: str = Field(default="", description="Indices of the region's layers, where the paper publishes them.")
    region_source: str = Field(default="", description="Where they are published: 'in ...'.")
    tasks: str = Field(description="Evaluated tasks.")
    trial_tasks: str = Field(default="", description="Evaluated tasks of a trial.")
    limit: int | None = Field(default=None, description="Items a task, or None for all.")
    dtype: str = Field(description="Compute type of evaluations.")
    batch: int = Field(description="Samples an optimizer step.")
    overrides: dict[str, Value] = Field(default={}, description="Recipe keys that differ from the recipe's.")
    baselines: dict[str, dict[str, Value]] = Field(
        default={}, description='Other ways to tune less, as rows of the strategies; "__" stands for the dot of a key.'
    )
    samples: int = Field(default=0, description="Training samples of an epoch, if an epoch is trained.")
    jobs_per_gpu: int = Field(default=1, description="Steps that share a GPU by default.")
    costs: StepCosts = Field(description="What it costs.")


FAMILIES = {
    name: ReproductionFamily.model_validate({"id": name, **values})
    for name, values in load_yaml(files(__package__).joinpath("families.yaml").read_text(encoding="utf-8")).items()
}


def family_named(name: str) -> ReproductionFamily:
    """Return the family of a name.

    Raises:
        VrbenchError: there is none; the nearest is named.
    """
    if name not in FAMILIES:
        raise VrbenchError(f"no family {name!r}; {suggest_names(name, FAMILIES)}")
    return FAMILIES[name]
