"""The prune recipe: a frozen, validated value that is copied into the folder it makes (no torch)."""

from __future__ import annotations

from typing import Any

import yaml
from pydantic import Field, ValidationError, field_validator

from vrbench.core.errors import raise_errors
from vrbench.core.io import digest_of
from vrbench.core.schemas import Record
from vrbench.pruning.removal_methods import BLOCK, BLOCKS, criterion_version, validate_criterion

NAMED = "named"
"""Value of `by` where the layers are named."""


class PruneRecipe(Record):
    """One removal of layers, copied into the folder that it makes."""

    makes: str = Field(description="Id of the checkpoint that it makes.")
    base: str = Field(description="Checkpoint whose layers are removed.")
    remove: int | None = Field(default=None, description="Number of layers to remove; none where they are named.")
    by: str = Field(
        default="loss",
        description="How they are chosen: a key of `vrbench.pruning.removal_methods.removal_criteria`, or 'named'.",
    )
    outside_region: bool = Field(default=True, description="Whether the layers that were tuned are kept.")
    pictures: int = Field(default=200, gt=0, description="Number of dev images on which layers are measured.")
    turns: int = Field(default=6, gt=0, description="Questions on each.")
    layers: str = Field(
        default="", description="The layers to remove, as `vrbench.core.layers.select_layers` reads them, if named."
    )
    order: str = Field(default="", description="File of a removal order whose first layers are removed, if given.")

    @field_validator("remove")
    @classmethod
    def _at_least_one(cls, count: int | None) -> int | None:
        if count is not None and count < 1:
            raise ValueError("nothing would be removed; name 1 or more layers")
        return count

    @property
    def digest(self) -> str:
        """sha256 of the values that are given, and of the version of the method from 2 on."""
        version = criterion_version(self.by)
        return digest_of(self._given() | ({"by_version": version} if version > 1 else {}))

    def text(self) -> str:
        """Return the recipe as YAML."""
        return yaml.safe_dump(self._given(), sort_keys=False)

    def _given(self) -> dict[str, Any]:
        return {name: value for name, value in self.model_dump(mode="json").items() if value not in (None, "")}


def make_recipe(block: bool = False, **values: Any) -> PruneRecipe:
    """Make a recipe from values that a user gave; None stands for what was not given.

    Args:
        block: whether consecutive layers are removed, by the angular distance over all of them.
        values: fields of the recipe.

    Raises:
        VrbenchError: every value that is out of bounds or contradicts another, all together.
    """
    values = {name: value for name, value in values.items() if value is not None}
    found = _contradictions(values, block)
    if values.get("layers"):
        values["by"] = NAMED
    elif block:
        values["by"] = values["by"] if values.get("by") in BLOCKS else BLOCK
    elif "by" in values:
        found += validate_criterion(str(values["by"]))
    try:
        recipe = PruneRecipe(**values)
    except ValidationError as error:
        raise_errors([*(_message(one) for one in error.errors()), *found])
        raise
    raise_errors(found)
    return recipe


def _message(error: Any) -> str:
    return f"{'.'.join(map(str, error['loc']))} is {error['input']!r}: {error['msg'].removeprefix('Value error, ')}"


OPTIONS = {"remove": "--num-layers", "by": "--by", "order": "--removal-order"}


def _contradictions(values: dict[str, Any], block: bool) -> list[str]:
    found = []
    others = [option for name, option in OPTIONS.items() if values.get(name)] + ["--block"] * block
    if values.get("layers"):
        return [f"--layers names the layers to remove; omit {' and '.join(others)}"] if others else []
    if "remove" not in values:
        found.append("no layers to remove; give --num-layers N, or --layers such as '3,7'")
    if values.get("order") and (block or values.get("by")):
        found.append("--removal-order contains the layers to remove; omit --by and --block")
    elif block and values.get("by", "angular") not in ("angular", *BLOCKS):
        found.append(f"--block uses the angular distance; omit --by {values['by']}")
    return found
