"""Recipes: what a training run does, as a frozen, validated value that is copied into the folder it makes (no torch).

What a recipe holds is in `vrbench.training.recipe`; here one is read, changed, and refused with the nearest key
named.
"""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from vrbench.core import strict_yaml
from vrbench.core.errors import VrbenchError, raise_all
from vrbench.core.io import digest_of
from vrbench.core.schemas import Record
from vrbench.core.text_files import read_text
from vrbench.training.recipe import (
    KINDS_OF_DATA,
    Align,
    AnyData,
    Conversations,
    Data,
    Hub,
    Section,
    Tower,
    Tune,
    kind_of_data,
)  # fmt: skip

__all__ = ["Align", "Conversations", "Data", "Hub", "Tower", "TrainRecipe", "Tune", "load", "names"]

RECIPES = Path(__file__).parent / "recipes"
SECTIONS: dict[str, type[Record]] = {"tower": Tower, "align": Align, "tune": Tune}


class TrainRecipe(Section):
    """One training run: either tower and projector of a new base, or the tuning of layers of an existing one."""

    later = ("stage",)

    name: str = Field(description="Name of the recipe.")
    makes: str = Field(description="Id of the checkpoint that it makes.")
    base: str = Field(description="Checkpoint (or LLM) that it starts from.")
    stage: Literal["tune", "heal"] = Field(
        default="tune", description="What the lineage calls the tuning: 'heal' after layers were removed."
    )
    seed: int = Field(default=0, ge=0, description="Seed of initial weights and of the order of the data.")
    dtype: Literal["bfloat16", "float32"] = Field(
        default="bfloat16", description="Compute type, and type of the written weights; masters are float32."
    )
    warmup: float = Field(default=0.04, ge=0, lt=1, description="Share of the steps with a rising learning rate.")
    clip: float = Field(default=1.0, gt=0, description="Largest gradient norm.")
    data: AnyData = Field(description="The training data.")
    tower: Tower | None = Field(default=None, description="Stage 'tower'; goes with 'align'.")
    align: Align | None = Field(default=None, description="Stage 'align'.")
    tune: Tune | None = Field(default=None, description="Stage 'tune'; stands alone.")

    @property
    def digest(self) -> str:
        """sha256 of the recipe's content; keys that came later do not change it where they have their defaults."""
        return digest_of(self.told())

    def text(self) -> str:
        """The recipe as YAML, as it is copied into the folder."""
        return yaml.safe_dump(self.model_dump(mode="json", exclude_none=True), sort_keys=False)


def names() -> list[str]:
    """The recipes that the package ships."""
    return sorted(p.stem for p in RECIPES.glob("*.yaml"))


def load(name: str, overrides: dict[str, str] | None = None) -> TrainRecipe:
    """Read a shipped recipe by name, or one from a YAML file, with overrides such as {"tune.steps": "20"}.

    Setting `tune.steps` takes the place of `tune.epochs`, and the other way round; a key of another kind of data, such
    as `data.conversations`, takes the place of the data that the recipe had.

    Raises:
        VrbenchError: no such recipe, keys that do not exist (the nearest is named), values out of bounds, or keys that
            do not go together; all faults at once.
    """
    path = RECIPES / f"{name}.yaml" if name in names() else Path(name)
    if not path.is_file():
        near = difflib.get_close_matches(name, names(), n=3)
        hint = f"did you mean {', '.join(near)}?" if near else f"there are {', '.join(names())}"
        raise VrbenchError(f"no recipe {name!r}; {hint}")
    try:
        raw = strict_yaml.load(read_text(path))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise VrbenchError(f"recipe {path} is not YAML: {error}") from error
    if not isinstance(raw, dict):
        raise VrbenchError(f"recipe {path} holds no mapping of keys to values")
    _change(raw, overrides or {})
    return _validated(raw, str(path))


def _change(raw: dict[str, Any], overrides: dict[str, str]) -> None:
    """Set values in the raw recipe; what they take the place of goes."""
    for this, other in (("steps", "epochs"), ("epochs", "steps")):
        if f"tune.{this}" in overrides and f"tune.{other}" not in overrides and isinstance(raw.get("tune"), dict):
            raw["tune"].pop(other, None)
    before = raw.get("data")
    for kind in KINDS_OF_DATA:
        if f"data.{kind}" in overrides and isinstance(before, dict) and kind_of_data(before) != kind:
            raw["data"] = {key: value for key, value in before.items() if key == "share"}
    for key, value in overrides.items():
        _set(raw, key, value)


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
        raise_all(told for fault in error.errors() for told in _sentences(where, fault, raw))
        raise
    raise_all(f"{where}: {fault}" for fault in _together(recipe))
    return recipe


def _together(recipe: TrainRecipe) -> list[str]:
    """Why a recipe's sections do not go together."""
    found = []
    if (recipe.tower is None) != (recipe.align is None) or (recipe.tower is None) == (recipe.tune is None):
        found.append("a recipe has either 'tower' and 'align', or 'tune'")
    if recipe.tower is not None and recipe.stage != "tune":
        found.append(f"stage is {recipe.stage!r}, which goes with the section 'tune' only")
    if recipe.tower is not None and not isinstance(recipe.data, Data):
        found.append("a new tower learns from generated pictures: data has to have 'scenes'")
    return found


def _sentences(where: str, fault: Any, raw: dict[str, Any]) -> list[str]:
    """What is wrong, in one sentence for each key; a section may have several keys that do not go together."""
    tagged = fault["loc"][0] == "data" if fault["loc"] else False  # pydantic names the kind of data after it
    loc = [part for i, part in enumerate(fault["loc"]) if not (tagged and i == 1)]
    key = ".".join(str(part) for part in loc)
    if fault["type"] == "value_error":
        return [f"{where}: {one}" for one in str(fault["ctx"]["error"]).splitlines()]
    if fault["type"] == "missing":
        return [f"{where}: {key} is missing"]
    if fault["type"] != "extra_forbidden":
        return [f"{where}: {key} is {fault.get('input')!r}: {fault['msg']}"]
    known = _keys_beside(loc, raw)
    near = difflib.get_close_matches(str(loc[-1]), known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(known)}"
    return [f"{where}: no key {key!r}; {hint}"]


def _keys_beside(loc: list[Any], raw: dict[str, Any]) -> list[str]:
    if len(loc) == 1:
        return list(TrainRecipe.model_fields)
    inside = KINDS_OF_DATA[kind_of_data(raw["data"])] if loc[0] == "data" else SECTIONS[str(loc[0])]
    return list(inside.model_fields)
