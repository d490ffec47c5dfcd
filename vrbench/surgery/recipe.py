"""What is to be removed from which checkpoint, and how it is chosen."""

from __future__ import annotations

from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from vrbench.errors import raise_all
from vrbench.records import Record
from vrbench.writing import digest_of


class PruneRecipe(Record):
    """One removal of layers, copied into the folder that it makes."""

    makes: str = Field(description="Id of the checkpoint that it makes.")
    base: str = Field(description="Checkpoint whose layers go.")
    remove: int = Field(gt=0, description="How many layers go.")
    by: Literal["loss", "angular"] = Field(
        default="loss",
        description="'loss': the answers' measured loss on dev pictures; 'angular': how little a layer turns.",
    )
    outside_region: bool = Field(default=True, description="Whether the layers that were tuned stay.")
    pictures: int = Field(default=200, gt=0, description="Dev pictures on which the loss is measured.")
    turns: int = Field(default=6, gt=0, description="Questions on each.")

    @property
    def digest(self) -> str:
        """sha256 of the recipe's content."""
        return digest_of(self.model_dump(mode="json"))

    def text(self) -> str:
        """The recipe as YAML."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def recipe_of(**values: Any) -> PruneRecipe:
    """A recipe from values that a user gave.

    Raises:
        VrbenchError: every value that is out of bounds, at once.
    """
    try:
        return PruneRecipe(**values)
    except ValidationError as error:
        raise_all(f"{'.'.join(map(str, f['loc']))} is {f['input']!r}: {f['msg']}" for f in error.errors())
        raise
