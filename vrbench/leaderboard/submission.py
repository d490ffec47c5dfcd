"""`submission.json`: who hands in which run, and against which baseline."""

from __future__ import annotations

from pathlib import PurePosixPath

from pydantic import Field

from vrbench.core.schemas import Record
from vrbench.leaderboard.text import Address, Day, Digest, Line, Name, Paragraph, Reference, Revision

SUBMISSION_SCHEMA_VERSION = 1
SUBMISSION_FILE = "submission.json"
RECIPE_FILE = "recipe.yaml"
SUBMISSIONS = "submissions"
"""Folder of a board that holds them."""


class Submission(Record):
    """What a submission says of itself; every figure is in the run beside it, and is recomputed."""

    schema_version: int = Field(default=SUBMISSION_SCHEMA_VERSION, description="Version of this layout.")
    board: Name = Field(description="The board's id.")
    org: Name = Field(description="Who submits.")
    name: Name = Field(description="What the checkpoint is called.")
    revision: Revision = Field(description="The first 16 hex digits of the checkpoint's digest.")
    family: Name = Field(description="Key of the board's family.")
    baseline: Reference = Field(description="'org/name@revision' it is compared with; itself for a baseline.")
    description: Paragraph = Field(default="", description="What was done, in a sentence or two.")
    url: Address = Field(default="", description="Where the checkpoint is.")
    paper: Address = Field(default="", description="Where it is written up.")
    code: Address = Field(default="", description="Where its code is.")
    licence: Line = Field(default="", description="Of the checkpoint, SPDX name.")
    submitted: Day = Field(description="When it was packed, ISO date, UTC.")
    vrbench: Line = Field(min_length=1, description="Version of vrbench that packed it.")
    run_digest: Digest = Field(description="sha256 of run.json.")

    @property
    def reference(self) -> str:
        """'org/name@revision'."""
        return f"{self.org}/{self.name}@{self.revision}"

    @property
    def folder_name(self) -> str:
        """'org__name', the folder of its revisions."""
        return f"{self.org}__{self.name}"

    @property
    def path(self) -> PurePosixPath:
        """Its folder, relative to the folder of all boards; path and content must agree."""
        return path_of(self.board, self.org, self.name, self.revision)

    @property
    def is_baseline(self) -> bool:
        """Whether it is compared with itself."""
        return self.baseline == self.reference


def path_of(board: str, org: str, name: str, revision: str) -> PurePosixPath:
    """The folder of a submission, relative to the folder of all boards."""
    return PurePosixPath(board, SUBMISSIONS, f"{org}__{name}", revision)
