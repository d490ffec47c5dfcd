"""Recipes: what a training run does, as a frozen, validated value that is copied into the folder it makes."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from vrbench import strict_yaml
from vrbench.errors import VrbenchError, raise_all
from vrbench.records import Record
from vrbench.writing import digest_of

RECIPES = Path(__file__).parent / "recipes"


class Data(Record):
    """Which pictures, and how many questions on each."""

    scenes: int = Field(gt=0, description="Generated pictures, numbers 0 to scenes-1 of the split 'train'.")
    turns: int = Field(default=6, gt=0, description="Questions a picture; they share its encoding.")
    easy_vqa: float = Field(default=0.0, ge=0, lt=1, description="Share of a batch from easy-VQA's train split.")


class Tower(Record):
    """The vision tower, learned by direct supervision of what lies in each patch; no LLM."""

    steps: int = Field(gt=0, description="Optimizer steps.")
    batch: int = Field(gt=0, description="Pictures a step.")
    lr: float = Field(gt=0, description="Peak learning rate of AdamW.")
    weight_decay: float = Field(default=0.05, ge=0, description="AdamW's weight decay.")
    noise: float = Field(default=0.05, ge=0, description="Standard deviation of noise added to inputs in [-1, 1].")


class Align(Record):
    """The projector on captions, tower and LLM frozen (the paper's stage 1)."""

    steps: int = Field(gt=0, description="Optimizer steps.")
    batch: int = Field(gt=0, description="Pictures a step.")
    lr: float = Field(gt=0, description="Peak learning rate of AdamW.")


class Tune(Record):
    """Visual instruction tuning of chosen layers (LoRA) and the projector, tower frozen (the paper's stage 2)."""

    layers: str = Field(description="'all', indices such as '0-3,8', or a strategy such as 'sparse-uniform:8'.")
    rank: int = Field(gt=0, description="LoRA rank.")
    alpha: float = Field(gt=0, description="LoRA alpha.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="LoRA dropout.")
    steps: int = Field(gt=0, description="Optimizer steps.")
    batch: int = Field(gt=0, description="Pictures a step.")
    lr: float = Field(gt=0, description="Peak learning rate of the LoRA weights.")
    lr_projector: float = Field(gt=0, description="Peak learning rate of the projector.")


class TrainRecipe(Record):
    """One training run: either tower and projector of a new base, or the tuning of layers of an existing one."""

    name: str = Field(description="Name of the recipe.")
    makes: str = Field(description="Id of the checkpoint that it makes.")
    base: str = Field(description="Checkpoint (or LLM) that it starts from.")
    seed: int = Field(default=0, description="Seed of initial weights and of the order of the data.")
    dtype: Literal["bfloat16", "float32"] = Field(default="bfloat16", description="Compute type; masters are float32.")
    warmup: float = Field(default=0.04, ge=0, lt=1, description="Share of the steps with a rising learning rate.")
    clip: float = Field(default=1.0, gt=0, description="Largest gradient norm.")
    data: Data = Field(description="The training data.")
    tower: Tower | None = Field(default=None, description="Stage 'tower'; goes with 'align'.")
    align: Align | None = Field(default=None, description="Stage 'align'.")
    tune: Tune | None = Field(default=None, description="Stage 'tune'; stands alone.")

    @property
    def digest(self) -> str:
        """sha256 of the recipe's content."""
        return digest_of(self.model_dump(mode="json"))

    def text(self) -> str:
        """The recipe as YAML, as it is copied into the folder."""
        return yaml.safe_dump(self.model_dump(mode="json", exclude_none=True), sort_keys=False)


def names() -> list[str]:
    """The recipes that the package ships."""
    return sorted(p.stem for p in RECIPES.glob("*.yaml"))


def load(name: str, overrides: dict[str, str] | None = None) -> TrainRecipe:
    """Read a shipped recipe by name, or one from a YAML file, with overrides such as {"tune.steps": "20"}.

    Raises:
        VrbenchError: no such recipe, a key that does not exist (the nearest is named), or a value out of bounds.
    """
    path = RECIPES / f"{name}.yaml" if name in names() else Path(name)
    if not path.is_file():
        near = difflib.get_close_matches(name, names(), n=3)
        hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(names())}"
        raise VrbenchError(f"no recipe {name!r}; {hint}")
    try:
        raw = strict_yaml.load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise VrbenchError(f"recipe {path} is not YAML: {error}") from error
    if not isinstance(raw, dict):
        raise VrbenchError(f"recipe {path} holds no mapping of keys to values")
    for key, value in (overrides or {}).items():
        _set(raw, key, value)
    return _validated(raw, str(path))


def _set(raw: dict[str, Any], key: str, value: str) -> None:
    *outer, last = key.split(".")
    for part in outer:
        raw = raw.setdefault(part, {})
        if not isinstance(raw, dict):
            raise VrbenchError(f"{key!r} cannot be set: {part!r} holds a value, not keys")
    raw[last] = strict_yaml.load(value)


def _validated(raw: dict[str, Any], where: str) -> TrainRecipe:
    try:
        recipe = TrainRecipe.model_validate(raw)
    except ValidationError as error:
        raise_all(_sentence(where, fault) for fault in error.errors())
        raise
    if (recipe.tower is None) != (recipe.align is None) or (recipe.tower is None) == (recipe.tune is None):
        raise VrbenchError(f"{where}: a recipe has either 'tower' and 'align', or 'tune'")
    return recipe


def _sentence(where: str, fault: Any) -> str:
    key = ".".join(str(part) for part in fault["loc"])
    if fault["type"] != "extra_forbidden":
        return f"{where}: {key} is {fault.get('input')!r}: {fault['msg']}"
    known = _keys_beside(fault["loc"])
    near = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
    return f"{where}: no key {key!r}; {hint}"


def _keys_beside(loc: tuple[Any, ...]) -> list[str]:
    sections: dict[str, type[Record]] = {"data": Data, "tower": Tower, "align": Align, "tune": Tune}
    inside = sections.get(str(loc[0])) if len(loc) > 1 else None
    return list((inside or TrainRecipe).model_fields)
