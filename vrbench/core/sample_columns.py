"""Samples by column: what pairing and metrics read of 100,000 samples, without a pass over the objects for each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from vrbench.core.schemas import Run, Sample

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_FIELDS = ("id", "cluster", "group", "unit", "prompt_digest", "unscored", "score", "weight")


@dataclass(frozen=True, eq=False)
class SampleColumns:
    """The fields of samples that statistics use, in the order of the samples; see `Sample`.

    Attributes:
        score: [samples].
        weight: [samples].
    """

    id: Sequence[str]
    cluster: Sequence[str]
    group: Sequence[str]
    unit: Sequence[str]
    prompt_digest: Sequence[str]
    unscored: Sequence[str]
    score: NDArray[np.float64]
    weight: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.id)

    @cached_property
    def place(self) -> dict[str, int]:
        """Id -> position; of the last where an id occurs twice."""
        return {name: number for number, name in enumerate(self.id)}

    @cached_property
    def numbered_clusters(self) -> tuple[NDArray[np.int64], list[str]]:
        """See `number_names`."""
        return number_names(self.cluster)

    @cached_property
    def numbered_groups(self) -> tuple[NDArray[np.int64], list[str]]:
        """See `number_names`."""
        return number_names(self.group)

    def take(self, positions: Sequence[int]) -> SampleColumns:
        """Return the samples at some positions, in that order."""
        texts = {name: [column[i] for i in positions] for name, column in self._texts.items()}
        return SampleColumns(**texts, score=self.score[list(positions)], weight=self.weight[list(positions)])

    def leave_out(self, unscored: dict[str, str]) -> SampleColumns:
        """Return the samples with these unscored, and the others scored: id -> reason."""
        return replace(self, unscored=[unscored.get(name, "") for name in self.id]) if unscored else self

    @property
    def _texts(self) -> dict[str, Sequence[str]]:
        return {name: getattr(self, name) for name in _FIELDS[:-2]}


Samples = Sequence[Sample] | SampleColumns
"""Samples of one task, as they are stored or by column."""


def to_columns(samples: Samples) -> SampleColumns:
    """Return samples by column; columns as they are."""
    import numpy as np

    if isinstance(samples, SampleColumns):
        return samples
    columns: dict[str, Any] = {name: [*map(attrgetter(name), samples)] for name in _FIELDS}
    numbers = {name: np.array(columns[name], float) for name in ("score", "weight")}
    return SampleColumns(**columns | numbers)


def columns_of(run: Run, task: str) -> SampleColumns:
    """Return the samples of one of a run's tasks by column, made once."""
    samples, name = run.samples[task], f"columns of {task}"
    if name not in run.kept or run.kept[name][0] is not samples:  # a copy with other samples
        run.kept[name] = (samples, to_columns(samples))
    found: SampleColumns = run.kept[name][1]
    return found


def number_names(names: Sequence[str]) -> tuple[NDArray[np.int64], list[str]]:
    """Return each name's number among the sorted distinct names, and these."""
    import numpy as np

    distinct = sorted(dict.fromkeys(names))
    number = {name: i for i, name in enumerate(distinct)}
    return np.fromiter(map(number.__getitem__, names), np.int64, len(names)), distinct
