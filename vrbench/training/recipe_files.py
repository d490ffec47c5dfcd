"""Reading recipes: the shipped ones by name, or YAML files, with overrides and errors that name the nearest key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from vrbench.core.errors import VrbenchError, raise_errors, suggest_names
from vrbench.core.io import load_yaml, read_text
from vrbench.core.schemas import Record
from vrbench.training.recipe import (
    DATA_SECTIONS,
    STAGES,
    EvalSettings,
    GeneratedScenes,
    PromptSettings,
    TrainRecipe,
    data_kind,
)

RECIPES = Path(__file__).parent / "recipes"


def names() -> list[str]:
    """Return the names of the recipes that the package ships."""
    return sorted(p.stem for p in RECIPES.glob("*.yaml"))


def load(name: str, overrides: dict[str, str] | None = None) -> TrainRecipe:
    """Read a shipped recipe by name, or one from a YAML file, with overrides such as {"tune.steps": "20"}.

    Setting `tune.steps` replaces `tune.epochs`, and the other way round; a key of another kind of data, such as
    `data.conversations`, replaces the data that the recipe had.

    Raises:
        VrbenchError: there is no such recipe, a key does not exist (the nearest is named), a value is out of bounds, or
            keys contradict each other; all errors together.
    """
    path = RECIPES / f"{name}.yaml" if name in names() else Path(name)
    if not path.is_file():
        raise VrbenchError(f"no recipe {name!r}; {suggest_names(name, names())}")
    try:
        raw = load_yaml(read_text(path))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise VrbenchError(f"recipe {path} is not YAML: {error}") from error
    if not isinstance(raw, dict):
        raise VrbenchError(f"recipe {path} is not a mapping of keys to values")
    _override(raw, overrides or {})
    return _validated(raw, str(path))


def _override(raw: dict[str, Any], overrides: dict[str, str]) -> None:
    """Set values in the raw recipe, and remove the values that they replace."""
    for this, other in (("steps", "epochs"), ("epochs", "steps")):
        if f"tune.{this}" in overrides and f"tune.{other}" not in overrides and isinstance(raw.get("tune"), dict):
            raw["tune"].pop(other, None)
    before = raw.get("data")
    for kind in DATA_SECTIONS:
        if f"data.{kind}" in overrides and isinstance(before, dict) and data_kind(before) != kind:
            raw["data"] = {key: value for key, value in before.items() if key == "share"}
    for key, value in overrides.items():
        *outer, last = key.split(".")
        section = raw
        for part in outer:
            section = section.setdefault(part, {})
            if not isinstance(section, dict):
                raise VrbenchError(f"{key!r} cannot be set: {part!r} is a value, not a section")
        section[last] = load_yaml(value)


def _validated(raw: dict[str, Any], where: str) -> TrainRecipe:
    try:
        recipe = TrainRecipe.model_validate(raw)
    except ValidationError as error:
        raise_errors(f"{where}: {message}" for detail in error.errors() for message in _messages(detail, raw))
        raise
    errors = []
    if (recipe.tower is None) != (recipe.align is None) or (recipe.tower is None) == (recipe.tune is None):
        errors.append("a recipe has either 'tower' and 'align', or 'tune'")
    if recipe.tower is not None and recipe.stage != "tune":
        errors.append(f"stage is {recipe.stage!r}, which goes with the section 'tune' only")
    if recipe.prompt is not None and isinstance(recipe.data, GeneratedScenes):
        errors.append("prompt.version goes with conversations: data has 'scenes'")
    if recipe.tune is not None and recipe.tune.tower != "none" and isinstance(recipe.data, GeneratedScenes):
        errors.append("tune.tower needs conversations: generated images are encoded once, by the frozen tower")
    if recipe.tune is not None and recipe.tune.packing and isinstance(recipe.data, GeneratedScenes):
        errors.append("tune.packing is for conversations; the questions on a generated image share a row anyway")
    errors += _flash_errors(recipe)
    if recipe.tower is not None and recipe.eval is not None:
        errors.append("'eval' goes with the section 'tune' only")
    if recipe.tower is not None and not isinstance(recipe.data, GeneratedScenes):
        errors.append("a new tower is trained on generated images: data must have 'scenes'")
    raise_errors(f"{where}: {message}" for message in errors)
    return recipe


def _flash_errors(recipe: TrainRecipe) -> list[str]:
    """Return why FlashAttention cannot compute what a recipe asks for; empty when it can, or need not."""
    if recipe.tune is None or not recipe.tune.attention.startswith("flash"):
        return []
    errors, what = [], f"tune.attention is {recipe.tune.attention!r}, which"
    if recipe.dtype == "float32":
        errors.append(f"{what} does not compute in dtype float32; set dtype to bfloat16, or use sdpa")
    if isinstance(recipe.data, GeneratedScenes):
        errors.append(f"{what} has no mask for the questions that share an image's row (data.scenes); use sdpa")
    return errors


def _messages(detail: Any, raw: dict[str, Any]) -> list[str]:
    """Return messages for one of pydantic's errors; the check of a section may have found several."""
    loc = list(detail["loc"])
    if loc[:1] == ["data"]:
        del loc[1:2]  # pydantic puts the kind of data there
    key = ".".join(str(part) for part in loc)
    if detail["type"] == "value_error":
        return str(detail["ctx"]["error"]).splitlines()
    if detail["type"] == "missing":
        return [f"{key} is missing"]
    if detail["type"] != "extra_forbidden":
        return [f"{key} is {detail.get('input')!r}: {detail['msg']}"]
    section: type[Record] = TrainRecipe
    if len(loc) > 1:
        data = DATA_SECTIONS[data_kind(raw.get("data"))]
        sections: dict[str, type[Record]] = {**STAGES, "prompt": PromptSettings, "eval": EvalSettings, "data": data}
        section = sections[str(loc[0])]
    return [f"no key {key!r}; {suggest_names(str(loc[-1]), section.model_fields)}"]
