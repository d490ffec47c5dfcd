"""The prune recipe: a frozen, validated value that is copied into the folder it makes (no torch)."""

from __future__ import annotations

from typing import Any

import yaml
from pydantic import Field, ValidationError, field_validator

from vrbench.core.errors import raise_errors
from vrbench.core.io import digest_of
from vrbench.core.schemas import Record
from vrbench.pruning.names import BLOCK, by_faults


class PruneRecipe(Record):
    """One removal of layers, copied into the folder that it makes."""

    makes: str = Field(description="Id of the checkpoint that it makes.")
    base: str = Field(description="Checkpoint whose layers go.")
    remove: int | None = Field(default=None, description="How many layers go; none where they are named.")
    by: str = Field(
        default="loss", description="How they are chosen: a name of `vrbench.pruning.names.BY`, or 'named'."
    )
    outside_region: bool = Field(default=True, description="Whether the layers that were tuned stay.")
    pictures: int = Field(default=200, gt=0, description="Dev pictures on which layers are measured.")
    turns: int = Field(default=6, gt=0, description="Questions on each.")
    layers: str = Field(default="", description="The layers that go, as `select_layers` reads them, if named.")
    order: str = Field(default="", description="File of a removal order whose first layers go, if given.")

    @field_validator("remove")
    @classmethod
    def _some(cls, count: int | None) -> int | None:
        if count is not None and count < 1:
            raise ValueError("nothing would be removed; name 1 or more layers")
        return count

    @property
    def digest(self) -> str:
        """sha256 of the recipe's content, of what is given in it."""
        return digest_of(self._given())

    def text(self) -> str:
        """The recipe as YAML."""
        return yaml.safe_dump(self._given(), sort_keys=False)

    def _given(self) -> dict[str, Any]:
        return {name: value for name, value in self.model_dump(mode="json").items() if value not in (None, "")}


NAMED = "named"
"""What `by` says where the layers are named."""


def recipe_of(block: bool = False, **values: Any) -> PruneRecipe:
    """A recipe from values that a user gave; None stands for what was not given.

    Args:
        block: whether consecutive layers go, by the angular distance over all of them.
        values: fields of the recipe.

    Raises:
        VrbenchError: every value that is out of bounds or does not go with another, at once.
    """
    values = {name: value for name, value in values.items() if value is not None}
    found = _faults_between(values, block)
    if values.get("layers"):
        values["by"] = NAMED
    elif block:
        values["by"] = BLOCK
    elif "by" in values:
        found += by_faults(str(values["by"]))
    try:
        recipe = PruneRecipe(**values)
    except ValidationError as error:
        raise_errors([*(_sentence(fault) for fault in error.errors()), *found])
        raise
    raise_errors(found)
    return recipe


def _sentence(fault: Any) -> str:
    return f"{'.'.join(map(str, fault['loc']))} is {fault['input']!r}: {fault['msg'].removeprefix('Value error, ')}"


def _faults_between(values: dict[str, Any], block: bool) -> list[str]:
    found = []
    others = [name for name in ("remove", "by", "order") if values.get(name)] + ["block"] * block
    if values.get("layers"):
        more = " and ".join(f"--{name}" for name in others)
        return [f"--layers names the layers that go; {more} would choose others"] if more else []
    if "remove" not in values:
        found.append("what is to go is not said; give --remove N, or --layers such as '3,7'")
    if values.get("order") and (block or values.get("by")):
        found.append("--order has the layers that go; --by and --block would choose others")
    elif block and values.get("by", "angular") not in ("angular", BLOCK):
        found.append(f"--block goes by angular distance, not by {values['by']!r}")
    return found
